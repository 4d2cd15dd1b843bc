//! The definition.

use super::{Epilogue, QuantRows};
use crate::format::Codes;
use crate::half::f16_to_f32;
use crate::pack::{LANES, read_codes, unpack_row};
use crate::{Format, MatMut};

/// Quantised weights.
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    let format = const { Format::ALL[F] };
    let blocks = x.cols / x.block;
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        for t in 0..x.rows() {
            let mut sums = [0.0; LANES];
            for (lane, acc) in sums.iter_mut().enumerate() {
                for b in 0..blocks {
                    let codes = read_codes(format, panel, blocks, b, lane);
                    let q = &x.q[t * x.cols + b * x.block..][..x.block];
                    *acc = add_block(format, &codes, q, x.d[t * blocks + b], *acc);
                }
            }
            e.finish(&sums, y, t, p);
        }
    }
}

/// One block added to a running sum.
fn add_block(format: Format, w: &Codes, x: &[i8], dx: f32, acc: f32) -> f32 {
    let sub = format.sub_block_len();
    let (mut products, mut minima) = (0_i32, 0_i32);
    for (j, x) in x.chunks_exact(sub).enumerate() {
        let codes = w.q[j * sub..].iter();
        let dot: i32 = codes.zip(x).map(|(&q, &x)| (i32::from(q) - format.code_offset()) * i32::from(x)).sum();
        products += dot * if sub < format.block_len() { i32::from(w.sc[j]) } else { 1 };
        if format.has_minima() {
            minima += i32::from(w.m[j]) * x.iter().map(|&x| i32::from(x)).sum::<i32>();
        }
    }
    let acc = (products as f32).mul_add(f16_to_f32(w.d) * dx, acc);
    if format.has_minima() { (-(minima as f32)).mul_add(f16_to_f32(w.dmin) * dx, acc) } else { acc }
}

/// Float weights.
pub(super) fn float<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>) {
    let format = const { Format::ALL[F] };
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let mut partial = [[0.0_f32; LANES]; 4];
            for (k, x) in x.iter().enumerate() {
                let size = format.block_bytes();
                let mut row = [0.0; LANES];
                for (lane, w) in row.iter_mut().enumerate() {
                    unpack_row(
                        format,
                        &one_column(&panel[k * LANES * size..][..LANES * size]),
                        lane,
                        std::slice::from_mut(w),
                    );
                }
                for (s, w) in partial[k % 4].iter_mut().zip(row) {
                    *s = w.mul_add(*x, *s);
                }
            }
            let sums = std::array::from_fn(|i| (partial[0][i] + partial[1][i]) + (partial[2][i] + partial[3][i]));
            e.finish(&sums, y, t, p);
        }
    }
}

/// A panel of one column, padded as [`unpack_row`] asks.
fn one_column(column: &[u8]) -> [u8; 64] {
    let mut line = [0; 64];
    line[..column.len()].copy_from_slice(column);
    line
}
