//! Running experiments.

use std::path::Path;
use std::time::Instant;

use crate::Error;
use crate::experiment::{Context, Experiment, Scale};
use crate::results::{Journal, Results};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Cases that have a result.
    pub done: usize,
    /// All cases.
    pub cases: usize,
    /// The case that begins now.
    pub case: &'a str,
}

/// What a run did.
#[derive(Debug)]
pub struct Ran {
    /// All results there are now.
    pub results: Results,
    /// Cases that an earlier run had done.
    pub resumed: usize,
    /// Cases that could not be run for want of data, with what is missing.
    pub skipped: Vec<(String, String)>,
}

/// Runs the cases of an experiment that have no result yet and whose names contain `only`, and stores each result as soon as
/// it is there.
///
/// # Errors
/// [`Error::Input`] where no case is meant; whatever a case or the file of results meets; [`Error::NoData`] only skips its case.
pub fn run(
    experiment: &Experiment,
    scale: Scale,
    folder: &Path,
    overwrite: bool,
    only: &str,
    context: &Context<'_>,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Ran, Error> {
    let cases = (experiment.cases)(scale);
    // Before anything is overwritten.
    if !cases.iter().any(|case| case.name.contains(only)) {
        let why = format!("no case of {} has a name that contains `{only}`", experiment.name);
        return Err(Error::input("only", why));
    }
    let mut journal = Journal::open(folder, experiment, scale, overwrite)?;
    let resumed = journal.results().records.len();
    let mut skipped = Vec::new();
    for case in &cases {
        context.check()?;
        if !case.name.contains(only) || journal.results().case(&case.name).is_some() {
            continue;
        }
        progress(Progress { done: journal.results().records.len(), cases: cases.len(), case: &case.name });
        let began = Instant::now();
        match (case.work)(context) {
            Ok(value) => {
                let seconds = began.elapsed().as_secs_f64();
                let seconds = (seconds * 1e3).round() / 1e3;
                journal.store(&case.name, seconds, value)?;
            }
            Err(error @ Error::NoData(_)) => skipped.push((case.name.clone(), error.to_string())),
            Err(error) => return Err(error),
        }
    }
    Ok(Ran { results: journal.results().clone(), resumed, skipped })
}
