//! Heat: how far sensors of temperature rise under load, reading by reading.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Bound, Curve, Measured};
use crate::Error;

/// Fewer readings are no drift.
const LEAST_READINGS: u32 = 10;
/// A log has about so many readings at most, however long heat is watched.
const MOST_READINGS: u32 = 600;
/// Sensors are brought up to date about once in this time.
const SECOND: Duration = Duration::from_secs(1);

/// How long heat is watched, and how often it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    time: Duration,
    every: Duration,
}

impl Watch {
    /// The least number of seconds for [`for_seconds`](Self::for_seconds).
    pub const LEAST_SECONDS: u64 = LEAST_READINGS as u64;

    /// Readings so often.
    ///
    /// # Errors
    /// [`Error::Input`] where that makes fewer than ten readings.
    pub fn new(time: Duration, every: Duration) -> Result<Self, Error> {
        if every.is_zero() || time < every * LEAST_READINGS {
            let why = format!("{time:?} has no room for {LEAST_READINGS} readings, one every {every:?}");
            return Err(Error::input("the time over which heat is watched", why));
        }
        Ok(Self { time, every })
    }

    /// A reading each second, or 600 in all where that would be more.
    ///
    /// # Errors
    /// [`Error::Input`] for less than ten seconds.
    pub fn for_seconds(seconds: u64) -> Result<Self, Error> {
        let time = Duration::from_secs(seconds);
        Self::new(time, SECOND.max(time / MOST_READINGS))
    }
}

/// A sensor and its first reading, in °C.
#[derive(Clone, Debug)]
struct Sensor {
    name: String,
    path: PathBuf,
    first: f64,
}

/// The sensors of a machine that can be read, with what they said before anything loaded it.
#[derive(Clone, Debug)]
pub struct Thermometers {
    root: PathBuf,
    sensors: Vec<Sensor>,
}

impl Thermometers {
    /// Reads those of the machine whose /sys is mounted below `root`.
    pub fn read(root: &Path) -> Self {
        let sensors = paths(root).into_iter().filter_map(|path| {
            let first = celsius(&path)?;
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            Some(Sensor { name, path, first })
        });
        Self { root: root.to_owned(), sensors: sensors.collect() }
    }
}

/// What a sensor said, reading by reading.
struct History<'a> {
    sensor: &'a Sensor,
    values: Vec<Option<f64>>,
}

impl History<'_> {
    /// How far it rose above its first reading; less than 0 where it fell; none where it said nothing.
    fn rise(&self) -> Option<f64> {
        self.values.iter().flatten().copied().reduce(f64::max).map(|most| most - self.sensor.first)
    }

    fn stopped(&self) -> bool {
        self.values.iter().any(Option::is_none)
    }

    /// Whether it is one value throughout, as that of a zone that the firmware fixed.
    fn constant(&self) -> bool {
        self.values.iter().flatten().all(|value| value.total_cmp(&self.sensor.first).is_eq())
    }
}

/// The largest rise of any sensor above what it said before the load, while `work` is repeated for as long as is watched.
///
/// A pass needs a sensor that was read throughout and that moved; a rise that is too large is a failure whichever sensor
/// saw it, and whatever became of it.
///
/// # Errors
/// What `work` meets.
pub fn thermal(
    cold: &Thermometers,
    watch: Watch,
    threshold: f64,
    mut work: impl FnMut() -> Result<(), Error>,
) -> Result<Measured, Error> {
    if cold.sensors.is_empty() {
        let zones = cold.root.join("sys/class/thermal");
        return Ok(Measured::untestable(format!("no sensor of temperature below {} or hwmon", zones.display())));
    }
    let mut histories: Vec<History<'_>> =
        cold.sensors.iter().map(|sensor| History { sensor, values: Vec::new() }).collect();
    let (began, mut due) = (Instant::now(), watch.every);
    let mut times = Vec::new();
    loop {
        work()?;
        let elapsed = began.elapsed();
        let ends = elapsed >= watch.time;
        if ends || elapsed >= due {
            times.push(elapsed.as_secs_f64());
            for history in &mut histories {
                history.values.push(celsius(&history.sensor.path));
            }
            due = elapsed + watch.every;
        }
        if ends {
            break;
        }
    }
    Ok(judge(&histories, &times, threshold))
}

fn judge(histories: &[History<'_>], times: &[f64], threshold: f64) -> Measured {
    let (stopped, constant) = (
        histories.iter().filter(|history| history.stopped()).count(),
        histories.iter().filter(|history| !history.stopped() && history.constant()).count(),
    );
    let sensors = histories.len();
    let of = format!("of {sensors} sensors {stopped} stopped to be read and {constant} never changed");
    let rises = histories.iter().filter_map(|history| Some((history, history.rise()?)));
    let Some((hottest, most)) = rises.max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Measured::untestable(of);
    };
    if stopped + constant == sensors && most <= threshold {
        return Measured::untestable(of);
    }
    let readings = times.len();
    // The load may come in pieces that are longer than the time between two readings.
    if readings < LEAST_READINGS as usize / 2 && most <= threshold {
        return Measured::untestable(format!("only {readings} readings: the load came in too large pieces"));
    }
    let first = hottest.sensor.first;
    let detail = format!(
        "{} rose from {first:.1} to {:.1} °C; {readings} readings over {:.0} s; {of}",
        hottest.sensor.name,
        first + most,
        times.last().copied().unwrap_or_default(),
    );
    let later = times.iter().zip(&hottest.values).filter_map(|(at, value)| Some([*at, (*value)?]));
    let curve = Curve {
        x: "seconds under load".to_owned(),
        y: format!("°C, {}", hottest.sensor.name),
        points: std::iter::once([0.0, first]).chain(later).collect(),
    };
    Measured { curve: Some(curve), ..Measured::judged(most, Bound::AtMost, threshold, detail) }
}

/// Files of temperatures in thousandths of a degree.
fn paths(root: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect()
    };
    let named = |path: &Path, start: &str, end: &str| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    };
    let mut found: Vec<PathBuf> = list(&root.join("sys/class/thermal"))
        .into_iter()
        .filter(|zone| named(zone, "thermal_zone", ""))
        .map(|zone| zone.join("temp"))
        .collect();
    for device in list(&root.join("sys/class/hwmon")) {
        found.extend(list(&device).into_iter().filter(|file| named(file, "temp", "_input")));
    }
    found.sort();
    found
}

fn celsius(path: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    let thousandths: f64 = text.trim().parse().ok()?;
    thousandths.is_finite().then_some(thousandths / 1000.0)
}
