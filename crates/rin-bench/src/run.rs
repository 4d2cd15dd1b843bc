//! Conducting a measurement: configurations in turn, repetition after repetition.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use rin_energy::{Error as MeterError, Meter};
use rin_engine::limits::peak_rss_bytes;

use crate::jitter::{Jitter, SPIN, SPINS, Spin};
use crate::lane::{self, Answer, Job, Sample};
use crate::peak::Peaks;
use crate::plan::{Setting, Test, Workload};
use crate::quiet::Reading;
use crate::report::Machine;
use crate::row::{Collected, Row};
use crate::subject::{Facts, Loader};
use crate::{Error, Report, time};

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The configuration with this number is being loaded and warmed up.
    Loading(usize),
    /// So many repetitions are done, out of so many that count.
    Repetitions(usize, usize),
    /// Further single steps are timed for the percentiles.
    Latencies,
    /// The machine itself is being measured.
    Machine,
}

/// Measures every setting; `tell` hears how far it is.
///
/// Each setting is loaded on a thread of its own, all of them at once where they fit into memory together, and warms up
/// with one repetition of each of its tests. Then each round takes all settings in turn, from the first to the last and
/// in the next round back, so that what drifts meets all alike. Where they do not fit together, each is loaded and warmed
/// up anew for each repetition. After the rounds the machine itself is measured.
///
/// # Errors
///
/// When a setting cannot be loaded or run, or the logits of its repetitions differ.
pub fn run(
    loader: &dyn Loader,
    settings: &[Setting],
    workload: &Workload,
    tell: impl FnMut(Event),
) -> Result<Report, Error> {
    let none = MeterError::NoSensor { looked_for: vec!["nobody asked for it".to_owned()] };
    run_with_energy(loader, settings, workload, &Err(none), tell)
}

/// As [`run()`], and reads a meter beside every repetition; or says in every row why there is none.
///
/// # Errors
///
/// As [`run()`]. A meter that fails leaves rows without energy, and says why.
pub fn run_with_energy(
    loader: &dyn Loader,
    settings: &[Setting],
    workload: &Workload,
    meter: &Result<Meter, MeterError>,
    mut tell: impl FnMut(Event),
) -> Result<Report, Error> {
    workload.check()?;
    let mut notes = Vec::new();
    let spin = Spin::calibrate(SPIN);
    let mut spins = Vec::with_capacity(2 * SPINS);
    tell(Event::Machine);
    spin.sample(SPINS, &mut spins);

    let resident = settings.len() == 1 || loader.fit_together(settings)?;
    if !resident {
        notes
            .push("the configurations do not fit into memory together: each is loaded anew for each repetition".into());
    }
    let rounds = scope(|scope| rounds(scope, loader, settings, workload, resident, meter.as_ref().ok(), &mut tell))?;

    tell(Event::Machine);
    let peaks = if workload.machine { peaks(loader, &rounds.cells, &mut notes) } else { Vec::new() };
    spin.sample(SPINS, &mut spins);
    for note in rounds.cells.iter().flat_map(|cell| &cell.facts.notes).chain(peaks.iter().flat_map(|p| &p.notes)) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let machine = Machine {
        cpu_info: cpu_info(),
        disturbance: rounds.before.until(&rounds.after),
        jitter: Jitter::of(&spins),
        peaks,
        notes,
    };
    let rows = rounds.cells.iter().map(|cell| Row::of(cell, &machine, meter)).collect();
    Ok(Report { rows, machine })
}

/// What the rounds gave.
struct Rounds {
    cells: Vec<Collected>,
    before: Reading,
    after: Reading,
}

fn rounds<'s, 'e>(
    scope: &'s Scope<'s, 'e>,
    loader: &'e dyn Loader,
    settings: &'e [Setting],
    workload: &Workload,
    resident: bool,
    meter: Option<&'e Meter>,
    tell: &mut impl FnMut(Event),
) -> Result<Rounds, Error> {
    let lanes = settings.iter().enumerate();
    let lanes = lanes.map(|(i, setting)| Conductor::start(scope, i, loader, setting, resident, meter));
    let mut lanes = lanes.collect::<Result<Vec<_>, _>>()?;
    // One after the other: loading takes all of the machine.
    for (i, lane) in lanes.iter_mut().enumerate().filter(|_| resident) {
        tell(Event::Loading(i));
        lane.prepare()?;
    }
    let total = workload.repetitions * lanes.iter().map(|lane| lane.cells.len()).sum::<usize>();
    let mut done = 0;
    let before = Reading::now();
    for round in 0..workload.repetitions {
        tell(Event::Repetitions(done, total));
        for lane in in_turn(&mut lanes, round) {
            done += lane.repetition()?;
            tell(Event::Repetitions(done, total));
        }
    }
    let mut round = 0;
    while lanes.iter().any(|lane| lane.lacks_latencies(workload)) {
        tell(Event::Latencies);
        for lane in in_turn(&mut lanes, round) {
            if lane.lacks_latencies(workload) {
                lane.latencies()?;
            }
        }
        round += 1;
    }
    let after = Reading::now();
    // Of several engines in one process none has a peak of its own.
    let peak_rss = if settings.len() == 1 { peak_rss_bytes() } else { None };
    let mut cells = Vec::new();
    for lane in lanes {
        cells.extend(lane.end()?.into_iter().map(|cell| Collected { peak_rss, ..cell }));
    }
    Ok(Rounds { cells, before, after })
}

/// The lanes forwards in even rounds, backwards in odd ones.
fn in_turn<T>(lanes: &mut [T], round: usize) -> impl Iterator<Item = &mut T> {
    let mut order: Vec<_> = lanes.iter_mut().collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order.into_iter()
}

/// The conducting end of a lane.
struct Conductor<'s> {
    index: usize,
    jobs: Sender<Job>,
    answers: Receiver<Result<Answer, Error>>,
    thread: ScopedJoinHandle<'s, ()>,
    cells: Vec<Collected>,
    /// Time spent on further latencies.
    spent: Duration,
}

impl<'s> Conductor<'s> {
    fn start<'e>(
        scope: &'s Scope<'s, 'e>,
        index: usize,
        loader: &'e dyn Loader,
        setting: &'e Setting,
        resident: bool,
        meter: Option<&'e Meter>,
    ) -> Result<Self, Error> {
        let (jobs, inbox) = channel();
        let (outbox, answers) = channel();
        let builder = Builder::new().name(format!("rin-bench-{index}"));
        let thread = builder
            .spawn_scoped(scope, move || {
                // Of a lane that panics the conductor hears by its silence.
                drop(catch_unwind(AssertUnwindSafe(|| lane::work(loader, setting, resident, meter, &inbox, &outbox))));
            })
            .map_err(Error::Spawn)?;
        let cells = setting.tests.iter().map(|test| Collected::new(*test, setting)).collect();
        Ok(Self { index, jobs, answers, thread, cells, spent: Duration::ZERO })
    }

    fn ask(&self, job: Job) -> Result<Answer, Error> {
        let ended = Error::LaneEnded(self.index);
        if self.jobs.send(job).is_err() {
            return Err(ended);
        }
        self.answers.recv().unwrap_or(Err(ended))
    }

    fn prepare(&mut self) -> Result<(), Error> {
        if let Answer::Ready(facts) = self.ask(Job::Prepare)? {
            self.cells.iter_mut().for_each(|cell| cell.facts = Facts::clone(&facts));
        }
        Ok(())
    }

    /// One repetition of every test; how many those are.
    fn repetition(&mut self) -> Result<usize, Error> {
        for test in 0..self.cells.len() {
            let at = time::now();
            let (facts, sample) = self.sample(test)?;
            if let Some(cell) = self.cells.get_mut(test) {
                cell.count(at, facts, sample);
            }
        }
        Ok(self.cells.len())
    }

    fn sample(&self, test: usize) -> Result<(Facts, Sample), Error> {
        match self.ask(Job::Measure(test))? {
            Answer::Sample(facts, sample) => Ok((*facts, sample)),
            Answer::Ready(_) => Err(Error::LaneEnded(self.index)),
        }
    }

    fn lacks_latencies(&self, workload: &Workload) -> bool {
        let lacks =
            |cell: &Collected| matches!(cell.test, Test::Generate(_)) && cell.steps.len() < workload.latency_steps;
        self.spent < workload.latency_budget && self.cells.iter().any(lacks)
    }

    /// One repetition of the generation, for its single steps alone.
    fn latencies(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        if let Some(test) = self.cells.iter().position(|cell| matches!(cell.test, Test::Generate(_))) {
            let (_, sample) = self.sample(test)?;
            if let Some(cell) = self.cells.get_mut(test) {
                cell.steps.extend(sample.steps);
            }
        }
        // A step of no measurable time must end as well.
        self.spent += start.elapsed().max(Duration::from_nanos(1));
        Ok(())
    }

    fn end(self) -> Result<Vec<Collected>, Error> {
        drop(self.jobs);
        self.thread.join().map_err(|_| Error::LaneEnded(self.index))?;
        Ok(self.cells)
    }
}

/// The machine's limits for each number of workers and tier in use, each on a fresh thread, for workers are pinned.
fn peaks(loader: &dyn Loader, cells: &[Collected], notes: &mut Vec<String>) -> Vec<Peaks> {
    let used: BTreeSet<(usize, &str)> =
        cells.iter().map(|cell| (cell.facts.n_threads, cell.facts.tier.as_str())).collect();
    used.into_iter().filter_map(|(threads, tier)| peaks_of(loader, threads, tier, notes)).collect()
}

/// The machine's limits for so many workers on a tier; none, and a note, where they cannot be measured.
pub(crate) fn peaks_of(loader: &dyn Loader, threads: usize, tier: &str, notes: &mut Vec<String>) -> Option<Peaks> {
    let measured = scope(|scope| match Builder::new().spawn_scoped(scope, || loader.peaks(threads, tier)) {
        Ok(thread) => thread.join().unwrap_or(Err(Error::LaneEnded(0))),
        Err(error) => Err(Error::Spawn(error)),
    });
    measured.unwrap_or_else(|error| {
        notes.push(format!("the machine's limits with {threads} threads are not known: {error}"));
        None
    })
}

/// The processor's name for itself.
pub(crate) fn cpu_info() -> String {
    let text = crate::proc_file::text(std::path::Path::new("/proc/cpuinfo")).unwrap_or_default();
    let name = crate::proc_file::value(&text, "model name").map(str::to_owned);
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
