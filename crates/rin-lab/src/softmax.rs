//! Softmax in integers: exact up to a proven bound, and with shifts alone.
//!
//! Weights are fractions with [`UNIT_BITS`] bits; a base-2 exponent has `f` fractional bits. Four forms:
//!
//! - [`IntSoftmax::exact`]: `e = 2^-(u / 2^f)` from a table of 2^f entries and a shift, `u = max − t`, then a rounded division by the sum;
//! - [`IntSoftmax::whole`]: the same, rounded so that a row's results sum to one however long it is: each is the difference of two
//!   rounded sums up to a place;
//! - [`IntSoftmax::denominator_power`]: the same numerators over the power of two nearest to their sum, so without a division; all that
//!   is wrong with a row is one factor, which a norm behind it takes out;
//! - [`IntSoftmax::powers_only`]: numerators that are powers of two as well, Sorbet's PTsoftmax (Tang, Yan, Wong, ICML 2025).
//!
//! # The bounds
//!
//! *Exact.* `t = round(x · log2(e) · 2^f)` is off by at most half of a unit, so each exponent by at most `ε = ln 2 · 2^-(f+1)` in
//! nats. Write p' for the softmax of the rounded exponents: `p'/p` lies between `e^-2ε` and `e^2ε`, and, since the
//! numerator moves by at most `e^ε` and the rest of the sum by at most `e^-ε` at once,
//! `|p' − p| ≤ p (1 − p) (e^2ε − 1) ≤ (e^2ε − 1) / 4`. To that come the table's rounding (2^-31 of an entry, and a truncating shift that
//! drops at most 2^-30 of the largest weight per entry) and half of an output unit, 2^-16: [`bound`].
//!
//! That bound says nothing of the sum of a long row: of 2^16 and more equal scores every probability is below half of an output
//! unit and becomes 0. *Whole.* Differences of rounded sums lie within one unit, 2^-15, of the quotients instead of half of one,
//! and add up to the last of these sums, which is exactly one.
//!
//! *Power-of-two denominator.* The power of two nearest to S lies in (2/3 S, 4/3 S], so the weights' sum lies in [3/4, 3/2).

use crate::Error;
pub use rin_kernels::ops::wide::softmax::UNIT_BITS;
use rin_kernels::ops::wide::softmax::{MASKED, MAX_FRACTION, Powers, TABLE_BITS, divide, weigh};

/// Most scores of a row.
const MAX_ROW: usize = 1 << 20;

/// A row's weights before they are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numerators {
    /// `2^-(u / 2^f)` in `TABLE_BITS` fractional bits; the largest score has 2^30.
    pub weights: Vec<u32>,
    /// Their sum.
    pub sum: u64,
}

/// The integer softmax with exponents of some fractional bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntSoftmax {
    powers: Powers,
}

impl IntSoftmax {
    /// Makes the table of powers.
    ///
    /// # Errors
    /// [`Error::Input`] for more than 12 fractional bits.
    pub fn new(fraction: u32) -> Result<Self, Error> {
        if fraction > MAX_FRACTION {
            return Err(Error::input("fraction", format!("{fraction} bits, but there may be {MAX_FRACTION}")));
        }
        Ok(Self { powers: Powers::new(fraction) })
    }

    /// Scores as integers: `round(x · log2(e) · 2^f)`, ties to even. Masked scores are −∞ and stay the least.
    ///
    /// This is the one place with floats; a runtime folds the factor into the scale of its integer scores.
    ///
    /// # Errors
    /// [`Error::Input`] for more than 2^20 scores, a NaN or +∞.
    pub fn exponents(&self, scores: &[f64]) -> Result<Vec<i64>, Error> {
        if scores.len() > MAX_ROW {
            return Err(Error::input("scores", format!("{} in a row, but there may be {MAX_ROW}", scores.len())));
        }
        let unit = std::f64::consts::LOG2_E * f64::from(1_u32 << self.powers.fraction());
        let one = |x: &f64| match *x {
            x if x.is_nan() || x == f64::INFINITY => Err(Error::input("scores", format!("{x} among them"))),
            f64::NEG_INFINITY => Ok(MASKED),
            x => Ok((x * unit).round_ties_even().clamp(-1e17, 1e17) as i64),
        };
        scores.iter().map(one).collect()
    }

    /// The numerators of exponents: zeros for an empty row or one that is masked as a whole.
    pub fn numerators(&self, exponents: &[i64]) -> Numerators {
        numerators(exponents, self.powers.fraction(), self.powers.table())
    }

    /// Probabilities in units of 2^-15, each rounded to nearest.
    pub fn exact(&self, exponents: &[i64]) -> Vec<u32> {
        let Numerators { mut weights, sum } = self.numerators(exponents);
        divide(&mut weights, sum);
        weights
    }

    /// Probabilities in units of 2^-15 that sum to exactly one: each is `round(2^15 C_i / C_n) − round(2^15 C_(i−1) / C_n)`
    /// with `C_i` the sum of the first `i` numerators. Zeros for an empty row or one that is masked as a whole.
    pub fn whole(&self, exponents: &[i64]) -> Vec<u32> {
        let Numerators { mut weights, sum } = self.numerators(exponents);
        let (mut up_to, mut given) = (0_u64, 0_u32);
        for weight in &mut weights {
            up_to += u64::from(*weight);
            // Sums are below 2^50, and no more than the whole of it.
            let all = ((up_to << UNIT_BITS) + sum / 2).checked_div(sum).unwrap_or(0) as u32;
            *weight = all - given;
            given = all;
        }
        weights
    }

    /// Weights in units of 2^-15 over the power of two nearest to the sum of the numerators.
    pub fn denominator_power(&self, exponents: &[i64]) -> Vec<u32> {
        shifted(&self.numerators(exponents))
    }

    /// Weights in units of 2^-15, each a power of two: scores are rounded up to whole powers, and so is their sum to the
    /// nearest.
    pub fn powers_only(&self, exponents: &[i64]) -> Vec<u32> {
        shifted(&self.whole_numerators(exponents))
    }

    /// The numerators of scores that are rounded up to whole powers, as Sorbet has it.
    pub fn whole_numerators(&self, exponents: &[i64]) -> Numerators {
        let fraction = self.powers.fraction();
        let up = |t: i64| if t <= MASKED { t } else { (t + (1 << fraction) - 1) >> fraction };
        let whole: Vec<i64> = exponents.iter().map(|t| up(*t)).collect();
        numerators(&whole, 0, &[1 << TABLE_BITS])
    }
}

/// `2^-((max − t) / 2^f)` from a table of 2^f entries.
fn numerators(exponents: &[i64], fraction: u32, table: &[u32]) -> Numerators {
    // At most 2^20 weights of 2^30.
    let mut weights = vec![0; exponents.len()];
    let sum = weigh(exponents, fraction, table, &mut weights);
    Numerators { weights, sum }
}

/// `weights · 2^15 / 2^k`, rounded to nearest, 2^k the power of two nearest to `sum`.
fn shifted(Numerators { weights, sum }: &Numerators) -> Vec<u32> {
    if *sum == 0 {
        return weights.clone();
    }
    let k = nearest_power(*sum);
    let one = |w: &u32| {
        let wide = u64::from(*w) << UNIT_BITS;
        let half = if k == 0 { 0 } else { 1 << (k - 1) };
        ((wide + half) >> k) as u32
    };
    weights.iter().map(one).collect()
}

/// The k for which 2^k is nearest to `x`; halfway, the larger.
pub fn nearest_power(x: u64) -> u32 {
    let k = x.max(1).ilog2();
    // 1.5 · 2^k ≤ x, in integers: the bit below the first one is set.
    let up = k > 0 && x >> (k - 1) & 1 == 1;
    k + u32::from(up)
}

/// How far a probability of [`IntSoftmax::whole`] may be from the true one: half of an output unit more.
pub fn bound_of_whole(fraction: u32, n: usize) -> f64 {
    bound(fraction, n) + 0.5 / f64::from(1_u32 << UNIT_BITS)
}

/// How far a probability of [`IntSoftmax::exact`] may be from the true one, for a row of `n` scores.
pub fn bound(fraction: u32, n: usize) -> f64 {
    let epsilon = std::f64::consts::LN_2 / f64::from(1_u32 << (fraction + 1));
    let argument = libm::expm1(2.0 * epsilon) / 4.0;
    // A weight is short by less than two units of 2^-30, the sum by at most n times that, and the sum is at least one.
    let table = (n as f64 + 1.0) * 2.0 / f64::from(1_u32 << TABLE_BITS);
    argument + table + 0.5 / f64::from(1_u32 << UNIT_BITS)
}

/// Softmax in double precision.
pub fn float(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return vec![0.0; scores.len()];
    }
    let weights: Vec<f64> = scores.iter().map(|x| libm::exp(x - most)).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// The polynomial exponential of I-BERT (Kim et al., ICML 2021) on (−ln 2, 0], for comparison.
pub fn i_bert_exp(p: f64) -> f64 {
    0.3585 * (p + 1.353) * (p + 1.353) + 0.344
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn row(random: &mut Random, n: usize) -> Vec<f64> {
        let spread = random.one_of(&[0.1, 1.0, 3.0, 30.0, 1e4]).unwrap();
        (0..n).map(|_| spread * random.normal()).collect()
    }

    fn shares(weights: &[u32]) -> Vec<f64> {
        weights.iter().map(|w| f64::from(*w) / f64::from(1_u32 << UNIT_BITS)).collect()
    }

    /// Values of scipy.special.softmax.
    #[test]
    fn the_float_one_is_scipys() {
        let found = float(&[0.5, -1.25, 3.0, 2.0]);
        for (found, expected) in found.iter().zip(SCIPY) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    const SCIPY: [f64; 4] =
        [0.056_060_231_641_436_59, 0.009_741_807_523_077_857, 0.682_953_433_407_439, 0.251_244_527_428_046_54];

    #[test]
    fn the_bound_holds_and_is_nearly_reached() {
        let mut random = Random::new(1, 1);
        for fraction in [0, 4, 8, 10] {
            let mut most = 0.0_f64;
            for case in 0..3000 {
                let n = 1 + random.below(300);
                let scores = row(&mut random, n);
                let softmax = IntSoftmax::new(fraction).unwrap();
                let found = shares(&softmax.exact(&softmax.exponents(&scores).unwrap()));
                for (found, p) in found.iter().zip(float(&scores)) {
                    let error = (found - p).abs();
                    assert!(error <= bound(fraction, n), "row {case}, f = {fraction}: {error}");
                    most = most.max(error);
                }
            }
            // Rows of two and three scores come close to it.
            assert!(most > 0.4 * bound(fraction, 300), "f = {fraction}: {most} of {}", bound(fraction, 300));
        }
    }

    #[test]
    fn larger_scores_have_no_smaller_weights_and_the_sum_is_one() {
        let mut random = Random::new(2, 1);
        let softmax = IntSoftmax::new(8).unwrap();
        for _ in 0..500 {
            let n = 1 + random.below(1000);
            let scores = row(&mut random, n);
            let t = softmax.exponents(&scores).unwrap();
            let found = softmax.exact(&t);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|i| t[*i]);
            assert!(order.windows(2).all(|pair| found[pair[0]] <= found[pair[1]]));
            let sum: f64 = shares(&found).iter().sum();
            assert!((sum - 1.0).abs() <= n as f64 / 65_536.0 + 1e-12, "{sum} of {n}");
        }
    }

    #[test]
    fn whole_rows_sum_to_one_at_every_length() {
        let mut random = Random::new(4, 1);
        let softmax = IntSoftmax::new(8).unwrap();
        for case in 0..600 {
            let n = if case < 590 { 1 + random.below(1000) } else { 40_000 + random.below(100_000) };
            let scores = row(&mut random, n);
            let found = softmax.whole(&softmax.exponents(&scores).unwrap());
            assert_eq!(found.iter().map(|p| u64::from(*p)).sum::<u64>(), 1 << UNIT_BITS, "{n} scores");
            for (found, p) in shares(&found).into_iter().zip(float(&scores)) {
                assert!((found - p).abs() <= bound_of_whole(8, n), "{n} scores: {found} for {p}");
            }
        }
        // Where `exact` has nothing left.
        let t = softmax.exponents(&vec![1.5; 1 << 17]).unwrap();
        assert_eq!(softmax.exact(&t).iter().sum::<u32>(), 0);
        assert_eq!(softmax.whole(&t).iter().sum::<u32>(), 1 << UNIT_BITS);
        assert_eq!(softmax.whole(&softmax.exponents(&[f64::NEG_INFINITY; 3]).unwrap()), [0; 3]);
        let masked = softmax.whole(&softmax.exponents(&[0.0, f64::NEG_INFINITY, 0.0]).unwrap());
        assert_eq!(masked, [1 << 14, 0, 1 << 14]);
        assert_eq!(softmax.whole(&[]), Vec::<u32>::new());
    }

    #[test]
    fn lengths_extremes_and_masks() {
        let softmax = IntSoftmax::new(8).unwrap();
        let exact = |scores: &[f64]| softmax.exact(&softmax.exponents(scores).unwrap());
        for n in [1, 2, 1 << 10, 1 << 17] {
            let found = exact(&vec![-7.25; n]);
            let expected = (1_u64 << UNIT_BITS).div_ceil(n as u64);
            assert!(found.iter().all(|p| u64::from(p.abs_diff(expected as u32)) <= 1), "{n} equal scores");
        }
        let scores = [f64::NEG_INFINITY, 1e4, -1e4, 1e4, f64::NEG_INFINITY];
        assert_eq!(exact(&scores), [0, 1 << 14, 0, 1 << 14, 0]);
        assert_eq!(exact(&[f64::NEG_INFINITY; 3]), [0; 3]);
        assert_eq!(exact(&[]), Vec::<u32>::new());
        assert_eq!(softmax.powers_only(&softmax.exponents(&[f64::NEG_INFINITY, 0.0]).unwrap()), [0, 1 << 15]);
        assert!(softmax.exponents(&[f64::NAN]).is_err() && softmax.exponents(&[f64::INFINITY]).is_err());
        assert!(IntSoftmax::new(13).is_err());
    }

    #[test]
    fn the_mass_of_the_shifts_only_forms_lies_in_its_interval() {
        let mut random = Random::new(3, 1);
        let softmax = IntSoftmax::new(8).unwrap();
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for _ in 0..2000 {
            let n = 1 + random.below(200);
            let t = softmax.exponents(&row(&mut random, n)).unwrap();
            for (numerators, weights) in [
                (softmax.numerators(&t), softmax.denominator_power(&t)),
                (softmax.whole_numerators(&t), softmax.powers_only(&t)),
            ] {
                let mass = numerators.sum as f64 / libm::exp2(f64::from(nearest_power(numerators.sum)));
                assert!((0.75..1.5).contains(&mass), "{mass}");
                let sum: f64 = shares(&weights).iter().sum();
                assert!((sum - mass).abs() <= n as f64 / 65_536.0 + 1e-12);
                (low, high) = (low.min(mass), high.max(mass));
            }
        }
        assert!(low < 0.76 && high > 1.49, "{low} {high}");
    }

    #[test]
    fn powers_are_powers() {
        let softmax = IntSoftmax::new(10).unwrap();
        let found = softmax.powers_only(&softmax.exponents(&[0.0, -0.1, -1.5, -7.0]).unwrap());
        assert!(found.iter().all(|w| *w == 0 || w.is_power_of_two()), "{found:?}");
        for (x, k) in [(1, 0), (2, 1), (3, 2), (5, 2), (6, 3), (7, 3), (11, 3), (12, 4), (u64::MAX, 64)] {
            assert_eq!(nearest_power(x), k, "{x}");
        }
    }

    /// The best that I-BERT's polynomial does is worse than a table of 256.
    #[test]
    fn i_berts_polynomial_is_off_by_two_thousandths() {
        let worst = (0..=1000)
            .map(|i| -std::f64::consts::LN_2 * f64::from(i) / 1000.0)
            .map(|p| (i_bert_exp(p) - libm::exp(p)).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!((worst - 2.13e-3).abs() < 2e-5, "{worst}");
    }
}
