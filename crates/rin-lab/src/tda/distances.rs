//! Distances between points.

use crate::Error;

/// The share of distances that are at most the unit.
const QUANTILE: f64 = 0.9;
/// Most points: more would take more than half a gigabyte.
const MAX_POINTS: usize = 8192;

/// All distances between `n` points: symmetric, not negative, zero from a point to itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    n: usize,
    full: Vec<f64>,
}

impl Distances {
    /// Euclidean distances between rows of `width` coordinates.
    ///
    /// # Errors
    /// [`Error::Input`] where the rows are not whole, too many, or hold what is no number.
    pub fn euclidean(points: &[f64], width: usize) -> Result<Self, Error> {
        if width == 0 || !points.len().is_multiple_of(width) {
            return Err(Error::input("points", format!("{} coordinates are no rows of {width}", points.len())));
        }
        let rows: Vec<&[f64]> = points.chunks_exact(width).collect();
        let mut lower = Vec::new();
        for (i, a) in rows.iter().enumerate() {
            for b in rows.iter().take(i) {
                lower.push(a.iter().zip(*b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt());
            }
        }
        Self::from_lower(rows.len(), &lower)
    }

    /// Distances given as the triangle below the diagonal, row by row: (1, 0), (2, 0), (2, 1), …
    ///
    /// # Errors
    /// [`Error::Input`] where their number is not that of `n` points, there are too many, or one is negative or no number.
    pub fn from_lower(n: usize, lower: &[f64]) -> Result<Self, Error> {
        if n > MAX_POINTS {
            return Err(Error::input("distances", format!("{n} points, but there may be {MAX_POINTS}")));
        }
        if lower.len() != n * n.saturating_sub(1) / 2 {
            return Err(Error::input("distances", format!("{} of them for {n} points", lower.len())));
        }
        if let Some(bad) = lower.iter().find(|d| !(d.is_finite() && **d >= 0.0)) {
            return Err(Error::input("distances", format!("{bad} is no distance")));
        }
        let mut full = vec![0.0; n * n];
        let mut at = lower.iter();
        for i in 0..n {
            for j in 0..i {
                // Adding zero makes −0 to 0.
                let d = at.next().copied().unwrap_or_default() + 0.0;
                full[i * n + j] = d;
                full[j * n + i] = d;
            }
        }
        Ok(Self { n, full })
    }

    /// Points.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The distance between two points.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.full[i * self.n + j]
    }

    /// The distances from a point to all.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.full[i * self.n..][..self.n]
    }

    /// The least over all points of the distance to the point farthest from it: the scale from which on nothing but one
    /// component is left.
    pub fn enclosing_radius(&self) -> f64 {
        let farthest = |i: usize| self.row(i).iter().copied().fold(0.0, f64::max);
        (0..self.n).map(farthest).reduce(f64::min).unwrap_or(0.0)
    }

    /// Every distance over the 0.9 quantile of all of them, so that clouds of other widths compare (Barannikov et al., 2022).
    ///
    /// # Errors
    /// [`Error::Input`] where that is zero.
    pub fn normalized(&self) -> Result<Self, Error> {
        let unit = self.quantile(QUANTILE);
        if unit > 0.0 { Ok(self.scaled(unit)) } else { Err(Error::input("points", "most of them are the same")) }
    }

    /// The quantile of all entries, zeros of the diagonal included, by linear interpolation.
    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.full.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
        let place = q * last as f64;
        let below = place.floor();
        let at = (below as usize).min(last);
        let next = sorted[(at + 1).min(last)];
        sorted[at] + (next - sorted[at]) * (place - below)
    }

    /// Every distance divided by `unit`, which is positive.
    fn scaled(&self, unit: f64) -> Self {
        Self { n: self.n, full: self.full.iter().map(|d| d / unit).collect() }
    }
}
