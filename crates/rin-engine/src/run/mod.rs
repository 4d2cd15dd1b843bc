//! Running a plan: each step over the arena's slots, split statically among the workers.
//!
//! Threads split outputs, tokens or heads, never a sum, so the number of threads does not change a bit. Nothing here
//! allocates: the parts of a step lie on the stack.

mod attention;
mod kv;
mod linear;
pub(crate) mod split;

use crate::Error;
use crate::arena::{Arena, cast, cast_mut};
use crate::cache::PageCache;
use crate::plan::{Act, Plan, QuantAct, SlotId, Step};
use crate::pool::Pool;
use crate::weights::Weights;
use rin_kernels::Cpu;
use rin_kernels::format::Activation;
use rin_kernels::ops::attention::Attention;
use rin_kernels::ops::linear::{Input, Linear, QuantRows};
use rin_kernels::ops::quantize::QuantizeRow;
use rin_kernels::ops::rms_norm::RmsNorm;
use rin_kernels::ops::rope::{Rope, RopeTable};
use rin_kernels::ops::swiglu::SwiGlu;
use rin_kernels::{Format, MatMut};
use split::{rows_of, split};
use std::ops::Range;

/// A token of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchToken {
    /// Token id.
    pub id: u32,
    /// Position in its sequence.
    pub position: u32,
    /// Which sequence, by its place in the plan.
    pub sequence: u32,
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// The handles of every operation, resolved once.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    linear: [Linear; Format::ALL.len()],
    norm: RmsNorm,
    quantize: QuantizeRow,
    rope_table: RopeTable,
    rope: Rope,
    swiglu: SwiGlu,
    attention: Attention,
}

impl Kernels {
    /// Picks the best variants that `cpu` can run.
    pub fn select(plan: &Plan, cpu: &Cpu) -> Self {
        Self {
            linear: Format::ALL.map(|f| Linear::select(f, cpu)),
            norm: RmsNorm::select(cpu),
            quantize: QuantizeRow::select(cpu),
            rope_table: RopeTable::select(cpu),
            rope: Rope::select(cpu),
            swiglu: SwiGlu::select(cpu),
            attention: Attention::select(plan.kv_type, cpu),
        }
    }

    fn linear(&self, format: Format) -> &Linear {
        let at = Format::ALL.iter().position(|&f| f == format).unwrap_or(0);
        &self.linear[at]
    }
}

/// Everything that a step works with.
#[derive(Debug)]
pub struct Runner {
    /// The plan.
    pub plan: Plan,
    /// The weights.
    pub weights: Weights,
    /// The arena with all slots.
    pub arena: Arena,
    /// The workers.
    pub pool: Pool,
    /// The handles.
    pub kernels: Kernels,
    /// Whose the pages of the KV cache are.
    pub cache: PageCache,
    /// Factor on cosines and sines.
    pub rope_factor: f32,
    /// A step that goes wrong on more than one thread, for the tests of what finds that.
    #[cfg(test)]
    pub(crate) fault: Option<usize>,
}

impl Runner {
    /// Runs all steps over `batch`; the logits of the tokens that want them lie in the plan's slot, in order.
    ///
    /// # Errors
    ///
    /// Only where the plan and the arena do not fit each other.
    pub fn forward(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        self.forward_watched(batch, |_, _| {})
    }

    /// As [`Runner::forward`]; `watch` hears after each step which it was.
    ///
    /// # Errors
    ///
    /// As for [`Runner::forward`].
    pub fn forward_watched(&mut self, batch: &[BatchToken], mut watch: impl FnMut(&Self, usize)) -> Result<(), Error> {
        let wanted = batch.iter().filter(|t| t.logits).count();
        for i in 0..self.plan.steps.len() {
            if i >= self.plan.head && wanted == 0 {
                break;
            }
            let rows = if i >= self.plan.head { wanted } else { batch.len() };
            self.step(i, batch, rows)?;
            #[cfg(test)]
            self.go_wrong(i, rows);
            watch(self, i);
        }
        Ok(())
    }

    /// The logits of the last [`Runner::forward`], `(rows, vocab)`.
    ///
    /// # Errors
    ///
    /// Only where the plan and the arena do not fit each other.
    pub fn logits(&self, rows: usize) -> Result<&[f32], Error> {
        self.values(self.plan.logits, rows * self.plan.config.vocab)
    }

    fn step(&mut self, i: usize, batch: &[BatchToken], rows: usize) -> Result<(), Error> {
        // Ids are copied out of the plan, so that the arena can be borrowed beside it.
        match self.plan.steps[i] {
            Step::Embed { table, x } => self.embed(batch, table, x),
            Step::RopeTable { cos, sin } => self.rope_table(batch, cos, sin),
            Step::Norm { x, weight, out } => self.norm(rows, x, weight, &out),
            Step::Linear { .. } => self.linear(i, rows),
            Step::RopeStore { q, k, v, cos, sin, kv } => self.rope_store(batch, [q, k, v, cos, sin], kv),
            Step::Attend { q, kv, out } => self.attend(batch, q, kv, &out),
            Step::SwiGlu { gate, up } => self.swiglu(rows, &gate, up),
            Step::Select { x, out } => self.select(batch, x, out),
        }
    }

    #[cfg(test)]
    fn go_wrong(&mut self, step: usize, rows: usize) {
        if self.fault != Some(step) || self.pool.threads() == 1 {
            return;
        }
        for (slot, cols) in self.plan.steps[step].outputs(&self.plan).into_iter().flatten().skip(1) {
            // A bit of the sixth value of every row that half precision keeps.
            for row in 0..rows {
                let at = self.plan.slots[slot.0].offset + (row * cols + 5) * 4 + 2;
                self.arena.bytes_mut()[at] ^= 0x10;
            }
        }
    }

    /// The first `n` values of an f32 slot.
    ///
    /// # Errors
    ///
    /// Only where the plan and the arena do not fit each other.
    pub fn values(&self, slot: SlotId, n: usize) -> Result<&[f32], Error> {
        Ok(cast(self.arena.bytes().get(self.range(slot, n * 4)).unwrap_or_default())?)
    }

    /// The first `bytes` of a slot.
    pub(crate) fn range(&self, id: SlotId, bytes: usize) -> Range<usize> {
        let slot = &self.plan.slots[id.0];
        slot.offset..slot.offset + bytes.min(slot.bytes)
    }

    fn embed(&mut self, batch: &[BatchToken], table: crate::weights::MatrixId, x: SlotId) -> Result<(), Error> {
        let dim = self.plan.config.dim;
        let range = self.range(x, batch.len() * dim * 4);
        let [x] = self.arena.slices_mut([range])?;
        let rows = split(rows_of(cast_mut::<f32>(x)?, batch.len(), dim), batch.len(), self.pool.threads());
        let weights = &self.weights;
        rows.run(&mut self.pool, batch.len() * dim, |first, mut x| {
            for r in 0..x.rows() {
                weights.row(table, batch[first + r].id as usize, x.row_mut(r));
            }
        });
        Ok(())
    }

    fn rope_table(&mut self, batch: &[BatchToken], cos: SlotId, sin: SlotId) -> Result<(), Error> {
        let pairs = self.plan.config.rope.dims / 2;
        let bytes = batch.len() * pairs * 4;
        let ranges = [self.range(cos, bytes), self.range(sin, bytes), self.range(self.plan.inv_freq, pairs * 4)];
        let [cos, sin, freq] = self.arena.slices_mut(ranges)?;
        let (cos, sin, freq) = (cast_mut::<f32>(cos)?, cast_mut::<f32>(sin)?, cast::<f32>(freq)?);
        let rows = cos.chunks_exact_mut(pairs.max(1)).zip(sin.chunks_exact_mut(pairs.max(1)));
        for (token, (cos, sin)) in batch.iter().zip(rows) {
            self.kernels.rope_table.run(cos, sin, freq, token.position as f32, self.rope_factor);
        }
        Ok(())
    }

    fn norm(&mut self, rows: usize, x: SlotId, weight: crate::weights::VectorId, out: &Act) -> Result<(), Error> {
        let g = self.weights.values(weight)?;
        let (cols, eps) = (out.cols, self.plan.config.norm_eps);
        let mut ranges = self.act_ranges(rows, out);
        ranges[ACT_SLOTS] = self.range(x, rows * cols * 4);
        let (act, x) = last_read(self.arena.slices_mut(ranges)?);
        let x = cast::<f32>(x)?;
        let (kernels, quantize) = (&self.kernels, QuantizeAct::new(out));
        let rows_out = split(ActRows::new(act, rows, out)?, rows, self.pool.threads());
        rows_out.run(&mut self.pool, rows * cols, |first, mut a| {
            for r in 0..a.x.rows() {
                kernels.norm.run(a.x.row_mut(r), &x[(first + r) * cols..][..cols], g, eps);
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    fn swiglu(&mut self, rows: usize, gate: &Act, up: SlotId) -> Result<(), Error> {
        let cols = gate.cols;
        let mut ranges = self.act_ranges(rows, gate);
        ranges[ACT_SLOTS] = self.range(up, rows * cols * 4);
        let (act, up) = last_read(self.arena.slices_mut(ranges)?);
        let up = cast::<f32>(up)?;
        let (kernels, quantize) = (&self.kernels, QuantizeAct::new(gate));
        let parts = split(ActRows::new(act, rows, gate)?, rows, self.pool.threads());
        // The exponential makes an element worth several plain ones.
        parts.run(&mut self.pool, rows * cols * 8, |first, mut a| {
            for r in 0..a.x.rows() {
                kernels.swiglu.run(a.x.row_mut(r), &up[(first + r) * cols..][..cols]);
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    fn select(&mut self, batch: &[BatchToken], x: SlotId, out: SlotId) -> Result<(), Error> {
        let dim = self.plan.config.dim;
        let wanted = batch.iter().filter(|t| t.logits).count();
        let ranges = [self.range(x, batch.len() * dim * 4), self.range(out, wanted * dim * 4)];
        let [x, out] = self.arena.slices_mut(ranges)?;
        let rows = cast::<f32>(x)?.chunks_exact(dim.max(1)).zip(batch).filter(|(_, t)| t.logits);
        for (out, (x, _)) in cast_mut::<f32>(out)?.chunks_exact_mut(dim.max(1)).zip(rows) {
            out.copy_from_slice(x);
        }
        Ok(())
    }

    /// The bytes of an activation's slots for `rows` tokens, and room for one more range.
    fn act_ranges(&self, rows: usize, a: &Act) -> [Range<usize>; ACT_SLOTS + 1] {
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
const ACT_SLOTS: usize = 7;

/// The slices of an activation, and the one beside them to read.
fn last_read(slices: [&mut [u8]; ACT_SLOTS + 1]) -> ([&mut [u8]; ACT_SLOTS], &[u8]) {
    let [a, b, c, d, e, f, g, last] = slices;
    ([a, b, c, d, e, f, g], last)
}

/// The rows of an activation that a worker writes.
#[derive(Debug)]
struct ActRows<'a> {
    x: MatMut<'a, f32>,
    quants: [QuantMut<'a>; 2],
}

/// The quantised rows that a worker writes; no columns where none are wanted.
#[derive(Debug)]
struct QuantMut<'a> {
    q: MatMut<'a, i8>,
    d: MatMut<'a, f32>,
    sums: MatMut<'a, i16>,
}

impl<'a> ActRows<'a> {
    fn new(slices: [&'a mut [u8]; ACT_SLOTS], rows: usize, a: &Act) -> Result<Self, Error> {
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

impl split::Rows for ActRows<'_> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let (x0, x1) = self.x.split_rows(at);
        let [a, b] = self.quants;
        let ((a0, a1), (b0, b1)) = (a.split_rows(at), b.split_rows(at));
        (Self { x: x0, quants: [a0, b0] }, Self { x: x1, quants: [a1, b1] })
    }
}

impl split::Rows for QuantMut<'_> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let ((q0, q1), (d0, d1)) = (self.q.split_rows(at), self.d.split_rows(at));
        let (s0, s1) = self.sums.split_rows(at);
        (Self { q: q0, d: d0, sums: s0 }, Self { q: q1, d: d1, sums: s1 })
    }
}

/// Which quantisations an activation wants.
#[derive(Clone, Copy, Debug)]
struct QuantizeAct {
    blocks: [Option<usize>; 2],
}

impl QuantizeAct {
    fn new(a: &Act) -> Self {
        Self { blocks: [a.block32.map(|_| 32), a.block256.map(|_| 256)] }
    }

    /// Quantises row `r`.
    fn run(&self, kernels: &Kernels, a: &mut ActRows<'_>, r: usize) {
        for (out, block) in a.quants.iter_mut().zip(self.blocks) {
            if let Some(block) = block {
                kernels.quantize.run(out.q.row_mut(r), out.d.row_mut(r), out.sums.row_mut(r), a.x.row(r), block);
            }
        }
    }
}

/// An activation as the input of products.
#[derive(Debug)]
struct ActInput<'a> {
    x: &'a [f32],
    cols: usize,
    quants: [QuantRows<'a>; 2],
}

impl<'a> ActInput<'a> {
    fn new(slices: [&'a [u8]; ACT_SLOTS], a: &Act) -> Result<Self, Error> {
        let [x, q32, d32, s32, q256, d256, s256] = slices;
        let quant = |q, d, sums, block| {
            Ok::<_, Error>(QuantRows { q: cast(q)?, d: cast(d)?, sums: cast(sums)?, cols: a.cols, block })
        };
        Ok(Self { x: cast(x)?, cols: a.cols, quants: [quant(q32, d32, s32, 32)?, quant(q256, d256, s256, 256)?] })
    }

    fn of(&self, kind: Activation) -> Input<'a> {
        match kind {
            Activation::F32 => Input::Float { x: self.x, cols: self.cols },
            Activation::Block32 => Input::Quant(self.quants[0]),
            Activation::Block256 => Input::Quant(self.quants[1]),
        }
    }
}
