//! 16 outputs × 2 columns per product.

use std::arch::x86_64::{
    __m512i, _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::{PAIR, store};
use crate::MatMut;
use crate::pack::LANES;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn product(y: &mut MatMut<'_, i32>, w: &[i16], x: &[i16], cols: usize) {
    let rows = y.rows();
    for (p, panel) in w.chunks_exact(cols * LANES).enumerate() {
        let mut t = 0;
        while t < rows {
            // Each line of the panel is read once for so many tokens.
            t += match rows - t {
                8.. => tile::<8>(y, p, panel, x, cols, t),
                4.. => tile::<4>(y, p, panel, x, cols, t),
                2.. => tile::<2>(y, p, panel, x, cols, t),
                _ => tile::<1>(y, p, panel, x, cols, t),
            };
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<const T: usize>(y: &mut MatMut<'_, i32>, p: usize, panel: &[i16], x: &[i16], cols: usize, t0: usize) -> usize {
    let pairs: [&[[i16; 2]]; T] = std::array::from_fn(|t| x[(t0 + t) * cols..][..cols].as_chunks::<2>().0);
    let mut sums = [_mm512_setzero_si512(); T];
    for (k, line) in panel.as_chunks::<PAIR>().0.iter().enumerate() {
        // SAFETY: a line has 64 bytes.
        let line: __m512i = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
        for t in 0..T {
            let [a, b] = pairs[t][k];
            let pair = _mm512_set1_epi32(i32::from(b) << 16 | i32::from(a) & 0xffff);
            sums[t] = _mm512_dpwssd_epi32(sums[t], line, pair);
        }
    }
    for (t, sum) in sums.into_iter().enumerate() {
        let mut out = [0; LANES];
        // SAFETY: 16 numbers of 32 bits.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        store(y, t0 + t, p, &out);
    }
    T
}
