//! Where energy can be read: one file per source, tried in the order of [`Source::ALL`].

mod battery;
mod hwmon;
mod perf;
mod powercap;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::channel::{Channel, file_error};
use crate::{DomainKind, Error, Host, text};

/// A kind of sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Source {
    /// Linux's performance events of the `power` unit: the processor's counters, unwrapped by the kernel.
    Perf,
    /// Linux's powercap zones `intel-rapl` (AMD's processors too): the same counters as files.
    Powercap,
    /// Linux's hardware monitors: `amd_energy`, `ina3221`, `ina2xx`, `power_meter`.
    Hwmon,
    /// A battery while it discharges.
    Battery,
}

impl Source {
    /// All, the best first.
    pub const ALL: [Self; 4] = [Self::Perf, Self::Powercap, Self::Hwmon, Self::Battery];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perf => "perf",
            Self::Powercap => "powercap",
            Self::Hwmon => "hwmon",
            Self::Battery => "battery",
        }
    }

    /// Its name with what stands for the whole, as in `perf (package)`.
    pub(crate) fn name_of(self, covers: Option<DomainKind>) -> String {
        match covers {
            Some(kind) => format!("{self} ({})", kind.name()),
            None => self.name().to_owned(),
        }
    }

    /// The folder that is looked into, below the root.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Perf => perf::FOLDER,
            Self::Powercap => powercap::FOLDER,
            Self::Hwmon => hwmon::FOLDER,
            Self::Battery => battery::FOLDER,
        }
    }

    /// Opens all its domains.
    pub(crate) fn open(self, machine: Machine<'_>) -> Result<Opened, Absence> {
        let opened = match self {
            Self::Perf => perf::open(machine),
            Self::Powercap => powercap::open(machine),
            Self::Hwmon => hwmon::open(machine),
            Self::Battery => battery::open(machine),
        }?;
        if opened.channels.len() > MOST_DOMAINS {
            let found = opened.channels.len();
            return Err(Absence::Failed(Error::TooManyDomains { found, limit: MOST_DOMAINS }));
        }
        Ok(opened)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Most domains of a meter.
pub(crate) const MOST_DOMAINS: usize = 64;

/// The most that a package is taken to draw unless the machine says more, in W.
const PACKAGE_LIMIT: f64 = 500.0;
/// The most that a whole machine is taken to draw, in W.
const BOARD_LIMIT: f64 = 4000.0;

/// What a source offers.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) channels: Vec<Channel>,
    /// What was found and is not used, and why.
    pub(crate) notes: Vec<String>,
}

/// Why a source offers nothing.
#[derive(Debug)]
pub(crate) enum Absence {
    /// It is not there.
    Absent(String),
    /// It is there and cannot be used.
    Failed(Error),
}

impl From<Error> for Absence {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The files of a machine below a root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) root: &'a Path,
}

impl Machine<'_> {
    /// A path below the root.
    pub(crate) fn path(self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Names in a folder; none where it is not there.
    pub(crate) fn list(self, folder: &Path) -> Result<Option<Vec<String>>, Error> {
        match self.host.list(folder) {
            Ok(names) => Ok(Some(names)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(file_error(folder, &error, "")),
        }
    }

    /// A line of text without its end; none where there is no file.
    pub(crate) fn line(self, path: &Path) -> Result<Option<String>, Error> {
        const MOST: usize = 256;
        match self.host.head(path) {
            Ok(bytes) if bytes.len() > MOST => Err(text::malformed(path, &bytes)),
            Ok(bytes) => {
                let line = String::from_utf8(bytes).map_err(|error| text::malformed(path, error.as_bytes()))?;
                Ok(Some(line.trim_end().to_owned()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error(path, &error, "")),
        }
    }

    /// A number; none where there is no file.
    pub(crate) fn number(self, path: &Path) -> Result<Option<u64>, Error> {
        let Some(line) = self.line(path)? else { return Ok(None) };
        text::unsigned(line.as_bytes()).map(Some).ok_or_else(|| text::malformed(path, line.as_bytes()))
    }

    /// Where a folder is.
    fn folder(self, source: Source) -> PathBuf {
        self.path(source.folder())
    }

    /// Says that a source's folder is not there.
    fn no_folder(self, source: Source) -> Absence {
        Absence::Absent(format!("there is no {}", self.folder(source).display()))
    }
}
