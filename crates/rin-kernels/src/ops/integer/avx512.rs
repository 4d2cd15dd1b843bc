//! 16 outputs × 4 inputs per instruction, and the scales of 16 outputs at once.

use super::{IntegerLayer, Output};
use crate::MatMut;
use crate::pack::{LANES, LINE};
use std::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm512_add_epi64, _mm512_cvtepi32_epi8, _mm512_dpbusd_epi32, _mm512_loadu_si512,
    _mm512_mask_blend_epi32, _mm512_max_epi32, _mm512_min_epi32, _mm512_mul_epi32, _mm512_reduce_add_epi32,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_sllv_epi64,
    _mm512_srav_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_epi64,
};

/// Rows that share a pass over panels.
const TOKENS: usize = 4;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dense<O: Output>(y: &mut MatMut<'_, O>, x: &[i8], layer: IntegerLayer<'_>) {
    let (rows, panels) = (y.rows(), y.cols() / LANES);
    let mut p = 0;
    while p < panels {
        // One row leaves registers for more panels, which are as many streams.
        let n = match panels - p {
            8.. if rows < TOKENS => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let mut t = 0;
        while t < rows {
            let four = rows - t >= TOKENS;
            match n {
                8 => tile::<O, 8, 1>(y, x, &layer, p, t),
                4 if four => tile::<O, 4, TOKENS>(y, x, &layer, p, t),
                4 => tile::<O, 4, 1>(y, x, &layer, p, t),
                2 if four => tile::<O, 2, TOKENS>(y, x, &layer, p, t),
                2 => tile::<O, 2, 1>(y, x, &layer, p, t),
                _ if four => tile::<O, 1, TOKENS>(y, x, &layer, p, t),
                _ => tile::<O, 1, 1>(y, x, &layer, p, t),
            }
            t += if four && n < 8 { TOKENS } else { 1 };
        }
        p += n;
    }
}

/// `P` panels from panel `p` on against `T` rows from row `t0` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<O: Output, const P: usize, const T: usize>(
    y: &mut MatMut<'_, O>,
    x: &[i8],
    layer: &IntegerLayer<'_>,
    p: usize,
    t0: usize,
) {
    let cols = x.len() / y.rows();
    let (lines, _) = layer.w.as_chunks::<LINE>();
    let n = cols / 4;
    let panels: [&[[u8; LINE]]; P] = std::array::from_fn(|i| &lines[(p + i) * n..][..n]);
    let rows: [&[[i8; 4]]; T] = std::array::from_fn(|t| &x[(t0 + t) * cols..][..cols].as_chunks::<4>().0[..n]);
    let mut acc = [[_mm512_setzero_si512(); P]; T];
    for q in 0..n {
        let mut line = [_mm512_setzero_si512(); P];
        for i in 0..P {
            line[i] = load(&panels[i][q]);
        }
        for t in 0..T {
            let x = _mm512_set1_epi32(i32::from_le_bytes(rows[t][q].map(i8::cast_unsigned)));
            for i in 0..P {
                acc[t][i] = _mm512_dpbusd_epi32(acc[t][i], line[i], x);
            }
        }
    }
    let (low, high) = (_mm512_set1_epi32(layer.low), _mm512_set1_epi32(layer.high));
    for t in 0..T {
        // The weights are 128 too large.
        let offset = _mm512_set1_epi32(sum(rows[t].as_flattened()).wrapping_mul(128));
        for i in 0..P {
            let at = (p + i) * LANES;
            let start = _mm512_sub_epi32(numbers(layer.bias, at), offset);
            let sums = std::arch::x86_64::_mm512_add_epi32(acc[t][i], start);
            let scaled = requantize(sums, numbers(layer.multiplier, at), numbers(layer.shift, at));
            let found = _mm512_min_epi32(_mm512_max_epi32(scaled, low), high);
            if let Some(to) = y.row_mut(t0 + t)[at..].first_chunk_mut() {
                O::store(found, to);
            }
        }
    }
}

/// The sum of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn sum(x: &[i8]) -> i32 {
    let (blocks, rest) = x.as_chunks::<LINE>();
    let mut acc = _mm512_setzero_si512();
    for block in blocks {
        // SAFETY: 64 bytes.
        let x = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        acc = _mm512_dpbusd_epi32(acc, _mm512_set1_epi8(1), x);
    }
    rest.iter().fold(_mm512_reduce_add_epi32(acc), |sum, &x| sum + i32::from(x))
}

/// `(acc * multiplier + 2^(shift - 1)) >> shift` in each of 16 numbers, those of even and of odd places in 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn requantize(acc: __m512i, multiplier: __m512i, shift: __m512i) -> __m512i {
    let low_half = _mm512_set1_epi64(0xffff_ffff);
    let even = {
        let shift = std::arch::x86_64::_mm512_and_si512(shift, low_half);
        rounded(_mm512_mul_epi32(acc, multiplier), shift)
    };
    let odd = {
        let shift = _mm512_srli_epi64::<32>(shift);
        rounded(_mm512_mul_epi32(_mm512_srli_epi64::<32>(acc), _mm512_srli_epi64::<32>(multiplier)), shift)
    };
    _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(product: __m512i, shift: __m512i) -> __m512i {
    let one = _mm512_set1_epi64(1);
    let half = _mm512_sllv_epi64(one, _mm512_sub_epi64(shift, one));
    _mm512_srav_epi64(_mm512_add_epi64(product, half), shift)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &[u8; LINE]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// 16 numbers from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(all: &[i32], at: usize) -> __m512i {
    let sixteen = &all[at..][..LANES];
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(sixteen.as_ptr().cast()) }
}

/// Called by [`tile`] alone.
#[inline(always)]
pub(super) fn store_narrow(x: __m512i, to: &mut [i8; LANES]) {
    // SAFETY: 16 bytes; only code of this tier comes here.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) }
}

/// Called by [`tile`] alone.
#[inline(always)]
pub(super) fn store_wide(x: __m512i, to: &mut [i32; LANES]) {
    // SAFETY: 64 bytes; only code of this tier comes here.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
