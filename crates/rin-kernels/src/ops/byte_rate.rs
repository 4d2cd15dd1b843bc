//! Products of bytes with nothing around them: the rate that a processor's instructions have, for measurements.

use crate::pack::{LANES, LINE};

/// Sums that run beside each other, as many as hide an instruction's latency.
pub const CHAINS: usize = 12;

/// Products of 8-bit numbers in one round: each of them is one multiplication and one addition.
pub const PRODUCTS: usize = CHAINS * LINE;

kernel! {
    /// `times` times: `sums[i, lane] += sum over j < 4 of w[4 lane + j] * x[i, j]`, wrapping. `w` is at most 127.
    ///
    /// All operands stay in registers or the nearest cache, no scale is applied, and nothing is unpacked, so no product of
    /// a model is faster than this on its tier. AMX and NEON have no variant: the first takes its operands from memory, the
    /// second's products are not among the stable instructions.
    pub struct ByteRate(sums: &mut [[i32; LANES]; CHAINS], w: &[u8; LINE], x: &[[i8; 4]; CHAINS], times: usize);
    check: |_: &&mut [[i32; LANES]; CHAINS], w: &&[u8; LINE], _: &&[[i8; 4]; CHAINS], _: &usize| {
        assert!(w.iter().all(|w| *w <= 127), "sums of two products that fit 16 bits");
    };
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => scalar,
        Avx2 if target_arch = "x86_64" => x86::avx2,
        Avx512Vnni if target_arch = "x86_64" => x86::avx512,
    }
}

fn scalar(sums: &mut [[i32; LANES]; CHAINS], w: &[u8; LINE], x: &[[i8; 4]; CHAINS], times: usize) {
    for _ in 0..times {
        // Else the compiler multiplies once.
        let w = std::hint::black_box(w);
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
                for (w, x) in w.iter().zip(x) {
                    *sum = sum.wrapping_add(i32::from(*w) * i32::from(*x));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, LANES, LINE};
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    /// Half of the lanes at a time.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2(sums: &mut [[i32; LANES]; CHAINS], w: &[u8; LINE], x: &[[i8; 4]; CHAINS], times: usize) {
        const HALF: usize = LANES / 2;
        let ones = _mm256_set1_epi16(1);
        for half in 0..2 {
            let w = &w[half * LINE / 2..][..LINE / 2];
            // SAFETY: 32 bytes are read of 32.
            let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
            let mut acc = [_mm256_setzero_si256(); CHAINS];
            let mut columns = [_mm256_setzero_si256(); CHAINS];
            for i in 0..CHAINS {
                let sums = &sums[i][half * HALF..][..HALF];
                // SAFETY: 8 sums are read of 8.
                acc[i] = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
                columns[i] = _mm256_set1_epi32(i32::from_ne_bytes(x[i].map(i8::cast_unsigned)));
            }
            for _ in 0..times {
                for i in 0..CHAINS {
                    let pairs = _mm256_maddubs_epi16(w, columns[i]);
                    acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
                }
                // Else the compiler finds the products once.
                std::hint::black_box(&mut columns);
            }
            for i in 0..CHAINS {
                let sums = &mut sums[i][half * HALF..][..HALF];
                // SAFETY: 8 sums are written of 8.
                unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), acc[i]) };
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(super) fn avx512(sums: &mut [[i32; LANES]; CHAINS], w: &[u8; LINE], x: &[[i8; 4]; CHAINS], times: usize) {
        // SAFETY: 64 bytes.
        let w = unsafe { _mm512_loadu_si512(w.as_ptr().cast()) };
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        let mut columns = [_mm512_setzero_si512(); CHAINS];
        for i in 0..CHAINS {
            // SAFETY: 16 sums are 64 bytes.
            acc[i] = unsafe { _mm512_loadu_si512(sums[i].as_ptr().cast()) };
            columns[i] = _mm512_set1_epi32(i32::from_ne_bytes(x[i].map(i8::cast_unsigned)));
        }
        for _ in 0..times {
            for i in 0..CHAINS {
                acc[i] = _mm512_dpbusd_epi32(acc[i], w, columns[i]);
            }
        }
        for i in 0..CHAINS {
            // SAFETY: as they were loaded.
            unsafe { _mm512_storeu_si512(sums[i].as_mut_ptr().cast(), acc[i]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case {
        sums: [[i32; LANES]; CHAINS],
        w: [u8; LINE],
        x: [[i8; 4]; CHAINS],
        times: usize,
    }

    impl Case {
        pub(super) fn check(&self, reference: &ByteRate, candidate: &ByteRate) {
            let run = |op: &ByteRate| {
                let mut sums = self.sums;
                op.run(&mut sums, &self.w, &self.x, self.times);
                sums
            };
            assert_eq!(run(reference), run(candidate), "{:?}, {} times", candidate.tier(), self.times);
        }
    }

    pub(super) fn for_each_case(check: impl Fn(Case)) {
        let mut random = Random::new(11);
        let mut byte = || random.bits().to_le_bytes()[3];
        for times in [0, 1, 2, 70_000] {
            check(Case {
                sums: std::array::from_fn(|_| std::array::from_fn(|_| i32::from(byte()) << 23)),
                w: std::array::from_fn(|_| byte() & 127),
                x: std::array::from_fn(|_| std::array::from_fn(|_| byte().cast_signed())),
                times,
            });
        }
        check(Case { sums: [[0; LANES]; CHAINS], w: [127; LINE], x: [[-128; 4]; CHAINS], times: 3 });
    }

    #[test]
    fn a_round_is_a_product() {
        let (mut sums, mut w, mut x) = ([[1; LANES]; CHAINS], [0; LINE], [[0; 4]; CHAINS]);
        (w[4 * 5], w[4 * 5 + 3], x[7]) = (100, 9, [-2, 50, 50, 3]);
        ByteRate::select(&Cpu::detect()).run(&mut sums, &w, &x, 10);
        for (i, sums) in sums.iter().enumerate() {
            for (lane, sum) in sums.iter().enumerate() {
                assert_eq!(*sum, if (i, lane) == (7, 5) { 1 + 10 * (9 * 3 - 200) } else { 1 });
            }
        }
    }
}
