//! Memories of a fixed size: what stands in the place of a cache of keys and values.
//!
//! A head's memory is a matrix `S` of `rows × cols` (keys by values, or slots by values). One token does
//!
//! ```text
//! u = sum over j of a[j] S[j]                      what the memory holds at an address       RankOne
//! u = sum over j of k[j] (w[j] S[j]);  v = beta (v - u)                  the delta rule       Delta
//! S[i] = w[i] S[i] + b[i] u + k[i] v               decay, correction, write
//! o = sum over i of q[i] S[i]                      read: after the write, or before all of it
//! ```
//!
//! which is linear attention, RetNet, GLA, DeltaNet, Gated DeltaNet, Mamba-2, RWKV-7, both halves of gated slot
//! attention and BHRR with real numbers, each with its own `w`, `a`, `b`, `k`, `q` ([`Recur`]). [`SlotStep`] is BHRR in
//! integers. The other operations here make those factors from what a layer projects.
//!
//! The definition is the recurrence itself, token by token: every sum runs over ascending `i`, one fused multiply-add
//! each, so a prompt in one piece gives the bits of its tokens one by one. Sources: Katharopoulos et al. 2020; Sun et
//! al. 2023 (RetNet); Yang et al. 2023 (GLA); Yang et al. 2024 (DeltaNet, Gated DeltaNet); Dao and Gu 2024 (Mamba-2);
//! Peng et al. 2025 (RWKV-7); Zhang et al. 2024 (GSA).

mod gates;
mod recur;
mod rwkv;
mod slots;
#[cfg(test)]
mod tests;

pub use gates::{
    AddScaled, Blend, CausalConv, DecayKind, Decays, DeltaShares, Gating, HeadNorm, MAX_CONV, Multiply, ReluSquared,
    Scale, UnitNorm,
};
pub use recur::{Correction, Decay, Read, Recur, Rows, Tokens};
pub use rwkv::{RwkvKeys, RwkvOut, RwkvRows};
pub use slots::{Bind, Quant, Route, SlotState, SlotStep, SlotTokens, Unbind, hash_slot};

/// Columns of a memory come in blocks of this many.
pub const MEMORY_LANES: usize = 16;
