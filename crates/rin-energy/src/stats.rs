//! Medians and intervals that need no random numbers.

/// The middle value, or the mean of the two in the middle; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *upper))
}

/// An interval that holds the median of the population with at least 95 % probability, whatever its distribution: the
/// k-th lowest and k-th highest value, k from the binomial distribution (the interval of the sign test). None for fewer
/// than six values.
pub fn median_interval(values: &[f64]) -> Option<[f64; 2]> {
    let sorted = sorted(values);
    let n = sorted.len();
    // P(at most k of n below the median) = Σ C(n, i) / 2ⁿ, each term from the one before.
    let (mut term, mut sum, mut k) = (0.5_f64.powi(i32::try_from(n).ok()?), 0.0, 0_usize);
    while k < n {
        sum += term;
        if 2.0 * sum > 0.05 {
            break;
        }
        term *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    let low = k.checked_sub(1)?;
    Some([*sorted.get(low)?, *sorted.get(n - 1 - low)?])
}

/// The mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The 97.5 % quantile of Student's t distribution, for two-sided intervals of 95 %; none for no degrees of freedom.
/// From tables up to 30, then Cornish and Fisher's expansion (Abramowitz and Stegun, 1964, 26.7.5).
pub fn t_975(degrees: usize) -> Option<f64> {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    let place = degrees.checked_sub(1)?;
    if let Some(t) = TABLE.get(place) {
        return Some(*t);
    }
    let (z, n) = (1.959_964_f64, degrees as f64);
    let (z3, z5) = (z.powi(3), z.powi(5));
    Some(z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn intervals_of_the_sign_test() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        // Tables of the sign test: the second lowest and highest of ten hold the median with 97.9 %.
        assert_eq!(median_interval(&values), Some([2.0, 9.0]));
        assert_eq!(median_interval(&values[..6]), Some([1.0, 6.0]));
        assert_eq!(median_interval(&values[..5]), None, "five values reach 93.8 % at most");
        let values: Vec<f64> = (1..=25).map(f64::from).collect();
        assert_eq!(median_interval(&values), Some([8.0, 18.0]));
    }

    #[test]
    fn quantiles_of_student() {
        assert_eq!(t_975(0), None);
        assert_eq!(t_975(1), Some(12.706));
        for (degrees, table) in [(40, 2.0211), (60, 2.0003), (120, 1.9799)] {
            assert!((t_975(degrees).unwrap() - table).abs() < 2e-4, "{degrees}");
        }
    }
}
