//! What the trainings of classifiers on rows share, dense and spiking ones: which file means which, gradients of a batch,
//! and the comparison of the integers that a file holds with the real numbers that were trained.

use crate::Error;
use crate::parameters::Parameters;
use rayon::prelude::*;
use serde::Serialize;

/// Whether a configuration file is one of a family: its `model.family` says so.
pub(crate) fn is_family(text: &str, family: &str) -> bool {
    let table: Option<toml::Table> = toml::from_str(text).ok();
    let found = table.as_ref().and_then(|table| table.get("model")?.get("family")?.as_str());
    found == Some(family)
}

/// Holds a whole number against its bounds.
pub(crate) fn within(key: &'static str, value: usize, low: usize, high: usize) -> Result<(), Error> {
    match value {
        value if (low..=high).contains(&value) => Ok(()),
        value => Err(Error::value(key, value, format!("{low} to {high}"))),
    }
}

/// The place of the largest value, the first of equal ones.
pub(crate) fn class(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (at, value)| if *value > values[best] { at } else { best })
}

/// Gradients of some rows, their loss and their spikes, of which `backward` adds those of one row. Rows are added up in
/// blocks of a fixed size, in order, so that the number of threads does not change a bit.
pub(crate) fn batch(
    parameters: &Parameters,
    rows: &[usize],
    block: usize,
    backward: impl Fn(usize, &mut [Vec<f32>]) -> (f64, usize) + Sync,
) -> (Vec<Vec<f32>>, f64, usize) {
    let zeros = || -> Vec<Vec<f32>> { parameters.0.iter().map(|p| vec![0.0; p.values.len()]).collect() };
    let blocks: Vec<_> = rows
        .par_chunks(block)
        .map(|rows| {
            let (mut gradients, mut loss, mut spikes) = (zeros(), 0.0, 0);
            for &at in rows {
                let (more, count) = backward(at, &mut gradients);
                (loss, spikes) = (loss + more, spikes + count);
            }
            (gradients, loss, spikes)
        })
        .collect();
    blocks.into_iter().fold((zeros(), 0.0, 0), |(mut sum, loss, spikes), (gradients, more, count)| {
        for (sum, gradient) in sum.iter_mut().zip(&gradients) {
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        (sum, loss + more, spikes + count)
    })
}

/// Two classifiers on the same rows, which neither was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Rows.
    pub rows: usize,
    /// Share that the network in integers has right.
    pub integer_accuracy: f64,
    /// Share that the real numbers have right.
    pub float_accuracy: f64,
    /// Rows that only the integers have right.
    pub only_integer: usize,
    /// Rows that only the real numbers have right.
    pub only_float: usize,
    /// Two-sided p of McNemar's exact test that the two do not differ.
    pub mcnemar_p: f64,
}

impl Paired {
    /// From the classes that each has found, and the true ones.
    pub(crate) fn of(integer: &[usize], float: &[usize], labels: &[usize]) -> Self {
        let rows = labels.len();
        let right = |found: &[usize]| -> Vec<bool> { found.iter().zip(labels).map(|(a, b)| a == b).collect() };
        let (integer, float) = (right(integer), right(float));
        let count = |f: &dyn Fn(bool, bool) -> bool| integer.iter().zip(&float).filter(|(a, b)| f(**a, **b)).count();
        let share = |n: usize| n as f64 / rows.max(1) as f64;
        let (only_integer, only_float) = (count(&|a, b| a && !b), count(&|a, b| b && !a));
        Self {
            rows,
            integer_accuracy: share(count(&|a, _| a)),
            float_accuracy: share(count(&|_, b| b)),
            only_integer,
            only_float,
            mcnemar_p: mcnemar(only_integer, only_float),
        }
    }
}

/// Two-sided p of McNemar's exact test: `b` and `c` are the rows that only one of two classifiers has right.
///
/// Under the hypothesis that they do not differ, the smaller of the two is binomial with probability 1/2 (McNemar, 1947).
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let n = (b + c) as f64;
    let log_choose = |k: f64| libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    let tail: f64 = (0..=b.min(c)).map(|k| libm::exp(log_choose(k as f64) - n * std::f64::consts::LN_2)).sum();
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::mcnemar;

    /// Values of statsmodels' and R's exact test: `2 * pbinom(min(b, c), b + c, 1/2)`.
    #[test]
    fn mcnemars_exact_test_is_binomial() {
        for (b, c, p) in
            [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 0.0625), (1, 9, 0.021_484_375), (10, 12, 0.831_811_904_907_226_6)]
        {
            assert!((mcnemar(b, c) - p).abs() < 1e-9, "{b}, {c}: {} for {p}", mcnemar(b, c));
            assert!((mcnemar(c, b) - p).abs() < 1e-9);
        }
    }
}
