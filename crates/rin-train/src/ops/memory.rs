//! A memory of a fixed size over whole training sequences: convolution, keys, decays, recurrence, norm and gate in one
//! operation, whose forward pass is the runtime's kernels.
//!
//! A row of the input holds what a token projects: queries, keys, values, the gate, beta, decays. The other input holds the
//! layer's numbers one after the other: convolution, biases of decays, norm, codebook. The backward pass computes a
//! sequence's forward pass again, keeps every state of its recurrence, and goes back token by token.

use super::memory_gradient::{Gradient, backward};
use super::{host, tensor, values};
use crate::kernels::Kernels;
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_kernels::ops::memory::{
    Bind, CausalConv, Correction, Decay, DecayKind, Decays, DeltaShares, Gating, HeadNorm, Quant, Read, Recur, Route,
    Rows, Scale, Tokens, Unbind, UnitNorm,
};
use rin_kernels::ops::softmax::Softmax;
use rin_kernels::{Cpu, MatMut};
use rin_model::{Address, Bhrr, Memory, MemoryKind, ReadBy, SlotValues};
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
    decays: Decays,
    delta_shares: DeltaShares,
    head_norm: HeadNorm,
    route: Route,
    bind: Bind,
    unbind: Unbind,
    softmax: Softmax,
    sigmoid: rin_kernels::ops::activation::Activate,
}

impl MemoryKernels {
    pub(crate) fn select(cpu: Cpu) -> Self {
        let cpu = &cpu;
        Self {
            recur: Recur::select(cpu),
            conv: CausalConv::select(cpu),
            unit_norm: UnitNorm::select(cpu),
            scale: Scale::select(cpu),
            decays: Decays::select(cpu),
            delta_shares: DeltaShares::select(cpu),
            head_norm: HeadNorm::select(cpu),
            route: Route::select(cpu),
            bind: Bind::select(cpu),
            unbind: Unbind::select(cpu),
            softmax: Softmax::select(cpu),
            sigmoid: rin_kernels::ops::activation::Activate::select(cpu),
        }
    }
}

/// The sizes of a memory and where its numbers lie.
#[derive(Clone, Debug)]
pub struct MemoryShape {
    pub(super) m: Memory,
    /// Tokens of a sequence.
    pub(super) seq: usize,
    pub(super) norm_eps: f32,
}

impl MemoryShape {
    /// For sequences of `seq` tokens.
    pub fn new(memory: &Memory, seq: usize, norm_eps: f32) -> Self {
        Self { m: memory.clone(), seq, norm_eps }
    }

    /// Whether this kind of memory can be trained.
    pub fn is_trained(kind: MemoryKind) -> bool {
        use MemoryKind::{Bhrr, Delta, GatedDelta, Gla, Gsa, Linear, Retnet};
        matches!(kind, Linear | Retnet | Gla | Delta | GatedDelta | Gsa | Bhrr)
    }

    pub(super) fn arms(&self) -> Option<&Bhrr> {
        self.m.bhrr.as_ref()
    }

    /// Whether a slot holds a matrix of keys by values.
    pub(super) fn is_outer(&self) -> bool {
        self.arms().is_some_and(|arms| arms.outer)
    }

    fn gate(&self) -> usize {
        if self.m.output_gate { self.m.v_width() } else { 0 }
    }

    pub(super) fn beta_width(&self) -> usize {
        if self.m.has_beta() { self.m.v_heads } else { 0 }
    }

    /// Columns of the gate in an input row.
    pub(super) fn gate_columns(&self) -> Range<usize> {
        self.m.channels()..self.m.channels() + self.gate()
    }

    pub(super) fn beta_columns(&self) -> Range<usize> {
        let first = self.gate_columns().end;
        first..first + self.beta_width()
    }

    pub(super) fn decay_columns(&self) -> Range<usize> {
        let first = self.beta_columns().end;
        first..first + self.m.decay_width()
    }

    /// Width of an input row.
    pub fn width(&self) -> usize {
        self.decay_columns().end
    }

    /// Places of the layer's numbers: convolution, biases of decays, rates, norm, codebook.
    pub(super) fn places(&self) -> [Range<usize>; 5] {
        let m = &self.m;
        let rate = if m.kind == MemoryKind::GatedDelta { m.v_heads } else { 0 };
        let norm = if m.output_norm { m.v_dim } else { 0 };
        let has_book = self.arms().is_some_and(|arms| arms.address != Address::Hash);
        let book = if has_book { m.k_heads * m.slots * m.k_dim } else { 0 };
        let mut first = 0;
        [m.channels() * m.conv, m.decay_width(), rate, norm, book].map(|n| {
            let range = first..first + n;
            first = range.end;
            range
        })
    }

    /// How many numbers the layer has.
    pub fn numbers(&self) -> usize {
        self.places()[4].end
    }

    /// Rows of a head's memory.
    pub(super) fn rows(&self) -> usize {
        self.m.state_rows()
    }

    /// Whether slots are read by a softmax over a memory of keys.
    pub(super) fn is_gsa(&self) -> bool {
        self.m.kind == MemoryKind::Gsa
    }

    pub(super) fn quant(&self) -> Quant {
        match self.arms().map(|arms| arms.values) {
            Some(SlotValues::Sign) => Quant::Sign,
            Some(SlotValues::Bits4) => Quant::Steps(7),
            Some(SlotValues::Bits8) => Quant::Steps(127),
            Some(SlotValues::Float) | None => Quant::Float,
        }
    }

    pub(super) fn read(&self) -> Read {
        if self.arms().is_some() && !self.corrects() { Read::Before } else { Read::After }
    }

    /// The constant share that head `head` keeps, where there is one.
    pub(super) fn constant(&self, head: usize) -> Option<f32> {
        let halvings = u32::try_from(head).unwrap_or(100).min(100) + 5;
        (self.m.kind == MemoryKind::Retnet).then(|| 1.0 - f32::from_bits((127 - halvings) << 23))
    }

    /// Whether a write takes back what the memory holds at its key.
    pub(super) fn corrects(&self) -> bool {
        self.has_unit_keys() || self.arms().is_some_and(|arms| arms.outer && arms.delta)
    }

    /// Whether keys and queries have one length, beside those of matrices in slots.
    pub(super) fn has_unit_keys(&self) -> bool {
        matches!(self.m.kind, MemoryKind::Delta | MemoryKind::GatedDelta)
    }

    pub(super) fn k_head(&self, head: usize) -> usize {
        head / (self.m.v_heads / self.m.k_heads)
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
    /// What is left, as projected: `(tokens, decay width)`.
    pub(super) decay: Vec<f32>,
    /// What is left of each slot, with delta writes.
    pub(super) keep: Vec<f32>,
    /// What was read from the memory.
    pub(super) read: Vec<f32>,
    /// The same, unbound.
    pub(super) unbound: Vec<f32>,
    /// The result.
    pub(super) out: Vec<f32>,
}

impl Forward {
    /// The recurrence's shares by row, where there are any.
    pub(super) fn row_shares(&self, shape: &MemoryShape) -> Option<&[f32]> {
        match (&self.keep[..], shape.m.kind) {
            (keep @ [_, ..], _) => Some(keep),
            (_, MemoryKind::Gla | MemoryKind::Gsa) => Some(&self.decay),
            _ => None,
        }
    }
}

/// The columns `range` of every row.
fn columns(x: &[f32], width: usize, range: Range<usize>) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| &row[range.clone()]).copied().collect()
}

/// Runs one sequence: `x` is `(seq, width)`, `p` the layer's numbers.
pub(super) fn forward(shape: &MemoryShape, kernels: &MemoryKernels, x: &[f32], p: &[f32]) -> Forward {
    let m = &shape.m;
    let (keys, values, channels, width) = (m.k_width(), m.v_width(), m.channels(), shape.width());
    let [conv, bias, rate, norm, book] = shape.places().map(|place| &p[place]);
    let mut f = Forward { qkv: columns(x, width, 0..channels), ..Forward::default() };
    if m.conv > 0 {
        let zeros = vec![0.0; channels];
        let mut before = vec![0.0; f.qkv.len()];
        let mut after = vec![0.0; f.qkv.len()];
        for (t, (before, after)) in before.chunks_exact_mut(channels).zip(after.chunks_exact_mut(channels)).enumerate()
        {
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
    f.q = columns(&f.qkv, channels, 0..keys);
    f.k = columns(&f.qkv, channels, keys..2 * keys);
    f.v = columns(&f.qkv, channels, 2 * keys..channels);
    f.beta = columns(x, width, shape.beta_columns());
    kernels.sigmoid.run(&mut f.beta, rin_kernels::ops::activation::Function::Sigmoid);
    f.decay = columns(x, width, shape.decay_columns());
    // What a slot of `gsa` takes of a token: what its decay leaves free.
    let mut written = vec![0.0; if shape.is_gsa() { f.decay.len() } else { 0 }];
    if m.decay_width() > 0 {
        let kind = if rate.is_empty() { DecayKind::SixteenthSigmoid } else { DecayKind::Step };
        let n = m.decay_width();
        for (t, row) in f.decay.chunks_exact_mut(n).enumerate() {
            kernels.decays.run(row, written.get_mut(t * n..(t + 1) * n).unwrap_or_default(), rate, bias, kind);
        }
    }
    let scale = 1.0 / (m.k_dim as f32).sqrt();
    if let Some(arms) = shape.arms().cloned() {
        slots(shape, kernels, &arms, book, &mut f);
    } else if shape.has_unit_keys() {
        kernels.unit_norm.run(&mut f.q, m.k_dim, UNIT_EPS, scale);
        kernels.unit_norm.run(&mut f.k, m.k_dim, UNIT_EPS, 1.0);
    } else {
        kernels.scale.run(&mut f.q, scale);
    }
    if shape.is_gsa() {
        f.q = slot_shares(shape, kernels, &f, &written);
        f.k = written;
    }
    let mut read = vec![0.0; shape.seq * values];
    let mut whole = MatMut::new(&mut read, shape.seq, values);
    let mut state = vec![0.0; shape.rows() * m.v_dim];
    for head in 0..m.v_heads {
        state.fill(0.0);
        let (_, right) = whole.reborrow().split_cols(head * m.v_dim);
        let (mut out, _) = right.split_cols(m.v_dim);
        kernels.recur.run(&mut state, &mut out, tokens(shape, &f, head));
    }
    f.read = read;
    f.unbound.clone_from(&f.read);
    if shape.is_outer() {
        kernels.scale.run(&mut f.unbound, shape.quant().scale());
    } else if shape.arms().is_some() {
        let q = columns(&f.qkv, channels, 0..keys);
        for (row, q) in f.unbound.chunks_exact_mut(values).zip(q.chunks_exact(values)) {
            kernels.unbind.run(row, q, shape.quant().scale());
        }
    }
    f.out.clone_from(&f.unbound);
    if m.output_norm {
        let gating = if m.output_gate { Gating::SiluAfter } else { Gating::None };
        for (row, x) in f.out.chunks_exact_mut(values).zip(x.chunks_exact(width)) {
            kernels.head_norm.run(row, &x[shape.gate_columns()], norm, m.v_dim, shape.norm_eps, gating);
        }
    }
    f
}

/// What the recurrence of a head reads.
fn tokens<'a>(shape: &MemoryShape, f: &'a Forward, head: usize) -> Tokens<'a> {
    let m = &shape.m;
    let (rows, k_head) = (shape.rows(), shape.k_head(head));
    let of = |data: &'a [f32], first: usize, stride: usize| Rows { data: &data[first..], stride };
    let stride = m.k_heads * rows;
    let decay = match m.kind {
        _ if !f.keep.is_empty() => Decay::ByRow(of(&f.keep, head * rows, m.v_heads * rows)),
        MemoryKind::Gla | MemoryKind::Gsa => Decay::ByRow(of(&f.decay, head * rows, stride)),
        MemoryKind::GatedDelta => Decay::Token(of(&f.decay, head, m.v_heads)),
        _ => shape.constant(head).map_or(Decay::None, Decay::Constant),
    };
    let correction =
        if shape.corrects() { Correction::Delta { beta: of(&f.beta, head, m.v_heads) } } else { Correction::None };
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
        let dx = gradients.into_iter().flat_map(|gradient| gradient.x).collect();
        Ok((Some(tensor(dx, x)?), Some(tensor(dp, p)?)))
    }
}
