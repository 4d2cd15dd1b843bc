//! `rin energy MODEL`: the energy of a token, of a prompt and of a generation apart.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rin_bench::work::{EngineWork, Piece};
use rin_energy::environment::Environment;
use rin_energy::protocol::{Figure, Progress, Protocol, ProtocolError, Report, Variant, Window};
use rin_energy::{Error, Record, Status};
use rin_engine::Engine;
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
    /// Tokens of one repetition.
    tokens: usize,
    tokens_per_joule: Option<f64>,
    /// Where nothing was measured, from the user's own figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<rin_energy::Estimate>,
    carbon_g_per_token: Option<f64>,
}

/// The terms of the carbon figures: (E · I + M) per token, ISO/IEC 21031 (SCI).
#[derive(Debug, Clone, Copy, Serialize)]
struct Carbon {
    intensity_g_per_kwh: f64,
    embodied_g_per_hour: f64,
    boundary: &'static str,
}

impl Carbon {
    const BOUNDARY: &'static str = "the domains of the sensor and its memory; per token";

    fn per_token(self, variant: &Variant) -> Option<f64> {
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
    file.config()?;
    let model = json::Model::of(&file, args.machine.mode(&file)?);
    let gauge = Gauge::open(&args.energy)?;
    let (names, pieces) = pieces(args)?;
    let mut found = EnergyJson::new(args, model);
    if let Err(error) = &gauge.meter {
        no_picture(args, error);
        if gauge.range.is_none() {
            found.energy = Record::unmeasured(error);
            return found.tell(args);
        }
    }
    let mut options = args.machine.load_options();
    options.ctx = options.ctx.or(pieces.iter().map(|piece| piece.positions()).max());
    options.n_sequences = pieces.len();
    let bar = report::case_progress(0, "measuring", args.output().quiet);
    let mut work = EngineWork::new(Engine::load(file, &options, |_| {})?, &pieces);
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
            let run = &mut |piece| work.run(piece);
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
                    let svg = plot::svg(&measured, &title)?;
                    std::fs::write(path, svg).with_context(|| format!("{} cannot be written", path.display()))?;
                }
                (Some(_), Some(error)) => no_picture(args, error),
                (None, _) => {}
            }
            found.by_op = args.by_op.then(|| by_op(&measured, &work, &pieces));
            found.fill(measured, &pieces, meter.name(), nothing.as_ref());
        }
        Err(error) => found.estimate(&error, gauge.range, &names, &pieces, &mut work, args)?,
    }
    found.tell(args)
}

/// Says that there is nothing to draw. Also where quiet is wanted: a file that was asked for and is not there is no
/// progress.
fn no_picture(args: &EnergyCommandArgs, why: &Error) {
    if let Some(path) = &args.plot {
        output::tell(&format!("note: no picture was drawn, {} is not written: {why}", path.display()));
    }
}

/// What is repeated: the phases first, then what tells operations apart.
fn pieces(args: &EnergyCommandArgs) -> Result<(Vec<&'static str>, Vec<Piece>)> {
    let (prompt, steps) = (args.workload.n_prompt, args.workload.n_gen);
    let mut all = Vec::new();
    if prompt > 0 {
        all.push(("prefill", Piece::Prefill(prompt)));
    }
    if steps > 0 {
        all.push(("decode", Piece::Decode { depth: 1, steps }));
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
        all.push(("prefill, short", Piece::Prefill(prompt / 4)));
        all.push(("decode, deep", Piece::Decode { depth: prompt, steps }));
    }
    args.workload.workload().check()?;
    Ok(all.into_iter().unzip())
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
    fn fill(&mut self, report: Report, pieces: &[Piece], source: String, nothing: Option<&Error>) {
        let work = report.windows.iter().filter(|window| window.variant.is_some());
        let good: Vec<&Window> = work.filter(|window| window.joules.is_some()).collect();
        let joules: f64 = good.iter().filter_map(|window| window.joules).sum();
        let square: f64 = good.iter().map(|window| window.uncertainty * window.uncertainty).sum();
        let decode = report.variants.iter().find(|variant| variant.name == "decode");
        self.energy = match nothing {
            Some(error) => Record::unmeasured(error),
            None => Record {
                status: Status::Measured,
                joules: Some(joules),
                joules_per_token: decode.and_then(|variant| Some(variant.joules_per_unit?.median)),
                uncertainty_joules: Some(square.sqrt()),
                idle_watts: report.idle_watts.map(|figure| figure.median),
                source: Some(source),
                reason: None,
                estimate: None,
            },
        };
        let carbon = self.carbon;
        let phase = |(variant, piece): (Variant, &Piece)| Phase {
            tokens: piece.tokens(),
            tokens_per_joule: variant.joules_per_unit.map(|figure| 1.0 / figure.median),
            carbon_g_per_token: carbon.and_then(|carbon| carbon.per_token(&variant)),
            estimate: None,
            variant,
        };
        self.phases = report.variants.into_iter().zip(pieces).map(phase).collect();
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
        names: &[&str],
        pieces: &[Piece],
        work: &mut EngineWork,
        args: &EnergyCommandArgs,
    ) -> Result<()> {
        let (mut all_tokens, mut all_seconds) = (0, 0.0);
        for (i, (name, piece)) in names.iter().zip(pieces).enumerate() {
            work.run(i)?;
            let (begin, mut tokens) = (Instant::now(), 0);
            while begin.elapsed().as_secs_f64() < args.window.0 || tokens == 0 {
                tokens += work.run(i)?;
            }
            let seconds = begin.elapsed().as_secs_f64();
            let estimate = range.map(|range| rin_energy::Estimate::of(range, seconds, tokens));
            let variant = Variant {
                name: (*name).to_owned(),
                windows: 0,
                dropped: 0,
                joules_per_unit: None,
                net_joules_per_unit: None,
                dram_joules_per_unit: None,
                uncertainty_per_unit: None,
                net_uncertainty_per_unit: None,
                watts: None,
                seconds_per_unit: Some(seconds / tokens as f64),
            };
            let (tokens_per_joule, carbon_g_per_token) = (None, None);
            self.phases.push(Phase { variant, tokens: piece.tokens(), tokens_per_joule, estimate, carbon_g_per_token });
            (all_tokens, all_seconds) = (all_tokens + tokens, all_seconds + seconds);
        }
        self.energy = Record::unmeasured(why).or_estimate(range, all_seconds, all_tokens);
        Ok(())
    }

    fn tell(&self, args: &EnergyCommandArgs) -> Result<()> {
        if args.output().json { output::json(self) } else { output::text(&self.lines()?) }
    }

    fn lines(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "energy      {}", line(&self.energy))?;
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
        let variant = &self.variant;
        write!(text, "{:<11} ", variant.name)?;
        match (variant.joules_per_unit, &self.estimate) {
            (Some(gross), _) => write!(text, "{}", figure(gross, "J/token"))?,
            (None, Some(estimate)) => {
                let [low, high] = estimate.joules_per_token.unwrap_or_default().map(digits);
                write!(text, "{}: {low} to {high} J/token", estimate.label)?;
            }
            (None, None) => write!(text, "unmeasured")?,
        }
        if let Some(net) = variant.net_joules_per_unit {
            write!(text, "; beyond idle {}", figure(net, "J/token"))?;
        }
        if let (Some(watts), Some(rate)) = (variant.watts, self.tokens_per_joule) {
            write!(text, "; {} W, {} tokens/J", digits(watts.median), digits(rate))?;
        }
        if let Some(memory) = variant.dram_joules_per_unit {
            write!(text, "; memory beside it {} J/token", digits(memory.median))?;
        }
        if let Some(carbon) = self.carbon_g_per_token {
            write!(text, "; {carbon:.3e} gCO2e/token")?;
        }
        if variant.windows + variant.dropped > 0 {
            write!(text, "; {} windows, {} dropped", variant.windows, variant.dropped)?;
        }
        writeln!(text)
    }
}
