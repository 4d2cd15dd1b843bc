//! The backward pass of a memory: from the gradient of what was read to those of what was projected.
//!
//! With `G` the gradient of a memory after a token, a read after the write gives `dq = S do` and `G += q do^T`; the write
//! gives `dk = G v` and `dv = G^T k`; a delta write `e = beta (v - u)`, `u = (w S)^T k`, gives `de = G^T k`,
//! `dbeta = de (v - u)`, `du = -beta de`, `dk = G e + (w S) du` and `G += k du^T`; a decay `dw = G S` and `G = w G`.
//! The memory of keys of `gsa` stands in [`slot_keys`].

use super::memory::{Forward, UNIT_EPS};
use super::memory_published::{rwkv7_backward, steps_backward};
use super::memory_shape::MemoryShape;
use super::memory_slots::{matrices_backward, slots_backward, unbind_backward};
use crate::kernels::{Kernels, Loop};
use rin_kernels::math::sigmoid;
use rin_kernels::ops::memory::Read;
use rin_model::MemoryKind;

/// Gradients of the inputs of a memory, for one sequence.
pub(super) struct Gradient {
    pub(super) x: Vec<f32>,
    pub(super) p: Vec<f32>,
}

/// `dy` is that of the result, `(seq, values)`.
pub(super) fn backward(
    shape: &MemoryShape,
    kernels: &Kernels,
    f: &Forward,
    x: &[f32],
    p: &[f32],
    dy: &[f32],
) -> Gradient {
    let m = &shape.m;
    let (channels, width) = (m.channels(), shape.width());
    let places = shape.places();
    let (norm_at, book_at) = (places.norm.clone(), places.book.clone());
    let mut g = Gradient { x: vec![0.0; x.len()], p: vec![0.0; p.len()] };
    let mut d_read = dy.to_vec();
    if m.output_norm {
        kernels.dispatch(Norms { shape, f, x, norm: &p[norm_at.clone()], d: &mut d_read, g: &mut g });
    }
    let mut d_qkv = vec![0.0; shape.seq * channels];
    if shape.is_outer() {
        let scale = shape.quant().scale();
        for d in &mut d_read {
            *d *= scale;
        }
    } else if shape.arms().is_some() {
        unbind_backward(shape, f, &mut d_read, &mut d_qkv);
    }

    let rows = shape.rows();
    let stride = m.k_heads * rows;
    let mut d = Rows {
        q: vec![0.0; shape.seq * stride],
        k: vec![0.0; shape.seq * stride],
        v: vec![0.0; f.v.len()],
        w: vec![0.0; f.row_shares(shape).map_or(f.decay.len(), <[f32]>::len)],
        beta: vec![0.0; f.beta.len()],
        correct: [0, 1].map(|i| vec![0.0; f.correct[i].len()]),
    };
    for head in 0..m.v_heads {
        kernels.dispatch(Recurrence { shape, f, head, dy: &d_read, d: &mut d });
    }
    if shape.is_gsa() {
        slot_keys(shape, kernels, f, &mut d, &mut d_qkv);
    } else if shape.arms().is_some() {
        if shape.is_outer() {
            matrices_backward(shape, f, &mut d, &mut d_qkv);
        }
        let book = p[book_at.clone()].to_vec();
        slots_backward(shape, f, &book, &mut d, &mut d_qkv, &mut g.p[book_at]);
    } else {
        if shape.is_rwkv7() {
            rwkv7_backward(shape, f, p, &mut d, &mut g);
        }
        keys_backward(shape, f, &d, &mut d_qkv);
    }
    let mut d_steps = Vec::new();
    if shape.has_steps() {
        let skip_at = places.skip.clone();
        d_steps = steps_backward(shape, f, &p[skip_at.clone()], &d_read, &mut d_qkv, &mut g.p[skip_at]);
    }
    decay_backward(shape, f, x, p, [&d.w, &d_steps], &mut g);
    for (t, (beta, d)) in f.beta.chunks_exact(m.v_heads).zip(d.beta.chunks_exact(m.v_heads)).enumerate() {
        let out = &mut g.x[t * width..][shape.beta_columns()];
        for ((out, beta), d) in out.iter_mut().zip(beta).zip(d) {
            *out = d * beta * (1.0 - beta);
        }
    }
    kernels.dispatch(Convolution { shape, f, x, conv: &p[places.conv.clone()], d_qkv, at: places.conv, g: &mut g });
    g
}

/// Of queries and keys that the memory takes as they are, or brought to one length, and of values.
fn keys_backward(shape: &MemoryShape, f: &Forward, d: &Rows, d_qkv: &mut [f32]) {
    let m = &shape.m;
    let (keys, values, channels) = (m.k_width(), m.v_width(), m.channels());
    let scale = shape.query_scale();
    let rows = d_qkv.chunks_exact_mut(channels).zip(f.qkv.chunks_exact(channels));
    for (t, (out, qkv)) in rows.enumerate() {
        let (dq, dk) = (&d.q[t * keys..][..keys], &d.k[t * keys..][..keys]);
        let (q_out, rest) = out.split_at_mut(keys);
        let (k_out, v_out) = rest.split_at_mut(keys);
        v_out.copy_from_slice(&d.v[t * values..][..values]);
        if shape.has_unit_keys() {
            unit_backward(q_out, &qkv[..keys], dq, m.k_dim, UNIT_EPS, scale);
            unit_backward(k_out, &qkv[keys..2 * keys], dk, m.k_dim, UNIT_EPS, 1.0);
        } else {
            q_out.iter_mut().zip(dq).for_each(|(out, dq)| *out = dq * scale);
            k_out.copy_from_slice(dk);
        }
    }
}

/// The norm and the gate of what was read, backwards; `d` comes in as the gradient of the result.
struct Norms<'a> {
    shape: &'a MemoryShape,
    f: &'a Forward,
    x: &'a [f32],
    norm: &'a [f32],
    d: &'a mut [f32],
    g: &'a mut Gradient,
}

impl Loop for Norms<'_> {
    #[inline(always)]
    fn run(self) {
        let (m, width) = (&self.shape.m, self.shape.width());
        let (values, gates, norm_at) = (m.v_width(), self.shape.gate_columns(), self.shape.places().norm);
        let rows = self.d.chunks_exact_mut(values).zip(self.f.unbound.chunks_exact(values));
        for (t, (d, r)) in rows.enumerate() {
            let gate = if m.output_gate { &self.x[t * width..][gates.clone()] } else { &[] };
            let d_gate = &mut self.g.x[t * width..][gates.clone()];
            for h in 0..m.v_heads {
                let at = h * m.v_dim..(h + 1) * m.v_dim;
                let gate = gate.get(at.clone()).unwrap_or_default();
                let d_gate = d_gate.get_mut(at.clone()).unwrap_or_default();
                let d_norm = &mut self.g.p[norm_at.clone()];
                norm_backward(&mut d[at.clone()], &r[at], self.norm, gate, d_gate, d_norm, self.shape.norm_eps);
            }
        }
    }
}

/// Of one head's norm and gate; `d` comes in as that of the result.
#[inline(always)]
fn norm_backward(
    d: &mut [f32],
    r: &[f32],
    norm: &[f32],
    gate: &[f32],
    d_gate: &mut [f32],
    d_norm: &mut [f32],
    eps: f32,
) {
    let n = r.len() as f32;
    let scale = 1.0 / (dot(r, r) / n + eps).sqrt();
    if gate.len() == r.len() && d_gate.len() == r.len() {
        for i in 0..r.len() {
            let s = sigmoid(gate[i]);
            d_gate[i] = d[i] * r[i] * scale * norm[i] * (s + gate[i] * s * (1.0 - s));
            d[i] *= gate[i] * s;
        }
    }
    for i in 0..r.len() {
        d_norm[i] += d[i] * r[i] * scale;
        d[i] *= norm[i];
    }
    let mean = dot(d, r) / n * scale * scale;
    for (d, r) in d.iter_mut().zip(r) {
        *d = scale * (*d - r * mean);
    }
}

/// Of vectors brought to the length `scale`, head by head.
pub(super) fn unit_backward(out: &mut [f32], x: &[f32], d: &[f32], head: usize, eps: f32, scale: f32) {
    for ((out, x), d) in out.chunks_exact_mut(head).zip(x.chunks_exact(head)).zip(d.chunks_exact(head)) {
        let inverse = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() + eps).sqrt();
        let along = x.iter().zip(d).map(|(x, d)| x * d).sum::<f32>() * inverse * inverse;
        for ((out, x), d) in out.iter_mut().zip(x).zip(d) {
            *out = scale * inverse * (d - x * along);
        }
    }
}

/// Gradients of what the recurrence takes.
pub(super) struct Rows {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// By row, by head, or of nothing.
    pub(super) w: Vec<f32>,
    pub(super) beta: Vec<f32>,
    /// What the memory is corrected with.
    pub(super) correct: [Vec<f32>; 2],
}

/// The recurrence of one head, backwards.
struct Recurrence<'a> {
    shape: &'a MemoryShape,
    f: &'a Forward,
    head: usize,
    dy: &'a [f32],
    d: &'a mut Rows,
}

#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    let tail: f32 = x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + tail
}

/// `y += x * factor`.
#[inline(always)]
pub(super) fn add(y: &mut [f32], x: &[f32], factor: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * factor;
    }
}

/// What a forward pass over one head kept.
struct Kept {
    /// The memory before each token, and after the last one: `(seq + 1, rows, cols)`.
    states: Vec<f32>,
    /// What each key held, with delta writes, or what is found where a correction looks: `(seq, cols)`.
    held: Vec<f32>,
}

impl Recurrence<'_> {
    /// What is left of row `i` of the memory after token `t`.
    #[inline(always)]
    fn share(&self, t: usize, i: usize) -> f32 {
        let (m, rows) = (&self.shape.m, self.shape.rows());
        match (self.f.row_shares(self.shape), m.kind) {
            (Some(all), _) => all[(t * m.v_heads + self.head) * rows + i],
            _ if self.shape.decays_by_token() => self.f.decay[t * m.v_heads + self.head],
            _ => self.shape.constant(self.head).unwrap_or(1.0),
        }
    }

    /// The values of token `t`, less what was held, by beta.
    #[inline(always)]
    fn written(&self, t: usize, held: &[f32], out: &mut [f32]) {
        let m = &self.shape.m;
        out.copy_from_slice(&self.f.v[t * m.v_width() + self.head * m.v_dim..][..m.v_dim]);
        if self.shape.corrects() {
            let beta = self.f.beta[t * m.v_heads + self.head];
            for (out, u) in out.iter_mut().zip(held) {
                *out = beta * (*out - u);
            }
        }
    }

    #[inline(always)]
    fn replay(&self) -> Kept {
        let (m, rows, seq) = (&self.shape.m, self.shape.rows(), self.shape.seq);
        let (cols, size, delta, corrected) = (m.v_dim, rows * m.v_dim, self.shape.corrects(), self.shape.is_rwkv7());
        let k_at = self.shape.k_head(self.head) * rows;
        let held = if delta || corrected { seq * cols } else { 0 };
        let mut kept = Kept { states: vec![0.0; (seq + 1) * size], held: vec![0.0; held] };
        let mut written = vec![0.0_f32; cols];
        for t in 0..seq {
            let k = &self.f.k[t * m.k_heads * rows + k_at..][..rows];
            let (before, after) = kept.states.split_at_mut((t + 1) * size);
            let (before, after) = (&before[t * size..], &mut after[..size]);
            for i in 0..rows {
                let w = self.share(t, i);
                for c in 0..cols {
                    after[i * cols + c] = w * before[i * cols + c];
                }
            }
            let held = if held > 0 { &mut kept.held[t * cols..][..cols] } else { &mut [] };
            if delta {
                for i in 0..rows {
                    add(held, &after[i * cols..][..cols], k[i]);
                }
            } else if corrected {
                let [a, b] = [0, 1].map(|i| &self.f.correct[i][t * m.k_heads * rows + k_at..][..rows]);
                for i in 0..rows {
                    add(held, &before[i * cols..][..cols], a[i]);
                }
                for i in 0..rows {
                    add(&mut after[i * cols..][..cols], held, b[i]);
                }
            }
            self.written(t, held, &mut written);
            for i in 0..rows {
                add(&mut after[i * cols..][..cols], &written, k[i]);
            }
        }
        kept
    }

    /// The gradients of a read of `s` by token `t`: of the query, and of the memory.
    #[inline(always)]
    fn read(&mut self, t: usize, s: &[f32], g: &mut [f32]) {
        let (m, rows) = (&self.shape.m, self.shape.rows());
        let at = t * m.k_heads * rows + self.shape.k_head(self.head) * rows;
        let dy = &self.dy[t * m.v_width() + self.head * m.v_dim..][..m.v_dim];
        let (q, dq) = (&self.f.q[at..][..rows], &mut self.d.q[at..][..rows]);
        for (i, (s, g)) in s.chunks_exact(m.v_dim).zip(g.chunks_exact_mut(m.v_dim)).enumerate() {
            dq[i] += dot(s, dy);
            add(g, dy, q[i]);
        }
    }

    /// The gradients of the write of token `t`; `g` becomes that of the memory before it and after its decay.
    #[inline(always)]
    fn write(&mut self, t: usize, before: &[f32], held: &[f32], g: &mut [f32], scratch: &mut [Vec<f32>; 2]) {
        let (m, rows, cols) = (&self.shape.m, self.shape.rows(), self.shape.m.v_dim);
        let at = t * m.k_heads * rows + self.shape.k_head(self.head) * rows;
        let k = &self.f.k[at..][..rows];
        let [written, d_written] = scratch;
        self.written(t, held, written);
        d_written.fill(0.0);
        for i in 0..rows {
            add(d_written, &g[i * cols..][..cols], k[i]);
        }
        for i in 0..rows {
            self.d.k[at + i] += dot(&g[i * cols..][..cols], written);
        }
        let v_at = t * m.v_width() + self.head * cols;
        if !self.shape.corrects() {
            add(&mut self.d.v[v_at..][..cols], d_written, 1.0);
            return;
        }
        let (beta, v) = (self.f.beta[t * m.v_heads + self.head], &self.f.v[v_at..][..cols]);
        let missed: f32 = (0..cols).map(|c| d_written[c] * (v[c] - held[c])).sum();
        self.d.beta[t * m.v_heads + self.head] += missed;
        add(&mut self.d.v[v_at..][..cols], d_written, beta);
        // From here on the gradient of what was held.
        for d in d_written.iter_mut() {
            *d *= -beta;
        }
        for i in 0..rows {
            let row = i * cols..(i + 1) * cols;
            self.d.k[at + i] += self.share(t, i) * dot(&before[row.clone()], d_written);
            add(&mut g[row], d_written, k[i]);
        }
    }

    /// The gradients of the decay at token `t`; `g` becomes that of the memory before it.
    #[inline(always)]
    fn decay(&mut self, t: usize, before: &[f32], g: &mut [f32]) {
        let (m, rows, cols) = (&self.shape.m, self.shape.rows(), self.shape.m.v_dim);
        let by_row = self.f.row_shares(self.shape).is_some();
        for i in 0..rows {
            let row = i * cols..(i + 1) * cols;
            let of = dot(&g[row.clone()], &before[row.clone()]);
            if by_row {
                self.d.w[(t * m.v_heads + self.head) * rows + i] += of;
            } else if self.shape.decays_by_token() {
                self.d.w[t * m.v_heads + self.head] += of;
            }
            let w = self.share(t, i);
            for g in &mut g[row] {
                *g *= w;
            }
        }
    }

    /// The gradients of the correction of token `t`, `b u^T` with `u` what the memory before it holds at `a`; `d_found`
    /// becomes that of `u`.
    #[inline(always)]
    fn correct(&mut self, t: usize, before: &[f32], found: &[f32], g: &[f32], d_found: &mut [f32]) {
        let (m, rows, cols) = (&self.shape.m, self.shape.rows(), self.shape.m.v_dim);
        let at = t * m.k_heads * rows + self.shape.k_head(self.head) * rows;
        let b = &self.f.correct[1][at..][..rows];
        let [da, db] = &mut self.d.correct;
        d_found.fill(0.0);
        for i in 0..rows {
            let g = &g[i * cols..][..cols];
            add(d_found, g, b[i]);
            db[at + i] += dot(g, found);
        }
        for i in 0..rows {
            da[at + i] += dot(&before[i * cols..][..cols], d_found);
        }
    }
}

impl Loop for Recurrence<'_> {
    #[inline(always)]
    fn run(mut self) {
        let (rows, cols, seq) = (self.shape.rows(), self.shape.m.v_dim, self.shape.seq);
        let size = rows * cols;
        let kept = self.replay();
        let mut g = vec![0.0_f32; size];
        let mut scratch = [vec![0.0_f32; cols], vec![0.0_f32; cols]];
        for t in (0..seq).rev() {
            let (before, after) = (&kept.states[t * size..][..size], &kept.states[(t + 1) * size..][..size]);
            let held = kept.held.get(t * cols..(t + 1) * cols).unwrap_or_default();
            if self.shape.read() == Read::After {
                self.read(t, after, &mut g);
            }
            self.write(t, before, held, &mut g, &mut scratch);
            if self.shape.is_rwkv7() {
                let d_found = &mut scratch[1];
                self.correct(t, before, held, &g, d_found);
                self.decay(t, before, &mut g);
                let at = t * self.shape.m.k_heads * rows + self.shape.k_head(self.head) * rows;
                for (i, g) in g.chunks_exact_mut(cols).enumerate() {
                    add(g, d_found, self.f.correct[0][at + i]);
                }
                continue;
            }
            self.decay(t, before, &mut g);
            if self.shape.read() == Read::Before {
                self.read(t, before, &mut g);
            }
        }
    }
}

/// `gsa`: from the gradients of the shares that slots are read with and of what they take, to those of queries, keys and
/// decays. A token's scores are `H q` with `H[s] = w[s] H[s] + (1 - w[s]) k`, slot by slot.
fn slot_keys(shape: &MemoryShape, kernels: &Kernels, f: &Forward, d: &mut Rows, d_qkv: &mut [f32]) {
    let (m, channels, keys, values) = (&shape.m, shape.m.channels(), shape.m.k_width(), shape.m.v_width());
    for (out, dv) in d_qkv.chunks_exact_mut(channels).zip(d.v.chunks_exact(values)) {
        out[2 * keys..].copy_from_slice(dv);
    }
    for head in 0..m.v_heads {
        kernels.dispatch(SlotKeys { shape, f, head, d, d_qkv });
    }
}

/// The memory of keys of one head, backwards.
struct SlotKeys<'a> {
    shape: &'a MemoryShape,
    f: &'a Forward,
    head: usize,
    d: &'a mut Rows,
    d_qkv: &'a mut [f32],
}

impl Loop for SlotKeys<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { shape, f, head, d, d_qkv } = self;
        let (m, seq) = (&shape.m, shape.seq);
        let (slots, dim, width, channels) = (m.slots, m.k_dim, m.decay_width(), m.channels());
        let (size, scale) = (slots * dim, 1.0 / (dim as f32).sqrt());
        let q_at = |t: usize| t * channels + head * dim;
        let k_at = |t: usize| q_at(t) + m.k_width();
        let mut states = vec![0.0_f32; (seq + 1) * size];
        for t in 0..seq {
            let (before, after) = states.split_at_mut((t + 1) * size);
            for s in 0..slots {
                let at = t * width + head * slots + s;
                let to = &mut after[s * dim..][..dim];
                add(to, &before[t * size + s * dim..][..dim], f.decay[at]);
                add(to, &f.qkv[k_at(t)..][..dim], f.k[at]);
            }
        }
        let mut g = vec![0.0_f32; size];
        for t in (0..seq).rev() {
            let first = t * width + head * slots;
            let (p, dp) = (&f.q[first..][..slots], &d.q[first..][..slots]);
            let mean = dot(p, dp);
            for s in 0..slots {
                let (at, row) = (first + s, s * dim..(s + 1) * dim);
                let score = p[s] * (dp[s] - mean) * scale;
                add(&mut d_qkv[q_at(t)..][..dim], &states[(t + 1) * size..][row.clone()], score);
                let g = &mut g[row.clone()];
                add(g, &f.qkv[q_at(t)..][..dim], score);
                let taken = d.k[at] + dot(g, &f.qkv[k_at(t)..][..dim]);
                add(&mut d_qkv[k_at(t)..][..dim], g, f.k[at]);
                // A slot takes what its decay leaves free.
                d.w[at] += dot(g, &states[t * size..][row]) - taken;
                for g in g {
                    *g *= f.decay[at];
                }
            }
        }
    }
}

/// Of decays as they were projected, and of their biases, from the gradients of shares and of steps. Rates are held fixed.
fn decay_backward(
    shape: &MemoryShape,
    f: &Forward,
    x: &[f32],
    p: &[f32],
    [dw, d_steps]: [&[f32]; 2],
    g: &mut Gradient,
) {
    let places = shape.places();
    let (n, width, at) = (shape.m.decay_width(), shape.width(), shape.decay_columns());
    if n == 0 {
        return;
    }
    let (bias, rate) = (&p[places.bias.clone()], &p[places.rate]);
    for t in 0..shape.seq {
        for j in 0..n {
            let z = x[t * width + at.start + j] + bias[j];
            let w = f.decay[t * n + j];
            let slope = match shape.m.kind {
                // exp(a softplus(z)).
                MemoryKind::GatedDelta | MemoryKind::Mamba2 => w * rate[j] * sigmoid(z),
                // exp(-e^(-1/2) sigmoid(z)).
                MemoryKind::Rwkv7 => -0.606_530_66 * w * sigmoid(z) * sigmoid(-z),
                // sigmoid(z)^(1/16).
                _ => w * 0.0625 * sigmoid(-z),
            };
            let of_step = d_steps.get(t * n + j).map_or(0.0, |d| d * sigmoid(z));
            let d = dw[t * n + j] * slope + of_step;
            g.x[t * width + at.start + j] = d;
            g.p[places.bias.start + j] += d;
        }
    }
}

/// Of the convolution and its activation, or of the projections where there is none.
struct Convolution<'a> {
    shape: &'a MemoryShape,
    f: &'a Forward,
    x: &'a [f32],
    conv: &'a [f32],
    d_qkv: Vec<f32>,
    at: std::ops::Range<usize>,
    g: &'a mut Gradient,
}

impl Loop for Convolution<'_> {
    #[inline(always)]
    fn run(mut self) {
        let (m, g) = (&self.shape.m, self.g);
        let (channels, width, taps) = (m.channels(), self.shape.width(), m.conv);
        if taps == 0 {
            for (out, d) in g.x.chunks_exact_mut(width).zip(self.d_qkv.chunks_exact(channels)) {
                out[..channels].copy_from_slice(d);
            }
            return;
        }
        for (d, &z) in self.d_qkv.iter_mut().zip(&self.f.before) {
            let s = sigmoid(z);
            *d *= s + z * s * (1.0 - s);
        }
        // Tap by tap, so that the loops below run along channels.
        let conv: Vec<f32> = (0..taps * channels).map(|i| self.conv[i % channels * taps + i / channels]).collect();
        let mut d_conv = vec![0.0_f32; conv.len()];
        for (t, d) in self.d_qkv.chunks_exact(channels).enumerate() {
            for j in 0..taps {
                let Some(from) = (t + j + 1).checked_sub(taps) else { continue };
                multiply_add(&mut g.x[from * width..][..channels], d, &conv[j * channels..][..channels]);
                multiply_add(&mut d_conv[j * channels..][..channels], d, &self.x[from * width..][..channels]);
            }
        }
        for (i, d) in g.p[self.at].iter_mut().enumerate() {
            *d += d_conv[i % taps * channels + i / taps];
        }
    }
}

/// `out += x * y`, number by number.
#[inline(always)]
fn multiply_add(out: &mut [f32], x: &[f32], y: &[f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out += x * y;
    }
}
