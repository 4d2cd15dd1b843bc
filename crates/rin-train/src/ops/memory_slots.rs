//! The backward pass of what BHRR does around its recurrence: shares of slots, matrices in slots, binding.

use super::memory::{Forward, UNIT_EPS};
use super::memory_gradient::{Rows, add, dot, unit_backward};
use super::memory_shape::{MemoryShape, Straight};
use rin_kernels::ops::memory::Quant;
use rin_model::{Address, ReadBy};

fn sign(x: f32) -> f32 {
    if x >= 0.0 { 1.0 } else { -1.0 }
}

/// Of unbinding by the signs of queries: straight through (Bengio et al., 2013).
pub(super) fn unbind_backward(shape: &MemoryShape, f: &Forward, d: &mut [f32], d_qkv: &mut [f32]) {
    let (values, channels) = (shape.m.v_width(), shape.m.channels());
    let scale = shape.quant().scale();
    for (t, d) in d.chunks_exact_mut(values).enumerate() {
        let (q, read) = (&f.qkv[t * channels..][..values], &f.read[t * values..][..values]);
        let dq = &mut d_qkv[t * channels..][..values];
        for i in 0..values {
            dq[i] += shape.straight.of(q[i], d[i] * read[i] * scale);
            d[i] *= sign(q[i]) * scale;
        }
    }
}

/// From the gradients of the rows of matrices in slots to those of the shares of slots, and of queries and keys.
pub(super) fn matrices_backward(shape: &MemoryShape, f: &Forward, d: &mut Rows, d_qkv: &mut [f32]) {
    let m = &shape.m;
    let (slots, dim, channels, keys) = (m.slots, m.k_dim, m.channels(), m.k_width());
    let of = |d: &[f32], shares: &[f32], unit: &[f32]| {
        let mut d_shares = vec![0.0; shares.len()];
        let mut d_unit = vec![0.0; unit.len()];
        for (i, (x, d_x)) in unit.chunks_exact(dim).zip(d_unit.chunks_exact_mut(dim)).enumerate() {
            for s in i * slots..(i + 1) * slots {
                let d = &d[s * dim..][..dim];
                d_shares[s] = dot(d, x);
                add(d_x, d, shares[s]);
            }
        }
        (d_shares, d_unit)
    };
    let (reads, dq) = of(&d.q, &f.reads, &f.unit[0]);
    let (writes, dk) = of(&d.k, &f.shares, &f.unit[1]);
    if !f.keep.is_empty() {
        d.w = d.w.chunks_exact(dim).map(|row| row.iter().sum()).collect();
    }
    (d.q, d.k) = (reads, writes);
    let scale = 1.0 / (dim as f32).sqrt();
    let rows = d_qkv.chunks_exact_mut(channels).zip(f.qkv.chunks_exact(channels));
    for (t, (out, qkv)) in rows.enumerate() {
        let (q_out, rest) = out.split_at_mut(keys);
        unit_backward(q_out, &qkv[..keys], &dq[t * keys..][..keys], dim, UNIT_EPS, scale);
        unit_backward(&mut rest[..keys], &qkv[keys..2 * keys], &dk[t * keys..][..keys], dim, UNIT_EPS, 1.0);
    }
}

/// Of shares of slots, of bound values, and of the codebook.
pub(super) fn slots_backward(
    shape: &MemoryShape,
    f: &Forward,
    book: &[f32],
    d: &mut Rows,
    d_qkv: &mut [f32],
    d_book: &mut [f32],
) {
    let m = &shape.m;
    let Some(arms) = shape.arms() else { return };
    let (keys, channels, slots, dim) = (m.k_width(), m.channels(), m.slots, m.k_dim);
    let n = m.v_heads * slots;
    if arms.delta && !arms.outer {
        // write = share beta, keep = decay (1 - write).
        for (i, beta) in f.beta.iter().enumerate() {
            for s in i * slots..(i + 1) * slots {
                let kept = if arms.decay { f.decay[s] } else { 1.0 };
                let d_write = d.k[s] - d.w[s] * kept;
                d.beta[i] += d_write * f.shares[s];
                d.w[s] *= 1.0 - f.shares[s] * beta;
                d.k[s] = d_write * beta;
            }
        }
    }
    let quant = shape.quant();
    for t in 0..shape.seq {
        let row = &f.qkv[t * channels..][..channels];
        let out = &mut d_qkv[t * channels..][..channels];
        let (k, v) = (&row[keys..2 * keys], &row[2 * keys..]);
        let db = &d.v[t * m.v_width()..][..m.v_width()];
        for i in 0..v.len() {
            if !arms.outer {
                out[keys + i] += shape.straight.of(k[i], db[i] * quant.of(v[i]));
            }
            let d = db[i] * if arms.outer { 1.0 } else { sign(k[i]) };
            out[2 * keys + i] += match quant {
                Quant::Float => d,
                Quant::Sign => shape.straight.of(v[i], d),
                Quant::Steps(most) => Straight::Masked.of(v[i], d) * f32::from(most),
            };
        }
        if arms.address == Address::Hash {
            continue;
        }
        let reads_at = if arms.read_by == ReadBy::Key { keys } else { 0 };
        for (d_shares, shares, at) in [(&d.q, &f.reads, reads_at), (&d.k, &f.shares, keys)] {
            for h in 0..m.v_heads {
                let x = &row[at + h * dim..][..dim];
                let rows = &book[h * slots * dim..][..slots * dim];
                let shares = &shares[t * n + h * slots..][..slots];
                let d_shares = &d_shares[t * n + h * slots..][..slots];
                let d_scores = softmax_backward(shares, d_shares, x, rows, arms.top);
                for (s, d) in d_scores.iter().enumerate().filter(|(_, d)| **d != 0.0) {
                    add(&mut out[at + h * dim..][..dim], &rows[s * dim..][..dim], *d);
                    if arms.address == Address::Router {
                        add(&mut d_book[(h * slots + s) * dim..][..dim], x, *d);
                    }
                }
            }
        }
    }
}

/// Of scores whose best `top` share by a softmax. Where one takes all, the gradient is that of the softmax over all: hard
/// forwards, soft backwards.
fn softmax_backward(shares: &[f32], d: &[f32], x: &[f32], rows: &[f32], top: usize) -> Vec<f32> {
    let soft;
    let p = if top > 1 {
        shares
    } else {
        let mut scores: Vec<f32> = rows.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for score in &mut scores {
            *score = rin_kernels::math::exp(*score - most);
        }
        let total: f32 = scores.iter().sum();
        for score in &mut scores {
            *score /= total;
        }
        soft = scores;
        &soft
    };
    let mean: f32 = p.iter().zip(d).map(|(p, d)| p * d).sum();
    p.iter().zip(d).map(|(p, d)| p * (d - mean)).collect()
}
