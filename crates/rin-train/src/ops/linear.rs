//! Products of token rows with a weight matrix, with what comes right before (normalisation, a gate) and right after
//! (dropout, a residual): as the runtime's plan has them, and so that less has to be kept for the backward pass.

use super::rms_norm::{NormGradient, normalize};
use super::swiglu::{GateGradient, gate};
use super::{Dropout, Scope, host, tensor, values};
use crate::kernels::{Kernels, for_row_groups, sum_row_groups};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use rin_kernels::format::Activation;
use rin_kernels::ops::linear::{Epilogue, Input, QuantRows};
use rin_kernels::pack::{LANES, pack_panel};
use rin_kernels::{Format, MatMut};
use std::sync::Arc;

/// A matrix in the runtime's panels.
#[derive(Clone, Debug)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    panels: Vec<u8>,
}

impl Packed {
    /// Packs rows of `cols` weights, given as blocks of `format`.
    ///
    /// # Errors
    /// When the rows hold no whole blocks, or a number that is none.
    pub fn new(format: Format, cols: usize, blocks: &[u8]) -> Result<Self> {
        let misfit = || Error::Msg(format!("{} bytes as rows of {cols} weights in {format}", blocks.len()));
        let row_bytes = format.row_bytes(cols).filter(|&n| n > 0).ok_or_else(misfit)?;
        let rows = blocks.len() / row_bytes;
        let panel_bytes = format.panel_bytes(cols).ok_or_else(misfit)?;
        let mut panels = vec![0; format.packed_bytes(rows, cols).ok_or_else(misfit)?];
        panels.par_chunks_exact_mut(panel_bytes).zip(blocks.par_chunks(row_bytes * LANES)).try_for_each(
            |(panel, rows)| {
                let row = |lane: usize| rows.get(lane * row_bytes..(lane + 1) * row_bytes);
                pack_panel(format, cols, row, panel)
                    .map_err(|at| Error::Msg(format!("a weight near column {} is not a number", at.col)))
            },
        )?;
        Ok(Self { format, rows, cols, panels })
    }
}

/// How a product is computed.
#[derive(Clone, Debug)]
pub enum Product {
    /// In f32 by candle: fast, and near the runtime's bits.
    Float,
    /// The same with inputs that are rounded to 8 bits.
    Rounded(Scope),
    /// By the runtime's kernel: its bits.
    Packed(Arc<Packed>),
}

impl Product {
    /// Inputs that the runtime quantises together.
    fn block(&self) -> Option<usize> {
        match self {
            Self::Packed(m) if m.format.activation() != Activation::F32 => Some(m.format.activation().block_len()),
            _ => None,
        }
    }

    /// Whether inputs are taken as they are.
    fn takes_all(&self) -> bool {
        self.block().is_none() && !matches!(self, Self::Rounded(_))
    }
}

/// What the inputs of a product are made of.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// `x` itself.
    Plain(&'a Tensor),
    /// `x` normalised: `x / sqrt(mean(x^2) + eps) * gain`, row by row.
    Normed {
        /// `(tokens, cols)`.
        x: &'a Tensor,
        /// `(cols)`.
        gain: &'a Tensor,
        /// Added to the mean square.
        eps: f32,
    },
    /// `silu(gate) * up`, of rows that hold `cols` of the gate and then `cols` of the up part.
    Gated(&'a Tensor),
}

/// What follows a product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail<'a> {
    /// First, elements may be dropped.
    pub dropout: Option<Dropout>,
    /// Then this is added; not together with [`Source::Normed`].
    pub residual: Option<&'a Tensor>,
}

/// `y[t, r] = sum over k of w[r, k] * h[t, k]`, with `h` made of `source`, then the tail.
///
/// `w` `(rows, cols)` holds the numbers of `product`'s matrix where that is packed. With quantised weights `h` is
/// quantised as the runtime does it; its gradient goes straight through, and none of it lies outside the range.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(source: Source<'_>, w: &Tensor, product: &Product, tail: Tail<'_>, kernels: Kernels) -> Result<Tensor> {
    let op = |prologue| LinearOp { prologue, product: product.clone(), dropout: tail.dropout, kernels };
    match (source, tail.residual) {
        (Source::Plain(x), None) => x.apply_op2(w, op(Prologue::None)),
        (Source::Plain(x), Some(residual)) => x.apply_op3(w, residual, op(Prologue::None)),
        (Source::Normed { x, gain, eps }, None) => x.apply_op3(w, gain, op(Prologue::Norm { eps })),
        (Source::Normed { .. }, Some(_)) => Err(Error::Msg("a normalised product with a residual".to_owned())),
        (Source::Gated(x), None) => x.apply_op2(w, op(Prologue::Gate)),
        (Source::Gated(x), Some(residual)) => x.apply_op3(w, residual, op(Prologue::Gate)),
    }
}

/// What becomes of the inputs first.
#[derive(Clone, Copy)]
enum Prologue {
    None,
    /// The third argument is the gain.
    Norm {
        eps: f32,
    },
    Gate,
}

struct LinearOp {
    prologue: Prologue,
    product: Product,
    dropout: Option<Dropout>,
    kernels: Kernels,
}

impl LinearOp {
    /// Columns of `x` for `cols` inputs.
    fn width(&self, cols: usize) -> usize {
        if matches!(self.prologue, Prologue::Gate) { 2 * cols } else { cols }
    }

    /// Makes inputs `h` of `cols` out of rows of `x`.
    fn prepare(&self, h: &mut [f32], x: &[f32], third: &[f32], cols: usize) {
        match self.prologue {
            Prologue::None => h.copy_from_slice(x),
            Prologue::Norm { eps } => normalize(h, x, third, eps, &self.kernels),
            Prologue::Gate => gate(h, x, cols, &self.kernels),
        }
    }

    /// All inputs as the product sees them.
    fn inputs(&self, x: &[f32], third: &[f32], cols: usize) -> Vec<f32> {
        let block = self.product.block();
        let width = self.width(cols);
        let mut h = vec![0.0; x.len() / width * cols];
        for_row_groups(&mut h, cols, |first, h| {
            self.prepare(h, &x[first * width..][..h.len() / cols * width], third, cols);
            if let Some(block) = block {
                Rows::quantize(h, cols, block, &self.kernels).numbers(h);
            }
        });
        if let Product::Rounded(scope) = self.product {
            scope.round(&mut h, cols);
        }
        h
    }

    fn forward(
        &self,
        (x, lx): (&CpuStorage, &Layout),
        (w, lw): (&CpuStorage, &Layout),
        third: &[f32],
    ) -> Result<(CpuStorage, Shape)> {
        let ((tokens, width), (rows, cols)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let is_norm = matches!(self.prologue, Prologue::Norm { .. });
        if width != self.width(cols) || (is_norm && third.len() != cols) {
            return Err(Error::Msg(format!("{tokens} x {width} for a matrix of {rows} x {cols}")));
        }
        let residual = if is_norm { &[] } else { third };
        let y = match &self.product {
            Product::Float | Product::Rounded(_) => {
                let shape = (1, tokens, rows, cols);
                let transposed = lw.transpose(0, 1)?;
                let product = if matches!(self.prologue, Prologue::None) && self.product.takes_all() {
                    x.matmul(w, shape, lx, &transposed)?
                } else {
                    let h = CpuStorage::F32(self.inputs(values(x, lx)?, third, cols));
                    h.matmul(w, shape, &Layout::contiguous((tokens, cols)), &transposed)?
                };
                let CpuStorage::F32(mut y) = product else { return Err(Error::Msg("f32 only".to_owned())) };
                if !residual.is_empty() || self.dropout.is_some() {
                    for_row_groups(&mut y, rows, |first, y| self.finish(first * rows, y, residual));
                }
                y
            }
            Product::Packed(matrix) => self.packed(matrix, values(x, lx)?, third, residual)?,
        };
        Ok((CpuStorage::F32(y), Shape::from((tokens, rows))))
    }

    /// Dropout and the residual, for the outputs from element `first` on.
    fn finish(&self, first: usize, y: &mut [f32], residual: &[f32]) {
        if let Some(dropout) = self.dropout {
            dropout.apply(first, y);
        }
        for (y, residual) in y.iter_mut().zip(residual.get(first..).unwrap_or_default()) {
            *y += residual;
        }
    }

    fn packed(&self, m: &Packed, x: &[f32], third: &[f32], residual: &[f32]) -> Result<Vec<f32>> {
        let kernel = match m.format {
            Format::F32 => &self.kernels.f32,
            Format::Q8_0 => &self.kernels.q8_0,
            Format::Q4_0 => &self.kernels.q4_0,
            Format::TQ2_0 => &self.kernels.tq2_0,
            other => return Err(Error::Msg(format!("no training with {other}"))),
        };
        let width = self.width(m.cols);
        let mut y = vec![0.0; x.len() / width * m.rows];
        for_row_groups(&mut y, m.rows, |first, y| {
            let tokens = y.len() / m.rows;
            let mut h = vec![0.0; tokens * m.cols];
            self.prepare(&mut h, &x[first * width..][..tokens * width], third, m.cols);
            let mut out = MatMut::new(y, tokens, m.rows);
            let rows;
            let input = if m.format.activation() == Activation::F32 {
                Input::Float { x: &h, cols: m.cols }
            } else {
                rows = Rows::quantize(&h, m.cols, m.format.activation().block_len(), &self.kernels);
                Input::Quant(rows.view())
            };
            kernel.run(&mut out, &m.panels, input, Epilogue::default());
            self.finish(first * m.rows, y, residual);
        });
        Ok(y)
    }

    /// Gradients of `x`, `w` and the gain.
    fn gradients(&self, x: &Tensor, w: &Tensor, third: &[f32], grad: &Tensor) -> Result<Gradients> {
        let (rows, cols) = w.dims2()?;
        let mut grad = grad.contiguous()?;
        if let Some(dropout) = self.dropout {
            let mut masked = host(&grad)?.to_vec();
            for_row_groups(&mut masked, rows, |first, values| dropout.apply(first * rows, values));
            grad = tensor(masked, &grad)?;
        }
        let dh = grad.matmul(w)?;
        let seen = match self.prologue {
            Prologue::None if self.product.takes_all() => x.clone(),
            _ => tensor(self.inputs(&host(x)?, third, cols), &dh)?,
        };
        let dw = grad.t()?.matmul(&seen)?;
        drop(seen);
        let xs = host(x)?;
        let xs = &*xs;
        Ok(match self.prologue {
            Prologue::None => Gradients { x: dh, w: dw, gain: None },
            Prologue::Norm { eps } => {
                let mut dx = host(&dh)?.to_vec();
                let mut d_gain = vec![0.0; cols];
                sum_row_groups(&mut dx, cols, &mut d_gain, |first, dx, d_gain| {
                    let x = &xs[first * cols..][..dx.len()];
                    self.kernels.dispatch(NormGradient { dx, d_gain, x, gain: third, eps });
                });
                let gain = Tensor::from_vec(d_gain, cols, x.device())?;
                Gradients { x: tensor(dx, x)?, w: dw, gain: Some(gain) }
            }
            Prologue::Gate => {
                let dy = host(&dh)?;
                let dy = &*dy;
                let mut dx = vec![0.0; xs.len()];
                for_row_groups(&mut dx, 2 * cols, |first, dx| {
                    let x = &xs[first * 2 * cols..][..dx.len()];
                    let dy = &dy[first * cols..][..dx.len() / 2];
                    self.kernels.dispatch(GateGradient { dx, x, dy, width: cols });
                });
                Gradients { x: tensor(dx, x)?, w: dw, gain: None }
            }
        })
    }
}

struct Gradients {
    x: Tensor,
    w: Tensor,
    gain: Option<Tensor>,
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), &[])
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let found = self.gradients(x, w, &[], grad)?;
        Ok((Some(found.x), Some(found.w)))
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        third: &CpuStorage,
        lt: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), values(third, lt)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        third: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let found = self.gradients(x, w, &host(third)?, grad)?;
        // Without a gain the third argument is a residual, whose gradient is that of the result.
        let third = found.gain.unwrap_or_else(|| grad.clone());
        Ok((Some(found.x), Some(found.w), Some(third)))
    }
}

/// Quantised activations, as the runtime quantises them.
struct Rows {
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
    cols: usize,
    /// Activations that share a scale.
    block: usize,
}

impl Rows {
    fn quantize(x: &[f32], cols: usize, block: usize, kernels: &Kernels) -> Self {
        let n = x.len();
        let mut rows = Self { q: vec![0; n], d: vec![0.0; n / block], sums: vec![0; n / 16], cols, block };
        let parts = rows.q.chunks_exact_mut(cols).zip(rows.d.chunks_exact_mut(cols / block));
        for (((q, d), sums), x) in parts.zip(rows.sums.chunks_exact_mut(cols / 16)).zip(x.chunks_exact(cols)) {
            kernels.quantize.run(q, d, sums, x, block);
        }
        rows
    }

    fn view(&self) -> QuantRows<'_> {
        QuantRows { q: &self.q, d: &self.d, sums: &self.sums, cols: self.cols, block: self.block }
    }

    fn numbers(&self, out: &mut [f32]) {
        for ((out, q), d) in out.chunks_exact_mut(self.block).zip(self.q.chunks_exact(self.block)).zip(&self.d) {
            for (out, q) in out.iter_mut().zip(q) {
                *out = f32::from(*q) * d;
            }
        }
    }
}
