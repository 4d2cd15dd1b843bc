//! 32 products per step: 8 rows × 4 columns, the two halves of a line one after the other.
//!
//! Codes of up to 6 bits go through `maddubs`, whose 16-bit sums cannot saturate there (two lines of 63 × 127 × 2 make
//! 32,004). Bytes of Q8_0 are widened to 16 bits first, even and odd columns apart, which is exact for every value.

use super::{Epilogue, QuantRows};
use crate::pack::{LANES, LINE, Record};
use crate::{Format, MatMut};
use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi16,
    _mm256_slli_epi32, _mm256_srai_epi16, _mm256_srli_epi16, _mm256_storeu_ps,
};

/// Rows in half a line.
const HALF: usize = LANES / 2;

/// Quantised weights.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const F: usize, const T: usize>(
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
    let mut acc = [[_mm256_setzero_ps(); 2]; T];
    for b in 0..blocks {
        let block = &panel[b * record.bytes..][..record.bytes];
        for half in 0..2 {
            if format.block_len() == 32 {
                let d = half_scales(&panel[blocks * record.bytes + (b * LANES + half * HALF) * 2..]);
                let lines = lines_of_32::<F>(block, record, 0, half);
                for t in 0..T {
                    let row = t0 + t;
                    let sums = &x.sums[row * x.cols / 16 + b * 2..][..2];
                    let offset = -format.code_offset() * (i32::from(sums[0]) + i32::from(sums[1]));
                    let q = &x.q[row * x.cols + b * 32..][..32];
                    let products = dot::<F, 8>(_mm256_set1_epi32(offset), &lines, q);
                    let scale = _mm256_mul_ps(d, _mm256_set1_ps(x.d[row * blocks + b]));
                    acc[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scale, acc[t][half]);
                }
            } else {
                super_block::<F, T>(&mut acc, block, record, x, t0, b, half);
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        e.finish(&to_array(acc), y, t0 + t, p);
    }
    T
}

/// One block of 256 columns with integer scales per sub-block, half of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn super_block<const F: usize, const T: usize>(
    acc: &mut [[__m256; 2]; T],
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    half: usize,
) {
    let format = const { Format::ALL[F] };
    let blocks = x.cols / x.block;
    let mut products = [_mm256_setzero_si256(); T];
    for group in 0..8 {
        let lines = lines_of_32::<F>(block, record, group, half);
        for t in 0..T {
            let row = t0 + t;
            let q = &x.q[row * x.cols + b * 256 + group * 32..][..32];
            if format.sub_block_len() == 32 {
                let sc = _mm256_cvtepu8_epi32(load8(&block[record.sc + group * LANES + half * HALF..]));
                let sum = dot::<F, 8>(_mm256_setzero_si256(), &lines, q);
                products[t] = _mm256_add_epi32(products[t], _mm256_mullo_epi32(sum, sc));
            } else {
                for part in 0..2 {
                    let j = group * 2 + part;
                    let sc = _mm256_cvtepi8_epi32(load8(&block[record.sc + j * LANES + half * HALF..]));
                    let offset = -format.code_offset() * i32::from(x.sums[row * x.cols / 16 + b * 16 + j]);
                    let lines = [lines[part * 4], lines[part * 4 + 1], lines[part * 4 + 2], lines[part * 4 + 3]];
                    let sum = dot::<F, 4>(_mm256_set1_epi32(offset), &lines, &q[part * 16..]);
                    products[t] = _mm256_add_epi32(products[t], _mm256_mullo_epi32(sum, sc));
                }
            }
        }
    }
    let d = half_scales(&block[record.d + half * HALF * 2..]);
    for t in 0..T {
        let dx = _mm256_set1_ps(x.d[(t0 + t) * blocks + b]);
        acc[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[t]), _mm256_mul_ps(d, dx), acc[t][half]);
        if format.has_minima() {
            let dmin = half_scales(&block[record.dmin + half * HALF * 2..]);
            let sums = &x.sums[(t0 + t) * x.cols / 16 + b * 16..][..16];
            let minima = _mm256_cvtepi32_ps(minima(&block[record.m..], sums, half));
            acc[t][half] = _mm256_fnmadd_ps(minima, _mm256_mul_ps(dmin, dx), acc[t][half]);
        }
    }
}

/// `sum over 8 sub-blocks of m * (sum of x)` for 8 rows.
#[inline]
#[target_feature(enable = "avx2")]
fn minima(m: &[u8], sums: &[i16], half: usize) -> __m256i {
    let mut total = _mm256_setzero_si256();
    for (line, sums) in sums.chunks_exact(8).enumerate() {
        let m = load(&m[line * LINE + half * LINE / 2..]);
        let even = _mm256_and_si256(m, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(m);
        let x = |j: usize| i32::from(sums[2 * j]) + i32::from(sums[2 * j + 1]);
        total = _mm256_add_epi32(total, _mm256_madd_epi16(even, pair(x(0), x(2))));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(odd, pair(x(1), x(3))));
    }
    total
}

/// Two values of 16 bits repeated.
#[inline]
#[target_feature(enable = "avx2")]
fn pair(low: i32, high: i32) -> __m256i {
    _mm256_set1_epi32(low & 0xffff | high << 16)
}

/// The codes of 32 columns (`group` of the block) for one half of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn lines_of_32<const F: usize>(block: &[u8], record: Record, group: usize, half: usize) -> [__m256i; 8] {
    let format = const { Format::ALL[F] };
    let low_nibble = _mm256_set1_epi8(0xf);
    let half = half * LINE / 2;
    let mut lines = [_mm256_setzero_si256(); 8];
    match record.nibble_group {
        0 => {
            for (i, l) in lines.iter_mut().enumerate() {
                *l = load(&block[i * LINE + half..]);
            }
        }
        32 => {
            for i in 0..4 {
                let both = load(&block[(group * 4 + i) * LINE + half..]);
                lines[i] = _mm256_and_si256(both, low_nibble);
                lines[4 + i] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low_nibble);
            }
        }
        _ => {
            for (i, l) in lines.iter_mut().enumerate() {
                let both = load(&block[(group / 2 * 8 + i) * LINE + half..]);
                let shifted = if group.is_multiple_of(2) { both } else { _mm256_srli_epi16::<4>(both) };
                *l = _mm256_and_si256(shifted, low_nibble);
            }
        }
    }
    if format.code_bits() == 5 {
        let high = load(&block[record.high + group * LINE + half..]);
        macro_rules! fifth_bit {
            ($($i:literal $shift:ident $n:literal;)*) => { $(
                let bit = _mm256_and_si256($shift::<$n>(high), _mm256_set1_epi8(0x10));
                lines[$i] = _mm256_or_si256(lines[$i], bit);
            )* };
        }
        fifth_bit! {
            0 _mm256_slli_epi16 4; 1 _mm256_slli_epi16 3; 2 _mm256_slli_epi16 2; 3 _mm256_slli_epi16 1;
            4 _mm256_slli_epi16 0; 5 _mm256_srli_epi16 1; 6 _mm256_srli_epi16 2; 7 _mm256_srli_epi16 3;
        }
    }
    if format.code_bits() == 6 {
        for part in 0..2 {
            let high = load(&block[record.high + (group * 2 + part) * LINE + half..]);
            macro_rules! two_bits {
                ($($i:literal $shift:ident $n:literal;)*) => { $(
                    let bits = _mm256_and_si256($shift::<$n>(high), _mm256_set1_epi8(0x30));
                    lines[part * 4 + $i] = _mm256_or_si256(lines[part * 4 + $i], bits);
                )* };
            }
            two_bits! { 0 _mm256_slli_epi16 4; 1 _mm256_slli_epi16 2; 2 _mm256_slli_epi16 0; 3 _mm256_srli_epi16 2; }
        }
    }
    lines
}

/// `start + lines · q` for `4 N` columns.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const F: usize, const N: usize>(start: __m256i, lines: &[__m256i; N], q: &[i8]) -> __m256i {
    debug_assert!(q.len() >= 4 * N, "four columns a line");
    let mut sum = start;
    for i in (0..N).step_by(2) {
        let x = [four(q, i), four(q, i + 1)];
        if const { Format::ALL[F].code_bits() == 8 } {
            for (line, x) in lines[i..i + 2].iter().zip(x) {
                let even = _mm256_and_si256(*line, _mm256_set1_epi16(0xff));
                let odd = _mm256_srli_epi16::<8>(*line);
                let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                let x_odd = _mm256_srai_epi16::<8>(x);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, x_even));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd, x_odd));
            }
        } else {
            let two = _mm256_add_epi16(_mm256_maddubs_epi16(lines[i], x[0]), _mm256_maddubs_epi16(lines[i + 1], x[1]));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
        }
    }
    sum
}

/// Bytes `4 i..4 i + 4` of `q`, repeated.
#[inline]
#[target_feature(enable = "avx2")]
fn four(q: &[i8], i: usize) -> __m256i {
    let four = &q[4 * i..][..4];
    // SAFETY: four bytes lie there.
    _mm256_set1_epi32(unsafe { four.as_ptr().cast::<i32>().read_unaligned() })
}

/// Half a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> __m256i {
    let half = &bytes[..LINE / 2];
    // SAFETY: `half` is 32 bytes and the load is unaligned.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
}

/// Eight bytes.
#[inline]
#[target_feature(enable = "sse2")]
fn load8(bytes: &[u8]) -> std::arch::x86_64::__m128i {
    let part = &bytes[..HALF];
    // SAFETY: `part` is 8 bytes and the load is unaligned.
    unsafe { _mm_loadl_epi64(part.as_ptr().cast()) }
}

/// Eight 16-bit values.
#[inline]
#[target_feature(enable = "sse2")]
fn load16(bytes: &[u8]) -> std::arch::x86_64::__m128i {
    let part = &bytes[..2 * HALF];
    // SAFETY: `part` is 16 bytes and the load is unaligned.
    unsafe { _mm_loadu_si128(part.as_ptr().cast()) }
}

/// Eight f16 scales as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half_scales(bytes: &[u8]) -> __m256 {
    _mm256_cvtph_ps(load16(bytes))
}

/// The lanes of both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn to_array(halves: [__m256; 2]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (out, v) in out.chunks_exact_mut(HALF).zip(halves) {
        // SAFETY: `out` is 32 bytes and the store is unaligned.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    }
    out
}

/// Float weights.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn float_row<const F: usize>(y: &mut MatMut<'_, f32>, p: usize, panel: &[u8], x: &[f32], t: usize, e: Epilogue<'_>) {
    let size = const { Format::ALL[F].block_bytes() };
    let mut sums = [[_mm256_setzero_ps(); 2]; 4];
    let (quads, tail) = x.as_chunks::<4>();
    let mut columns = panel.chunks_exact(LANES * size);
    for x in quads {
        for j in 0..4 {
            let Some(w) = columns.next() else { break };
            for (half, s) in sums[j].iter_mut().enumerate() {
                *s = _mm256_fmadd_ps(load_column::<F>(&w[half * HALF * size..]), _mm256_set1_ps(x[j]), *s);
            }
        }
    }
    for (j, (x, w)) in tail.iter().zip(columns).enumerate() {
        for (half, s) in sums[j].iter_mut().enumerate() {
            *s = _mm256_fmadd_ps(load_column::<F>(&w[half * HALF * size..]), _mm256_set1_ps(*x), *s);
        }
    }
    let mut folded = [_mm256_setzero_ps(); 2];
    for (half, f) in folded.iter_mut().enumerate() {
        *f = _mm256_add_ps(_mm256_add_ps(sums[0][half], sums[1][half]), _mm256_add_ps(sums[2][half], sums[3][half]));
    }
    e.finish(&to_array(folded), y, t, p);
}

/// Half a column of weights as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_column<const F: usize>(bytes: &[u8]) -> __m256 {
    match const { Format::ALL[F] } {
        Format::F16 => half_scales(bytes),
        Format::BF16 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load16(bytes)))),
        _ => {
            let half = &bytes[..LINE / 2];
            // SAFETY: `half` is 32 bytes and the load is unaligned.
            unsafe { _mm256_loadu_ps(half.as_ptr().cast()) }
        }
    }
}
