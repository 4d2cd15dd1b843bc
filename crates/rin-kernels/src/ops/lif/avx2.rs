//! 16 outputs per addition of a row; 8 outputs × 4 inputs per product.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi8_epi16,
    _mm256_cvtepi16_epi32, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::WORD_SPIKES;
use crate::pack::LANES;

/// Outputs of a register of 16-bit sums.
const WIDE: usize = 16;
/// Outputs of a register of 32-bit sums.
const HALF: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_spikes(acc: &mut [i32], w: &[i8], spikes: &[u32]) {
    let n = acc.len();
    let mut at = 0;
    while at < n {
        // Sums stay in registers over all spikes, as many as there are outputs for.
        at += match (n - at) / WIDE {
            8.. => rows::<8>(acc, w, spikes, at),
            4.. => rows::<4>(acc, w, spikes, at),
            _ => rows::<2>(acc, w, spikes, at),
        };
    }
}

/// Adds `R × 16` outputs from output `at` on, and tells how many that was.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const R: usize>(acc: &mut [i32], w: &[i8], spikes: &[u32], at: usize) -> usize {
    let n = acc.len();
    let acc = &mut acc[at..][..R * WIDE];
    for spikes in spikes.chunks(WORD_SPIKES) {
        let mut sums = [_mm256_setzero_si256(); R];
        for &i in spikes {
            let (row, _) = w[i as usize * n + at..][..R * WIDE].as_chunks::<WIDE>();
            for r in 0..R {
                // SAFETY: 16 bytes.
                let row = unsafe { _mm_loadu_si128(row[r].as_ptr().cast()) };
                sums[r] = _mm256_add_epi16(sums[r], _mm256_cvtepi8_epi16(row));
            }
        }
        for (acc, sum) in acc.as_chunks_mut::<WIDE>().0.iter_mut().zip(sums) {
            let (halves, _) = acc.as_chunks_mut::<HALF>();
            add(&mut halves[0], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum)));
            add(&mut halves[1], _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(sum)));
        }
    }
    R * WIDE
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dense(acc: &mut [i32], w: &[i8], x: &[u8]) {
    let panels = acc.len() / LANES;
    let mut at = 0;
    while at < panels {
        at += match panels - at {
            4.. => products::<4>(acc, w, x, at),
            _ => products::<2>(acc, w, x, at),
        };
    }
}

/// Adds the products of `P` panels from panel `at` on, and tells how many that was.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const P: usize>(acc: &mut [i32], w: &[i8], x: &[u8], at: usize) -> usize {
    let (quads, _) = x.as_chunks::<4>();
    let (lines, _) = w.as_chunks::<{ LANES * 4 }>();
    let panels: [&[[i8; LANES * 4]]; P] = std::array::from_fn(|p| &lines[(at + p) * quads.len()..][..quads.len()]);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; P];
    for (q, x) in quads.iter().enumerate() {
        let x = _mm256_set1_epi32(i32::from_le_bytes(*x));
        for p in 0..P {
            let (halves, _) = panels[p][q].as_chunks::<32>();
            for h in 0..2 {
                // SAFETY: 32 bytes.
                let line = unsafe { _mm256_loadu_si256(halves[h].as_ptr().cast()) };
                // Two products of at most 127 × 128 fit 16 bits, so nothing saturates.
                let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(x, line), ones);
                sums[p][h] = _mm256_add_epi32(sums[p][h], fours);
            }
        }
    }
    for (acc, sum) in acc.as_chunks_mut::<HALF>().0[2 * at..].iter_mut().zip(sums.into_iter().flatten()) {
        add(acc, sum);
    }
    P
}

/// Adds 8 sums to `acc`.
#[inline]
#[target_feature(enable = "avx2")]
fn add(acc: &mut [i32; HALF], sums: __m256i) {
    // SAFETY: 32 bytes.
    let old = unsafe { _mm256_loadu_si256(acc.as_ptr().cast()) };
    let new = _mm256_add_epi32(old, sums);
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(acc.as_mut_ptr().cast(), new) };
}
