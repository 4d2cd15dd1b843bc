//! The Mann–Whitney U test: do values of one set tend to be larger than those of another?
//!
//! Source: H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than the
//! other", Annals of Mathematical Statistics 18, 1947. Normal approximation with corrections for ties and continuity as
//! in E. L. Lehmann, "Nonparametrics", 1975, section 1.3.

use serde::Serialize;

/// The exact distribution is taken up to this product of the sizes, where no values are tied.
const EXACT_PAIRS: usize = 400;

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MannWhitney {
    /// Pairs in which the first set's value is the larger one; tied pairs count a half.
    pub u: f64,
    /// Two-sided probability, under equal distributions, of a U at least as far from its mean.
    pub p: f64,
    /// Whether `p` comes from the exact distribution rather than its normal approximation.
    pub exact: bool,
}

/// Tests two independent sets; none where one is empty.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<MannWhitney> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let pairs = a.len().checked_mul(b.len())?;
    let mut u = 0.0;
    for x in a {
        for y in b {
            u += if x > y {
                1.0
            } else if x < y {
                0.0
            } else {
                0.5
            };
        }
    }
    let ties = tie_groups(a, b);
    let exact = pairs <= EXACT_PAIRS && ties.is_empty();
    let p = if exact { exact_p(a.len(), b.len(), u) } else { normal_p(a.len(), b.len(), u, &ties) };
    Some(MannWhitney { u, p, exact })
}

/// Sizes of the groups of equal values in both sets together.
fn tie_groups(a: &[f64], b: &[f64]) -> Vec<f64> {
    let all = super::sorted(&[a, b].concat());
    let groups = all.chunk_by(|x, y| x >= y);
    groups.filter(|group| group.len() > 1).map(|group| group.len() as f64).collect()
}

/// Twice the share of the arrangements whose U is at most the smaller of `u` and its mirror image, at most 1.
fn exact_p(n: usize, m: usize, u: f64) -> f64 {
    let counts = arrangements(n, m);
    let total: f64 = counts.iter().sum();
    let smaller = u.min((n * m) as f64 - u);
    let below: f64 = (0_u32..).zip(&counts).filter(|(value, _)| f64::from(*value) <= smaller).map(|(_, n)| n).sum();
    (2.0 * below / total).min(1.0)
}

/// For each U, the number of ways to choose which `n` of `n + m` ranks belong to the first set.
///
/// Ranks are added one by one: `ways[k][u]` counts the choices of k of the ranks so far whose U, that is the number of
/// smaller ranks left out, is u.
fn arrangements(n: usize, m: usize) -> Vec<f64> {
    let mut ways = vec![vec![0.0_f64; n * m + 1]; n + 1];
    if let Some(one) = ways.first_mut().and_then(|row| row.first_mut()) {
        *one = 1.0;
    }
    for rank in 0..n + m {
        for k in (1..=n.min(rank + 1)).rev() {
            // With k − 1 chosen before this rank, the others before it are smaller and left out.
            let gain = rank + 1 - k;
            let (before, after) = ways.split_at_mut(k);
            let (Some(from), Some(to)) = (before.last(), after.first_mut()) else { continue };
            for (to, from) in to.iter_mut().skip(gain).zip(from) {
                *to += from;
            }
        }
    }
    ways.pop().unwrap_or_default()
}

fn normal_p(n: usize, m: usize, u: f64, ties: &[f64]) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let all = n + m;
    let tied: f64 = ties.iter().map(|t| t * t * t - t).sum();
    let variance = n * m / 12.0 * (all + 1.0 - tied / (all * (all - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - n * m / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    libm::erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;

    const MEN: [f64; 5] = [19.0, 22.0, 16.0, 29.0, 24.0];
    const WOMEN: [f64; 4] = [20.0, 11.0, 17.0, 12.0];

    /// The example in the manual of scipy.stats.mannwhitneyu: U = 17, exact p = 1/9, asymptotic p = 0.11134688653314041.
    #[test]
    fn the_published_example() {
        let found = mann_whitney(&MEN, &WOMEN).unwrap();
        assert_eq!((found.u, found.exact), (17.0, true));
        assert!((found.p - 1.0 / 9.0).abs() < 1e-14, "{}", found.p);
        let asymptotic = normal_p(5, 4, 17.0, &[]);
        assert!((asymptotic - 0.111_346_886_533_140_41).abs() < 1e-14, "{asymptotic}");
        let other = mann_whitney(&WOMEN, &MEN).unwrap();
        assert_eq!(other.u, 3.0);
        assert!((other.p - found.p).abs() < 1e-15);
    }

    /// U of every choice of ranks, one by one.
    #[test]
    fn the_counts_are_those_of_enumeration() {
        for (n, m) in [(1, 1), (1, 4), (3, 2), (4, 4), (5, 3), (2, 7)] {
            let mut expected = vec![0.0; n * m + 1];
            for mask in 0_u32..1 << (n + m) {
                if mask.count_ones() as usize == n {
                    let chosen = |i: &usize| mask >> i & 1 == 1;
                    let u: usize = (0..n + m).filter(chosen).map(|i| (0..i).filter(|j| !chosen(j)).count()).sum();
                    expected[u] += 1.0;
                }
            }
            assert_eq!(arrangements(n, m), expected, "{n} and {m}");
        }
    }

    #[test]
    fn exact_and_approximate_agree_for_larger_sets() {
        for u in [60.0, 120.0, 150.0, 200.0] {
            let (exact, normal) = (exact_p(20, 20, u), normal_p(20, 20, u, &[]));
            assert!((exact - normal).abs() < 4e-3, "U {u}: {exact} and {normal}");
        }
        let total: f64 = arrangements(20, 20).iter().sum();
        assert_eq!(total, 137_846_528_820.0, "40 choose 20");
    }

    #[test]
    fn ties_use_the_corrected_approximation() {
        // Ranks 1.5, 1.5, 3, 4.5, 4.5, 6: U = 0 + 0.5 + ... of a against b.
        let (a, b) = ([1.0, 2.0, 3.0], [1.0, 3.0, 4.0]);
        let found = mann_whitney(&a, &b).unwrap();
        assert!(!found.exact);
        assert_eq!(found.u, 0.5 + 1.0 + 1.5);
        // Var = 9/12 (7 - 12/30), |U - 4.5| - 0.5 = 1.
        let z = 1.0 / (0.75_f64 * (7.0 - 0.4)).sqrt();
        assert!((found.p - libm::erfc(z / 2.0_f64.sqrt())).abs() < 1e-15);
        assert_eq!(mann_whitney(&[5.0; 4], &[5.0; 3]).unwrap().p, 1.0);
        assert_eq!(mann_whitney(&[], &b), None);
    }
}
