//! Products of arrays with arrays, and convolutions, by the kernels that multiply with weights.
//!
//! A kernel takes one side as panels of 16 outputs. For a product of arrays those are columns of the second; for a
//! convolution they are 16 places of the window, and the weights are the rows that meet them, so that the result lies as
//! it should. Panels are made where they are used, by the worker that uses them, in as much scratch as [`scratch_panels`]
//! says. What is summed, and in which order, is the same as in a product with packed weights.

use super::elements::load_integers;
use super::image::{Geometry, Seen};
use super::loops::Loops;
use super::workers::Workers;
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::pool::partition;
use crate::run::split::deal;
use rin_kernels::MatMut;
use rin_kernels::ops::activation::{Activate, Function};
use rin_kernels::ops::integer_product::{IntegerProduct, PAIR, padded};
use rin_kernels::ops::linear::{Epilogue, Input, Linear};
use rin_kernels::pack::LANES;
use rin_model::DType;

/// Bytes of scratch that panels take at most, unless one takes more.
const SCRATCH: usize = 1 << 20;
/// Panels of a worker that are multiplied in one call.
const TOGETHER: usize = 4;

/// Panels that there is room for, of `n` that are needed with `bytes` each.
pub(crate) fn scratch_panels(n: usize, bytes: usize) -> usize {
    SCRATCH.checked_div(bytes).unwrap_or(n).clamp(1, n.max(1))
}

/// Sizes of a product: rows of the one side, panels of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Length of what is summed up.
    pub(crate) k: usize,
}

impl Size {
    fn panels(self) -> usize {
        self.cols.div_ceil(LANES)
    }

    fn work(self) -> usize {
        self.rows.saturating_add(1).saturating_mul(self.cols).saturating_mul(self.k)
    }
}

/// Makes all panels of a product and multiplies with them: `pack(p, panel)` writes one, `multiply(first column, panels, y)`
/// the columns of some. A panel is `length` elements.
fn over_panels<T: Send, Y: Send>(
    workers: &mut Workers<'_>,
    size: Size,
    scratch: &mut [T],
    length: usize,
    y: MatMut<'_, Y>,
    pack: impl Fn(usize, &mut [T]) + Sync,
    multiply: impl Fn(usize, &[T], MatMut<'_, Y>) + Sync,
) {
    let n = size.panels();
    let room = scratch.len().checked_div(length).unwrap_or(0).min(n);
    if n == 0 || room == 0 {
        return;
    }
    let part = |range: std::ops::Range<usize>, scratch: &mut [T], mut y: MatMut<'_, Y>| {
        let own = (scratch.len() / length).clamp(1, TOGETHER);
        let mut at = range.start;
        while at < range.end {
            let some = own.min(range.end - at);
            let panels = &mut scratch[..some * length];
            panels.chunks_exact_mut(length).enumerate().for_each(|(i, panel)| pack(at + i, panel));
            let cols = (some * LANES).min(y.cols());
            let (left, right) = y.split_cols(cols);
            multiply(at * LANES, panels, left);
            y = right;
            at += some;
        }
    };
    let parts = workers.count(n, size.work()).min(room);
    let (Some(pool), 2..) = (workers.0.as_deref_mut(), parts) else { return part(0..n, scratch, y) };
    let share = room / parts * length;
    let mut rest = Some((scratch, y));
    deal(
        pool,
        parts,
        |i| {
            let range = partition(n, parts, i, 1);
            let (scratch, y) = rest.take()?;
            let (own_scratch, scratch) = scratch.split_at_mut(share);
            let cols = (range.len() * LANES).min(y.cols());
            let (own, y) = y.split_cols(cols);
            rest = Some((scratch, y));
            Some((range, own_scratch, own))
        },
        |(range, scratch, y)| part(range, scratch, y),
    );
}

/// The bytes of f32 panels, as the kernels take them.
fn bytes_of(panels: &[f32]) -> &[u8] {
    bytemuck::cast_slice(panels)
}

/// Elements of an f32 panel.
pub(crate) const fn float_panel(k: usize) -> usize {
    k * LANES
}

/// Product of arrays of matrices; `batch` walks over both for each matrix of the result, in elements.
pub(crate) fn multiply(
    linear: &Linear,
    size: Size,
    batch: &Loops<2>,
    [a, b]: [&[u8]; 2],
    out: &mut [u8],
    scratch: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let Size { rows: m, cols: n, k } = size;
    let (a, b) = (cast::<f32>(a)?, cast::<f32>(b)?);
    let (out, scratch) = (cast_mut::<f32>(out)?, cast_mut::<f32>(scratch)?);
    if m * n == 0 || k == 0 {
        out.fill(0.0);
        return Ok(());
    }
    for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
        let [i, j] = batch.places(i);
        let (a, b) = (&a[i..][..m * k], &b[j..][..k * n]);
        over_panels(
            workers,
            size,
            scratch,
            float_panel(k),
            MatMut::new(out, m, n),
            |p, panel| {
                let first = p * LANES;
                let width = LANES.min(n - first);
                for (to, row) in panel.as_chunks_mut::<LANES>().0.iter_mut().zip(b.chunks_exact(n)) {
                    if let Some(row) = row[first..].first_chunk::<LANES>() {
                        *to = *row;
                    } else {
                        *to = [0.0; LANES];
                        to[..width].copy_from_slice(&row[first..]);
                    }
                }
            },
            |_, panels, mut y| {
                linear.run(&mut y, bytes_of(panels), Input::Float { x: a, cols: k }, Epilogue::default());
            },
        );
    }
    Ok(())
}

/// A convolution: images, channels in groups, outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convolution {
    pub(crate) geometry: Geometry,
    pub(crate) batch: usize,
    pub(crate) group: usize,
    /// Channels of a group.
    pub(crate) channels: usize,
    /// Outputs of a group.
    pub(crate) outputs: usize,
}

impl Convolution {
    /// The product of one group.
    pub(crate) fn size(&self) -> Size {
        Size { rows: self.outputs, cols: self.geometry.n_places(), k: self.channels * self.geometry.n_kernel() }
    }
}

/// Convolution of floats, with what is added to each output and applied to it.
pub(crate) fn convolve(
    (linear, activate, function): (&Linear, &Activate, Function),
    conv: &Convolution,
    [x, w, bias]: [&[u8]; 3],
    out: &mut [u8],
    scratch: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let size = conv.size();
    let (x, w) = (cast::<f32>(x)?, cast::<f32>(w)?);
    // No bytes at all are aligned to nothing.
    let bias = if bias.is_empty() { &[] } else { cast::<f32>(bias)? };
    let (out, scratch) = (cast_mut::<f32>(out)?, cast_mut::<f32>(scratch)?);
    let input = conv.channels * conv.geometry.pixels();
    let (unit, length) = (size.rows * size.cols, float_panel(size.k));
    let one = |at: usize, out: &mut [f32], scratch: &mut [f32], workers: &mut Workers<'_>| {
        let g = at % conv.group;
        let x = &x[at * input..][..input];
        let w = &w[g * size.rows * size.k..][..size.rows * size.k];
        over_panels(
            workers,
            size,
            scratch,
            length,
            MatMut::new(out, size.rows, size.cols),
            |p, panel| {
                // The padding, and lanes beyond the last place.
                panel.fill(0.0);
                let (columns, _) = panel.as_chunks_mut::<LANES>();
                conv.geometry.columns(x, p * LANES, |k, seen| match seen {
                    Seen::All(xs) => columns[k] = *xs,
                    Seen::One(lane, x) => columns[k][lane] = x,
                });
            },
            |_, panels, mut y| {
                linear.run(&mut y, bytes_of(panels), Input::Float { x: w, cols: size.k }, Epilogue::default());
                for r in 0..y.rows() {
                    let row = y.row_mut(r);
                    if let Some(&b) = bias.get(g * size.rows + r) {
                        for y in row.iter_mut() {
                            *y = rin_kernels::math::canonical(*y + b);
                        }
                    }
                    activate.run(row, function);
                }
            },
        );
    };
    groups(conv, size, unit, length, out, scratch, workers, one);
    Ok(())
}

/// Runs `one` for each image and group: groups of few outputs are dealt out whole, others one after the other with the
/// places of each dealt out.
fn groups<Y: Send, T: Send>(
    conv: &Convolution,
    size: Size,
    unit: usize,
    length: usize,
    out: &mut [Y],
    scratch: &mut [T],
    workers: &mut Workers<'_>,
    one: impl Fn(usize, &mut [Y], &mut [T], &mut Workers<'_>) + Sync,
) {
    let n = conv.batch * conv.group;
    if unit == 0 || size.k == 0 {
        return;
    }
    if n > 1 && size.rows < LANES {
        let work = size.work().saturating_mul(n);
        workers.spread_with(out, unit, work, scratch, length, |first, out, scratch| {
            for (i, out) in out.chunks_exact_mut(unit).enumerate() {
                one(first + i, out, scratch, &mut Workers(None));
            }
        });
        return;
    }
    for (i, out) in out.chunks_exact_mut(unit).enumerate() {
        one(i, out, scratch, workers);
    }
}

/// Elements of an integer panel.
pub(crate) const fn integer_panel(k: usize) -> usize {
    padded(k) * LANES
}

/// Zeros of an operand: one, or one for each row or column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zeros<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
}

impl Zeros<'_> {
    fn at(self, i: usize) -> i16 {
        let mut found = [0];
        load_integers(self.dtype, self.bytes, if self.bytes.len() == 1 { 0 } else { i }, 1, &mut found);
        found[0].try_into().unwrap_or(0)
    }
}

fn wide(dtype: DType, byte: u8) -> i16 {
    if dtype == DType::I8 { byte.cast_signed().into() } else { byte.into() }
}

/// Rows of bytes less their zeros, as the integer product takes them: `out` has [`padded`] columns.
pub(crate) fn widen_rows(dtype: DType, zeros: Zeros<'_>, x: &[u8], k: usize, out: &mut [i16]) {
    if k == 0 {
        return;
    }
    for (r, (row, out)) in x.chunks_exact(k).zip(out.chunks_exact_mut(padded(k))).enumerate() {
        let zero = zeros.at(r);
        out.fill(0);
        out.iter_mut().zip(row).for_each(|(out, &byte)| *out = wide(dtype, byte) - zero);
    }
}

/// A panel of 16 columns of a matrix of bytes `(k, n)`, less their zeros.
pub(crate) fn pack_columns(dtype: DType, zeros: Zeros<'_>, b: &[u8], n: usize, p: usize, panel: &mut [i16]) {
    let first = p * LANES;
    let width = LANES.min(n.saturating_sub(first));
    let mut zero = [0; LANES];
    zero[..width].iter_mut().enumerate().for_each(|(lane, zero)| *zero = zeros.at(first + lane));
    panel.fill(0);
    for (k, row) in b.chunks_exact(n).enumerate() {
        let pair = &mut panel[k / 2 * PAIR..][..PAIR];
        for (lane, &byte) in row[first..][..width].iter().enumerate() {
            pair[lane * 2 + k % 2] = wide(dtype, byte) - zero[lane];
        }
    }
}

/// Either side of an integer product: as it came, or prepared when the network was loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side<'a> {
    /// Bytes and their zeros.
    Bytes(DType, &'a [u8], Zeros<'a>),
    /// Rows or panels.
    Ready(&'a [i16]),
}

/// Exact product of arrays of matrices of bytes; `batch` walks over both in elements. The scratch holds the rows of a
/// matrix of `a`, then panels.
pub(crate) fn multiply_integers(
    product: &IntegerProduct,
    size: Size,
    batch: &Loops<2>,
    (a_type, a, a_zeros): (DType, &[u8], Zeros<'_>),
    b: Side<'_>,
    out: &mut [u8],
    scratch: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let Size { rows: m, cols: n, k } = size;
    let (out, scratch) = (cast_mut::<i32>(out)?, cast_mut::<i16>(scratch)?);
    if m * n == 0 || k == 0 {
        out.fill(0);
        return Ok(());
    }
    let (rows, scratch) = scratch.split_at_mut(m * padded(k));
    for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
        let [i, j] = batch.places(i);
        widen_rows(a_type, a_zeros, &a[i..][..m * k], k, rows);
        let (x, y) = (&*rows, MatMut::new(out, m, n));
        match b {
            Side::Bytes(dtype, b, zeros) => over_panels(
                workers,
                size,
                scratch,
                integer_panel(k),
                y,
                |p, panel| pack_columns(dtype, zeros, &b[j..][..k * n], n, p, panel),
                |_, panels, mut y| product.run(&mut y, panels, x, padded(k)),
            ),
            Side::Ready(panels) => {
                let (length, count) = (integer_panel(k), size.panels());
                let parts = workers.count(count, size.work());
                let (Some(pool), 2..) = (workers.0.as_deref_mut(), parts) else {
                    let mut y = y;
                    product.run(&mut y, panels, x, padded(k));
                    continue;
                };
                let mut rest = Some(y);
                deal(
                    pool,
                    parts,
                    |i| {
                        let range = partition(count, parts, i, 1);
                        let left = rest.take()?;
                        let cols = (range.len() * LANES).min(left.cols());
                        let (own, after) = left.split_cols(cols);
                        rest = Some(after);
                        Some((range, own))
                    },
                    |(range, mut y)| {
                        product.run(&mut y, &panels[range.start * length..range.end * length], x, padded(k));
                    },
                );
            }
        }
    }
    Ok(())
}

/// Exact convolution of bytes. The scratch holds the rows of the weight, unless they are ready, then panels.
pub(crate) fn convolve_integers(
    product: &IntegerProduct,
    conv: &Convolution,
    (x_type, x, x_zeros): (DType, &[u8], Zeros<'_>),
    w: Side<'_>,
    out: &mut [u8],
    scratch: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let size = conv.size();
    let (out, scratch) = (cast_mut::<i32>(out)?, cast_mut::<i16>(scratch)?);
    if size.k == 0 {
        out.fill(0);
        return Ok(());
    }
    let columns = padded(size.k);
    let (w, scratch) = match w {
        Side::Ready(rows) => (rows, scratch),
        Side::Bytes(dtype, w, zeros) => {
            let (rows, scratch) = scratch.split_at_mut(conv.group * size.rows * columns);
            widen_rows(dtype, zeros, w, size.k, rows);
            (&*rows, scratch)
        }
    };
    let (zero, input) = (x_zeros.at(0), conv.channels * conv.geometry.pixels());
    let (unit, length) = (size.rows * size.cols, integer_panel(size.k));
    let one = |at: usize, out: &mut [i32], scratch: &mut [i16], workers: &mut Workers<'_>| {
        let g = at % conv.group;
        let x = &x[at * input..][..input];
        let w = &w[g * size.rows * columns..][..size.rows * columns];
        over_panels(
            workers,
            size,
            scratch,
            length,
            MatMut::new(out, size.rows, size.cols),
            |p, panel| {
                panel.fill(0);
                let (lines, _) = panel.as_chunks_mut::<PAIR>();
                conv.geometry.columns(x, p * LANES, |k, seen| match seen {
                    Seen::All(bytes) => {
                        for (pair, &byte) in lines[k / 2].as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
                            pair[k % 2] = wide(x_type, byte) - zero;
                        }
                    }
                    Seen::One(lane, byte) => lines[k / 2][lane * 2 + k % 2] = wide(x_type, byte) - zero,
                });
            },
            |_, panels, mut y| product.run(&mut y, panels, w, columns),
        );
    };
    groups(conv, size, unit, length, out, scratch, workers, one);
    Ok(())
}
