//! The laboratory: every research component of the seed with an exact definition, an independent reference, an experiment
//! with seeds and intervals, and a verdict.
//!
//! [`EXPERIMENTS`] is the list; [`run()`] runs one case by case into a file of [`results`]; [`report`] makes pages of what
//! is stored; [`validate`] makes the seed's eight tests real. The components themselves, as plain definitions rather
//! than fast kernels, are modules of their own. Statistics are those of [`rin_bench::stats`].
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fixed-point arithmetic narrows on purpose, within bounds that stand where it does"
)]
#![expect(clippy::format_push_string, reason = "pages are pieced together; an allocation more does not count")]

pub mod dct;
pub mod decoder;
mod error;
pub mod experiment;
mod experiments;
pub mod hrr;
mod machine;
pub mod norm;
pub mod power;
pub mod random;
pub mod report;
pub mod representation;
pub mod results;
mod run;
pub mod softmax;
pub mod sync;
pub mod tda;
pub mod validate;

pub use error::Error;
pub use experiment::{Case, Context, Experiment, Findings, Outcome, Scale, Verdict};
pub use experiments::{EXPERIMENTS, find};
pub use machine::Machine;
pub use run::{Progress, Ran, run};
