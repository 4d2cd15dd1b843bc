//! What an experiment is: words that were written before it ran, cases that make numbers, and a judge of the numbers.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::report::{Picture, Table};
use crate::results::Results;

/// An experiment, declared once in [`EXPERIMENTS`](crate::EXPERIMENTS).
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// What it is called on the command line and in file names.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// What the seed says of the component.
    pub claim: &'static str,
    /// What is built and tested here, exactly.
    pub definition: &'static str,
    /// Whose results it is held against, and how closely.
    pub reference: &'static str,
    /// What is run, and what counts as what.
    pub method: &'static str,
    /// What was expected before anything ran.
    pub expected: &'static str,
    /// What would change the verdict.
    pub reopens: &'static str,
    /// Raised where the cases change: results of another revision are not gone on with.
    pub revision: u32,
    /// What is run at a scale.
    pub cases: fn(Scale) -> Vec<Case>,
    /// What the numbers say.
    pub judge: fn(&Results) -> Result<Findings, Error>,
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Minutes at most; shows that everything works.
    Quick,
    /// As much as a verdict needs.
    Full,
}

impl Scale {
    /// `quick` at the quick scale, else `full`.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// What a case has while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The folder of data that are no part of the repository.
    pub data: &'a Path,
    /// A Python interpreter with the packages of `conformance/requirements-lab.txt`, for comparisons with others' programs.
    pub python: Option<&'a Path>,
    /// Set where the user wants to end.
    pub cancel: &'a AtomicBool,
}

impl Context<'_> {
    /// A file of the data folder.
    ///
    /// # Errors
    /// [`Error::NoData`] where it is not there.
    pub fn data(&self, path: &str) -> Result<PathBuf, Error> {
        let full = self.data.join(path);
        if full.exists() { Ok(full) } else { Err(Error::NoData(full)) }
    }

    /// What a Python program answers to a JSON object on its input; none where there is no interpreter.
    ///
    /// # Errors
    /// [`Error::Input`] where the program fails or does not answer with one JSON object.
    pub fn ask_python(&self, program: &str, question: &Value) -> Result<Option<Value>, Error> {
        let Some(python) = self.python else { return Ok(None) };
        let mut command = Command::new(python);
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(Error::io(python))?;
        let input = child.stdin.take();
        let written = input.map(|mut input| input.write_all(question.to_string().as_bytes()));
        let output = child.wait_with_output().map_err(Error::io(python))?;
        written.transpose().map_err(Error::io(python))?;
        if !output.status.success() {
            return Err(Error::input("the Python program", format!("it ended with {}", output.status)));
        }
        let answer = serde_json::from_slice(&output.stdout);
        answer.map(Some).map_err(|error| Error::input("the Python program", format!("its answer is no JSON: {error}")))
    }

    /// Ends where the user wants that.
    ///
    /// # Errors
    /// [`Error::Cancelled`] then.
    pub fn check(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// What a case does.
pub type Work = Box<dyn Fn(&Context<'_>) -> Result<Value, Error>>;

/// A part of an experiment whose result is stored as a whole.
pub struct Case {
    /// Its name, one of its kind within the experiment.
    pub name: String,
    /// What it does.
    pub work: Work,
}

impl Case {
    /// A case.
    pub fn new(name: impl Into<String>, work: impl Fn(&Context<'_>) -> Result<Value, Error> + 'static) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How an experiment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The component does what it shall.
    Validated,
    /// It does within limits that are named.
    ValidatedWithLimits,
    /// Measured, and it does not.
    Negative,
    /// This machine cannot tell.
    NotTestableHere,
}

impl Verdict {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validated => "VALIDATED",
            Self::ValidatedWithLimits => "VALIDATED WITH LIMITS",
            Self::Negative => "NEGATIVE",
            Self::NotTestableHere => "NOT TESTABLE HERE",
        }
    }
}

/// A verdict, or why there is none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The conditions of a verdict hold.
    Verdict(Verdict),
    /// They do not.
    Open(String),
}

impl Outcome {
    /// As it is written in a table.
    pub fn name(&self) -> &str {
        match self {
            Self::Verdict(verdict) => verdict.name(),
            Self::Open(_) => "no verdict yet",
        }
    }
}

/// What the numbers of an experiment say.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The verdict.
    pub outcome: Outcome,
    /// One sentence with the figures that decide.
    pub because: String,
    /// The figures.
    pub tables: Vec<Table>,
    /// The figures as pictures.
    pub pictures: Vec<Picture>,
    /// What else has to be said.
    pub notes: Vec<String>,
}

impl Findings {
    /// Findings with a verdict, which counts for complete results of the full scale only.
    pub fn judged(results: &Results, verdict: Verdict, because: impl Into<String>) -> Self {
        let outcome = match results.header.scale {
            Scale::Full => Outcome::Verdict(verdict),
            Scale::Quick => Outcome::Open("only the quick version was run".to_owned()),
        };
        Self { outcome, because: because.into(), tables: Vec::new(), pictures: Vec::new(), notes: Vec::new() }
    }

    /// Findings without a verdict.
    pub fn open(why: impl Into<String>, because: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Open(why.into()),
            because: because.into(),
            tables: Vec::new(),
            pictures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// With a table.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    /// With several tables.
    #[must_use]
    pub fn tables(mut self, tables: impl IntoIterator<Item = Table>) -> Self {
        self.tables.extend(tables);
        self
    }

    /// With a picture.
    #[must_use]
    pub fn picture(mut self, picture: Picture) -> Self {
        self.pictures.push(picture);
        self
    }

    /// With a remark.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}
