//! The integer network beside the real numbers, on rows that neither was trained on.

use super::data::Samples;
use super::network::Shape;
use crate::Error;
use crate::classifier::{Paired, class};
use crate::parameters::Parameters;
use rayon::prelude::*;
use rin_engine::LoadOptions;
use rin_engine::snn::{Network, Simulator};
use serde::Serialize;

/// Two classifiers on the same rows, and what the integer one has done for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How often each is right.
    #[serde(flatten)]
    pub paired: Paired,
    /// Spikes of the hidden neurons of the integer network per row.
    pub spikes_per_row: f64,
    /// Weights that it added per row.
    pub synaptic_operations_per_row: f64,
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
    let activity = simulator.activity();
    let per_row = |n: u64| n as f64 / rows.max(1) as f64;
    Ok(Comparison {
        paired: Paired::of(&integer, &float, &samples.labels),
        spikes_per_row: per_row(activity.spikes.iter().sum()),
        synaptic_operations_per_row: per_row(activity.synaptic_operations),
    })
}
