//! Causal grouped-query attention with rotary positions, over whole training sequences.
//!
//! Where its bits are wanted, the forward pass is the runtime's: keys and values go into pages of 64 positions in f32,
//! and the online softmax visits the pages in order. Else it is the quicker one of [`super::attention_head`], where the
//! backward pass is too.

use super::attention_head::{Heads, Scratch};
use super::{host, tensor, values};
use crate::kernels::Kernels;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_engine::arch::rope;
use rin_kernels::ops::attention::{KvType, PAGE, RowState};
use rin_model::{Config, Pairing};
use std::sync::Arc;

/// The sizes of an attention and its rotation angles.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub(crate) seq: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Positions that a token sees, its own among them.
    pub(crate) window: usize,
    pub(crate) interleaved: bool,
    /// Rotating pairs of a head.
    pub(crate) pairs: usize,
    /// `(seq, pairs)`.
    pub(crate) cos: Arc<[f32]>,
    pub(crate) sin: Arc<[f32]>,
    /// The sines of the reverse rotation.
    pub(crate) minus_sin: Arc<[f32]>,
}

impl AttentionShape {
    /// For sequences of `seq` tokens, at positions from 0.
    pub fn new(config: &Config, seq: usize, kernels: &Kernels) -> Self {
        let pairs = config.rope.dims / 2;
        let mut frequencies = vec![0.0; pairs];
        let factor = rope::frequencies(&config.rope, None, &mut frequencies);
        let (mut cos, mut sin) = (vec![0.0; seq * pairs], vec![0.0; seq * pairs]);
        let rows = cos.chunks_exact_mut(pairs.max(1)).zip(sin.chunks_exact_mut(pairs.max(1)));
        for (position, (cos, sin)) in rows.enumerate() {
            kernels.rope_table.run(cos, sin, &frequencies, position as f32, factor);
        }
        Self {
            seq,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            window: config.window.unwrap_or(usize::MAX),
            interleaved: config.rope.pairing == Pairing::Interleaved,
            pairs,
            minus_sin: sin.iter().map(|s| -s).collect(),
            cos: cos.into(),
            sin: sin.into(),
        }
    }

    /// That of the values among themselves: as many heads as there are of values, nothing rotated.
    pub(crate) fn of_values(&self) -> Self {
        let still = |x: f32| vec![x; self.cos.len()].into();
        Self { heads: self.kv_heads, cos: still(1.0), sin: still(0.0), minus_sin: still(0.0), ..self.clone() }
    }

    /// The first position that token `t` sees.
    pub(crate) fn first(&self, t: usize) -> usize {
        (t + 1).saturating_sub(self.window)
    }

    /// Query heads per key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of all queries, and of the output.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of queries, keys and values together.
    pub(crate) fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// First column of key head `head`, and of its values.
    pub(crate) fn kv_columns(&self, head: usize) -> (usize, usize) {
        let k = self.q_width() + head * self.head_dim;
        (k, k + self.kv_heads * self.head_dim)
    }

    /// Rotates the heads in `x` to position `t`.
    pub(crate) fn rotate(&self, kernels: &Kernels, t: usize, x: &mut [f32]) {
        let range = t * self.pairs..(t + 1) * self.pairs;
        kernels.rope.run(x, &self.cos[range.clone()], &self.sin[range], self.head_dim, self.interleaved);
    }

    /// Rotates the heads in `x` back from position `t`.
    pub(crate) fn rotate_back(&self, kernels: &Kernels, t: usize, x: &mut [f32]) {
        let range = t * self.pairs..(t + 1) * self.pairs;
        kernels.rope.run(x, &self.cos[range.clone()], &self.minus_sin[range], self.head_dim, self.interleaved);
    }
}

/// Attention of each token to itself and the tokens before it in its sequence.
///
/// `qkv` is `(batch * seq, (heads + 2 kv_heads) * head_dim)`: queries, keys and values before rotation. The result is
/// `(batch * seq, heads * head_dim)`.
///
/// `exact`: with the runtime's bits.
///
/// # Errors
/// When the shape does not fit.
pub fn attention(qkv: &Tensor, shape: &AttentionShape, exact: bool, kernels: Kernels) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    if width != shape.width() || rows % shape.seq.max(1) != 0 {
        return Err(Error::Msg(format!("attention over {rows} x {width} in sequences of {}", shape.seq)));
    }
    qkv.apply_op1(AttentionOp { shape: shape.clone(), exact, kernels })
}

struct AttentionOp {
    shape: AttentionShape,
    exact: bool,
    kernels: Kernels,
}

/// 64 bytes where pages begin.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// What the forward pass of one sequence writes on its way.
struct Pages {
    /// Keys and values of one key head, `(pages, K page | V page)`.
    lines: Vec<Line>,
    k_bytes: usize,
    page_bytes: usize,
    q: Vec<f32>,
    out: Vec<f32>,
    key: Vec<f32>,
    state: Vec<RowState>,
    valid: Vec<(u32, u32)>,
}

impl Pages {
    fn new(s: &AttentionShape) -> Self {
        let k_bytes = KvType::F32.k_page_bytes(s.head_dim);
        let page_bytes = k_bytes + KvType::F32.v_page_bytes(s.head_dim);
        let rows = s.seq * s.group();
        Self {
            lines: vec![Line([0.0; 16]); s.seq.div_ceil(PAGE) * page_bytes / size_of::<Line>()],
            k_bytes,
            page_bytes,
            q: vec![0.0; rows * s.head_dim],
            out: vec![0.0; rows * s.head_dim],
            key: vec![0.0; s.head_dim],
            state: vec![RowState::EMPTY; rows],
            valid: vec![(0, 0); rows],
        }
    }
}

impl AttentionOp {
    /// One sequence: `qkv` `(seq, width)`, `out` `(seq, heads * head_dim)`.
    fn forward(&self, qkv: &[f32], out: &mut [f32], pages: &mut Pages) {
        let s = &self.shape;
        let (hd, columns) = (s.head_dim, s.group() * s.head_dim);
        for head in 0..s.kv_heads {
            self.fill(qkv, head, pages);
            self.attend(pages);
            let rows = out.chunks_exact_mut(s.q_width()).zip(pages.out.chunks_exact(columns));
            for (out, from) in rows {
                out[head * columns..][..columns].copy_from_slice(from);
            }
        }
        debug_assert_eq!(out.len(), s.seq * s.heads * hd);
    }

    /// Rotates the queries of a group, and stores its keys and values in pages.
    fn fill(&self, qkv: &[f32], head: usize, pages: &mut Pages) {
        let s = &self.shape;
        let (hd, columns) = (s.head_dim, s.group() * s.head_dim);
        let (k_at, v_at) = s.kv_columns(head);
        let store: &mut [u8] = bytemuck::cast_slice_mut(&mut pages.lines);
        for (t, row) in qkv.chunks_exact(s.width()).enumerate() {
            let q = &mut pages.q[t * columns..][..columns];
            q.copy_from_slice(&row[head * columns..][..columns]);
            s.rotate(&self.kernels, t, q);
            pages.key.copy_from_slice(&row[k_at..][..hd]);
            s.rotate(&self.kernels, t, &mut pages.key);
            let page = &mut store[t / PAGE * pages.page_bytes..][..pages.page_bytes];
            let (k_page, v_page) = page.split_at_mut(pages.k_bytes);
            self.kernels.attention.store.run(k_page, v_page, t % PAGE, &pages.key, &row[v_at..][..hd]);
        }
    }

    /// All rows of a group over all pages.
    fn attend(&self, pages: &mut Pages) {
        let s = &self.shape;
        let (hd, group) = (s.head_dim, s.group());
        let scale = 1.0 / (hd as f32).sqrt();
        let store: &[u8] = bytemuck::cast_slice(&pages.lines);
        pages.state.fill(RowState::EMPTY);
        for (p, page) in store.chunks_exact(pages.page_bytes).enumerate() {
            let (k_page, v_page) = page.split_at(pages.k_bytes);
            let start = p * PAGE;
            for (t, valid) in pages.valid.chunks_exact_mut(group).enumerate().skip(start) {
                #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
                valid.fill((s.first(t).saturating_sub(start).min(PAGE) as u32, (t + 1 - start).min(PAGE) as u32));
            }
            // Rows beyond do not see the page.
            let end = (start + PAGE - 1).saturating_add(s.window).min(s.seq);
            let rows = start * group..end * group;
            let numbers = rows.start * hd..rows.end * hd;
            self.kernels.attention.page.run(
                &mut pages.out[numbers.clone()],
                &mut pages.state[rows.clone()],
                &pages.q[numbers],
                k_page,
                v_page,
                &[],
                &pages.valid[rows],
                scale,
            );
        }
        self.kernels.attention.finish.run(&mut pages.out, &pages.state, hd);
    }
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (qkv, s) = (values(qkv, layout)?, &self.shape);
        let rows = qkv.len() / s.width();
        let mut out = vec![0.0; rows * s.q_width()];
        let sequences = out.par_chunks_mut(s.seq * s.q_width()).zip(qkv.par_chunks(s.seq * s.width()));
        if self.exact {
            sequences.for_each_init(|| Pages::new(s), |pages, (out, qkv)| self.forward(qkv, out, pages));
        } else {
            let heads = Heads { shape: s, kernels: &self.kernels };
            sequences.for_each_init(|| Scratch::new(s), |scratch, (out, qkv)| heads.forward(qkv, out, scratch));
        }
        Ok((CpuStorage::F32(out), Shape::from((rows, s.q_width()))))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x, out, dy, s) = (host(qkv)?, host(out)?, host(&grad)?, &self.shape);
        let (x, out, dy) = (&*x, &*out, &*dy);
        let mut dx = vec![0.0; x.len()];
        let (q_len, len) = (s.seq * s.q_width(), s.seq * s.width());
        let heads = Heads { shape: s, kernels: &self.kernels };
        dx.par_chunks_mut(len)
            .zip(x.par_chunks(len))
            .zip(out.par_chunks(q_len).zip(dy.par_chunks(q_len)))
            .for_each_init(|| Scratch::new(s), |scratch, ((dx, x), (out, dy))| heads.backward(x, out, dy, dx, scratch));
        Ok(Some(tensor(dx, qkv)?))
    }
}
