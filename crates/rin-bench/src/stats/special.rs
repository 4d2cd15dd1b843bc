//! The two integrals behind the tails of the distributions: incomplete beta and gamma functions.
//!
//! Source: continued fractions and series of M. Abramowitz, I. Stegun, "Handbook of mathematical functions", 1964, 26.5.8,
//! 6.5.29 and 6.5.31, evaluated by Lentz's method (W. J. Lentz, Applied Optics 15, 1976).

/// Terms after which a fraction or a series ends in any case; they converge in about the root of their parameters.
const TERMS: u32 = 2000;
const TINY: f64 = 1e-300;
const CLOSE: f64 = 1e-16;

/// The regularised incomplete beta function I_x(a, b), for positive a and b.
pub(super) fn beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let log_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log1p(-x);
    let front = libm::exp(log_front);
    // The fraction converges quickly on one side of the mean only.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    let lifted = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / lifted(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..TERMS {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / lifted(1.0 + term * d);
            c = lifted(1.0 + term / c);
            fraction *= c * d;
        }
        if (fraction / before - 1.0).abs() < CLOSE {
            break;
        }
    }
    fraction
}

/// The upper regularised incomplete gamma function Q(a, x), for positive a.
pub(super) fn gamma_upper(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in 1..TERMS {
            term *= x / (a + f64::from(n));
            sum += term;
            if term < CLOSE * sum {
                break;
            }
        }
        return 1.0 - front * sum;
    }
    let lifted = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1.0 / TINY, 1.0 / lifted(b));
    let mut fraction = d;
    for n in 1..TERMS {
        let n = f64::from(n);
        let term = -n * (n - a);
        b += 2.0;
        d = 1.0 / lifted(term * d + b);
        c = lifted(b + term / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < CLOSE {
            break;
        }
    }
    front * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of scipy.special.betainc and gammaincc.
    #[test]
    fn the_integrals_are_those_of_scipy() {
        for (x, a, b, expected) in BETA {
            assert!((beta(x, a, b) / expected - 1.0).abs() < 1e-12, "I_{x}({a}, {b}) = {}", beta(x, a, b));
        }
        for (a, x, expected) in GAMMA {
            assert!((gamma_upper(a, x) / expected - 1.0).abs() < 1e-12, "Q({a}, {x}) = {}", gamma_upper(a, x));
        }
        assert!(beta(0.0, 1.0, 2.0).abs() < 1e-300 && (beta(1.0, 1.0, 2.0) - 1.0).abs() < 1e-300);
    }

    const BETA: [(f64, f64, f64, f64); 4] = [
        (0.2, 2.0, 3.0, 0.180_800_000_000_000_04),
        (0.9, 0.5, 8.0, 0.999_999_997_942_536_9),
        (0.5, 30.0, 0.5, 1.330_205_935_552_925_5e-10),
        (0.01, 4.5, 0.5, 2.597_549_811_426_686e-10),
    ];
    const GAMMA: [(f64, f64, f64); 4] = [
        (0.5, 1.9205, 0.050_013_683_763_956_804),
        (10.0, 15.7, 0.050_126_415_353_420_8),
        (3.0, 0.4, 0.992_073_668_132_746_1),
        (50.0, 80.0, 0.000_130_783_976_591_409_2),
    ];
}
