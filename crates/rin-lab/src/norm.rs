//! Normalisation in integers: RMSNorm without floats and square roots, and BSPN, whose only freedom per row is a power of
//! two with a few mantissa bits.
//!
//! [`IntRmsNorm`]: `y = x · sqrt(n) / sqrt(Σ x²)`. The sum is brought to [1, 4) by its leading zeros; a table of 64 entries and one
//! Newton step give its inverse root to [`RSQRT_ERROR`]. The gain belongs into the next matrix.
//!
//! [`Bspn`] (bit-shift power norm; Sorbet: Tang, Yan, Wong, ICML 2025, after PowerNorm: Shen et al., ICML 2020): the row is
//! multiplied by `2^-k (1 + m / 2^bits)` nearest to the inverse of its mean magnitude. With no mantissa bits that is a shift.
//! Whatever a constant factor could mend belongs into the gain and is not counted as an error.

use crate::Error;
use rin_kernels::ops::wide::norm::{factor, root_of_count};

pub use rin_kernels::ops::wide::MAX_ELEMENT;
pub use rin_kernels::ops::wide::norm::{RSQRT_ERROR, inverse_root};

/// Most elements of a row, so that a sum of squares of 2^20 fits 63 bits.
const MAX_ROW: usize = 1 << 20;

/// RMSNorm in integers.
#[derive(Clone, Debug)]
pub struct IntRmsNorm {
    /// √n with 32 fractional bits and its length.
    n: usize,
    sqrt_n: u64,
    /// Added to the sum of squares.
    epsilon: u64,
    /// Fractional bits of the result.
    bits: u32,
}

impl IntRmsNorm {
    /// For rows of `n` elements, with results in `bits` fractional bits; `epsilon` is added to the mean square.
    ///
    /// # Errors
    /// [`Error::Input`] for rows of none or more than 2^20 elements, or more than 20 fractional bits.
    pub fn new(n: usize, epsilon: u32, bits: u32) -> Result<Self, Error> {
        if n == 0 || n > MAX_ROW || bits > 20 {
            return Err(Error::input("norm", format!("rows of {n} elements with {bits} fractional bits")));
        }
        Ok(Self { n, sqrt_n: root_of_count(n), epsilon: u64::from(epsilon) * n as u64, bits })
    }

    /// The factor of a row whose squares sum to `sum`: a number with the fractional bits that come with it. Zero for a sum of
    /// zero.
    fn factor(&self, sum: u64) -> (u64, u32) {
        factor(sum + self.epsilon, self.sqrt_n)
    }

    /// Normalises a row of integers of at most [`MAX_ELEMENT`].
    ///
    /// # Errors
    /// [`Error::Input`] where the row has another length or a larger element.
    pub fn run(&self, x: &[i32], out: &mut [i32]) -> Result<(), Error> {
        if x.len() != self.n || out.len() != self.n {
            return Err(Error::input("norm", format!("a row of {} elements where {} are normalised", x.len(), self.n)));
        }
        if let Some(large) = x.iter().find(|x| x.unsigned_abs() > MAX_ELEMENT.unsigned_abs()) {
            return Err(Error::input("norm", format!("an element of {large}")));
        }
        let sum: u64 = x.iter().map(|x| u64::from(x.unsigned_abs()).pow(2)).sum();
        let (factor, fraction) = self.factor(sum);
        for (out, x) in out.iter_mut().zip(x) {
            // |x| · factor < 2^20 · 2^41; the result is at most √n in magnitude.
            let wide = i128::from(*x) * i128::from(factor);
            *out = if fraction >= self.bits {
                rounded_shift(wide, fraction - self.bits)
            } else {
                (wide << (self.bits - fraction)) as i32
            };
        }
        Ok(())
    }

    /// The factor alone, as a float, for the error of the factor without that of rounded results.
    pub fn factor_of(&self, sum: u64) -> f64 {
        let (factor, fraction) = self.factor(sum);
        factor as f64 / libm::exp2(f64::from(fraction))
    }
}

/// `x / 2^shift`, rounded half up.
fn rounded_shift(x: i128, shift: u32) -> i32 {
    let half = if shift == 0 { 0 } else { 1_i128 << (shift - 1) };
    ((x + half) >> shift) as i32
}

/// Which power of two a scale becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The next below, as the seed has it.
    Down,
    /// The next above, as Sorbet has it.
    Up,
    /// The nearest.
    Nearest,
}

/// What a row's scale is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The mean magnitude.
    L1,
    /// The root of the mean square.
    L2,
}

/// A norm whose factor is a power of two with some mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bspn {
    /// Mantissa bits of the factor.
    pub mantissa: u32,
    /// How the factor is rounded.
    pub rounding: Rounding,
    /// What the row is measured by.
    pub measure: Measure,
}

impl Bspn {
    /// The factor of a row; 1 for a row of zeros.
    pub fn factor(self, x: &[f64]) -> f64 {
        let n = x.len() as f64;
        let scale = match self.measure {
            Measure::L1 => x.iter().map(|x| x.abs()).sum::<f64>() / n,
            Measure::L2 => (x.iter().map(|x| x * x).sum::<f64>() / n).sqrt(),
        };
        if scale > 0.0 && scale.is_finite() { self.quantised(1.0 / scale) } else { 1.0 }
    }

    /// A factor rounded to a power of two times a mantissa; a *scale* that is rounded down is a factor that is rounded up.
    fn quantised(self, factor: f64) -> f64 {
        let (mantissa, exponent) = libm::frexp(factor);
        // mantissa in [1/2, 1): 2 · mantissa − 1 is the fraction.
        let steps = f64::from(1_u32 << self.mantissa);
        let fraction = (2.0 * mantissa - 1.0) * steps;
        let fraction = match self.rounding {
            Rounding::Down => fraction.ceil(),
            Rounding::Up => fraction.floor(),
            Rounding::Nearest => fraction.round(),
        };
        (1.0 + fraction / steps) * libm::exp2(f64::from(exponent - 1))
    }
}

/// The least relative root-mean-square error that any constant gain leaves where factors of a fixed set of powers of two
/// replace right ones whose logarithm is uniform: √(1 − E[2^u]² / E[4^u]), u uniform in [0, 1).
pub fn power_of_two_floor() -> f64 {
    // E[2^u] = 1 / ln 2 and E[4^u] = 3 / (2 ln 2).
    (1.0 - 2.0 / (3.0 * std::f64::consts::LN_2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use rin_kernels::ops::wide::norm::ROOT_BITS;

    /// Every mantissa of 16 bits.
    #[test]
    fn the_inverse_root_keeps_its_bound_everywhere() {
        let (mut most, mut least) = (f64::MIN, f64::MAX);
        for high in (1_u32 << 14)..(1 << 16) {
            for m in [high << 16, high << 16 | 0xffff] {
                let exact = 1.0 / (f64::from(m) / f64::from(1_u32 << ROOT_BITS)).sqrt();
                let found = f64::from(inverse_root(m)) / f64::from(1_u32 << ROOT_BITS);
                let error = found / exact - 1.0;
                (most, least) = (most.max(error), least.min(error));
            }
        }
        assert!(most < RSQRT_ERROR && least > -RSQRT_ERROR, "{least} to {most}");
        assert!(most > 0.8 * RSQRT_ERROR, "the bound is tight: {most}");
    }

    #[test]
    fn rows_are_those_of_rms_norm() {
        let mut random = Random::new(1, 2);
        for n in [1, 7, 128, 512, 4096] {
            let norm = IntRmsNorm::new(n, 0, 16).unwrap();
            for scale in [3.0, 1000.0, 200_000.0] {
                let x: Vec<i32> = (0..n).map(|_| libm::round(scale * random.normal()) as i32).collect();
                let sum: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                if sum == 0.0 {
                    continue;
                }
                let factor = (n as f64 / sum).sqrt();
                let mut out = vec![0; n];
                norm.run(&x, &mut out).unwrap();
                for (x, y) in x.iter().zip(&out) {
                    let exact = f64::from(*x) * factor;
                    let error = (f64::from(*y) / 65_536.0 - exact).abs();
                    assert!(error <= exact.abs() * (RSQRT_ERROR + 1e-7) + 1.0 / 65_536.0, "{n} {scale}: {error}");
                }
            }
        }
        let norm = IntRmsNorm::new(2, 0, 16).unwrap();
        let mut out = [7; 2];
        norm.run(&[0, 0], &mut out).unwrap();
        assert_eq!(out, [0, 0]);
        assert!(norm.run(&[0], &mut out).is_err() && norm.run(&[MAX_ELEMENT + 1, 0], &mut out).is_err());
        assert!(IntRmsNorm::new(0, 0, 8).is_err());
        norm.run(&[MAX_ELEMENT, -MAX_ELEMENT], &mut out).unwrap();
        assert!((out[0] - 65_536).abs() < 4 && (out[1] + 65_536).abs() < 4, "{out:?}");
    }

    /// Rows at all scales between two powers of two: no constant gain brings the error of a shift below the floor.
    #[test]
    fn a_shift_leaves_a_fifth() {
        assert!((power_of_two_floor() - 0.195_45).abs() < 1e-4, "{}", power_of_two_floor());
        let mut random = Random::new(2, 2);
        let base: Vec<f64> = (0..4096).map(|_| random.normal()).collect();
        for rounding in [Rounding::Down, Rounding::Up, Rounding::Nearest] {
            let norm = Bspn { mantissa: 0, rounding, measure: Measure::L2 };
            let rms = (base.iter().map(|x| x * x).sum::<f64>() / 4096.0).sqrt();
            let (mut q, mut q2, mut rows) = (0.0, 0.0, 0.0);
            for i in 0..1000 {
                let scale = libm::exp2(f64::from(i) / 1000.0) / rms;
                let row: Vec<f64> = base.iter().map(|x| x * scale).collect();
                let ratio = norm.factor(&row) * libm::exp2(f64::from(i) / 1000.0);
                (q, q2, rows) = (q + ratio, q2 + ratio * ratio, rows + 1.0);
            }
            let error = (1.0 - q * q / rows / q2).sqrt();
            assert!((error - power_of_two_floor()).abs() < 2e-3, "{rounding:?}: {error}");
        }
    }

    #[test]
    fn mantissa_bits_are_steps_between_powers() {
        let norm = |mantissa, rounding| Bspn { mantissa, rounding, measure: Measure::L1 };
        assert!(
            (norm(0, Rounding::Nearest).factor(&[3.0, -3.0]) - 0.25).abs() < 1e-15,
            "1/3 is nearer to 1/4 than to 1/2"
        );
        assert!((norm(0, Rounding::Up).factor(&[3.0]) - 0.25).abs() < 1e-15);
        assert!((norm(0, Rounding::Down).factor(&[3.0]) - 0.5).abs() < 1e-15);
        assert!((norm(2, Rounding::Nearest).factor(&[3.0]) - 0.3125).abs() < 1e-15);
        assert!((norm(7, Rounding::Nearest).factor(&[3.0]) - 1.0 / 3.0).abs() < 1.0 / 3.0 / 256.0);
        assert!((norm(3, Rounding::Nearest).factor(&[0.0; 4]) - 1.0).abs() < 1e-15);
    }
}
