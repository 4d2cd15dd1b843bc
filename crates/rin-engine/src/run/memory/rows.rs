//! The steps of memories that work row by row.

use super::MemoryKernels;
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::{Act, Columns, MemoryStep, SlotId};
use crate::run::split::{Rows as SplitRows, rows_of, split};
use crate::run::{ActRows, Machine, QuantizeAct, Runner};
use rin_kernels::MatMut;
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::layer_norm::LayerNorm;
use rin_kernels::ops::memory::RwkvRows;
use rin_kernels::ops::softmax::Softmax;
use std::ops::Range;

/// Group norm of RWKV-7's heads, as its reference implementation has it.
const RWKV_EPS: f32 = 64e-5;

/// Slots that a row-wise step writes, and those that it reads.
const WRITES: usize = 3;
const READS: usize = 4;

/// The rows that a worker writes.
struct Writes<'a>([MatMut<'a, f32>; WRITES]);

impl SplitRows for Writes<'_> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let [a, b, c] = self.0;
        let ((a0, a1), (b0, b1), (c0, c1)) = (a.split_rows(at), b.split_rows(at), c.split_rows(at));
        (Self([a0, b0, c0]), Self([a1, b1, c1]))
    }
}

/// The slots of a row-wise step, each with the values of a row.
#[derive(Clone, Copy, Debug, Default)]
struct RowSlots<'a> {
    write: &'a [(SlotId, usize)],
    read: &'a [(SlotId, usize)],
    /// Work per row, in multiplications.
    cost: usize,
}

impl Machine<'_> {
    /// Calls `f(row, what is written, what is read)` for each row, split among the workers.
    fn each_row(
        &mut self,
        rows: usize,
        slots: RowSlots<'_>,
        f: impl Fn(usize, [&mut [f32]; WRITES], [&[f32]; READS]) + Sync,
    ) -> Result<(), Error> {
        let mut ranges: [Range<usize>; WRITES + READS] = [const { 0..0 }; WRITES + READS];
        for (range, &(slot, cols)) in ranges[..WRITES].iter_mut().zip(slots.write) {
            *range = self.range(slot, rows * cols * 4);
        }
        for (range, &(slot, cols)) in ranges[WRITES..].iter_mut().zip(slots.read) {
            *range = self.range(slot, rows * cols * 4);
        }
        let [w0, w1, w2, r0, r1, r2, r3] = self.arena.slices_mut(ranges)?;
        let width = |i: usize| slots.write.get(i).map_or(0, |w| w.1);
        let writes = Writes([
            rows_of(cast_mut(w0)?, rows, width(0)),
            rows_of(cast_mut(w1)?, rows, width(1)),
            rows_of(cast_mut(w2)?, rows, width(2)),
        ]);
        let reads: [&[f32]; READS] = [cast(r0)?, cast(r1)?, cast(r2)?, cast(r3)?];
        let read = |i: usize, row: usize| {
            let cols = slots.read.get(i).map_or(0, |r| r.1);
            &reads[i][row * cols..][..cols]
        };
        split(writes, rows, self.pool.active()).run(self.pool, rows * slots.cost, |first, mut w| {
            for r in 0..w.0[0].rows() {
                let row = first + r;
                let [a, b, c] = &mut w.0;
                f(row, [a.row_mut(r), b.row_mut(r), c.row_mut(r)], std::array::from_fn(|i| read(i, row)));
            }
        });
        Ok(())
    }

    pub(super) fn forms(&mut self, rows: usize, act: &Act) -> Result<(), Error> {
        let ranges = self.act_ranges(rows, act);
        let [a, b, c, d, e, f, g, _] = self.arena.slices_mut(ranges)?;
        let (kernels, quantize) = (self.kernels, QuantizeAct::new(act));
        let parts = split(ActRows::new([a, b, c, d, e, f, g], rows, act)?, rows, self.pool.active());
        parts.run(self.pool, rows * act.cols, |_, mut a| {
            for r in 0..a.x.rows() {
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }
}

/// The columns `n` of a row of a slot.
fn part(row: &[f32], x: Columns, n: usize) -> &[f32] {
    &row[x.first..][..n]
}

fn part_mut(row: &mut [f32], x: Columns, n: usize) -> &mut [f32] {
    &mut row[x.first..][..n]
}

impl Runner {
    pub(super) fn by_rows(&mut self, step: &MemoryStep, rows: usize) -> Result<(), Error> {
        let mut m = self.machine();
        let (all, weights) = (m.kernels, m.weights);
        let k: &MemoryKernels = &all.memory;
        match *step {
            MemoryStep::UnitNorm { x, cols, head, eps, scale } => {
                let slots = RowSlots { write: &[(x.slot, x.stride)], read: &[], cost: cols };
                m.each_row(rows, slots, |_, [y, ..], _| k.unit_norm.run(part_mut(y, x, cols), head, eps, scale))
            }
            MemoryStep::Scale { x, cols, factor } => {
                let slots = RowSlots { write: &[(x.slot, x.stride)], read: &[], cost: cols };
                m.each_row(rows, slots, |_, [y, ..], _| k.scale.run(part_mut(y, x, cols), factor))
            }
            MemoryStep::Decays { x, cols, a, bias, kind, steps } => {
                let a = a.map_or(Ok(&[][..]), |id| weights.values(id))?;
                let bias = bias.map_or(Ok(&[][..]), |id| weights.values(id))?;
                let both = [(x.slot, x.stride), (steps.unwrap_or(x.slot), cols)];
                let write = if steps.is_some() { &both[..] } else { &both[..1] };
                let slots = RowSlots { write, read: &[], cost: 32 * cols };
                m.each_row(rows, slots, |_, [y, steps, _], _| {
                    k.decays.run(part_mut(y, x, cols), steps, a, bias, kind);
                })
            }
            MemoryStep::ScaleHeads { x, heads, head, by } => {
                let slots = RowSlots { write: &[(x.slot, x.stride)], read: &[(by, heads)], cost: heads * head };
                m.each_row(rows, slots, |_, [y, ..], [by, ..]| {
                    for (y, by) in part_mut(y, x, heads * head).chunks_exact_mut(head).zip(by) {
                        k.scale.run(y, *by);
                    }
                })
            }
            MemoryStep::AddScaled { x, y, heads, head, weight } => {
                let weight = weights.values(weight)?;
                let slots = RowSlots { write: &[(x, heads * head)], read: &[(y.slot, y.stride)], cost: heads * head };
                m.each_row(rows, slots, |_, [x, ..], [from, ..]| {
                    let from = part(from, y, heads * head).chunks_exact(head);
                    for ((x, y), weight) in x.chunks_exact_mut(head).zip(from).zip(weight) {
                        k.add_scaled.run(x, y, *weight);
                    }
                })
            }
            MemoryStep::DeltaShares { keep, write, beta, heads, slots: n } => {
                let slots = RowSlots {
                    write: &[(keep, heads * n), (write, heads * n)],
                    read: &[(beta, heads)],
                    cost: heads * n,
                };
                m.each_row(rows, slots, |_, [keep, write, _], [beta, ..]| {
                    for ((keep, write), beta) in keep.chunks_exact_mut(n).zip(write.chunks_exact_mut(n)).zip(beta) {
                        k.delta_shares.run(keep, write, *beta);
                    }
                })
            }
            MemoryStep::Ones { x, cols } => {
                let slots = RowSlots { write: &[(x, cols)], read: &[], cost: cols };
                m.each_row(rows, slots, |_, [x, ..], _| x.fill(1.0))
            }
            _ => self.by_rows_of_heads(step, rows),
        }
    }

    /// The row-wise steps that finish what was read, and those that any layer may have.
    fn by_rows_of_heads(&mut self, step: &MemoryStep, rows: usize) -> Result<(), Error> {
        let eps_of_norm = self.plan.config.norm_eps;
        let mut m = self.machine();
        let (all, weights) = (m.kernels, m.weights);
        let k: &MemoryKernels = &all.memory;
        match *step {
            MemoryStep::Softmax { x, cols, head } => {
                let softmax: Softmax = all.softmax;
                let slots = RowSlots { write: &[(x, cols)], read: &[], cost: 16 * cols };
                m.each_row(rows, slots, |_, [x, ..], _| {
                    x.chunks_exact_mut(head).for_each(|scores| softmax.run(scores));
                })
            }
            MemoryStep::HeadNorm { x, cols, head, weight, gate, gating, eps } => {
                let weight = weight.map_or(Ok(&[][..]), |id| weights.values(id))?;
                let gates = gate.map(|gate| [(gate.slot, gate.stride)]);
                let read = gates.as_ref().map_or(&[][..], |gates| &gates[..]);
                let slots = RowSlots { write: &[(x, cols)], read, cost: 16 * cols };
                m.each_row(rows, slots, |_, [x, ..], [from, ..]| {
                    let gate = gate.map_or(&[][..], |gate| part(from, gate, cols));
                    k.head_norm.run(x, gate, weight, head, eps, gating);
                })
            }
            MemoryStep::Multiply { x, cols, y } => {
                let slots = RowSlots { write: &[(x, cols)], read: &[(y.slot, y.stride)], cost: cols };
                m.each_row(rows, slots, |_, [x, ..], [from, ..]| k.multiply.run(x, part(from, y, cols)))
            }
            MemoryStep::Copy { x, cols, out } => {
                let slots = RowSlots { write: &[(out, cols)], read: &[(x.slot, x.stride)], cost: cols };
                m.each_row(rows, slots, |_, [out, ..], [from, ..]| out.copy_from_slice(part(from, x, cols)))
            }
            MemoryStep::LayerNorm { x, cols, weight, bias, out } => {
                let (g, b) = (weights.values(weight)?, weights.values(bias)?);
                let norm: LayerNorm = all.layer_norm;
                let slots = RowSlots { write: &[(out, cols)], read: &[(x, cols)], cost: cols };
                m.each_row(rows, slots, |_, [out, ..], [x, ..]| norm.run(out, x, g, b, eps_of_norm))
            }
            MemoryStep::Sigmoid { x, cols } => {
                let activate = all.activate;
                let slots = RowSlots { write: &[(x, cols)], read: &[], cost: 16 * cols };
                m.each_row(rows, slots, |_, [x, ..], _| activate.run(x, Function::Sigmoid))
            }
            MemoryStep::ReluSquared { x, cols } => {
                let slots = RowSlots { write: &[(x, cols)], read: &[], cost: cols };
                m.each_row(rows, slots, |_, [x, ..], _| k.relu_squared.run(x))
            }
            _ => self.by_rows_of_keys(step, rows),
        }
    }

    /// The row-wise steps of keys, slots and RWKV.
    fn by_rows_of_keys(&mut self, step: &MemoryStep, rows: usize) -> Result<(), Error> {
        let mut m = self.machine();
        let (all, weights) = (m.kernels, m.weights);
        let k: &MemoryKernels = &all.memory;
        match *step {
            MemoryStep::Blend { x, other, share, cols } => {
                let slots = RowSlots { write: &[(x, cols)], read: &[(other, cols), (share, cols)], cost: cols };
                m.each_row(rows, slots, |_, [x, ..], [other, share, ..]| k.blend.run(x, other, share))
            }
            MemoryStep::RwkvKeys { k: keys, a, take, rates, cols, head } => {
                let rates = [weights.values(rates[0])?, weights.values(rates[1])?];
                let slots =
                    RowSlots { write: &[(keys.slot, keys.stride), (a, cols), (take, cols)], read: &[], cost: 4 * cols };
                m.each_row(rows, slots, |_, [x, a, take], _| {
                    k.rwkv_keys.run(part_mut(x, keys, cols), a, take, rates, head);
                })
            }
            MemoryStep::RwkvOut { x, rows: from, weights: ids, cols, head } => {
                let [r_k, norm, bias] = [weights.values(ids[0])?, weights.values(ids[1])?, weights.values(ids[2])?];
                let read = from.map(|slot| (slot, cols));
                let slots = RowSlots { write: &[(x, cols)], read: &read, cost: 8 * cols };
                m.each_row(rows, slots, |_, [x, ..], [r, key, v, g]| {
                    let rows = RwkvRows { r, k: key, v, g, r_k, norm: [norm, bias] };
                    k.rwkv_out.run(x, rows, head, RWKV_EPS);
                })
            }
            MemoryStep::Route { x, cols, codebook, slots: n, top, out, out_cols } => {
                let codebook = codebook.map_or(Ok(&[][..]), |id| weights.values(id))?;
                let slots = RowSlots { write: &[(out, out_cols)], read: &[(x.slot, x.stride)], cost: cols * n };
                m.each_row(rows, slots, |_, [out, ..], [from, ..]| {
                    k.route.run(out, part(from, x, cols), codebook, n, top);
                })
            }
            MemoryStep::Outer { shares, x, heads, slots: n, head, out } => {
                let slots = RowSlots {
                    write: &[(out, heads * n * head)],
                    read: &[(shares, heads * n), (x.slot, x.stride)],
                    cost: heads * n * head,
                };
                m.each_row(rows, slots, |_, [out, ..], [shares, from, ..]| {
                    let from = part(from, x, heads * head).chunks_exact(head);
                    let heads = out.chunks_exact_mut(n * head).zip(shares.chunks_exact(n)).zip(from);
                    for ((out, shares), x) in heads {
                        for (out, share) in out.chunks_exact_mut(head).zip(shares) {
                            out.copy_from_slice(x);
                            k.scale.run(out, *share);
                        }
                    }
                })
            }
            MemoryStep::Bind { v, k: keys, cols, quant } => {
                let own = keys.is_some_and(|keys| keys.slot == v.slot);
                let other = keys.filter(|_| !own).map(|keys| [(keys.slot, keys.stride)]);
                let read = other.as_ref().map_or(&[][..], |other| &other[..]);
                let slots = RowSlots { write: &[(v.slot, v.stride)], read, cost: 2 * cols };
                m.each_row(rows, slots, |_, [row, ..], [from, ..]| match keys {
                    // Keys lie before values.
                    Some(keys) if own => {
                        let (before, after) = row.split_at_mut(v.first);
                        k.bind.run(&mut after[..cols], part(before, keys, cols), quant);
                    }
                    Some(keys) => k.bind.run(part_mut(row, v, cols), part(from, keys, cols), quant),
                    None => part_mut(row, v, cols).iter_mut().for_each(|v| *v = quant.of(*v)),
                })
            }
            MemoryStep::Unbind { x, q, cols, scale } => {
                let slots = RowSlots { write: &[(x, cols)], read: &[(q.slot, q.stride)], cost: cols };
                m.each_row(rows, slots, |_, [x, ..], [from, ..]| k.unbind.run(x, part(from, q, cols), scale))
            }
            _ => Ok(()),
        }
    }
}
