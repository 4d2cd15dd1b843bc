//! Root-mean-square normalisation of each row (Zhang and Sennrich, 2019), as the beginning of a product.

use crate::kernels::{Kernels, Loop};

/// `out[t, i] = x[t, i] / sqrt(mean(x[t]^2) + eps) * gain[i]`, by the runtime's kernel.
pub(super) fn normalize(out: &mut [f32], x: &[f32], gain: &[f32], eps: f32, kernels: &Kernels) {
    let cols = gain.len();
    for (out, x) in out.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
        kernels.norm.run(out, x, gain, eps);
    }
}

/// The gradient: `dx` holds that of the result and becomes that of `x`; that of the gain is added to `d_gain`.
pub(super) struct NormGradient<'a> {
    pub(super) dx: &'a mut [f32],
    pub(super) d_gain: &'a mut [f32],
    pub(super) x: &'a [f32],
    pub(super) gain: &'a [f32],
    pub(super) eps: f32,
}

impl Loop for NormGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { dx, d_gain, x, gain, eps } = self;
        let cols = gain.len();
        for (dx, x) in dx.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
            let scale = 1.0 / (dot(x, x) / cols as f32 + eps).sqrt();
            // With n = x * scale: dx = scale * (dy * gain - n * mean(dy * gain * n)).
            for (((dx, d_gain), x), gain) in dx.iter_mut().zip(d_gain.iter_mut()).zip(x).zip(gain) {
                *d_gain += *dx * (x * scale);
                *dx *= gain;
            }
            let mean = dot(dx, x) * scale / cols as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - x * scale * mean);
            }
        }
    }
}

/// `sum of a * b` in 16 lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane += a * b;
    }
    lanes.iter().sum()
}
