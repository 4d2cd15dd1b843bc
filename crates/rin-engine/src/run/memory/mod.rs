//! The steps of layers with memories of a fixed size.
//!
//! All but the recurrences work row by row and are split by tokens. A recurrence is split by heads and blocks of columns:
//! a worker runs its memories over all tokens of each sequence, in order, whatever the step holds besides.

mod rows;

use super::machine::slot_range;
use super::split::{deal, rows_of, split};
use super::{BatchToken, Runner};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::{
    Columns, CorrectionOf, DecayOf, Held, HeldId, MemoryStep, Plan, RecurOf, SlotId, SlotsOf, column_block,
};
use crate::pool::partition;
use rin_kernels::Cpu;
use rin_kernels::MatMut;
use rin_kernels::ops::memory::{
    AddScaled, Bind, Blend, CausalConv, Correction, Decay, Decays, DeltaShares, HeadNorm, MAX_CONV, Multiply, Recur,
    ReluSquared, Route, Rows, RwkvKeys, RwkvOut, Scale, SlotState, SlotStep, SlotTokens, Tokens, Unbind, UnitNorm,
};
use std::ops::Range;

/// The handles of the operations of memories.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryKernels {
    recur: Recur,
    slot_step: SlotStep,
    conv: CausalConv,
    blend: Blend,
    unit_norm: UnitNorm,
    scale: Scale,
    multiply: Multiply,
    add_scaled: AddScaled,
    relu_squared: ReluSquared,
    delta_shares: DeltaShares,
    decays: Decays,
    head_norm: HeadNorm,
    route: Route,
    bind: Bind,
    unbind: Unbind,
    rwkv_keys: RwkvKeys,
    rwkv_out: RwkvOut,
}

impl MemoryKernels {
    pub(super) fn select(cpu: Cpu) -> Self {
        let cpu = &cpu;
        Self {
            recur: Recur::select(cpu),
            slot_step: SlotStep::select(cpu),
            conv: CausalConv::select(cpu),
            blend: Blend::select(cpu),
            unit_norm: UnitNorm::select(cpu),
            scale: Scale::select(cpu),
            multiply: Multiply::select(cpu),
            add_scaled: AddScaled::select(cpu),
            relu_squared: ReluSquared::select(cpu),
            delta_shares: DeltaShares::select(cpu),
            decays: Decays::select(cpu),
            head_norm: HeadNorm::select(cpu),
            route: Route::select(cpu),
            bind: Bind::select(cpu),
            unbind: Unbind::select(cpu),
            rwkv_keys: RwkvKeys::select(cpu),
            rwkv_out: RwkvOut::select(cpu),
        }
    }
}

/// The tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: usize,
    tokens: usize,
    sequence: usize,
}

/// The sequences of a batch, each with its tokens, which follow each other.
fn runs(batch: &[BatchToken]) -> impl Iterator<Item = Run> + '_ {
    let mut first = 0;
    std::iter::from_fn(move || {
        let sequence = batch.get(first)?.sequence;
        let tokens = batch[first..].iter().take_while(|token| token.sequence == sequence).count();
        let run = Run { first, tokens, sequence: sequence as usize };
        first += tokens;
        Some(run)
    })
}

impl Runner {
    /// Runs a step of a memory over `rows` rows: the tokens of `batch`, or those of them whose logits are wanted.
    pub(super) fn memory(&mut self, step: &MemoryStep, batch: &[BatchToken], rows: usize) -> Result<(), Error> {
        match *step {
            MemoryStep::Conv { .. } | MemoryStep::Shift { .. } => self.looking_back(step, batch),
            MemoryStep::Keep { x, cols, tokens, held } => self.keep(batch, x, cols, tokens, held),
            MemoryStep::Recur(recur) => self.recur(batch, &recur),
            MemoryStep::Slots(slots) => self.slots(batch, &slots),
            MemoryStep::Forms { act } => self.machine().forms(rows, &act),
            _ => self.by_rows(step, rows),
        }
    }

    /// A row of a held slot: `(parts, sequences, bytes)` with one part.
    fn held(&self, id: HeldId) -> Held {
        self.plan.held[id.0]
    }

    /// The whole of a held slot.
    fn held_range(&self, held: Held) -> Range<usize> {
        slot_range(&self.plan.slots, held.slot, usize::MAX)
    }

    /// Steps that read the rows of tokens before.
    fn looking_back(&mut self, step: &MemoryStep, batch: &[BatchToken]) -> Result<(), Error> {
        let (x, cols, taps, id, out) = match *step {
            MemoryStep::Conv { x, cols, taps, held, out, .. } => (x, cols, taps, held, out),
            MemoryStep::Shift { x, cols, held, out, .. } => (Columns::all(x, cols), cols, 2, held, out),
            _ => return Ok(()),
        };
        let held = self.held(id);
        let rows = batch.len();
        let ranges = [self.range(out, rows * cols * 4), self.range(x.slot, rows * x.stride * 4), self.held_range(held)];
        let weights = &self.weights;
        let kernels = self.kernels.memory;
        let (w, bias, mix) = match *step {
            MemoryStep::Conv { weight, bias, .. } => {
                (weights.values(weight)?, bias.map_or(Ok(&[][..]), |id| weights.values(id))?, &[][..])
            }
            MemoryStep::Shift { mix, at, .. } => (&[][..], &[][..], &weights.values(mix)?[at * cols..][..cols]),
            _ => return Ok(()),
        };
        let [out, from, before] = self.arena.slices_mut(ranges)?;
        let (out, from, before) =
            (rows_of(cast_mut::<f32>(out)?, rows, cols), cast::<f32>(from)?, cast::<f32>(before)?);
        // The row of `x` that lies `back` tokens before row `r` of the batch.
        let row = |r: usize, back: usize| -> &[f32] {
            let sequence = batch[r].sequence;
            let own = (1..=back).take_while(|&b| r >= b && batch[r - b].sequence == sequence).count();
            if own == back {
                return &from[(r - back) * x.stride + x.first..][..cols];
            }
            // What was kept: the newest row last.
            let kept = held.bytes / 4 / cols.max(1);
            let newest = kept - (back - own);
            &before[(sequence as usize * kept + newest) * cols..][..cols]
        };
        split(out, rows, self.pool.active()).run(&mut self.pool, rows * cols * (taps + 16), |first, mut out| {
            for r in 0..out.rows() {
                if taps == 2 && w.is_empty() {
                    out.row_mut(r).copy_from_slice(row(first + r, 0));
                    kernels.blend.run(out.row_mut(r), row(first + r, 1), mix);
                    continue;
                }
                let mut rows: [&[f32]; MAX_CONV] = [&[]; MAX_CONV];
                for (j, tap) in rows[..taps].iter_mut().enumerate() {
                    *tap = row(first + r, taps - 1 - j);
                }
                kernels.conv.run(out.row_mut(r), &rows[..taps], w, bias, true);
            }
        });
        Ok(())
    }

    /// Keeps the last rows of each sequence.
    fn keep(&mut self, batch: &[BatchToken], x: Columns, cols: usize, tokens: usize, id: HeldId) -> Result<(), Error> {
        let held = self.held(id);
        let ranges = [self.held_range(held), self.range(x.slot, batch.len() * x.stride * 4)];
        let [kept, from] = self.arena.slices_mut(ranges)?;
        let (kept, from) = (cast_mut::<f32>(kept)?, cast::<f32>(from)?);
        for run in runs(batch) {
            let own = &mut kept[run.sequence * tokens * cols..][..tokens * cols];
            let new = run.tokens.min(tokens);
            own.copy_within(new * cols.., 0);
            for (i, row) in own[(tokens - new) * cols..].chunks_exact_mut(cols.max(1)).enumerate() {
                let r = run.first + run.tokens - new + i;
                row.copy_from_slice(&from[r * x.stride + x.first..][..cols]);
            }
        }
        Ok(())
    }

    fn recur(&mut self, batch: &[BatchToken], r: &RecurOf) -> Result<(), Error> {
        let rows = batch.len();
        let held = self.held(r.held);
        let of = |x: Columns| (x.slot, x.stride);
        let mut read: [Option<(SlotId, usize)>; 6] = [Some(of(r.q)), Some(of(r.k)), Some(of(r.v)), None, None, None];
        read[3] = match r.decay {
            DecayOf::None | DecayOf::Retnet => None,
            DecayOf::Heads(x) | DecayOf::Rows(x) | DecayOf::Columns(x) => Some(of(x)),
        };
        match r.correction {
            CorrectionOf::None => {}
            CorrectionOf::Delta(beta) => read[4] = Some(of(beta)),
            CorrectionOf::RankOne { a, b } => (read[4], read[5]) = (Some(of(a)), Some(of(b))),
        }
        // Several of them may be columns of one slot, which is borrowed once.
        let place = |i: usize| read[..i].iter().position(|other| *other == read[i]).unwrap_or(i);
        let mut ranges: [Range<usize>; 8] = [const { 0..0 }; 8];
        for (i, slot) in read.iter().enumerate() {
            if let (Some((slot, stride)), true) = (slot, place(i) == i) {
                ranges[i] = self.range(*slot, rows * stride * 4);
            }
        }
        ranges[6] = self.range(r.out, rows * r.heads * r.cols * 4);
        ranges[7] = self.held_range(held);
        let [a, b, c, d, e, f, out, state] = self.arena.slices_mut(ranges)?;
        let slices: [&[f32]; 6] = [cast(a)?, cast(b)?, cast(c)?, cast(d)?, cast(e)?, cast(f)?];
        let data = |i: usize| slices[place(i)];
        let memories = Memories { recur: self.kernels.memory.recur, of: *r, data: std::array::from_fn(data), batch };
        let state: &mut [f32] = cast_mut(state)?;
        let block = column_block(r.cols);
        let sequences = self.plan.options.n_sequences;
        let part = held.bytes / 4 * sequences;
        let mut rest = Some((rows_of(cast_mut::<f32>(out)?, rows, r.heads * r.cols), state));
        let work = rows * r.heads * r.rows * r.cols;
        let workers = if work < 1 << 14 { 1 } else { self.pool.active().min(held.parts) };
        let make = |i: usize| {
            let range = partition(held.parts, workers, i, 1);
            let (out, state) = rest.take()?;
            let (out, out_after) = out.split_cols(range.len() * block);
            let (state, state_after) = state.split_at_mut(range.len() * part);
            rest = Some((out_after, state_after));
            Some((range.start, out, state))
        };
        deal(&mut self.pool, workers, make, |(first, mut out, state): (usize, MatMut<'_, f32>, &mut [f32])| {
            for (u, state) in state.chunks_exact_mut(part.max(1)).enumerate() {
                for run in runs(memories.batch) {
                    let own = &mut state[run.sequence * (part / sequences)..][..part / sequences];
                    let (_, below) = out.reborrow().split_rows(run.first);
                    let (mine, _) = below.split_rows(run.tokens);
                    let (_, right) = mine.split_cols(u * block);
                    let (mut mine, _) = right.split_cols(block);
                    memories.run(first + u, block, run, own, &mut mine);
                }
            }
        });
        Ok(())
    }

    fn slots(&mut self, batch: &[BatchToken], s: &SlotsOf) -> Result<(), Error> {
        let rows = batch.len();
        let held = self.held(s.held);
        let same = s.read == s.write;
        let write = if same { 0..0 } else { self.range(s.write, rows * s.heads * s.slots * 4) };
        let ranges = [
            self.range(s.read, rows * s.heads * s.slots * 4),
            write,
            self.range(s.bound.slot, rows * s.bound.stride * 4),
            self.range(s.out, rows * s.heads * s.dim * 4),
            self.held_range(held),
        ];
        let kernels = self.kernels.memory;
        let [read, write, bound, out, state] = self.arena.slices_mut(ranges)?;
        let (read, write, bound): (&[f32], &[f32], &[f32]) = (cast(read)?, cast(write)?, cast(bound)?);
        let write = if same { read } else { write };
        let sequences = self.plan.options.n_sequences;
        let part = held.bytes * sequences;
        let mut rest = Some((rows_of(cast_mut::<f32>(out)?, rows, s.heads * s.dim), state));
        let workers = if rows * s.heads * s.dim < 1 << 12 { 1 } else { self.pool.active().min(s.heads) };
        let make = |i: usize| {
            let range = partition(s.heads, workers, i, 1);
            let (out, state) = rest.take()?;
            let (out, out_after) = out.split_cols(range.len() * s.dim);
            let (state, state_after) = state.split_at_mut(range.len() * part);
            rest = Some((out_after, state_after));
            Some((range.start, out, state))
        };
        deal(&mut self.pool, workers, make, |(first, mut out, state): (usize, MatMut<'_, f32>, &mut [u8])| {
            for (u, state) in state.chunks_exact_mut(part.max(1)).enumerate() {
                let head = first + u;
                for (r, token) in batch.iter().enumerate() {
                    let own = &mut state[token.sequence as usize * held.bytes..][..held.bytes];
                    let shares = |all: &[f32]| chosen(&all[(r * s.heads + head) * s.slots..][..s.slots]);
                    let values = &bound[r * s.bound.stride + s.bound.first + head * s.dim..][..s.dim];
                    let token = SlotTokens { read: shares(read), write: shares(write), bound: values };
                    let out = &mut out.row_mut(r)[u * s.dim..][..s.dim];
                    // The plan aligned them.
                    if s.narrow {
                        if let Ok(state) = cast_mut(own) {
                            kernels.slot_step.run(SlotState::I16(state), out, token);
                        }
                    } else if let Ok(state) = cast_mut(own) {
                        kernels.slot_step.run(SlotState::I32(state), out, token);
                    }
                }
            }
        });
        Ok(())
    }
}

/// The slot whose share is 1; the first where none is, for numbers that are none.
fn chosen(shares: &[f32]) -> usize {
    shares.iter().position(|share| *share > 0.5).unwrap_or(0)
}

/// What all workers of a recurrence read.
#[derive(Clone, Copy, Debug)]
struct Memories<'a> {
    recur: Recur,
    of: RecurOf,
    /// q, k, v, decay, and what is taken back.
    data: [&'a [f32]; 6],
    batch: &'a [BatchToken],
}

impl Memories<'_> {
    /// Runs memory and column block number `unit` over the tokens of a sequence.
    fn run(&self, unit: usize, block: usize, run: Run, state: &mut [f32], out: &mut MatMut<'_, f32>) {
        let r = &self.of;
        let blocks = r.cols / block.max(1);
        let (head, col) = (unit / blocks.max(1), unit % blocks.max(1) * block);
        let k_heads = r.k_heads.max(1);
        let k_head = if r.tiled { head % k_heads } else { head / (r.heads / k_heads).max(1) };
        let rows = |i: usize, x: Columns, at: usize| Rows {
            data: &self.data[i][run.first * x.stride + x.first + at..],
            stride: x.stride,
        };
        let decay = match r.decay {
            DecayOf::None => Decay::None,
            // 2^(-5 - head), which is exact down to the smallest normal number.
            DecayOf::Retnet => {
                let halvings = u32::try_from(head + 5).unwrap_or(u32::MAX).min(126);
                Decay::Constant(1.0 - f32::from_bits((127 - halvings) << 23))
            }
            DecayOf::Heads(x) => Decay::Token(rows(3, x, head)),
            DecayOf::Rows(x) => Decay::ByRow(rows(3, x, head * r.rows)),
            DecayOf::Columns(x) => Decay::ByColumn(rows(3, x, head * r.cols + col)),
        };
        let correction = match r.correction {
            CorrectionOf::None => Correction::None,
            CorrectionOf::Delta(beta) => Correction::Delta { beta: rows(4, beta, head) },
            CorrectionOf::RankOne { a, b } => {
                Correction::RankOne { a: rows(4, a, head * r.rows), b: rows(5, b, head * r.rows) }
            }
        };
        let tokens = Tokens {
            q: rows(0, r.q, k_head * r.rows),
            k: rows(1, r.k, k_head * r.rows),
            v: rows(2, r.v, head * r.cols + col),
            decay,
            correction,
            read: r.read,
        };
        self.recur.run(state, out, tokens);
    }
}

impl Runner {
    /// Sets what a sequence holds to nothing.
    pub(crate) fn clear_held(&mut self, row: usize) {
        self.each_held_part(row, |bytes, part| bytes[part].fill(0));
    }

    /// Calls `f` with the arena and each place in it that a sequence holds, slot by slot and part by part.
    pub(crate) fn each_held_part(&mut self, row: usize, mut f: impl FnMut(&mut [u8], Range<usize>)) {
        let Plan { held, slots, options, .. } = &self.plan;
        for held in held {
            for i in 0..held.parts {
                let at = slots[held.slot.0].offset + (i * options.n_sequences + row) * held.bytes;
                f(self.arena.bytes_mut(), at..at + held.bytes);
            }
        }
    }

    /// Gives one sequence what another holds.
    pub(crate) fn copy_held(&mut self, from: usize, to: usize) {
        self.each_held_part(from, |bytes, part| {
            let first = part.start - from * part.len();
            bytes.copy_within(part.clone(), first + to * part.len());
        });
    }
}
