//! Sets of bars: how many live at a scale, and how far two sets are apart.
//!
//! Sources: D. Cohen-Steiner, H. Edelsbrunner, J. Harer, "Stability of persistence diagrams", 2007 (bottleneck); the
//! assignment problem by shortest augmenting paths (J. Munkres 1957, in the form of R. Jonker, A. Volgenant 1987).

use std::collections::VecDeque;

use super::Bar;
use crate::Error;

/// How far two bars are apart, as points (birth, death).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The larger of the differences.
    Max,
    /// Euclidean.
    Euclidean,
}

impl Ground {
    fn between(self, a: &Bar, b: &Bar) -> f64 {
        let (x, y) = ((a.birth - b.birth).abs(), (a.death - b.death).abs());
        match self {
            Self::Max => x.max(y),
            Self::Euclidean => (x * x + y * y).sqrt(),
        }
    }

    /// To the nearest bar of no length.
    fn to_nothing(self, bar: &Bar) -> f64 {
        match self {
            Self::Max => bar.length() / 2.0,
            Self::Euclidean => bar.length() / std::f64::consts::SQRT_2,
        }
    }
}

/// How many bars live at a scale.
pub fn betti(bars: &[Bar], scale: f64) -> usize {
    bars.iter().filter(|bar| bar.birth <= scale && scale < bar.death).count()
}

/// The sum of the lengths of the finite bars.
pub fn total_persistence(bars: &[Bar]) -> f64 {
    bars.iter().filter(|bar| bar.death.is_finite()).map(Bar::length).sum()
}

/// Finite bars, and the births of the others in ascending order.
fn parts(bars: &[Bar]) -> (Vec<Bar>, Vec<f64>) {
    let (finite, infinite): (Vec<Bar>, Vec<Bar>) = bars.iter().partition(|bar| bar.death.is_finite());
    let mut births: Vec<f64> = infinite.iter().map(|bar| bar.birth).collect();
    births.sort_unstable_by(f64::total_cmp);
    (finite, births)
}

/// Most bars of a side: the assignment takes the cube of their number.
const MAX_BARS: usize = 4096;

fn check(a: &[Bar], b: &[Bar]) -> Result<(), Error> {
    let bars = || a.iter().chain(b);
    if bars().count() > MAX_BARS {
        return Err(Error::input("bars", format!("{} of them, but both sets may have {MAX_BARS}", bars().count())));
    }
    match bars().find(|bar| !bar.birth.is_finite() || bar.death.is_nan() || bar.death < bar.birth) {
        Some(bar) => Err(Error::input("bars", format!("{bar:?} is none"))),
        None => Ok(()),
    }
}

/// The bottleneck distance: the least d such that bars can be matched, with each other or with nothing, at most d apart.
/// Infinite where the numbers of infinite bars differ.
///
/// # Errors
/// [`Error::Input`] for too many bars or what is no bar.
pub fn bottleneck(a: &[Bar], b: &[Bar]) -> Result<f64, Error> {
    check(a, b)?;
    let ((a, births_a), (b, births_b)) = (parts(a), parts(b));
    if births_a.len() != births_b.len() {
        return Ok(f64::INFINITY);
    }
    let least = births_a.iter().zip(&births_b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let mut candidates: Vec<f64> = a.iter().flat_map(|x| b.iter().map(|y| Ground::Max.between(x, y))).collect();
    candidates.extend(a.iter().chain(&b).map(|bar| Ground::Max.to_nothing(bar)));
    candidates.push(0.0);
    candidates.sort_unstable_by(f64::total_cmp);
    candidates.dedup();
    let enough = candidates.partition_point(|d| !matches_within(&a, &b, *d));
    Ok(candidates.get(enough).copied().unwrap_or(0.0).max(least))
}

/// Whether all bars can be matched within a distance: a perfect matching of both sets, each filled up with the other's
/// places for nothing (J. E. Hopcroft, R. M. Karp, 1973).
fn matches_within(a: &[Bar], b: &[Bar], most: f64) -> bool {
    let (n, m) = (a.len(), b.len());
    let near = |i: usize, j: usize| match (a.get(i), b.get(j)) {
        (Some(x), Some(y)) => Ground::Max.between(x, y) <= most,
        (Some(x), None) => Ground::Max.to_nothing(x) <= most,
        (None, Some(y)) => Ground::Max.to_nothing(y) <= most,
        (None, None) => true,
    };
    let size = n + m;
    let mut of_left = vec![usize::MAX; size];
    let mut of_right = vec![usize::MAX; size];
    loop {
        let mut level = vec![usize::MAX; size];
        let mut queue: VecDeque<usize> = (0..size).filter(|i| of_left[*i] == usize::MAX).collect();
        if queue.is_empty() {
            return true;
        }
        for i in &queue {
            level[*i] = 0;
        }
        let mut reached = false;
        while let Some(i) = queue.pop_front() {
            for j in (0..size).filter(|j| near(i, *j)) {
                match of_right[j] {
                    usize::MAX => reached = true,
                    next if level[next] == usize::MAX => {
                        level[next] = level[i] + 1;
                        queue.push_back(next);
                    }
                    _ => {}
                }
            }
        }
        if !reached {
            return false;
        }
        for i in 0..size {
            if of_left[i] == usize::MAX {
                augment(i, &near, &mut level, &mut of_left, &mut of_right);
            }
        }
    }
}

/// Follows a shortest alternating path from `start` to a free place, with a stack of its own.
fn augment(
    start: usize,
    near: &impl Fn(usize, usize) -> bool,
    level: &mut [usize],
    of_left: &mut [usize],
    of_right: &mut [usize],
) {
    let size = of_left.len();
    // Pairs of a left node and the next right node to try.
    let mut path = vec![(start, 0)];
    while let Some((i, from)) = path.last().copied() {
        let step = (from..size)
            .find(|j| near(i, *j) && (of_right[*j] == usize::MAX || level[of_right[*j]] == level[i].wrapping_add(1)));
        let Some(j) = step else {
            level[i] = usize::MAX;
            path.pop();
            continue;
        };
        if let Some(top) = path.last_mut() {
            top.1 = j + 1;
        }
        if of_right[j] == usize::MAX {
            for (i, after) in path {
                of_left[i] = after - 1;
                of_right[after - 1] = i;
            }
            return;
        }
        path.push((of_right[j], 0));
    }
}

/// The Wasserstein distance of an order: the least (Σ dᵒʳᵈᵉʳ)^(1/order) over all ways to match bars with each other or with
/// nothing. Infinite where the numbers of infinite bars differ.
///
/// # Errors
/// [`Error::Input`] for an order below 1, too many bars or what is no bar.
pub fn wasserstein(a: &[Bar], b: &[Bar], order: f64, ground: Ground) -> Result<f64, Error> {
    check(a, b)?;
    if !(order >= 1.0 && order.is_finite()) {
        return Err(Error::input("order", format!("{order}, but it must be at least 1")));
    }
    let ((a, births_a), (b, births_b)) = (parts(a), parts(b));
    if births_a.len() != births_b.len() {
        return Ok(f64::INFINITY);
    }
    let powered = |d: f64| if order > 1.0 { libm::pow(d, order) } else { d };
    let infinite: f64 = births_a.iter().zip(&births_b).map(|(x, y)| powered((x - y).abs())).sum();
    let cost = |i: usize, j: usize| match (a.get(i), b.get(j)) {
        (Some(x), Some(y)) => powered(ground.between(x, y)),
        (Some(x), None) => powered(ground.to_nothing(x)),
        (None, Some(y)) => powered(ground.to_nothing(y)),
        (None, None) => 0.0,
    };
    let total = infinite + assignment(a.len() + b.len(), cost);
    Ok(if order > 1.0 { libm::pow(total, 1.0 / order) } else { total })
}

/// The least cost of a one-to-one assignment of `n` to `n`.
fn assignment(n: usize, cost: impl Fn(usize, usize) -> f64) -> f64 {
    // Place 0 stands for "not assigned"; potentials keep reduced costs at zero or above.
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut row_of = vec![0_usize; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let mut column = 0;
        let (mut least, mut used, mut way) = (vec![f64::INFINITY; n + 1], vec![false; n + 1], vec![0; n + 1]);
        while row_of[column] != 0 {
            used[column] = true;
            let i = row_of[column];
            let (mut delta, mut next) = (f64::INFINITY, 0);
            for j in (1..=n).filter(|j| !used[*j]) {
                let reduced = cost(i - 1, j - 1) - u[i] - v[j];
                if reduced < least[j] {
                    least[j] = reduced;
                    way[j] = column;
                }
                if least[j] < delta {
                    delta = least[j];
                    next = j;
                }
            }
            for j in 0..=n {
                if used[j] {
                    u[row_of[j]] += delta;
                    v[j] -= delta;
                } else {
                    least[j] -= delta;
                }
            }
            column = next;
        }
        while column != 0 {
            row_of[column] = row_of[way[column]];
            column = way[column];
        }
    }
    (1..=n).map(|column| cost(row_of[column] - 1, column - 1)).sum()
}
