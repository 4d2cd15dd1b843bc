//! Rank correlation, and what of it a third quantity leaves.
//!
//! Sources: C. Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15,
//! 1904; partial correlations by least squares on ranks (M. G. Kendall, "Rank correlation methods", 1948, chapter 8).

/// Ranks from 1, ties with their mean rank.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for group in order.chunk_by(|a, b| a.1 >= b.1) {
        let rank = before as f64 + f64::midpoint(group.len() as f64, 1.0);
        for (index, _) in group {
            if let Some(to) = ranks.get_mut(*index) {
                *to = rank;
            }
        }
        before += group.len();
    }
    ranks
}

/// Pearson's correlation; none where a side is constant or the lengths differ.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let (mean_x, mean_y) = (super::mean(x)?, super::mean(y)?);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    let scale = (xx * yy).sqrt();
    (scale > 0.0).then(|| (xy / scale).clamp(-1.0, 1.0))
}

/// Spearman's ρ; none where a side is constant or the lengths differ.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Spearman's ρ of what the ranks of `given` leave of the ranks of `x` and `y`; none where that is nothing.
pub fn partial_spearman(x: &[f64], y: &[f64], given: &[&[f64]]) -> Option<f64> {
    let given: Vec<Vec<f64>> = given.iter().map(|values| ranks(values)).collect();
    let (x, y) = (residuals(&ranks(x), &given)?, residuals(&ranks(y), &given)?);
    pearson(&x, &y)
}

/// What least squares on `given` and a constant leaves of `y`: each column in turn is made orthogonal to those before it.
fn residuals(y: &[f64], given: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = vec![vec![1.0; y.len()]];
    for column in given {
        if column.len() != y.len() {
            return None;
        }
        let rest = without(column, &basis);
        let size: f64 = rest.iter().map(|v| v * v).sum();
        if size > 1e-9 * column.iter().map(|v| v * v).sum::<f64>() {
            basis.push(rest);
        }
    }
    let rest = without(y, &basis);
    let size: f64 = rest.iter().map(|v| v * v).sum();
    (size > 1e-9 * y.iter().map(|v| v * v).sum::<f64>()).then_some(rest)
}

/// `values` less their projections onto orthogonal columns.
fn without(values: &[f64], basis: &[Vec<f64>]) -> Vec<f64> {
    let mut rest = values.to_vec();
    for column in basis {
        let (mut dot, mut size) = (0.0, 0.0);
        for (value, b) in rest.iter().zip(column) {
            dot += value * b;
            size += b * b;
        }
        for (value, b) in rest.iter_mut().zip(column) {
            *value -= dot / size * b;
        }
    }
    rest
}

/// The 95 % interval of Spearman's ρ by resampling pairs; none of fewer than five pairs, or where most resamples are constant.
pub fn spearman_interval(x: &[f64], y: &[f64]) -> Option<[f64; 2]> {
    resampled([x, y], |[x, y]| spearman(x, y))
}

/// The 95 % interval of how much farther from zero Spearman's ρ of `x` and `y` is than that of `other` and `y`, by resampling
/// triples; none where [`spearman_interval`] gives none.
pub fn spearman_lead_interval(x: &[f64], other: &[f64], y: &[f64]) -> Option<[f64; 2]> {
    resampled([x, other, y], |[x, other, y]| Some(spearman(x, y)?.abs() - spearman(other, y)?.abs()))
}

/// The interval of a statistic of columns whose rows are resampled.
fn resampled<const N: usize>(columns: [&[f64]; N], of: impl Fn([&[f64]; N]) -> Option<f64>) -> Option<[f64; 2]> {
    let n = columns.first()?.len();
    if columns.iter().any(|column| column.len() != n) || n < super::bootstrap::MIN_SAMPLES {
        return None;
    }
    let mut found = Vec::new();
    for resample in 0..super::bootstrap::RESAMPLES {
        let drawn: Vec<usize> = super::bootstrap::draws(32, resample, n).collect();
        let columns =
            columns.map(|values| -> Vec<f64> { drawn.iter().filter_map(|i| values.get(*i).copied()).collect() });
        found.extend(of(columns.each_ref().map(Vec::as_slice)));
    }
    if found.len() < super::bootstrap::RESAMPLES as usize / 2 {
        return None;
    }
    found.sort_unstable_by(f64::total_cmp);
    let outside = found.len() / 40;
    Some([*found.get(outside)?, *found.get(found.len() - 1 - outside)?])
}

/// The two-sided probability, where two columns are independent given `given` others, of a rank correlation at least as far
/// from zero as `rho` of `n` rows: Student's approximation (M. G. Kendall, A. Stuart, 1973); none of too few rows.
pub fn spearman_p(rho: f64, n: usize, given: usize) -> Option<f64> {
    let degrees = n.checked_sub(2 + given).filter(|degrees| *degrees > 0)? as f64;
    let left = 1.0 - rho * rho;
    if left <= 0.0 {
        return Some(0.0);
    }
    Some((2.0 * super::student::upper_tail(rho.abs() * (degrees / left).sqrt(), degrees)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hours of television and IQ, the worked example of many textbooks: ρ = −29/165.
    #[test]
    fn the_textbook_example() {
        let iq = [106.0, 86.0, 100.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0];
        let hours = [7.0, 0.0, 27.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        assert!((spearman(&iq, &hours).unwrap() + 29.0 / 165.0).abs() < 1e-12);
        let [low, high] = spearman_interval(&iq, &hours).unwrap();
        assert!(low < -29.0 / 165.0 && high > -29.0 / 165.0 && low > -1.0 && high < 1.0, "{low} {high}");
    }

    /// The same example, whose probability is given as 0.627188 by Student's distribution.
    #[test]
    fn the_probability_is_that_of_students_t() {
        let rho = -29.0 / 165.0;
        let expected = 0.627_188;
        assert!((spearman_p(rho, 10, 0).unwrap() - expected).abs() < 1e-6);
        assert!(spearman_p(rho, 10, 3).unwrap() > expected, "fewer degrees of freedom");
        assert_eq!((spearman_p(1.0, 10, 0), spearman_p(0.5, 4, 2)), (Some(0.0), None));
    }

    #[test]
    fn a_lead_is_found_where_there_is_one() {
        let y: Vec<f64> = (0..40).map(f64::from).collect();
        let near: Vec<f64> = y.iter().map(|y| y + 3.0 * (y * 2.3).sin()).collect();
        let far: Vec<f64> = y.iter().map(|y| -y + 40.0 * (y * 1.7).sin()).collect();
        let [low, high] = spearman_lead_interval(&near, &far, &y).unwrap();
        let lead = spearman(&near, &y).unwrap() - spearman(&far, &y).unwrap().abs();
        assert!(low > 0.0 && low < lead && lead < high && high < 1.0, "{low} {lead} {high}");
        assert_eq!(spearman_lead_interval(&near, &near, &y), Some([0.0, 0.0]));
        assert_eq!(spearman_lead_interval(&near, &far[1..], &y), None);
    }

    #[test]
    fn ties_share_and_constants_have_none() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(pearson(&[1.0], &[1.0, 2.0]), None);
    }

    /// With one given column the formula (r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²)) holds.
    #[test]
    fn partial_correlation_follows_the_formula() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let y = [2.0, 1.0, 4.0, 3.0, 7.0, 5.0, 6.0];
        let z = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0];
        let r = |a: &[f64], b: &[f64]| spearman(a, b).unwrap();
        let expected =
            (r(&x, &y) - r(&x, &z) * r(&y, &z)) / ((1.0 - r(&x, &z).powi(2)) * (1.0 - r(&y, &z).powi(2))).sqrt();
        assert!((partial_spearman(&x, &y, &[&z]).unwrap() - expected).abs() < 1e-12);
        assert_eq!(partial_spearman(&x, &y, &[&x]), None);
    }
}
