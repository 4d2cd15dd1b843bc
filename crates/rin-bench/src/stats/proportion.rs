//! Shares: their interval, and whether many of them are as a theory says.
//!
//! Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
//! Statistical Association 22, 1927; K. Pearson, "On the criterion …", Philosophical Magazine 50, 1900.

use super::special::gamma_upper;

/// The 95 % interval of a share of `successes` in `trials`; none of no trials.
pub fn wilson_interval(successes: u64, trials: u64) -> Option<[f64; 2]> {
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return None;
    }
    let (n, share) = (trials as f64, successes as f64 / trials as f64);
    let middle = share + Z * Z / (2.0 * n);
    let reach = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Some([((middle - reach) / scale).max(0.0), ((middle + reach) / scale).min(1.0)])
}

/// The probability of a χ² at least as large with so many degrees of freedom.
pub fn chi_square_tail(chi_square: f64, degrees: usize) -> f64 {
    gamma_upper(degrees as f64 / 2.0, chi_square / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_shares() {
        // R: prop.test(15, 50, correct = FALSE) gives 0.1910303 to 0.4375012.
        let [low, high] = wilson_interval(15, 50).unwrap();
        assert!((low - 0.191_03).abs() < 1e-4 && (high - 0.437_5).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson_interval(0, 0), None);
        let [low, high] = wilson_interval(0, 20).unwrap();
        assert!(low.abs() < 1e-12 && high > 0.1 && high < 0.2);
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        for (chi_square, degrees) in [(3.841, 1), (11.070, 5), (31.410, 20)] {
            assert!((chi_square_tail(chi_square, degrees) - 0.05).abs() < 2e-5, "{degrees}");
        }
    }
}
