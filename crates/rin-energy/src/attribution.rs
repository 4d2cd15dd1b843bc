//! Energy of kinds of work from runs of different composition, by least squares.
//!
//! Each run says how much of each kind it did and what all of it took. The model is linear: joules = Σ amount × joules of
//! a unit. Householder's QR decomposition gives the units' joules; residuals give their intervals, by Student's t.

use crate::stats::t_975;

/// Designs whose columns are closer to dependent than this have no answer (ratio of the extreme diagonal elements of R,
/// with columns of length one).
pub const CONDITION_MOST: f64 = 1e4;

/// Why there is no attribution.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AttributionError {
    /// Too few runs for the kinds.
    #[error("{runs} runs do not tell {kinds} kinds apart with an interval: at least {} are needed", .kinds + 1)]
    TooFewRuns {
        /// Runs.
        runs: usize,
        /// Kinds.
        kinds: usize,
    },
    /// A run with another number of kinds, or a figure that is not finite.
    #[error("run {run} is malformed")]
    BadRun {
        /// Which.
        run: usize,
    },
    /// Runs whose compositions do not differ enough.
    #[error(
        "the amounts of `{kind}` go along with those of other kinds in all runs (condition {condition:.0}): \
             they cannot be told apart"
    )]
    Collinear {
        /// The kind.
        kind: String,
        /// How close to dependent.
        condition: f64,
    },
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    /// How much of each kind it did.
    pub amounts: Vec<f64>,
    /// What it took, in J.
    pub joules: f64,
}

/// What a unit of a kind takes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Share {
    /// The kind.
    pub kind: String,
    /// Joules of a unit.
    pub joules_per_unit: f64,
    /// Its interval, 95 %.
    pub ci95: [f64; 2],
    /// Joules of all units in all runs.
    pub joules: f64,
}

/// Shares energy out among kinds.
///
/// # Errors
/// Where there are too few runs, or their compositions do not tell the kinds apart.
pub fn attribute(kinds: &[&str], runs: &[Composition]) -> Result<Vec<Share>, AttributionError> {
    let (n, k) = (runs.len(), kinds.len());
    for (run, composition) in runs.iter().enumerate() {
        let finite = composition.amounts.iter().chain([&composition.joules]).all(|value| value.is_finite());
        if composition.amounts.len() != k || !finite {
            return Err(AttributionError::BadRun { run });
        }
    }
    if k == 0 || n <= k {
        return Err(AttributionError::TooFewRuns { runs: n, kinds: k });
    }
    let column = |j: usize| -> Vec<f64> { runs.iter().filter_map(|run| run.amounts.get(j).copied()).collect() };
    let columns: Vec<Vec<f64>> = (0..k).map(column).collect();
    let lengths: Vec<f64> = columns.iter().map(|column| norm(column)).collect();
    let scaled = columns.iter().zip(&lengths);
    let scaled =
        scaled.map(|(column, length)| column.iter().map(|value| value / length.max(f64::MIN_POSITIVE)).collect());
    let y: Vec<f64> = runs.iter().map(|run| run.joules).collect();
    let fit = Fit::of(scaled.collect(), y);
    if let Some((worst, condition)) = fit.worst() {
        let kind = kinds.get(worst).copied().unwrap_or_default().to_owned();
        return Err(AttributionError::Collinear { kind, condition });
    }
    let degrees = n - k;
    let variance = fit.residual / degrees as f64;
    let t = t_975(degrees).unwrap_or(f64::INFINITY);
    let (solution, diagonal) = (fit.solution(), fit.inverse_diagonal());
    let mut shares = Vec::with_capacity(k);
    for ((kind, column), ((solution, diagonal), length)) in
        kinds.iter().zip(&columns).zip(solution.iter().zip(&diagonal).zip(&lengths))
    {
        let unit = solution / length;
        let half = t * (variance * diagonal).sqrt() / length;
        let joules = unit * column.iter().sum::<f64>();
        shares.push(Share {
            kind: (*kind).to_owned(),
            joules_per_unit: unit,
            ci95: [unit - half, unit + half],
            joules,
        });
    }
    Ok(shares)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// An upper triangle and the right side that belongs to it.
struct Fit {
    /// Row i of R from its diagonal on.
    r: Vec<Vec<f64>>,
    /// The first elements of Qᵀy.
    qty: Vec<f64>,
    /// Sum of the squares of the residuals.
    residual: f64,
}

impl Fit {
    /// Modified Gram–Schmidt (Björck, 1967), twice over so that the columns stay orthogonal.
    fn of(columns: Vec<Vec<f64>>, mut y: Vec<f64>) -> Self {
        let k = columns.len();
        let mut rest = columns;
        let (mut r, mut qty) = (Vec::new(), Vec::new());
        for _ in 0..k {
            let mut q = rest.remove(0);
            let diagonal = norm(&q);
            for value in &mut q {
                *value /= diagonal.max(f64::MIN_POSITIVE);
            }
            let mut row = vec![diagonal];
            for column in &mut rest {
                let mut along = 0.0;
                for _ in 0..2 {
                    let part = dot(&q, column);
                    along += part;
                    column.iter_mut().zip(&q).for_each(|(value, q)| *value -= part * q);
                }
                row.push(along);
            }
            let along = dot(&q, &y);
            y.iter_mut().zip(&q).for_each(|(value, q)| *value -= along * q);
            qty.push(along);
            r.push(row);
        }
        Self { r, qty, residual: dot(&y, &y) }
    }

    /// The column that depends most on those before it, where it does so too much.
    fn worst(&self) -> Option<(usize, f64)> {
        let diagonal = self.r.iter().map(|row| row.first().copied().unwrap_or_default()).enumerate();
        let (worst, least) = diagonal.min_by(|a, b| a.1.total_cmp(&b.1))?;
        // The columns have length one, so the largest diagonal element is one.
        let condition = if least > 0.0 { 1.0 / least } else { f64::INFINITY };
        (condition > CONDITION_MOST).then_some((worst, condition))
    }

    /// Solves R x = b.
    fn back(&self, b: &[f64]) -> Vec<f64> {
        let k = self.r.len();
        let mut x = vec![0.0; k];
        for (i, row) in self.r.iter().enumerate().rev() {
            let Some((diagonal, beyond)) = row.split_first() else { continue };
            let known = dot(beyond, x.get(i + 1..).unwrap_or_default());
            let value = (b.get(i).copied().unwrap_or_default() - known) / diagonal;
            if let Some(x) = x.get_mut(i) {
                *x = value;
            }
        }
        x
    }

    fn solution(&self) -> Vec<f64> {
        self.back(&self.qty)
    }

    /// The diagonal of (RᵀR)⁻¹ = R⁻¹R⁻ᵀ: the squares of the rows of R⁻¹.
    fn inverse_diagonal(&self) -> Vec<f64> {
        let k = self.r.len();
        let mut squares = vec![0.0; k];
        for j in 0..k {
            let unit: Vec<f64> = (0..k).map(|i| if i == j { 1.0 } else { 0.0 }).collect();
            for (square, value) in squares.iter_mut().zip(self.back(&unit)) {
                *square += value * value;
            }
        }
        squares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number in 0..1 that looks random (splitmix64; Steele, Lea and Flood, 2014).
    fn random(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The sum of twelve less six: mean 0, standard deviation 1.
    fn normal(state: &mut u64) -> f64 {
        (0..12).map(|_| random(state)).sum::<f64>() - 6.0
    }

    const TRUTH: [f64; 3] = [2.0e-9, 0.7e-9, 11.0];

    /// Runs as a counter with steps of 61 µJ and noise would see them.
    fn runs(n: usize, noise: f64, seed: u64) -> Vec<Composition> {
        let mut state = seed;
        let run = |_| {
            let amounts = vec![1e10 * random(&mut state), 4e10 * random(&mut state), 2.0 + random(&mut state)];
            let joules = dot(&amounts, &TRUTH) + noise * normal(&mut state);
            Composition { amounts, joules: (joules * 16_384.0).floor() / 16_384.0 }
        };
        (0..n).map(run).collect()
    }

    #[test]
    fn known_values_lie_in_their_intervals() {
        // Of 200 designs with three values each, 95 % of the intervals should hold the truth: 570 of 600, ±4 standard
        // deviations of a binomial distribution.
        let mut held = 0;
        for seed in 0..200 {
            let found = attribute(&["products", "attention", "time"], &runs(24, 0.5, 1000 * seed)).unwrap();
            for (share, truth) in found.iter().zip(TRUTH) {
                held += usize::from(share.ci95[0] <= truth && truth <= share.ci95[1]);
                assert!((share.joules_per_unit / truth - 1.0).abs() < 0.2, "{share:?}");
            }
        }
        assert!((549..=591).contains(&held), "{held} of 600 intervals hold the truth");
    }

    #[test]
    fn without_noise_the_values_are_exact_and_add_up() {
        let runs: Vec<_> =
            runs(8, 0.0, 7).into_iter().map(|run| Composition { joules: dot(&run.amounts, &TRUTH), ..run }).collect();
        let found = attribute(&["a", "b", "c"], &runs).unwrap();
        for (share, truth) in found.iter().zip(TRUTH) {
            assert!((share.joules_per_unit / truth - 1.0).abs() < 1e-9, "{share:?}");
        }
        let all: f64 = runs.iter().map(|run| run.joules).sum();
        assert!((found.iter().map(|share| share.joules).sum::<f64>() / all - 1.0).abs() < 1e-9);
    }

    #[test]
    fn kinds_that_go_along_are_refused() {
        let along = |run: &Composition| Composition {
            amounts: vec![run.amounts[0], 3.0 * run.amounts[0], run.amounts[2]],
            joules: run.joules,
        };
        let runs: Vec<_> = runs(24, 0.5, 3).iter().map(along).collect();
        let found = attribute(&["products", "attention", "time"], &runs);
        assert!(matches!(&found, Err(AttributionError::Collinear { kind, .. }) if kind == "attention"), "{found:?}");
        let nothing: Vec<_> =
            runs.iter().map(|run| Composition { amounts: vec![run.amounts[0], 0.0], joules: 1.0 }).collect();
        assert!(
            matches!(attribute(&["a", "never"], &nothing), Err(AttributionError::Collinear { kind, .. }) if kind == "never")
        );
    }

    #[test]
    fn too_few_and_malformed_runs_are_refused() {
        let three = runs(3, 0.0, 1);
        let found = attribute(&["a", "b", "c"], &three);
        assert_eq!(found, Err(AttributionError::TooFewRuns { runs: 3, kinds: 3 }));
        let mut four = runs(4, 0.0, 1);
        four[2].joules = f64::NAN;
        assert_eq!(attribute(&["a", "b", "c"], &four), Err(AttributionError::BadRun { run: 2 }));
        assert_eq!(attribute(&["a", "b"], &runs(4, 0.0, 1)), Err(AttributionError::BadRun { run: 0 }));
    }
}
