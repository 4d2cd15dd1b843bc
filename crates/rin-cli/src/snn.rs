//! Spiking networks: `rin run --input`, `rin import X.nir`, `rin export -o X.nir`.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rin_energy::Record;
use rin_engine::snn::{Activity, Coding, Network, Readout, Simulator};
use rin_import::nir::{Discretisation, Graph, from_network, to_network};
use rin_import::snn_file;
use rin_kernels::ops::lif::Reset;
use rin_model::array::Array;
use rin_model::{Mode, ModelFile};
use serde::Serialize;

use crate::args::{ExportArgs, ImportArgs, ModelArgs, RunArgs, SpikingArgs};
use crate::energy::Gauge;
use crate::exit::Usage;
use crate::npy::NpyWriter;
use crate::output::Size;
use crate::values::NamedFile;
use crate::{model_path, output};

/// The step of the graphs of NIR's authors.
const DEFAULT_DT: f64 = 1e-4;
/// Steps of a row where neither the file nor the user says so.
const DEFAULT_STEPS: usize = 16;

#[derive(Debug, Serialize)]
struct RunJson {
    model: ModelJson,
    rows: Vec<RowJson>,
    steps: usize,
    activity: ActivityJson,
    plan_bytes: usize,
    threads: usize,
    seconds: f64,
    /// Its `joules_per_token` is per row.
    energy: Record,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct ModelJson {
    path: String,
    mode: &'static str,
    inputs: usize,
    outputs: usize,
    layers: usize,
    readout: &'static str,
}

#[derive(Debug, Serialize)]
struct RowJson {
    class: usize,
    values: Vec<f32>,
}

#[derive(Debug, Serialize)]
struct ActivityJson {
    input_spikes: u64,
    spikes: Vec<u64>,
    synaptic_operations: u64,
}

/// Whether the arguments mean a spiking network: by their mode, or by the file.
///
/// # Errors
/// [`Usage`] where they contradict the file.
pub(crate) fn is_asked_for(args: &RunArgs) -> Result<bool> {
    let asked = args.machine.asked_mode() == Some(Mode::Snn);
    let ModelArgs { model: Some(model) } = &args.model else {
        return if asked {
            Err(Usage("--mode snn needs a MODEL: a .nir or .rin file".to_owned()).into())
        } else {
            Ok(false)
        };
    };
    let path = model_path::resolve(model)?;
    if is_nir(&path)? || is_snn(&path) {
        return Ok(true);
    }
    Ok(false)
}

/// Whether a file is NIR's container.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn is_nir(path: &Path) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    file.take(8).read_to_end(&mut start).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(rin_model::hdf5::is_hdf5(&start))
}

/// Whether a file is a `.rin` of a spiking network. What is wrong with a file is told by whoever runs it.
fn is_snn(path: &Path) -> bool {
    path.is_file() && ModelFile::open(path).is_ok_and(|file| file.mode() == Some(Mode::Snn))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// The network of a file; of a graph, with what the arguments and its own notes say.
fn network(path: &Path, args: &SpikingArgs, steps: Option<usize>) -> Result<Network> {
    let in_file = || path.display().to_string();
    if !is_nir(path)? {
        return Ok(Network::of_file(&ModelFile::open(path)?)?);
    }
    let graph = Graph::read(&read(path)?).map_err(rin_import::Error::from).with_context(in_file)?;
    let note = |key: &str| graph.metadata.iter().find(|(found, _)| found == key).map(|(_, words)| words.as_str());
    let noted = if note("rin_reset") == Some("subtract") { Reset::Subtract } else { Reset::Zero };
    let how = Discretisation {
        dt: args.time_step.or_else(|| note("rin_dt")?.parse().ok()).unwrap_or(DEFAULT_DT),
        reset: args.reset.map_or(noted, Reset::from),
        coding: args.coding(),
        steps: args.time_steps.map(Into::into).or(steps).unwrap_or(DEFAULT_STEPS),
    };
    to_network(&graph, how).map_err(rin_import::Error::from).with_context(in_file)
}

/// Steps and rows of the trains that an array holds, or the steps of the network.
fn steps(array: &Array, network: &Network) -> Result<usize> {
    let bad =
        |expected: String| Usage(format!("--input has the shape {:?}, but the network takes {expected}", array.shape));
    let n = network.inputs;
    match (network.coding, array.shape.as_slice()) {
        (Coding::Spikes, &[steps, width] | &[_, steps, width]) if width == n && steps > 0 => Ok(steps),
        (Coding::Spikes, _) => Err(bad(format!("trains: ({{rows}}, {{steps}}, {n}) or ({{steps}}, {n})")).into()),
        (_, &[width] | &[_, width]) if width == n => Ok(network.steps),
        _ => Err(bad(format!("rows: ({{rows}}, {n})")).into()),
    }
}

/// Computes the answers of a spiking network.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    if args.prompt.is_some() || args.tokens.is_some() {
        return Err(Usage("a spiking network takes no text: give --input FILE.npy".to_owned()).into());
    }
    if args.power_budget.is_some() {
        let text = "--power-budget rests between tokens or batches of rows; a spiking network runs all rows as one";
        return Err(Usage(text.to_owned()).into());
    }
    let [input] = args.network.input.as_slice() else {
        return Err(Usage("a spiking network answers one array; give it with --input FILE.npy".to_owned()).into());
    };
    let model = args.model.model.as_deref().unwrap_or(Path::new(""));
    let path = model_path::resolve(model)?;
    let array = Array::read(&input.path).map_err(|error| Usage(error.to_string()))?;
    // Trains say how many steps there are.
    let trains = match array.shape.as_slice() {
        &[steps, _] | &[_, steps, _] => Some(steps.max(1)),
        _ => None,
    };
    let network = network(&path, &args.spiking, trains)?;
    let steps = steps(&array, &network)?;
    let outputs = network.outputs();
    let gauge = Gauge::open(&args.energy)?;
    let mut simulator = Simulator::load(network, &args.machine.load_options())?;
    let network = simulator.network();
    let rows = array.values.len() / network.row_len(steps).unwrap_or(1).max(1);
    let mut out = vec![0.0; rows.saturating_mul(outputs)];
    let (clock, began) = (Instant::now(), gauge.edge());
    simulator.run(&array.values, steps, &mut out)?;
    let (seconds, ended) = (clock.elapsed().as_secs_f64(), gauge.edge());
    let energy = gauge.record(began.as_ref(), ended.as_ref(), rows, seconds)?;
    if let Some(NamedFile { path: to, .. }) = args.network.to.first() {
        let mut writer =
            NpyWriter::create(to, outputs).with_context(|| format!("{} cannot be written", to.display()))?;
        let written = out.chunks(outputs.max(1)).try_for_each(|row| writer.row(row)).and_then(|()| writer.finish());
        written.with_context(|| format!("{} cannot be written", to.display()))?;
    }
    tell(args, &path, &simulator, steps, &out, seconds, energy)
}

/// The largest value; the first of equal ones.
fn class(values: &[f32]) -> usize {
    let best = |best: usize, (at, value): (usize, &f32)| if *value > values[best] { at } else { best };
    values.iter().enumerate().fold(0, best)
}

fn tell(
    args: &RunArgs,
    path: &Path,
    simulator: &Simulator,
    steps: usize,
    out: &[f32],
    seconds: f64,
    energy: Record,
) -> Result<()> {
    let network = simulator.network();
    let rows = out.chunks(network.outputs().max(1));
    let Activity { spikes, input_spikes, synaptic_operations } = simulator.activity();
    if !args.output.quiet {
        output::tell(&format!(
            "{} rows of {steps} steps in {:.3} ms: {input_spikes} input spikes, {spikes:?} spikes of the layers, \
             {synaptic_operations} weights added; {} in all",
            rows.len(),
            seconds * 1e3,
            Size(simulator.bytes() as u64),
        ));
    }
    if args.output.json {
        return output::json(&RunJson {
            model: ModelJson {
                path: path.display().to_string(),
                mode: Mode::Snn.name(),
                inputs: network.inputs,
                outputs: network.outputs(),
                layers: network.layers.len(),
                readout: match network.readout {
                    Readout::SpikeCount => "spike_count",
                    Readout::Membrane => "membrane",
                },
            },
            rows: rows.map(|row| RowJson { class: class(row), values: row.to_vec() }).collect(),
            steps,
            activity: ActivityJson { input_spikes, spikes, synaptic_operations },
            plan_bytes: simulator.bytes(),
            threads: simulator.threads(),
            seconds,
            energy,
            version: env!("CARGO_PKG_VERSION"),
        });
    }
    if !args.network.to.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for row in rows {
        let values: Vec<String> = row.iter().map(ToString::to_string).collect();
        writeln!(text, "{}\t{}", class(row), values.join(" ")).context("out of memory")?;
    }
    output::text(&text)
}

#[derive(Debug, Serialize)]
struct FileJson {
    source: String,
    output: String,
    bytes: u64,
    notes: Vec<String>,
    version: &'static str,
}

fn told(source: &Path, to: &Path, bytes: u64, notes: Vec<String>, wanted: crate::args::OutputArgs) -> Result<()> {
    if !wanted.quiet {
        for note in &notes {
            output::tell(&format!("note: {note}"));
        }
        output::tell(&format!("{}: {}", to.display(), Size(bytes)));
    }
    if !wanted.json {
        return Ok(());
    }
    let (source, output) = (source.display().to_string(), to.display().to_string());
    output::json(&FileJson { source, output, bytes, notes, version: env!("CARGO_PKG_VERSION") })
}

/// Makes a `.rin` of a NIR graph.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn import(args: &ImportArgs, source: &Path) -> Result<()> {
    if args.quant.is_some() {
        return Err(Usage("--quant is for language models; a spiking network has 8-bit weights".to_owned()).into());
    }
    let network = network(source, &args.spiking, None)?;
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let report = snn_file::write(&args.to, &network, &name, "NIR", args.overwrite)?;
    told(source, &args.to, report.bytes, Vec::new(), args.output)
}

/// Makes a NIR graph of a `.rin`.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn export(args: &ExportArgs, source: &Path) -> Result<()> {
    if !is_snn(source) {
        return Err(
            Usage(format!("{} is no .rin of a spiking network, and NIR holds no other", source.display())).into()
        );
    }
    let network = Network::of_file(&ModelFile::open(source)?)?;
    let graph = from_network(&network, args.dt).map_err(rin_import::Error::from)?;
    let bytes = graph.write().map_err(rin_import::Error::from)?;
    if args.to.exists() && !args.overwrite {
        return Err(rin_import::Error::Exists(args.to.clone()).into());
    }
    std::fs::write(&args.to, &bytes).with_context(|| format!("{} cannot be written", args.to.display()))?;
    let mut notes = Vec::new();
    if network.layers.iter().any(|layer| layer.reset == Reset::Subtract) {
        notes.push("NIR knows no reset by subtraction: other tools will reset to zero unless they are told".to_owned());
    }
    if network.coding != Coding::Spikes {
        notes.push("NIR knows no coding of inputs: the graph takes spike trains".to_owned());
    }
    told(source, &args.to, bytes.len() as u64, notes, args.output)
}
