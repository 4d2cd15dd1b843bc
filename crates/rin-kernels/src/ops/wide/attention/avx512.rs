//! 32 products of 16 bits per instruction, the sums in registers.

use super::{Attended, Pair, element, pair_of, probabilities, put_exponents};
use crate::pack::LANES;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

/// Lines of keys, or of values, whose sums are in registers at once.
const AT_ONCE: usize = 4;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn attend(y: &mut [i32], q: &[Pair], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]) {
    let panel = q.len() * LANES;
    let mut done = 0;
    for exponents in exponents.chunks_mut(AT_ONCE * LANES) {
        let keys = &to.keys[done * panel..];
        // As many panels as are left, for each number of which there is a loop.
        let n = exponents.len().div_ceil(LANES);
        let mut dots = [[0; LANES]; AT_ONCE];
        match n {
            4 => dots = scores::<4>(q, keys),
            3 => dots[..3].copy_from_slice(&scores::<3>(q, keys)),
            2 => dots[..2].copy_from_slice(&scores::<2>(q, keys)),
            _ => dots[..1].copy_from_slice(&scores::<1>(q, keys)),
        }
        put_exponents(exponents, dots.as_flattened(), to.factor);
        done += n;
    }
    probabilities(exponents, to.powers, weights);
    let head = y.len();
    for (at, y) in y.chunks_mut(AT_ONCE * LANES).enumerate() {
        let values = &to.values[at * AT_ONCE * LANES..];
        match y.len().div_ceil(LANES) {
            4 => mix::<4>(y, weights, values, head),
            3 => mix::<3>(y, weights, values, head),
            2 => mix::<2>(y, weights, values, head),
            _ => mix::<1>(y, weights, values, head),
        }
    }
}

/// Products of a query with `P` panels of keys.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scores<const P: usize>(q: &[Pair], keys: &[Pair]) -> [[i32; LANES]; P] {
    let lines = keys.as_chunks::<LANES>().0;
    let mut panels: [&[[Pair; LANES]]; P] = [&[]; P];
    for (i, panel) in panels.iter_mut().enumerate() {
        *panel = &lines[i * q.len()..][..q.len()];
    }
    let mut acc = [_mm512_setzero_si512(); P];
    for (at, q) in q.iter().enumerate() {
        let q = both(*q);
        for i in 0..P {
            let line = &panels[i][at];
            // SAFETY: 64 bytes.
            let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
            acc[i] = _mm512_dpwssd_epi32(acc[i], line, q);
        }
    }
    let mut dots = [[0; LANES]; P];
    for i in 0..P {
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(dots[i].as_mut_ptr().cast(), acc[i]) };
    }
    dots
}

/// The sums of up to `16 * D` elements, which `values` begin with at each pair of positions.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn mix<const D: usize>(y: &mut [i32], weights: &[u32], values: &[Pair], head: usize) {
    let n = y.len();
    let last: u16 = u16::MAX >> (D * LANES - n);
    // Two sums for each element, for a sum waits for the one before.
    let mut acc = [[_mm512_setzero_si512(); D]; 2];
    for (at, pair) in weights.chunks(2).enumerate() {
        let p = both(pair_of(pair));
        let values = &values[at * head..][..n];
        let acc = &mut acc[at % 2];
        for (i, acc) in acc.iter_mut().enumerate() {
            let mask = if i + 1 < D { u16::MAX } else { last };
            let from = values[i * LANES..].as_ptr();
            // SAFETY: the mask leaves out what lies beyond the values.
            let line = unsafe { _mm512_maskz_loadu_epi32(mask, from.cast()) };
            *acc = _mm512_dpwssd_epi32(*acc, line, p);
        }
    }
    let [even, odd] = acc;
    for i in 0..D {
        let mask = if i + 1 < D { u16::MAX } else { last };
        let (to, sum) = (y[i * LANES..].as_mut_ptr(), _mm512_add_epi32(even[i], odd[i]));
        // SAFETY: the mask leaves out what lies beyond the elements.
        unsafe { _mm512_mask_storeu_epi32(to, mask, sum) };
    }
    for y in y {
        *y = element(*y);
    }
}

/// A pair in all 16 places.
#[inline]
#[target_feature(enable = "avx512f")]
fn both([low, high]: Pair) -> __m512i {
    _mm512_set1_epi32(i32::from(low) & 0xffff | i32::from(high) << 16)
}
