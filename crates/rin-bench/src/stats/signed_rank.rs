//! Wilcoxon's signed-rank test: do paired differences tend to one side?
//!
//! Source: F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1, 1945. Differences of zero are
//! left out, tied magnitudes share their mean rank.

use serde::{Deserialize, Serialize};

/// Pairs up to which the signs are counted one by one (as sums of ranks).
const EXACT_PAIRS: usize = 50;

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedRank {
    /// Pairs that differ.
    pub n: usize,
    /// Sum of the ranks of the positive differences.
    pub positive: f64,
    /// Two-sided probability, under symmetry about zero, of a sum at least as far from its mean.
    pub p: f64,
    /// Whether all signs were counted; otherwise `p` is the normal approximation.
    pub exact: bool,
}

/// Tests differences; none where all are zero.
pub fn signed_rank(differences: &[f64]) -> Option<SignedRank> {
    let mut kept: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    kept.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let n = kept.len();
    if n == 0 {
        return None;
    }
    // Twice the ranks: mean ranks of ties are halves.
    let mut ranks = Vec::with_capacity(n);
    for group in kept.chunk_by(|a, b| a.abs() >= b.abs()) {
        let twice = 2 * ranks.len() + group.len() + 1;
        ranks.extend(std::iter::repeat_n(twice, group.len()));
    }
    let twice: usize = ranks.iter().zip(&kept).filter(|(_, d)| **d > 0.0).map(|(rank, _)| rank).sum();
    let total: usize = ranks.iter().sum();
    let exact = n <= EXACT_PAIRS;
    let p = if exact { exact_p(&ranks, total, twice) } else { normal_p(&ranks, total, twice) };
    Some(SignedRank { n, positive: twice as f64 / 2.0, p, exact })
}

/// Twice the share of the signs whose sum is at most the smaller of the sum and its mirror image.
fn exact_p(ranks: &[usize], total: usize, sum: usize) -> f64 {
    let mut ways = vec![0.0_f64; total + 1];
    if let Some(one) = ways.first_mut() {
        *one = 1.0;
    }
    for rank in ranks {
        for to in (*rank..=total).rev() {
            let from = ways.get(to - rank).copied().unwrap_or(0.0);
            if let Some(to) = ways.get_mut(to) {
                *to += from;
            }
        }
    }
    let smaller = sum.min(total - sum);
    let below: f64 = ways.iter().take(smaller + 1).sum();
    let all: f64 = ways.iter().sum();
    (2.0 * below / all).min(1.0)
}

fn normal_p(ranks: &[usize], total: usize, sum: usize) -> f64 {
    let variance: f64 = ranks.iter().map(|rank| (*rank as f64).powi(2) / 4.0).sum();
    let z = ((sum as f64 - total as f64 / 2.0).abs()) / variance.sqrt();
    libm::erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Darwin's maize in scipy's manual of wilcoxon: the sum of the negative ranks is 24, so p = 0.041259765625.
    #[test]
    fn the_published_example() {
        let maize = [6.0, 8.0, 14.0, 16.0, 23.0, 24.0, 28.0, 29.0, 41.0, -48.0, 49.0, 56.0, 60.0, -67.0, 75.0];
        let found = signed_rank(&maize).unwrap();
        assert!((found.positive - 96.0).abs() < 1e-12 && found.exact, "{found:?}");
        assert!((found.p - 0.041_259_765_625).abs() < 1e-12, "{found:?}");
        let ranks: Vec<usize> = (1..=15).map(|rank| 2 * rank).collect();
        assert!((normal_p(&ranks, 240, 192) - found.p).abs() < 5e-3);
    }

    #[test]
    fn zeros_are_left_out_and_ties_share() {
        let found = signed_rank(&[0.0, 1.0, -1.0, 2.0]).unwrap();
        // Ranks 1.5, 1.5, 3: the sums 0, 1.5 (twice), 3 (twice), 4.5 (twice), 6.
        assert_eq!(found.n, 3);
        assert!((found.positive - 4.5).abs() < 1e-12 && (found.p - 0.75).abs() < 1e-12, "{found:?}");
        assert_eq!(signed_rank(&[0.0]), None);
        assert!((signed_rank(&[1.0; 6]).unwrap().p - 0.031_25).abs() < 1e-12);
    }
}
