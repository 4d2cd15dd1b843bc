//! Differences of pairs: Student's t test, and the test that two arms are the same within a margin.
//!
//! Sources: Student, "The probable error of a mean", Biometrika 6, 1908; D. J. Schuirmann, "A comparison of the two
//! one-sided tests procedure and the power approach for assessing the equivalence of average bioavailability", Journal of
//! Pharmacokinetics and Biopharmaceutics 15, 1987.

use serde::{Deserialize, Serialize};

use super::special::beta;

/// A mean difference and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Pairs.
    pub n: usize,
    /// The mean of the differences.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Two-sided probability, under a mean of zero, of a mean at least as far from it.
    pub p: f64,
}

/// Whether a mean difference lies within a margin that was fixed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Equivalence {
    /// The margin on either side of zero.
    pub margin: f64,
    /// The larger of the two one-sided probabilities.
    pub p: f64,
    /// The 90 % interval of the mean difference, which lies within the margin where `p` is below 0.05.
    pub ci90: [f64; 2],
}

impl Equivalence {
    /// Whether the arms are the same within the margin, at 5 %.
    pub fn holds(&self) -> bool {
        self.p < 0.05
    }
}

/// The share of Student's distribution with `degrees` of freedom beyond `t`, on that side.
pub fn upper_tail(t: f64, degrees: f64) -> f64 {
    let both = beta(degrees / (degrees + t * t), degrees / 2.0, 0.5);
    if t >= 0.0 { both / 2.0 } else { 1.0 - both / 2.0 }
}

/// The t beyond which lies a share of `tail`, below one half.
pub fn quantile(tail: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while upper_tail(high, degrees) > tail && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if upper_tail(middle, degrees) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// Student's t test of paired differences; none of fewer than two.
pub fn paired(differences: &[f64]) -> Option<Paired> {
    let (mean, error) = moments(differences)?;
    let degrees = (differences.len() - 1) as f64;
    let reach = quantile(0.025, degrees) * error;
    let p = if error > 0.0 {
        (2.0 * upper_tail((mean / error).abs(), degrees)).min(1.0)
    } else if mean == 0.0 {
        1.0
    } else {
        0.0
    };
    Some(Paired { n: differences.len(), mean, error, ci95: [mean - reach, mean + reach], p })
}

/// Two one-sided t tests of paired differences against a margin; none of fewer than two differences, or without a margin.
pub fn equivalence(differences: &[f64], margin: f64) -> Option<Equivalence> {
    let (mean, error) = moments(differences)?;
    if margin.is_nan() || margin <= 0.0 {
        return None;
    }
    let degrees = (differences.len() - 1) as f64;
    let reach = quantile(0.05, degrees) * error;
    // Zero spread: the mean is what it is.
    let beyond = |distance: f64| match error > 0.0 {
        true => upper_tail(distance / error, degrees),
        false if distance > 0.0 => 0.0,
        false => 1.0,
    };
    let p = beyond(margin - mean).max(beyond(margin + mean));
    Some(Equivalence { margin, p, ci90: [mean - reach, mean + reach] })
}

/// The mean and its standard error.
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    let (mean, spread) = (super::mean(values)?, super::stddev(values)?);
    Some((mean, spread / (values.len() as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cushny and Peebles' data in Student's paper: hours of sleep gained by the second drug over the first.
    const SLEEP: [f64; 10] = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];

    /// R: t.test(SLEEP) gives t = 4.0621, df = 9, p = 0.002833, interval 0.7001142 to 2.4598858.
    #[test]
    fn the_published_example() {
        let found = paired(&SLEEP).unwrap();
        assert!((found.mean - 1.58).abs() < 1e-12 && (found.p - 0.002_833).abs() < 5e-7, "{found:?}");
        assert!((found.mean / found.error - 4.0621).abs() < 5e-5, "{found:?}");
        assert!((found.ci95[0] - 0.700_114_2).abs() < 1e-7 && (found.ci95[1] - 2.459_885_8).abs() < 1e-7, "{found:?}");
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, t) in [(1.0, 12.706), (5.0, 2.571), (30.0, 2.042), (120.0, 1.980)] {
            assert!((quantile(0.025, degrees) - t).abs() < 6e-4, "{degrees}");
        }
        assert!((upper_tail(-1.0, 7.0) + upper_tail(1.0, 7.0) - 1.0).abs() < 1e-15);
    }

    /// The margin lies outside the 90 % interval exactly where p is above 0.05.
    #[test]
    fn equivalence_is_the_interval_within_the_margin() {
        let near: Vec<f64> = SLEEP.iter().map(|x| (x - 1.5) / 100.0).collect();
        let found = equivalence(&near, 0.02).unwrap();
        assert!(found.holds() && found.ci90[0] > -0.02 && found.ci90[1] < 0.02, "{found:?}");
        let edge = equivalence(&near, found.ci90[1].max(-found.ci90[0])).unwrap();
        assert!((edge.p - 0.05).abs() < 1e-9, "{edge:?}");
        assert!(!equivalence(&SLEEP, 1.0).unwrap().holds(), "a difference above the margin");
        assert!(!equivalence(&[0.0, 0.5, -0.5], 0.02).unwrap().holds(), "few values far apart show nothing");
        assert_eq!(equivalence(&SLEEP, 0.0), None);
        assert_eq!(paired(&[1.0]), None);
    }

    #[test]
    fn constants_have_no_spread() {
        assert!(paired(&[0.0; 4]).unwrap().p > 0.999 && paired(&[1.0; 4]).unwrap().p < 1e-9);
        assert!(equivalence(&[0.01; 4], 0.02).unwrap().holds() && !equivalence(&[0.03; 4], 0.02).unwrap().holds());
    }
}
