//! 32 products per instruction: 2 rows × 2 tokens × 8 columns.
//!
//! `smmla` takes two rows of 8 signed bytes from each side, so the halves of two neighbouring lines are put together
//! and two tokens are run at once. A single token would leave half of each product unused: it goes the way of
//! [`neon`](super::neon), and so do float weights.

use super::neon::{self, QUARTER, add_block, half_scales, lines_of_32, signed, start, to_array, unsigned};
use super::{Epilogue, QuantRows};
use crate::pack::{LANES, Record, scale_place};
use crate::{Format, MatMut};
use std::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vdupq_n_f32, vdupq_n_s32, vld1q_s8, vmlaq_s32, vreinterpretq_s8_s32,
    vreinterpretq_s8_s64, vreinterpretq_s32_s8, vreinterpretq_s64_s8, vuzp1q_s32, vuzp2q_s32, vzip1q_s32, vzip1q_s64,
    vzip2q_s32, vzip2q_s64,
};

/// Two rows of weights × 8 columns, for each half of a quarter.
type Rows = [int8x16_t; 2];

/// For each half of a quarter: of its first row the sums of both tokens, then those of its second row.
type Sums = [int32x4_t; 2];

/// Quantised weights.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        let mut t = 0;
        while t < x.rows() {
            t += match x.rows() - t {
                4.. => tile::<F, 2>(y, p, panel, x, t, e),
                2.. => tile::<F, 1>(y, p, panel, x, t, e),
                _ => neon::tile::<F, 1>(y, p, panel, x, t, e),
            };
        }
    }
}

/// One panel against `PAIRS` pairs of tokens from `t0`; returns the number of tokens.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn tile<const F: usize, const PAIRS: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panel: &[u8],
    x: QuantRows<'_>,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / x.block;
    let mut acc = [[[vdupq_n_f32(0.0); 4]; 2]; PAIRS];
    for b in 0..blocks {
        let block = &panel[b * record.bytes..][..record.bytes];
        for quarter in 0..4 {
            let d = half_scales(&panel[scale_place(format, blocks, b, quarter * QUARTER)..]);
            let products = if format.block_len() == 32 {
                product_of_32::<F, PAIRS>(block, record, x, t0, b, quarter)
            } else {
                product_of_256::<F, PAIRS>(block, record, x, t0, b, quarter)
            };
            for (pair, products) in products.into_iter().enumerate() {
                for (i, products) in by_token(products).into_iter().enumerate() {
                    let sum = &mut acc[pair][i][quarter];
                    *sum = add_block::<F>(*sum, products, d, block, record, x, t0 + 2 * pair + i, b, quarter);
                }
            }
        }
    }
    for (t, acc) in acc.as_flattened().iter().enumerate() {
        e.finish(&to_array(*acc), y, t0 + t, p);
    }
    2 * PAIRS
}

/// The products of a block of 32 columns, a quarter of the rows.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn product_of_32<const F: usize, const PAIRS: usize>(
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    quarter: usize,
) -> [Sums; PAIRS] {
    let w = paired(lines_of_32::<F>(block, record, 0, quarter));
    let mut products = [[vdupq_n_s32(0); 2]; PAIRS];
    for (pair, products) in products.iter_mut().enumerate() {
        let tokens = [t0 + 2 * pair, t0 + 2 * pair + 1];
        let sums = tokens.map(|t| &x.sums[t * x.cols / 16 + b * 2..][..2]);
        let start = starts::<F>(sums.map(|s| i32::from(s[0]) + i32::from(s[1])));
        *products = multiply(start, &w, tokens.map(|t| &x.q[t * x.cols + b * 32..][..32]));
    }
    products
}

/// The products of a block of 256 columns with their integer scales, a quarter of the rows.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn product_of_256<const F: usize, const PAIRS: usize>(
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    quarter: usize,
) -> [Sums; PAIRS] {
    let format = const { Format::ALL[F] };
    let mut products = [[vdupq_n_s32(0); 2]; PAIRS];
    for group in 0..8 {
        let w = paired(lines_of_32::<F>(block, record, group, quarter));
        for (pair, products) in products.iter_mut().enumerate() {
            let tokens = [t0 + 2 * pair, t0 + 2 * pair + 1];
            let q = tokens.map(|t| &x.q[t * x.cols + b * 256 + group * 32..][..32]);
            if format.scales_at_end() {
                let sums = tokens.map(|t| &x.sums[t * x.cols / 16 + b * 16 + group * 2..][..2]);
                let start = starts::<F>(sums.map(|s| i32::from(s[0]) + i32::from(s[1])));
                let of_group = multiply(start, &w, q);
                for i in 0..2 {
                    products[i] = vaddq_s32(products[i], of_group[i]);
                }
            } else if format.sub_block_len() == 32 {
                let sc = twice(unsigned(&block[record.sc + group * LANES + quarter * QUARTER..]));
                add_scaled(products, multiply(vdupq_n_s32(0), &w, q), sc);
            } else {
                for part in 0..2 {
                    let j = group * 2 + part;
                    let sc = twice(signed(&block[record.sc + j * LANES + quarter * QUARTER..]));
                    let start = starts::<F>(tokens.map(|t| i32::from(x.sums[t * x.cols / 16 + b * 16 + j])));
                    let q = q.map(|q| &q[part * 16..][..16]);
                    add_scaled(products, multiply(start, &w[part * 2..][..2], q), sc);
                }
            }
        }
    }
    products
}

/// Adds products times integer scales.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(sums: &mut Sums, products: Sums, sc: [int32x4_t; 2]) {
    for i in 0..2 {
        sums[i] = vmlaq_s32(sums[i], products[i], sc[i]);
    }
}

/// What the sums of two tokens start from, in the order of [`Sums`].
#[inline]
#[target_feature(enable = "neon")]
fn starts<const F: usize>(sums_of_x: [i32; 2]) -> int32x4_t {
    vzip1q_s32(start::<F>(sums_of_x[0]), start::<F>(sums_of_x[1]))
}

/// The value of each row of a quarter for both tokens, in the order of [`Sums`].
#[inline]
#[target_feature(enable = "neon")]
fn twice(rows: int32x4_t) -> [int32x4_t; 2] {
    [vzip1q_s32(rows, rows), vzip2q_s32(rows, rows)]
}

/// The sums of the four rows, token by token.
#[inline]
#[target_feature(enable = "neon")]
fn by_token(sums: Sums) -> [int32x4_t; 2] {
    [vuzp1q_s32(sums[0], sums[1]), vuzp2q_s32(sums[0], sums[1])]
}

/// Lines of 4 columns as operands of 8 columns.
#[inline]
#[target_feature(enable = "neon")]
fn paired(lines: [int8x16_t; 8]) -> [Rows; 4] {
    let [a, b, c, d, e, f, g, h] = lines.map(|l| vreinterpretq_s32_s8(l));
    [(a, b), (c, d), (e, f), (g, h)]
        .map(|(a, b)| [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))])
}

/// `start + w · q` of two tokens for `8 w.len()` columns, a multiple of 16.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply(start: int32x4_t, w: &[Rows], q: [&[i8]; 2]) -> Sums {
    let mut sums = [start; 2];
    let q = q[0].as_chunks::<16>().0.iter().zip(q[1].as_chunks::<16>().0);
    for (w, (first, second)) in w.as_chunks::<2>().0.iter().zip(q) {
        // SAFETY: `first` is 16 bytes.
        let first = vreinterpretq_s64_s8(unsafe { vld1q_s8(first.as_ptr()) });
        // SAFETY: `second` is 16 bytes.
        let second = vreinterpretq_s64_s8(unsafe { vld1q_s8(second.as_ptr()) });
        let x = [vzip1q_s64(first, second), vzip2q_s64(first, second)];
        for (w, x) in w.iter().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = smmla(*sum, *w, vreinterpretq_s8_s64(x));
            }
        }
    }
    sums
}

/// To the sum at `2 i + j`, the product of 8 bytes: half `i` of `w`, half `j` of `x`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut out = sum;
    // SAFETY: an instruction of the matrix extension on registers. Its intrinsic is not stable yet.
    unsafe {
        std::arch::asm!(
            "smmla {out:v}.4s, {w:v}.16b, {x:v}.16b",
            out = inout(vreg) out, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}
