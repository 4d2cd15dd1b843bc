//! What stands in the way of a figure.

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no figure.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No source offers a sensor.
    #[error("no energy sensor: {}", .looked_for.join("; "))]
    NoSensor {
        /// For each source, what was looked for and what was found in its place.
        looked_for: Vec<String>,
    },
    /// A sensor is there and may not be read.
    #[error("{} may not be read: {remedy}", .path.display())]
    PermissionDenied {
        /// The file, or the event of a performance counter.
        path: PathBuf,
        /// What gives the permission.
        remedy: String,
    },
    /// A file that belongs to a sensor is missing.
    #[error("{} is missing", .path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what its kind always holds.
    #[error("{} holds `{text}`, which is no value of its kind", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The head of what it holds, escaped.
        text: String,
    },
    /// A file could not be read.
    #[error("{} cannot be read: {message}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        message: String,
    },
    /// A counter gave fewer bytes than a value has.
    #[error("{name} gave {bytes} bytes of 8")]
    ShortRead {
        /// The domain.
        name: String,
        /// Bytes that came.
        bytes: usize,
    },
    /// A domain that was there cannot be read any more.
    #[error("{name} cannot be read any more{}", .errno.map(|errno| format!(" (error {errno})")).unwrap_or_default())]
    DomainVanished {
        /// The domain.
        name: String,
        /// The error number of the system.
        errno: Option<i32>,
    },
    /// A counter that cannot wrap went back.
    #[error("the counter of {name} went back from {prev} to {cur}")]
    Backwards {
        /// The domain.
        name: String,
        /// The value before, in the counter's unit.
        prev: u64,
        /// The value after.
        cur: u64,
    },
    /// More power than the domain can take.
    #[error("{name} would have taken {watts:.0} W, more than the {limit:.0} W that are possible")]
    ImpossiblePower {
        /// The domain.
        name: String,
        /// What the readings say, in W.
        watts: f64,
        /// What is possible, in W.
        limit: f64,
    },
    /// So long between two readings that the counter may have wrapped unseen.
    #[error(
        "{name} was not read for {:.1} s; after {:.1} s its counter may wrap unseen",
        .elapsed.as_secs_f64(), .wrap_min.as_secs_f64()
    )]
    AmbiguousWrap {
        /// The domain.
        name: String,
        /// Time between the readings.
        elapsed: Duration,
        /// Half of the time that a wrap takes at the highest power.
        wrap_min: Duration,
    },
    /// So little energy that the sensor cannot tell it from none.
    #[error("{name} counted {joules:.6} J, within its uncertainty of {uncertainty:.6} J: measure longer")]
    BelowResolution {
        /// The domain.
        name: String,
        /// What was counted, in J.
        joules: f64,
        /// Its standard uncertainty, in J.
        uncertainty: f64,
    },
    /// The machine was suspended meanwhile.
    #[error("the machine was suspended for {seconds:.1} s meanwhile")]
    Suspended {
        /// For how long.
        seconds: f64,
    },
    /// A battery tells what the machine takes only while nothing else feeds it.
    #[error("{name} is not discharging (status `{status}`): its power is not what the machine takes")]
    NotDischarging {
        /// The battery.
        name: String,
        /// What it says.
        status: String,
    },
    /// Nothing tells the energy of the whole: only parts, which must not be added up.
    #[error("the domains {} are parts of a whole that no sensor measures", .names.join(", "))]
    NoTotal {
        /// The domains.
        names: Vec<String>,
    },
    /// The protocol ran, and no window of it counts.
    #[error("all {windows} windows of work were dropped: {}", some_of(.reasons))]
    AllDropped {
        /// Windows of work.
        windows: usize,
        /// What went wrong in them, and in how many.
        reasons: Vec<(usize, String)>,
    },
    /// More domains than a meter holds.
    #[error("{found} domains are more than the {limit} that a meter holds")]
    TooManyDomains {
        /// Domains that were found.
        found: usize,
        /// Domains that a meter holds.
        limit: usize,
    },
    /// A measurement was ended that had not begun.
    #[error("the meter was stopped without having been started")]
    NotStarted,
    /// The thread that reads could not be started, or ended.
    #[error("the reading thread failed: {message}")]
    Thread {
        /// What the system answered.
        message: String,
    },
}

/// The first reasons, with their windows, and how many more there are.
fn some_of(reasons: &[(usize, String)]) -> String {
    const SHOWN: usize = 3;
    let shown = reasons.iter().take(SHOWN).map(|(windows, reason)| match windows {
        1 => format!("in 1 window {reason}"),
        _ => format!("in {windows} windows {reason}"),
    });
    let mut parts: Vec<String> = shown.collect();
    if let Some(more) = reasons.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        parts.push(format!("and {more} more reasons"));
    }
    if parts.is_empty() { "there were none".to_owned() } else { parts.join("; ") }
}

impl Error {
    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoSensor { .. } => "NoSensor",
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::Incomplete { .. } => "Incomplete",
            Self::Malformed { .. } => "Malformed",
            Self::Unreadable { .. } => "Unreadable",
            Self::ShortRead { .. } => "ShortRead",
            Self::DomainVanished { .. } => "DomainVanished",
            Self::Backwards { .. } => "Backwards",
            Self::ImpossiblePower { .. } => "ImpossiblePower",
            Self::AmbiguousWrap { .. } => "AmbiguousWrap",
            Self::BelowResolution { .. } => "BelowResolution",
            Self::Suspended { .. } => "Suspended",
            Self::NotDischarging { .. } => "NotDischarging",
            Self::NoTotal { .. } => "NoTotal",
            Self::AllDropped { .. } => "AllDropped",
            Self::TooManyDomains { .. } => "TooManyDomains",
            Self::NotStarted => "NotStarted",
            Self::Thread { .. } => "Thread",
        }
    }
}
