//! The list of experiments, one file each.

mod betti;
mod crossover;
mod dct;
mod dct_uses;
mod distill;
mod fusion;
mod gating;
mod gating_time;
mod gating_trained;
mod hrr;
mod lif;
mod loss;
mod memory;
mod memory_depth;
mod memory_language;
mod memory_text;
mod networks;
mod norm;
mod pairs;
mod power;
mod qat;
mod softmax;
mod sparse;
mod sparse_map;
mod students;
mod sync;
mod tda;
mod ternary;
mod ternary_quality;

use crate::{Error, Experiment};

/// Every experiment, in the order of the pages.
pub const EXPERIMENTS: &[Experiment] = &[
    lif::EXPERIMENT,
    softmax::EXPERIMENT,
    norm::EXPERIMENT,
    gating::EXPERIMENT,
    tda::EXPERIMENT,
    betti::EXPERIMENT,
    distill::EXPERIMENT,
    hrr::EXPERIMENT,
    memory::EXPERIMENT,
    dct::EXPERIMENT,
    sparse::EXPERIMENT,
    fusion::EXPERIMENT,
    ternary::EXPERIMENT,
    qat::EXPERIMENT,
    sync::EXPERIMENT,
    power::EXPERIMENT,
];

/// The experiment of a name.
///
/// # Errors
/// [`Error::UnknownExperiment`] where there is none.
pub fn find(name: &str) -> Result<&'static Experiment, Error> {
    EXPERIMENTS.iter().find(|experiment| experiment.name == name).ok_or_else(|| {
        let known: Vec<_> = EXPERIMENTS.iter().map(|experiment| experiment.name).collect();
        Error::UnknownExperiment { name: name.to_owned(), known: known.join(", ") }
    })
}
