//! Speed and memory of models, measured so that a figure comes with its uncertainty.
//!
//! [`plan`] says what is measured over which configurations; [`run()`] loads them and interleaves their repetitions;
//! [`peak`], [`jitter`] and [`quiet`] say what the machine itself can do and whether it was left alone meanwhile;
//! [`profile`] says where the time of a step goes.
//! [`Row`] is a result in the names of llama-bench, [`report`] writes rows down, [`compare`] tells two results apart.
//! The arithmetic of uncertainty is in [`stats`].

pub mod compare;
pub mod cost;
mod error;
pub mod inference;
pub mod jitter;
mod lane;
pub mod peak;
pub mod plan;
mod proc_file;
pub mod profile;
pub mod quiet;
pub mod read;
pub mod report;
mod row;
pub mod run;
pub mod stats;
pub mod subject;
mod time;
pub mod work;

pub use error::Error;
pub use plan::{Grid, Setting, Test, Workload};
pub use profile::Profile;
pub use report::Report;
pub use row::Row;
pub use run::{Event, run, run_with_energy};
pub use subject::{EngineLoader, Facts, Loader, Model, Subject};
