//! 64 products per instruction: 16 rows × 4 columns, up to 8 tokens against weights held in registers.

use super::{Epilogue, QuantRows};
use crate::pack::{LANES, LINE, Record};
use crate::{Format, MatMut};
use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32, _mm256_set1_epi16,
    _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mul_ps,
    _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

/// Quantised weights.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        let mut t = 0;
        while t < x.rows() {
            t += match x.rows() - t {
                8.. => tile::<F, 8>(y, p, panel, x, t, e),
                4.. => tile::<F, 4>(y, p, panel, x, t, e),
                2.. => tile::<F, 2>(y, p, panel, x, t, e),
                _ => tile::<F, 1>(y, p, panel, x, t, e),
            };
        }
    }
}

/// One panel against `T` tokens from `t0`; returns `T`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
    let mut acc = [_mm512_setzero_ps(); T];
    for b in 0..blocks {
        let block = &panel[b * record.bytes..][..record.bytes];
        if format.block_len() == 32 {
            let d = half_scales(&panel[blocks * record.bytes + b * 2 * LANES..]);
            let lines = lines_of_32::<F>(block, record, 0);
            for t in 0..T {
                let row = t0 + t;
                let sums = &x.sums[row * x.cols / 16 + b * 2..][..2];
                let offset = -format.code_offset() * (i32::from(sums[0]) + i32::from(sums[1]));
                let q = &x.q[row * x.cols + b * 32..][..32];
                let products = dot::<8>(_mm512_set1_epi32(offset), &lines, q);
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(x.d[row * blocks + b]));
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, acc[t]);
            }
        } else {
            super_block::<F, T>(&mut acc, block, record, x, t0, b);
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        e.finish(&to_array(acc), y, t0 + t, p);
    }
    T
}

/// One block of 256 columns with integer scales per sub-block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn super_block<const F: usize, const T: usize>(
    acc: &mut [__m512; T],
    block: &[u8],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
) {
    let format = const { Format::ALL[F] };
    let blocks = x.cols / x.block;
    let mut products = [_mm512_setzero_si512(); T];
    for group in 0..8 {
        let lines = lines_of_32::<F>(block, record, group);
        for t in 0..T {
            let row = t0 + t;
            let q = &x.q[row * x.cols + b * 256 + group * 32..][..32];
            if format.sub_block_len() == 32 {
                let sc = _mm512_cvtepu8_epi32(load16(&block[record.sc + group * LANES..]));
                let sum = dot::<8>(_mm512_setzero_si512(), &lines, q);
                products[t] = _mm512_add_epi32(products[t], _mm512_mullo_epi32(sum, sc));
            } else {
                for half in 0..2 {
                    let j = group * 2 + half;
                    let sc = _mm512_cvtepi8_epi32(load16(&block[record.sc + j * LANES..]));
                    let offset = -format.code_offset() * i32::from(x.sums[row * x.cols / 16 + b * 16 + j]);
                    let lines = [lines[half * 4], lines[half * 4 + 1], lines[half * 4 + 2], lines[half * 4 + 3]];
                    let sum = dot::<4>(_mm512_set1_epi32(offset), &lines, &q[half * 16..]);
                    products[t] = _mm512_add_epi32(products[t], _mm512_mullo_epi32(sum, sc));
                }
            }
        }
    }
    let d = half_scales(&block[record.d..]);
    for t in 0..T {
        let dx = _mm512_set1_ps(x.d[(t0 + t) * blocks + b]);
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[t]), _mm512_mul_ps(d, dx), acc[t]);
        if format.has_minima() {
            let dmin = half_scales(&block[record.dmin..]);
            let sums = &x.sums[(t0 + t) * x.cols / 16 + b * 16..][..16];
            let minima = _mm512_cvtepi32_ps(minima(&block[record.m..], sums));
            acc[t] = _mm512_fnmadd_ps(minima, _mm512_mul_ps(dmin, dx), acc[t]);
        }
    }
}

/// `sum over 8 sub-blocks of m * (sum of x)` for 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn minima(m: &[u8], sums: &[i16]) -> __m512i {
    debug_assert!(sums.len() == 16, "one sum per 16 of 256 columns");
    // SAFETY: `sums` holds 16 values of two bytes; the load is unaligned.
    let sums = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
    let per_32 = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    let mut x = [0_i16; 16];
    // Sums of 32 bytes fit 16 bits, so the pack is exact.
    let packed = _mm256_packs_epi32(per_32, per_32);
    // SAFETY: `x` is 32 bytes; the store is unaligned.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), packed) };
    // The pack works on halves: x[0..4] are sub-blocks 0-3, x[8..12] are 4-7.
    let mut total = _mm512_setzero_si512();
    for (line, x) in [[x[0], x[1], x[2], x[3]], [x[8], x[9], x[10], x[11]]].into_iter().enumerate() {
        let m = load(&m[line * LINE..]);
        let even = _mm512_and_si512(m, _mm512_set1_epi16(0xff));
        let odd = _mm512_srli_epi16::<8>(m);
        total = _mm512_add_epi32(total, _mm512_madd_epi16(even, pair(x[0], x[2])));
        total = _mm512_add_epi32(total, _mm512_madd_epi16(odd, pair(x[1], x[3])));
    }
    total
}

/// Two 16-bit values repeated.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(low: i16, high: i16) -> __m512i {
    _mm512_set1_epi32(i32::from(low.cast_unsigned()) | i32::from(high) << 16)
}

/// The codes of 32 columns (`group` of the block) as 8 lines.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn lines_of_32<const F: usize>(block: &[u8], record: Record, group: usize) -> [__m512i; 8] {
    let format = const { Format::ALL[F] };
    let low_nibble = _mm512_set1_epi8(0xf);
    let mut lines = [_mm512_setzero_si512(); 8];
    match record.nibble_group {
        0 => {
            for (i, l) in lines.iter_mut().enumerate() {
                *l = load(&block[i * LINE..]);
            }
        }
        32 => {
            for i in 0..4 {
                let both = load(&block[(group * 4 + i) * LINE..]);
                lines[i] = _mm512_and_si512(both, low_nibble);
                lines[4 + i] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_nibble);
            }
        }
        _ => {
            for (i, l) in lines.iter_mut().enumerate() {
                let both = load(&block[(group / 2 * 8 + i) * LINE..]);
                let shifted = if group.is_multiple_of(2) { both } else { _mm512_srli_epi16::<4>(both) };
                *l = _mm512_and_si512(shifted, low_nibble);
            }
        }
    }
    if format.code_bits() == 5 {
        let high = load(&block[record.high + group * LINE..]);
        macro_rules! fifth_bit {
            ($($i:literal $shift:ident $n:literal;)*) => { $(
                let bit = _mm512_and_si512($shift::<$n>(high), _mm512_set1_epi8(0x10));
                lines[$i] = _mm512_or_si512(lines[$i], bit);
            )* };
        }
        fifth_bit! {
            0 _mm512_slli_epi16 4; 1 _mm512_slli_epi16 3; 2 _mm512_slli_epi16 2; 3 _mm512_slli_epi16 1;
            4 _mm512_slli_epi16 0; 5 _mm512_srli_epi16 1; 6 _mm512_srli_epi16 2; 7 _mm512_srli_epi16 3;
        }
    }
    if format.code_bits() == 6 {
        for half in 0..2 {
            let high = load(&block[record.high + (group * 2 + half) * LINE..]);
            macro_rules! two_bits {
                ($($i:literal $shift:ident $n:literal;)*) => { $(
                    let bits = _mm512_and_si512($shift::<$n>(high), _mm512_set1_epi8(0x30));
                    lines[half * 4 + $i] = _mm512_or_si512(lines[half * 4 + $i], bits);
                )* };
            }
            two_bits! { 0 _mm512_slli_epi16 4; 1 _mm512_slli_epi16 2; 2 _mm512_slli_epi16 0; 3 _mm512_srli_epi16 2; }
        }
    }
    lines
}

/// `start + lines · q` for `4 N` columns.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot<const N: usize>(start: __m512i, lines: &[__m512i; N], q: &[i8]) -> __m512i {
    debug_assert!(q.len() >= 4 * N, "four columns a line");
    let mut sum = start;
    for (i, line) in lines.iter().enumerate() {
        // SAFETY: `q` holds at least `4 N` bytes.
        let at = unsafe { q.as_ptr().add(4 * i) };
        // SAFETY: four of them lie there.
        let four = unsafe { at.cast::<i32>().read_unaligned() };
        sum = _mm512_dpbusd_epi32(sum, *line, _mm512_set1_epi32(four));
    }
    sum
}

/// A line of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8]) -> __m512i {
    let line = &bytes[..LINE];
    // SAFETY: `line` is 64 bytes and the load is unaligned.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Sixteen bytes.
#[inline]
#[target_feature(enable = "sse2")]
fn load16(bytes: &[u8]) -> std::arch::x86_64::__m128i {
    let part = &bytes[..LANES];
    // SAFETY: `part` is 16 bytes and the load is unaligned.
    unsafe { _mm_loadu_si128(part.as_ptr().cast()) }
}

/// Sixteen 16-bit values.
#[inline]
#[target_feature(enable = "avx2")]
fn load32(bytes: &[u8]) -> std::arch::x86_64::__m256i {
    let part = &bytes[..2 * LANES];
    // SAFETY: `part` is 32 bytes and the load is unaligned.
    unsafe { _mm256_loadu_si256(part.as_ptr().cast()) }
}

/// Sixteen f16 scales as f32.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn half_scales(bytes: &[u8]) -> __m512 {
    _mm512_cvtph_ps(load32(bytes))
}

/// The lanes of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_array(v: __m512) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: `out` is 64 bytes and the store is unaligned.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
    out
}

/// Float weights.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn float<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>) {
    let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
    let rows = x.len() / cols;
    for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
        let mut t = 0;
        while t < rows {
            t += match rows - t {
                4.. => float_tile::<F, 4>(y, p, panel, x, cols, t, e),
                2.. => float_tile::<F, 2>(y, p, panel, x, cols, t, e),
                _ => float_tile::<F, 1>(y, p, panel, x, cols, t, e),
            };
        }
    }
}

/// One panel against `T` tokens from `t0`; returns `T`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn float_tile<const F: usize, const T: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panel: &[u8],
    x: &[f32],
    cols: usize,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    let step = const { Format::ALL[F].block_bytes() * LANES };
    let x = &x[t0 * cols..][..T * cols];
    let mut sums = [[_mm512_setzero_ps(); 4]; T];
    let quads = cols / 4;
    for (i, w) in panel[..quads * 4 * step].chunks_exact(4 * step).enumerate() {
        for j in 0..4 {
            let w = load_column::<F>(&w[j * step..]);
            for t in 0..T {
                // SAFETY: `i < cols / 4` and `j < 4`, so the column lies within row `t` of the `T` rows of `x`.
                let x = unsafe { *x.get_unchecked(t * cols + i * 4 + j) };
                sums[t][j] = _mm512_fmadd_ps(w, _mm512_set1_ps(x), sums[t][j]);
            }
        }
    }
    for k in quads * 4..cols {
        let w = load_column::<F>(&panel[k * step..]);
        for t in 0..T {
            sums[t][k % 4] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[t * cols + k]), sums[t][k % 4]);
        }
    }
    for (t, s) in sums.into_iter().enumerate() {
        let folded = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
        e.finish(&to_array(folded), y, t0 + t, p);
    }
    T
}

/// One column of 16 weights as f32.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn load_column<const F: usize>(bytes: &[u8]) -> __m512 {
    match const { Format::ALL[F] } {
        Format::F16 => half_scales(bytes),
        Format::BF16 => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load32(bytes)))),
        _ => {
            let line = &bytes[..LINE];
            // SAFETY: `line` is 64 bytes and the load is unaligned.
            unsafe { _mm512_loadu_ps(line.as_ptr().cast()) }
        }
    }
}

/// [`lines_of_32`] written out, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn expand<const F: usize>(block: &[u8], record: Record, group: usize, out: &mut [[u8; LINE]; 8]) {
    for (line, out) in lines_of_32::<F>(block, record, group).into_iter().zip(out) {
        // SAFETY: `out` is 64 bytes and the store is unaligned.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) };
    }
}

/// Sixteen f16 scales as f32, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
pub(super) fn halves(bytes: &[u8]) -> [f32; LANES] {
    to_array(half_scales(bytes))
}

/// [`minima`] written out, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn minima_of(m: &[u8], sums: &[i16]) -> [i32; LANES] {
    let mut out = [0; LANES];
    let minima = minima(m, sums);
    // SAFETY: `out` is 64 bytes and the store is unaligned.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), minima) };
    out
}
