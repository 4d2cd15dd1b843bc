//! Activations to 8 bits, one scale per block.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::math::ROUND_F32;

/// How many consecutive values one entry of `sums` covers.
pub const SUM_GROUP: usize = 16;

kernel! {
    /// One row of K values to `q` in `-127..=127`, `x` about `q * d`, with one `d` per `block` values.
    ///
    /// `d = amax / 127` and `q = round(x * (127 / amax))`, ties to even, `amax` being the largest magnitude of the
    /// block. `sums[i]` is the sum of the i-th 16 values of `q`. A block that holds a NaN or an infinity gets
    /// `d = NaN` and `q = 0`, so whatever is multiplied by it shows as NaN; a block whose `d` would be subnormal gets
    /// `d = 0` and `q = 0`.
    ///
    /// Lengths: `q` and `x` K, `d` K / `block`, `sums` K / 16; `block` is a multiple of 16.
    pub struct QuantizeRow(q: &mut [i8], d: &mut [f32], sums: &mut [i16], x: &[f32], block: usize);
    check: |q: &[i8], d: &[f32], sums: &[i16], x: &[f32], block: &usize| check(q, d, sums, x, *block);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => scalar,
        Avx2 if target_arch = "x86_64" => avx2::row,
        NeonDot if target_arch = "aarch64" => neon::row,
    }
}

fn check(q: &[i8], d: &[f32], sums: &[i16], x: &[f32], block: usize) {
    let k = x.len();
    assert!(block > 0 && block.is_multiple_of(SUM_GROUP), "block {block} is no multiple of {SUM_GROUP}");
    assert!(k.is_multiple_of(block), "{k} values are no multiple of the block {block}");
    assert!(q.len() == k, "q holds {} of {k} values", q.len());
    assert!(d.len() == k / block, "d holds {} of {} scales", d.len(), k / block);
    assert!(sums.len() == k / SUM_GROUP, "sums holds {} of {} sums", sums.len(), k / SUM_GROUP);
}

fn scalar(q: &mut [i8], d: &mut [f32], sums: &mut [i16], x: &[f32], block: usize) {
    let blocks = x.chunks_exact(block).zip(q.chunks_exact_mut(block)).zip(sums.chunks_exact_mut(block / SUM_GROUP));
    for (((x, q), sums), d) in blocks.zip(d) {
        let scale = Scale::of(x);
        *d = scale.d;
        for (q, x) in q.iter_mut().zip(x) {
            *q = scale.quantize(*x);
        }
        for (sum, q) in sums.iter_mut().zip(q.as_chunks::<SUM_GROUP>().0) {
            *sum = q.iter().map(|&q| i16::from(q)).sum();
        }
    }
}

/// What a block is multiplied by, and its inverse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// One step of `q`.
    pub(crate) d: f32,
    /// Steps per unit; 0 where the block has none.
    inverse: f32,
}

impl Scale {
    /// The scale of a block of any length.
    #[inline(always)]
    pub(crate) fn of(x: &[f32]) -> Self {
        // Without its sign a float orders like its bits, and NaN lies above all: one integer maximum sees everything.
        Self::from_magnitude(x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff)))
    }

    /// The scale for the bits of the largest magnitude.
    #[inline(always)]
    fn from_magnitude(bits: u32) -> Self {
        let amax = f32::from_bits(bits);
        if bits >= f32::INFINITY.to_bits() {
            Self { d: f32::NAN, inverse: 0.0 }
        } else if amax < 127.0 * f32::MIN_POSITIVE {
            Self { d: 0.0, inverse: 0.0 }
        } else {
            Self { d: amax / 127.0, inverse: 127.0 / amax }
        }
    }

    /// `x` in steps; 0 where the block has none.
    #[inline(always)]
    pub(crate) fn quantize(self, x: f32) -> i8 {
        if self.inverse == 0.0 {
            return 0;
        }
        // The addition rounds to an integer and leaves it in the low bits. |x| * (127 / amax) is at most 127 and a
        // rounding error, so the clamp is a definition, never a correction.
        let steps = (x * self.inverse + ROUND_F32).to_bits().wrapping_sub(ROUND_F32.to_bits()).cast_signed();
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        let q = steps.clamp(-127, 127) as i8;
        q
    }
}

#[cfg(test)]
mod tests {
    use super::QuantizeRow;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        x: Vec<f32>,
        block: usize,
    }

    type Quantized = (Vec<i8>, Vec<f32>, Vec<i16>);

    impl Case {
        fn of(&self, op: &QuantizeRow) -> Quantized {
            let k = self.x.len();
            let (mut q, mut d, mut sums) = (vec![99; k], vec![9.0; k / self.block], vec![9; k / 16]);
            op.run(&mut q, &mut d, &mut sums, &self.x, self.block);
            (q, d, sums)
        }

        pub(super) fn check(&self, reference: &QuantizeRow, candidate: &QuantizeRow) {
            let (want, got) = (self.of(reference), self.of(candidate));
            assert_eq!(want.0, got.0, "{} in blocks of {}", candidate.tier(), self.block);
            assert_eq!(bits(&want.1), bits(&got.1), "{} in blocks of {}", candidate.tier(), self.block);
            assert_eq!(want.2, got.2, "{} in blocks of {}", candidate.tier(), self.block);
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(9);
        for block in [16, 32, 48, 256] {
            for blocks in 0..10 {
                let k = block * blocks;
                f(Case { x: random.normals(k), block });
                f(Case { x: random.anything(k), block });
                let exponent = 10_f32.powi(i32::try_from(random.below(80)).unwrap() - 45);
                f(Case { x: random.normals(k).iter().map(|x| x * exponent).collect(), block });
                let mut one = random.normals(k);
                if k > 0 {
                    one[random.below(k)] = f32::NEG_INFINITY;
                }
                f(Case { x: one, block });
            }
        }
    }

    fn quantized(x: Vec<f32>, block: usize) -> Quantized {
        Case { x, block }.of(&QuantizeRow::select(&Cpu::detect()))
    }

    #[test]
    fn is_the_definition() {
        let mut random = Random::new(10);
        for block in [32, 256] {
            let x = random.normals(4 * block);
            let (q, d, sums) = quantized(x.clone(), block);
            for (b, x) in x.chunks(block).enumerate() {
                let amax = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                assert_eq!(d[b].to_bits(), (amax / 127.0).to_bits());
                for (x, &q) in x.iter().zip(&q[b * block..]) {
                    assert_eq!(f32::from(q).to_bits(), ((x * (127.0 / amax)).round_ties_even() + 0.0).to_bits());
                }
            }
            for (q, &sum) in q.chunks(16).zip(&sums) {
                assert_eq!(q.iter().map(|&q| i16::from(q)).sum::<i16>(), sum);
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_the_largest_magnitude_to_127() {
        let mut x = vec![0.0; 16];
        x[..7].copy_from_slice(&[-127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]);
        assert_eq!(quantized(x, 16).0[..7], [-127, 0, 2, 2, 0, -2, -2]);
    }

    #[test]
    fn minus_128_never_comes_out() {
        let mut random = Random::new(11);
        for _ in 0..2000 {
            let amax = f32::from_bits(random.bits() & 0x7fff_ffff);
            if amax.is_finite() {
                assert!(
                    quantized(vec![-amax; 16], 16).0.iter().all(|&q| q == -127 || q == 0 && amax < 1e-35),
                    "{amax:e}"
                );
            }
        }
    }

    #[test]
    fn a_block_without_a_scale_says_so() {
        for (bad, d) in [(f32::NAN, f32::NAN), (f32::NEG_INFINITY, f32::NAN), (1e-37, 0.0), (0.0, 0.0)] {
            let mut x = vec![0.0; 64];
            x[40] = bad;
            x[3] = 2.0;
            let (q, scales, sums) = quantized(x, 32);
            assert_eq!(q[32..], [0; 32]);
            assert_eq!(sums, [127, 0, 0, 0]);
            assert_eq!(bits(&scales), bits(&[2.0 / 127.0, d]));
        }
    }
}
