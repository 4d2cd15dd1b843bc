//! The runtime's operations, resolved once, and the helpers that spread them over threads.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use rin_kernels::ops::attention::{Attention, KvType};
use rin_kernels::ops::linear::Linear;
use rin_kernels::ops::quantize::QuantizeRow;
use rin_kernels::ops::rms_norm::RmsNorm;
use rin_kernels::ops::rope::{Rope, RopeTable};
use rin_kernels::ops::swiglu::SwiGlu;
use rin_kernels::{Cpu, Format};

/// Rows whose contributions to a sum over rows are added before all others: fixed, so that the sum does not depend on
/// the number of threads.
pub(crate) const ROW_GROUP: usize = 128;

/// The handles of the runtime's kernels.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    pub(crate) norm: RmsNorm,
    pub(crate) rope: Rope,
    pub(crate) rope_table: RopeTable,
    pub(crate) swiglu: SwiGlu,
    pub(crate) attention: Attention,
    pub(crate) quantize: QuantizeRow,
    pub(crate) f32: Linear,
    pub(crate) q8_0: Linear,
    pub(crate) q4_0: Linear,
    pub(crate) tq2_0: Linear,
    /// What the handles were picked for.
    pub(crate) cpu: Cpu,
    /// Compiles the loops of backward passes for this processor.
    simd: pulp::Arch,
}

impl Kernels {
    /// Picks the best variants that `cpu` can run.
    pub fn select(cpu: &Cpu) -> Self {
        Self {
            norm: RmsNorm::select(cpu),
            rope: Rope::select(cpu),
            rope_table: RopeTable::select(cpu),
            swiglu: SwiGlu::select(cpu),
            attention: Attention::select(KvType::F32, cpu),
            quantize: QuantizeRow::select(cpu),
            f32: Linear::select(Format::F32, cpu),
            q8_0: Linear::select(Format::Q8_0, cpu),
            q4_0: Linear::select(Format::Q4_0, cpu),
            tq2_0: Linear::select(Format::TQ2_0, cpu),
            cpu: *cpu,
            simd: pulp::Arch::new(),
        }
    }
}

/// A loop to be compiled for each instruction set. Closures do not do: they are not inlined where the set is known.
pub(crate) trait Loop {
    /// Runs it; `#[inline(always)]`, as is all that it calls.
    fn run(self);
}

/// Makes a [`Loop`] what pulp dispatches.
struct Dispatched<L>(L);

impl<L: Loop> WithSimd for Dispatched<L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.0.run();
    }
}

impl Kernels {
    /// Runs a loop as compiled for this processor.
    pub(crate) fn dispatch(&self, work: impl Loop) {
        self.simd.dispatch(Dispatched(work));
    }
}

/// Runs `f(first row, rows)` over groups of rows of `out`, on all threads.
pub(crate) fn for_row_groups(out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(ROW_GROUP * cols.max(1)).enumerate().for_each(|(i, rows)| f(i * ROW_GROUP, rows));
}

/// As [`for_row_groups`], and adds up what each group returns, in the order of the rows.
pub(crate) fn sum_row_groups(
    out: &mut [f32],
    cols: usize,
    sum: &mut [f32],
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let n = sum.len();
    let parts: Vec<Vec<f32>> = out
        .par_chunks_mut(ROW_GROUP * cols.max(1))
        .enumerate()
        .map(|(i, rows)| {
            let mut part = vec![0.0; n];
            f(i * ROW_GROUP, rows, &mut part);
            part
        })
        .collect();
    for part in parts {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
}
