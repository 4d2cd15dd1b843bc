//! What can be said of a few samples: their middle, their spread, their intervals, and whether two sets differ.
//!
//! Everything is a function of the samples alone: random draws come from Philox4x32-10 with a fixed key.

pub mod bootstrap;
pub mod correlation;
pub mod multiple;
pub mod permutation;
pub mod proportion;
pub mod rank;
pub mod signed_rank;
mod special;
pub mod student;

use serde::{Deserialize, Serialize};

/// The arithmetic mean; none of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of the population that the values were drawn from, with n − 1; none of fewer than two values.
pub fn stddev(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The middle value, or the mean of the two middle ones; none of no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The percentile of ascending values by nearest rank: the smallest value that `per_mille` / 1000 of the values do not
/// exceed. `per_mille` is clamped to 1 … 1000; none of no values.
pub fn percentile(sorted: &[f64], per_mille: usize) -> Option<f64> {
    let rank = sorted.len().checked_mul(per_mille.clamp(1, 1000))?.div_ceil(1000);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// As [`percentile`], where there are enough values for one of them to lie beyond it; else none.
pub fn tail(sorted: &[f64], per_mille: usize) -> Option<f64> {
    let beyond = sorted.len().checked_mul(1000_usize.saturating_sub(per_mille))? / 1000;
    percentile(sorted, per_mille).filter(|_| beyond > 0)
}

/// The quantile between ranks, as the point `q · (n − 1)` on the line through the ascending values (Hyndman and Fan's
/// definition 7).
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = (0..=last).rev().find(|i| *i as f64 <= place)?;
    let (low, high) = (*sorted.get(below)?, *sorted.get((below + 1).min(last))?);
    Some(low + (high - low) * (place - below as f64))
}

/// A sample far from the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlier {
    /// Which sample, from 0.
    pub index: usize,
    /// Its value.
    pub value: f64,
}

/// The samples outside Tukey's fences: more than 1.5 times the distance of the quartiles beyond either of them. They are
/// named, never removed. Fewer than four samples have none.
///
/// Source: J. W. Tukey, "Exploratory data analysis", 1977; quartiles by linear interpolation.
pub fn outliers(values: &[f64]) -> Vec<Outlier> {
    let sorted = sorted(values);
    let (Some(q1), Some(q3)) = (quantile(&sorted, 0.25), quantile(&sorted, 0.75)) else { return Vec::new() };
    if values.len() < 4 {
        return Vec::new();
    }
    let reach = 1.5 * (q3 - q1);
    let outside = |value: f64| value < q1 - reach || value > q3 + reach;
    let named = values.iter().enumerate().map(|(index, &value)| Outlier { index, value });
    named.filter(|outlier| outside(outlier.value)).collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;

    #[test]
    fn moments_of_a_textbook_sample() {
        let x = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(mean(&x), Some(5.0));
        assert!((stddev(&x).unwrap() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(median(&x), Some(4.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!((mean(&[]), stddev(&[1.0]), median(&[])), (None, None, None));
    }

    /// The worked example of the nearest-rank method: 15, 20, 35, 40, 50.
    #[test]
    fn percentiles_are_nearest_ranks() {
        let x = [15.0, 20.0, 35.0, 40.0, 50.0];
        let found = [50, 300, 400, 500, 1000].map(|p| percentile(&x, p).unwrap());
        assert_eq!(found, [15.0, 20.0, 20.0, 35.0, 50.0]);
        assert_eq!(percentile(&[], 500), None);
        let many: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!((percentile(&many, 990), percentile(&many, 999)), (Some(990.0), Some(999.0)));
    }

    #[test]
    fn a_tail_needs_a_sample_beyond_it() {
        let x: Vec<f64> = (1..=999).map(f64::from).collect();
        assert_eq!(tail(&x, 999), None);
        assert_eq!(tail(&x, 990), Some(990.0));
        assert_eq!(tail(&[1.0], 500), None);
        assert_eq!(tail(&[1.0, 2.0], 500), Some(1.0));
    }

    #[test]
    fn outliers_are_outside_the_fences() {
        // Quartiles 3.25 and 7.75: fences at −3.5 and 14.5.
        let mut x: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(outliers(&x), []);
        x[9] = 14.5;
        assert_eq!(outliers(&x), []);
        x[9] = 14.6;
        x[0] = -3.6;
        let named = outliers(&x);
        assert_eq!(named, [Outlier { index: 0, value: -3.6 }, Outlier { index: 9, value: 14.6 }]);
        assert_eq!(outliers(&[1.0, 1.0, 90.0]), []);
    }
}
