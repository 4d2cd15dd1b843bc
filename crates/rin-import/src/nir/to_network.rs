//! A graph in continuous time and real numbers becomes a network in steps and integers.
//!
//! Forward Euler with step `dt`: a membrane keeps `1 - dt / tau` of itself and gains `r dt / tau` times its input, as
//! the authors of NIR's paper took it. What a neuron gains is folded into its weights; each neuron then has a unit of
//! its own, the largest of its weights divided by 127, so that its weights, its threshold and its membrane are integers.

use super::linear::{Map, NEURONS, Path, numbers, of_dataset, optional};
use super::{Graph, Node, fault};
use rin_engine::snn::{Coding, Layer, Network, Projection, Readout, Source};
use rin_kernels::ops::lif::{KEEP_ALL, Reset};
use rin_model::Error;

/// Most fractional bits that a membrane gets.
const MAX_SHIFT: u32 = 10;
/// Largest threshold, current and sum in units of the membrane: 23 bits hold twice as much.
const LARGEST: f64 = 4_194_304.0;

/// What NIR leaves open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Discretisation {
    /// The time step, in the graph's unit of time (seconds).
    pub dt: f64,
    /// What a spike does; NIR's own meaning is [`Reset::Zero`], as long as `v_reset` is 0.
    pub reset: Reset,
    /// How rows of input become spikes.
    pub coding: Coding,
    /// Time steps per row, or the most of them with [`Coding::Spikes`].
    pub steps: usize,
}

/// A population: its name and what its neurons are.
struct Population {
    name: String,
    keep_v: Vec<f64>,
    keep_u: Vec<f64>,
    /// What an input of 1 adds to the membrane.
    gain: Vec<f64>,
    /// Added to the membrane in each step.
    bias: Vec<f64>,
    /// None for neurons that never spike.
    threshold: Option<Vec<f64>>,
    /// Units and fractional bits that an export of RIN noted.
    noted: Option<(Vec<f64>, u32)>,
}

/// Makes a network of a graph.
///
/// # Errors
/// `Unsupported` names all kinds of nodes that RIN has not, a `v_reset` other than 0, a circle without neurons or
/// several inputs or outputs; `InconsistentConfig` a step that is longer than a time constant; `BadShape` and
/// `MissingKey` what does not fit.
pub fn to_network(graph: &Graph, how: Discretisation) -> Result<Network, Error> {
    if !(how.dt.is_finite() && how.dt > 0.0) {
        return Err(Error::InconsistentConfig(fault("dt", "a positive time step", how.dt.to_string())));
    }
    graph.check_kinds()?;
    let (input, output) = (graph.end("Input")?, graph.end("Output")?);
    let mut populations = Vec::new();
    for (name, node) in &graph.nodes {
        if NEURONS.contains(&node.kind.as_str()) {
            populations.push(population(graph, name, node, how)?);
        }
    }
    let inputs = input_width(graph, input)?;
    let width = |name: &str| {
        let found = populations.iter().find(|population| population.name == name);
        Ok(found.map_or(inputs, |population| population.keep_v.len()))
    };
    let mut fed = Vec::new();
    for population in &populations {
        let paths = graph.paths(&population.name, &width, 0)?;
        fed.push((population, paths));
    }
    let to_output = graph.paths(output, &width, 0)?;
    let mut order = in_order(fed, input);
    // What the output reads has to be the last layer: neurons as they are, or a layer of its own that passes on.
    let reads_neurons = match to_output.as_slice() {
        [path] if is_identity(&path.map) => order.last().is_some_and(|(last, _)| last.name == path.from),
        _ => false,
    };
    let relay = Population::relay(output, to_output.first().map_or(0, |path| path.map.outputs));
    if !reads_neurons {
        order.push((&relay, to_output));
    }
    let place = |name: &str| match order.iter().position(|(population, _)| population.name == name) {
        Some(at) => Source::Layer(at),
        None => Source::Input,
    };
    let layers =
        order.iter().map(|(population, paths)| layer(population, paths, &place, how)).collect::<Result<_, _>>()?;
    let spikes = order.last().is_some_and(|(last, _)| last.threshold.is_some());
    let readout = if spikes { Readout::SpikeCount } else { Readout::Membrane };
    let network = Network { inputs, steps: how.steps, coding: how.coding, layers, readout };
    match network.check() {
        Ok(()) => Ok(network),
        Err(e) => Err(Error::InconsistentConfig(fault(&e.place, "a network that can run", e.what))),
    }
}

/// The product of the input's shape.
fn input_width(graph: &Graph, input: &str) -> Result<usize, Error> {
    let shape = match graph.get(input) {
        Some(node) => numbers(node, input, "shape")?,
        None => Vec::new(),
    };
    let width = shape.iter().product::<f64>();
    if !(1.0..=1e6).contains(&width) {
        return Err(Error::BadShape(fault(input, "a shape of 1 to a million values", format!("{shape:?}"))));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a million")]
    Ok(width as usize)
}

fn is_identity(map: &Map) -> bool {
    let one = |at: usize| f64::from(u8::from(at.checked_rem(map.inputs.saturating_add(1)) == Some(0)));
    map.inputs == map.outputs
        && map.bias.iter().all(|&bias| bias == 0.0)
        && map.weights.iter().enumerate().all(|(at, &weight)| weight.to_bits() == one(at).to_bits())
}

/// Populations in an order in which as few projections as possible go backwards.
fn in_order<'p>(mut fed: Vec<(&'p Population, Vec<Path>)>, input: &str) -> Vec<(&'p Population, Vec<Path>)> {
    let mut order: Vec<(&Population, Vec<Path>)> = Vec::new();
    while !fed.is_empty() {
        let placed = |order: &[(&Population, Vec<Path>)], name: &str| {
            name == input || order.iter().any(|(population, _)| population.name == name)
        };
        let ready = fed.iter().position(|(population, paths)| {
            paths.iter().all(|path| path.from == population.name || placed(&order, &path.from))
        });
        // In a circle, what has at least one source goes first.
        let begun = || fed.iter().position(|(_, paths)| paths.iter().any(|path| placed(&order, &path.from)));
        let next = ready.or_else(begun).unwrap_or(0);
        order.push(fed.remove(next));
    }
    order
}

impl Population {
    /// Neurons that pass on what they get, in the same step and without memory.
    fn relay(name: &str, n: usize) -> Self {
        Self {
            name: format!("{name} (read)"),
            keep_v: vec![0.0; n],
            keep_u: Vec::new(),
            gain: vec![1.0; n],
            bias: vec![0.0; n],
            threshold: None,
            noted: None,
        }
    }
}

fn population(graph: &Graph, name: &str, node: &Node, how: Discretisation) -> Result<Population, Error> {
    let optional = |key: &str| optional(node, name, key);
    // How many neurons: the longest parameter, or as many as the map before them has outputs.
    let longest = node.parameters.iter().map(|(_, dataset)| dataset.shape.iter().product::<usize>()).max().unwrap_or(1);
    let before = graph.sources(name).filter_map(|from| graph.get(from)?.get("weight")?.shape.first().copied()).max();
    let n = longest.max(before.unwrap_or(1));
    let spread = |key: &str, values: Vec<f64>| match values.len() {
        1 => Ok(vec![values.first().copied().unwrap_or(0.0); n]),
        found if found == n => Ok(values),
        found => Err(Error::BadShape(fault(name, format!("1 or {n} values of `{key}`"), found.to_string()))),
    };
    let needed = |key: &str| spread(key, numbers(node, name, key)?);
    let or = |key: &str, value: f64| optional(key)?.map_or(Ok(vec![value; n]), |found| spread(key, found));
    if or("v_reset", 0.0)?.iter().any(|&v| v != 0.0) {
        return Err(Error::Unsupported(fault(name, "a `v_reset` of 0", "another")));
    }
    let kind = node.kind.as_str();
    let rate = |key: &str| -> Result<Vec<f64>, Error> {
        let tau = needed(key)?;
        match tau.iter().find(|&&tau| tau < how.dt * (1.0 - 1e-6)) {
            Some(tau) => {
                let expected = format!("a `{key}` of at least the time step, {}; take a smaller --dt", how.dt);
                Err(Error::InconsistentConfig(fault(name, expected, tau.to_string())))
            }
            None => Ok(tau.iter().map(|tau| (how.dt / tau).min(1.0)).collect()),
        }
    };
    let ones = vec![1.0; n];
    let (leak, synapse) = match kind {
        "LIF" | "LI" => (rate("tau")?, None),
        "CubaLIF" | "CubaLI" => (rate("tau_mem")?, Some(rate("tau_syn")?)),
        // No leak: what comes in, times the step, stays.
        "IF" | "I" => (vec![0.0; n], None),
        _ => (ones.clone(), None),
    };
    let r = if kind == "Threshold" { ones.clone() } else { needed("r")? };
    let per_step = |leak: f64| if matches!(kind, "IF" | "I") { how.dt } else { leak };
    let mut gain: Vec<f64> = r.iter().zip(&leak).map(|(r, &leak)| r * per_step(leak)).collect();
    if let Some(synapse) = &synapse {
        let w_in = or("w_in", 1.0)?;
        gain.iter_mut().zip(synapse.iter().zip(&w_in)).for_each(|(gain, (rate, w_in))| *gain *= rate * w_in);
    }
    let v_leak = or("v_leak", 0.0)?;
    let threshold = match kind {
        "LI" | "CubaLI" | "I" => None,
        "Threshold" => Some(needed("threshold")?),
        _ => Some(needed("v_threshold")?),
    };
    if threshold.iter().flatten().any(|&threshold| threshold < 0.0) {
        return Err(Error::Unsupported(fault(name, "thresholds of at least 0", "a negative one")));
    }
    let note = |key: &str| node.metadata.iter().find(|(found, _)| found == key).and_then(|(_, d)| of_dataset(d));
    let noted = match (note("rin_unit"), note("rin_shift").as_deref()) {
        (Some(units), Some(&[shift])) if units.len() == n && (0.0..=16.0).contains(&shift) =>
        {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 16")]
            Some((units, shift as u32))
        }
        _ => None,
    };
    Ok(Population {
        name: name.to_owned(),
        bias: leak.iter().zip(&v_leak).map(|(leak, v_leak)| leak * v_leak).collect(),
        keep_v: leak.iter().map(|leak| 1.0 - leak).collect(),
        keep_u: synapse.map(|rates| rates.iter().map(|rate| 1.0 - rate).collect()).unwrap_or_default(),
        gain,
        threshold,
        noted,
    })
}

fn layer(
    population: &Population,
    paths: &[Path],
    place: &dyn Fn(&str) -> Source,
    how: Discretisation,
) -> Result<Layer, Error> {
    let name = population.name.as_str();
    let n = population.keep_v.len();
    if let Some(path) = paths.iter().find(|path| path.map.outputs != n) {
        return Err(Error::BadShape(fault(
            name,
            format!("{n} inputs for as many neurons"),
            path.map.outputs.to_string(),
        )));
    }
    let mut constant = vec![0.0; n];
    for path in paths {
        let gained = path.map.bias.iter().zip(&population.gain).map(|(bias, gain)| bias * gain);
        constant.iter_mut().zip(gained).for_each(|(constant, gained)| *constant += gained);
    }
    let mut units = vec![0.0_f64; n];
    for path in paths {
        for ((unit, row), gain) in
            units.iter_mut().zip(path.map.weights.chunks(path.map.inputs.max(1))).zip(&population.gain)
        {
            *unit = row.iter().fold(*unit, |unit, weight| unit.max((weight * gain).abs() / 127.0));
        }
    }
    // A neuron that nothing reaches still has a threshold to compare with.
    for (j, unit) in units.iter_mut().enumerate() {
        let threshold = population.threshold.as_ref().and_then(|thresholds| thresholds.get(j)).copied().unwrap_or(0.0);
        let scale = threshold.max(constant.get(j).map_or(0.0, |c| c.abs())).max(1e-30) / 1000.0;
        *unit = if *unit > 0.0 { *unit } else { scale };
    }
    let largest = |values: &[f64]| values.iter().zip(&units).map(|(v, unit)| (v / unit).abs()).fold(0.0, f64::max);
    let fan_in: usize = paths.iter().map(|path| path.map.inputs).sum();
    let most = largest(&constant)
        .max(largest(&population.bias))
        .max(population.threshold.as_ref().map_or(0.0, |thresholds| largest(thresholds)))
        .max(127.0 * (fan_in as f64).sqrt());
    let mut shift =
        (0..=MAX_SHIFT).rev().find(|&shift| most * f64::from(1_u32 << shift) <= LARGEST).ok_or_else(|| {
            let expected = "thresholds and constants within a few hundred times the weights";
            Error::Unsupported(fault(name, expected, format!("{most:.0} units")))
        })?;
    if let Some((noted, bits)) = &population.noted {
        (units, shift) = (noted.iter().map(|unit| unit * f64::from(1_u32 << bits)).collect(), *bits);
    }
    let fixed = |values: &[f64]| -> Vec<i32> {
        let scale = f64::from(1_u32 << shift);
        values.iter().zip(&units).map(|(value, unit)| integer(value / unit * scale)).collect()
    };
    let projections = paths.iter().map(|path| projection(path, population, &units, place)).collect();
    let keep = |keep: &[f64]| keep.iter().map(|keep| decay_factor(*keep)).collect();
    #[expect(clippy::cast_possible_truncation, reason = "a unit is a number to report")]
    let unit = units.iter().map(|unit| (unit / f64::from(1_u32 << shift)) as f32).collect();
    Ok(Layer {
        projections,
        keep_v: keep(&population.keep_v),
        keep_u: keep(&population.keep_u),
        threshold: population.threshold.as_ref().map_or_else(|| vec![i32::MAX; n], |thresholds| fixed(thresholds)),
        current: fixed(&constant),
        bias: fixed(&population.bias),
        shift,
        reset: how.reset,
        unit,
    })
}

/// The weights of a path in 8 bits, input-major.
fn projection(path: &Path, population: &Population, units: &[f64], place: &dyn Fn(&str) -> Source) -> Projection {
    let (n, inputs) = (path.map.outputs, path.map.inputs);
    let mut weights = vec![0_i8; path.map.weights.len()];
    let rows = path.map.weights.chunks(inputs.max(1)).zip(units).zip(&population.gain);
    for (j, ((row, unit), gain)) in rows.enumerate() {
        for (out, weight) in weights.iter_mut().skip(j).step_by(n.max(1)).zip(row) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
            let quantised = (weight * gain / unit).round_ties_even().clamp(-127.0, 127.0) as i8;
            *out = quantised;
        }
    }
    Projection { from: place(&path.from), weights }
}

fn integer(value: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and a check of the network follows")]
    let integer = value.round_ties_even() as i32;
    integer
}

fn decay_factor(keep: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 4096")]
    let factor = (keep.clamp(0.0, 1.0) * f64::from(KEEP_ALL)).round_ties_even() as u16;
    factor
}
