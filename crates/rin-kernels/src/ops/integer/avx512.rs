//! 16 outputs × 4 inputs per instruction, and the scales of 16 outputs at once.

use super::{IntegerLayer, Output};
use crate::MatMut;
use crate::pack::{LANES, LINE};
use std::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm512_add_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_cvtepi32_epi8,
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_blend_epi32, _mm512_max_epi32, _mm512_min_epi32,
    _mm512_mul_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_sllv_epi64, _mm512_srav_epi64, _mm512_srli_epi64,
    _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_epi64,
};

/// Rows that share a pass over three panels, and over four.
///
/// Eight rows by three panels are 24 sums, so that a line of weights, which comes from the second-level cache where panels are
/// larger than the first, serves eight instructions, and eleven addresses, which the other registers hold.
const MANY: usize = 8;
const FEW: usize = 4;
/// Rows whose sums are at hand while panels pass.
const SPAN: usize = 32 * MANY;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dense<O: Output>(y: &mut MatMut<'_, O>, x: &[i8], layer: IntegerLayer<'_>) {
    let rows = y.rows();
    // One row is not to wait for room that hundreds need.
    if rows <= MANY {
        return pass(y, x, &layer, 0, &mut [0; MANY][..rows]);
    }
    let mut offsets = [0; SPAN];
    for first in (0..rows).step_by(SPAN) {
        pass(y, x, &layer, first, &mut offsets[..SPAN.min(rows - first)]);
    }
}

/// All panels against the rows from `first` on, as many as there is room for in `offsets`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn pass<O: Output>(y: &mut MatMut<'_, O>, x: &[i8], layer: &IntegerLayer<'_>, first: usize, offsets: &mut [i32]) {
    let (rows, panels, cols) = (offsets.len(), y.cols() / LANES, x.len() / y.rows().max(1));
    for (offset, row) in offsets.iter_mut().zip(x[first * cols..].chunks_exact(cols.max(1))) {
        // The weights are 128 too large.
        *offset = sum(row).wrapping_mul(128);
    }
    let mut p = 0;
    while p < panels {
        // One row leaves registers for more panels, which are as many streams.
        let n = match panels - p {
            8.. if rows < FEW => 8,
            4.. if rows < MANY => 4,
            3.. => 3,
            2 => 2,
            _ => 1,
        };
        let mut t = 0;
        while t < rows {
            let (offsets, row) = (&offsets[t..], first + t);
            t += match (n, rows - t) {
                (8, _) => tile::<O, 8, 1>(y, x, layer, p, row, offsets),
                (4, FEW..) => tile::<O, 4, FEW>(y, x, layer, p, row, offsets),
                (4, _) => tile::<O, 4, 1>(y, x, layer, p, row, offsets),
                (3, MANY..) => tile::<O, 3, MANY>(y, x, layer, p, row, offsets),
                (3, FEW..) => tile::<O, 3, FEW>(y, x, layer, p, row, offsets),
                (3, _) => tile::<O, 3, 1>(y, x, layer, p, row, offsets),
                (2, FEW..) => tile::<O, 2, FEW>(y, x, layer, p, row, offsets),
                (2, _) => tile::<O, 2, 1>(y, x, layer, p, row, offsets),
                (_, FEW..) => tile::<O, 1, FEW>(y, x, layer, p, row, offsets),
                _ => tile::<O, 1, 1>(y, x, layer, p, row, offsets),
            };
        }
        p += n;
    }
}

/// `P` panels from panel `p` on against `T` rows from row `t0` on, of which each has its offset; returns `T`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<O: Output, const P: usize, const T: usize>(
    y: &mut MatMut<'_, O>,
    x: &[i8],
    layer: &IntegerLayer<'_>,
    p: usize,
    t0: usize,
    offsets: &[i32],
) -> usize {
    let cols = x.len() / y.rows();
    let (lines, _) = layer.w.as_chunks::<LINE>();
    let n = cols / 4;
    // Written as loops, from which the compiler learns that all are of length `n`: the loop below then has no checks.
    let mut panels: [&[[u8; LINE]]; P] = [&[]; P];
    for i in 0..P {
        panels[i] = &lines[(p + i) * n..][..n];
    }
    let mut rows: [&[[i8; 4]]; T] = [&[]; T];
    for t in 0..T {
        rows[t] = &x[(t0 + t) * cols..][..cols].as_chunks::<4>().0[..n];
    }
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
    for i in 0..P {
        let at = (p + i) * LANES;
        let (bias, multiplier) = (numbers(layer.bias, at), numbers(layer.multiplier, at));
        let shift = Shift::of(numbers(layer.shift, at));
        for t in 0..T {
            let start = _mm512_sub_epi32(bias, _mm512_set1_epi32(offsets[t]));
            let sums = _mm512_add_epi32(acc[t][i], start);
            let scaled = requantize(sums, multiplier, &shift);
            let found = _mm512_min_epi32(_mm512_max_epi32(scaled, low), high);
            if let Some(to) = y.row_mut(t0 + t)[at..].first_chunk_mut() {
                O::store(found, to);
            }
        }
    }
    T
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

/// Shifts of 16 numbers, those of even and of odd places in 64 bits, and half a unit of each.
struct Shift {
    even: __m512i,
    odd: __m512i,
    even_half: __m512i,
    odd_half: __m512i,
}

impl Shift {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(shift: __m512i) -> Self {
        let one = _mm512_set1_epi64(1);
        let even = _mm512_and_si512(shift, _mm512_set1_epi64(0xffff_ffff));
        let odd = _mm512_srli_epi64::<32>(shift);
        let even_half = _mm512_sllv_epi64(one, _mm512_sub_epi64(even, one));
        let odd_half = _mm512_sllv_epi64(one, _mm512_sub_epi64(odd, one));
        Self { even, odd, even_half, odd_half }
    }
}

/// `(acc * multiplier + 2^(shift - 1)) >> shift` in each of 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn requantize(acc: __m512i, multiplier: __m512i, shift: &Shift) -> __m512i {
    let even = _mm512_add_epi64(_mm512_mul_epi32(acc, multiplier), shift.even_half);
    let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(acc), _mm512_srli_epi64::<32>(multiplier));
    let odd = _mm512_srav_epi64(_mm512_add_epi64(odd, shift.odd_half), shift.odd);
    _mm512_mask_blend_epi32(0xaaaa, _mm512_srav_epi64(even, shift.even), _mm512_slli_epi64::<32>(odd))
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
    // SAFETY: only code of this tier comes here.
    let bytes = unsafe { _mm512_cvtepi32_epi8(x) };
    // SAFETY: 16 bytes.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bytes) }
}

/// Called by [`tile`] alone.
#[inline(always)]
pub(super) fn store_wide(x: __m512i, to: &mut [i32; LANES]) {
    // SAFETY: 64 bytes; only code of this tier comes here.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
