//! `rin energy MODEL`: the energy of a token, of a prompt and of a generation apart; of an inference, where the network is
//! one on rows of numbers.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rin_bench::work::{EngineWork, NetworkWork, Piece};
use rin_energy::environment::Environment;
use rin_energy::protocol::{Figure, Progress, Protocol, ProtocolError, Report, Variant, Window};
use rin_energy::{Error, Record, Status};
use rin_engine::Engine;
use rin_model::ModelFile;
use serde::Serialize;

use super::by_op::{ByOp, by_op};
use super::text::{digits, figure};
use super::{Gauge, line, plot};
use crate::args::EnergyCommandArgs;
use crate::exit::{NoEnergy, Usage};
use crate::{interrupt, json, model_path, output, report};

/// `rin energy --json`.
#[derive(Debug, Serialize)]
struct EnergyJson {
    model: json::Model,
    /// Of all windows of work together; the energy of a token is that of the generation.
    energy: Record,
    phases: Vec<Phase>,
    idle_watts: Option<Figure>,
    /// Of a network on rows: joules of a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    joules_per_inference: Option<f64>,
    /// Joules per token of the second phase less the first's.
    difference: Option<Figure>,
    by_op: Option<ByOp>,
    carbon: Option<Carbon>,
    disturbed: Option<bool>,
    disturbed_by: Vec<String>,
    before: Option<Environment>,
    after: Option<Environment>,
    windows: Vec<Window>,
    version: &'static str,
}

/// One kind of work.
#[derive(Debug, Serialize)]
struct Phase {
    #[serde(flatten)]
    variant: Variant,
    #[serde(flatten)]
    counted: Counted,
    /// Where nothing was measured, from the user's own figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<rin_energy::Estimate>,
}

/// What a phase is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Token,
    Inference,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Inference => "inference",
        }
    }
}

/// Figures that carry their unit in their name.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
enum Counted {
    Tokens {
        /// Of one repetition.
        tokens: usize,
        tokens_per_joule: Option<f64>,
        carbon_g_per_token: Option<f64>,
    },
    Inferences {
        inferences_per_joule: Option<f64>,
        carbon_g_per_inference: Option<f64>,
    },
}

impl Counted {
    /// Of a phase; of a piece of so many tokens where it has one.
    fn new(piece: Option<Piece>, per_joule: Option<f64>, carbon: Option<f64>) -> Self {
        match piece {
            Some(piece) => {
                Self::Tokens { tokens: piece.tokens(), tokens_per_joule: per_joule, carbon_g_per_token: carbon }
            }
            None => Self::Inferences { inferences_per_joule: per_joule, carbon_g_per_inference: carbon },
        }
    }

    const fn per_joule(self) -> Option<f64> {
        match self {
            Self::Tokens { tokens_per_joule: found, .. } | Self::Inferences { inferences_per_joule: found, .. } => {
                found
            }
        }
    }

    const fn carbon(self) -> Option<f64> {
        match self {
            Self::Tokens { carbon_g_per_token: found, .. } | Self::Inferences { carbon_g_per_inference: found, .. } => {
                found
            }
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Tokens { .. } => Unit::Token,
            Self::Inferences { .. } => Unit::Inference,
        }
    }
}

/// The terms of the carbon figures: (E · I + M) per token or inference, ISO/IEC 21031 (SCI).
#[derive(Debug, Clone, Copy, Serialize)]
struct Carbon {
    intensity_g_per_kwh: f64,
    embodied_g_per_hour: f64,
    boundary: &'static str,
}

impl Carbon {
    const BOUNDARY: &'static str = "the domains of the sensor and its memory";

    fn per_unit(self, variant: &Variant) -> Option<f64> {
        let dram = variant.dram_joules_per_unit.map_or(0.0, |figure| figure.median);
        let kwh = (variant.joules_per_unit?.median + dram) / 3.6e6;
        Some(kwh * self.intensity_g_per_kwh + variant.seconds_per_unit? / 3600.0 * self.embodied_g_per_hour)
    }
}

/// Measures a model by the protocol, or says why not.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(super) fn measure(args: &EnergyCommandArgs) -> Result<()> {
    // Half a measurement is none: the first interrupt ends the program.
    interrupt::install()?;
    let file = model_path::open(&args.model)?;
    if file.network().is_none() {
        file.config()?;
    }
    let task = Task::of(args, &file)?;
    let model = json::Model::of(&file, args.machine.mode(&file)?);
    let gauge = Gauge::open(&args.energy)?;
    let mut found = EnergyJson::new(args, model);
    if let Err(error) = &gauge.meter {
        no_picture(args, error);
        if gauge.range.is_none() {
            found.energy = Record::unmeasured(error);
            return found.tell(args);
        }
    }
    let bar = report::case_progress(0, "measuring", args.output().quiet);
    let mut work = task.load(file, args)?;
    let names: Vec<&str> = task.phases.iter().map(|phase| phase.name).collect();
    match gauge.meter {
        Ok(mut meter) => {
            let seconds = args.window.0;
            let window = Duration::try_from_secs_f64(seconds).context("--window")?;
            let protocol =
                Protocol { rounds: args.workload.workload().repetitions, window, idle: window, ..Protocol::default() };
            let show = &mut |progress| {
                if let Progress::Windows(done, total) = progress {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
            };
            let run = &mut |phase| work.run(phase);
            let measured =
                protocol.run(&gauge.sensors, &mut meter, &names, run, show).map_err(|error| match error {
                    ProtocolError::Meter(error) => anyhow::Error::new(error),
                    ProtocolError::Work(error) => error.into(),
                })?;
            bar.finish_and_clear();
            let nothing = measured.all_dropped();
            if let (true, Some(error)) = (args.energy.require_energy, &nothing) {
                return Err(NoEnergy(error.clone()).into());
            }
            match (&args.plot, &nothing) {
                (Some(path), None) => {
                    let title = format!("{}: power and energy, {}", found.model.name, meter.name());
                    let svg = plot::svg(&measured, &title, task.unit.name())?;
                    std::fs::write(path, svg).with_context(|| format!("{} cannot be written", path.display()))?;
                }
                (Some(_), Some(error)) => no_picture(args, error),
                (None, _) => {}
            }
            if let (true, Work::Text(work)) = (args.by_op, &work) {
                let pieces: Vec<Piece> = task.phases.iter().filter_map(|phase| phase.piece).collect();
                found.by_op = Some(by_op(&measured, work, &pieces));
            }
            found.fill(measured, &task, meter.name(), nothing.as_ref());
        }
        Err(error) => found.estimate(&error, gauge.range, &task, &mut work, args)?,
    }
    found.tell(args)
}

/// What is repeated, phase by phase.
struct Task {
    phases: Vec<PhaseOf>,
    /// What is counted: tokens or inferences.
    unit: Unit,
}

/// One kind of work.
struct PhaseOf {
    name: &'static str,
    /// What continues text; none for a network on rows.
    piece: Option<Piece>,
}

/// An engine with work for it.
enum Work {
    Text(Box<EngineWork>),
    /// With the runs that one repetition takes.
    Rows(Box<NetworkWork>, usize),
}

impl Work {
    /// Runs a phase once, and says how many units that were.
    fn run(&mut self, phase: usize) -> Result<u64, rin_bench::Error> {
        match self {
            Self::Text(work) => work.run(phase),
            Self::Rows(work, times) => {
                work.run(*times)?;
                Ok((*times * work.rows()) as u64)
            }
        }
    }
}

impl Task {
    fn of(args: &EnergyCommandArgs, file: &ModelFile) -> Result<Self> {
        args.workload.workload().check()?;
        if file.network().is_some() {
            if args.by_op {
                let text = "--by-op tells the operations of models that continue text apart; a network on rows of \
                            numbers runs one kind of work";
                return Err(Usage(text.to_owned()).into());
            }
            let phases = vec![PhaseOf { name: "inference", piece: None }];
            return Ok(Self { phases, unit: Unit::Inference });
        }
        Ok(Self { phases: pieces(args)?, unit: Unit::Token })
    }

    fn load(&self, file: ModelFile, args: &EnergyCommandArgs) -> Result<Work> {
        let mut options = args.machine.load_options();
        let pieces: Vec<Piece> = self.phases.iter().filter_map(|phase| phase.piece).collect();
        if pieces.is_empty() {
            // One row at once, as in `rin bench`; some runs between two looks at the clock.
            let mut work = NetworkWork::load(file, &options, 1)?;
            let begin = Instant::now();
            let mut times = 0;
            work.repeat(|| {
                times += 1;
                times == 1 || begin.elapsed() < Duration::from_millis(1)
            })?;
            return Ok(Work::Rows(Box::new(work), times));
        }
        options.ctx = options.ctx.or(pieces.iter().map(|piece| piece.positions()).max());
        options.n_sequences = pieces.len();
        Ok(Work::Text(Box::new(EngineWork::new(Engine::load(file, &options, |_| {})?, &pieces))))
    }
}

/// Says that there is nothing to draw. Also where quiet is wanted: a file that was asked for and is not there is no
/// progress.
fn no_picture(args: &EnergyCommandArgs, why: &Error) {
    if let Some(path) = &args.plot {
        output::tell(&format!("note: no picture was drawn, {} is not written: {why}", path.display()));
    }
}

/// What is repeated of a model that continues text: the phases first, then what tells operations apart.
fn pieces(args: &EnergyCommandArgs) -> Result<Vec<PhaseOf>> {
    let (prompt, steps) = (args.workload.n_prompt, args.workload.n_gen);
    let phase = |name, piece| PhaseOf { name, piece: Some(piece) };
    let mut all = Vec::new();
    if prompt > 0 {
        all.push(phase("prefill", Piece::Prefill(prompt)));
    }
    if steps > 0 {
        all.push(phase("decode", Piece::Decode { depth: 1, steps }));
    }
    if all.is_empty() {
        return Err(rin_bench::Error::NothingToMeasure.into());
    }
    if args.by_op {
        if prompt < 4 || steps == 0 {
            return Err(
                Usage("--by-op needs a prompt of at least 4 tokens (-p) and a generation (-n)".to_owned()).into()
            );
        }
        all.push(phase("prefill, short", Piece::Prefill(prompt / 4)));
        all.push(phase("decode, deep", Piece::Decode { depth: prompt, steps }));
    }
    Ok(all)
}

impl EnergyJson {
    fn new(args: &EnergyCommandArgs, model: json::Model) -> Self {
        let carbon = args.carbon_intensity.map(|intensity| Carbon {
            intensity_g_per_kwh: intensity.0,
            embodied_g_per_hour: args.embodied_carbon.map_or(0.0, |embodied| embodied.0),
            boundary: Carbon::BOUNDARY,
        });
        Self {
            model,
            energy: Record::unmeasured(&Error::NotStarted),
            phases: Vec::new(),
            idle_watts: None,
            joules_per_inference: None,
            difference: None,
            by_op: None,
            carbon,
            disturbed: None,
            disturbed_by: Vec::new(),
            before: None,
            after: None,
            windows: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Takes what was measured; `nothing` says why no window counts.
    fn fill(&mut self, report: Report, task: &Task, source: String, nothing: Option<&Error>) {
        let work = report.windows.iter().filter(|window| window.variant.is_some());
        let good: Vec<&Window> = work.filter(|window| window.joules.is_some()).collect();
        let joules: f64 = good.iter().filter_map(|window| window.joules).sum();
        let square: f64 = good.iter().map(|window| window.uncertainty * window.uncertainty).sum();
        let generation = report.variants.iter().find(|variant| ["decode", "inference"].contains(&&*variant.name));
        let per_unit = generation.and_then(|variant| Some(variant.joules_per_unit?.median));
        self.energy = match nothing {
            Some(error) => Record::unmeasured(error),
            None => Record {
                status: Status::Measured,
                joules: Some(joules),
                joules_per_token: per_unit,
                uncertainty_joules: Some(square.sqrt()),
                idle_watts: report.idle_watts.map(|figure| figure.median),
                source: Some(source),
                reason: None,
                estimate: None,
            },
        };
        if task.unit == Unit::Inference {
            self.joules_per_inference = self.energy.joules_per_token;
        }
        let carbon = self.carbon;
        let phase = |(variant, phase): (Variant, &PhaseOf)| {
            let per_joule = variant.joules_per_unit.map(|figure| 1.0 / figure.median);
            let carbon = carbon.and_then(|carbon| carbon.per_unit(&variant));
            Phase { counted: Counted::new(phase.piece, per_joule, carbon), estimate: None, variant }
        };
        self.phases = report.variants.into_iter().zip(&task.phases).map(phase).collect();
        (self.idle_watts, self.difference) = (report.idle_watts, report.difference);
        self.disturbed = Some(!report.disturbances.is_empty());
        self.disturbed_by = report.disturbances;
        (self.before, self.after) = (Some(report.before), Some(report.after));
        self.windows = report.windows;
    }

    /// Times each phase, and says what it would take between the user's figures for the power.
    fn estimate(
        &mut self,
        why: &Error,
        range: Option<rin_energy::PowerRange>,
        task: &Task,
        work: &mut Work,
        args: &EnergyCommandArgs,
    ) -> Result<()> {
        let (mut all_units, mut all_seconds) = (0, 0.0);
        for (i, phase) in task.phases.iter().enumerate() {
            work.run(i)?;
            let (begin, mut units) = (Instant::now(), 0);
            while begin.elapsed().as_secs_f64() < args.window.0 || units == 0 {
                units += work.run(i)?;
            }
            let seconds = begin.elapsed().as_secs_f64();
            let estimate = range.map(|range| rin_energy::Estimate::of(range, seconds, units));
            let variant = Variant {
                name: phase.name.to_owned(),
                windows: 0,
                dropped: 0,
                joules_per_unit: None,
                net_joules_per_unit: None,
                dram_joules_per_unit: None,
                uncertainty_per_unit: None,
                net_uncertainty_per_unit: None,
                watts: None,
                seconds_per_unit: Some(seconds / units as f64),
            };
            self.phases.push(Phase { variant, counted: Counted::new(phase.piece, None, None), estimate });
            (all_units, all_seconds) = (all_units + units, all_seconds + seconds);
        }
        self.energy = Record::unmeasured(why).or_estimate(range, all_seconds, all_units);
        Ok(())
    }

    /// What the phases are counted in.
    fn unit(&self) -> &'static str {
        self.phases.first().map_or(Unit::Token, |phase| phase.counted.unit()).name()
    }

    fn tell(&self, args: &EnergyCommandArgs) -> Result<()> {
        if args.output().json { output::json(self) } else { output::text(&self.lines()?) }
    }

    fn lines(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "energy      {}", line(&self.energy, self.unit()))?;
        if let Some(idle) = self.idle_watts {
            writeln!(text, "idle        {}", figure(idle, "W"))?;
        }
        for phase in &self.phases {
            phase.lines(&mut text)?;
        }
        if let Some(difference) = self.difference {
            writeln!(text, "difference  {} (decode less prefill)", figure(difference, "J/token"))?;
        }
        if let Some(by_op) = &self.by_op {
            for kind in &by_op.shares {
                let (share, [low, high]) = (&kind.share, kind.share.ci95);
                writeln!(
                    text,
                    "{:<11} {:.3e} J per {}, 95 % interval {low:.3e} to {high:.3e}; {:.1} % of all beyond idle",
                    share.kind,
                    share.joules_per_unit,
                    kind.unit,
                    100.0 * kind.share_of_all
                )?;
            }
            if let Some(reason) = &by_op.reason {
                writeln!(text, "by op       not told apart: {reason}")?;
            }
        }
        if let Some(carbon) = &self.carbon {
            writeln!(
                text,
                "carbon      ISO/IEC 21031 (SCI): I {} g/kWh, M {} g/h; {}",
                carbon.intensity_g_per_kwh, carbon.embodied_g_per_hour, carbon.boundary
            )?;
        }
        for reason in &self.disturbed_by {
            writeln!(text, "DISTURBED   {reason}; measure again")?;
        }
        Ok(text)
    }
}

impl Phase {
    fn lines(&self, text: &mut String) -> std::fmt::Result {
        let (variant, unit) = (&self.variant, self.counted.unit().name());
        write!(text, "{:<11} ", variant.name)?;
        match (variant.joules_per_unit, &self.estimate) {
            (Some(gross), _) => write!(text, "{}", figure(gross, &format!("J/{unit}")))?,
            (None, Some(estimate)) => {
                let [low, high] = estimate.joules_per_token.unwrap_or_default().map(digits);
                write!(text, "{}: {low} to {high} J/{unit}", estimate.label)?;
            }
            (None, None) => write!(text, "unmeasured")?,
        }
        if let Some(net) = variant.net_joules_per_unit {
            write!(text, "; beyond idle {}", figure(net, &format!("J/{unit}")))?;
        }
        if let (Some(watts), Some(rate)) = (variant.watts, self.counted.per_joule()) {
            write!(text, "; {} W, {} {unit}s/J", digits(watts.median), digits(rate))?;
        }
        if let Some(memory) = variant.dram_joules_per_unit {
            write!(text, "; memory beside it {} J/{unit}", digits(memory.median))?;
        }
        if let Some(carbon) = self.counted.carbon() {
            write!(text, "; {carbon:.3e} gCO2e/{unit}")?;
        }
        if variant.windows + variant.dropped > 0 {
            write!(text, "; {} windows, {} dropped", variant.windows, variant.dropped)?;
        }
        writeln!(text)
    }
}
