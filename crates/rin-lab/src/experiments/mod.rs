//! The list of experiments, one file each.

mod dct;
mod gating;
mod hrr;
mod lif;
mod loss;
mod memory;
mod norm;
mod power;
mod softmax;
mod sparse;
mod sync;
mod tda;
mod ternary;

use crate::{Error, Experiment};

/// Every experiment, in the order of the pages.
pub const EXPERIMENTS: &[Experiment] = &[
    lif::EXPERIMENT,
    softmax::EXPERIMENT,
    norm::EXPERIMENT,
    gating::EXPERIMENT,
    tda::EXPERIMENT,
    hrr::EXPERIMENT,
    memory::EXPERIMENT,
    dct::EXPERIMENT,
    sparse::EXPERIMENT,
    ternary::EXPERIMENT,
    sync::EXPERIMENT,
    power::EXPERIMENT,
];

/// Components that have no experiment yet, and what one would take.
pub const WITHOUT: &[(&str, &str)] = &[
    (
        "Mechanistic distillation",
        "the losses of the logits, FitNets and attention transfer, which `rin train` has, compared at equal processor time, six seeds, with reversed layers as control; MiniLM's and TinyBERT's are not there",
    ),
    (
        "Betti numbers as a validator of distillation",
        "sixty students of one teacher; the engine of persistence is on the page of persistent homology",
    ),
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
