//! The steps of layers with memories of a fixed size, and what sequences hold in them.

use super::{Act, MAX_PARTS, SlotId};
use crate::weights::VectorId;
use rin_kernels::ops::memory::{DecayKind, Gating, Quant, Read};

/// Columns of an f32 slot: those from `first` on, of rows of `stride`.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// The slot, f32 `(tokens, stride)`.
    pub slot: SlotId,
    /// Values in a row.
    pub stride: usize,
    /// The first column.
    pub first: usize,
}

impl Columns {
    /// A whole slot.
    pub fn all(slot: SlotId, stride: usize) -> Self {
        Self { slot, stride, first: 0 }
    }

    /// The columns from `first` on.
    #[must_use]
    pub fn from(self, first: usize) -> Self {
        Self { first: self.first + first, ..self }
    }
}

/// What each sequence holds in one slot: `(parts, sequences, bytes)`. Zeros are what it begins with.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The slot.
    pub slot: SlotId,
    /// Parts that different workers write.
    pub parts: usize,
    /// Bytes of a part for one sequence.
    pub bytes: usize,
}

/// Which of [`Plan::held`](super::Plan::held).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldId(pub(crate) usize);

/// Where a recurrence finds what is left of its memory.
#[derive(Clone, Copy, Debug)]
pub enum DecayOf {
    /// All is left.
    None,
    /// `1 - 2^(-5 - head)` (Sun et al., 2023).
    Retnet,
    /// One share per head: `(tokens, heads)`.
    Heads(Columns),
    /// One share per row of each memory: `(tokens, heads × rows)`.
    Rows(Columns),
    /// One share per column of each memory: `(tokens, heads × cols)`.
    Columns(Columns),
}

/// What a recurrence takes back.
#[derive(Clone, Copy, Debug)]
pub enum CorrectionOf {
    /// Nothing.
    None,
    /// What is held at the key: `(tokens, heads)`.
    Delta(Columns),
    /// What is held at `a`, by `b`: `(tokens, heads × rows)` each.
    RankOne {
        /// Where.
        a: Columns,
        /// By how much.
        b: Columns,
    },
}

/// A recurrence: each head's memory of `rows × cols` over the tokens of each sequence.
#[derive(Clone, Copy, Debug)]
pub struct RecurOf {
    /// Reads, `(tokens, key heads × rows)`.
    pub q: Columns,
    /// Writes, `(tokens, key heads × rows)`.
    pub k: Columns,
    /// Values, `(tokens, heads × cols)`.
    pub v: Columns,
    /// Heads of `q` and `k`.
    pub k_heads: usize,
    /// Whether memory `h` has head `h mod k_heads`, rather than `h / (heads / k_heads)`.
    pub tiled: bool,
    /// Memories.
    pub heads: usize,
    /// Rows of a memory.
    pub rows: usize,
    /// Columns of a memory.
    pub cols: usize,
    /// Decay.
    pub decay: DecayOf,
    /// Correction.
    pub correction: CorrectionOf,
    /// When a token reads.
    pub read: Read,
    /// The memories.
    pub held: HeldId,
    /// What was read, `(tokens, heads × cols)`.
    pub out: SlotId,
}

/// Slots in whole numbers.
#[derive(Clone, Copy, Debug)]
pub struct SlotsOf {
    /// Shares of the slots to read, 1 for one of them: `(tokens, heads × slots)`.
    pub read: SlotId,
    /// Shares of the slots to write.
    pub write: SlotId,
    /// What is written: whole numbers, `(tokens, heads × dim)`.
    pub bound: Columns,
    /// Heads.
    pub heads: usize,
    /// Slots of a head.
    pub slots: usize,
    /// Numbers of a slot.
    pub dim: usize,
    /// Whether they have 16 bits instead of 32.
    pub narrow: bool,
    /// The slots.
    pub held: HeldId,
    /// What was read.
    pub out: SlotId,
}

/// One operation of a layer with a memory. All but the recurrences work row by row.
#[derive(Clone, Copy, Debug)]
pub enum MemoryStep {
    /// A convolution over the last tokens: `out (tokens, cols)`.
    Conv {
        /// Input.
        x: Columns,
        /// Channels.
        cols: usize,
        /// `(channels, taps)`.
        weight: VectorId,
        /// One per channel.
        bias: Option<VectorId>,
        /// Tokens that it spans.
        taps: usize,
        /// The tokens before.
        held: HeldId,
        /// Output.
        out: SlotId,
    },
    /// Keeps the last `tokens` rows of `x` for the next step.
    Keep {
        /// What is kept of.
        x: Columns,
        /// Columns.
        cols: usize,
        /// How many rows.
        tokens: usize,
        /// Where.
        held: HeldId,
    },
    /// `out = x + (x of the token before - x) * mix`.
    Shift {
        /// Input `(tokens, cols)`.
        x: SlotId,
        /// Columns.
        cols: usize,
        /// Shares, of which those from `at * cols` on count.
        mix: VectorId,
        /// Which of several rows of shares.
        at: usize,
        /// The token before.
        held: HeldId,
        /// Output.
        out: SlotId,
    },
    /// Heads are brought to a length of `scale`.
    UnitNorm {
        /// In place.
        x: Columns,
        /// Columns.
        cols: usize,
        /// Width of a head.
        head: usize,
        /// Added to the sum of squares.
        eps: f32,
        /// Length.
        scale: f32,
    },
    /// Multiplied with a factor.
    Scale {
        /// In place.
        x: Columns,
        /// Columns.
        cols: usize,
        /// The factor.
        factor: f32,
    },
    /// Projected numbers become shares that are left.
    Decays {
        /// In place.
        x: Columns,
        /// Columns.
        cols: usize,
        /// Rates, for [`DecayKind::Step`].
        a: Option<VectorId>,
        /// Biases.
        bias: Option<VectorId>,
        /// How.
        kind: DecayKind,
        /// Takes the steps or the complements.
        steps: Option<SlotId>,
    },
    /// Each head is multiplied with its factor.
    ScaleHeads {
        /// In place, `(tokens, heads × head)`.
        x: Columns,
        /// Heads.
        heads: usize,
        /// Width of a head.
        head: usize,
        /// `(tokens, heads)`.
        by: SlotId,
    },
    /// `x += y * weight` with one weight per head.
    AddScaled {
        /// In place, `(tokens, heads × head)`.
        x: SlotId,
        /// What is added.
        y: Columns,
        /// Heads.
        heads: usize,
        /// Width of a head.
        head: usize,
        /// One per head.
        weight: VectorId,
    },
    /// Shares of a delta write for each slot: `keep *= 1 - write * beta`, `write *= beta`.
    DeltaShares {
        /// What is left, `(tokens, heads × slots)`.
        keep: SlotId,
        /// What is written.
        write: SlotId,
        /// `(tokens, heads)`.
        beta: SlotId,
        /// Heads.
        heads: usize,
        /// Slots.
        slots: usize,
    },
    /// All ones.
    Ones {
        /// Output.
        x: SlotId,
        /// Columns.
        cols: usize,
    },
    /// The recurrence.
    Recur(RecurOf),
    /// A softmax of each head's scores.
    Softmax {
        /// In place, `(tokens, heads × slots)`.
        x: SlotId,
        /// Columns.
        cols: usize,
        /// Scores of a head.
        head: usize,
    },
    /// Norm and gate of each head.
    HeadNorm {
        /// In place, `(tokens, cols)`.
        x: SlotId,
        /// Columns.
        cols: usize,
        /// Width of a head.
        head: usize,
        /// Norm weights; none: ones.
        weight: Option<VectorId>,
        /// Gates.
        gate: Option<Columns>,
        /// How they act.
        gating: Gating,
        /// Added to the mean of squares.
        eps: f32,
    },
    /// `x *= y`.
    Multiply {
        /// In place.
        x: SlotId,
        /// Columns.
        cols: usize,
        /// The other factor.
        y: Columns,
    },
    /// Columns into a slot of their own.
    Copy {
        /// From.
        x: Columns,
        /// Columns.
        cols: usize,
        /// To.
        out: SlotId,
    },
    /// Layer norm with weights and biases: `out`.
    LayerNorm {
        /// Input.
        x: SlotId,
        /// Columns.
        cols: usize,
        /// Weights.
        weight: VectorId,
        /// Biases.
        bias: VectorId,
        /// Output.
        out: SlotId,
    },
    /// `x += (other - x) * share`.
    Blend {
        /// In place.
        x: SlotId,
        /// The other.
        other: SlotId,
        /// The share.
        share: SlotId,
        /// Columns.
        cols: usize,
    },
    /// See [`RwkvKeys`](rin_kernels::ops::memory::RwkvKeys).
    RwkvKeys {
        /// Keys, in place.
        k: Columns,
        /// Rates of learning, in place.
        a: SlotId,
        /// Where is taken back.
        take: SlotId,
        /// `k_k`, then `k_a`.
        rates: [VectorId; 2],
        /// Columns.
        cols: usize,
        /// Width of a head.
        head: usize,
    },
    /// See [`RwkvOut`](rin_kernels::ops::memory::RwkvOut).
    RwkvOut {
        /// In place.
        x: SlotId,
        /// Receptance, keys, values, gate.
        rows: [SlotId; 4],
        /// `r_k`, norm weights, norm biases.
        weights: [VectorId; 3],
        /// Columns.
        cols: usize,
        /// Width of a head.
        head: usize,
    },
    /// Shares of slots: see [`Route`](rin_kernels::ops::memory::Route).
    Route {
        /// Keys or queries.
        x: Columns,
        /// Columns.
        cols: usize,
        /// `(heads, slots, dim)`; none: a hash.
        codebook: Option<VectorId>,
        /// Slots of a head.
        slots: usize,
        /// Slots that share.
        top: usize,
        /// `(tokens, heads × slots)`.
        out: SlotId,
        /// Columns of `out`.
        out_cols: usize,
    },
    /// Each head's `x` by each of its shares: `out (tokens, heads × slots × head)`.
    Outer {
        /// `(tokens, heads × slots)`.
        shares: SlotId,
        /// `(tokens, heads × head)`.
        x: Columns,
        /// Heads.
        heads: usize,
        /// Slots of a head.
        slots: usize,
        /// Width of a head.
        head: usize,
        /// Output.
        out: SlotId,
    },
    /// Values are rounded and bound to keys; without keys they are rounded alone.
    Bind {
        /// In place.
        v: Columns,
        /// Keys.
        k: Option<Columns>,
        /// Columns.
        cols: usize,
        /// How they are rounded.
        quant: Quant,
    },
    /// What was read is unbound by queries.
    Unbind {
        /// In place.
        x: SlotId,
        /// Queries.
        q: Columns,
        /// Columns.
        cols: usize,
        /// A factor.
        scale: f32,
    },
    /// Slots in whole numbers.
    Slots(SlotsOf),
    /// The forms of an activation that products ask for.
    Forms {
        /// Its f32 slot holds it.
        act: Act,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid {
        /// In place.
        x: SlotId,
        /// Columns.
        cols: usize,
    },
    /// `max(x, 0)²`.
    ReluSquared {
        /// In place.
        x: SlotId,
        /// Columns.
        cols: usize,
    },
}

impl MemoryStep {
    /// What it computes.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "short convolution",
            Self::Keep { .. } => "keep last tokens",
            Self::Shift { .. } => "token shift",
            Self::UnitNorm { .. } => "unit norm",
            Self::Scale { .. } => "scale",
            Self::Decays { .. } => "decays",
            Self::ScaleHeads { .. } => "scale of heads",
            Self::AddScaled { .. } => "skip",
            Self::DeltaShares { .. } => "delta shares",
            Self::Ones { .. } => "ones",
            Self::Recur(_) => "recurrence",
            Self::Softmax { .. } => "softmax of slots",
            Self::HeadNorm { .. } => "head norm",
            Self::Multiply { .. } => "gate",
            Self::Copy { .. } => "copy",
            Self::LayerNorm { .. } => "layer norm",
            Self::Blend { .. } => "blend",
            Self::RwkvKeys { .. } => "rwkv keys",
            Self::RwkvOut { .. } => "rwkv output",
            Self::Route { .. } => "route",
            Self::Outer { .. } => "outer product",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Slots(_) => "slots",
            Self::Forms { .. } => "quantise",
            Self::Sigmoid { .. } => "sigmoid",
            Self::ReluSquared { .. } => "squared relu",
        }
    }

    /// The f32 slots that it writes, each with the values of a row.
    pub fn outputs(&self) -> [Option<(SlotId, usize)>; MAX_PARTS] {
        let one = |slot: SlotId, cols: usize| [Some((slot, cols)), None, None];
        let columns = |x: &Columns| [Some((x.slot, x.stride)), None, None];
        match self {
            Self::Keep { .. } => [None; MAX_PARTS],
            Self::Conv { cols, out, .. }
            | Self::Shift { cols, out, .. }
            | Self::Copy { cols, out, .. }
            | Self::LayerNorm { cols, out, .. } => one(*out, *cols),
            Self::UnitNorm { x, .. } | Self::Scale { x, .. } | Self::ScaleHeads { x, .. } => columns(x),
            Self::Decays { x, cols, steps, .. } => [Some((x.slot, x.stride)), steps.map(|s| (s, *cols)), None],
            Self::AddScaled { x, heads, head, .. } => one(*x, heads * head),
            Self::DeltaShares { keep, write, heads, slots, .. } => {
                [Some((*keep, heads * slots)), Some((*write, heads * slots)), None]
            }
            Self::Recur(r) => one(r.out, r.heads * r.cols),
            Self::Slots(s) => one(s.out, s.heads * s.dim),
            Self::Ones { x, cols }
            | Self::Softmax { x, cols, .. }
            | Self::HeadNorm { x, cols, .. }
            | Self::Multiply { x, cols, .. }
            | Self::Blend { x, cols, .. }
            | Self::RwkvOut { x, cols, .. }
            | Self::Unbind { x, cols, .. }
            | Self::Sigmoid { x, cols }
            | Self::ReluSquared { x, cols } => one(*x, *cols),
            Self::RwkvKeys { k, a, take, cols, .. } => {
                [Some((k.slot, k.stride)), Some((*a, *cols)), Some((*take, *cols))]
            }
            Self::Route { out, out_cols, .. } => one(*out, *out_cols),
            Self::Outer { heads, slots, head, out, .. } => one(*out, heads * slots * head),
            Self::Bind { v, .. } => columns(v),
            Self::Forms { act } => one(act.x, act.cols),
        }
    }

    /// The slots that it reads and writes.
    pub(super) fn slots(&self) -> [Option<SlotId>; 9] {
        let columns = |x: &Option<Columns>| x.map(|x| x.slot);
        let mut all = [None; 9];
        let mut take = |slots: &[Option<SlotId>]| all[..slots.len()].copy_from_slice(slots);
        match self {
            Self::Conv { x, out, .. } | Self::Copy { x, out, .. } | Self::Route { x, out, .. } => {
                take(&[Some(x.slot), Some(*out)]);
            }
            Self::Keep { x, .. } | Self::UnitNorm { x, .. } | Self::Scale { x, .. } => take(&[Some(x.slot)]),
            Self::Shift { x, out, .. } | Self::LayerNorm { x, out, .. } => take(&[Some(*x), Some(*out)]),
            Self::Decays { x, steps, .. } => take(&[Some(x.slot), *steps]),
            Self::ScaleHeads { x, by, .. } => take(&[Some(x.slot), Some(*by)]),
            Self::AddScaled { x, y, .. } | Self::Multiply { x, y, .. } => take(&[Some(*x), Some(y.slot)]),
            Self::DeltaShares { keep, write, beta, .. } => take(&[Some(*keep), Some(*write), Some(*beta)]),
            Self::Ones { x, .. } | Self::Softmax { x, .. } | Self::Sigmoid { x, .. } | Self::ReluSquared { x, .. } => {
                take(&[Some(*x)]);
            }
            Self::Recur(r) => {
                let decay = match r.decay {
                    DecayOf::None | DecayOf::Retnet => None,
                    DecayOf::Heads(x) | DecayOf::Rows(x) | DecayOf::Columns(x) => Some(x.slot),
                };
                let (a, b) = match r.correction {
                    CorrectionOf::None => (None, None),
                    CorrectionOf::Delta(beta) => (Some(beta.slot), None),
                    CorrectionOf::RankOne { a, b } => (Some(a.slot), Some(b.slot)),
                };
                take(&[Some(r.q.slot), Some(r.k.slot), Some(r.v.slot), Some(r.out), decay, a, b]);
            }
            Self::HeadNorm { x, gate, .. } => take(&[Some(*x), columns(gate)]),
            Self::Blend { x, other, share, .. } => take(&[Some(*x), Some(*other), Some(*share)]),
            Self::RwkvKeys { k, a, take: t, .. } => take(&[Some(k.slot), Some(*a), Some(*t)]),
            Self::RwkvOut { x, rows, .. } => {
                take(&[Some(*x), Some(rows[0]), Some(rows[1]), Some(rows[2]), Some(rows[3])]);
            }
            Self::Outer { shares, x, out, .. } => take(&[Some(*shares), Some(x.slot), Some(*out)]),
            Self::Bind { v, k, .. } => take(&[Some(v.slot), columns(k)]),
            Self::Unbind { x, q, .. } => take(&[Some(*x), Some(q.slot)]),
            Self::Slots(s) => take(&[Some(s.read), Some(s.write), Some(s.bound.slot), Some(s.out)]),
            Self::Forms { act } => take(&[Some(act.x)]),
        }
        all
    }
}
