//! The integer network beside the real numbers, on rows that neither was trained on.

use super::data::Samples;
use super::network::Shape;
use crate::Error;
use crate::parameters::Parameters;
use rayon::prelude::*;
use rin_engine::LoadOptions;
use rin_engine::snn::{Network, Simulator};
use serde::Serialize;

/// Two classifiers on the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Rows.
    pub rows: usize,
    /// Share that the integer network has right.
    pub integer_accuracy: f64,
    /// Share that the real numbers have right.
    pub float_accuracy: f64,
    /// Rows that only the integer network has right.
    pub only_integer: usize,
    /// Rows that only the real numbers have right.
    pub only_float: usize,
    /// Two-sided p of McNemar's exact test that the two do not differ.
    pub mcnemar_p: f64,
    /// Spikes of the hidden neurons of the integer network per row.
    pub spikes_per_row: f64,
    /// Weights that it added per row.
    pub synaptic_operations_per_row: f64,
}

/// The place of the largest value, the first of equal ones.
fn class(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (at, value)| if *value > values[best] { at } else { best })
}

/// Runs both on `samples`.
///
/// # Errors
/// When the integer network cannot be loaded.
pub fn compare(
    shape: &Shape,
    parameters: &Parameters,
    network: &Network,
    samples: &Samples,
) -> Result<Comparison, Error> {
    let rows = samples.len();
    let float: Vec<usize> =
        (0..rows).into_par_iter().map(|at| class(&shape.forward(&parameters.0, samples.row(at)).logits)).collect();
    let mut simulator = Simulator::load(network.clone(), &LoadOptions::default())?;
    let mut out = vec![0.0; rows * network.outputs()];
    simulator.run(&samples.inputs, network.steps, &mut out)?;
    let integer: Vec<usize> = out.chunks_exact(network.outputs()).map(class).collect();
    let right = |found: &[usize], at: usize| found[at] == samples.labels[at];
    let count = |f: &dyn Fn(usize) -> bool| (0..rows).filter(|&at| f(at)).count();
    let only_integer = count(&|at| right(&integer, at) && !right(&float, at));
    let only_float = count(&|at| right(&float, at) && !right(&integer, at));
    let activity = simulator.activity();
    let per_row = |n: u64| n as f64 / rows.max(1) as f64;
    Ok(Comparison {
        rows,
        integer_accuracy: count(&|at| right(&integer, at)) as f64 / rows.max(1) as f64,
        float_accuracy: count(&|at| right(&float, at)) as f64 / rows.max(1) as f64,
        only_integer,
        only_float,
        mcnemar_p: mcnemar(only_integer, only_float),
        spikes_per_row: per_row(activity.spikes.iter().sum()),
        synaptic_operations_per_row: per_row(activity.synaptic_operations),
    })
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
