//! The loss: the mean negative log-likelihood of the targets.

use super::{host, tensor, values};
use crate::kernels::{Kernels, Loop, ROW_GROUP, for_row_groups};
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_kernels::math::exp;
use std::sync::Arc;

/// `mean over t of -log softmax(logits[t])[targets[t]]`, in nats, a scalar.
///
/// # Errors
/// When there is not one target per row, or a target is no column.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], kernels: Kernels) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if rows != targets.len() || rows == 0 || targets.iter().any(|&t| t as usize >= vocab) {
        return Err(Error::Msg(format!("{} targets for logits of {rows} x {vocab}", targets.len())));
    }
    logits.apply_op1(CrossEntropyOp { targets: targets.into(), kernels })
}

struct CrossEntropyOp {
    targets: Arc<[u32]>,
    kernels: Kernels,
}

/// `log(sum of exp(x))` of each row of `vocab`.
pub(crate) fn log_sums(logits: &[f32], vocab: usize, kernels: &Kernels) -> Vec<f64> {
    let groups = logits.par_chunks(vocab * ROW_GROUP).map(|x| {
        let mut sums = vec![(0.0, 0.0); x.len() / vocab];
        kernels.dispatch(Sums { rows: &mut sums, x, vocab });
        sums
    });
    let sums: Vec<_> = groups.collect();
    sums.into_iter().flatten().map(|(max, sum)| f64::from(max) + libm::log(sum)).collect()
}

/// The largest value of each row, and the sum of the exponentials of what the values are less than it.
struct Sums<'a> {
    rows: &'a mut [(f32, f64)],
    x: &'a [f32],
    vocab: usize,
}

impl Loop for Sums<'_> {
    #[inline(always)]
    fn run(self) {
        for ((largest, sum), x) in self.rows.iter_mut().zip(self.x.chunks_exact(self.vocab)) {
            let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            let mut lanes = [0.0_f64; 8];
            let (whole, tail) = x.as_chunks::<8>();
            for x in whole {
                for i in 0..8 {
                    lanes[i] += f64::from(exp(x[i] - max));
                }
            }
            for (lane, x) in lanes.iter_mut().zip(tail) {
                *lane += f64::from(exp(x - max));
            }
            (*largest, *sum) = (max, lanes.iter().sum());
        }
    }
}

impl CustomOp1 for CrossEntropyOp {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = values(logits, layout)?;
        let vocab = logits.len() / self.targets.len();
        let rows = log_sums(logits, vocab, &self.kernels).into_iter().zip(logits.chunks_exact(vocab));
        let losses = rows.zip(self.targets.iter()).map(|((sum, row), &target)| sum - f64::from(row[target as usize]));
        #[expect(clippy::cast_possible_truncation, reason = "the loss is an f32")]
        let mean = (losses.sum::<f64>() / self.targets.len() as f64) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, vocab) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? / rows as f32;
        let x = host(logits)?;
        let x = &*x;
        let mut dx = vec![0.0; x.len()];
        for_row_groups(&mut dx, vocab, |first, out| {
            let x = &x[first * vocab..][..out.len()];
            self.kernels.dispatch(Softmax { dx: out, x, vocab, scale });
            for (dx, &target) in out.chunks_exact_mut(vocab).zip(&self.targets[first..]) {
                dx[target as usize] -= scale;
            }
        });
        Ok(Some(tensor(dx, logits)?))
    }
}

/// The softmax of each row, times `scale`.
pub(super) struct Softmax<'a> {
    pub(super) dx: &'a mut [f32],
    pub(super) x: &'a [f32],
    pub(super) vocab: usize,
    pub(super) scale: f32,
}

impl Loop for Softmax<'_> {
    #[inline(always)]
    fn run(self) {
        for (dx, x) in self.dx.chunks_exact_mut(self.vocab).zip(self.x.chunks_exact(self.vocab)) {
            let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = exp(x - max);
            }
            let factor = self.scale / dx.iter().sum::<f32>();
            for dx in dx {
                *dx *= factor;
            }
        }
    }
}
