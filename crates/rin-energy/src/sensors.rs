//! What a machine offers, source by source, and why the rest is not to be had.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::source::{Absence, Machine, Opened, Source};
use crate::{Domain, Error, Host, Meter, SystemHost};

/// The sensors of a machine.
#[derive(Debug)]
pub struct Sensors {
    root: PathBuf,
    host: Arc<dyn Host>,
    sources: Vec<SourceReport>,
}

/// What became of looking for a source.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// The source.
    pub source: Source,
    /// Where it was looked for.
    pub looked_for: PathBuf,
    /// What was found.
    pub state: SourceState,
    /// What was found and is not used, and why.
    pub notes: Vec<String>,
}

/// Whether a source can be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SourceState {
    /// Its domains can be read.
    Available(Vec<Domain>),
    /// It is not there, in words.
    Absent(String),
    /// It is there and cannot be used.
    Failed(Error),
}

impl Sensors {
    /// Looks for sensors below `root`: `/`, or where the `/sys` and `/proc` of the machine are mounted in a container.
    /// Every source that is there is read once, so that what is called available is.
    pub fn discover(root: impl AsRef<Path>) -> Self {
        Self::discover_with(root, Arc::new(SystemHost))
    }

    /// As [`Sensors::discover`], on another machine than this.
    pub fn discover_with(root: impl AsRef<Path>, host: Arc<dyn Host>) -> Self {
        let root = root.as_ref().to_owned();
        let report = |source: Source| {
            let (state, notes) = match source.open(Machine { host: host.as_ref(), root: &root }) {
                Ok(Opened { channels, notes }) => {
                    (SourceState::Available(channels.into_iter().map(|channel| channel.domain).collect()), notes)
                }
                Err(Absence::Absent(why)) => (SourceState::Absent(why), Vec::new()),
                Err(Absence::Failed(error)) => (SourceState::Failed(error), Vec::new()),
            };
            SourceReport { source, looked_for: root.join(source.folder()), state, notes }
        };
        let sources = Source::ALL.map(report).into();
        Self { root, host, sources }
    }

    /// Every source in the order of preference, and what became of it.
    pub fn sources(&self) -> &[SourceReport] {
        &self.sources
    }

    /// Where was looked.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The machine.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The source that a meter reads: the first that is available. Two are never read together, for they show the same
    /// energy twice.
    ///
    /// # Errors
    /// What stands in the way of the first source that is there, or [`Error::NoSensor`] where none is.
    pub fn chosen(&self) -> Result<Source, Error> {
        let available = |report: &&SourceReport| matches!(report.state, SourceState::Available(_));
        if let Some(report) = self.sources.iter().find(available) {
            return Ok(report.source);
        }
        let failed = self.sources.iter().find_map(|report| match &report.state {
            SourceState::Failed(error) => Some(error.clone()),
            _ => None,
        });
        Err(failed.unwrap_or_else(|| Error::NoSensor {
            looked_for: self.sources.iter().map(|report| format!("{}: {}", report.source, report.state)).collect(),
        }))
    }

    /// A meter of the source that is chosen.
    ///
    /// # Errors
    /// As [`Sensors::chosen`], and where the source went away meanwhile.
    pub fn meter(&self) -> Result<Meter, Error> {
        let source = self.chosen()?;
        let opened = source.open(Machine { host: self.host.as_ref(), root: &self.root });
        let opened = opened.map_err(|absence| match absence {
            Absence::Absent(why) => Error::NoSensor { looked_for: vec![format!("{source}: {why}")] },
            Absence::Failed(error) => error,
        })?;
        Ok(Meter::new(source, opened.channels, Arc::clone(&self.host)))
    }
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available(domains) => {
                let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
                f.write_str(&names.join(", "))
            }
            Self::Absent(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
        }
    }
}
