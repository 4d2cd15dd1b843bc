//! Sixteen floats in registers, one type per tier.
//!
//! The compiler vectorises loops over `[f32; 16]`, but not dependably where accumulators stay in registers across a
//! loop, which is what attention lives on. So its inner loops are written once over [`Lanes`], whose operations are
//! elementwise and exactly rounded, hence the same bits on every tier.

use crate::half::f16_to_f32;
use crate::math::fold16;

/// Sixteen `f32`. Only the wrappers of a tier, made by `lane_tiers!`, name the type of that tier.
pub(in crate::ops) trait Lanes: Copy {
    /// Accumulators that stay in registers beside what is added to them.
    const ACCUMULATORS: usize;
    /// Rows that share one pass over a page: each line of it is widened once for all of them.
    const ROWS: usize = 4;

    fn splat(x: f32) -> Self;
    fn load(x: &[f32; 16]) -> Self;
    fn load_f16(x: &[u16; 16]) -> Self;
    fn load_i8(x: &[i8; 16]) -> Self;
    fn store(self, y: &mut [f32; 16]);
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The sum in the order of [`fold16`].
    fn sum(self) -> f32;
    /// [`fold16`] with [`larger`].
    fn largest(self) -> f32;
    /// Does `work` in a function of its own. Inlined among others, a loop may lose its registers to them.
    fn apart<W: Work<Self>>(work: W);
}

/// What [`Lanes::apart`] does.
pub(in crate::ops) trait Work<L> {
    /// Always inlined, or the tier's instructions are out of reach.
    fn run(self);
}

/// The second where it is above the first; a NaN is above nothing.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Plain arrays: the definition.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Portable([f32; 16]);

impl Lanes for Portable {
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 16])
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> Self {
        Self(*x)
    }

    #[inline(always)]
    fn load_f16(x: &[u16; 16]) -> Self {
        Self(x.map(f16_to_f32))
    }

    #[inline(always)]
    fn load_i8(x: &[i8; 16]) -> Self {
        Self(x.map(f32::from))
    }

    #[inline(always)]
    fn store(self, y: &mut [f32; 16]) {
        *y = self.0;
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let mut sum = addend;
        for i in 0..16 {
            sum.0[i] = self.0[i].mul_add(factor.0[i], addend.0[i]);
        }
        sum
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        fold16(&self.0, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        fold16(&self.0, larger)
    }

    fn apart<W: Work<Self>>(work: W) {
        work.run();
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::ops) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps,
        _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_cvtepi8_epi32,
        _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_loadu_si256, _mm256_max_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_castps512_ps256,
        _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_extractf32x8_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{Lanes, Work};

    /// Two registers of the `avx2` tier (AVX2, FMA, F16C).
    #[derive(Clone, Copy)]
    pub(in crate::ops) struct Avx2([__m256; 2]);

    impl Lanes for Avx2 {
        const ACCUMULATORS: usize = 4;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: only code of a tier with AVX2 names this type.
            Self([unsafe { _mm256_set1_ps(x) }; 2])
        }

        #[inline(always)]
        fn load(x: &[f32; 16]) -> Self {
            let (halves, _) = x.as_chunks::<8>();
            // SAFETY: 8 floats are 32 bytes; the tier as above.
            let half = |i: usize| unsafe { _mm256_loadu_ps(halves[i].as_ptr()) };
            Self([half(0), half(1)])
        }

        #[inline(always)]
        fn load_f16(x: &[u16; 16]) -> Self {
            let (halves, _) = x.as_chunks::<8>();
            // SAFETY: 8 halves are 16 bytes; the tier, with F16C, as above.
            let bits = |i: usize| unsafe { _mm_loadu_si128(halves[i].as_ptr().cast()) };
            // SAFETY: the tier as above.
            let half = |i: usize| unsafe { _mm256_cvtph_ps(bits(i)) };
            Self([half(0), half(1)])
        }

        #[inline(always)]
        fn load_i8(x: &[i8; 16]) -> Self {
            let (halves, _) = x.as_chunks::<8>();
            // SAFETY: 8 bytes are read of 8; the tier as above.
            let bytes = |i: usize| unsafe { _mm_loadl_epi64(halves[i].as_ptr().cast()) };
            // SAFETY: the tier as above.
            let wide = |i: usize| unsafe { _mm256_cvtepi8_epi32(bytes(i)) };
            // SAFETY: the tier as above.
            let half = |i: usize| unsafe { _mm256_cvtepi32_ps(wide(i)) };
            Self([half(0), half(1)])
        }

        #[inline(always)]
        fn store(self, y: &mut [f32; 16]) {
            let (halves, _) = y.as_chunks_mut::<8>();
            for i in 0..2 {
                // SAFETY: 8 floats are 32 bytes; the tier as above.
                unsafe { _mm256_storeu_ps(halves[i].as_mut_ptr(), self.0[i]) };
            }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: the tier, with FMA, as above.
            let half = |i: usize| unsafe { _mm256_fmadd_ps(self.0[i], factor.0[i], addend.0[i]) };
            Self([half(0), half(1)])
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: only code of a tier with AVX2 names this type.
            unsafe { sum_of_pair(self.0) }
        }

        #[inline(always)]
        fn largest(self) -> f32 {
            // SAFETY: as above.
            unsafe { largest_of_pair(self.0) }
        }

        #[inline(always)]
        fn apart<W: Work<Self>>(work: W) {
            #[inline(never)]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn inner<W: Work<Avx2>>(work: W) {
                work.run();
            }
            // SAFETY: only code of a tier with AVX2, FMA and F16C names this type.
            unsafe { inner(work) }
        }
    }

    /// One register of the `avx512` tier.
    #[derive(Clone, Copy)]
    pub(in crate::ops) struct Avx512(__m512);

    impl Lanes for Avx512 {
        const ACCUMULATORS: usize = 16;
        const ROWS: usize = 8;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: only code of a tier with AVX-512 names this type.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(x: &[f32; 16]) -> Self {
            // SAFETY: 16 floats are 64 bytes; the tier as above.
            Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }

        #[inline(always)]
        fn load_f16(x: &[u16; 16]) -> Self {
            // SAFETY: 16 halves are 32 bytes; the tier as above.
            let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            // SAFETY: the tier as above.
            Self(unsafe { _mm512_cvtph_ps(bits) })
        }

        #[inline(always)]
        fn load_i8(x: &[i8; 16]) -> Self {
            // SAFETY: 16 bytes are read of 16; the tier as above.
            let bytes = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
            // SAFETY: the tier as above.
            let wide = unsafe { _mm512_cvtepi8_epi32(bytes) };
            // SAFETY: the tier as above.
            Self(unsafe { _mm512_cvtepi32_ps(wide) })
        }

        #[inline(always)]
        fn store(self, y: &mut [f32; 16]) {
            // SAFETY: 16 floats are 64 bytes; the tier as above.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), self.0) };
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: the tier as above.
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: the tier as above, which has AVX2 too.
            unsafe { sum_of_16(self.0) }
        }

        #[inline(always)]
        fn largest(self) -> f32 {
            // SAFETY: the tier as above, which has AVX2 too.
            unsafe { largest_of_16(self.0) }
        }

        #[inline(always)]
        fn apart<W: Work<Self>>(work: W) {
            #[inline(never)]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn inner<W: Work<Avx512>>(work: W) {
                work.run();
            }
            // SAFETY: only code of a tier with AVX-512 names this type.
            unsafe { inner(work) }
        }
    }

    /// Lanes 0 to 7, and 8 to 15.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn halves(x: __m512) -> [__m256; 2] {
        [_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn sum_of_16(x: __m512) -> f32 {
        sum_of_pair(halves(x))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn largest_of_16(x: __m512) -> f32 {
        largest_of_pair(halves(x))
    }

    /// Lanes that are 8 apart, then 4, then 2, then neighbours: the order of `fold16`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum_of_pair([low, high]: [__m256; 2]) -> f32 {
        let eight = _mm256_add_ps(low, high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }

    /// As [`sum_of_pair`], with [`larger`](super::larger): `max` gives its second operand where neither is above the other.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn largest_of_pair([low, high]: [__m256; 2]) -> f32 {
        let eight = _mm256_max_ps(high, low);
        let four = _mm_max_ps(_mm256_extractf128_ps::<1>(eight), _mm256_castps256_ps128(eight));
        let two = _mm_max_ps(_mm_movehl_ps(four, four), four);
        _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(two), two))
    }
}

#[cfg(target_arch = "aarch64")]
pub(in crate::ops) use aarch64::Neon;

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::{
        float32x4_t, vcvt_f32_f16, vcvtq_f32_s32, vdupq_n_f32, vfmaq_f32, vget_high_s8, vget_high_s16, vget_low_s8,
        vget_low_s16, vld1_u16, vld1q_f32, vld1q_s8, vmovl_s8, vmovl_s16, vreinterpret_f16_u16, vst1q_f32,
    };

    use super::{Lanes, Work, larger};
    use crate::math::fold16;

    /// Four registers of the `neon` tier.
    #[derive(Clone, Copy)]
    pub(in crate::ops) struct Neon([float32x4_t; 4]);

    impl Lanes for Neon {
        const ACCUMULATORS: usize = 4;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: only code of the tier with NEON names this type.
            Self([unsafe { vdupq_n_f32(x) }; 4])
        }

        #[inline(always)]
        fn load(x: &[f32; 16]) -> Self {
            let (quarters, _) = x.as_chunks::<4>();
            // SAFETY: 4 floats are 16 bytes; the tier as above.
            let quarter = |i: usize| unsafe { vld1q_f32(quarters[i].as_ptr()) };
            Self([quarter(0), quarter(1), quarter(2), quarter(3)])
        }

        #[inline(always)]
        fn load_f16(x: &[u16; 16]) -> Self {
            let (quarters, _) = x.as_chunks::<4>();
            // SAFETY: the tier as above.
            let quarter = |i: usize| unsafe { halves(&quarters[i]) };
            Self([quarter(0), quarter(1), quarter(2), quarter(3)])
        }

        #[inline(always)]
        fn load_i8(x: &[i8; 16]) -> Self {
            // SAFETY: the tier as above.
            Self(unsafe { bytes(x) })
        }

        #[inline(always)]
        fn store(self, y: &mut [f32; 16]) {
            let (quarters, _) = y.as_chunks_mut::<4>();
            for i in 0..4 {
                // SAFETY: 4 floats are 16 bytes; the tier as above.
                unsafe { vst1q_f32(quarters[i].as_mut_ptr(), self.0[i]) };
            }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: the tier as above.
            let quarter = |i: usize| unsafe { vfmaq_f32(addend.0[i], self.0[i], factor.0[i]) };
            Self([quarter(0), quarter(1), quarter(2), quarter(3)])
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            let mut lanes = [0.0; 16];
            self.store(&mut lanes);
            fold16(&lanes, |a, b| a + b)
        }

        #[inline(always)]
        fn largest(self) -> f32 {
            let mut lanes = [0.0; 16];
            self.store(&mut lanes);
            fold16(&lanes, larger)
        }

        #[inline(always)]
        fn apart<W: Work<Self>>(work: W) {
            #[inline(never)]
            #[target_feature(enable = "neon,dotprod")]
            fn inner<W: Work<Neon>>(work: W) {
                work.run();
            }
            // SAFETY: only code of the tier with NEON names this type.
            unsafe { inner(work) }
        }
    }

    /// Four halves as f32.
    #[inline]
    #[target_feature(enable = "neon")]
    fn halves(x: &[u16; 4]) -> float32x4_t {
        // SAFETY: 4 halves are 8 bytes.
        vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(x.as_ptr()) }))
    }

    /// Sixteen signed bytes as f32.
    #[inline]
    #[target_feature(enable = "neon")]
    fn bytes(x: &[i8; 16]) -> [float32x4_t; 4] {
        // SAFETY: 16 bytes are read of 16.
        let bytes = unsafe { vld1q_s8(x.as_ptr()) };
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
        let fours = [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)];
        fours.map(|four| vcvtq_f32_s32(vmovl_s16(four)))
    }
}

/// `tiers!` for a body that is generic over [`Lanes`]: each tier gets its own type as the last parameter.
macro_rules! lane_tiers {
    ( fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ) = $body:ident :: <$Element:ty>; ) => {
        mod $name {
            use $crate::ops::attention::{RowState, lanes, page::$body};
            pub(super) fn scalar($($arg: $ty),*) { $body::<$Element, lanes::Portable>($($arg),*); }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn avx2($($arg: $ty),*) { $body::<$Element, lanes::Avx2>($($arg),*); }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            pub(super) fn avx512($($arg: $ty),*) { $body::<$Element, lanes::Avx512>($($arg),*); }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            pub(super) fn neon($($arg: $ty),*) { $body::<$Element, lanes::Neon>($($arg),*); }
        }
    };
}
