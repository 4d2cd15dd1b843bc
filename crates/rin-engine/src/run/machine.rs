//! What every kind of plan computes with, and the steps that they share.

use super::Kernels;
use super::split::{Rows, rows_of, split};
use crate::Error;
use crate::arena::{Arena, cast, cast_mut};
use crate::plan::{Act, QuantAct, Slot, SlotId};
use crate::pool::Pool;
use crate::weights::{VectorId, Weights};
use rin_kernels::MatMut;
use rin_kernels::format::Activation;
use rin_kernels::ops::linear::{Input, QuantRows};
use std::ops::Range;

/// Slots, weights, memory, workers and operations, borrowed for a step.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) slots: &'a [Slot],
    pub(crate) weights: &'a Weights,
    pub(crate) arena: &'a mut Arena,
    pub(crate) pool: &'a mut Pool,
    pub(crate) kernels: &'a Kernels,
}

/// The first `bytes` of a slot.
pub(super) fn slot_range(slots: &[Slot], id: SlotId, bytes: usize) -> Range<usize> {
    let slot = &slots[id.0];
    slot.offset..slot.offset + bytes.min(slot.bytes)
}

impl Machine<'_> {
    /// The first `bytes` of a slot.
    pub(crate) fn range(&self, id: SlotId, bytes: usize) -> Range<usize> {
        slot_range(self.slots, id, bytes)
    }

    pub(super) fn norm(&mut self, rows: usize, x: SlotId, weight: VectorId, eps: f32, out: &Act) -> Result<(), Error> {
        let g = self.weights.values(weight)?;
        let cols = out.cols;
        let mut ranges = self.act_ranges(rows, out);
        ranges[ACT_SLOTS] = self.range(x, rows * cols * 4);
        let (act, x) = last_read(self.arena.slices_mut(ranges)?);
        let x = cast::<f32>(x)?;
        let (kernels, quantize) = (self.kernels, QuantizeAct::new(out));
        let rows_out = split(ActRows::new(act, rows, out)?, rows, self.pool.active());
        rows_out.run(self.pool, rows * cols, |first, mut a| {
            for r in 0..a.x.rows() {
                kernels.norm.run(a.x.row_mut(r), &x[(first + r) * cols..][..cols], g, eps);
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    pub(super) fn swiglu(&mut self, rows: usize, gate: &Act, up: SlotId) -> Result<(), Error> {
        let cols = gate.cols;
        let mut ranges = self.act_ranges(rows, gate);
        ranges[ACT_SLOTS] = self.range(up, rows * cols * 4);
        let (act, up) = last_read(self.arena.slices_mut(ranges)?);
        let up = cast::<f32>(up)?;
        let (kernels, quantize) = (self.kernels, QuantizeAct::new(gate));
        let parts = split(ActRows::new(act, rows, gate)?, rows, self.pool.active());
        // The exponential makes an element worth several plain ones.
        parts.run(self.pool, rows * cols * 8, |first, mut a| {
            for r in 0..a.x.rows() {
                kernels.swiglu.run(a.x.row_mut(r), &up[(first + r) * cols..][..cols]);
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    /// The bytes of an activation's slots for `rows` tokens, and room for one more range.
    pub(crate) fn act_ranges(&self, rows: usize, a: &Act) -> [Range<usize>; ACT_SLOTS + 1] {
        let mut ranges: [Range<usize>; ACT_SLOTS + 1] = [const { 0..0 }; ACT_SLOTS + 1];
        ranges[0] = self.range(a.x, rows * a.cols * 4);
        for (i, (quant, block)) in [(a.block32, 32), (a.block256, 256)].into_iter().enumerate() {
            if let Some(QuantAct { q, d, sums }) = quant {
                ranges[1 + 3 * i] = self.range(q, rows * a.cols);
                ranges[2 + 3 * i] = self.range(d, rows * (a.cols / block) * 4);
                ranges[3 + 3 * i] = self.range(sums, rows * (a.cols / 16) * 2);
            }
        }
        ranges
    }
}

/// f32, and three slots for each kind of quantisation.
pub(crate) const ACT_SLOTS: usize = 7;

/// The slices of an activation, and the one beside them to read.
pub(crate) fn last_read(slices: [&mut [u8]; ACT_SLOTS + 1]) -> ([&mut [u8]; ACT_SLOTS], &[u8]) {
    let [a, b, c, d, e, f, g, last] = slices;
    ([a, b, c, d, e, f, g], last)
}

/// The rows of an activation that a worker writes.
#[derive(Debug)]
pub(crate) struct ActRows<'a> {
    pub(crate) x: MatMut<'a, f32>,
    pub(crate) quants: [QuantMut<'a>; 2],
}

/// The quantised rows that a worker writes; no columns where none are wanted.
#[derive(Debug)]
pub(crate) struct QuantMut<'a> {
    q: MatMut<'a, i8>,
    d: MatMut<'a, f32>,
    sums: MatMut<'a, i16>,
}

impl<'a> ActRows<'a> {
    pub(crate) fn new(slices: [&'a mut [u8]; ACT_SLOTS], rows: usize, a: &Act) -> Result<Self, Error> {
        let [x, q32, d32, s32, q256, d256, s256] = slices;
        let quant = |q: &'a mut [u8], d: &'a mut [u8], s: &'a mut [u8], block: Option<usize>| {
            let cols = if block.is_some() { a.cols } else { 0 };
            Ok::<_, Error>(QuantMut {
                q: rows_of(cast_mut(q)?, rows, cols),
                d: rows_of(cast_mut(d)?, rows, cols / block.unwrap_or(1)),
                sums: rows_of(cast_mut(s)?, rows, cols / 16),
            })
        };
        Ok(Self {
            x: rows_of(cast_mut(x)?, rows, a.cols),
            quants: [quant(q32, d32, s32, a.block32.map(|_| 32))?, quant(q256, d256, s256, a.block256.map(|_| 256))?],
        })
    }
}

impl Rows for ActRows<'_> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let (x0, x1) = self.x.split_rows(at);
        let [a, b] = self.quants;
        let ((a0, a1), (b0, b1)) = (a.split_rows(at), b.split_rows(at));
        (Self { x: x0, quants: [a0, b0] }, Self { x: x1, quants: [a1, b1] })
    }
}

impl Rows for QuantMut<'_> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let ((q0, q1), (d0, d1)) = (self.q.split_rows(at), self.d.split_rows(at));
        let (s0, s1) = self.sums.split_rows(at);
        (Self { q: q0, d: d0, sums: s0 }, Self { q: q1, d: d1, sums: s1 })
    }
}

/// Which quantisations an activation wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantizeAct {
    blocks: [Option<usize>; 2],
}

impl QuantizeAct {
    pub(crate) fn new(a: &Act) -> Self {
        Self { blocks: [a.block32.map(|_| 32), a.block256.map(|_| 256)] }
    }

    /// Quantises row `r`.
    pub(crate) fn run(&self, kernels: &Kernels, a: &mut ActRows<'_>, r: usize) {
        for (out, block) in a.quants.iter_mut().zip(self.blocks) {
            if let Some(block) = block {
                kernels.quantize.run(out.q.row_mut(r), out.d.row_mut(r), out.sums.row_mut(r), a.x.row(r), block);
            }
        }
    }
}

/// An activation as the input of products.
#[derive(Debug)]
pub(super) struct ActInput<'a> {
    x: &'a [f32],
    cols: usize,
    quants: [QuantRows<'a>; 2],
}

impl<'a> ActInput<'a> {
    pub(super) fn new(slices: [&'a [u8]; ACT_SLOTS], a: &Act) -> Result<Self, Error> {
        let [x, q32, d32, s32, q256, d256, s256] = slices;
        let quant = |q, d, sums, block| {
            Ok::<_, Error>(QuantRows { q: cast(q)?, d: cast(d)?, sums: cast(sums)?, cols: a.cols, block })
        };
        Ok(Self { x: cast(x)?, cols: a.cols, quants: [quant(q32, d32, s32, 32)?, quant(q256, d256, s256, 256)?] })
    }

    pub(super) fn of(&self, kind: Activation) -> Input<'a> {
        match kind {
            Activation::F32 => Input::Float { x: self.x, cols: self.cols },
            Activation::Block32 => Input::Quant(self.quants[0]),
            Activation::Block256 => Input::Quant(self.quants[1]),
        }
    }
}
