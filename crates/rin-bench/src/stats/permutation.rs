//! Permutation tests of a difference of means: how often does chance alone do as much?
//!
//! Source: R. A. Fisher, "The design of experiments", 1935, section 21. All arrangements are counted where there are at
//! most [`EXACT_ARRANGEMENTS`]; otherwise [`DRAWN_ARRANGEMENTS`] are drawn, and the one that was observed is counted with
//! them (B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", 2010).

use serde::Serialize;

use super::bootstrap::{below, words};

/// Most arrangements that are counted one by one: 17 signs, or two groups of ten.
pub const EXACT_ARRANGEMENTS: u64 = 200_000;

/// Arrangements that are drawn where there are more.
pub const DRAWN_ARRANGEMENTS: u32 = 10_000;

/// Streams of random words, apart from those of the intervals.
const SIGN_STREAM: u32 = 16;
const GROUP_STREAM: u32 = 17;

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Permutation {
    /// Two-sided probability of a difference at least as large.
    pub p: f64,
    /// Whether all arrangements were counted.
    pub exact: bool,
}

/// Paired: the signs of the differences are exchanged. None of no differences.
pub fn sign_flip(differences: &[f64]) -> Option<Permutation> {
    if differences.is_empty() {
        return None;
    }
    let observed: f64 = differences.iter().sum::<f64>().abs();
    let limit = observed - slack(differences);
    let arrangements = u32::try_from(differences.len()).ok().and_then(|n| 1_u64.checked_shl(n));
    let counted = arrangements.filter(|n| *n <= EXACT_ARRANGEMENTS);
    Some(if let Some(all) = counted {
        let flipped = |mask: u64| {
            let signed = differences.iter().enumerate().map(|(i, d)| if mask >> i & 1 == 1 { -d } else { *d });
            signed.sum::<f64>().abs()
        };
        exact((0..all).filter(|mask| flipped(*mask) >= limit).count(), all)
    } else {
        drawn(|resample| {
            let signs = words(SIGN_STREAM, resample).flat_map(|word| (0..32).map(move |bit| word >> bit & 1 == 1));
            let signed = differences.iter().zip(signs).map(|(d, negative)| if negative { -d } else { *d });
            signed.sum::<f64>().abs() >= limit
        })
    })
}

/// Unpaired: which value belongs to which set is exchanged. None where a set is empty.
pub fn difference_of_means(a: &[f64], b: &[f64]) -> Option<Permutation> {
    let observed = (super::mean(b)? - super::mean(a)?).abs();
    let all = [a, b].concat();
    let (total, n, m) = (all.iter().sum::<f64>(), a.len() as f64, b.len() as f64);
    let distance = |sum_a: f64| ((total - sum_a) / m - sum_a / n).abs();
    let limit = observed - slack(&all) / n.min(m);
    Some(match choose(all.len(), a.len()).filter(|n| *n <= EXACT_ARRANGEMENTS) {
        Some(arrangements) => {
            let mut as_far = 0;
            for_each_choice(all.len(), a.len(), |chosen| {
                let sum: f64 = chosen.iter().filter_map(|i| all.get(*i)).sum();
                as_far += usize::from(distance(sum) >= limit);
            });
            exact(as_far, arrangements)
        }
        None => drawn(|resample| {
            let mut shuffled = all.clone();
            for (i, word) in (0..a.len()).zip(words(GROUP_STREAM, resample)) {
                shuffled.swap(i, i + below(word, all.len() - i));
            }
            distance(shuffled.iter().take(a.len()).sum()) >= limit
        }),
    })
}

/// What rounding may do to a sum: arrangements that are equal on paper must count as equal.
fn slack(values: &[f64]) -> f64 {
    1e-12 * values.iter().map(|x| x.abs()).sum::<f64>()
}

fn exact(as_far: usize, arrangements: u64) -> Permutation {
    Permutation { p: as_far as f64 / arrangements as f64, exact: true }
}

fn drawn(as_far: impl Fn(u32) -> bool) -> Permutation {
    let count = (0..DRAWN_ARRANGEMENTS).filter(|resample| as_far(*resample)).count();
    Permutation { p: (count + 1) as f64 / (f64::from(DRAWN_ARRANGEMENTS) + 1.0), exact: false }
}

/// Ways to choose k of n; none where they are more than a u64 counts.
fn choose(n: usize, k: usize) -> Option<u64> {
    let mut ways = 1_u64;
    for i in 0..k.min(n.checked_sub(k)?) {
        ways = ways.checked_mul((n - i) as u64)? / (i as u64 + 1);
    }
    Some(ways)
}

/// Calls `f` with every ascending choice of `k` of `n` indices.
fn for_each_choice(n: usize, k: usize, mut f: impl FnMut(&[usize])) {
    let mut chosen: Vec<usize> = (0..k).collect();
    loop {
        f(&chosen);
        // The last index that can still move up; those after it follow it closely.
        let Some(place) = (0..k).rev().find(|i| chosen.get(*i).is_some_and(|c| *c < n - k + i)) else { return };
        let Some(next) = chosen.get(place).map(|c| c + 1) else { return };
        for (offset, index) in chosen.iter_mut().skip(place).enumerate() {
            *index = next + offset;
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;

    /// Darwin's differences of crossed and selfed maize, in eighths of an inch, as Fisher took them: of 32,768 signs,
    /// 863 give a sum of at least 314, so two-sided 1,726.
    const MAIZE: [f64; 15] = [49.0, -67.0, 8.0, 16.0, 6.0, 23.0, 28.0, 41.0, 14.0, 29.0, 56.0, 24.0, 75.0, 60.0, -48.0];

    #[test]
    fn the_published_example() {
        let found = sign_flip(&MAIZE).unwrap();
        assert_eq!(found, Permutation { p: 1726.0 / 32_768.0, exact: true });
    }

    #[test]
    fn six_pairs_are_needed_for_five_percent() {
        assert_eq!(sign_flip(&[1.0; 5]).unwrap().p, 0.0625);
        assert_eq!(sign_flip(&[1.0; 6]).unwrap().p, 0.031_25);
        assert_eq!(sign_flip(&[0.0; 6]).unwrap().p, 1.0);
        assert_eq!(sign_flip(&[]), None);
    }

    #[test]
    fn groups_are_counted_by_enumeration() {
        assert_eq!(difference_of_means(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]).unwrap().p, 0.1);
        let (a, b) = ([0.1, 0.4, 0.2, 0.9], [0.3, 0.8, 0.7, 1.1, 1.3]);
        let all = [&a[..], &b[..]].concat();
        let means = |mask: u32| {
            let side = |one: bool| {
                let values: Vec<f64> =
                    all.iter().enumerate().filter(|(i, _)| (mask >> i & 1 == 1) == one).map(|(_, x)| *x).collect();
                super::super::mean(&values).unwrap()
            };
            (side(false) - side(true)).abs()
        };
        let observed = means(0b1111);
        let masks: Vec<u32> = (0..512).filter(|mask: &u32| mask.count_ones() == 4).collect();
        let as_far = masks.iter().filter(|mask| means(**mask) >= observed - 1e-12).count();
        assert_eq!(masks.len(), 126);
        assert_eq!(difference_of_means(&a, &b).unwrap(), Permutation { p: as_far as f64 / 126.0, exact: true });
    }

    /// The drawn tests against the exact ones of the same data.
    #[test]
    fn drawn_arrangements_come_near_the_exact_share() {
        let long: Vec<f64> = MAIZE.iter().chain(&[0.0; 5]).copied().collect();
        let found = sign_flip(&long).unwrap();
        assert!(!found.exact);
        assert!((found.p - 1726.0 / 32_768.0).abs() < 0.01, "{}", found.p);

        // Twelve against twelve: 2,704,156 arrangements. The sum of the first group is known by symmetry: half of the
        // arrangements lie on either side of equal sums, so equal means give 1.
        let even: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(difference_of_means(&even, &even).unwrap(), Permutation { p: 1.0, exact: false });
        let apart: Vec<f64> = even.iter().map(|x| x + 100.0).collect();
        let found = difference_of_means(&even, &apart).unwrap();
        assert!(found.p <= 3.0 / 10_001.0 && found.p > 0.0, "{}", found.p);
    }

    #[test]
    fn binomials() {
        assert_eq!((choose(20, 10), choose(5, 0), choose(40, 20)), (Some(184_756), Some(1), Some(137_846_528_820)));
        assert_eq!(choose(3, 4), None);
        let mut n = 0;
        for_each_choice(7, 3, |chosen| {
            assert!(chosen.is_sorted() && chosen.len() == 3 && chosen[2] < 7);
            n += 1;
        });
        assert_eq!(n, 35);
    }
}
