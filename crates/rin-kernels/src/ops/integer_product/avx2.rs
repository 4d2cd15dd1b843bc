//! 8 outputs × 2 columns per product.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_storeu_si256,
};

use super::{PAIR, store};
use crate::MatMut;
use crate::pack::LANES;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product(y: &mut MatMut<'_, i32>, w: &[i16], x: &[i16], cols: usize) {
    let rows = y.rows();
    for (p, panel) in w.chunks_exact(cols * LANES).enumerate() {
        let mut t = 0;
        while t < rows {
            t += match rows - t {
                4.. => tile::<4>(y, p, panel, x, cols, t),
                2.. => tile::<2>(y, p, panel, x, cols, t),
                _ => tile::<1>(y, p, panel, x, cols, t),
            };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const T: usize>(y: &mut MatMut<'_, i32>, p: usize, panel: &[i16], x: &[i16], cols: usize, t0: usize) -> usize {
    let pairs: [&[[i16; 2]]; T] = std::array::from_fn(|t| x[(t0 + t) * cols..][..cols].as_chunks::<2>().0);
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for (k, line) in panel.as_chunks::<PAIR>().0.iter().enumerate() {
        let (halves, _) = line.as_chunks::<LANES>();
        // SAFETY: half a line has 32 bytes.
        let low: __m256i = unsafe { _mm256_loadu_si256(halves[0].as_ptr().cast()) };
        // SAFETY: as above.
        let high: __m256i = unsafe { _mm256_loadu_si256(halves[1].as_ptr().cast()) };
        for t in 0..T {
            let [a, b] = pairs[t][k];
            let pair = _mm256_set1_epi32(i32::from(b) << 16 | i32::from(a) & 0xffff);
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(low, pair));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(high, pair));
        }
    }
    for (t, [low, high]) in sums.into_iter().enumerate() {
        let mut out = [0; LANES];
        let (halves, _) = out.as_chunks_mut::<8>();
        // SAFETY: 8 numbers of 32 bits.
        unsafe { _mm256_storeu_si256(halves[0].as_mut_ptr().cast(), low) };
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(halves[1].as_mut_ptr().cast(), high) };
        store(y, t0 + t, p, &out);
    }
    T
}
