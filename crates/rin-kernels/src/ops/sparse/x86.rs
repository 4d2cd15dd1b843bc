//! 16 weights per step with AVX2, 64 with AVX-512.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_shuffle_epi32,
    _mm256_cvtepi8_epi16, _mm512_loadu_si512,
};

use super::blocks::BLOCK;

/// Blocks that a register of AVX-512 holds.
const FOUR: usize = 4;

#[inline]
#[target_feature(enable = "avx2")]
fn load_16(bytes: &[i8; 16]) -> __m128i {
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_64(blocks: &[[i8; BLOCK]; FOUR]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(blocks.as_ptr().cast()) }
}

/// Sixteen inputs from a column on.
#[inline(always)]
fn sixteen(x: &[i8], column: u32) -> &[i8; 16] {
    x[column as usize..].first_chunk().expect("a block lies within the columns")
}

/// Four inputs from a column on, as one number.
#[inline(always)]
fn quad(x: &[i8], column: u32) -> i32 {
    let four: &[i8; 4] = x[column as usize..].first_chunk().expect("a block lies within the columns");
    i32::from_le_bytes(four.map(i8::cast_unsigned))
}

/// Four numbers of 16 bits, the inputs of a quad, in every 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(quad: i32) -> __m256i {
    _mm256_cvtepi8_epi16(std::arch::x86_64::_mm_set1_epi32(quad))
}

/// The sums of neighbours, four of eight.
#[inline]
#[target_feature(enable = "avx2")]
fn fold_pairs(sums: __m256i) -> [i32; 4] {
    let mut all = [0_i32; 8];
    // SAFETY: 32 bytes.
    unsafe { std::arch::x86_64::_mm256_storeu_si256(all.as_mut_ptr().cast(), sums) }
    std::array::from_fn(|i| all[2 * i].wrapping_add(all[2 * i + 1]))
}

/// The sum of four numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn fold(x: __m128i) -> i32 {
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b1110>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b01>(x)))
}

pub(super) mod four_by_four {
    use super::super::Blocks4x4;
    use super::{BLOCK, FOUR, fold_pairs, load_16, load_64, quad, spread};
    use std::arch::x86_64::{
        __m512i, _mm_add_epi32, _mm_loadu_si128, _mm_storeu_si128, _mm256_add_epi32, _mm256_castsi256_si128,
        _mm256_cvtepi8_epi16, _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_setzero_si256,
        _mm512_castsi512_si256, _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_mask_set1_epi32,
        _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_xor_si512,
    };

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn avx2(y: &mut [i32], w: &Blocks4x4, x: &[i8]) {
        for (band, y) in y.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let (columns, weights) = w.0.band(band);
            let mut sums = _mm256_setzero_si256();
            for (&column, block) in columns.iter().zip(weights) {
                let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(load_16(block)), spread(quad(x, column)));
                sums = _mm256_add_epi32(sums, products);
            }
            *y = fold_pairs(sums);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn avx512(y: &mut [i32], w: &Blocks4x4, x: &[i8]) {
        let sign = _mm512_set1_epi8(-128);
        for (band, (y, start)) in y.as_chunks_mut::<4>().0.iter_mut().zip(w.0.offsets().as_chunks::<4>().0).enumerate()
        {
            let (columns, weights) = w.0.band(band);
            let (columns, columns_left) = columns.as_chunks::<FOUR>();
            let (weights, weights_left) = weights.as_chunks::<FOUR>();
            let mut sums = _mm512_setzero_si512();
            for (columns, blocks) in columns.iter().zip(weights) {
                sums = step(sums, blocks, columns.map(|column| quad(x, column)), sign);
            }
            if !columns_left.is_empty() {
                // Blocks of zeros fill up.
                let (mut blocks, mut quads) = ([[0; BLOCK]; FOUR], [0; FOUR]);
                blocks[..weights_left.len()].copy_from_slice(weights_left);
                for (quad_of, &column) in quads.iter_mut().zip(columns_left) {
                    *quad_of = quad(x, column);
                }
                sums = step(sums, &blocks, quads, sign);
            }
            let halves = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
            let found = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            // SAFETY: 16 bytes.
            let start = unsafe { _mm_loadu_si128(start.as_ptr().cast()) };
            let sum = _mm_add_epi32(found, start);
            // SAFETY: 16 bytes.
            unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), sum) }
        }
    }

    /// Four blocks, each in its quarter with its own inputs.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn step(sums: __m512i, blocks: &[[i8; BLOCK]; FOUR], x: [i32; FOUR], sign: __m512i) -> __m512i {
        let inputs = _mm512_set1_epi32(x[0]);
        let inputs = _mm512_mask_set1_epi32(inputs, 0x00f0, x[1]);
        let inputs = _mm512_mask_set1_epi32(inputs, 0x0f00, x[2]);
        let inputs = _mm512_mask_set1_epi32(inputs, 0xf000, x[3]);
        _mm512_dpbusd_epi32(sums, _mm512_xor_si512(inputs, sign), load_64(blocks))
    }
}

pub(super) mod one_by_sixteen {
    use super::super::Blocks1x16;
    use super::{BLOCK, FOUR, fold, load_16, load_64, sixteen};
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_add_epi32, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi8_epi16,
        _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_setzero_si256, _mm512_broadcast_i32x4, _mm512_dpbusd_epi32,
        _mm512_inserti32x4, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_xor_si512,
    };

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn avx2(y: &mut [i32], w: &Blocks1x16, x: &[i8]) {
        for (row, y) in y.iter_mut().enumerate() {
            let (columns, weights) = w.0.band(row);
            let mut sums = _mm256_setzero_si256();
            for (&column, block) in columns.iter().zip(weights) {
                let x = _mm256_cvtepi8_epi16(load_16(sixteen(x, column)));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_cvtepi8_epi16(load_16(block)), x));
            }
            *y = fold(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums)));
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn avx512(y: &mut [i32], w: &Blocks1x16, x: &[i8]) {
        let sign = _mm512_set1_epi8(-128);
        for (row, (y, start)) in y.iter_mut().zip(w.0.offsets()).enumerate() {
            let (columns, weights) = w.0.band(row);
            let (columns, columns_left) = columns.as_chunks::<FOUR>();
            let (weights, weights_left) = weights.as_chunks::<FOUR>();
            let mut sums = _mm512_setzero_si512();
            for (columns, blocks) in columns.iter().zip(weights) {
                sums = step(sums, blocks, columns.map(|column| load_16(sixteen(x, column))), sign);
            }
            if let Some(&first) = columns_left.first() {
                // Blocks of zeros fill up.
                let mut blocks = [[0; BLOCK]; FOUR];
                blocks[..weights_left.len()].copy_from_slice(weights_left);
                let mut inputs = [load_16(sixteen(x, first)); FOUR];
                for (input, &column) in inputs.iter_mut().zip(columns_left) {
                    *input = load_16(sixteen(x, column));
                }
                sums = step(sums, &blocks, inputs, sign);
            }
            *y = _mm512_reduce_add_epi32(sums).wrapping_add(*start);
        }
    }

    /// Four blocks, each in its quarter with its own inputs.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn step(sums: __m512i, blocks: &[[i8; BLOCK]; FOUR], x: [__m128i; FOUR], sign: __m512i) -> __m512i {
        let inputs = _mm512_broadcast_i32x4(x[0]);
        let inputs = _mm512_inserti32x4::<1>(inputs, x[1]);
        let inputs = _mm512_inserti32x4::<2>(inputs, x[2]);
        let inputs = _mm512_inserti32x4::<3>(inputs, x[3]);
        _mm512_dpbusd_epi32(sums, _mm512_xor_si512(inputs, sign), load_64(blocks))
    }
}

pub(super) mod two_of_four {
    use super::super::TwoOfFour;
    use super::super::two_of_four::Line;
    use super::{fold_pairs, spread};
    use crate::pack::LANES;
    use std::arch::x86_64::{
        _mm_loadl_epi64, _mm_loadu_si128, _mm_shuffle_epi8, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_setzero_si256, _mm512_add_epi32, _mm512_castsi256_si512, _mm512_dpbusd_epi32,
        _mm512_loadu_si512, _mm512_maskz_expand_epi8, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512,
        _mm512_storeu_si512, _mm512_xor_si512,
    };

    /// Where each of eight columns, of two outputs, finds its weight among four; a set top bit gives zero.
    const PLACES: [[u8; 8]; 256] = {
        let mut places = [[0x80; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut bit, mut next) = (0, 0);
            while bit < 8 {
                if mask >> bit & 1 == 1 {
                    places[mask][bit] = next;
                    next += 1;
                }
                bit += 1;
            }
            mask += 1;
        }
        places
    };

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn avx2(y: &mut [i32], w: &TwoOfFour, x: &[i8]) {
        for (panel, y) in y.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut sums = [_mm256_setzero_si256(); 4];
            for (line, x) in w.panel(panel).iter().zip(x.as_chunks::<4>().0) {
                let x = spread(i32::from_le_bytes(x.map(i8::cast_unsigned)));
                let masks = line.mask.to_le_bytes();
                for (i, sums) in sums.iter_mut().enumerate() {
                    // Four outputs: eight weights, four for each byte of the mask.
                    let (low, high) = (PLACES[usize::from(masks[2 * i])], PLACES[usize::from(masks[2 * i + 1])]);
                    let places = u128::from(u64::from_le_bytes(low))
                        | u128::from(u64::from_le_bytes(high) | 0x0404_0404_0404_0404) << 64;
                    let eight = &line.weights[8 * i..][..8];
                    // SAFETY: 8 bytes.
                    let eight = unsafe { _mm_loadl_epi64(eight.as_ptr().cast()) };
                    // SAFETY: 16 bytes.
                    let places = unsafe { _mm_loadu_si128(places.to_le_bytes().as_ptr().cast()) };
                    let four_by_four = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(eight, places));
                    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(four_by_four, x));
                }
            }
            for (y, sums) in y.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                *y = fold_pairs(sums);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn avx512(y: &mut [i32], w: &TwoOfFour, x: &[i8]) {
        if std::arch::is_x86_feature_detected!("avx512vbmi2") {
            // SAFETY: the processor has it.
            unsafe { expanded(y, w, x) }
        } else {
            avx2(y, w, x);
        }
    }

    /// With `vpexpandb`, which the first processors of this tier lack.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2")]
    fn expanded(y: &mut [i32], w: &TwoOfFour, x: &[i8]) {
        let (outs, _) = y.as_chunks_mut::<LANES>();
        let (starts, _) = w.offsets().as_chunks::<LANES>();
        let (quads, _) = x.as_chunks::<4>();
        // Panels are streams: four at once hide the latency of memory and of the sums.
        let mut panel = 0;
        while panel < outs.len() {
            if outs.len() - panel >= 4 {
                tile::<4>(&mut outs[panel..], &starts[panel..], w, panel, quads);
                panel += 4;
            } else {
                tile::<1>(&mut outs[panel..], &starts[panel..], w, panel, quads);
                panel += 1;
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi2")]
    fn tile<const P: usize>(
        y: &mut [[i32; LANES]],
        starts: &[[i32; LANES]],
        w: &TwoOfFour,
        panel: usize,
        quads: &[[i8; 4]],
    ) {
        let mut panels: [&[Line]; P] = [&[]; P];
        for i in 0..P {
            panels[i] = &w.panel(panel + i)[..quads.len()];
        }
        let sign = _mm512_set1_epi8(-128);
        let mut sums = [_mm512_setzero_si512(); P];
        for (q, x) in quads.iter().enumerate() {
            let x = _mm512_xor_si512(_mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned))), sign);
            for i in 0..P {
                let line = &panels[i][q];
                // SAFETY: 32 bytes.
                let weights = unsafe { _mm256_loadu_si256(line.weights.as_ptr().cast()) };
                let all = _mm512_maskz_expand_epi8(line.mask, _mm512_castsi256_si512(weights));
                sums[i] = _mm512_dpbusd_epi32(sums[i], x, all);
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            // SAFETY: 64 bytes.
            let start = unsafe { _mm512_loadu_si512(starts[i].as_ptr().cast()) };
            let sums = _mm512_add_epi32(sums, start);
            // SAFETY: 64 bytes.
            unsafe { _mm512_storeu_si512(y[i].as_mut_ptr().cast(), sums) }
        }
    }
}
