//! A memory of a fixed size over whole training sequences: convolution, keys, decays, recurrence, norm and gate in one
//! operation, whose forward pass is the runtime's kernels.
//!
//! A row of the input holds what a token projects: queries, keys, values, the gate, beta, decays, rates of learning. The
//! other input holds the layer's numbers one after the other: see [`Places`]. The backward pass computes a sequence's
//! forward pass again, keeps every state of its recurrence, and goes back token by token.

use super::memory_gradient::{Gradient, backward};
use super::memory_shape::{MemoryShape, Places};
use super::{host, tensor, values};
use crate::kernels::Kernels;
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_kernels::ops::activation::{Activate, Function};
use rin_kernels::ops::memory::{
    AddScaled, Bind, CausalConv, Correction, Decay, DecayKind, Decays, DeltaShares, Gating, HeadNorm, Read, Recur,
    Route, Rows, RwkvKeys, Scale, Tokens, Unbind, UnitNorm,
};
use rin_kernels::ops::softmax::Softmax;
use rin_kernels::{Cpu, MatMut};
use rin_model::{Bhrr, MemoryKind, ReadBy};
use std::ops::Range;

/// Added to the sum of squares of keys and queries, as the runtime does.
pub(super) const UNIT_EPS: f32 = 1e-6;

/// The runtime's operations of memories.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryKernels {
    recur: Recur,
    conv: CausalConv,
    unit_norm: UnitNorm,
    scale: Scale,
    add_scaled: AddScaled,
    decays: Decays,
    delta_shares: DeltaShares,
    head_norm: HeadNorm,
    route: Route,
    bind: Bind,
    unbind: Unbind,
    rwkv_keys: RwkvKeys,
    softmax: Softmax,
    sigmoid: Activate,
}

impl MemoryKernels {
    pub(crate) fn select(cpu: Cpu) -> Self {
        let cpu = &cpu;
        Self {
            recur: Recur::select(cpu),
            conv: CausalConv::select(cpu),
            unit_norm: UnitNorm::select(cpu),
            scale: Scale::select(cpu),
            add_scaled: AddScaled::select(cpu),
            decays: Decays::select(cpu),
            delta_shares: DeltaShares::select(cpu),
            head_norm: HeadNorm::select(cpu),
            route: Route::select(cpu),
            bind: Bind::select(cpu),
            unbind: Unbind::select(cpu),
            rwkv_keys: RwkvKeys::select(cpu),
            softmax: Softmax::select(cpu),
            sigmoid: Activate::select(cpu),
        }
    }
}

/// What a sequence's forward pass gives on its way; all row-major over tokens.
#[derive(Debug, Default)]
pub(super) struct Forward {
    /// Queries, keys and values before the convolution's activation; empty without a convolution.
    pub(super) before: Vec<f32>,
    /// The same as they are projected or convolved.
    pub(super) qkv: Vec<f32>,
    /// What a head reads by, `(tokens, key heads × rows)`.
    pub(super) q: Vec<f32>,
    /// What a head writes by.
    pub(super) k: Vec<f32>,
    /// The shares before a delta write, where those are slots.
    pub(super) shares: Vec<f32>,
    /// The shares that are read.
    pub(super) reads: Vec<f32>,
    /// Queries and keys of one length, where slots hold matrices.
    pub(super) unit: [Vec<f32>; 2],
    /// What is written.
    pub(super) v: Vec<f32>,
    pub(super) beta: Vec<f32>,
    /// Steps that values are written by, `(tokens, heads)`.
    pub(super) steps: Vec<f32>,
    /// Rates of learning, `(tokens, keys)`.
    pub(super) learn: Vec<f32>,
    /// What a memory is corrected with: `b` times what it holds at `a`, both `(tokens, keys)`.
    pub(super) correct: [Vec<f32>; 2],
    /// What is left, as projected: `(tokens, decay width)`.
    pub(super) decay: Vec<f32>,
    /// What is left of each slot, with delta writes.
    pub(super) keep: Vec<f32>,
    /// What was read from the memory.
    pub(super) read: Vec<f32>,
    /// The same, unbound, or with the values that go past the memory.
    pub(super) unbound: Vec<f32>,
    /// The result.
    pub(super) out: Vec<f32>,
}

impl Forward {
    /// The recurrence's shares by row, where there are any.
    pub(super) fn row_shares(&self, shape: &MemoryShape) -> Option<&[f32]> {
        match (&self.keep[..], shape.m.kind) {
            (keep @ [_, ..], _) => Some(keep),
            (_, MemoryKind::Gla | MemoryKind::Gsa | MemoryKind::Rwkv7) => Some(&self.decay),
            _ => None,
        }
    }
}

/// The columns `range` of every row.
fn columns(x: &[f32], width: usize, range: Range<usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / width * range.len());
    for row in x.chunks_exact(width) {
        out.extend_from_slice(&row[range.clone()]);
    }
    out
}

/// Runs one sequence: `x` is `(seq, width)`, `p` the layer's numbers.
pub(super) fn forward(shape: &MemoryShape, kernels: &MemoryKernels, x: &[f32], p: &[f32]) -> Forward {
    let (m, places) = (&shape.m, shape.places());
    let (keys, values, channels, width) = (m.k_width(), m.v_width(), m.channels(), shape.width());
    let (bias, rate, norm) = (&p[places.bias.clone()], &p[places.rate.clone()], &p[places.norm.clone()]);
    let mut f = Forward { qkv: columns(x, width, 0..channels), ..Forward::default() };
    if m.conv > 0 {
        convolve(shape, kernels, &p[places.conv.clone()], &mut f);
    }
    f.q = columns(&f.qkv, channels, 0..keys);
    f.k = columns(&f.qkv, channels, keys..2 * keys);
    f.v = columns(&f.qkv, channels, 2 * keys..channels);
    f.beta = columns(x, width, shape.beta_columns());
    kernels.sigmoid.run(&mut f.beta, Function::Sigmoid);
    f.decay = columns(x, width, shape.decay_columns());
    // Steps of `mamba2`; what a slot of `gsa` takes of a token, which is what its decay leaves free.
    let mut written = vec![0.0; if shape.is_gsa() || shape.has_steps() { f.decay.len() } else { 0 }];
    if m.decay_width() > 0 {
        let kind = match m.kind {
            MemoryKind::GatedDelta | MemoryKind::Mamba2 => DecayKind::Step,
            MemoryKind::Rwkv7 => DecayKind::Rwkv7,
            _ => DecayKind::SixteenthSigmoid,
        };
        let n = m.decay_width();
        for (t, row) in f.decay.chunks_exact_mut(n).enumerate() {
            kernels.decays.run(row, written.get_mut(t * n..(t + 1) * n).unwrap_or_default(), rate, bias, kind);
        }
    }
    if let Some(arms) = shape.arms().cloned() {
        slots(shape, kernels, &arms, &p[places.book.clone()], &mut f);
    } else if shape.has_unit_keys() {
        kernels.unit_norm.run(&mut f.q, m.k_dim, UNIT_EPS, shape.query_scale());
        kernels.unit_norm.run(&mut f.k, m.k_dim, UNIT_EPS, 1.0);
    } else if shape.has_steps() {
        for (v, step) in f.v.chunks_exact_mut(m.v_dim).zip(&written) {
            kernels.scale.run(v, *step);
        }
        f.steps = std::mem::take(&mut written);
    } else if shape.is_rwkv7() {
        rwkv7(shape, kernels, &places, x, p, &mut f);
    } else {
        kernels.scale.run(&mut f.q, shape.query_scale());
    }
    if shape.is_gsa() {
        f.q = slot_shares(shape, kernels, &f, &written);
        f.k = written;
    }
    recur(shape, kernels, &mut f);
    unbind(shape, kernels, &p[places.skip], &mut f);
    f.out.clone_from(&f.unbound);
    if m.output_norm {
        let gating = if m.output_gate { Gating::SiluAfter } else { Gating::None };
        for (row, x) in f.out.chunks_exact_mut(values).zip(x.chunks_exact(width)) {
            kernels.head_norm.run(row, &x[shape.gate_columns()], norm, m.v_dim, shape.norm_eps, gating);
        }
    }
    f
}

/// Queries, keys and values over the last tokens.
fn convolve(shape: &MemoryShape, kernels: &MemoryKernels, conv: &[f32], f: &mut Forward) {
    let (m, channels) = (&shape.m, shape.m.channels());
    let zeros = vec![0.0; channels];
    let (mut before, mut after) = (vec![0.0; f.qkv.len()], vec![0.0; f.qkv.len()]);
    let rows = before.chunks_exact_mut(channels).zip(after.chunks_exact_mut(channels));
    for (t, (before, after)) in rows.enumerate() {
        let tap = |j: usize| {
            let back = m.conv - 1 - j;
            if t < back { &zeros[..] } else { &f.qkv[(t - back) * channels..][..channels] }
        };
        let taps: Vec<&[f32]> = (0..m.conv).map(tap).collect();
        kernels.conv.run(before, &taps, conv, &[], false);
        kernels.conv.run(after, &taps, conv, &[], true);
    }
    (f.before, f.qkv) = (before, after);
}

/// The recurrence of every head.
fn recur(shape: &MemoryShape, kernels: &MemoryKernels, f: &mut Forward) {
    let (m, values) = (&shape.m, shape.m.v_width());
    let mut read = vec![0.0; shape.seq * values];
    let mut whole = MatMut::new(&mut read, shape.seq, values);
    let mut state = vec![0.0; shape.rows() * m.v_dim];
    for head in 0..m.v_heads {
        state.fill(0.0);
        let (_, right) = whole.reborrow().split_cols(head * m.v_dim);
        let (mut out, _) = right.split_cols(m.v_dim);
        kernels.recur.run(&mut state, &mut out, tokens(shape, f, head));
    }
    f.read = read;
}

/// What was read, unbound from queries, or with values that go past the memory by `skip`.
fn unbind(shape: &MemoryShape, kernels: &MemoryKernels, skip: &[f32], f: &mut Forward) {
    let m = &shape.m;
    let (keys, values, channels) = (m.k_width(), m.v_width(), m.channels());
    f.unbound.clone_from(&f.read);
    if shape.has_steps() {
        for (out, qkv) in f.unbound.chunks_exact_mut(values).zip(f.qkv.chunks_exact(channels)) {
            let rows = out.chunks_exact_mut(m.v_dim).zip(qkv[2 * keys..].chunks_exact(m.v_dim));
            for ((out, v), share) in rows.zip(skip) {
                kernels.add_scaled.run(out, v, *share);
            }
        }
    } else if shape.is_outer() {
        kernels.scale.run(&mut f.unbound, shape.quant().scale());
    } else if shape.arms().is_some() {
        let q = columns(&f.qkv, channels, 0..keys);
        for (row, q) in f.unbound.chunks_exact_mut(values).zip(q.chunks_exact(values)) {
            kernels.unbind.run(row, q, shape.quant().scale());
        }
    }
}

/// Keys, and what RWKV-7's memory is corrected with.
fn rwkv7(shape: &MemoryShape, kernels: &MemoryKernels, places: &Places, x: &[f32], p: &[f32], f: &mut Forward) {
    let keys = shape.m.k_width();
    f.learn = columns(x, shape.width(), shape.learn_columns());
    for row in f.learn.chunks_exact_mut(keys) {
        for (x, bias) in row.iter_mut().zip(&p[places.learn.clone()]) {
            *x += bias;
        }
    }
    kernels.sigmoid.run(&mut f.learn, Function::Sigmoid);
    let (mut a, mut b) = (vec![0.0; f.k.len()], f.learn.clone());
    let rates = places.keys.clone().map(|place| &p[place]);
    let rows = f.k.chunks_exact_mut(keys).zip(b.chunks_exact_mut(keys)).zip(a.chunks_exact_mut(keys));
    for ((k, b), a) in rows {
        kernels.rwkv_keys.run(k, b, a, rates, shape.m.k_dim);
    }
    f.correct = [a, b];
}

/// What the recurrence of a head reads.
fn tokens<'a>(shape: &MemoryShape, f: &'a Forward, head: usize) -> Tokens<'a> {
    let m = &shape.m;
    let (rows, k_head) = (shape.rows(), shape.k_head(head));
    let of = |data: &'a [f32], first: usize, stride: usize| Rows { data: &data[first..], stride };
    let stride = m.k_heads * rows;
    let decay = match m.kind {
        _ if !f.keep.is_empty() => Decay::ByRow(of(&f.keep, head * rows, m.v_heads * rows)),
        MemoryKind::Gla | MemoryKind::Gsa | MemoryKind::Rwkv7 => Decay::ByRow(of(&f.decay, head * rows, stride)),
        MemoryKind::GatedDelta | MemoryKind::Mamba2 => Decay::Token(of(&f.decay, head, m.v_heads)),
        _ => shape.constant(head).map_or(Decay::None, Decay::Constant),
    };
    let correction = if shape.corrects() {
        Correction::Delta { beta: of(&f.beta, head, m.v_heads) }
    } else if let ([a, b], true) = (&f.correct, shape.is_rwkv7()) {
        Correction::RankOne { a: of(a, head * rows, stride), b: of(b, head * rows, stride) }
    } else {
        Correction::None
    };
    Tokens {
        q: of(&f.q, k_head * rows, stride),
        k: of(&f.k, k_head * rows, stride),
        v: of(&f.v, head * m.v_dim, m.v_width()),
        decay,
        correction,
        read: shape.read(),
    }
}

/// The softmax of what a memory of keys by slots says of each query, `(tokens, heads × slots)`.
fn slot_shares(shape: &MemoryShape, kernels: &MemoryKernels, f: &Forward, written: &[f32]) -> Vec<f32> {
    let m = &shape.m;
    let (width, keys) = (m.decay_width(), m.k_width());
    let mut scores = vec![0.0; shape.seq * width];
    let mut whole = MatMut::new(&mut scores, shape.seq, width);
    let mut state = vec![0.0; m.k_dim * m.slots];
    for head in 0..m.v_heads {
        state.fill(0.0);
        let (_, right) = whole.reborrow().split_cols(head * m.slots);
        let (mut out, _) = right.split_cols(m.slots);
        let of_key = |data| Rows { data, stride: keys };
        let of_slot = |data| Rows { data, stride: width };
        let tokens = Tokens {
            q: of_key(&f.q[head * m.k_dim..]),
            k: of_key(&f.k[head * m.k_dim..]),
            v: of_slot(&written[head * m.slots..]),
            decay: Decay::ByColumn(of_slot(&f.decay[head * m.slots..])),
            correction: Correction::None,
            read: Read::After,
        };
        kernels.recur.run(&mut state, &mut out, tokens);
    }
    scores.chunks_exact_mut(m.slots).for_each(|scores| kernels.softmax.run(scores));
    scores
}

/// Keys and queries become shares of slots; values are rounded and bound.
fn slots(shape: &MemoryShape, kernels: &MemoryKernels, arms: &Bhrr, book: &[f32], f: &mut Forward) {
    let m = &shape.m;
    let (keys, n) = (m.k_width(), m.v_heads * m.slots);
    let route = |x: &[f32]| {
        let mut out = vec![0.0; shape.seq * n];
        for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(keys)) {
            kernels.route.run(out, x, book, m.slots, arms.top);
        }
        out
    };
    f.reads = route(if arms.read_by == ReadBy::Key { &f.k } else { &f.q });
    f.shares = route(&f.k);
    if arms.decay {
        f.keep = f.decay.clone();
    }
    if arms.outer {
        let quant = shape.quant();
        for v in &mut f.v {
            *v = quant.of(*v);
        }
        kernels.unit_norm.run(&mut f.q, m.k_dim, UNIT_EPS, 1.0 / (m.k_dim as f32).sqrt());
        kernels.unit_norm.run(&mut f.k, m.k_dim, UNIT_EPS, 1.0);
        f.unit = [std::mem::take(&mut f.q), std::mem::take(&mut f.k)];
        f.q = matrices(shape, kernels, &f.reads, &f.unit[0]);
        f.k = matrices(shape, kernels, &f.shares, &f.unit[1]);
        if arms.decay {
            f.keep = matrices(shape, kernels, &f.keep, &vec![1.0; f.unit[0].len()]);
        }
        return;
    }
    for (v, k) in f.v.chunks_exact_mut(keys).zip(f.k.chunks_exact(keys)) {
        kernels.bind.run(v, k, shape.quant());
    }
    f.q = f.reads.clone();
    f.k = f.shares.clone();
    if arms.delta {
        if f.keep.is_empty() {
            f.keep = vec![1.0; f.k.len()];
        }
        let rows = f.keep.chunks_exact_mut(m.slots).zip(f.k.chunks_exact_mut(m.slots));
        for ((keep, write), beta) in rows.zip(&f.beta) {
            kernels.delta_shares.run(keep, write, *beta);
        }
    }
}

/// Shares of slots, `(tokens, heads, slots)`, times `x`, `(tokens, heads, k_dim)`.
fn matrices(shape: &MemoryShape, kernels: &MemoryKernels, shares: &[f32], x: &[f32]) -> Vec<f32> {
    let (slots, dim) = (shape.m.slots, shape.m.k_dim);
    let mut out = vec![0.0; shares.len() * dim];
    let heads = out.chunks_exact_mut(slots * dim).zip(shares.chunks_exact(slots)).zip(x.chunks_exact(dim));
    for ((out, shares), x) in heads {
        for (out, share) in out.chunks_exact_mut(dim).zip(shares) {
            out.copy_from_slice(x);
            kernels.scale.run(out, *share);
        }
    }
    out
}

/// What a memory reads: `(tokens, values)` of `x`, `(tokens, width)`, with the layer's numbers `p`.
///
/// # Errors
/// When a shape does not fit.
pub fn memory(x: &Tensor, p: &Tensor, shape: &MemoryShape, kernels: Kernels) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if width != shape.width() || rows % shape.seq.max(1) != 0 || p.elem_count() != shape.numbers() {
        let numbers = p.elem_count();
        return Err(Error::Msg(format!("a memory over {rows} x {width} with {numbers} numbers, {shape:?}")));
    }
    x.apply_op2(p, MemoryOp { shape: shape.clone(), kernels })
}

struct MemoryOp {
    shape: MemoryShape,
    kernels: Kernels,
}

impl CustomOp2 for MemoryOp {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, p) = (values(s1, l1)?, values(s2, l2)?);
        let one = self.shape.seq * self.shape.width();
        let kernels = MemoryKernels::select(self.kernels.cpu);
        let parts: Vec<Vec<f32>> = x.par_chunks(one).map(|x| forward(&self.shape, &kernels, x, p).out).collect();
        let out = parts.concat();
        let rows = x.len() / self.shape.width();
        Ok((CpuStorage::F32(out), Shape::from((rows, self.shape.m.v_width()))))
    }

    fn bwd(&self, x: &Tensor, p: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (numbers, weights, dy) = (host(x)?, host(p)?, host(&dy)?);
        let (one, out) = (self.shape.seq * self.shape.width(), self.shape.seq * self.shape.m.v_width());
        let memory = MemoryKernels::select(self.kernels.cpu);
        let gradients: Vec<Gradient> = numbers
            .par_chunks(one)
            .zip(dy.par_chunks(out))
            .map(|(x, dy)| {
                let f = forward(&self.shape, &memory, x, &weights);
                backward(&self.shape, &self.kernels, &f, x, &weights, dy)
            })
            .collect();
        let mut dp = vec![0.0; weights.len()];
        // In the order of the sequences, so that the sum does not depend on the threads.
        for gradient in &gradients {
            for (sum, d) in dp.iter_mut().zip(&gradient.p) {
                *sum += d;
            }
        }
        let dx = gradients.iter().map(|gradient| &gradient.x[..]).collect::<Vec<_>>().concat();
        Ok((Some(tensor(dx, x)?), Some(tensor(dp, p)?)))
    }
}
