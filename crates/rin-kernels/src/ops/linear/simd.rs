//! The registers that the products of x86 are written over: one trait, a type per tier.
//!
//! A line of 64 bytes (16 rows × 4 columns) is one register of AVX-512 or two of AVX2. What a tier does differently is
//! how wide it is and how it multiplies bytes; the rest, the walk over blocks and tokens, is written once in
//! [`tile`](super::tile). All operations are exact or rounded once, elementwise, so every tier gives the same bits.

use crate::Format;
use crate::pack::{LANES, LINE};
use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _CMP_UNORD_Q, _mm_loadl_epi64, _mm_loadu_si128, _mm_unpackhi_epi8,
    _mm_unpacklo_epi8, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_mullo_epi32, _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi16, _mm256_slli_epi32,
    _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_epi32, _mm256_xor_si256, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi8_epi16, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_ps,
    _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16,
    _mm512_storeu_ps, _mm512_sub_epi32,
};

/// One register of integers and one of floats, with what the products need of them. Only the entry points of a tier
/// name the type of that tier, which is what makes its methods sound.
///
/// Rows of a register: [`Simd::ROWS`]. A *part* is the number of the register within a line.
pub(super) trait Simd: Copy {
    /// Bytes, pairs of 16 bits, or numbers of 32 bits.
    type Int: Copy;
    /// Numbers of 32 bits.
    type Float: Copy;

    /// Registers to a line.
    const PARTS: usize;
    /// Rows in a register.
    const ROWS: usize = LANES / Self::PARTS;
    /// Tokens for which the accumulators, and the codes of 32 columns beside them, fit the registers.
    const TOKENS: usize;
    /// Whether [`Simd::dot`] takes bytes for weights, its offset of 128 taken off, rather than for codes.
    const DOT_OF_WEIGHTS: bool;

    fn zero() -> Self::Int;
    fn splat8(x: u8) -> Self::Int;
    fn splat16(x: i16) -> Self::Int;
    /// The first bytes of `line`, as many as a register holds.
    fn load(line: &[u8]) -> Self::Int;
    fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    fn shift_left16<const N: u32>(a: Self::Int) -> Self::Int;
    fn shift_right16<const N: u32>(a: Self::Int) -> Self::Int;
    fn shift_left32<const N: u32>(a: Self::Int) -> Self::Int;
    fn add32(a: Self::Int, b: Self::Int) -> Self::Int;
    fn sub32(a: Self::Int, b: Self::Int) -> Self::Int;
    fn mul32(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Unsigned bytes, one per row.
    fn unsigned(bytes: &[u8]) -> Self::Int;
    /// Signed bytes, one per row.
    fn signed(bytes: &[u8]) -> Self::Int;
    /// Signed bytes of two lists, one of each per row, as pairs of 16 bits. Takes whole lists of [`LANES`] bytes.
    fn signed_pairs(a: &[u8], b: &[u8], part: usize) -> Self::Int;
    /// `sum + pairs.0 * x[0] + pairs.1 * x[1]`.
    fn dot_pairs(sum: Self::Int, pairs: Self::Int, x: [i16; 2]) -> Self::Int;
    /// `start + lines · q` for `4 N` columns: unsigned codes of format `F`, and `q` in −127..=127.
    fn dot<const F: usize, const N: usize>(start: Self::Int, lines: &[Self::Int; N], q: &[i8]) -> Self::Int;

    fn zero_float() -> Self::Float;
    fn splat(x: f32) -> Self::Float;
    /// Numbers of 32 bits, rounded to nearest.
    fn to_float(x: Self::Int) -> Self::Float;
    /// IEEE halves, one per row.
    fn load_f16(bytes: &[u8]) -> Self::Float;
    /// bfloat16, one per row.
    fn load_bf16(bytes: &[u8]) -> Self::Float;
    /// f32, one per row.
    fn load_f32(bytes: &[u8]) -> Self::Float;
    fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c − a * b`, rounded once.
    fn neg_mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// [`canonical`](crate::math::canonical).
    fn canonical(x: Self::Float) -> Self::Float;
    /// As [`Simd::store`] left them.
    fn load_lanes(sums: &[f32]) -> Self::Float;
    fn store(x: Self::Float, out: &mut [f32]);
}

/// Bytes `4 i..4 i + 4` of `q` as one number.
#[inline(always)]
fn four(q: &[i8], i: usize) -> i32 {
    let (fours, _) = q.as_chunks::<4>();
    number(fours[i])
}

/// Four bytes as one number. No `map`: that would not be inlined into a function with target features.
#[inline(always)]
pub(super) const fn number([a, b, c, d]: [i8; 4]) -> i32 {
    i32::from_ne_bytes([a.cast_unsigned(), b.cast_unsigned(), c.cast_unsigned(), d.cast_unsigned()])
}

/// Two numbers of 16 bits as one of 32.
#[inline(always)]
fn two(x: [i16; 2]) -> i32 {
    i32::from(x[0].cast_unsigned()) | i32::from(x[1]) << 16
}

/// Sixteen bytes.
#[inline(always)]
fn sixteen(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: `bytes` is 16 bytes and the load is unaligned; the instruction is part of every x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Calls an intrinsic of the tier whose type this is.
macro_rules! tier {
    ($($call:tt)*) => {{
        // SAFETY: only code of the tier names its type, and it runs where a handle has seen the tier's features.
        unsafe { $($call)* }
    }};
}

/// AVX2 with FMA and F16C: half a line.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

impl Simd for Avx2 {
    type Int = __m256i;
    type Float = __m256;

    const PARTS: usize = 2;
    const TOKENS: usize = 4;
    const DOT_OF_WEIGHTS: bool = true;

    #[inline(always)]
    fn zero() -> __m256i {
        tier!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn splat8(x: u8) -> __m256i {
        tier!(_mm256_set1_epi8(x.cast_signed()))
    }

    #[inline(always)]
    fn splat16(x: i16) -> __m256i {
        tier!(_mm256_set1_epi16(x))
    }

    #[inline(always)]
    fn load(line: &[u8]) -> __m256i {
        let half = &line[..LINE / 2];
        // SAFETY: `half` is 32 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
    }

    #[inline(always)]
    fn and(a: __m256i, b: __m256i) -> __m256i {
        tier!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(a: __m256i, b: __m256i) -> __m256i {
        tier!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn shift_left16<const N: u32>(a: __m256i) -> __m256i {
        tier!(match N {
            1 => _mm256_slli_epi16::<1>(a),
            2 => _mm256_slli_epi16::<2>(a),
            3 => _mm256_slli_epi16::<3>(a),
            4 => _mm256_slli_epi16::<4>(a),
            _ => a,
        })
    }

    #[inline(always)]
    fn shift_right16<const N: u32>(a: __m256i) -> __m256i {
        tier!(match N {
            1 => _mm256_srli_epi16::<1>(a),
            2 => _mm256_srli_epi16::<2>(a),
            3 => _mm256_srli_epi16::<3>(a),
            4 => _mm256_srli_epi16::<4>(a),
            6 => _mm256_srli_epi16::<6>(a),
            8 => _mm256_srli_epi16::<8>(a),
            _ => a,
        })
    }

    #[inline(always)]
    fn shift_left32<const N: u32>(a: __m256i) -> __m256i {
        tier!(match N {
            5 => _mm256_slli_epi32::<5>(a),
            _ => a,
        })
    }

    #[inline(always)]
    fn add32(a: __m256i, b: __m256i) -> __m256i {
        tier!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub32(a: __m256i, b: __m256i) -> __m256i {
        tier!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn mul32(a: __m256i, b: __m256i) -> __m256i {
        tier!(_mm256_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn unsigned(bytes: &[u8]) -> __m256i {
        let eight = eight(bytes);
        tier!(_mm256_cvtepu8_epi32(eight))
    }

    #[inline(always)]
    fn signed(bytes: &[u8]) -> __m256i {
        let eight = eight(bytes);
        tier!(_mm256_cvtepi8_epi32(eight))
    }

    #[inline(always)]
    fn signed_pairs(a: &[u8], b: &[u8], part: usize) -> __m256i {
        let (a, b) = (eight(&a[part * 8..]), eight(&b[part * 8..]));
        let pairs = tier!(_mm_unpacklo_epi8(a, b));
        tier!(_mm256_cvtepi8_epi16(pairs))
    }

    #[inline(always)]
    fn dot_pairs(sum: __m256i, pairs: __m256i, x: [i16; 2]) -> __m256i {
        let x = tier!(_mm256_set1_epi32(two(x)));
        let products = tier!(_mm256_madd_epi16(pairs, x));
        Self::add32(sum, products)
    }

    /// Codes of up to 6 bits go through `maddubs`, and as many of its results are added up in 16 bits as cannot
    /// overflow. A code of 8 bits with its top bit flipped is the weight itself: its magnitude, at most 128, is the
    /// unsigned operand and its sign goes over to `q`; two such products make at most 32,512.
    #[inline(always)]
    fn dot<const F: usize, const N: usize>(start: __m256i, lines: &[__m256i; N], q: &[i8]) -> __m256i {
        let bits = const { Format::ALL[F].code_bits() };
        let ones = Self::splat16(1);
        let mut sum = start;
        if bits == 8 {
            let top = Self::splat8(0x80);
            for (i, line) in lines.iter().enumerate() {
                let x = tier!(_mm256_set1_epi32(four(q, i)));
                let weight = tier!(_mm256_xor_si256(*line, top));
                let magnitude = tier!(_mm256_abs_epi8(weight));
                let signed = tier!(_mm256_sign_epi8(x, weight));
                let products = tier!(_mm256_maddubs_epi16(magnitude, signed));
                let wide = tier!(_mm256_madd_epi16(products, ones));
                sum = Self::add32(sum, wide);
            }
            return sum;
        }
        // The largest code times 127, twice, so many times, stays below 2^15.
        let together = match bits {
            2 | 4 => 8,
            5 => 4,
            _ => 2,
        };
        let mut products = Self::zero();
        for (i, line) in lines.iter().enumerate() {
            let x = tier!(_mm256_set1_epi32(four(q, i)));
            let next = tier!(_mm256_maddubs_epi16(*line, x));
            products = if i % together == 0 { next } else { tier!(_mm256_add_epi16(products, next)) };
            if i % together == together - 1 || i == N - 1 {
                let wide = tier!(_mm256_madd_epi16(products, ones));
                sum = Self::add32(sum, wide);
            }
        }
        sum
    }

    #[inline(always)]
    fn zero_float() -> __m256 {
        tier!(_mm256_setzero_ps())
    }

    #[inline(always)]
    fn splat(x: f32) -> __m256 {
        tier!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    fn to_float(x: __m256i) -> __m256 {
        tier!(_mm256_cvtepi32_ps(x))
    }

    #[inline(always)]
    fn load_f16(bytes: &[u8]) -> __m256 {
        let halves = sixteen(bytes);
        tier!(_mm256_cvtph_ps(halves))
    }

    #[inline(always)]
    fn load_bf16(bytes: &[u8]) -> __m256 {
        let halves = sixteen(bytes);
        let wide = tier!(_mm256_cvtepu16_epi32(halves));
        let bits = tier!(_mm256_slli_epi32::<16>(wide));
        tier!(_mm256_castsi256_ps(bits))
    }

    #[inline(always)]
    fn load_f32(bytes: &[u8]) -> __m256 {
        let half = &bytes[..LINE / 2];
        // SAFETY: `half` is 32 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm256_loadu_ps(half.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(a: __m256, b: __m256) -> __m256 {
        tier!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(a: __m256, b: __m256) -> __m256 {
        tier!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        tier!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        tier!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn canonical(x: __m256) -> __m256 {
        let nan = tier!(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        tier!(_mm256_blendv_ps(x, Self::splat(f32::NAN), nan))
    }

    #[inline(always)]
    fn load_lanes(sums: &[f32]) -> __m256 {
        let sums = &sums[..LANES / 2];
        // SAFETY: `sums` is 32 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm256_loadu_ps(sums.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: `out` is 32 bytes and the store is unaligned; the tier as in `tier!`.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
    }
}

/// Eight bytes.
#[inline(always)]
fn eight(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..8];
    // SAFETY: 8 bytes are read of 8; the instruction is part of every x86-64.
    unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }
}

/// AVX-512 with VNNI: a line.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

impl Avx512 {
    /// Four bytes for every row.
    #[inline(always)]
    pub(super) fn splat32(x: i32) -> __m512i {
        tier!(_mm512_set1_epi32(x))
    }

    /// `sum + line · x` for 4 columns: unsigned bytes, and `x` in −127..=127.
    #[inline(always)]
    pub(super) fn dot4(sum: __m512i, line: __m512i, x: __m512i) -> __m512i {
        tier!(_mm512_dpbusd_epi32(sum, line, x))
    }
}

impl Simd for Avx512 {
    type Int = __m512i;
    type Float = __m512;

    const PARTS: usize = 1;
    const TOKENS: usize = 8;
    const DOT_OF_WEIGHTS: bool = false;

    #[inline(always)]
    fn zero() -> __m512i {
        tier!(_mm512_setzero_si512())
    }

    #[inline(always)]
    fn splat8(x: u8) -> __m512i {
        tier!(_mm512_set1_epi8(x.cast_signed()))
    }

    #[inline(always)]
    fn splat16(x: i16) -> __m512i {
        tier!(_mm512_set1_epi16(x))
    }

    #[inline(always)]
    fn load(line: &[u8]) -> __m512i {
        let line = &line[..LINE];
        // SAFETY: `line` is 64 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }

    #[inline(always)]
    fn and(a: __m512i, b: __m512i) -> __m512i {
        tier!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(a: __m512i, b: __m512i) -> __m512i {
        tier!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn shift_left16<const N: u32>(a: __m512i) -> __m512i {
        tier!(_mm512_slli_epi16::<N>(a))
    }

    #[inline(always)]
    fn shift_right16<const N: u32>(a: __m512i) -> __m512i {
        tier!(_mm512_srli_epi16::<N>(a))
    }

    #[inline(always)]
    fn shift_left32<const N: u32>(a: __m512i) -> __m512i {
        tier!(_mm512_slli_epi32::<N>(a))
    }

    #[inline(always)]
    fn add32(a: __m512i, b: __m512i) -> __m512i {
        tier!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub32(a: __m512i, b: __m512i) -> __m512i {
        tier!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn mul32(a: __m512i, b: __m512i) -> __m512i {
        tier!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn unsigned(bytes: &[u8]) -> __m512i {
        let bytes = sixteen(bytes);
        tier!(_mm512_cvtepu8_epi32(bytes))
    }

    #[inline(always)]
    fn signed(bytes: &[u8]) -> __m512i {
        let bytes = sixteen(bytes);
        tier!(_mm512_cvtepi8_epi32(bytes))
    }

    #[inline(always)]
    fn signed_pairs(a: &[u8], b: &[u8], _part: usize) -> __m512i {
        let (a, b) = (sixteen(a), sixteen(b));
        let low = tier!(_mm_unpacklo_epi8(a, b));
        let high = tier!(_mm_unpackhi_epi8(a, b));
        let pairs = tier!(_mm256_set_m128i(high, low));
        tier!(_mm512_cvtepi8_epi16(pairs))
    }

    #[inline(always)]
    fn dot_pairs(sum: __m512i, pairs: __m512i, x: [i16; 2]) -> __m512i {
        let x = tier!(_mm512_set1_epi32(two(x)));
        tier!(_mm512_dpwssd_epi32(sum, pairs, x))
    }

    #[inline(always)]
    fn dot<const F: usize, const N: usize>(start: __m512i, lines: &[__m512i; N], q: &[i8]) -> __m512i {
        let mut sum = start;
        for (i, line) in lines.iter().enumerate() {
            sum = Self::dot4(sum, *line, Self::splat32(four(q, i)));
        }
        sum
    }

    #[inline(always)]
    fn zero_float() -> __m512 {
        tier!(_mm512_setzero_ps())
    }

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        tier!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn to_float(x: __m512i) -> __m512 {
        tier!(_mm512_cvtepi32_ps(x))
    }

    #[inline(always)]
    fn load_f16(bytes: &[u8]) -> __m512 {
        let halves = thirty_two(bytes);
        tier!(_mm512_cvtph_ps(halves))
    }

    #[inline(always)]
    fn load_bf16(bytes: &[u8]) -> __m512 {
        let halves = thirty_two(bytes);
        let wide = tier!(_mm512_cvtepu16_epi32(halves));
        let bits = tier!(_mm512_slli_epi32::<16>(wide));
        tier!(_mm512_castsi512_ps(bits))
    }

    #[inline(always)]
    fn load_f32(bytes: &[u8]) -> __m512 {
        let line = &bytes[..LINE];
        // SAFETY: `line` is 64 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm512_loadu_ps(line.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        tier!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        tier!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        tier!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        tier!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn canonical(x: __m512) -> __m512 {
        let nan = tier!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x));
        tier!(_mm512_mask_blend_ps(nan, x, Self::splat(f32::NAN)))
    }

    #[inline(always)]
    fn load_lanes(sums: &[f32]) -> __m512 {
        let sums = &sums[..LANES];
        // SAFETY: `sums` is 64 bytes and the load is unaligned; the tier as in `tier!`.
        unsafe { _mm512_loadu_ps(sums.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: __m512, out: &mut [f32]) {
        let out = &mut out[..LANES];
        // SAFETY: `out` is 64 bytes and the store is unaligned; the tier as in `tier!`.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    }
}

/// Sixteen halves.
#[inline(always)]
fn thirty_two(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: `bytes` is 32 bytes and the load is unaligned; the tier as in `tier!`.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
