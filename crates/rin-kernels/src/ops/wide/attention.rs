//! Attention of one query to the keys and values of its sequence, in integers.
//!
//! ```text
//! q, k = ((x + 2^8) >> 9) in 12 bits, v = ((x + 2^4) >> 5) in 16 bits
//! t[j] = scaled(sum over d of q[d] * k[j, d], factor)
//! p    = softmax in integers of t, at most 2^15 - 1
//! y[d] = (sum over j of p[j] * v[j, d] + 2^9) >> 10
//! ```
//!
//! The factor holds the scales of queries and keys, the root of a head's width and log2(e) · 2^8. Sums fit 32 bits: of at most
//! [`MAX_HEAD`] products of 22 bits, and of probabilities whose sum is 1 up to half a unit each.

use super::softmax::{Powers, divide, weigh};
use super::{Factor, bounded, scaled};

/// Fractional bits of a score's exponent.
pub const FRACTION: u32 = 8;
/// Most elements of a head.
pub const MAX_HEAD: usize = 256;
/// Most positions that a query attends to.
pub const MAX_POSITIONS: usize = 1 << 14;

/// Queries or keys of 12 bits.
#[inline(always)]
pub fn to_twelve_bits(out: &mut [i16], x: &[i32]) {
    for (out, x) in out.iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 12 bits")]
        let small = ((x + (1 << 8)) >> 9).clamp(-(1 << 11), 1 << 11) as i16;
        *out = small;
    }
}

/// Values of 16 bits.
#[inline(always)]
pub fn to_sixteen_bits(out: &mut [i16], x: &[i32]) {
    for (out, x) in out.iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits")]
        let small = ((x + (1 << 4)) >> 5).clamp(-32_767, 32_767) as i16;
        *out = small;
    }
}

/// What a head of a sequence attends to.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// `(positions, head)`, 12 bits.
    pub keys: &'a [i16],
    /// `(positions, head)`.
    pub values: &'a [i16],
    /// From products to exponents.
    pub factor: Factor,
    /// Of [`FRACTION`] fractional bits.
    pub powers: &'a Powers,
}

kernel! {
    /// One query of 12 bits against all positions; `exponents` and `weights` have room for one number per position.
    pub struct Attend(y: &mut [i32], q: &[i16], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]);
    check: |y: &&mut [i32], q: &&[i16], to: &Attended<'_>, exponents: &&mut [i64], weights: &&mut [u32]| {
        let (head, n) = (q.len(), exponents.len());
        assert!((1..=MAX_HEAD).contains(&head) && y.len() == head, "a head of {head}");
        assert!(n <= MAX_POSITIONS && weights.len() == n && n * head == to.keys.len(), "{n} positions");
        assert!(to.keys.len() == to.values.len() && to.factor.is_sound(), "{:?}", to.factor);
        assert!(to.powers.fraction() == FRACTION, "powers of {} bits", to.powers.fraction());
    };
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(y: &mut [i32], q: &[i16], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]) = attend;);

#[inline(always)]
fn attend(y: &mut [i32], q: &[i16], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]) {
    for (t, key) in exponents.iter_mut().zip(to.keys.chunks_exact(q.len())) {
        let dot = q.iter().zip(key).fold(0_i32, |sum, (q, k)| sum.wrapping_add(i32::from(*q) * i32::from(*k)));
        *t = scaled(dot, to.factor);
    }
    let sum = weigh(exponents, FRACTION, to.powers.table(), weights);
    divide(weights, sum);
    y.fill(0);
    for (p, values) in weights.iter().zip(to.values.chunks_exact(q.len())) {
        // A probability of 1 is 2^15, which 16 bits with a sign lack.
        let p = (*p).min(32_767).cast_signed();
        for (y, v) in y.iter_mut().zip(values) {
            *y = y.wrapping_add(p * i32::from(*v));
        }
    }
    for y in y {
        *y = bounded((i64::from(*y) + (1 << 9)) >> 10);
    }
}

#[cfg(test)]
mod tests {
    use super::{Attend, Attended, FRACTION, Factor, Powers, to_sixteen_bits, to_twelve_bits};
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case {
        head: usize,
        q: Vec<i32>,
        k: Vec<i32>,
        v: Vec<i32>,
        factor: Factor,
    }

    impl Case {
        fn of(&self, op: &Attend) -> Vec<i32> {
            let n = self.k.len() / self.head;
            let (mut q, mut keys, mut values) = (vec![0; self.head], vec![0; self.k.len()], vec![0; self.v.len()]);
            to_twelve_bits(&mut q, &self.q);
            to_twelve_bits(&mut keys, &self.k);
            to_sixteen_bits(&mut values, &self.v);
            let powers = Powers::new(FRACTION);
            let to = Attended { keys: &keys, values: &values, factor: self.factor, powers: &powers };
            let mut y = vec![9; self.head];
            op.run(&mut y, &q, to, &mut vec![0; n], &mut vec![0; n]);
            y
        }

        pub(super) fn check(&self, reference: &Attend, candidate: &Attend) {
            assert_eq!(self.of(reference), self.of(candidate), "{} of {}", candidate.tier(), self.k.len());
        }
    }

    fn case(random: &mut Random, head: usize, n: usize, factor: Factor) -> Case {
        let mut row = |n: usize| -> Vec<i32> {
            (0..n).map(|_| i32::try_from(random.below(1 << 19)).unwrap() - (1 << 18)).collect()
        };
        Case { head, q: row(head), k: row(n * head), v: row(n * head), factor }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(74);
        for (head, n) in [(1, 1), (12, 7), (32, 70), (64, 3), (64, 0), (33, 300), (256, 5)] {
            for shift in [35, 44, 50] {
                f(case(&mut random, head, n, Factor { multiplier: 1 << 30, shift }));
            }
        }
    }

    #[test]
    fn it_is_attention() {
        let mut random = Random::new(75);
        let op = Attend::select(&Cpu::detect());
        for (head, n) in [(16, 40), (64, 9)] {
            let case = case(&mut random, head, n, Factor { multiplier: 1 << 30, shift: 42 });
            let found = case.of(&op);
            let twelve = |x: &i32| f64::from((x + 256) >> 9);
            let scores: Vec<f64> = case
                .k
                .chunks(head)
                .map(|k| k.iter().zip(&case.q).map(|(k, q)| twelve(k) * twelve(q)).sum::<f64>() / 4096.0 / 256.0)
                .collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|x| (x - most).exp2()).collect();
            let sum: f64 = weights.iter().sum();
            for (d, found) in found.iter().enumerate() {
                let want: f64 = weights.iter().zip(case.v.chunks(head)).map(|(w, v)| w / sum * f64::from(v[d])).sum();
                // Probabilities are off by less than 1e-3, values lie within 2^18.
                assert!((f64::from(*found) - want).abs() < 600.0, "{head} {n} {d}: {found} for {want}");
            }
        }
    }
}
