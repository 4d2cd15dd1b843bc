//! The loss of knowledge distillation: how far a student's distribution is from its teacher's.

use super::cross_entropy::{Softmax, log_sums};
use super::{host, tensor, values};
use crate::kernels::{Kernels, for_row_groups};
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// `mean over t of T² KL(softmax(teacher[t] / T) ‖ softmax(logits[t] / T))`, in nats, a scalar (Hinton, Vinyals, Dean 2015).
///
/// Only `logits` have a gradient; the factor T² keeps its size as the temperature grows.
///
/// # Errors
/// When the shapes differ, or the temperature is not a positive number.
pub fn distillation(logits: &Tensor, teacher: &Tensor, temperature: f32, kernels: Kernels) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if teacher.dims() != logits.dims() || rows == 0 {
        return Err(Error::Msg(format!("teacher logits {:?} for {rows} x {vocab}", teacher.dims())));
    }
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Error::Msg(format!("a temperature of {temperature}")));
    }
    let teacher = scaled(&host(teacher)?, temperature);
    // Σ p log p = Σ p x − log Σ exp x.
    let sums = log_sums(&teacher, vocab, &kernels);
    let targets = softmax(&teacher, vocab, 1.0, kernels);
    let rows_of = teacher.chunks_exact(vocab).zip(targets.chunks_exact(vocab)).zip(sums);
    let negentropy: f64 = rows_of.map(|((x, p), sum)| dot(p, x) - sum).sum();
    logits.apply_op1(DistillationOp { targets: targets.into(), negentropy, temperature, kernels })
}

struct DistillationOp {
    /// The teacher's distributions.
    targets: Arc<[f32]>,
    /// `Σ p log p` over all rows.
    negentropy: f64,
    temperature: f32,
    kernels: Kernels,
}

fn scaled(x: &[f32], temperature: f32) -> Vec<f32> {
    x.iter().map(|x| x / temperature).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The softmax of each row, times `scale`.
fn softmax(x: &[f32], vocab: usize, scale: f32, kernels: Kernels) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for_row_groups(&mut out, vocab, |first, out| {
        let x = &x[first * vocab..][..out.len()];
        kernels.dispatch(Softmax { dx: out, x, vocab, scale });
    });
    out
}

impl CustomOp1 for DistillationOp {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, vocab) = layout.shape().dims2()?;
        let x = scaled(values(logits, layout)?, self.temperature);
        let sums = log_sums(&x, vocab, &self.kernels);
        let rows = sums.len() as f64;
        let cross = sums.into_iter().zip(x.chunks_exact(vocab)).zip(self.targets.chunks_exact(vocab));
        let cross: f64 = cross.map(|((sum, x), p)| sum - dot(p, x)).sum();
        let squared = f64::from(self.temperature) * f64::from(self.temperature);
        #[expect(clippy::cast_possible_truncation, reason = "the loss is an f32")]
        let mean = (squared * (cross + self.negentropy) / rows) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    /// `T (softmax(logits / T) − p) / rows`.
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, vocab) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? * self.temperature / rows as f32;
        let x = scaled(&host(logits)?, self.temperature);
        let mut dx = softmax(&x, vocab, scale, self.kernels);
        dx.iter_mut().zip(&*self.targets).for_each(|(dx, p)| *dx -= scale * p);
        Ok(Some(tensor(dx, logits)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use rin_kernels::Cpu;

    /// The definition in double precision.
    fn defined(student: &[f64], teacher: &[f64], vocab: usize, t: f64) -> f64 {
        let log_softmax = |x: &[f64]| {
            let sum: f64 = x.iter().map(|x| libm::exp(x / t)).sum();
            x.iter().map(|x| x / t - libm::log(sum)).collect::<Vec<f64>>()
        };
        let rows = student.chunks(vocab).zip(teacher.chunks(vocab)).map(|(s, p)| {
            let (s, p) = (log_softmax(s), log_softmax(p));
            s.iter().zip(&p).map(|(s, p)| libm::exp(*p) * (p - s)).sum::<f64>()
        });
        t * t * rows.sum::<f64>() * vocab as f64 / student.len() as f64
    }

    #[test]
    fn the_loss_and_its_gradient_are_those_of_the_definition() {
        let (rows, vocab) = (3_usize, 5_usize);
        let number = |i: usize, a: f64| ((i as f64 * a).sin() * 3.0 * 64.0).round() / 64.0;
        let student: Vec<f64> = (0..rows * vocab).map(|i| number(i, 1.7)).collect();
        let teacher: Vec<f64> = (0..rows * vocab).map(|i| number(i, 2.3)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "the numbers are exact")]
        let of = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let kernels = Kernels::select(&Cpu::detect());
        for t in [1.0_f32, 2.0, 4.0] {
            let logits = Var::from_vec(of(&student), (rows, vocab), &Device::Cpu).unwrap();
            let other = Tensor::from_vec(of(&teacher), (rows, vocab), &Device::Cpu).unwrap();
            let loss = distillation(logits.as_tensor(), &other, t, kernels).unwrap();
            let want = defined(&student, &teacher, vocab, t.into());
            assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - want).abs() < 1e-5 * want, "T = {t}");
            let gradient = loss.backward().unwrap();
            let gradient = host(gradient.get(logits.as_tensor()).unwrap()).unwrap().to_vec();
            for (i, found) in gradient.iter().enumerate() {
                let (mut above, mut below) = (student.clone(), student.clone());
                (above[i], below[i]) = (student[i] + 1e-5, student[i] - 1e-5);
                let change = |x: &[f64]| defined(x, &teacher, vocab, t.into());
                let want = (change(&above) - change(&below)) / 2e-5;
                assert!((f64::from(*found) - want).abs() < 1e-5, "T = {t}, {i}: {found}, not {want}");
            }
        }
    }

    #[test]
    fn a_student_that_is_its_teacher_has_no_loss() {
        let x = Tensor::from_vec(vec![1.0_f32, -2.0, 0.5, 3.0], (2, 2), &Device::Cpu).unwrap();
        let loss = distillation(&x, &x, 2.0, Kernels::select(&Cpu::detect())).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().abs() < 1e-6);
        let other = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(distillation(&x, &other, 2.0, Kernels::select(&Cpu::detect())).is_err());
        assert!(distillation(&x, &x, 0.0, Kernels::select(&Cpu::detect())).is_err());
    }
}
