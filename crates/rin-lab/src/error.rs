//! What can go wrong in the laboratory.

use std::io;
use std::path::PathBuf;

/// Why an experiment, a report or a validation could not be done.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No experiment of this name.
    #[error("there is no experiment {name}; there are: {known}")]
    UnknownExperiment {
        /// The name that was asked for.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// Data that an experiment reads are not there.
    #[error("{} is needed and is not there; give the folder that holds it with --data", .0.display())]
    NoData(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answers.
        source: io::Error,
    },
    /// Stored results that do not fit what would be run.
    #[error("{} holds results of {found}, not of {expected}; move it away, or replace it with --overwrite", .path.display())]
    OtherResults {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was looked for.
        expected: String,
    },
    /// Stored results that are damaged.
    #[error("{}, line {line}: {what}; run the experiment again with --overwrite", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A result that a page needs and that the stored results do not have.
    #[error("the results of {experiment} lack {what}; run it again with --overwrite")]
    Missing {
        /// The experiment.
        experiment: String,
        /// What is missing.
        what: String,
    },
    /// Input that a component cannot work on.
    #[error("{what}: {why}")]
    Input {
        /// What was given.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The engine.
    #[error(transparent)]
    Engine(#[from] rin_engine::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] rin_model::Error),
    /// A training.
    #[error(transparent)]
    Training(#[from] rin_train::Error),
    /// The user ended it.
    #[error("stopped; what was done is kept, and the same command goes on from there")]
    Cancelled,
}

impl Error {
    /// A failure of the file at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Input that cannot be worked on.
    pub(crate) fn input(what: &'static str, why: impl Into<String>) -> Self {
        Self::Input { what, why: why.into() }
    }
}
