//! Half a line per step: magnitudes times weights that carry the sign, so that no pair of products saturates.

use super::{IntegerLayer, Output, finish};
use crate::MatMut;
use crate::pack::{LANES, LINE};
use std::arch::x86_64::{
    __m256i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_sign_epi8, _mm256_storeu_si256, _mm256_xor_si256,
};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dense<O: Output>(y: &mut MatMut<'_, O>, x: &[i8], layer: IntegerLayer<'_>) {
    let panels = y.cols() / LANES;
    let mut p = 0;
    while p < panels {
        let n = if panels - p >= 4 { 4 } else { 1 };
        for t in 0..y.rows() {
            match n {
                4 => tile::<O, 4>(y, x, &layer, p, t),
                _ => tile::<O, 1>(y, x, &layer, p, t),
            }
        }
        p += n;
    }
}

/// `P` panels from panel `p` on against row `t`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<O: Output, const P: usize>(y: &mut MatMut<'_, O>, x: &[i8], layer: &IntegerLayer<'_>, p: usize, t: usize) {
    let cols = x.len() / y.rows();
    let (lines, _) = layer.w.as_chunks::<LINE>();
    let (quads, _) = x[t * cols..][..cols].as_chunks::<4>();
    let panels: [&[[u8; LINE]]; P] = std::array::from_fn(|i| &lines[(p + i) * quads.len()..][..quads.len()]);
    let (offset, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
    let mut acc = [[_mm256_set1_epi32(0); 2]; P];
    for (i, acc) in acc.iter_mut().enumerate() {
        let bias = &layer.bias[(p + i) * LANES..][..LANES];
        // SAFETY: 32 bytes, and 32 more.
        *acc = unsafe {
            [_mm256_loadu_si256(bias.as_ptr().cast()), _mm256_loadu_si256(bias[LANES / 2..].as_ptr().cast())]
        };
    }
    for (q, x) in quads.iter().enumerate() {
        let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
        let magnitude = _mm256_abs_epi8(x);
        for i in 0..P {
            for half in 0..2 {
                let w = _mm256_xor_si256(load(&panels[i][q], half), offset);
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, x));
                acc[i][half] = _mm256_add_epi32(acc[i][half], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        let mut sums = [0; LANES];
        let (low, high) = sums.split_at_mut(LANES / 2);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(low.as_mut_ptr().cast(), acc[0]) };
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(high.as_mut_ptr().cast(), acc[1]) };
        finish(&sums, layer, p + i, y.row_mut(t));
    }
}

/// Half of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &[u8; LINE], half: usize) -> __m256i {
    let bytes = &line[half * 32..][..32];
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
