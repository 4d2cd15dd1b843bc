//! BHRR, bipolar holographic reduced representations in slots: addresses, binding, and the memory in integers.
//!
//! A head has `S` slots of `d` numbers. Keys and queries count by their signs (a zero is positive): a value is bound to
//! its key by the product of each number with the key's sign, and unbound by the query's. Which slot a token writes and
//! reads is a hash of signs, or the nearest rows of a codebook ([`Route`]).

use std::cmp::Ordering;

use super::gates::sum;
use crate::math::{canonical, exp};

/// How a value is rounded before it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// Not at all.
    Float,
    /// To its sign.
    Sign,
    /// To whole numbers within ±`most`, of the value times `most`: 7 for 4 bits, 127 for 8.
    Steps(u8),
}

impl Quant {
    /// The largest magnitude of a rounded value; none for real numbers.
    pub const fn most(self) -> Option<u32> {
        match self {
            Self::Float => None,
            Self::Sign => Some(1),
            Self::Steps(most) => Some(most as u32),
        }
    }

    /// What a rounded value is multiplied with to be a value again.
    pub fn scale(self) -> f32 {
        match self {
            Self::Float | Self::Sign => 1.0,
            Self::Steps(most) => 1.0 / f32::from(most.max(1)),
        }
    }

    /// A value, rounded. NaN becomes 0 where values are whole numbers.
    #[inline(always)]
    pub fn of(self, x: f32) -> f32 {
        match self {
            Self::Float => canonical(x),
            Self::Sign => sign(x),
            Self::Steps(most) => {
                let most = f32::from(most);
                let scaled = x * most;
                // 1.5 * 2^23 rounds to the nearest whole number, ties to even.
                let clipped = if scaled > most { most } else { scaled };
                let clipped = if clipped < -most { -most } else { clipped };
                let rounded = clipped + 12_582_912.0 - 12_582_912.0;
                if rounded.is_nan() { 0.0 } else { rounded }
            }
        }
    }
}

/// 1 for zeros and positive numbers, −1 for negative ones; −1 for NaN.
#[inline(always)]
fn sign(x: f32) -> f32 {
    if x >= 0.0 { 1.0 } else { -1.0 }
}

/// The seed's address: the sum of `i + 1` over the positive numbers, modulo the slots.
pub fn hash_slot(x: &[f32], slots: usize) -> usize {
    let sum: u64 = x.iter().zip(1_u64..).map(|(x, i)| if *x >= 0.0 { i } else { 0 }).sum();
    usize::try_from(sum % slots.max(1) as u64).unwrap_or(0)
}

kernel! {
    /// Shares of the slots that a key or query addresses, head by head.
    ///
    /// `x` is `(heads, d)`, `codebook` `(heads, slots, d)`, `out` `(heads, slots)`. The `top` slots with the largest product
    /// of their row and `x` share 1 by a softmax, the earlier of two equal ones first; the others have 0. An empty
    /// codebook takes [`hash_slot`].
    pub struct Route(out: &mut [f32], x: &[f32], codebook: &[f32], slots: usize, top: usize);
    check: |out: &&mut [f32], x: &&[f32], codebook: &&[f32], slots: &usize, top: &usize| {
        assert!(*slots > 0 && out.len().is_multiple_of(*slots), "{} shares of {slots} slots", out.len());
        assert!((1..=*slots).contains(top), "the best {top} of {slots} slots");
        let heads = out.len() / slots;
        assert!(heads > 0 && x.len().is_multiple_of(heads), "{} numbers for {heads} heads", x.len());
        let needed = x.len().checked_mul(*slots);
        assert!(codebook.is_empty() || Some(codebook.len()) == needed, "a codebook of {}", codebook.len());
    };
    cases: crate::ops::memory::tests::for_each_route;
    conformance: route_conformance;
    variants {
        Scalar => route::scalar,
        Avx2 if target_arch = "x86_64" => route::avx2,
        Avx512Vnni if target_arch = "x86_64" => route::avx512,
    }
}

tiers!(fn route(out: &mut [f32], x: &[f32], codebook: &[f32], slots: usize, top: usize) = route_body;);

#[inline(always)]
fn route_body(out: &mut [f32], x: &[f32], codebook: &[f32], slots: usize, top: usize) {
    let heads = out.len() / slots;
    let d = x.len() / heads;
    for (h, out) in out.chunks_exact_mut(slots).enumerate() {
        let x = &x[h * d..][..d];
        if codebook.is_empty() {
            out.fill(0.0);
            out[hash_slot(x, slots)] = 1.0;
            continue;
        }
        let rows = &codebook[h * slots * d..][..slots * d];
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(d)) {
            *out = dot(x, row);
        }
        keep_best(out, top);
    }
}

#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..16 {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = x.mul_add(*y, *lane);
    }
    crate::math::fold16(&lanes, |a, b| a + b)
}

/// Scores become shares: a softmax of the `top` largest, 0 for the others.
#[inline(always)]
fn keep_best(scores: &mut [f32], top: usize) {
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    let mut last = 0;
    // The place of the last one that is taken, by taking the best one `top` times.
    for taken in 0..top {
        let mut best: Option<usize> = None;
        for (i, score) in scores.iter().enumerate() {
            let left = taken == 0 || *score < least || (score.partial_cmp(&least) == Some(Ordering::Equal) && i > last);
            if left && best.is_none_or(|b| *score > scores[b]) {
                best = Some(i);
            }
        }
        let Some(best) = best else { break };
        (least, last) = (scores[best], best);
        most = if taken == 0 { least } else { most };
    }
    for (i, score) in scores.iter_mut().enumerate() {
        let taken = *score > least || (*score >= least && i <= last);
        *score = if taken { exp(*score - most) } else { 0.0 };
    }
    let total = sum(scores, |x| x);
    for score in scores {
        *score = canonical(*score / total);
    }
}

kernel! {
    /// `v[i] = sign(k[i]) * quant(v[i])`: a value is bound to its key.
    pub struct Bind(v: &mut [f32], k: &[f32], quant: Quant);
    check: |v: &&mut [f32], k: &&[f32], _quant: &Quant| assert!(v.len() == k.len(), "one length");
    cases: crate::ops::memory::tests::for_each_bind;
    conformance: bind_conformance;
    variants {
        Scalar => bind::scalar,
        Avx2 if target_arch = "x86_64" => bind::avx2,
        Avx512Vnni if target_arch = "x86_64" => bind::avx512,
    }
}

tiers!(fn bind(v: &mut [f32], k: &[f32], quant: Quant) = bind_body;);

#[inline(always)]
fn bind_body(v: &mut [f32], k: &[f32], quant: Quant) {
    for (v, k) in v.iter_mut().zip(k) {
        *v = sign(*k) * quant.of(*v);
    }
}

kernel! {
    /// `x[i] *= sign(q[i]) * scale`: what a slot holds is unbound by the query.
    pub struct Unbind(x: &mut [f32], q: &[f32], scale: f32);
    check: |x: &&mut [f32], q: &&[f32], _scale: &f32| assert!(x.len() == q.len(), "one length");
    cases: crate::ops::memory::tests::for_each_unbind;
    conformance: unbind_conformance;
    variants {
        Scalar => unbind::scalar,
        Avx2 if target_arch = "x86_64" => unbind::avx2,
        Avx512Vnni if target_arch = "x86_64" => unbind::avx512,
    }
}

tiers!(fn unbind(x: &mut [f32], q: &[f32], scale: f32) = unbind_body;);

#[inline(always)]
fn unbind_body(x: &mut [f32], q: &[f32], scale: f32) {
    for (x, q) in x.iter_mut().zip(q) {
        *x = canonical(*x * (sign(*q) * scale));
    }
}

/// The slots of a head in whole numbers, `(slots, d)`.
#[derive(Debug)]
pub enum SlotState<'a> {
    /// In 32 bits.
    I32(&'a mut [i32]),
    /// In 16 bits, where no sum can leave them.
    I16(&'a mut [i16]),
}

impl SlotState<'_> {
    fn len(&self) -> usize {
        match self {
            Self::I32(z) => z.len(),
            Self::I16(z) => z.len(),
        }
    }
}

/// The rows of one token for one head.
#[derive(Clone, Copy, Debug)]
pub struct SlotTokens<'a> {
    /// The slot that is read.
    pub read: usize,
    /// The slot that is written.
    pub write: usize,
    /// What is written: whole numbers, bound to their key.
    pub bound: &'a [f32],
}

kernel! {
    /// One token of a head in whole numbers: `out = Z[read]`, then `Z[write] += bound`, wrapping. What is written are
    /// whole numbers of at most 127; the caller has made sure that the sums fit.
    pub struct SlotStep(state: SlotState<'_>, out: &mut [f32], token: SlotTokens<'_>);
    check: |state: &SlotState<'_>, out: &&mut [f32], token: &SlotTokens<'_>| {
        let d = out.len();
        assert!(d > 0 && token.bound.len() == d && state.len().is_multiple_of(d), "slots of {d} in {}", state.len());
        let slots = state.len() / d;
        assert!(token.read < slots && token.write < slots, "slots {} and {} of {slots}", token.read, token.write);
    };
    cases: crate::ops::memory::tests::for_each_slot_step;
    conformance: slot_conformance;
    variants {
        Scalar => slot_step::scalar,
        Avx2 if target_arch = "x86_64" => slot_step::avx2,
        Avx512Vnni if target_arch = "x86_64" => slot_step::avx512,
    }
}

tiers!(fn slot_step(state: SlotState<'_>, out: &mut [f32], token: SlotTokens<'_>) = slot_body;);

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "whole numbers of at most 127 fit; a cast of others saturates")]
fn slot_body(state: SlotState<'_>, out: &mut [f32], token: SlotTokens<'_>) {
    let d = out.len();
    match state {
        SlotState::I32(z) => {
            for (out, z) in out.iter_mut().zip(&z[token.read * d..][..d]) {
                *out = *z as f32;
            }
            for (z, x) in z[token.write * d..][..d].iter_mut().zip(token.bound) {
                *z = z.wrapping_add(*x as i32);
            }
        }
        SlotState::I16(z) => {
            for (out, z) in out.iter_mut().zip(&z[token.read * d..][..d]) {
                *out = f32::from(*z);
            }
            for (z, x) in z[token.write * d..][..d].iter_mut().zip(token.bound) {
                *z = z.wrapping_add(*x as i16);
            }
        }
    }
}
