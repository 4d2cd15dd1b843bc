//! Energy of repeated work: windows that are long against the sensor's updates, in an order that cancels drift, beside
//! the power of the idle machine.
//!
//! One round measures the idle machine and then each variant once, in the next round in the opposite order (ABBA), so that
//! a machine that grows warmer meets all alike. A window begins and ends at an update of the counter and repeats its work
//! until it is long enough. What goes wrong in a window drops it, and it is counted.

use std::time::Duration;

use crate::environment::Environment;
use crate::stats::{mean, median, median_interval};
use crate::{DomainKind, Error, Measurement, Meter, Reading, Sensors, Source};

/// How work is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Rounds that count.
    pub rounds: usize,
    /// The least time of a window of work. An edge that is 1 ms off is 0.1 % of 2 s at either end.
    pub window: Duration,
    /// The time of a window without work.
    pub idle: Duration,
    /// Waiting after work before the idle machine is measured, until caches and governors have come to rest.
    pub settle: Duration,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            rounds: 10,
            window: Duration::from_secs(2),
            idle: Duration::from_secs(2),
            settle: Duration::from_millis(200),
        }
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every variant runs once, and does not count.
    WarmUp,
    /// So many windows are done, of so many.
    Windows(usize, usize),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError<E> {
    /// The meter failed altogether.
    #[error(transparent)]
    Meter(#[from] Error),
    /// The work failed.
    #[error("{0}")]
    Work(E),
}

/// A middle value and an interval that holds the true one with 95 % probability.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Figure {
    /// The median over the windows.
    pub median: f64,
    /// Its interval; none for fewer than six windows.
    pub ci95: Option<[f64; 2]>,
}

impl Figure {
    /// Of some values; none of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self { median: median(values)?, ci95: median_interval(values) })
    }
}

/// One window.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Window {
    /// Which variant ran; none for an idle machine.
    pub variant: Option<usize>,
    /// The round.
    pub round: usize,
    /// Begin since the first window, in s.
    pub begin: f64,
    /// Length, in s.
    pub seconds: f64,
    /// Units of work (tokens, inferences) in it.
    pub units: u64,
    /// Energy, in J; none where the window was dropped.
    pub joules: Option<f64>,
    /// Energy of memory beside it, in J, where that has a line of its own.
    pub dram_joules: Option<f64>,
    /// Standard uncertainty from the sensor, in J.
    pub uncertainty: f64,
    /// Whether both ends lie at updates of the counter.
    pub aligned: bool,
    /// Why it was dropped.
    pub dropped: Option<String>,
}

impl Window {
    /// Mean power, in W.
    pub fn watts(&self) -> Option<f64> {
        Some(self.joules? / self.seconds.max(f64::MIN_POSITIVE))
    }
}

/// What one variant takes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Windows that count.
    pub windows: usize,
    /// Windows that were dropped.
    pub dropped: usize,
    /// Energy of a unit, in J, as the sensor has it.
    pub joules_per_unit: Option<Figure>,
    /// The same less what the idle machine takes in that time.
    pub net_joules_per_unit: Option<Figure>,
    /// Energy of memory per unit, in J, beside the above.
    pub dram_joules_per_unit: Option<Figure>,
    /// Standard uncertainty of the energy of a unit in one window, in J: from the sensor.
    pub uncertainty_per_unit: Option<f64>,
    /// The same of the net energy: also from the idle power.
    pub net_uncertainty_per_unit: Option<f64>,
    /// Mean power, in W.
    pub watts: Option<Figure>,
    /// Seconds of a unit.
    pub seconds_per_unit: Option<f64>,
}

/// All that was measured.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The source.
    pub source: Source,
    /// What it stands for.
    pub covers: Option<DomainKind>,
    /// Each variant.
    pub variants: Vec<Variant>,
    /// Power of the idle machine, in W.
    pub idle_watts: Option<Figure>,
    /// The differences of the energy of a unit between the second and the first variant, round by round: their median,
    /// in J. They differ where the interval leaves out 0.
    pub difference: Option<Figure>,
    /// The machine before.
    pub before: Environment,
    /// The machine after.
    pub after: Environment,
    /// What changed or got in the way.
    pub disturbances: Vec<String>,
    /// Every window in order.
    pub windows: Vec<Window>,
}

impl Report {
    /// The energy of a window of work beyond what the idle machine takes in that time, in J; none where one of the two is
    /// not known.
    pub fn net_joules(&self, window: &Window) -> Option<f64> {
        window.variant?;
        let (watts, _) = Idle::of(&self.windows).around(window.round)?;
        Some(window.joules? - watts * window.seconds)
    }

    /// Where every window of work was dropped: that, and what went wrong in them, the most frequent first.
    pub fn all_dropped(&self) -> Option<Error> {
        let work = self.windows.iter().filter(|window| window.variant.is_some());
        if work.clone().any(|window| window.joules.is_some()) {
            return None;
        }
        let windows = work.clone().count();
        let mut reasons: Vec<(usize, String)> = Vec::new();
        for reason in work.filter_map(|window| window.dropped.as_ref()) {
            match reasons.iter_mut().find(|(_, known)| known == reason) {
                Some((times, _)) => *times += 1,
                None => reasons.push((1, reason.clone())),
            }
        }
        reasons.sort_by_key(|(times, _)| std::cmp::Reverse(*times));
        Some(Error::AllDropped { windows, reasons })
    }
}

impl Protocol {
    /// Measures. `work` runs a variant once and says how many units that were; `tell` hears how far it is.
    ///
    /// # Errors
    /// Where the work fails, or the meter cannot be started. Windows in which a sensor fails are dropped and counted.
    pub fn run<E>(
        &self,
        sensors: &Sensors,
        meter: &mut Meter,
        names: &[&str],
        work: &mut dyn FnMut(usize) -> Result<u64, E>,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Report, ProtocolError<E>> {
        meter.watch()?;
        tell(Progress::WarmUp);
        for variant in 0..names.len() {
            work(variant).map_err(ProtocolError::Work)?;
        }
        let before = Environment::of(sensors);
        let run = Run { protocol: self, meter, begin: sensors.host().now().at, windows: Vec::new() };
        let windows = run.rounds(sensors, names.len(), work, tell)?;
        let after = Environment::of(sensors);
        let idle = Idle::of(&windows);
        let variants = names.iter().enumerate().map(|(i, name)| Variant::of(name, i, &windows, &idle)).collect();
        Ok(Report {
            source: meter.source(),
            covers: meter.covers(),
            variants,
            idle_watts: Figure::of(&idle.all()),
            difference: if names.len() > 1 { difference(&windows) } else { None },
            disturbances: before.disturbances(&after),
            before,
            after,
            windows,
        })
    }
}

struct Run<'a> {
    protocol: &'a Protocol,
    meter: &'a Meter,
    begin: Duration,
    windows: Vec<Window>,
}

impl Run<'_> {
    fn rounds<E>(
        mut self,
        sensors: &Sensors,
        variants: usize,
        work: &mut dyn FnMut(usize) -> Result<u64, E>,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Window>, ProtocolError<E>> {
        let total = self.protocol.rounds * (variants + 1) + 1;
        // The last round has an idle window alone, so that every window of work lies between two of them.
        for round in 0..=self.protocol.rounds {
            tell(Progress::Windows(self.windows.len(), total));
            sensors.host().sleep(self.protocol.settle);
            let began = self.meter.edge();
            sensors.host().sleep(self.protocol.idle);
            self.end(None, round, 0, &began);
            let in_turn = (0..variants).filter(|_| round < self.protocol.rounds);
            let order: Vec<usize> = if round % 2 == 0 { in_turn.collect() } else { in_turn.rev().collect() };
            for variant in order {
                tell(Progress::Windows(self.windows.len(), total));
                let began = self.meter.edge();
                let mut units = 0_u64;
                loop {
                    units = units.saturating_add(work(variant).map_err(ProtocolError::Work)?);
                    if sensors.host().now().at.saturating_sub(began.at()) >= self.protocol.window {
                        break;
                    }
                }
                self.end(Some(variant), round, units, &began);
            }
        }
        Ok(self.windows)
    }

    fn end(&mut self, variant: Option<usize>, round: usize, units: u64, began: &Reading) {
        let ended = self.meter.edge();
        let found = self.meter.between(began, &ended);
        let joules = found.as_ref().map_err(Clone::clone).and_then(Measurement::joules);
        self.windows.push(Window {
            variant,
            round,
            begin: began.at().saturating_sub(self.begin).as_secs_f64(),
            seconds: ended.at().saturating_sub(began.at()).as_secs_f64(),
            units,
            dropped: joules.as_ref().err().map(ToString::to_string),
            joules: joules.ok(),
            dram_joules: found.as_ref().ok().and_then(Measurement::dram_joules),
            uncertainty: found.map_or(0.0, |found| found.uncertainty),
            aligned: began.aligned() && ended.aligned(),
        });
    }
}

/// The power of the idle machine, window by window.
struct Idle {
    /// In W, with its standard uncertainty from the sensor, for each round.
    watts: Vec<Option<(f64, f64)>>,
}

impl Idle {
    fn of(windows: &[Window]) -> Self {
        let idle = windows.iter().filter(|window| window.variant.is_none());
        let watts = |window: &Window| Some((window.watts()?, window.uncertainty / window.seconds));
        Self { watts: idle.map(watts).collect() }
    }

    fn all(&self) -> Vec<f64> {
        self.watts.iter().flatten().map(|(watts, _)| *watts).collect()
    }

    /// In a round: the mean of the windows before and after it, so that a steady drift cancels; half of their difference
    /// is uncertain.
    fn around(&self, round: usize) -> Option<(f64, f64)> {
        let (before, u_before) = (*self.watts.get(round)?)?;
        let (after, u_after) = (*self.watts.get(round + 1)?)?;
        let drift = (before - after) / 2.0;
        let sensor = (u_before * u_before + u_after * u_after) / 4.0;
        Some((f64::midpoint(before, after), (drift * drift + sensor).sqrt()))
    }
}

impl Variant {
    fn of(name: &str, variant: usize, windows: &[Window], idle: &Idle) -> Self {
        let all = windows.iter().filter(|window| window.variant == Some(variant));
        let (good, dropped): (Vec<_>, Vec<_>) = all.partition(|window| window.joules.is_some() && window.units > 0);
        let over = |value: &dyn Fn(&Window) -> Option<f64>| -> Vec<f64> {
            good.iter().filter_map(|window| value(window)).collect()
        };
        let per = |window: &Window, joules: f64| joules / window.units as f64;
        let net = |window: &Window| {
            let (watts, _) = idle.around(window.round)?;
            Some(per(window, window.joules? - watts * window.seconds))
        };
        let net_uncertainty = |window: &Window| {
            let (_, watts) = idle.around(window.round)?;
            let of_idle = watts * window.seconds;
            Some(per(window, (window.uncertainty * window.uncertainty + of_idle * of_idle).sqrt()))
        };
        Self {
            name: name.to_owned(),
            windows: good.len(),
            dropped: dropped.len(),
            joules_per_unit: Figure::of(&over(&|window| Some(per(window, window.joules?)))),
            net_joules_per_unit: Figure::of(&over(&net)),
            dram_joules_per_unit: Figure::of(&over(&|window| Some(per(window, window.dram_joules?)))),
            uncertainty_per_unit: median(&over(&|window| Some(per(window, window.uncertainty)))),
            net_uncertainty_per_unit: median(&over(&net_uncertainty)),
            watts: Figure::of(&over(&Window::watts)),
            seconds_per_unit: mean(&over(&|window| Some(per(window, window.seconds)))),
        }
    }
}

/// The second variant's energy per unit less the first's, in the rounds in which both count.
fn difference(windows: &[Window]) -> Option<Figure> {
    let per_unit = |window: &Window| Some(window.joules? / (window.units > 0).then_some(window.units as f64)?);
    let of = |variant: usize, round: usize| {
        windows.iter().find(|window| window.variant == Some(variant) && window.round == round).and_then(per_unit)
    };
    let rounds = windows.iter().map(|window| window.round).max()?;
    let differences: Vec<f64> = (0..=rounds).filter_map(|round| Some(of(1, round)? - of(0, round)?)).collect();
    Figure::of(&differences)
}
