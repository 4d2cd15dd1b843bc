//! Two groups at a time. By hand, because the compiler does not find the packing to bytes.

use std::arch::x86_64::{
    __m256i, _mm_cvtsi128_si32, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128, _mm256_cvtps_epi32,
    _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_max_epu32, _mm256_mul_ps, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permute2x128_si256,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi32, _mm256_storeu_si256,
};

use super::{SUM_GROUP, Scale};

const PAIR: usize = 2 * SUM_GROUP;

#[target_feature(enable = "avx2")]
pub(super) fn row(q: &mut [i8], d: &mut [f32], sums: &mut [i16], x: &[f32], block: usize) {
    if !block.is_multiple_of(PAIR) {
        super::scalar(q, d, sums, x, block);
        return;
    }
    let pairs = block / PAIR;
    let (x, _) = x.as_chunks::<PAIR>();
    let (q, _) = q.as_chunks_mut::<PAIR>();
    let (sums, _) = sums.as_chunks_mut::<2>();
    for b in 0..d.len() {
        let x = &x[b * pairs..][..pairs];
        let q = &mut q[b * pairs..][..pairs];
        let sums = &mut sums[b * pairs..][..pairs];
        let scale = Scale::from_magnitude(largest_magnitude(x));
        d[b] = scale.d;
        if scale.inverse == 0.0 {
            q.fill([0; PAIR]);
            sums.fill([0; 2]);
            continue;
        }
        for ((x, q), sums) in x.iter().zip(q).zip(sums) {
            *sums = quantize_pair(q, x, scale.inverse);
        }
    }
}

/// The largest bits without a sign.
#[inline]
#[target_feature(enable = "avx2")]
fn largest_magnitude(x: &[[f32; PAIR]]) -> u32 {
    let mut largest = [_mm256_setzero_si256(); 4];
    for x in x {
        let (eights, _) = x.as_chunks::<8>();
        for i in 0..4 {
            // SAFETY: 8 floats are 32 bytes.
            let bits = unsafe { _mm256_loadu_si256(eights[i].as_ptr().cast()) };
            largest[i] = _mm256_max_epu32(largest[i], _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX)));
        }
    }
    let m = _mm256_max_epu32(_mm256_max_epu32(largest[0], largest[1]), _mm256_max_epu32(largest[2], largest[3]));
    let m = _mm256_max_epu32(m, _mm256_permute2x128_si256::<1>(m, m));
    let m = _mm256_max_epu32(m, _mm256_shuffle_epi32::<0x4e>(m));
    let m = _mm256_max_epu32(m, _mm256_shuffle_epi32::<0xb1>(m));
    _mm_cvtsi128_si32(_mm256_castsi256_si128(m)).cast_unsigned()
}

/// Quantises two groups and returns their sums.
#[inline]
#[target_feature(enable = "avx2")]
fn quantize_pair(q: &mut [i8; PAIR], x: &[f32; PAIR], inverse: f32) -> [i16; 2] {
    let (eights, _) = x.as_chunks::<8>();
    let mut steps = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        // SAFETY: 8 floats are 32 bytes.
        let x = unsafe { _mm256_loadu_ps(eights[i].as_ptr()) };
        // Rounds to nearest even; every step lies in -127..=127, as `Scale::quantize` explains.
        steps[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)));
    }
    let words = [_mm256_packs_epi32(steps[0], steps[1]), _mm256_packs_epi32(steps[2], steps[3])];
    // The packs work within halves, four values at a time; this puts the fours back in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words[0], words[1]), order);
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes) };
    sums(bytes)
}

/// The sums of the two halves.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::cast_possible_truncation, reason = "16 * 127 fits")]
fn sums(bytes: __m256i) -> [i16; 2] {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0x4e>(fours));
    let all = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0xb1>(eights));
    let first = _mm_cvtsi128_si32(_mm256_castsi256_si128(all)) as i16;
    [first, _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(all)) as i16]
}
