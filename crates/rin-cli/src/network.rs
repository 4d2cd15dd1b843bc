//! `rin run`, `rin inspect` and `rin verify` of networks from rows of numbers to rows of numbers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rin_energy::Status;
use rin_engine::digest::LogitDigest;
use rin_engine::network::rows_at_once;
use rin_engine::network::verify::{Axes, Report};
use rin_engine::{LoadOptions, NetworkEngine};
use rin_kernels::ops::softmax::Softmax;
use rin_kernels::{Cpu, alloc};
use rin_model::{Body, ModelFile, Network, Op, OutputKind, PortKind, Positions};
use serde::Serialize;

use crate::args::{MachineArgs, RunArgs};
use crate::energy::{Gauge, Pacing, Power, line};
use crate::exit::{self, Usage};
use crate::npy::{NpyWriter, write_npz};
use crate::rows::Inputs;
use crate::values::NamedFile;
use crate::{interrupt, json, output, report};

/// Positions of the sequences that `rin verify` makes up, where nothing else was asked for.
const VERIFIED_POSITIONS: usize = 70;
/// Most values that are written into JSON; more belong into a file.
const MAX_JSON_VALUES: usize = 100_000;

/// `rin run --json` of such a network.
#[derive(Debug, Serialize)]
struct RunJson<'a> {
    model: json::Model,
    rows: usize,
    /// The most probable class of each row, of the first output that has classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<ClassJson<'a>>>,
    outputs: Vec<OutputJson<'a>>,
    timings: TimingsJson,
    memory: json::Memory,
    allocations_during_inference: u64,
    /// Its `joules_per_token` is per row.
    energy: rin_energy::Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    power: Option<Power>,
    digest: String,
    tier: &'static str,
    threads: usize,
    version: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct ClassJson<'a> {
    /// Where every position of a sequence has a class.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip)]
    row: usize,
    index: usize,
    p: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    kind: OutputKind,
    /// Rows, positions where it has some, width.
    shape: Vec<usize>,
    /// Row by row; absent where there are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<&'a [f32]>>,
}

#[derive(Debug, Serialize)]
struct TimingsJson {
    load_ms: f64,
    inference_ms: f64,
    rows_per_s: f64,
}

/// Runs a network on the rows of files.
///
/// # Errors
/// [`Usage`] for inputs that are not those of the network; whatever goes wrong on the way.
pub(crate) fn run(
    args: &RunArgs,
    file: ModelFile,
    network: &Network,
    gauge: &Gauge,
    pacing: Option<Pacing<'_>>,
) -> Result<()> {
    let start = Instant::now();
    let description = json::Model::of(&file, Some(network.mode));
    if args.prompt.is_some() || args.tokens.is_some() {
        let text = format!("a network of the mode `{}` takes no text: give --input FILE.npy or FILE.csv", network.mode);
        return Err(Usage(text).into());
    }
    let inputs = Inputs::read(&args.network.input, network)?;
    let rows = inputs.rows;
    let targets = targets(&args.network.to, network, &file)?;
    let mut engine = load(file, &options_for(&inputs, &args.machine), args.output.quiet)?;
    let load = start.elapsed();

    let mut pacing = pacing.map(|pacing| pacing.with_threads(engine.threads()));
    let mut found: Vec<Vec<f32>> =
        (0..network.outputs.len()).map(|i| Vec::with_capacity(rows * engine.output_width(i))).collect();
    let mut digest = LogitDigest::new();
    let mut slices: Vec<&[f32]> = network.inputs.iter().map(|_| &[][..]).collect();
    let before = alloc::allocations();
    let (clock, began) = (Instant::now(), gauge.edge());
    for first in (0..rows).step_by(engine.max_rows()) {
        let n = engine.max_rows().min(rows - first);
        inputs.slices(first..first + n, &mut slices);
        if let Some(pacing) = &mut pacing {
            pacing.step();
            engine.set_active_threads(pacing.threads());
        }
        engine.run_from(first, &slices, n)?;
        for (i, found) in found.iter_mut().enumerate() {
            found.extend_from_slice(engine.output(i));
        }
        engine.digest(&mut digest);
    }
    let (seconds, ended) = (clock.elapsed().as_secs_f64(), gauge.edge());
    let allocations = alloc::allocations() - before;
    let energy = gauge.record(began.as_ref(), ended.as_ref(), rows, seconds)?;
    let power = pacing.map(|pacing| pacing.result(began.as_ref(), ended.as_ref()));
    for (path, wanted) in targets {
        write(path, &wanted, &engine, &found, rows)
            .with_context(|| format!("the output cannot be written to {}", path.display()))?;
    }
    let classes = classes(&inputs, &engine, &found);
    if !args.output.json {
        if args.network.to.is_empty() {
            output::text(&lines(network, &engine, &found, classes.as_deref(), rows)?)?;
        }
        if !args.output.quiet {
            let ms = seconds * 1e3;
            let (tier, threads) = (engine.tier().name(), engine.threads());
            output::tell(&format!("{rows} rows in {ms:.3} ms, {tier}, {threads} threads, {}", digest.finish()));
            if energy.status != Status::Unmeasured {
                output::tell(&format!("energy {}", line(&energy, "inference")));
            }
            if let Some(power) = power {
                output::tell(&power.line());
            }
        }
        return Ok(());
    }
    output::json(&RunJson {
        model: description,
        rows,
        classes,
        outputs: outputs(network, &engine, &found, rows),
        timings: TimingsJson {
            load_ms: load.as_secs_f64() * 1e3,
            inference_ms: seconds * 1e3,
            rows_per_s: rows as f64 / seconds.max(1e-9),
        },
        memory: memory(&engine),
        allocations_during_inference: allocations,
        energy,
        power,
        digest: digest.finish().to_string(),
        tier: engine.tier().name(),
        threads: engine.threads(),
        version: env!("CARGO_PKG_VERSION"),
    })
}

fn memory(engine: &NetworkEngine) -> json::Memory {
    let plan = engine.plan();
    json::Memory {
        plan_bytes: plan.total_bytes(),
        weights_bytes: plan.weights.bytes(),
        state_bytes: plan.state_bytes,
        scratch_bytes: plan.scratch_bytes,
        vocabulary_bytes: 0,
        peak_rss_bytes: rin_engine::limits::peak_rss_bytes(),
    }
}

/// Room for as many rows and positions as there are, within the batch.
fn options_for(inputs: &Inputs<'_>, machine: &MachineArgs) -> LoadOptions {
    let options = machine.load_options();
    let ctx = inputs.positions.or(options.ctx);
    let n_batch = rows_at_once(inputs.network, options.n_batch, ctx).min(inputs.rows).max(1);
    LoadOptions { n_batch, ctx, ..options }
}

fn load(file: ModelFile, options: &LoadOptions, quiet: bool) -> Result<NetworkEngine> {
    let bar = report::byte_progress(file.file_bytes(), "loading", quiet);
    let engine = NetworkEngine::load(file, options, |bytes| bar.inc(bytes as u64));
    bar.finish_and_clear();
    Ok(engine?)
}

/// Which outputs go to which file.
fn targets<'a>(files: &'a [NamedFile], network: &Network, model: &ModelFile) -> Result<Vec<(&'a Path, Vec<usize>)>> {
    let mut targets: Vec<(&Path, Vec<usize>)> = Vec::new();
    for file in files {
        let ends = |end: &str| file.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(end));
        let wanted = match &file.name {
            Some(name) => network.outputs.iter().position(|output| output.name == *name).map(|i| vec![i]),
            None if network.outputs.len() == 1 || ends("npz") => Some((0..network.outputs.len()).collect()),
            None => None,
        };
        let Some(wanted) = wanted else {
            let names: Vec<_> = network.outputs.iter().map(|output| format!("{}=FILE.npy", output.name)).collect();
            return Err(Usage(format!("--output {file}: say which output goes there: {}", names.join(", "))).into());
        };
        if !ends("npy") && !ends("npz") {
            return Err(Usage(format!("--output {file}: outputs are written as .npy or .npz; name such a file")).into());
        }
        if let (Ok(a), Ok(b)) = (file.path.canonicalize(), model.path().canonicalize())
            && a == b
        {
            return Err(Usage(format!("--output {file} would overwrite the model; name another file")).into());
        }
        targets.push((&file.path, wanted));
    }
    Ok(targets)
}

/// Writes outputs to a file, which has one of them where it is no archive.
fn write(
    path: &Path,
    wanted: &[usize],
    engine: &NetworkEngine,
    found: &[Vec<f32>],
    rows: usize,
) -> std::io::Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz")) {
        let shapes: Vec<Vec<usize>> = wanted.iter().map(|&i| row_shape(engine, i)).collect();
        let array = |(&i, shape): (&usize, _)| (engine.outputs()[i].name.as_str(), rows, shape, found[i].as_slice());
        let arrays: Vec<_> = wanted.iter().zip(shapes.iter().map(Vec::as_slice)).map(array).collect();
        return write_npz(path, &arrays);
    }
    for &i in wanted {
        let mut writer = NpyWriter::shaped(path, &row_shape(engine, i))?;
        for row in found[i].chunks_exact(engine.output_width(i).max(1)) {
            writer.row(row)?;
        }
        writer.finish()?;
    }
    Ok(())
}

/// The shape of a row of an output: positions where it has some, width.
fn row_shape(engine: &NetworkEngine, output: usize) -> Vec<usize> {
    let [positions, width] = engine.output_shape(output);
    if engine.plan().outputs[output].positions == Positions::One { vec![width] } else { vec![positions, width] }
}

/// The best class of each row, or of each position that counts, of the first output that has classes.
fn classes<'a>(inputs: &Inputs<'a>, engine: &NetworkEngine, found: &[Vec<f32>]) -> Option<Vec<ClassJson<'a>>> {
    let outputs = &inputs.network.outputs;
    let i = outputs.iter().position(|output| output.kind != OutputKind::Values)?;
    let output = &outputs[i];
    let softmax = Softmax::select(&Cpu::detect());
    let [positions, width] = engine.output_shape(i);
    let shape = engine.plan().outputs[i].positions;
    let best = |row: usize, position: Option<usize>| {
        let start = (row * positions + position.unwrap_or(0)) * width;
        let mut p = found[i][start..start + width].to_vec();
        if output.kind == OutputKind::Logits {
            softmax.run(&mut p);
        }
        // The lowest of equals, as everywhere.
        let index = (0..p.len()).reduce(|best, i| if p[i] > p[best] { i } else { best }).unwrap_or(0);
        let label = output.labels.get(index).map(String::as_str);
        ClassJson { position, row, index, p: p.get(index).copied().unwrap_or(f32::NAN), label }
    };
    let of_row = |row: usize| -> Vec<ClassJson<'a>> {
        match shape {
            Positions::One => vec![best(row, None)],
            Positions::Sequence { extra, .. } => {
                (0..inputs.length(row) + extra).map(|position| best(row, Some(position))).collect()
            }
            Positions::Fixed(_) => (0..positions).map(|position| best(row, Some(position))).collect(),
        }
    };
    Some((0..inputs.rows).flat_map(of_row).collect())
}

fn outputs<'a>(
    network: &'a Network,
    engine: &NetworkEngine,
    found: &'a [Vec<f32>],
    rows: usize,
) -> Vec<OutputJson<'a>> {
    let all: usize = found.iter().map(Vec::len).sum();
    let describe = |(i, output): (usize, &'a rin_model::Output)| {
        let width = engine.output_width(i);
        let values = (all <= MAX_JSON_VALUES).then(|| found[i].chunks_exact(width.max(1)).collect());
        let shape = [vec![rows], row_shape(engine, i)].concat();
        OutputJson { name: &output.name, kind: output.kind, shape, values }
    };
    network.outputs.iter().enumerate().map(describe).collect()
}

/// One line per row: its class and how probable it is, or those of its positions, or its values.
fn lines(
    network: &Network,
    engine: &NetworkEngine,
    found: &[Vec<f32>],
    classes: Option<&[ClassJson<'_>]>,
    rows: usize,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for row in 0..rows {
        if let Some(classes) = classes {
            for (i, class) in classes.iter().filter(|class| class.row == row).enumerate() {
                let label = class.label.map_or(String::new(), |label| format!(" {label}"));
                let space = if i > 0 { ", " } else { "" };
                write!(text, "{space}{} {:.4}{label}", class.index, class.p)?;
            }
            writeln!(text)?;
            continue;
        }
        for (i, found) in found.iter().enumerate() {
            let width = engine.output_width(i);
            let values: Vec<String> = found[row * width..][..width].iter().map(ToString::to_string).collect();
            let name = if network.outputs.len() > 1 { format!("{},", network.outputs[i].name) } else { String::new() };
            writeln!(text, "{name}{}", values.join(","))?;
        }
    }
    Ok(text)
}

/// What a network is, for people.
pub(crate) fn describe(text: &mut String, network: &Network) -> std::fmt::Result {
    for port in &network.inputs {
        let kind = match port.kind {
            PortKind::Sequence => ", a sequence",
            PortKind::Length => ", the positions that count",
            _ => "",
        };
        let optional = if port.optional { ", may be left out" } else { "" };
        let name = output::shown(&port.name, 80);
        writeln!(text, "input      {name} of shape {:?}{kind}{optional}", port.shape)?;
    }
    let nodes = match &network.body {
        Body::Nodes(nodes) => nodes.as_slice(),
        Body::Graph(graph) => {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for node in &graph.nodes {
                *counts.entry(node.op.name()).or_default() += 1;
            }
            let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
            writeln!(text, "graph      {} operations: {}", graph.nodes.len(), counts.join(", "))?;
            &[]
        }
        _ => return Ok(()),
    };
    for node in nodes {
        let function = match &node.op {
            Op::Dense { function, .. }
            | Op::Scale { function, .. }
            | Op::Activation { function }
            | Op::Add { function } => format!(" {}", function.name()),
            _ => String::new(),
        };
        let inputs: Vec<_> = node.inputs.iter().map(|name| output::shown(name, 40)).collect();
        let name = output::shown(&node.output, 40);
        writeln!(text, "           {name} = {}{function} ({})", node.op.name(), inputs.join(", "))?;
    }
    for found in &network.outputs {
        let kind = match found.kind {
            OutputKind::Logits => "logits",
            OutputKind::Probabilities => "probabilities",
            _ => "values",
        };
        writeln!(text, "output     {}, {kind}", output::shown(&found.name, 80))?;
    }
    Ok(())
}

/// `rin verify --json` of such a network.
#[derive(Debug, Serialize)]
struct VerifyJson<'a> {
    cases: usize,
    equal: usize,
    digest: String,
    axes: AxesJson,
    mismatches: Vec<MismatchJson>,
    model: &'a str,
    rows: usize,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct AxesJson {
    tiers: Vec<&'static str>,
    threads: Vec<usize>,
    batch: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct MismatchJson {
    tier: &'static str,
    threads: usize,
    batch: usize,
    output: usize,
    row: usize,
    element: usize,
    expected: f32,
    found: f32,
}

/// Verifies a network on rows of its own making.
///
/// # Errors
/// [`exit::Mismatch`] where bits differ; whatever goes wrong on the way.
pub(crate) fn verify(file: ModelFile, machine: &MachineArgs, form: crate::args::OutputArgs) -> Result<()> {
    interrupt::install()?;
    let name = file.path().display().to_string();
    let options = machine.load_options();
    let cpu = options.tier.map_or_else(Cpu::detect, |tier| Cpu::detect().up_to(tier));
    let mut axes = Axes::contract(cpu.tiers().collect());
    if let Some(threads) = options.threads {
        axes.threads = vec![threads];
    }
    // A little more than a page of keys and values.
    let ctx = options.ctx.or(Some(VERIFIED_POSITIONS));
    let options = LoadOptions { n_batch: axes.rows(), ctx, ..options };
    let mut engine = load(file, &options, form.quiet)?;
    let found = rin_engine::network::verify::verify(&mut engine, &axes, options.affinity)?;
    let Report { cases, equal, digest, mismatches } = &found;
    if form.json {
        let mismatch = |m: &rin_engine::network::verify::Mismatch| MismatchJson {
            tier: m.tier.name(),
            threads: m.threads,
            batch: m.batch,
            output: m.output,
            row: m.row,
            element: m.element,
            expected: m.expected,
            found: m.found,
        };
        output::json(&VerifyJson {
            cases: *cases,
            equal: *equal,
            digest: digest.to_string(),
            axes: AxesJson {
                tiers: axes.tiers.iter().map(|tier| tier.name()).collect(),
                threads: axes.threads.clone(),
                batch: axes.batch.clone(),
            },
            mismatches: mismatches.iter().map(mismatch).collect(),
            model: &name,
            rows: axes.rows(),
            version: env!("CARGO_PKG_VERSION"),
        })?;
    } else {
        let mut text = format!("{equal} of {cases} cases equal\n{digest}\n");
        for m in mismatches {
            let place = format!("output {}, row {}, element {}", m.output, m.row, m.element);
            let case = format!("{}, {} threads, batch {}", m.tier, m.threads, m.batch);
            writeln!(text, "{case}: {place} is {} and not {}", m.found, m.expected)?;
        }
        output::text(&text)?;
    }
    if mismatches.is_empty() {
        return Ok(());
    }
    let differ = cases - equal;
    let text = format!(
        "{differ} of {cases} cases have other bits than the definition; this is a fault of rin or of the machine, please report it"
    );
    Err(exit::Mismatch(text).into())
}
