//! Running a plan: each step over the arena's slots, split statically among the workers.
//!
//! Threads split outputs, tokens or heads, never a sum, so the number of threads does not change a bit. Nothing here
//! allocates: the parts of a step lie on the stack.

mod attention;
mod kv;
mod linear;
mod machine;
mod memory;
pub(crate) mod split;

use crate::Error;
use crate::arena::{Arena, cast, cast_mut};
use crate::cache::PageCache;
use crate::chain::ChainError;
use crate::graph::ArrayKernels;
use crate::plan::{Plan, SlotId, Step};
use crate::pool::Pool;
use crate::snn::SpikingKernels;
use crate::weights::{MatrixId, Weights};
use machine::slot_range;
pub(crate) use machine::{ACT_SLOTS, ActRows, Machine, QuantizeAct};
use rin_kernels::Cpu;
use rin_kernels::Format;
use rin_kernels::math::canonical;
use rin_kernels::ops::activation::Activate;
use rin_kernels::ops::attention::{Attention, KvType};
use rin_kernels::ops::integer::{DenseNarrow, DenseWide, QuantizeStatic};
use rin_kernels::ops::layer_norm::LayerNorm;
use rin_kernels::ops::linear::Linear;
use rin_kernels::ops::quantize::QuantizeRow;
use rin_kernels::ops::rms_norm::RmsNorm;
use rin_kernels::ops::rope::{Rope, RopeTable};
use rin_kernels::ops::softmax::Softmax;
use rin_kernels::ops::swiglu::SwiGlu;
use rin_kernels::ops::wide::attention::Attend;
use rin_kernels::ops::wide::norm::{WideLayerNorm, WideRmsNorm};
use rin_kernels::ops::wide::rotate::WideRotate;
use rin_kernels::ops::wide::rows::{AddScaled, Curve, Largest, MultiplyScaled, Rescale, ToBytes};
pub(crate) use split::{Dense, deal, rows_of, split};
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
    pub(crate) activate: Activate,
    pub(crate) layer_norm: LayerNorm,
    pub(crate) softmax: Softmax,
    pub(crate) norm: RmsNorm,
    quantize: QuantizeRow,
    rope_table: RopeTable,
    pub(crate) rope: Rope,
    swiglu: SwiGlu,
    pub(crate) attention: Attention,
    pub(crate) integer: IntegerKernels,
    pub(crate) spiking: SpikingKernels,
    pub(crate) whole: WholeKernels,
    pub(crate) arrays: ArrayKernels,
    memory: memory::MemoryKernels,
}

/// The operations of networks in integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerKernels {
    pub(crate) quantize: QuantizeStatic,
    pub(crate) narrow: DenseNarrow,
    pub(crate) wide: DenseWide,
}

/// The operations of encoders and decoders in integers, between their products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeKernels {
    pub(crate) largest: Largest,
    pub(crate) to_bytes: ToBytes,
    pub(crate) rescale: Rescale,
    pub(crate) add: AddScaled,
    pub(crate) multiply: MultiplyScaled,
    pub(crate) curve: Curve,
    pub(crate) layer_norm: WideLayerNorm,
    pub(crate) rms_norm: WideRmsNorm,
    pub(crate) rotate: WideRotate,
    pub(crate) attend: Attend,
}

impl WholeKernels {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as all kernels take it")]
    fn select(cpu: &Cpu) -> Self {
        Self {
            largest: Largest::select(cpu),
            to_bytes: ToBytes::select(cpu),
            rescale: Rescale::select(cpu),
            add: AddScaled::select(cpu),
            multiply: MultiplyScaled::select(cpu),
            curve: Curve::select(cpu),
            layer_norm: WideLayerNorm::select(cpu),
            rms_norm: WideRmsNorm::select(cpu),
            rotate: WideRotate::select(cpu),
            attend: Attend::select(cpu),
        }
    }
}

impl Kernels {
    /// Picks the best variants that `cpu` can run.
    pub fn select(kv_type: KvType, cpu: &Cpu) -> Self {
        Self {
            linear: Format::ALL.map(|f| Linear::select(f, cpu)),
            activate: Activate::select(cpu),
            layer_norm: LayerNorm::select(cpu),
            softmax: Softmax::select(cpu),
            norm: RmsNorm::select(cpu),
            quantize: QuantizeRow::select(cpu),
            rope_table: RopeTable::select(cpu),
            rope: Rope::select(cpu),
            swiglu: SwiGlu::select(cpu),
            attention: Attention::select(kv_type, cpu),
            spiking: SpikingKernels::select(cpu),
            whole: WholeKernels::select(cpu),
            integer: IntegerKernels {
                quantize: QuantizeStatic::select(cpu),
                narrow: DenseNarrow::select(cpu),
                wide: DenseWide::select(cpu),
            },
            arrays: ArrayKernels::select(cpu),
            memory: memory::MemoryKernels::select(*cpu),
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
    /// Runs all steps over `batch`; the logits of the tokens that want them lie in the plan's slot, in order. `watch` hears
    /// after each step which it was.
    ///
    /// # Errors
    ///
    /// Only where the plan and the arena do not fit each other.
    pub fn run_all(&mut self, batch: &[BatchToken], mut watch: impl FnMut(&Self, usize)) -> Result<(), Error> {
        let (head, end) = (self.plan.head, self.plan.steps.len());
        let wanted = batch.iter().filter(|t| t.logits).count();
        self.run_steps(0..head, batch, batch.len(), &mut watch)?;
        if wanted == 0 {
            return Ok(());
        }
        self.run_steps(head..end, batch, wanted, &mut watch)
    }

    /// Runs some steps over `rows` rows.
    ///
    /// # Errors
    ///
    /// Only where the plan and the arena do not fit each other.
    pub(crate) fn run_steps(
        &mut self,
        steps: Range<usize>,
        batch: &[BatchToken],
        rows: usize,
        watch: &mut impl FnMut(&Self, usize),
    ) -> Result<(), Error> {
        for i in steps {
            self.step(i, batch, rows)?;
            #[cfg(test)]
            self.go_wrong(i, rows);
            watch(self, i);
        }
        Ok(())
    }

    /// The logits of the last [`Runner::run_all`], `(rows, vocab)`.
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
            Step::Positions { table, x, out } => self.positions(batch, table, x, out),
            Step::RopeTable { cos, sin } => self.rope_table(batch, cos, sin),
            Step::Norm { x, weight, out } => {
                let eps = self.plan.config.norm_eps;
                self.machine().norm(rows, x, weight, eps, &out)
            }
            Step::Linear { .. } => self.linear(i, rows),
            Step::RopeStore { q, k, v, angles, kv } => self.rope_store(batch, [q, k, v], angles, kv),
            Step::Attend { q, kv, out } => self.attend(batch, q, kv, &out),
            Step::SwiGlu { gate, up } => self.machine().swiglu(rows, &gate, up),
            Step::Select { x, out } => self.select(batch, x, out),
            // Only a chain reaches the other processes.
            Step::Gather(_) => Err(ChainError::Disagree { stage: 0, what: "who is in the chain" }.into()),
            Step::Memory(step) => self.memory(&step, batch, rows),
        }
    }

    #[cfg(test)]
    fn go_wrong(&mut self, step: usize, rows: usize) {
        if self.fault != Some(step) || self.pool.active() == 1 {
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
        slot_range(&self.plan.slots, id, bytes)
    }

    fn machine(&mut self) -> Machine<'_> {
        Machine {
            slots: &self.plan.slots,
            weights: &self.weights,
            arena: &mut self.arena,
            pool: &mut self.pool,
            kernels: &self.kernels,
        }
    }

    fn linear(&mut self, step: usize, rows: usize) -> Result<(), Error> {
        let Self { plan, weights, arena, pool, kernels, .. } = self;
        let Step::Linear { x, parts, add } = &plan.steps[step] else { return Ok(()) };
        Machine { slots: &plan.slots, weights, arena, pool, kernels }.linear(rows, x, parts, *add)
    }

    fn embed(&mut self, batch: &[BatchToken], table: MatrixId, x: SlotId) -> Result<(), Error> {
        let dim = self.plan.config.dim;
        let range = self.range(x, batch.len() * dim * 4);
        let [x] = self.arena.slices_mut([range])?;
        let rows = split(rows_of(cast_mut::<f32>(x)?, batch.len(), dim), batch.len(), self.pool.active());
        let weights = &self.weights;
        rows.run(&mut self.pool, batch.len() * dim, |first, mut x| {
            for r in 0..x.rows() {
                weights.row(table, batch[first + r].id as usize, x.row_mut(r));
            }
        });
        Ok(())
    }

    fn positions(&mut self, batch: &[BatchToken], table: MatrixId, x: SlotId, out: SlotId) -> Result<(), Error> {
        let dim = self.plan.config.dim;
        let ranges = [x, out].map(|slot| self.range(slot, batch.len() * dim * 4));
        let [x, out] = self.arena.slices_mut(ranges)?;
        let x = cast::<f32>(x)?;
        let rows = split(rows_of(cast_mut::<f32>(out)?, batch.len(), dim), batch.len(), self.pool.active());
        let weights = &self.weights;
        rows.run(&mut self.pool, batch.len() * dim, |first, mut out| {
            for r in 0..out.rows() {
                let row = out.row_mut(r);
                weights.row(table, batch[first + r].position as usize, row);
                for (out, x) in row.iter_mut().zip(&x[(first + r) * dim..]) {
                    *out = canonical(x + *out);
                }
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
}
