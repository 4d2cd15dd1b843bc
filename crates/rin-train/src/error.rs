//! What can go wrong in a training.

use std::io;
use std::path::{Path, PathBuf};

/// Failures of a training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is no TOML, has an unknown key, lacks one, or one is of another type.
    #[error("{}: {reason}", path.display())]
    ConfigSyntax {
        /// The configuration file.
        path: PathBuf,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A key whose value cannot be.
    #[error("{key} = {found}: it must be {expected}")]
    ConfigValue {
        /// Section and key.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it may say.
        expected: String,
    },
    /// The data is too short for the configuration.
    #[error("the {split} split has {tokens} tokens and a window takes {needed}; use more text or a smaller {key}")]
    DataTooShort {
        /// "training" or "validation".
        split: &'static str,
        /// Tokens that there are.
        tokens: usize,
        /// Tokens of a window.
        needed: usize,
        /// The key that says how long windows are.
        key: &'static str,
    },
    /// A data file that is no UTF-8 text.
    #[error("{} is no UTF-8 text: byte {at} does not belong; convert it, or set tokenizer = \"byte\"", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// There is a file where a result goes.
    #[error("{} exists already; choose another output.name, or resume, or allow overwriting", .0.display())]
    Exists(PathBuf),
    /// There is nothing to resume from.
    #[error("there is no checkpoint {}; start without resume first", .0.display())]
    NoCheckpoint(PathBuf),
    /// A checkpoint that is damaged.
    #[error("checkpoint {} is damaged: {reason}", path.display())]
    BrokenCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint of another training.
    #[error("checkpoint {} belongs to another training: {reason}; restore the configuration, or start anew", path.display())]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The loss or a gradient is no number any more.
    #[error("{what} of step {step} is not a number; {}", last_good(.checkpoint.as_deref()))]
    Diverged {
        /// What is no number.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// The last checkpoint with sound weights.
        checkpoint: Option<PathBuf>,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file could not be written; what stood there before still stands.
    #[error("cannot write {}: {source}; earlier checkpoints stand", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of data is none.
    #[error(transparent)]
    Data(#[from] rin_model::Error),
    /// The network that was trained cannot be run.
    #[error(transparent)]
    Engine(#[from] rin_engine::Error),
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The result could not be written.
    #[error(transparent)]
    Export(#[from] rin_import::Error),
    /// The vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] rin_engine::tokenizer::TokenizerError),
    /// Something could not be put into JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

fn last_good(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => {
            format!("the last good checkpoint is {}; lower train.lr or train.clip and resume", path.display())
        }
        None => "there is no checkpoint yet; lower train.lr or train.clip".to_owned(),
    }
}

impl Error {
    pub(crate) fn value(key: &'static str, found: impl std::fmt::Display, expected: impl Into<String>) -> Self {
        Self::ConfigValue { key, found: found.to_string(), expected: expected.into() }
    }

    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }
}
