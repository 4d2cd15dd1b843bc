//! Attention over one sequence without pages: a forward pass for training in floats, which need not have the runtime's
//! bits, and the backward pass, by recomputation.
//!
//! With `P = softmax(scale * Q K^T)` and `O = P V`: `dV = P^T dO`, `dS = scale * P * (dO V^T - rowsum(dO * O))`,
//! `dQ = dS K`, `dK = dS^T Q` (as in Dao et al., 2022, "FlashAttention", appendix B.2).

use super::attention::AttentionShape;
use super::small_gemm::{COLS, Read, small_gemm};
use crate::kernels::{Kernels, Loop};
use rin_kernels::math::exp;

/// What one sequence takes on its way; widths are padded to whole tiles.
pub(super) struct Scratch {
    /// Padded head width.
    pub(super) hd: usize,
    /// Padded sequence length.
    pub(super) len: usize,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    v: Vec<f32>,
    k_t: Vec<f32>,
    v_t: Vec<f32>,
    dy: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    dv: Vec<f32>,
    /// `rowsum(dO * O)`.
    delta: Vec<f32>,
    pub(super) p: Vec<f32>,
    pub(super) ds: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(s: &AttentionShape) -> Self {
        let (hd, len) = (s.head_dim.next_multiple_of(COLS), s.seq.next_multiple_of(COLS));
        let rows = || vec![0.0; s.seq * hd];
        Self {
            hd,
            len,
            q: rows(),
            k: rows(),
            v: rows(),
            k_t: vec![0.0; hd * len],
            v_t: vec![0.0; hd * len],
            dy: rows(),
            dq: rows(),
            dk: rows(),
            dv: rows(),
            delta: vec![0.0; s.seq],
            p: vec![0.0; s.seq * len],
            ds: vec![0.0; s.seq * len],
        }
    }
}

/// The passes of one sequence.
pub(super) struct Heads<'a> {
    pub(super) shape: &'a AttentionShape,
    pub(super) kernels: &'a Kernels,
}

impl Heads<'_> {
    /// `out` from `qkv`.
    pub(super) fn forward(&self, qkv: &[f32], out: &mut [f32], w: &mut Scratch) {
        let s = self.shape;
        for head in 0..s.kv_heads {
            self.load_keys(qkv, head, w);
            for query in head * s.group()..(head + 1) * s.group() {
                self.load_query(qkv, query, w);
                self.kernels.dispatch(HeadForward { w, shape: s });
                for (out, y) in out.chunks_exact_mut(s.q_width()).zip(w.dq.chunks_exact(w.hd)) {
                    out[query * s.head_dim..][..s.head_dim].copy_from_slice(&y[..s.head_dim]);
                }
            }
        }
    }

    /// `qkv` and `out` of the forward pass and the gradient `dy` of `out` give the gradient `dx` of `qkv`.
    pub(super) fn backward(&self, qkv: &[f32], out: &[f32], dy: &[f32], dx: &mut [f32], w: &mut Scratch) {
        let s = self.shape;
        for head in 0..s.kv_heads {
            self.load_keys(qkv, head, w);
            for query in head * s.group()..(head + 1) * s.group() {
                self.load_query(qkv, query, w);
                self.load_gradient(out, dy, query, w);
                self.kernels.dispatch(HeadGradient { w, shape: s });
                for (t, row) in dx.chunks_exact_mut(s.width()).enumerate() {
                    let to = &mut row[query * s.head_dim..][..s.head_dim];
                    to.copy_from_slice(&w.dq[t * w.hd..][..s.head_dim]);
                    s.rotate_back(self.kernels, t, to);
                }
            }
            let (k_at, v_at) = s.kv_columns(head);
            for (t, row) in dx.chunks_exact_mut(s.width()).enumerate() {
                let to = &mut row[k_at..][..s.head_dim];
                to.copy_from_slice(&w.dk[t * w.hd..][..s.head_dim]);
                s.rotate_back(self.kernels, t, to);
                row[v_at..][..s.head_dim].copy_from_slice(&w.dv[t * w.hd..][..s.head_dim]);
            }
        }
    }

    pub(super) fn load_keys(&self, qkv: &[f32], head: usize, w: &mut Scratch) {
        let s = self.shape;
        let (k_at, v_at) = s.kv_columns(head);
        for (t, row) in qkv.chunks_exact(s.width()).enumerate() {
            let key = &mut w.k[t * w.hd..][..s.head_dim];
            key.copy_from_slice(&row[k_at..][..s.head_dim]);
            s.rotate(self.kernels, t, key);
            let value = &mut w.v[t * w.hd..][..s.head_dim];
            value.copy_from_slice(&row[v_at..][..s.head_dim]);
            for d in 0..s.head_dim {
                w.k_t[d * w.len + t] = key[d];
                w.v_t[d * w.len + t] = value[d];
            }
        }
        w.dk.fill(0.0);
        w.dv.fill(0.0);
    }

    pub(super) fn load_query(&self, qkv: &[f32], query: usize, w: &mut Scratch) {
        let s = self.shape;
        for (t, row) in qkv.chunks_exact(s.width()).enumerate() {
            let q = &mut w.q[t * w.hd..][..s.head_dim];
            q.copy_from_slice(&row[query * s.head_dim..][..s.head_dim]);
            s.rotate(self.kernels, t, q);
        }
    }

    fn load_gradient(&self, out: &[f32], dy: &[f32], query: usize, w: &mut Scratch) {
        let s = self.shape;
        let at = query * s.head_dim;
        for (t, (out, dy)) in out.chunks_exact(s.q_width()).zip(dy.chunks_exact(s.q_width())).enumerate() {
            let (out, dy) = (&out[at..][..s.head_dim], &dy[at..][..s.head_dim]);
            w.dy[t * w.hd..][..s.head_dim].copy_from_slice(dy);
            w.delta[t] = out.iter().zip(dy).map(|(out, dy)| out * dy).sum();
        }
    }
}

/// One query head: its output goes into `dq`.
struct HeadForward<'a> {
    w: &'a mut Scratch,
    shape: &'a AttentionShape,
}

impl Loop for HeadForward<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { w, shape } = self;
        let seq = shape.seq;
        weights_of_head(w, shape);
        let (hd, before) = (w.hd, |_: usize, end: usize| 0..end);
        small_gemm(seq, Read::rows(&w.p, w.len), &w.v, hd, &mut w.dq, hd, false, |_| hd, before);
    }
}

/// The softmax of the scores of one query head; 0 where a row does not see.
#[inline(always)]
pub(super) fn weights_of_head(w: &mut Scratch, shape: &AttentionShape) {
    let (seq, head_dim) = (shape.seq, shape.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let all_dims = |_: usize, _: usize| 0..head_dim;
    small_gemm(seq, Read::rows(&w.q, w.hd), &w.k_t, w.len, &mut w.p, w.len, false, |end| end, all_dims);
    for (i, p) in w.p.chunks_exact_mut(w.len).enumerate() {
        let first = shape.first(i);
        p[..first].fill(0.0);
        softmax(&mut p[first..=i], scale);
        p[i + 1..].fill(0.0);
    }
}

/// See [`gradient_of_head`].
struct HeadGradient<'a> {
    w: &'a mut Scratch,
    shape: &'a AttentionShape,
}

impl Loop for HeadGradient<'_> {
    #[inline(always)]
    fn run(self) {
        gradient_of_head(self.w, self.shape);
    }
}

/// One query head: `dq` is set, `dk` and `dv` are added to.
#[inline(always)]
fn gradient_of_head(w: &mut Scratch, shape: &AttentionShape) {
    let (seq, head_dim) = (shape.seq, shape.head_dim);
    let (hd, len) = (w.hd, w.len);
    let scale = 1.0 / (head_dim as f32).sqrt();
    // Row i takes columns up to i; column j is taken by the rows from j on.
    let up_to = |end: usize| end;
    let all_dims = |_: usize, _: usize| 0..head_dim;
    weights_of_head(w, shape);
    small_gemm(seq, Read::rows(&w.dy, hd), &w.v_t, len, &mut w.ds, len, false, up_to, all_dims);
    for i in 0..seq {
        let (p, ds) = (&w.p[i * len..][..len], &mut w.ds[i * len..][..len]);
        for (ds, p) in ds[..=i].iter_mut().zip(&p[..=i]) {
            *ds = (*ds - w.delta[i]) * p * scale;
        }
        ds[i + 1..].fill(0.0);
    }
    let width = |_: usize| hd;
    let before = |_: usize, end: usize| 0..end;
    let after = |start: usize, _: usize| start..seq;
    small_gemm(seq, Read::rows(&w.ds, len), &w.k, hd, &mut w.dq, hd, false, width, before);
    small_gemm(seq, Read::transposed(&w.ds, len), &w.q, hd, &mut w.dk, hd, true, width, after);
    small_gemm(seq, Read::transposed(&w.p, len), &w.dy, hd, &mut w.dv, hd, true, width, after);
}

/// The softmax of `scale * x`, in place.
#[inline(always)]
fn softmax(x: &mut [f32], scale: f32) {
    let mut largest = [f32::NEG_INFINITY; 8];
    for chunk in x.chunks(8) {
        for (largest, &x) in largest.iter_mut().zip(chunk) {
            *largest = if x > *largest { x } else { *largest };
        }
    }
    let max = largest.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut sums = [0.0; 8];
    for chunk in x.chunks_mut(8) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp((*x - max) * scale);
            *sum += *x;
        }
    }
    let factor = 1.0 / sums.iter().sum::<f32>();
    for x in x {
        *x *= factor;
    }
}
