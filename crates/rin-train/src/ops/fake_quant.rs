//! Weights as the runtime will see them, with straight-through gradients (Bengio et al., 2013).
//!
//! A gradient passes unchanged to the weights that the format can represent and is 0 for those beyond its range
//! (masked, as in PACT and LSQ, not clamped). With learned steps the scale of each block has a gradient too (Esser et
//! al., 2020, "Learned step size quantization"). Ternary weights are those of BitNet b1.58 (Ma et al., 2024), whose
//! gradient passes unchanged to all weights.

use super::{host, tensor};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_import::quantize::quantize_row;
use rin_kernels::Format;
use rin_kernels::format::{Codes, dequantize};
use rin_kernels::half::{f16_to_f32, f32_to_f16};
use std::sync::Arc;

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Largest code of Q4_0, its zero taken off; the smallest is -8.
const TOP: f32 = 7.0;
const BOTTOM: f32 = -8.0;
/// Steps below this are taken as this.
const SMALLEST_STEP: f32 = 1e-7;

/// A quantised matrix: the blocks that a weight file would hold.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Format of the blocks.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The rows one after the other.
    pub blocks: Vec<u8>,
}

impl Quantized {
    /// Scales by the largest magnitude of each block, the bits of the `gguf` package.
    pub fn by_magnitude(format: Format, values: &[f32], cols: usize) -> Self {
        let rows: Vec<Vec<u8>> = values
            .par_chunks_exact(cols)
            .map(|row| {
                let mut out = Vec::with_capacity(format.row_bytes(cols).unwrap_or(0));
                quantize_row(format, row, &mut out);
                out
            })
            .collect();
        Self { format, rows: rows.len(), cols, blocks: rows.concat() }
    }

    /// Q4_0 with one learned step per block.
    pub fn with_steps(values: &[f32], steps: &[f32], cols: usize) -> Self {
        let size = Format::Q4_0.block_bytes();
        let mut blocks = vec![0; steps.len() * size];
        let parts = blocks.par_chunks_exact_mut(size).zip(values.par_chunks_exact(BLOCK)).zip(steps);
        parts.for_each(|((out, values), step)| {
            let half = f32_to_f16(step.max(SMALLEST_STEP));
            out[..2].copy_from_slice(&half.to_le_bytes());
            let step = f16_to_f32(half);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=15")]
            let code = |x: f32| (x / step).round_ties_even().clamp(BOTTOM, TOP) as i8 as u8 ^ 8;
            for (i, out) in out[2..].iter_mut().enumerate() {
                *out = code(values[i]) & 0xf | code(values[i + BLOCK / 2]) << 4;
            }
        });
        Self { format: Format::Q4_0, rows: values.len() / cols.max(1), cols, blocks }
    }

    /// TQ2_0: of each block of 256 weights, `clip(round(w / d), -1, 1)` with `d` the mean magnitude as f16 has it (Ma et
    /// al., 2024, "The Era of 1-bit LLMs", equations 1 to 3, which take one mean for a whole matrix).
    pub fn ternary(values: &[f32], cols: usize) -> Self {
        let format = Format::TQ2_0;
        let mut blocks = vec![0; values.len() / format.block_len() * format.block_bytes()];
        let parts = blocks.par_chunks_exact_mut(format.block_bytes());
        parts.zip(values.par_chunks_exact(format.block_len())).for_each(|(out, values)| {
            let half = f32_to_f16(mean_magnitude(values).max(SMALLEST_STEP));
            let step = f16_to_f32(half);
            let mut codes = Codes { d: half, ..Codes::ZERO };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=2")]
            codes.q.iter_mut().zip(values).for_each(|(q, w)| *q = ((w / step).round().clamp(-1.0, 1.0) + 1.0) as u8);
            codes.write(format, out);
        });
        Self { format, rows: values.len() / cols.max(1), cols, blocks }
    }

    /// The numbers that the blocks stand for.
    pub fn numbers(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        let bytes = self.format.row_bytes(self.cols).unwrap_or(0).max(1);
        out.par_chunks_exact_mut(self.cols)
            .zip(self.blocks.par_chunks_exact(bytes))
            .for_each(|(row, bytes)| dequantize(self.format, bytes, row));
        out
    }
}

/// The step with which a learned one begins (Esser et al., section 2.1): `2 mean|w| / sqrt(7)`.
pub(crate) fn first_step(block: &[f32]) -> f32 {
    (2.0 * mean_magnitude(block) / TOP.sqrt()).max(SMALLEST_STEP)
}

fn mean_magnitude(block: &[f32]) -> f32 {
    block.iter().map(|w| w.abs()).sum::<f32>() / block.len().max(1) as f32
}

/// The numbers of `quantized`, which was made of `w` without learned steps; gradients go straight through to `w`.
///
/// # Errors
/// When the shapes do not fit.
pub fn fake_quant(w: &Tensor, quantized: &Arc<Quantized>) -> Result<Tensor> {
    w.apply_op1(FakeQuant(quantized.clone()))
}

struct FakeQuant(Arc<Quantized>);

impl CustomOp1 for FakeQuant {
    fn name(&self) -> &'static str {
        "fake_quant"
    }

    fn cpu_fwd(&self, _: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.0.numbers()), layout.shape().clone()))
    }

    fn bwd(&self, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if self.0.format != Format::Q4_0 {
            // The scale is taken from the largest magnitude, and nothing lies outside; or the weights are ternary.
            return Ok(Some(grad.clone()));
        }
        let grad = grad.contiguous()?;
        let values = host(w)?;
        let mut dw = host(&grad)?.to_vec();
        dw.par_chunks_exact_mut(BLOCK).zip(values.par_chunks_exact(BLOCK)).for_each(|(dw, w)| {
            let largest = w.iter().fold(0.0_f32, |max, &x| if x.abs() > max.abs() { x } else { max });
            let inverse = if largest == 0.0 { 0.0 } else { BOTTOM / largest };
            for (dw, w) in dw.iter_mut().zip(w) {
                // The code is the integer part of this; from 16 on it is cut to 15.
                if w * inverse + 8.5 >= 16.0 {
                    *dw = 0.0;
                }
            }
        });
        Ok(Some(tensor(dw, w)?))
    }
}

/// As [`fake_quant`] for [`Quantized::with_steps`]: `step` `(rows, cols / 32)` has a gradient as well.
///
/// # Errors
/// When the shapes do not fit.
pub fn fake_quant_learned(w: &Tensor, step: &Tensor, quantized: &Arc<Quantized>) -> Result<Tensor> {
    w.apply_op2(step, LearnedQuant(quantized.clone()))
}

struct LearnedQuant(Arc<Quantized>);

impl CustomOp2 for LearnedQuant {
    fn name(&self) -> &'static str {
        "fake_quant_learned"
    }

    fn cpu_fwd(&self, _: &CpuStorage, layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.0.numbers()), layout.shape().clone()))
    }

    fn bwd(&self, w: &Tensor, step: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (ws, steps) = (host(w)?, host(step)?);
        let mut dw = host(&grad)?.to_vec();
        let mut d_step = vec![0.0; steps.len()];
        // Esser et al., section 2.2: steps move as far as weights do.
        let balance = 1.0 / (BLOCK as f32 * TOP).sqrt();
        let parts = dw.par_chunks_exact_mut(BLOCK).zip(ws.par_chunks_exact(BLOCK));
        parts.zip(steps.par_iter().zip(&mut d_step)).for_each(|((dw, w), (step, d_step))| {
            let step = f16_to_f32(f32_to_f16(step.max(SMALLEST_STEP)));
            let mut sum = 0.0;
            for (dw, w) in dw.iter_mut().zip(w) {
                let v = w / step;
                let code = v.round_ties_even().clamp(BOTTOM, TOP);
                if (BOTTOM - 0.5..=TOP + 0.5).contains(&v) {
                    sum += *dw * (code - v);
                } else {
                    sum += *dw * code;
                    *dw = 0.0;
                }
            }
            *d_step = sum * balance;
        });
        Ok((Some(tensor(dw, w)?), Some(tensor(d_step, step)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Quantized, fake_quant, fake_quant_learned, first_step};
    use candle_core::{Device, Tensor, Var};
    use rin_kernels::Format;
    use rin_kernels::math::sin_cos;
    use std::sync::Arc;

    const COLS: usize = 2 * BLOCK;

    /// Weights, and the factors of a loss that is a sum of quantised weights.
    fn weights() -> (Vec<f32>, Tensor) {
        let w = (0..COLS).map(|i| sin_cos(i as f32 * 0.7).0).collect();
        let factors: Vec<f32> = (0..COLS).map(|i| 1.0 + i as f32).collect();
        (w, Tensor::from_vec(factors, (1, COLS), &Device::Cpu).unwrap())
    }

    fn numbers(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_go_straight_through_and_stop_at_the_end_of_the_range() {
        let (mut w, factors) = weights();
        // The largest magnitude of a block gets the code -8; what is near it with the other sign is cut off at 7.
        w[BLOCK..].iter_mut().for_each(|w| *w *= 0.8);
        w[BLOCK + 3] = -1.5;
        w[3..8].copy_from_slice(&[-1.5, 1.3, 1.3, 1.3, 1.49]);
        let var = Var::from_slice(&w, (1, COLS), &Device::Cpu).unwrap();
        for (format, masked) in [(Format::Q8_0, vec![]), (Format::Q4_0, vec![7])] {
            let quantized = Arc::new(Quantized::by_magnitude(format, &w, COLS));
            let seen = fake_quant(var.as_tensor(), &quantized).unwrap();
            let loss = (&seen * &factors).unwrap().sum_all().unwrap();
            let gradient = numbers(loss.backward().unwrap().get(var.as_tensor()).unwrap());
            for (i, (found, factor)) in gradient.iter().zip(numbers(&factors)).enumerate() {
                let want = if masked.contains(&i) { 0.0 } else { factor };
                assert!((found - want).abs() < 1e-6, "{format}, weight {i}: {found}");
            }
            // A masked weight is one that is further than half a step from its number.
            let step = if format == Format::Q4_0 { 1.5 / 8.0 } else { 1.5 / 127.0 };
            for (i, (seen, w)) in numbers(&seen).iter().zip(&w).enumerate() {
                assert_eq!((seen - w).abs() > 0.52 * step, masked.contains(&i), "{format}, weight {i}");
            }
        }
    }

    #[test]
    fn ternary_weights_are_signs_times_the_mean_magnitude_and_all_have_a_gradient() {
        let cols = 2 * Format::TQ2_0.block_len();
        let mut w: Vec<f32> = (0..cols).map(|i| sin_cos(i as f32 * 0.7).0).collect();
        w[cols / 2..].iter_mut().for_each(|w| *w *= 0.01);
        (w[3], w[300]) = (40.0, 0.0);
        let quantized = Arc::new(Quantized::ternary(&w, cols));
        assert_eq!((quantized.rows, quantized.blocks.len()), (1, 2 * Format::TQ2_0.block_bytes()));
        let var = Var::from_slice(&w, (1, cols), &Device::Cpu).unwrap();
        let seen = fake_quant(var.as_tensor(), &quantized).unwrap();
        for (w, seen) in w.chunks(cols / 2).zip(numbers(&seen).chunks(cols / 2)) {
            let mean = w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len() as f64;
            let mut found = [0; 3];
            for (w, seen) in w.iter().zip(seen) {
                let want = (f64::from(*w) / mean).round().clamp(-1.0, 1.0);
                // f16 has eleven bits.
                assert!((f64::from(*seen) - want * mean).abs() <= mean / 2048.0, "{w}: {seen}");
                found[usize::from(*w > 0.0) + usize::from(want != 0.0) * usize::from(*w > 0.0)] += 1;
            }
            assert!(found.iter().all(|n| *n > 10), "{found:?}");
        }
        let gradient = numbers(seen.sum_all().unwrap().backward().unwrap().get(var.as_tensor()).unwrap());
        assert!(gradient.iter().all(|g| (g - 1.0).abs() < 1e-6));
        // A block of zeros stays one.
        assert!(Quantized::ternary(&vec![0.0; cols], cols).numbers().iter().all(|w| *w == 0.0));
    }

    #[test]
    fn learned_steps_have_the_gradient_of_their_paper() {
        let (mut w, factors) = weights();
        (w[5], w[40]) = (9.0, -9.0);
        // Steps that f16 represents, so that the definition below has them too.
        let steps = [0.125_f32, 0.25];
        let values = Var::from_slice(&w, (1, COLS), &Device::Cpu).unwrap();
        let step = Var::from_slice(&steps, (1, 2), &Device::Cpu).unwrap();
        let quantized = Arc::new(Quantized::with_steps(&w, &steps, COLS));
        let seen = fake_quant_learned(values.as_tensor(), step.as_tensor(), &quantized).unwrap();
        let store = (&seen * &factors).unwrap().sum_all().unwrap().backward().unwrap();
        let [dw, d_step] = [&values, &step].map(|v| numbers(store.get(v.as_tensor()).unwrap()));
        let mut want = [0.0_f32; 2];
        for (i, ((&w, factor), seen)) in w.iter().zip(numbers(&factors)).zip(numbers(&seen)).enumerate() {
            let v = w / steps[i / BLOCK];
            let code = v.round_ties_even().clamp(-8.0, 7.0);
            assert!((seen - code * steps[i / BLOCK]).abs() < 1e-6);
            let inside = (-8.5..=7.5).contains(&v);
            assert!((dw[i] - if inside { factor } else { 0.0 }).abs() < 1e-6);
            want[i / BLOCK] += factor * if inside { code - v } else { code };
        }
        assert_eq!(dw[5].to_bits() | dw[40].to_bits(), 0);
        for (found, want) in d_step.iter().zip(want) {
            let want = want / (BLOCK as f32 * 7.0).sqrt();
            assert!((found - want).abs() < 1e-4 * want.abs(), "{found} for {want}");
        }
        assert!(first_step(&w[..BLOCK]) > 0.0);
    }
}
