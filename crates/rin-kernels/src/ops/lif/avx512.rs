//! 32 outputs per addition of a row; 16 outputs × 4 inputs per product.

use std::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm512_add_epi16, _mm512_add_epi32, _mm512_castsi512_si256, _mm512_cvtepi8_epi16,
    _mm512_cvtepi16_epi32, _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::WORD_SPIKES;
use crate::pack::LANES;

/// Outputs of a register of 16-bit sums.
const WIDE: usize = 32;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add_spikes(acc: &mut [i32], w: &[i8], spikes: &[u32]) {
    let n = acc.len();
    let mut at = 0;
    while at < n {
        // Sums stay in registers over all spikes, as many as there are outputs for.
        at += match (n - at) / WIDE {
            8.. => rows::<8>(acc, w, spikes, at),
            4.. => rows::<4>(acc, w, spikes, at),
            2.. => rows::<2>(acc, w, spikes, at),
            _ => rows::<1>(acc, w, spikes, at),
        };
    }
}

/// Adds `R × 32` outputs from output `at` on, and tells how many that was.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows<const R: usize>(acc: &mut [i32], w: &[i8], spikes: &[u32], at: usize) -> usize {
    let n = acc.len();
    let acc = &mut acc[at..][..R * WIDE];
    for spikes in spikes.chunks(WORD_SPIKES) {
        let mut sums = [_mm512_setzero_si512(); R];
        for &i in spikes {
            let (row, _) = w[i as usize * n + at..][..R * WIDE].as_chunks::<WIDE>();
            for r in 0..R {
                // SAFETY: 32 bytes.
                let row = unsafe { _mm256_loadu_si256(row[r].as_ptr().cast()) };
                sums[r] = _mm512_add_epi16(sums[r], _mm512_cvtepi8_epi16(row));
            }
        }
        for (acc, sum) in acc.as_chunks_mut::<WIDE>().0.iter_mut().zip(sums) {
            let (halves, _) = acc.as_chunks_mut::<LANES>();
            add(&mut halves[0], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum)));
            add(&mut halves[1], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64::<1>(sum)));
        }
    }
    R * WIDE
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dense(acc: &mut [i32], w: &[i8], x: &[u8]) {
    let panels = acc.len() / LANES;
    let mut at = 0;
    while at < panels {
        at += match panels - at {
            8.. => products::<8>(acc, w, x, at),
            4.. => products::<4>(acc, w, x, at),
            _ => products::<2>(acc, w, x, at),
        };
    }
}

/// Adds the products of `P` panels from panel `at` on, and tells how many that was.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn products<const P: usize>(acc: &mut [i32], w: &[i8], x: &[u8], at: usize) -> usize {
    let (quads, _) = x.as_chunks::<4>();
    let (lines, _) = w.as_chunks::<{ LANES * 4 }>();
    let panels: [&[[i8; LANES * 4]]; P] = std::array::from_fn(|p| &lines[(at + p) * quads.len()..][..quads.len()]);
    let mut sums = [_mm512_setzero_si512(); P];
    for (q, x) in quads.iter().enumerate() {
        let x = _mm512_set1_epi32(i32::from_le_bytes(*x));
        for p in 0..P {
            // SAFETY: 64 bytes.
            let line = unsafe { _mm512_loadu_si512(panels[p][q].as_ptr().cast()) };
            sums[p] = _mm512_dpbusd_epi32(sums[p], x, line);
        }
    }
    for (acc, sum) in acc.as_chunks_mut::<LANES>().0[at..].iter_mut().zip(sums) {
        add(acc, sum);
    }
    P
}

/// Adds 16 sums to `acc`.
#[inline]
#[target_feature(enable = "avx512f")]
fn add(acc: &mut [i32; LANES], sums: __m512i) {
    // SAFETY: 64 bytes.
    let old = unsafe { _mm512_loadu_si512(acc.as_ptr().cast()) };
    let new = _mm512_add_epi32(old, sums);
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(acc.as_mut_ptr().cast(), new) };
}
