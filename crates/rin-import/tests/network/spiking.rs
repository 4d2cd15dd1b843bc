//! Spiking networks among the networks on rows: what the simulator of [`rin_engine::snn`] says is what the engine says.

use crate::model::{Temporary, noise};
use rin_engine::digest::LogitDigest;
use rin_engine::network::verify::{Axes, verify};
use rin_engine::network::{Domain, NetworkPlan};
use rin_engine::snn::{Coding, Layer, Network, Projection, Readout, Simulator, Source};
use rin_engine::topology::Policy;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_import::snn_file;
use rin_kernels::Cpu;
use rin_kernels::ops::lif::Reset;
use rin_model::ModelFile;

const INPUTS: usize = 21;
const STEPS: usize = 7;

#[expect(clippy::cast_possible_truncation, reason = "below 128")]
fn weights(n: usize, seed: u32) -> Vec<i8> {
    noise(n, seed).into_iter().map(|x| (x * 127.0) as i8).collect()
}

fn network(coding: Coding, readout: Readout) -> Network {
    let mut hidden = Layer::new(70, 3000, 900, 4, Reset::Subtract);
    hidden.projections.push(Projection { from: Source::Input, weights: weights(INPUTS * 70, 1) });
    hidden.projections.push(Projection { from: Source::Layer(0), weights: weights(70 * 70, 2) });
    let mut last = Layer::new(5, 4000, 300, 4, Reset::Zero);
    last.projections.push(Projection { from: Source::Layer(0), weights: weights(70 * 5, 3) });
    Network { inputs: INPUTS, steps: STEPS, coding, layers: vec![hidden, last], readout }
}

fn rows(network: &Network, n: usize) -> Vec<f32> {
    let x = noise(n * network.row_len(STEPS).unwrap(), 9);
    if network.coding == Coding::Spikes { x.iter().map(|x| f32::from(u8::from(*x > 0.2))).collect() } else { x }
}

const CODINGS: [Coding; 4] = [
    Coding::Direct { scale: 0.9 },
    Coding::Rate { scale: 0.9, seed: 5 },
    Coding::Latency { scale: 0.9 },
    Coding::Spikes,
];

#[test]
fn outputs_and_activity_are_those_of_the_simulator() {
    for coding in CODINGS {
        for readout in [Readout::SpikeCount, Readout::Membrane] {
            let network = network(coding, readout);
            let file = Temporary::new();
            snn_file::write(&file.0, &network, "a test", "test", false).unwrap();
            let n = 9;
            let x = rows(&network, n);
            let options =
                LoadOptions { threads: Some(2), affinity: Policy::None, n_batch: n, ..LoadOptions::default() };
            let mut simulator = Simulator::load(network.clone(), &options).unwrap();
            let mut want = vec![0.0; n * 5];
            simulator.run(&x, STEPS, &mut want).unwrap();
            assert!(want.iter().any(|y| y.to_bits() != want[0].to_bits()), "{coding:?} answers with {want:?}");

            let open = || ModelFile::open(&file.0).unwrap();
            let mut engine = NetworkEngine::load(open(), &options, |_| ()).unwrap();
            engine.run(&[&x], n).unwrap();
            assert_eq!(engine.output(0), want, "{coding:?} {readout:?}");
            assert_eq!(engine.activity(), Some(simulator.activity()));
            let mut whole = LogitDigest::new();
            engine.digest(&mut whole);

            // In several runs, and the number of a row decides what a rate draws.
            let width = x.len() / n;
            let mut engine = NetworkEngine::load(open(), &LoadOptions { n_batch: 4, ..options }, |_| ()).unwrap();
            let mut cut = LogitDigest::new();
            for first in (0..n).step_by(4) {
                let count = 4.min(n - first);
                engine.run_from(first, &[&x[first * width..][..count * width]], count).unwrap();
                engine.digest(&mut cut);
            }
            assert_eq!(cut.finish(), whole.finish(), "{coding:?} {readout:?}");
        }
    }
}

#[test]
fn tiers_threads_and_batches_change_no_bit() {
    for coding in CODINGS {
        let file = Temporary::new();
        snn_file::write(&file.0, &network(coding, Readout::Membrane), "a test", "test", false).unwrap();
        let axes = Axes { threads: vec![1, 3], batch: vec![1, 5], ..Axes::contract(Cpu::detect().tiers().collect()) };
        let options = LoadOptions { n_batch: axes.rows(), affinity: Policy::None, ..LoadOptions::default() };
        let mut engine = NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap();
        let report = verify(&mut engine, &axes, Policy::None).unwrap();
        assert_eq!(report.cases, report.equal, "{coding:?}: {:?}", report.mismatches);
        // The rows of the check make neurons spike.
        assert!(engine.activity().unwrap().spikes.iter().all(|&spikes| spikes > 0), "{coding:?}");
    }
}

#[test]
fn the_plan_says_every_byte_and_what_goes_in() {
    let file = Temporary::new();
    snn_file::write(&file.0, &network(Coding::Spikes, Readout::SpikeCount), "a test", "test", false).unwrap();
    let open = || ModelFile::open(&file.0).unwrap();
    let [one, many] = [1, 9].map(|n| NetworkPlan::new(&open(), n).unwrap());
    assert_eq!(one.domains, [Domain::Flags]);
    assert!(many.scratch_bytes > 5 * one.scratch_bytes, "each row at once has a state");
    assert_eq!(many.state_bytes, one.state_bytes, "weights are there once");
    assert!(one.state_bytes > 2 * (INPUTS + 70 + 5) * 70);
    let mut engine =
        NetworkEngine::load(open(), &LoadOptions { n_batch: 2, ..LoadOptions::default() }, |_| ()).unwrap();
    let mut x = vec![0.0; INPUTS * STEPS];
    x[3] = 0.5;
    let error = engine.run(&[&x], 1).unwrap_err().to_string();
    assert!(error.contains("0 or 1") && error.contains("0.5"), "{error}");
    assert!(engine.output(0).is_empty(), "nothing is computed then");
    assert!(engine.run(&[&x[1..]], 1).is_err() && engine.run(&[&x], 3).is_err());
}
