//! The seed's eight validation tests, made real: joule, fidelity, latency, thermal, numerical, sparsity, memory, topology.
//!
//! Each looks at something that is measured, tells its value, unit and threshold, and says "not testable here" where the
//! machine lacks what it takes, or where what was looked at could not have failed. The checks ([`checks`]) take what they
//! look at as functions, so that tests can break each of them on purpose; [`run`] puts them to the model inside the
//! binary.

pub mod checks;
mod model;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Context, Error};

/// How a check ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", content = "why", rename_all = "kebab-case")]
pub enum Status {
    /// The value keeps its threshold.
    Pass,
    /// It does not.
    Fail,
    /// The machine or the thing looked at cannot tell.
    NotTestableHere(String),
}

/// On which side of its threshold a value shall lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// At most.
    AtMost,
    /// At least.
    AtLeast,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The value; none where it could not be measured.
    pub value: Option<f64>,
    /// The status.
    #[serde(flatten)]
    pub status: Status,
    /// What was looked at, in words and figures.
    pub detail: String,
}

impl Measured {
    fn judged(value: f64, bound: Bound, threshold: f64, detail: String) -> Self {
        let kept = match bound {
            Bound::AtMost => value <= threshold,
            Bound::AtLeast => value >= threshold,
        };
        Self { value: Some(value), status: if kept { Status::Pass } else { Status::Fail }, detail }
    }

    fn untestable(why: impl Into<String>) -> Self {
        Self { value: None, status: Status::NotTestableHere(why.into()), detail: String::new() }
    }
}

/// A check of the suite and what it found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub what: &'static str,
    /// The unit of its value.
    pub unit: &'static str,
    /// The side of the threshold.
    pub bound: Bound,
    /// The threshold.
    pub threshold: f64,
    /// What it found.
    #[serde(flatten)]
    pub measured: Measured,
    /// How long it took.
    pub seconds: f64,
}

/// How the suite is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Where the /sys and /proc of the machine are mounted.
    pub sys_root: &'a Path,
    /// How long heat is watched.
    pub heat: Duration,
}

/// A row of the suite: what it is, and how the model inside the binary is put to it.
struct Row {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    bound: Bound,
    threshold: f64,
    run: fn(&mut model::Subject, &Options<'_>, &Context<'_>, f64) -> Result<Measured, Error>,
}

/// The suite. Thresholds are the seed's where it had one that means something.
const SUITE: [Row; 8] = [
    Row {
        name: "joule",
        what: "energy of a thousand tokens, gross, median over windows of 2 s",
        unit: "J per 1000 tokens",
        bound: Bound::AtMost,
        threshold: 0.5,
        run: model::joule,
    },
    Row {
        name: "fidelity",
        what: "positions at which the engine ranks the same token first as the same weights in floats",
        unit: "share",
        bound: Bound::AtLeast,
        threshold: 0.99,
        run: model::fidelity,
    },
    Row {
        name: "latency",
        what: "speed of generation, the median of single steps",
        unit: "tokens/s",
        bound: Bound::AtLeast,
        threshold: 15.0,
        run: model::latency,
    },
    Row {
        name: "thermal",
        what: "rise of the hottest sensor while the model generates without a pause",
        unit: "K",
        bound: Bound::AtMost,
        threshold: 15.0,
        run: model::thermal,
    },
    Row {
        name: "numerical",
        what: "ways to compute that give the definition's bits: tiers, threads and chunks, and neurons that fire",
        unit: "share",
        bound: Bound::AtLeast,
        threshold: 1.0,
        run: model::numerical,
    },
    Row {
        name: "sparsity",
        what: "hidden neurons of the feed-forward network that can be left out at 0.02 nats",
        unit: "share",
        bound: Bound::AtLeast,
        threshold: 0.90,
        run: model::sparsity,
    },
    Row {
        name: "memory",
        what: "allocations in a thousand steps of generation after loading",
        unit: "allocations",
        bound: Bound::AtMost,
        threshold: 0.0,
        run: model::memory,
    },
    Row {
        name: "topology",
        what: "distance of the bars of the engine's hidden states from those of floats, over the latter's total length, the larger of H0 and H1",
        unit: "relative",
        bound: Bound::AtMost,
        threshold: 0.10,
        run: model::topology,
    },
];

/// Names of the suite's checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    SUITE.iter().map(|row| row.name)
}

/// Runs the suite on the model inside the binary; `tell` hears which check begins.
///
/// # Errors
/// Where the model cannot be loaded or run, or the user ends it. A check that fails is no error.
pub fn run(
    options: &Options<'_>,
    context: &Context<'_>,
    mut tell: impl FnMut(&'static str),
) -> Result<Vec<Check>, Error> {
    let mut subject = model::Subject::load()?;
    let mut checks = Vec::with_capacity(SUITE.len());
    for row in &SUITE {
        context.check()?;
        tell(row.name);
        let began = Instant::now();
        let measured = (row.run)(&mut subject, options, context, row.threshold)?;
        let Row { name, what, unit, bound, threshold, .. } = *row;
        checks.push(Check { name, what, unit, bound, threshold, measured, seconds: began.elapsed().as_secs_f64() });
    }
    Ok(checks)
}
