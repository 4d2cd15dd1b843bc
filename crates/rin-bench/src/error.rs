//! What can go wrong in a measurement or a comparison.

use std::path::PathBuf;

use crate::plan::Test;

/// Failures of a bench.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a prompt nor a generation is to be measured.
    #[error("there is nothing to measure: the prompt (-p) and the generation (-n) are both left out")]
    NothingToMeasure,
    /// A number of the workload out of its range.
    #[error("{field} is {found}, but must be {expected}")]
    BadOption {
        /// Name of the field of [`Workload`](crate::Workload), or what else was asked for.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tier that was asked for and cannot run here.
    #[error("the tier {tier} cannot run here, for lack of {missing}; usable: {usable}")]
    NoSuchTier {
        /// Name of the tier.
        tier: &'static str,
        /// What is missing.
        missing: String,
        /// Tiers that can run.
        usable: String,
    },
    /// The context is shorter than what is to be measured.
    #[error("the tests take a context of {needed} positions, --ctx is {ctx}")]
    ContextTooShort {
        /// Positions needed.
        needed: usize,
        /// Positions that were asked for.
        ctx: usize,
    },
    /// A number of sequences that the subject was not made for.
    #[error("{0} sequences in one step are not what was planned for")]
    NotSupported(usize),
    /// The repetitions of one test did not give the same logits.
    #[error(
        "{test} is not repeatable: a repetition has the digest {found}, those before it {expected}. The figures of such \
         a run mean nothing; run `rin verify` on this machine"
    )]
    Unrepeatable {
        /// The test.
        test: Test,
        /// The digest so far.
        expected: String,
        /// The other one.
        found: String,
    },
    /// A thread that runs a configuration ended without an answer.
    #[error("the thread that measures configuration {0} ended without an answer")]
    LaneEnded(usize),
    /// The system refuses a thread.
    #[error("no thread can be started to measure on")]
    Spawn(#[source] std::io::Error),
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] rin_model::Error),
    /// The model cannot be planned, loaded or run.
    #[error(transparent)]
    Engine(#[from] rin_engine::Error),
    /// Memory to measure the machine with is not to be had.
    #[error(transparent)]
    Arena(#[from] rin_engine::arena::ArenaError),
    /// Threads to measure the machine with are not to be had.
    #[error(transparent)]
    Pool(#[from] rin_engine::pool::PoolError),
    /// A result that cannot be read.
    #[error("{} cannot be read", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A result that is longer than any bench writes.
    #[error("{} is longer than {limit} bytes, which no result of a bench is", .file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A result that is no JSON, or not that of a bench.
    #[error("{} is no result of a bench: {cause}", .file.display())]
    NotResults {
        /// The file.
        file: PathBuf,
        /// What the parser says.
        #[source]
        cause: serde_json::Error,
    },
    /// A result without rows.
    #[error("{} holds no rows: there is nothing to compare", .file.display())]
    NoRows {
        /// The file.
        file: PathBuf,
    },
    /// A row that cannot be compared.
    #[error("row {row} of {} {reason}", .file.display())]
    BadRow {
        /// The file.
        file: PathBuf,
        /// Row, from 1.
        row: usize,
        /// What is wrong.
        reason: String,
    },
    /// A result that cannot be written as text.
    #[error("the result cannot be written down")]
    Write(#[from] std::fmt::Error),
    /// A result that cannot be written as JSON.
    #[error("the result cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}
