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

/// Fisher's exact test, two-sided: the probability, with all sums of the table given, of a table at most as probable as that of
/// two groups with their `[successes, failures]` (R. A. Fisher, "The design of experiments", 1935).
pub fn fisher_exact(a: [u64; 2], b: [u64; 2]) -> f64 {
    let factorial = |n: u64| (2..=n).map(|i| libm::log(i as f64)).sum::<f64>();
    let (of_a, of_b, successes) = (a[0] + a[1], b[0] + b[1], a[0] + b[0]);
    let choose = |n: u64, k: u64| factorial(n) - factorial(k) - factorial(n - k);
    let log_p = |k: u64| choose(of_a, k) + choose(of_b, successes - k) - choose(of_a + of_b, successes);
    let own = log_p(a[0]);
    let tables = successes.saturating_sub(of_b)..=successes.min(of_a);
    // Tables that are as probable are so up to rounding.
    tables.map(log_p).filter(|p| *p <= own + 1e-9).map(libm::exp).sum::<f64>().min(1.0)
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
    fn exact_tests_are_those_of_r() {
        // fisher.test(matrix(c(3, 1, 1, 3), 2)): the lady tasting tea; matrix(c(10, 2, 3, 15), 2), from its help page.
        for (a, b, p) in [([3, 1], [1, 3], 0.485_714), ([10, 2], [3, 15], 0.000_536_7), ([0, 6], [0, 6], 1.0)] {
            assert!((fisher_exact(a, b) - p).abs() < 1e-6, "{a:?} {b:?}: {}", fisher_exact(a, b));
        }
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        for (chi_square, degrees) in [(3.841, 1), (11.070, 5), (31.410, 20)] {
            assert!((chi_square_tail(chi_square, degrees) - 0.05).abs() < 2e-5, "{degrees}");
        }
    }
}
