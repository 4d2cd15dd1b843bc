//! Many tests at once: Holm's step-down adjustment.
//!
//! Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

/// The adjusted probabilities, in the order of `p`: rejecting those at most α keeps the chance of any false rejection
/// at most α.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    let value = |i: usize| p.get(i).copied().unwrap_or(1.0);
    order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
    let mut adjusted = vec![1.0; p.len()];
    let mut highest = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        highest = highest.max(((p.len() - rank) as f64 * value(index)).min(1.0));
        if let Some(to) = adjusted.get_mut(index) {
            *to = highest;
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::holm;

    /// R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") = 0.03 0.06 0.06 0.02.
    #[test]
    fn the_adjustment_of_r() {
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-15, "{found} for {expected}");
        }
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert!(holm(&[0.9, 0.8]).iter().all(|p| (p - 1.0).abs() < 1e-15));
    }
}
