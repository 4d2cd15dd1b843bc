//! The sizes of a memory, and where its numbers lie in the inputs of its operation.

use rin_kernels::ops::memory::{Quant, Read};
use rin_model::{Address, Bhrr, Memory, MemoryKind, SlotValues};
use std::ops::Range;

/// Where a layer's numbers lie, in the order in which they follow each other. What a kind has not is empty.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) conv: Range<usize>,
    /// Biases of decays.
    pub(super) bias: Range<usize>,
    /// Rates by which steps become shares.
    pub(super) rate: Range<usize>,
    /// Biases of rates of learning.
    pub(super) learn: Range<usize>,
    /// RWKV-7's `k_k` and `k_a`.
    pub(super) keys: [Range<usize>; 2],
    /// The share of a value that is added to what was read.
    pub(super) skip: Range<usize>,
    pub(super) norm: Range<usize>,
    pub(super) book: Range<usize>,
}

/// How a gradient passes a rounding to signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Straight {
    /// As it is where the number is within ±1, and not at all elsewhere (Hubara et al., 2016).
    #[default]
    Masked,
    /// Everywhere, shortened to ±1: as the first generation had it, to compare with.
    Clamped,
}

impl Straight {
    /// The gradient of `x`, which was rounded, from that of its sign.
    pub(super) fn of(self, x: f32, d: f32) -> f32 {
        match self {
            Self::Masked if x.abs() <= 1.0 => d,
            Self::Masked => 0.0,
            Self::Clamped => d.clamp(-1.0, 1.0),
        }
    }
}

/// The sizes of a memory and where its numbers lie.
#[derive(Clone, Debug)]
pub struct MemoryShape {
    pub(super) m: Memory,
    /// Tokens of a sequence.
    pub(super) seq: usize,
    pub(super) norm_eps: f32,
    /// For signs.
    pub(super) straight: Straight,
}

impl MemoryShape {
    /// For sequences of `seq` tokens.
    pub fn new(memory: &Memory, seq: usize, norm_eps: f32) -> Self {
        Self { m: memory.clone(), seq, norm_eps, straight: Straight::default() }
    }

    /// With gradients that pass signs in another way.
    #[must_use]
    pub fn with_straight(self, straight: Straight) -> Self {
        Self { straight, ..self }
    }

    /// Whether this kind of memory can be trained.
    pub fn is_trained(kind: MemoryKind) -> bool {
        use MemoryKind::{Bhrr, Delta, GatedDelta, Gla, Gsa, Linear, Mamba2, Retnet, Rwkv7};
        matches!(kind, Linear | Retnet | Gla | Delta | GatedDelta | Mamba2 | Gsa | Rwkv7 | Bhrr)
    }

    pub(super) fn arms(&self) -> Option<&Bhrr> {
        self.m.bhrr.as_ref()
    }

    /// Whether a slot holds a matrix of keys by values.
    pub(super) fn is_outer(&self) -> bool {
        self.arms().is_some_and(|arms| arms.outer)
    }

    fn gate(&self) -> usize {
        if self.m.output_gate { self.m.v_width() } else { 0 }
    }

    pub(super) fn beta_width(&self) -> usize {
        if self.m.has_beta() { self.m.v_heads } else { 0 }
    }

    /// Columns of the gate in an input row.
    pub(super) fn gate_columns(&self) -> Range<usize> {
        self.m.channels()..self.m.channels() + self.gate()
    }

    pub(super) fn beta_columns(&self) -> Range<usize> {
        let first = self.gate_columns().end;
        first..first + self.beta_width()
    }

    pub(super) fn decay_columns(&self) -> Range<usize> {
        let first = self.beta_columns().end;
        first..first + self.m.decay_width()
    }

    /// Columns of rates of learning, one per key number.
    pub(super) fn learn_columns(&self) -> Range<usize> {
        let first = self.decay_columns().end;
        first..first + if self.is_rwkv7() { self.m.k_width() } else { 0 }
    }

    /// Width of an input row.
    pub fn width(&self) -> usize {
        self.learn_columns().end
    }

    pub(super) fn places(&self) -> Places {
        let m = &self.m;
        let per_head = |is: bool| if is { m.v_heads } else { 0 };
        let per_key = if self.is_rwkv7() { m.k_width() } else { 0 };
        let has_book = self.arms().is_some_and(|arms| arms.address != Address::Hash);
        let mut first = 0;
        let mut next = |n: usize| {
            let range = first..first + n;
            first = range.end;
            range
        };
        Places {
            conv: next(m.channels() * m.conv),
            bias: next(m.decay_width()),
            rate: next(per_head(self.decays_by_token())),
            learn: next(per_key),
            keys: [next(per_key), next(per_key)],
            skip: next(per_head(self.has_steps())),
            norm: next(if m.output_norm { m.v_dim } else { 0 }),
            book: next(if has_book { m.k_heads * m.slots * m.k_dim } else { 0 }),
        }
    }

    /// How many numbers the layer has.
    pub fn numbers(&self) -> usize {
        self.places().book.end
    }

    /// Rows of a head's memory.
    pub(super) fn rows(&self) -> usize {
        self.m.state_rows()
    }

    /// Whether slots are read by a softmax over a memory of keys.
    pub(super) fn is_gsa(&self) -> bool {
        self.m.kind == MemoryKind::Gsa
    }

    /// Whether keys are made ready, and the memory corrected, as RWKV-7 does.
    pub(super) fn is_rwkv7(&self) -> bool {
        self.m.kind == MemoryKind::Rwkv7
    }

    /// Whether values are written by steps and added to what is read, as Mamba-2 does.
    pub(super) fn has_steps(&self) -> bool {
        self.m.kind == MemoryKind::Mamba2
    }

    /// Whether a token says one share for a head's whole memory.
    pub(super) fn decays_by_token(&self) -> bool {
        matches!(self.m.kind, MemoryKind::GatedDelta | MemoryKind::Mamba2)
    }

    /// What queries are multiplied with.
    pub(super) fn query_scale(&self) -> f32 {
        if self.is_rwkv7() || self.has_steps() { 1.0 } else { 1.0 / (self.m.k_dim as f32).sqrt() }
    }

    pub(super) fn quant(&self) -> Quant {
        match self.arms().map(|arms| arms.values) {
            Some(SlotValues::Sign) => Quant::Sign,
            Some(SlotValues::Bits4) => Quant::Steps(7),
            Some(SlotValues::Bits8) => Quant::Steps(127),
            Some(SlotValues::Float) | None => Quant::Float,
        }
    }

    pub(super) fn read(&self) -> Read {
        if self.arms().is_some() && !self.corrects() { Read::Before } else { Read::After }
    }

    /// The constant share that head `head` keeps, where there is one.
    pub(super) fn constant(&self, head: usize) -> Option<f32> {
        let halvings = u32::try_from(head).unwrap_or(100).min(100) + 5;
        (self.m.kind == MemoryKind::Retnet).then(|| 1.0 - f32::from_bits((127 - halvings) << 23))
    }

    /// Whether a write takes back what the memory holds at its key.
    pub(super) fn corrects(&self) -> bool {
        self.has_unit_keys() || self.arms().is_some_and(|arms| arms.outer && arms.delta)
    }

    /// Whether keys and queries have one length, beside those of matrices in slots.
    pub(super) fn has_unit_keys(&self) -> bool {
        matches!(self.m.kind, MemoryKind::Delta | MemoryKind::GatedDelta)
    }

    pub(super) fn k_head(&self, head: usize) -> usize {
        self.m.k_head(head)
    }
}

#[cfg(test)]
mod tests {
    use super::Straight;

    #[test]
    fn gradients_of_signs_are_masked_or_shortened() {
        // Of a number, and of a gradient: what passes, masked and shortened.
        for (x, d, masked, shortened) in [(0.5, 3.0, 3.0, 1.0), (-1.0, 0.25, 0.25, 0.25), (-1.5, -3.0, 0.0, -1.0)] {
            let found = [Straight::Masked.of(x, d), Straight::Clamped.of(x, d)];
            assert_eq!(found.map(f32::to_bits), [masked, shortened].map(f32::to_bits), "{x} {d}");
        }
        assert_eq!(Straight::default(), Straight::Masked);
    }
}
