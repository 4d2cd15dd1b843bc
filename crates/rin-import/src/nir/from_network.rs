//! A network in steps and integers becomes a graph in continuous time and real numbers.
//!
//! The inverse of [`super::to_network`]: a membrane that keeps `k` of itself in a step of `dt` has the time constant
//! `dt / (1 - k)`, and its resistance is chosen such that an input of 1 adds 1. Units and fractional bits are noted at
//! the neurons, so that RIN reads the same integers back.

use super::{Graph, Node, fault};
use rin_engine::snn::{Layer, Network, Source};
use rin_kernels::ops::lif::{KEEP_ALL, Reset};
use rin_model::Error;
use rin_model::hdf5::{Dataset, Elements};

/// Makes a graph of a network, with a time step of `dt` seconds.
///
/// Reset by subtraction is no part of NIR: it is noted in the metadata, where other tools do not look, and the caller
/// should say so.
///
/// # Errors
/// `InconsistentConfig` when `dt` is not positive, `Unsupported` for a bias past the synapse of neurons without a leak.
pub fn from_network(network: &Network, dt: f64) -> Result<Graph, Error> {
    if !(dt.is_finite() && dt > 0.0) {
        return Err(Error::InconsistentConfig(fault("dt", "a positive time step", dt.to_string())));
    }
    let mut graph = Graph::default();
    let shape = |n: usize| {
        let size = i64::try_from(n).unwrap_or(i64::MAX);
        vec![("shape".to_owned(), Dataset { shape: vec![1], elements: Elements::Integers(vec![size]) })]
    };
    let node = |kind: &str, parameters| Node { kind: kind.to_owned(), parameters, metadata: Vec::new() };
    graph.nodes.push(("input".to_owned(), node("Input", shape(network.inputs))));
    for (at, layer) in network.layers.iter().enumerate() {
        let neurons = format!("lif{at}");
        for projection in &layer.projections {
            let (from, name) = match projection.from {
                Source::Input => ("input".to_owned(), format!("fc{at}")),
                Source::Layer(from) if from == at => (neurons.clone(), format!("rec{at}")),
                Source::Layer(from) => (format!("lif{from}"), format!("fc{from}_{at}")),
            };
            let width = network.width(projection.from).unwrap_or(0);
            let n = layer.outputs();
            let scale = f64::from(1_u32 << layer.shift);
            let mut weights = Vec::with_capacity(projection.weights.len());
            for j in 0..n {
                let column = projection.weights.iter().skip(j).step_by(n.max(1));
                weights.extend(column.map(|&weight| f64::from(weight) * unit(layer, j) * scale));
            }
            let weight = Dataset { shape: vec![n, width], elements: Elements::Floats(weights) };
            graph.nodes.push((name.clone(), node("Linear", vec![("weight".to_owned(), weight)])));
            graph.edges.push((from, name.clone()));
            graph.edges.push((name, neurons.clone()));
        }
        add_constant(&mut graph, layer, at)?;
        graph.nodes.push((neurons, population(layer, at, dt)?));
    }
    graph.nodes.push(("output".to_owned(), node("Output", shape(network.outputs()))));
    graph.edges.push((format!("lif{}", network.layers.len().saturating_sub(1)), "output".to_owned()));
    graph.metadata.push(("rin_dt".to_owned(), dt.to_string()));
    let subtract = network.layers.iter().any(|layer| layer.reset == Reset::Subtract);
    graph.metadata.push(("rin_reset".to_owned(), if subtract { "subtract" } else { "zero" }.to_owned()));
    Ok(graph)
}

fn unit(layer: &Layer, j: usize) -> f64 {
    layer.unit.get(j).map_or(1.0, |&unit| f64::from(unit))
}

fn vector(values: Vec<f64>) -> Dataset {
    Dataset { shape: vec![values.len()], elements: Elements::Floats(values) }
}

/// A constant current is the bias of the first map that feeds the neurons.
fn add_constant(graph: &mut Graph, layer: &Layer, at: usize) -> Result<(), Error> {
    if layer.current.iter().all(|&current| current == 0) {
        return Ok(());
    }
    let neurons = format!("lif{at}");
    let map = graph.edges.iter().find(|(_, to)| *to == neurons).map(|(from, _)| from.clone());
    let node = graph.nodes.iter_mut().find(|(name, _)| Some(name) == map.as_ref());
    let Some((_, node)) = node else {
        return Err(Error::Unsupported(fault(&neurons, "a constant current beside weights", "no weights")));
    };
    let bias = layer.current.iter().enumerate().map(|(j, &current)| f64::from(current) * unit(layer, j)).collect();
    "Affine".clone_into(&mut node.kind);
    node.parameters.push(("bias".to_owned(), vector(bias)));
    Ok(())
}

fn population(layer: &Layer, at: usize, dt: f64) -> Result<Node, Error> {
    let name = format!("lif{at}");
    let spikes = layer.threshold.iter().any(|&threshold| threshold != i32::MAX);
    let each = |f: &dyn Fn(usize) -> f64| vector((0..layer.outputs()).map(f).collect());
    // Shares of a step that are lost: 1 at once, 0 never.
    let lost = |keep: u16| 1.0 - f64::from(keep) / f64::from(KEEP_ALL);
    let rate = |j: usize| layer.keep_v.get(j).map_or(1.0, |&keep| lost(keep));
    let no_leak = layer.keep_v.iter().all(|&keep| keep == KEEP_ALL);
    if !no_leak && layer.keep_v.contains(&KEEP_ALL) {
        return Err(Error::Unsupported(fault(&name, "a leak in all neurons of a layer or in none", "some")));
    }
    let bias = |j: usize| layer.bias.get(j).map_or(0.0, |&bias| f64::from(bias) * unit(layer, j));
    let mut parameters = Vec::new();
    let mut put = |key: &str, dataset| parameters.push((key.to_owned(), dataset));
    let kind = match (layer.keep_u.is_empty(), no_leak, spikes) {
        (true, false, true) => "LIF",
        (true, false, false) => "LI",
        (false, false, true) => "CubaLIF",
        (false, false, false) => "CubaLI",
        (true, true, true) => "IF",
        (true, true, false) => "I",
        (false, true, _) => {
            return Err(Error::Unsupported(fault(&name, "a leak where there is a synapse", "none")));
        }
    };
    if no_leak {
        if layer.bias.iter().any(|&bias| bias != 0) {
            return Err(Error::Unsupported(fault(&name, "a leak where there is a bias of the membrane", "none")));
        }
        put("r", each(&|_| 1.0 / dt));
    } else {
        put(if layer.keep_u.is_empty() { "tau" } else { "tau_mem" }, each(&|j| dt / rate(j)));
        put("r", each(&|j| 1.0 / rate(j)));
        put("v_leak", each(&|j| bias(j) / rate(j)));
    }
    if !layer.keep_u.is_empty() {
        let synapse = |j: usize| layer.keep_u.get(j).map_or(1.0, |&keep| lost(keep));
        if layer.keep_u.contains(&KEEP_ALL) {
            return Err(Error::Unsupported(fault(&name, "synapses with a leak", "some without")));
        }
        put("tau_syn", each(&|j| dt / synapse(j)));
        put("w_in", each(&|j| 1.0 / synapse(j)));
    }
    if spikes {
        put("v_threshold", each(&|j| layer.threshold.get(j).map_or(0.0, |&v| f64::from(v) * unit(layer, j))));
        put("v_reset", each(&|_| 0.0));
    }
    let shift = Elements::Integers(vec![i64::from(layer.shift)]);
    let metadata = vec![
        ("rin_unit".to_owned(), each(&|j| unit(layer, j))),
        ("rin_shift".to_owned(), Dataset { shape: Vec::new(), elements: shift }),
    ];
    Ok(Node { kind: kind.to_owned(), parameters, metadata })
}
