//! The bench of networks on rows of numbers: the row `inf`, with the percentiles of single runs.
//!
//! A repetition is a burst of runs, one after the other, of at least 20 ms; repetitions are interleaved over the
//! configurations. Single runs are then timed one by one, the reading of the clock included, in turns with a spin of their
//! length: what lengthens one run in a thousand by the same time is many times a short run and a share of a long one, so the
//! machine's own tail is that of a spin as long as the run.

use crate::jitter::{Jitter, SPIN, SPINS, Spin};
use crate::plan::{Setting, Workload};
use crate::quiet::{Reading, Verdict};
use crate::report::Machine;
use crate::row::{counted_or_none, whole};
use crate::run::cpu_info;
use crate::stats::bootstrap::mean_interval;
use crate::stats::{mean, outliers, percentile, sorted, stddev, tail};
use crate::subject::model_type;
use crate::work::NetworkWork;
use crate::{Error, Event, Model, Report, Row};
use rin_energy::{Error as MeterError, Meter, Record, Span};
use rin_engine::LoadOptions;
use rin_engine::digest::LogitDigest;
use std::time::{Duration, Instant};

/// Length of a repetition.
const BURST: Duration = Duration::from_millis(20);
/// Most single runs that are timed.
const MAX_RUNS: usize = 200_000;

/// One configuration, loaded.
struct Lane {
    work: NetworkWork,
    /// Runs in a repetition.
    runs: usize,
    began: String,
    ns: Vec<f64>,
    spans: Vec<Result<Span, MeterError>>,
    allocations: u64,
    singles: Vec<f64>,
    /// Spins between the single runs, in ns.
    spins: Vec<f64>,
    digest: String,
}

/// Measures networks; [`Setting::n_parallel`] is the rows of a run.
///
/// # Errors
///
/// When a network cannot be loaded or the workload is out of range.
pub fn run(
    models: &[Model],
    options: &LoadOptions,
    settings: &[Setting],
    workload: &Workload,
    meter: &Result<Meter, MeterError>,
    mut tell: impl FnMut(Event),
) -> Result<Report, Error> {
    workload.check()?;
    let spin = Spin::calibrate(SPIN);
    let mut spins = Vec::with_capacity(2 * SPINS);
    tell(Event::Machine);
    spin.sample(SPINS, &mut spins);
    let mut lanes = Vec::with_capacity(settings.len());
    for (i, setting) in settings.iter().enumerate() {
        tell(Event::Loading(i));
        let model = models.get(setting.model).ok_or(Error::NothingToMeasure)?;
        lanes.push(Lane::load(model, options, setting, workload.repetitions)?);
    }
    let total = workload.repetitions * lanes.len();
    let before = Reading::now();
    for round in 0..workload.repetitions {
        let n = lanes.len();
        for i in 0..n {
            tell(Event::Repetitions(round * n + i, total));
            // Forwards in even rounds, backwards in odd ones.
            let at = if round % 2 == 0 { i } else { n - 1 - i };
            lanes[at].repetition(meter.as_ref().ok())?;
        }
    }
    tell(Event::Latencies);
    for lane in &mut lanes {
        lane.singles(workload.latency_budget)?;
    }
    let after = Reading::now();
    tell(Event::Machine);
    spin.sample(SPINS, &mut spins);
    let machine = Machine {
        cpu_info: cpu_info(),
        disturbance: before.until(&after),
        jitter: Jitter::of(&spins),
        peaks: Vec::new(),
        notes: Vec::new(),
    };
    let peak = if lanes.len() == 1 { rin_engine::limits::peak_rss_bytes() } else { None };
    let rows = lanes.into_iter().map(|lane| lane.row(&machine, meter, peak)).collect();
    Ok(Report { rows, machine })
}

impl Lane {
    fn load(model: &Model, options: &LoadOptions, setting: &Setting, repetitions: usize) -> Result<Self, Error> {
        let options = LoadOptions {
            threads: setting.threads.or(options.threads),
            tier: setting.tier.or(options.tier),
            ..options.clone()
        };
        let mut lane = Self {
            work: NetworkWork::load(model.file()?, &options, setting.n_parallel)?,
            runs: 1,
            began: crate::time::now(),
            ns: Vec::with_capacity(repetitions),
            spans: Vec::with_capacity(repetitions),
            allocations: 0,
            singles: Vec::with_capacity(MAX_RUNS),
            spins: Vec::with_capacity(MAX_RUNS),
            digest: String::new(),
        };
        lane.burst(1)?;
        let mut digest = LogitDigest::new();
        lane.work.engine().digest(&mut digest);
        lane.digest = digest.finish().to_string();
        // As many runs as a repetition takes, the caches being warm by then.
        while lane.burst(lane.runs)? < BURST && lane.runs < 1 << 24 {
            lane.runs *= 2;
        }
        Ok(lane)
    }

    fn burst(&mut self, runs: usize) -> Result<Duration, Error> {
        let start = Instant::now();
        self.allocations += self.work.run(runs)?;
        Ok(start.elapsed())
    }

    fn repetition(&mut self, meter: Option<&Meter>) -> Result<(), Error> {
        let began = meter.map(Meter::read);
        let time = self.burst(self.runs)?;
        let ended = meter.map(Meter::read);
        self.ns.push(time.as_secs_f64() * 1e9);
        if let (Some(meter), Some(began), Some(ended)) = (meter, began, ended) {
            self.spans.push(meter.span(&began, &ended));
        }
        Ok(())
    }

    fn singles(&mut self, budget: Duration) -> Result<(), Error> {
        let run = self.ns.iter().copied().fold(f64::INFINITY, f64::min) / self.runs as f64;
        let spin =
            Spin::calibrate(Duration::from_secs_f64(if run.is_finite() { run / 1e9 } else { SPIN.as_secs_f64() }));
        let end = Instant::now() + budget;
        let (singles, spins) = (&mut self.singles, &mut self.spins);
        let mut began: Option<Instant> = None;
        self.work.repeat(|| {
            let now = Instant::now();
            if let Some(began) = began {
                singles.push((now - began).as_secs_f64() * 1e6);
                spins.push(spin.time());
            }
            began = Some(Instant::now());
            singles.len() < MAX_RUNS && now < end
        })?;
        Ok(())
    }

    fn energy(&self, meter: &Result<Meter, MeterError>) -> Record {
        let meter = match meter {
            Ok(meter) => meter,
            Err(error) => return Record::unmeasured(error),
        };
        let spans: Vec<Span> = self.spans.iter().filter_map(|span| span.as_ref().ok().copied()).collect();
        match self.spans.iter().find_map(|span| span.as_ref().err()).filter(|_| spans.is_empty()) {
            Some(error) => Record::unmeasured(error),
            None => Record::sum(&spans, (spans.len() * self.runs * self.work.rows()) as u64, meter),
        }
    }

    fn row(self, machine: &Machine, meter: &Result<Meter, MeterError>, peak_rss: Option<u64>) -> Row {
        let energy = self.energy(meter);
        let engine = self.work.engine();
        let (file, plan) = (engine.file(), engine.plan());
        let n_params = file.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_elements()));
        let n_rows = self.work.rows() as u64;
        let rows = (self.runs * self.work.rows()) as f64;
        let ts: Vec<f64> = self.ns.iter().map(|ns| rows / ns.max(1.0) * 1e9).collect();
        let singles = sorted(&self.singles);
        let jitter = Jitter::of(&self.spins);
        let disturbance = &machine.disturbance;
        Row {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_info: machine.cpu_info.clone(),
            model_filename: file.path().display().to_string(),
            model_type: model_type(file, plan.network.mode.name(), n_params),
            model_size: file.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes)),
            model_n_params: n_params,
            n_batch: n_rows,
            n_threads: engine.threads() as u64,
            tier: engine.tier().name().to_owned(),
            n_parallel: n_rows,
            test: "inf".to_owned(),
            n_gen: self.runs as u64,
            test_time: self.began.clone(),
            avg_ns: whole(mean(&self.ns).unwrap_or(0.0)),
            stddev_ns: whole(stddev(&self.ns).unwrap_or(0.0)),
            avg_ts: mean(&ts).unwrap_or(0.0),
            stddev_ts: stddev(&ts).unwrap_or(0.0),
            ci95_ts: mean_interval(&ts),
            samples_ns: self.ns.iter().copied().map(whole).collect(),
            outliers: outliers(&self.ns),
            samples_ts: ts,
            joules_per_token: energy.joules_per_token,
            energy_status: energy.status.name().to_owned(),
            energy: Some(energy),
            allocs: counted_or_none(self.allocations),
            plan_bytes: plan.total_bytes() as u64,
            peak_rss,
            first_token_ms: percentile(&singles, 500).unwrap_or(0.0) / 1e3,
            n_steps: singles.len() as u64,
            p50_us: percentile(&singles, 500),
            p99_us: tail(&singles, 990),
            p999_us: tail(&singles, 999),
            max_us: singles.last().copied(),
            jitter_p99: jitter.and_then(|jitter| jitter.p99),
            jitter_p999: jitter.and_then(|jitter| jitter.p999),
            jitter_max: jitter.map(|jitter| jitter.max),
            digest: Some(self.digest),
            disturbed: (disturbance.verdict != Verdict::Unknown).then_some(disturbance.verdict == Verdict::Disturbed),
            disturbed_by: disturbance.reasons.clone(),
            ..Row::default()
        }
    }
}
