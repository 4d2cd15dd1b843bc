//! One domain with its sensor: what it has taken since it was opened.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::counter::{Break, Scale, Sum};
use crate::text::{VALUE_BYTES, magnitude, malformed, shown, unsigned};
use crate::{Domain, Error, Handle, Host, Now};

/// A sensor of a domain.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) domain: Domain,
    probe: Probe,
    /// Joules since the begin.
    joules: f64,
    /// How often something went wrong.
    faults: u32,
    last_fault: Option<Error>,
}

#[derive(Debug)]
enum Probe {
    /// Counts energy.
    Counter { value: Value, scale: Scale, sum: Sum },
    /// Shows power, which is added up between readings.
    Power { sensor: PowerSensor, last: f64, at: Duration, limit: f64, update: Duration },
}

/// A value that is read again and again.
#[derive(Debug)]
pub(crate) struct Value {
    handle: Box<dyn Handle>,
    path: PathBuf,
    form: Form,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Digits.
    Text,
    /// Digits, whose sign depends on the driver.
    Signed,
    /// Eight bytes in the machine's order.
    Binary,
}

/// Power: one value, or voltage times current.
#[derive(Debug)]
pub(crate) struct PowerSensor {
    pub(crate) factors: Vec<Value>,
    /// Watts of a product of the values.
    pub(crate) watts: f64,
    /// A file that has to say `Discharging`.
    pub(crate) status: Option<(Box<dyn Handle>, PathBuf)>,
}

impl Value {
    /// Opens the file of a value.
    pub(crate) fn open(host: &dyn Host, path: &Path, form: Form) -> Result<Self, Error> {
        let handle = host.open(path).map_err(|error| file_error(path, &error, ""))?;
        Ok(Self { handle, path: path.to_owned(), form })
    }

    /// What is already open.
    pub(crate) fn of(handle: Box<dyn Handle>, path: PathBuf, form: Form) -> Self {
        Self { handle, path, form }
    }

    /// Reads it. Allocates nothing unless it fails.
    pub(crate) fn read(&mut self, domain: &Domain) -> Result<u64, Error> {
        let mut buffer = [0_u8; VALUE_BYTES];
        let bytes = read(self.handle.as_mut(), &mut buffer, &self.path, domain)?;
        let value = match self.form {
            Form::Text => unsigned(bytes),
            Form::Signed => magnitude(bytes),
            Form::Binary => {
                let short = || Error::ShortRead { name: domain.name.clone(), bytes: bytes.len() };
                return bytes.try_into().map(u64::from_ne_bytes).map_err(|_| short());
            }
        };
        value.ok_or_else(|| malformed(&self.path, bytes))
    }
}

/// The bytes of a handle.
fn read<'a>(handle: &mut dyn Handle, buffer: &'a mut [u8], path: &Path, domain: &Domain) -> Result<&'a [u8], Error> {
    let n = loop {
        match handle.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    match n {
        Ok(n) => Ok(buffer.get(..n).unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(file_error(path, &error, "")),
        Err(error) => Err(Error::DomainVanished { name: domain.name.clone(), errno: error.raw_os_error() }),
    }
}

/// What the failure to open a file means. `remedy` helps where the permission is missing.
pub(crate) fn file_error(path: &Path, error: &io::Error, remedy: &str) -> Error {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound => Error::Incomplete { path },
        ErrorKind::PermissionDenied => {
            let remedy =
                if remedy.is_empty() { "run as root, or let root open the file to you (chmod a+r)" } else { remedy };
            Error::PermissionDenied { path, remedy: remedy.to_owned() }
        }
        _ => Error::Unreadable { path, message: error.to_string() },
    }
}

impl PowerSensor {
    fn read(&mut self, domain: &Domain) -> Result<f64, Error> {
        if let Some((handle, path)) = &mut self.status {
            let mut buffer = [0_u8; VALUE_BYTES];
            let status = read(handle.as_mut(), &mut buffer, path, domain)?;
            if status.strip_suffix(b"\n").unwrap_or(status) != b"Discharging" {
                return Err(Error::NotDischarging { name: domain.name.clone(), status: shown(status) });
            }
        }
        self.factors.iter_mut().try_fold(self.watts, |watts, value| Ok(watts * value.read(domain)? as f64))
    }
}

impl Channel {
    /// Begins to count.
    pub(crate) fn counter(domain: Domain, mut value: Value, scale: Scale, now: Now) -> Result<Self, Error> {
        let cur = value.read(&domain)?;
        let sum = Sum::begin(cur, now.at, &scale).map_err(|found| broken(found, &domain, &value.path, &scale))?;
        Ok(Self::of(domain, Probe::Counter { value, scale, sum }))
    }

    /// Begins to add up power, which is shown anew every `update`.
    pub(crate) fn power(
        domain: Domain,
        mut sensor: PowerSensor,
        limit: f64,
        update: Duration,
        now: Now,
    ) -> Result<Self, Error> {
        let last = possible(sensor.read(&domain)?, limit, &domain)?;
        Ok(Self::of(domain, Probe::Power { sensor, last, at: now.at, limit, update }))
    }

    fn of(domain: Domain, probe: Probe) -> Self {
        Self { domain, probe, joules: 0.0, faults: 0, last_fault: None }
    }

    /// Reads the sensor. Allocates nothing unless that fails.
    pub(crate) fn sample(&mut self, now: Now) {
        if let Err(error) = self.try_sample(now) {
            self.faults = self.faults.saturating_add(1);
            self.last_fault = Some(error);
        }
    }

    fn try_sample(&mut self, now: Now) -> Result<(), Error> {
        let domain = &self.domain;
        match &mut self.probe {
            Probe::Counter { value, scale, sum } => {
                let cur = value.read(domain)?;
                sum.add(cur, now.at, scale).map_err(|found| broken(found, domain, &value.path, scale))?;
                self.joules = sum.counts() as f64 * scale.joules;
            }
            Probe::Power { sensor, last, at, limit, .. } => {
                let watts = possible(sensor.read(domain)?, *limit, domain)?;
                let seconds = now.at.saturating_sub(*at).as_secs_f64();
                self.joules += f64::midpoint(*last, watts) * seconds;
                (*last, *at) = (watts, now.at);
            }
        }
        Ok(())
    }

    /// Joules since the begin.
    pub(crate) fn joules(&self) -> f64 {
        self.joules
    }

    /// How often something went wrong since the begin.
    pub(crate) fn faults(&self) -> u32 {
        self.faults
    }

    /// What went wrong last.
    pub(crate) fn last_fault(&self) -> Option<&Error> {
        self.last_fault.as_ref()
    }

    /// The smallest amount of energy that the sensor shows, in J; for a sensor of power there is none.
    pub(crate) fn resolution(&self) -> f64 {
        match &self.probe {
            Probe::Counter { scale, .. } => scale.step * scale.joules,
            Probe::Power { .. } => 0.0,
        }
    }

    /// How often the sensor is brought up to date.
    pub(crate) fn update(&self) -> Duration {
        match &self.probe {
            Probe::Counter { scale, .. } => scale.update,
            Probe::Power { update, .. } => *update,
        }
    }

    /// Whether the sensor counts energy.
    pub(crate) fn counts(&self) -> bool {
        matches!(self.probe, Probe::Counter { .. })
    }

    /// How often it has to be read so that nothing is lost.
    pub(crate) fn interval(&self) -> Duration {
        /// The kernel unwraps the counters of its performance events for at most 200 W and this long.
        const MOST: Duration = Duration::from_secs(30);
        match &self.probe {
            // Half of the longest gap: a reader that comes late still comes in time.
            Probe::Counter { scale, .. } => scale.longest_gap().map_or(MOST, |gap| gap / 2).min(MOST),
            Probe::Power { update, .. } => (*update / 2).clamp(Duration::from_millis(1), Duration::from_secs(1)),
        }
    }
}

fn possible(watts: f64, limit: f64, domain: &Domain) -> Result<f64, Error> {
    if watts > limit {
        return Err(Error::ImpossiblePower { name: domain.name.clone(), watts, limit });
    }
    Ok(watts)
}

fn broken(found: Break, domain: &Domain, path: &Path, scale: &Scale) -> Error {
    let name = domain.name.clone();
    match found {
        Break::AboveMax(cur) => Error::Malformed {
            path: path.to_owned(),
            text: format!("{cur}, above its range of {}", scale.max.unwrap_or_default()),
        },
        Break::Backwards { prev, cur } => Error::Backwards { name, prev, cur },
        Break::Impossible(watts) => Error::ImpossiblePower { name, watts, limit: scale.limit },
        Break::Ambiguous { elapsed, longest } => Error::AmbiguousWrap { name, elapsed, wrap_min: longest },
    }
}
