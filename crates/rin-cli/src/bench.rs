//! `rin bench`: speed and memory with their uncertainty; `rin bench compare`: whether two measurements differ; `rin bench
//! profile`: where the time of a step goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rin_bench::report::Form;
use rin_bench::{EngineLoader, Event, Grid, Model, Workload, compare, inference, profile, read};
use rin_cluster::Ranks;
use rin_energy::Error as MeterError;
use rin_engine::LoadOptions;

use crate::args::{BenchArgs, BenchCommand, CompareArgs, ProfileArgs};
use crate::energy::Gauge;
use crate::exit::Usage;
use crate::progress::ProgressBar;
use crate::ranks::refuse_ranks;
use crate::{interrupt, model_path, output, report};

/// Measures, or compares measurements.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn bench(args: &BenchArgs, ranks: &Arc<Ranks>) -> Result<()> {
    // Half a measurement is none: the first interrupt ends the program.
    interrupt::install()?;
    match &args.what {
        Some(BenchCommand::Compare(args)) => compare_files(args),
        Some(BenchCommand::Profile(args)) => profile(args, ranks),
        None => measure(args, ranks),
    }
}

fn measure(args: &BenchArgs, ranks: &Arc<Ranks>) -> Result<()> {
    let mut workload = args.workload.workload();
    if args.rates_only {
        workload = Workload { latency_budget: Duration::ZERO, machine: false, ..workload };
    }
    let loader = loader(&args.models, args.place.load_options(), ranks)?;
    let networks = loader.models.iter().map(|model| Ok(model.file()?.network().is_some()));
    let networks = networks.collect::<Result<Vec<bool>>>()?;
    let on_rows = networks.iter().all(|&is| is);
    if !on_rows && networks.contains(&true) {
        let text = "networks on rows of numbers and models that continue text are measured apart: give one kind";
        return Err(Usage(text.to_owned()).into());
    }
    let mut grid = Grid {
        models: loader.models.len(),
        threads: args.threads.iter().map(|n| n.get()).collect(),
        tiers: args.tier.clone(),
        kv_types: args.kv_type.clone(),
        parallel: args.parallel.clone(),
        depths: args.depth.clone(),
    };
    if on_rows {
        refuse_ranks(ranks)?;
        // Rows have neither prompts nor a cache.
        workload = Workload { n_prompt: 0, n_gen: 1, ..workload };
        (grid.kv_types, grid.depths) = (Vec::new(), Vec::new());
    }
    let settings = grid.settings(&workload)?;
    loader.check(&settings)?;
    let gauge = Gauge::open(&args.energy)?;
    // The sensors of this machine say nothing about the others.
    let elsewhere =
        || MeterError::NoSensor { looked_for: vec!["bench measures no energy over several ranks".to_owned()] };
    let meter = if ranks.several() { &Err(elsewhere()) } else { &gauge.meter };
    let bar = report::case_progress(0, "measuring", args.output().quiet);
    let tell = |event| show(&bar, event);
    let found = if on_rows {
        inference::run(&loader.models, &loader.options, &settings, &workload, meter, tell)
    } else {
        rin_bench::run_with_energy(&loader, &settings, &workload, meter, tell)
    };
    bar.finish_and_clear();
    let mut found = found?;
    found.estimate_energy(gauge.range);
    let form = if args.output().json { Form::Json } else { args.output_format };
    output::text(&found.write(form)?)
}

fn profile(args: &ProfileArgs, ranks: &Arc<Ranks>) -> Result<()> {
    refuse_ranks(ranks)?;
    let workload = args.workload.workload();
    let models: Vec<_> = args.model.model.iter().cloned().collect();
    let loader = loader(&models, args.machine.load_options(), ranks)?;
    let settings = Grid { models: 1, ..Grid::default() }.settings(&workload)?;
    loader.check(&settings)?;
    let Some(setting) = settings.first() else { return Err(rin_bench::Error::NothingToMeasure.into()) };
    let bar = report::case_progress(0, "measuring", args.output.quiet);
    let found = profile::run(&loader, setting, &workload, |event| show(&bar, event));
    bar.finish_and_clear();
    let found = found?;
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    };
    if let Some(path) = &args.trace {
        write(path, found.chrome_trace()?)?;
    }
    if let Some(path) = &args.svg {
        write(path, found.svg())?;
    }
    output::text(&if args.output.json { found.json()? } else { found.table()? })
}

/// The models that are named, or the one inside the binary.
fn loader(models: &[PathBuf], options: LoadOptions, ranks: &Arc<Ranks>) -> Result<EngineLoader> {
    let models = if models.is_empty() {
        vec![Model::new(model_path::embedded_source()?)]
    } else {
        let at = |model: &PathBuf| {
            let path = model_path::resolve(model)?;
            if model_path::is_onnx(&path) {
                let text =
                    format!("import {} first, and measure the result: rin import X.onnx -o X.rin", path.display());
                return Err(Usage(text).into());
            }
            Ok(Model::at(path))
        };
        models.iter().map(at).collect::<Result<_>>()?
    };
    Ok(EngineLoader { models, options, ranks: Arc::clone(ranks) })
}

fn show(bar: &ProgressBar, event: Event) {
    match event {
        Event::Loading(i) => bar.set_message(format!("loading configuration {}", i + 1)),
        Event::Repetitions(done, total) => {
            bar.set_message("measuring");
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
        Event::Latencies => bar.set_message("timing single steps"),
        Event::Machine => bar.set_message("measuring the machine"),
    }
}

fn compare_files(args: &CompareArgs) -> Result<()> {
    let comparison = compare::compare(&read::read(&args.a)?, &read::read(&args.b)?);
    if args.output.json { output::json(&comparison) } else { output::text(&comparison.markdown()?) }
}
