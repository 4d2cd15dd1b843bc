#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "traces of a test, whose numbers are small"
)]

use super::*;
use rin_engine::pool::{Pool, PoolOptions};
use rin_engine::snn::{Coding, Network, Readout, Simulator, SimulatorOptions, Source};
use rin_kernels::Cpu;
use rin_kernels::ops::lif::Reset;
use rin_testkit::data::{conformance, shared};
use rin_testkit::npy::Array2;

/// The step that NIR's paper took.
const DT: f64 = 1e-4;

fn how(reset: Reset, steps: usize) -> Discretisation {
    Discretisation { dt: DT, reset, coding: Coding::Spikes, steps }
}

fn read(path: &std::path::Path) -> Graph {
    Graph::read(&std::fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn simulator(network: &Network) -> Simulator {
    let pool = Pool::new(PoolOptions::default()).unwrap();
    Simulator::new(network.clone(), pool, SimulatorOptions::new(Cpu::detect())).unwrap()
}

/// The output, and of every layer the trains and the membranes.
struct Run {
    out: Vec<f32>,
    fired: Vec<Vec<Vec<u8>>>,
    v: Vec<Vec<Vec<i32>>>,
}

fn run(network: &Network, input: &[f32]) -> Run {
    let layers = network.layers.len();
    let mut run =
        Run { out: vec![0.0; network.outputs()], fired: vec![Vec::new(); layers], v: vec![Vec::new(); layers] };
    let (fired, v) = (&mut run.fired, &mut run.v);
    simulator(network)
        .run_watched(input, input.len() / network.inputs, &mut run.out, &mut |seen| {
            fired[seen.layer].push(seen.fired.to_vec());
            v[seen.layer].push(seen.v.to_vec());
        })
        .unwrap();
    run
}

/// Input, membrane and spike per step, as the simulators of the paper recorded them.
fn trace(name: &str) -> Option<Vec<[f64; 3]>> {
    let path = shared(&format!("nir/lif/{name}"))?;
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let mut fields = line.split(',').map(|field| field.trim().parse().unwrap());
        std::array::from_fn(|_| fields.next().unwrap())
    };
    Some(text.lines().map(line).collect())
}

fn spike_times(spikes: impl Iterator<Item = bool>) -> Vec<usize> {
    spikes.enumerate().filter(|(_, spike)| *spike).map(|(t, _)| t).collect()
}

#[test]
fn the_papers_neuron_spikes_when_the_simulators_do() {
    let Some(norse) = trace("lif_norse.csv") else { return };
    let input: Vec<f32> = norse.iter().map(|row| row[0] as f32).collect();
    for file in ["lif_norse.nir", "lif_rockpool.nir"] {
        let graph = read(&shared(&format!("nir/lif/{file}")).unwrap());
        let network = to_network(&graph, how(Reset::Subtract, 1000)).unwrap();
        let run = run(&network, &input);
        let found = spike_times(run.fired[0].iter().map(|fired| fired[0] == 1));
        println!("{file}: {found:?}");
        for other in [
            "exact",
            "lava_cpu_fixed",
            "lava_cpu_float",
            "lava_loihi_fixed",
            "nengo",
            "norse",
            "rockpool",
            "sinabs",
            "snntorch",
            "spinnaker2",
            "spyx",
        ] {
            let rows = trace(&format!("lif_{other}.csv")).unwrap();
            let times = spike_times(rows.iter().map(|row| row[2] > 0.0));
            println!("  {other}: {times:?}");
            assert_eq!(found.len(), times.len(), "{other}");
            // Lava and SpiNNaker2 deliver a spike in the step that follows; Rockpool and Sinabs decay by exp(-dt / tau),
            // which lets one input less suffice, and the inputs lie ten steps apart.
            // The graph that Rockpool wrote has a gain of 0.961 in place of 1, so that it takes one input more.
            let latest = match (other, file) {
                (_, "lif_rockpool.nir") => 20,
                ("rockpool" | "sinabs", _) => 10,
                _ => 1,
            };
            for (found, time) in found.iter().zip(&times) {
                assert!(time.abs_diff(*found) <= latest, "{file}: {other} spikes at {time}, not at {found}");
            }
            let same = ["exact", "nengo", "norse"].contains(&other) && file == "lif_norse.nir";
            assert!(!same || found == times, "{other}");
        }
    }
}

/// The trace of the exact solution is that of subtraction, and it moves by `1 - exp(-dt / tau)` instead of `dt / tau`.
#[test]
fn the_papers_neuron_has_the_membrane_of_the_exact_solution() {
    let Some(exact) = trace("lif_exact.csv") else { return };
    let graph = read(&shared("nir/lif/lif_norse.nir").unwrap());
    let network = to_network(&graph, how(Reset::Subtract, 1000)).unwrap();
    let input: Vec<f32> = exact.iter().map(|row| row[0] as f32).collect();
    let run = run(&network, &input);
    let unit = f64::from(network.layers[0].unit[0]);
    let mut largest: f64 = 0.0;
    for (t, (v, row)) in run.v[0].iter().zip(&exact).enumerate() {
        // A spike falls between the recorded times of the exact solution.
        if exact[t.saturating_sub(3)..=t].iter().all(|row| row[2] == 0.0) && run.fired[0][t][0] == 0 {
            largest = largest.max((f64::from(v[0]) * unit - row[1]).abs());
        }
    }
    println!("largest difference of the membrane: {largest}");
    assert!(largest < 0.004, "{largest} of a threshold of 0.1");
}

const BRAILLE: [(&str, Reset, usize); 2] =
    [("noDelay_bias_zero", Reset::Zero, 38), ("noDelay_noBias_subtract", Reset::Subtract, 40)];

#[test]
fn the_papers_recurrent_graphs_become_two_layers() {
    for (name, reset, hidden) in BRAILLE {
        let Some(path) = shared(&format!("nir/braille/braille_{name}.nir")) else { return };
        let network = to_network(&read(&path), how(reset, 256)).unwrap();
        assert_eq!((network.inputs, network.layers.len(), network.outputs()), (12, 2, 7));
        let first: Vec<Source> = network.layers[0].projections.iter().map(|p| p.from).collect();
        assert!(first.len() == 2 && first.contains(&Source::Input) && first.contains(&Source::Layer(0)));
        assert_eq!(network.layers[0].outputs(), hidden);
        assert_eq!(network.layers[1].projections.len(), 1);
        assert_eq!(network.readout, Readout::SpikeCount);
        // alpha 0.55 and beta 0.9, and alpha 0.75 and beta 0.85: what the networks were trained with.
        let (alpha, beta) = if hidden == 38 { (0.55, 0.9) } else { (0.75, 0.85) };
        assert_eq!(network.layers[0].keep_u[0], (alpha * 4096.0_f64).round() as u16);
        assert_eq!(network.layers[0].keep_v[0], (beta * 4096.0_f64).round() as u16);
    }
}

/// The second layer reads the same letter out of the hidden spikes of every simulator, as the graph's authors found.
#[test]
fn the_papers_readout_agrees_on_every_simulators_spikes() {
    for (name, reset, hidden) in BRAILLE {
        let Some(path) = shared(&format!("nir/braille/braille_{name}.nir")) else { return };
        let network = to_network(&read(&path), how(reset, 256)).unwrap();
        let mut readout = network.layers[1].clone();
        readout.projections[0].from = Source::Input;
        let readout = Network { inputs: hidden, layers: vec![readout], ..network };
        let mut letters = Vec::new();
        for simulator in ["nengo", "norse", "s2", "snntorch", "spyx"] {
            let spikes = Array2::read(&shared(&format!("nir/braille/{simulator}_activity_{name}.npy")).unwrap());
            let counts = run(&readout, &spikes.values).out;
            let best = (0..7).max_by(|&a, &b| counts[a].total_cmp(&counts[b])).unwrap();
            println!("{name}: {simulator}: {counts:?} → {best}");
            letters.push(best);
        }
        assert!(letters.iter().all(|letter| *letter == letters[0]), "{name}: {letters:?}");
    }
}

/// NIR's equations in f64 by forward Euler, for the two layers of the Braille graphs.
fn euler(graph: &Graph, input: &[f32], reset: Reset) -> Vec<Vec<u8>> {
    let numbers = |node: &str, key: &str| linear::numbers(graph.get(node).unwrap(), node, key).unwrap();
    let optional = |node: &str, key: &str| linear::optional(graph.get(node).unwrap(), node, key).unwrap();
    let (w, rec) = (numbers("fc1", "weight"), numbers("lif1.w_rec", "weight"));
    let neuron = |key: &str| numbers("lif1.lif", key);
    let (tau_mem, tau_syn, r, w_in, threshold) =
        (neuron("tau_mem"), neuron("tau_syn"), neuron("r"), neuron("w_in"), neuron("v_threshold"));
    let n = tau_mem.len();
    let bias = |node: &str| optional(node, "bias").unwrap_or_else(|| vec![0.0; n]);
    let (bias, rec_bias) = (bias("fc1"), bias("lif1.w_rec"));
    let (mut u, mut v, mut fired) = (vec![0.0; n], vec![0.0; n], vec![0_u8; n]);
    let mut trains = Vec::new();
    for x in input.chunks(12) {
        let before = fired.clone();
        for j in 0..n {
            let mut sum = bias[j] + rec_bias[j];
            sum += (0..12).map(|i| w[j * 12 + i] * f64::from(x[i])).sum::<f64>();
            sum += (0..n).map(|i| rec[j * n + i] * f64::from(before[i])).sum::<f64>();
            u[j] += DT / tau_syn[j] * (w_in[j] * sum - u[j]);
            v[j] += DT / tau_mem[j] * (r[j] * u[j] - v[j]);
            fired[j] = u8::from(v[j] > threshold[j]);
            if fired[j] == 1 {
                v[j] = if reset == Reset::Zero { 0.0 } else { v[j] - threshold[j] };
            }
        }
        trains.push(fired.clone());
    }
    trains
}

/// The recorded inputs of the Braille data are not at hand, so inputs of their rate are made up; what is compared is the
/// integer network with NIR's equations in f64. The simulators of the paper differ from each other by 102 to 174 spikes on one sample.
#[test]
fn the_papers_recurrent_graphs_spike_as_their_equations_say() {
    for (name, reset, hidden) in BRAILLE {
        let Some(path) = shared(&format!("nir/braille/braille_{name}.nir")) else { return };
        let graph = read(&path);
        let network = to_network(&graph, how(reset, 256)).unwrap();
        let (mut same, mut all, mut totals) = (0, 0, (0, 0));
        let mut state = 9_u64;
        for _ in 0..20 {
            let input: Vec<f32> = (0..256 * 12)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    f32::from(u8::from((state >> 40) % 100 < 6))
                })
                .collect();
            let want = euler(&graph, &input, reset);
            let found = run(&network, &input).fired.swap_remove(0);
            for (want, found) in want.iter().zip(&found) {
                same += want.iter().zip(found).filter(|(want, found)| want == found).count();
                all += hidden;
                totals.0 += want.iter().map(|&s| usize::from(s)).sum::<usize>();
                totals.1 += found.iter().map(|&s| usize::from(s)).sum::<usize>();
            }
        }
        let share = same as f64 / all as f64;
        println!("{name}: {share:.5} equal; spikes {} of the equations, {} of the integers", totals.0, totals.1);
        assert!(totals.0 > 500, "{name}: {} spikes say little", totals.0);
        assert!(share > 0.98, "{name}: {share}");
        let ratio = totals.1 as f64 / totals.0 as f64;
        assert!((0.9..1.1).contains(&ratio), "{name}: {ratio} times the spikes");
    }
}

#[test]
fn a_written_graph_reads_back_as_it_was() {
    for (name, ..) in BRAILLE {
        let Some(path) = shared(&format!("nir/braille/braille_{name}.nir")) else { return };
        let graph = read(&path);
        let again = Graph::read(&graph.write().unwrap()).unwrap();
        let sorted = |graph: &Graph| {
            let mut nodes = graph.nodes.clone();
            for (_, node) in &mut nodes {
                node.parameters.sort_by(|a, b| a.0.cmp(&b.0));
            }
            nodes.sort_by(|a, b| a.0.cmp(&b.0));
            (nodes, graph.edges.clone())
        };
        assert_eq!(sorted(&graph), sorted(&again));
    }
}

#[test]
fn a_network_keeps_its_integers_on_the_way_through_nir() {
    for (name, reset, _) in BRAILLE {
        let Some(path) = shared(&format!("nir/braille/braille_{name}.nir")) else { return };
        let network = to_network(&read(&path), how(reset, 256)).unwrap();
        let graph = from_network(&network, DT).unwrap();
        let again = to_network(&Graph::read(&graph.write().unwrap()).unwrap(), how(reset, 256)).unwrap();
        assert_eq!(network.layers.len(), again.layers.len());
        for (layer, again) in network.layers.iter().zip(&again.layers) {
            let (mut layer, mut again) = (layer.clone(), again.clone());
            let order = |layer: &mut rin_engine::snn::Layer| layer.projections.sort_by_key(|p| format!("{:?}", p.from));
            order(&mut layer);
            order(&mut again);
            assert_eq!(layer, again, "{name}");
        }
    }
}

/// Graphs by the `nir` package: compressed, with subgraphs, and with every kind of node that RIN has.
#[test]
fn graphs_of_the_nir_package_run() {
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(conformance("nir/graphs.json")).unwrap()).unwrap();
    for (file, want) in expected.as_object().unwrap() {
        if file == "versions" {
            continue;
        }
        let graph = read(&conformance(&format!("nir/{file}")));
        let network = to_network(&graph, Discretisation { dt: want["dt"].as_f64().unwrap(), ..how(Reset::Zero, 100) });
        let network = network.unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(network.inputs as u64, want["inputs"].as_u64().unwrap(), "{file}");
        let trains: Vec<f32> = want["input"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let run = run(&network, &trains);
        let output: Vec<f64> = want["output"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        for (found, want) in run.out.iter().zip(&output) {
            // One spike more or less, or 3 % of the largest mean membrane: what 8-bit weights cost here.
            let largest = output.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let tolerance = if network.readout == Readout::SpikeCount { 1.0 } else { 0.03 * largest };
            assert!((f64::from(*found) - want).abs() <= tolerance, "{file}: {:?} for {output:?}", run.out);
        }
    }
}

#[test]
fn what_rin_has_not_is_named_at_once() {
    let node = |kind: &str| Node { kind: kind.to_owned(), parameters: Vec::new(), metadata: Vec::new() };
    let graph = Graph {
        nodes: vec![("a".into(), node("Conv2d")), ("b".into(), node("SumPool2d")), ("c".into(), node("Conv2d"))],
        ..Graph::default()
    };
    let error = to_network(&graph, how(Reset::Zero, 5)).unwrap_err().to_string();
    assert!(error.contains("Conv2d, SumPool2d") && error.contains("CubaLIF"), "{error}");
    assert!(Graph::read(b"no HDF5").is_err());
    let other = std::fs::read(conformance("nir/hdf5-earliest.h5")).unwrap();
    assert!(matches!(Graph::read(&other), Err(Error::MissingKey(_))));
}
