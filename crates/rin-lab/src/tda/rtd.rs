//! Representation topology divergence: do two representations of the same things have the same shape?
//!
//! Source: S. Barannikov, I. Trofimov, N. Balabin, E. Burnaev, "Representation topology divergence", ICML 2022; the
//! normalisation by the 0.9 quantile is that of the authors' program.

use super::{Distances, persistence, total_persistence};
use crate::Error;

/// The divergence of two clouds of the same points: the mean of both directions' total lengths of the H1 bars of
/// `[[0, a], [a, min(a, b)]]`. It has no bound and grows with the number of points, so it is to be compared at equal
/// numbers only.
///
/// # Errors
/// [`Error::Input`] where the numbers of points differ or most points of a cloud are the same.
pub fn rtd(a: &Distances, b: &Distances) -> Result<f64, Error> {
    if a.len() != b.len() {
        return Err(Error::input("clouds", format!("{} and {} points, but they must be the same", a.len(), b.len())));
    }
    let (a, b) = (a.normalized()?, b.normalized()?);
    Ok(f64::midpoint(one_way(&a, &b)?, one_way(&b, &a)?))
}

fn one_way(a: &Distances, b: &Distances) -> Result<f64, Error> {
    let n = a.len();
    let mut lower = Vec::with_capacity(n * (2 * n - 1));
    for i in 0..2 * n {
        for j in 0..i {
            lower.push(match (i < n, j < n) {
                (true, _) => 0.0,
                (false, true) => a.get(i - n, j),
                (false, false) => a.get(i - n, j - n).min(b.get(i - n, j - n)),
            });
        }
    }
    let bars = persistence(&Distances::from_lower(2 * n, &lower)?, 1, None)?;
    Ok(bars.get(1).map_or(0.0, |bars| total_persistence(bars)))
}
