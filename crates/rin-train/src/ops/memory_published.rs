//! The backward pass of what Mamba-2 and RWKV-7 do around their recurrences: steps and skips, keys and rates of learning.

use super::memory::Forward;
use super::memory_gradient::{Gradient, Rows, dot, unit_backward};
use super::memory_shape::MemoryShape;

/// Added to the sum of squares of the keys that are taken back, as the runtime does.
const TINY: f32 = 1e-24;

/// Of values that are written by steps and added to what was read by `skip` (Dao and Gu, 2024). `d_qkv` comes in with the
/// gradients of the stepped values; the result are those of the steps, `(tokens, heads)`.
pub(super) fn steps_backward(
    shape: &MemoryShape,
    f: &Forward,
    skip: &[f32],
    d_read: &[f32],
    d_qkv: &mut [f32],
    d_skip: &mut [f32],
) -> Vec<f32> {
    let m = &shape.m;
    let (channels, first) = (m.channels(), 2 * m.k_width());
    let mut d_steps = vec![0.0; f.steps.len()];
    for t in 0..shape.seq {
        for h in 0..m.v_heads {
            let at = t * channels + first + h * m.v_dim;
            let v = &f.qkv[at..][..m.v_dim];
            let d_out = &d_read[t * m.v_width() + h * m.v_dim..][..m.v_dim];
            let d_v = &mut d_qkv[at..][..m.v_dim];
            let step = f.steps[t * m.v_heads + h];
            d_steps[t * m.v_heads + h] = dot(d_v, v);
            d_skip[h] += dot(d_out, v);
            for (d_v, d_out) in d_v.iter_mut().zip(d_out) {
                *d_v = *d_v * step + d_out * skip[h];
            }
        }
    }
    d_steps
}

/// Of `kk = k k_k / |k k_k|`, `a = -kk`, `b = kk r`, `k (1 + (r - 1) k_a)` with rates of learning `r` (Peng et al., 2025,
/// section 4). `d.k` comes in as the gradient of the keys that are written and becomes that of the keys as they were.
pub(super) fn rwkv7_backward(shape: &MemoryShape, f: &Forward, p: &[f32], d: &mut Rows, g: &mut Gradient) {
    let (m, places) = (&shape.m, shape.places());
    let (keys, channels, width) = (m.k_width(), m.channels(), shape.width());
    let [unit_at, rate_at] = places.keys;
    let (k_k, k_a) = (&p[unit_at.clone()], &p[rate_at.clone()]);
    let columns = shape.learn_columns();
    let (mut scaled, mut d_unit, mut d_scaled) = (vec![0.0; keys], vec![0.0; keys], vec![0.0; keys]);
    for t in 0..shape.seq {
        let k = &f.qkv[t * channels + keys..][..keys];
        let row = t * keys..(t + 1) * keys;
        let (rate, a) = (&f.learn[row.clone()], &f.correct[0][row.clone()]);
        let (d_a, d_b, d_k) = (&d.correct[0][row.clone()], &d.correct[1][row.clone()], &mut d.k[row]);
        for i in 0..keys {
            scaled[i] = k[i] * k_k[i];
            d_unit[i] = d_b[i] * rate[i] - d_a[i];
        }
        unit_backward(&mut d_scaled, &scaled, &d_unit, m.k_dim, TINY, 1.0);
        for i in 0..keys {
            let d_rate = d_k[i] * k[i] * k_a[i] - d_b[i] * a[i];
            let d_x = d_rate * rate[i] * (1.0 - rate[i]);
            g.x[t * width + columns.start + i] = d_x;
            g.p[places.learn.start + i] += d_x;
            g.p[rate_at.start + i] += d_k[i] * k[i] * (rate[i] - 1.0);
            g.p[unit_at.start + i] += d_scaled[i] * k[i];
            d_k[i] = d_k[i] * (1.0 + (rate[i] - 1.0) * k_a[i]) + d_scaled[i] * k_k[i];
        }
    }
}
