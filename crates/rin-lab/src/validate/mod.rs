//! The seed's eight validation tests, made real: joule, fidelity, latency, thermal, numerical, sparsity, memory, topology.
//!
//! Each looks at something that is measured, tells its value, unit and threshold, and says "not testable here" where the
//! machine lacks what it takes, or where what was looked at could not have failed. [`run`] puts all of them to the model inside
//! the binary. Tests break them in two places: the checks ([`checks`], [`thermal`]) take what they look at as functions, and a
//! [`Subject`] has every part that [`check`] looks at open to be exchanged.

pub mod checks;
mod model;
mod thermal;

use std::path::Path;
use std::time::{Duration, Instant};

use rin_energy::protocol::Protocol;
use serde::{Deserialize, Serialize};

pub use model::{Rule, Subject, engine};
pub use thermal::{Thermometers, Watch, thermal};

use crate::{Context, Error, Machine, Scale};

/// How a check ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", content = "why", rename_all = "kebab-case")]
pub enum Status {
    /// The value keeps its threshold.
    Pass,
    /// It does not.
    Fail,
    /// The machine or the thing looked at cannot tell.
    NotTestableHere(String),
}

impl Status {
    /// In words.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::NotTestableHere(_) => "not testable here",
        }
    }
}

/// On which side of its threshold a value shall lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// At most.
    AtMost,
    /// At least.
    AtLeast,
}

impl Bound {
    /// The sign before the threshold.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "≤",
            Self::AtLeast => "≥",
        }
    }

    /// Whether a value keeps a threshold; what is no number keeps none.
    pub fn is_kept(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::AtMost => value <= threshold,
            Self::AtLeast => value >= threshold,
        }
    }
}

/// A second value of a check, which has to keep a threshold of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// The value; none where it is no number.
    pub value: Option<f64>,
    /// The side of the threshold.
    pub bound: Bound,
    /// The threshold.
    pub threshold: f64,
}

impl Beside {
    fn new(what: &str, unit: &str, value: f64, bound: Bound, threshold: f64) -> Self {
        let value = value.is_finite().then_some(value);
        Self { what: what.to_owned(), unit: unit.to_owned(), value, bound, threshold }
    }
}

/// What a check saw on its way: points of two axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The first axis.
    pub x: String,
    /// The second.
    pub y: String,
    /// The points.
    pub points: Vec<[f64; 2]>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The value; none where it could not be measured.
    pub value: Option<f64>,
    /// The 95 % interval of the value, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// The status.
    #[serde(flatten)]
    pub status: Status,
    /// What was looked at, in words and figures.
    pub detail: String,
    /// What else has to hold for a pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
    /// What was seen on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

impl Measured {
    fn judged(value: f64, bound: Bound, threshold: f64, detail: String) -> Self {
        let status = if bound.is_kept(value, threshold) { Status::Pass } else { Status::Fail };
        Self { value: Some(value), ci95: None, status, detail, beside: Vec::new(), curve: None }
    }

    fn untestable(why: impl Into<String>) -> Self {
        let status = Status::NotTestableHere(why.into());
        Self { value: None, ci95: None, status, detail: String::new(), beside: Vec::new(), curve: None }
    }

    /// A pass only where `beside` keeps its threshold too.
    fn and(mut self, beside: Beside) -> Self {
        if !beside.value.is_some_and(|value| beside.bound.is_kept(value, beside.threshold)) {
            self.status = Status::Fail;
        }
        self.beside.push(beside);
        self
    }

    /// What was looked at, or why it could not be.
    pub fn why(&self) -> &str {
        match &self.status {
            Status::NotTestableHere(why) => why,
            Status::Pass | Status::Fail => &self.detail,
        }
    }
}

/// A check of the suite and what it found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What its value is.
    pub what: String,
    /// The unit of its value.
    pub unit: String,
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

/// What the suite found on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The version of RIN.
    pub version: String,
    /// How much was run.
    pub scale: Scale,
    /// How it was built: `release`, or `dev` with assertions and less optimised.
    pub profile: String,
    /// The machine.
    pub machine: Machine,
    /// The instruction tier that the model ran on.
    pub tier: String,
    /// The threads that it ran on.
    pub threads: usize,
    /// The checks, in the seed's order.
    pub checks: Vec<Check>,
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that could not be made here.
    pub not_testable: usize,
}

impl Validation {
    /// Where it lies in a folder of results.
    pub fn path(folder: &Path) -> std::path::PathBuf {
        folder.join("validate.json")
    }

    /// Reads a file of it; none where there is no such file.
    ///
    /// # Errors
    /// Where it cannot be read or is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        // An object that tells of failures may follow on a line of its own.
        let first = text.lines().next().unwrap_or_default();
        let damaged =
            |error: serde_json::Error| Error::Damaged { path: path.to_owned(), line: 1, what: error.to_string() };
        serde_json::from_str(first).map(Some).map_err(damaged)
    }
}

/// How the suite is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Where the /sys and /proc of the machine are mounted.
    pub sys_root: &'a Path,
    /// How long heat is watched.
    pub heat: Watch,
    /// How energy is measured.
    pub energy: Protocol,
    /// How much is run.
    pub scale: Scale,
}

impl<'a> Options<'a> {
    /// Those of a scale.
    pub fn new(sys_root: &'a Path, heat: Watch, scale: Scale) -> Self {
        let full = Protocol::default();
        // The fewest windows that have an interval.
        let quick =
            Protocol { rounds: 6, window: Duration::from_millis(500), idle: Duration::from_millis(500), ..full };
        Self { sys_root, heat, energy: scale.pick(quick, full), scale }
    }
}

/// A row of the suite: what it is, and how the model inside the binary is put to it.
struct Row {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    bound: Bound,
    threshold: f64,
    run: fn(&mut Subject, &Options<'_>, &Context<'_>, f64) -> Result<Measured, Error>,
}

/// The check that runs first.
const THERMAL: &str = "thermal";

/// The suite. Thresholds are the seed's where it had one that means something.
const SUITE: [Row; 8] = [
    Row {
        name: "joule",
        what: "energy of a thousand tokens, gross, the median over windows; the upper end of its 95 % interval is judged",
        unit: "J per 1000 tokens",
        bound: Bound::AtMost,
        threshold: 0.5,
        run: model::joule,
    },
    Row {
        name: "fidelity",
        what: "positions of a real text at which the engine ranks the same token first as the same weights in floats",
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
        name: THERMAL,
        what: "the largest rise of any sensor while the model generates without a pause, above what it said before the suite began",
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
        what: "hidden neurons of the feed-forward network that can be left out of a real text for 0.02 nats, by the measured curve",
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

/// One check of the suite, put to a subject.
///
/// # Errors
/// [`Error::Input`] for a name that is none of [`names`]; what the check meets. A check that fails is no error.
pub fn check(name: &str, subject: &mut Subject, options: &Options<'_>, context: &Context<'_>) -> Result<Check, Error> {
    context.check()?;
    let row = SUITE.iter().find(|row| row.name == name);
    let row = row.ok_or_else(|| Error::input("the name of a check", format!("there is none called {name}")))?;
    let began = Instant::now();
    let measured = (row.run)(subject, options, context, row.threshold)?;
    Ok(Check {
        name: row.name.to_owned(),
        what: row.what.to_owned(),
        unit: row.unit.to_owned(),
        bound: row.bound,
        threshold: row.threshold,
        measured,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Runs the suite on the model inside the binary; `tell` hears which check begins.
///
/// # Errors
/// Where the model cannot be loaded or run, or the user ends it. A check that fails is no error.
pub fn run(
    options: &Options<'_>,
    context: &Context<'_>,
    mut tell: impl FnMut(&'static str),
) -> Result<Validation, Error> {
    // Heat comes first, while the machine is as cold as it was found.
    let cold = Thermometers::read(options.sys_root);
    let mut subject = Subject::new(rin_embedded::model()?, cold)?;
    let mut order: Vec<&'static str> = names().collect();
    order.sort_by_key(|name| *name != THERMAL);
    let mut checks = Vec::with_capacity(order.len());
    for name in order {
        tell(name);
        checks.push(check(name, &mut subject, options, context)?);
    }
    checks.sort_by_key(|check| names().position(|name| name == check.name));
    let count = |is: fn(&Status) -> bool| checks.iter().filter(|check| is(&check.measured.status)).count();
    Ok(Validation {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scale: options.scale,
        profile: if cfg!(debug_assertions) { "dev" } else { "release" }.to_owned(),
        machine: Machine::here(),
        tier: subject.engine.tier().name().to_owned(),
        threads: subject.engine.threads(),
        passed: count(|status| *status == Status::Pass),
        failed: count(|status| *status == Status::Fail),
        not_testable: count(|status| matches!(status, Status::NotTestableHere(_))),
        checks,
    })
}
