//! 16 products per instruction: 4 rows × 4 columns, the quarters of a line one after the other.
//!
//! `sdot` multiplies signed bytes. Codes of up to 6 bits are the same numbers signed; a code of Q8_0 with its top bit
//! flipped is the code less its offset of 128, so those sums start from 0.

use super::{Epilogue, QuantRows};
use crate::pack::{LANES, LINE, QUARTERS, Record, scale_place};
use crate::{Format, MatMut};
use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x4_t, int32x4_t, uint8x8_t, uint8x16_t, vaddq_f32, vaddq_s32, vandq_u8, vcreate_u8,
    vcvt_f32_f16, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vdupq_n_u8, veorq_u8, vfmaq_f32, vfmaq_n_f32,
    vfmsq_f32, vget_high_s16, vget_high_u8, vget_low_s16, vget_low_u8, vget_low_u16, vld1_u8, vld1q_s8, vld1q_s16,
    vld1q_u8, vmlal_s16, vmlaq_s32, vmovl_s8, vmovl_s16, vmovl_u8, vmovl_u16, vmulq_n_f32, vorrq_u8, vpaddq_s16,
    vpaddq_s32, vreinterpret_f16_u8, vreinterpret_s8_u8, vreinterpret_u16_u8, vreinterpretq_f32_u8,
    vreinterpretq_f32_u32, vreinterpretq_s8_u8, vreinterpretq_s16_u16, vreinterpretq_s32_u32, vshll_n_u16, vshlq_u8,
    vshrq_n_u8, vst1q_f32,
};

/// Rows in a quarter of a line.
pub(super) const QUARTER: usize = LANES / 4;

/// Quantised weights.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        let mut t = 0;
        while t < x.rows() {
            t += match x.rows() - t {
                4.. => tile::<F, 4>(y, p, panel, x, t, e),
                2.. => tile::<F, 2>(y, p, panel, x, t, e),
                _ => tile::<F, 1>(y, p, panel, x, t, e),
            };
        }
    }
}

/// One panel against `T` tokens from `t0`; returns `T`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn tile<const F: usize, const T: usize>(
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
    let mut acc = [[vdupq_n_f32(0.0); 4]; T];
    for b in 0..blocks {
        let block = &panel[b * record.bytes..][..record.bytes];
        for quarter in 0..4 {
            let d = half_scales(&panel[scale_place(format, blocks, b, quarter * QUARTER)..]);
            let products = if format.block_len() == 32 {
                product_of_32::<F, T>(block, record, x, t0, b, quarter)
            } else {
                product_of_256::<F, T>(block, record, x, t0, b, quarter)
            };
            for (t, products) in products.into_iter().enumerate() {
                let sum = &mut acc[t][quarter];
                *sum = add_block::<F>(*sum, products, d, block, record, x, t0 + t, b, quarter);
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        e.finish(&to_array(acc), y, t0 + t, p);
    }
    T
}

/// The products of a block of 32 columns, a quarter of the rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn product_of_32<const F: usize, const T: usize>(
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    quarter: usize,
) -> [int32x4_t; T] {
    let lines = lines_of_32::<F>(block, record, 0, quarter);
    let mut products = [vdupq_n_s32(0); T];
    for (t, products) in products.iter_mut().enumerate() {
        let row = t0 + t;
        let sums = &x.sums[row * x.cols / 16 + b * 2..][..2];
        let start = start::<F>(i32::from(sums[0]) + i32::from(sums[1]));
        *products = dot::<8>(start, &lines, &x.q[row * x.cols + b * 32..][..32]);
    }
    products
}

/// The products of a block of 256 columns with their integer scales, a quarter of the rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn product_of_256<const F: usize, const T: usize>(
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    quarter: usize,
) -> [int32x4_t; T] {
    let format = const { Format::ALL[F] };
    let mut products = [vdupq_n_s32(0); T];
    for group in 0..8 {
        let lines = lines_of_32::<F>(block, record, group, quarter);
        for t in 0..T {
            let row = t0 + t;
            let q = &x.q[row * x.cols + b * 256 + group * 32..][..32];
            if format.scales_at_end() {
                let sums = &x.sums[row * x.cols / 16 + b * 16 + group * 2..][..2];
                let start = start::<F>(i32::from(sums[0]) + i32::from(sums[1]));
                products[t] = vaddq_s32(products[t], dot::<8>(start, &lines, q));
            } else if format.sub_block_len() == 32 {
                let sc = unsigned(&block[record.sc + group * LANES + quarter * QUARTER..]);
                products[t] = vmlaq_s32(products[t], dot::<8>(vdupq_n_s32(0), &lines, q), sc);
            } else {
                for part in 0..2 {
                    let j = group * 2 + part;
                    let sc = signed(&block[record.sc + j * LANES + quarter * QUARTER..]);
                    let start = start::<F>(i32::from(x.sums[row * x.cols / 16 + b * 16 + j]));
                    let lines = [lines[part * 4], lines[part * 4 + 1], lines[part * 4 + 2], lines[part * 4 + 3]];
                    products[t] = vmlaq_s32(products[t], dot::<4>(start, &lines, &q[part * 16..]), sc);
                }
            }
        }
    }
    products
}

/// Folds block `b` of token `row` into a running sum: its products, scaled by `d`, and its minima where it has them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_block<const F: usize>(
    sum: float32x4_t,
    products: int32x4_t,
    d: float32x4_t,
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    row: usize,
    b: usize,
    quarter: usize,
) -> float32x4_t {
    let format = const { Format::ALL[F] };
    let dx = x.d[row * (x.cols / x.block) + b];
    let sum = vfmaq_f32(sum, vcvtq_f32_s32(products), vmulq_n_f32(d, dx));
    if !format.has_minima() {
        return sum;
    }
    let dmin = half_scales(&block[record.dmin + quarter * QUARTER * 2..]);
    let sums = &x.sums[row * x.cols / 16 + b * 16..][..16];
    let minima = vcvtq_f32_s32(minima(&block[record.m..], sums, quarter));
    vfmsq_f32(sum, minima, vmulq_n_f32(dmin, dx))
}

/// `sum over 8 sub-blocks of m * (sum of x)` for 4 rows.
#[inline]
#[target_feature(enable = "neon")]
fn minima(m: &[u8], sums: &[i16], quarter: usize) -> int32x4_t {
    let mut rows = [vdupq_n_s32(0); QUARTER];
    for (line, sums) in sums.as_chunks::<8>().0.iter().enumerate() {
        // SAFETY: 8 sums are 16 bytes.
        let sums = unsafe { vld1q_s16(sums.as_ptr()) };
        // Sums of 32 bytes fit 16 bits.
        let x = vget_low_s16(vpaddq_s16(sums, sums));
        let [m] = quarters(&m[line * LINE..], quarter);
        for (row, m) in rows.iter_mut().zip(widened(m)) {
            *row = vmlal_s16(*row, m, x);
        }
    }
    vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]))
}

/// Four bytes of each of 4 rows.
#[inline]
#[target_feature(enable = "neon")]
fn widened(m: uint8x16_t) -> [int16x4_t; QUARTER] {
    let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(m)));
    let high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(m)));
    [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)]
}

/// The codes of 32 columns (`group` of the block) for a quarter of the rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn lines_of_32<const F: usize>(
    block: &[u8],
    record: Record,
    group: usize,
    quarter: usize,
) -> [int8x16_t; 8] {
    let format = const { Format::ALL[F] };
    let low_nibble = vdupq_n_u8(0xf);
    let mut lines = [vdupq_n_u8(0); 8];
    match record.nibble_group {
        0 => {
            for (line, byte) in lines.iter_mut().zip(quarters::<8>(block, quarter)) {
                *line = veorq_u8(byte, vdupq_n_u8(0x80));
            }
        }
        QUARTERS => {
            let two_bits = vdupq_n_u8(3);
            for (i, all) in quarters::<2>(&block[group * 2 * LINE..], quarter).into_iter().enumerate() {
                lines[4 * i] = vandq_u8(all, two_bits);
                lines[4 * i + 1] = vandq_u8(vshrq_n_u8::<2>(all), two_bits);
                lines[4 * i + 2] = vandq_u8(vshrq_n_u8::<4>(all), two_bits);
                lines[4 * i + 3] = vshrq_n_u8::<6>(all);
            }
        }
        32 => {
            for (i, both) in quarters::<4>(&block[group * 4 * LINE..], quarter).into_iter().enumerate() {
                lines[i] = vandq_u8(both, low_nibble);
                lines[4 + i] = vshrq_n_u8::<4>(both);
            }
        }
        _ => {
            for (line, both) in lines.iter_mut().zip(quarters::<8>(&block[group / 2 * 8 * LINE..], quarter)) {
                *line = if group.is_multiple_of(2) { vandq_u8(both, low_nibble) } else { vshrq_n_u8::<4>(both) };
            }
        }
    }
    if format.code_bits() == 5 {
        let [high] = quarters(&block[record.high + group * LINE..], quarter);
        merge(&mut lines, high, [4, 3, 2, 1, 0, -1, -2, -3], 0x10);
    }
    if format.code_bits() == 6 {
        let high: [_; 2] = quarters(&block[record.high + group * 2 * LINE..], quarter);
        merge(&mut lines[..4], high[0], [4, 2, 0, -2], 0x30);
        merge(&mut lines[4..], high[1], [4, 2, 0, -2], 0x30);
    }
    lines.map(|l| vreinterpretq_s8_u8(l))
}

/// One quarter of each of the first `N` lines.
#[inline]
#[target_feature(enable = "neon")]
fn quarters<const N: usize>(lines: &[u8], quarter: usize) -> [uint8x16_t; N] {
    let (all, _) = lines[..N * LINE].as_chunks::<{ LINE / 4 }>();
    let mut out = [vdupq_n_u8(0); N];
    for (i, out) in out.iter_mut().enumerate() {
        // The remainder changes nothing but what the compiler knows: with it one check of the length is enough.
        *out = load(&all[4 * i + quarter % 4]);
    }
    out
}

/// Puts into each line the bits that lie in `mask` once `high` is shifted left by its count (right where negative).
#[inline]
#[target_feature(enable = "neon")]
fn merge<const N: usize>(lines: &mut [uint8x16_t], high: uint8x16_t, counts: [i8; N], mask: u8) {
    for (line, count) in lines.iter_mut().zip(counts) {
        *line = vorrq_u8(*line, vandq_u8(vshlq_u8(high, vdupq_n_s8(count)), vdupq_n_u8(mask)));
    }
}

/// What a sum of products starts from, so that it ends as one of codes less their offset.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn start<const F: usize>(sum_of_x: i32) -> int32x4_t {
    let format = const { Format::ALL[F] };
    vdupq_n_s32(if format.code_bits() == 8 { 0 } else { -format.code_offset() * sum_of_x })
}

/// `start + lines · q` for `4 N` columns, `N` a multiple of 4.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const N: usize>(start: int32x4_t, lines: &[int8x16_t; N], q: &[i8]) -> int32x4_t {
    let mut sum = start;
    for (lines, q) in lines.as_chunks::<4>().0.iter().zip(q.as_chunks::<16>().0) {
        // SAFETY: `q` is 16 bytes.
        let x = unsafe { vld1q_s8(q.as_ptr()) };
        sum = sdot::<0>(sum, lines[0], x);
        sum = sdot::<1>(sum, lines[1], x);
        sum = sdot::<2>(sum, lines[2], x);
        sum = sdot::<3>(sum, lines[3], x);
    }
    sum
}

/// To each of four sums, four products with the bytes `4 QUAD..4 QUAD + 4` of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const QUAD: usize>(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut out = sum;
    // SAFETY: an instruction of the dot-product extension on registers. Its intrinsic is not stable yet.
    unsafe {
        std::arch::asm!(
            "sdot {out:v}.4s, {w:v}.16b, {x:v}.4b[{quad}]",
            out = inout(vreg) out, w = in(vreg) w, x = in(vreg) x, quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// A quarter of a line.
#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8]) -> uint8x16_t {
    let quarter = &bytes[..LINE / 4];
    // SAFETY: `quarter` is 16 bytes and the load is unaligned.
    unsafe { vld1q_u8(quarter.as_ptr()) }
}

/// Eight bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load8(bytes: &[u8]) -> uint8x8_t {
    let part = &bytes[..2 * QUARTER];
    // SAFETY: `part` is 8 bytes and the load is unaligned.
    unsafe { vld1_u8(part.as_ptr()) }
}

/// Four bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load4(bytes: &[u8]) -> uint8x8_t {
    vcreate_u8(u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
}

/// Four unsigned bytes as numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unsigned(bytes: &[u8]) -> int32x4_t {
    vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load4(bytes)))))
}

/// Four signed bytes as numbers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed(bytes: &[u8]) -> int32x4_t {
    vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load4(bytes)))))
}

/// Four f16 scales as f32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn half_scales(bytes: &[u8]) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u8(load8(bytes)))
}

/// The lanes of all quarters.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn to_array(quarters: [float32x4_t; 4]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (out, v) in out.as_chunks_mut::<QUARTER>().0.iter_mut().zip(quarters) {
        // SAFETY: `out` is 16 bytes.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) };
    }
    out
}

/// Float weights.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn float<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>) {
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        for (t, x) in x.chunks_exact(cols).enumerate() {
            float_row::<F>(y, p, panel, x, t, e);
        }
    }
}

/// One panel against one token.
#[inline]
#[target_feature(enable = "neon")]
fn float_row<const F: usize>(y: &mut MatMut<'_, f32>, p: usize, panel: &[u8], x: &[f32], t: usize, e: Epilogue<'_>) {
    let size = const { Format::ALL[F].block_bytes() };
    let mut sums = [[vdupq_n_f32(0.0); 4]; 4];
    let (quads, tail) = x.as_chunks::<4>();
    let mut columns = panel.chunks_exact(LANES * size);
    for x in quads {
        for j in 0..4 {
            let Some(w) = columns.next() else { break };
            add_column::<F>(&mut sums[j], w, x[j]);
        }
    }
    for (j, (x, w)) in tail.iter().zip(columns).enumerate() {
        add_column::<F>(&mut sums[j], w, *x);
    }
    let [a, b, c, d] = sums;
    let mut folded = a;
    for i in 0..4 {
        folded[i] = vaddq_f32(vaddq_f32(a[i], b[i]), vaddq_f32(c[i], d[i]));
    }
    e.finish(&to_array(folded), y, t, p);
}

/// One column of 16 weights times `x`.
#[inline]
#[target_feature(enable = "neon")]
fn add_column<const F: usize>(sums: &mut [float32x4_t; 4], w: &[u8], x: f32) {
    let size = const { Format::ALL[F].block_bytes() };
    for (quarter, s) in sums.iter_mut().enumerate() {
        *s = vfmaq_n_f32(*s, load_column::<F>(&w[quarter * QUARTER * size..]), x);
    }
}

/// A quarter of a column of weights as f32.
#[inline]
#[target_feature(enable = "neon")]
fn load_column<const F: usize>(bytes: &[u8]) -> float32x4_t {
    match const { Format::ALL[F] } {
        Format::F16 => half_scales(bytes),
        Format::BF16 => vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(load8(bytes)))),
        _ => vreinterpretq_f32_u8(load(bytes)),
    }
}
