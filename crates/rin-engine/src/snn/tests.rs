use super::*;
use crate::pool::{Pool, PoolOptions};
use proptest::prelude::*;
use rin_kernels::Cpu;
use rin_kernels::ops::lif::{KEEP_ALL, MEMBRANE_MAX, Reset};

fn simulator(network: &Network, threads: usize, options: SimulatorOptions) -> Simulator {
    let pool = Pool::new(PoolOptions { threads, ..PoolOptions::default() }).unwrap();
    Simulator::new(network.clone(), pool, options).unwrap()
}

fn run(network: &Network, input: &[f32], steps: usize) -> Vec<f32> {
    let rows = input.len() / network.row_len(steps).unwrap();
    let mut out = vec![0.0; rows * network.outputs()];
    simulator(network, 1, SimulatorOptions::new(Cpu::detect())).run(input, steps, &mut out).unwrap();
    out
}

/// The network as the module documents it, in 64 bits and without any of the engine's layouts: trains of each layer.
fn definition(network: &Network, spikes_in: &[Vec<i64>]) -> (Vec<Vec<Vec<i64>>>, Vec<f64>) {
    let decay = |x: i64, keep: u16| x.signum() * ((x.abs() * i64::from(keep)) >> 12);
    let limit = i64::from(MEMBRANE_MAX);
    let mut v: Vec<Vec<i64>> = network.layers.iter().map(|l| vec![0; l.outputs()]).collect();
    let (mut u, mut fired) = (v.clone(), v.clone());
    let mut readout = vec![0; network.outputs()];
    let mut trains = Vec::new();
    for input in spikes_in {
        for (at, layer) in network.layers.iter().enumerate() {
            let before = fired.clone();
            for j in 0..layer.outputs() {
                let mut sum = 0;
                for projection in &layer.projections {
                    let source = match projection.from {
                        Source::Input => input,
                        Source::Layer(from) => &before[from],
                    };
                    for (i, &s) in source.iter().enumerate() {
                        sum += s * i64::from(projection.weights[i * layer.outputs() + j]);
                    }
                }
                let mut c = (sum << layer.shift) + i64::from(layer.current[j]);
                if !layer.keep_u.is_empty() {
                    c += decay(u[at][j], layer.keep_u[j]);
                    c = if c > limit + 1 {
                        c - 2 * (limit + 1)
                    } else if c < -limit {
                        c + 2 * (limit + 1)
                    } else {
                        c
                    };
                    u[at][j] = c;
                }
                let next = (decay(v[at][j], layer.keep_v[j]) + c + i64::from(layer.bias[j])).clamp(-limit, limit);
                let threshold = i64::from(layer.threshold[j]);
                fired[at][j] = i64::from(next > threshold);
                v[at][j] = match (next > threshold, layer.reset) {
                    (false, _) => next,
                    (true, Reset::Zero) => 0,
                    (true, Reset::Subtract) => next - threshold,
                };
            }
        }
        let last = network.layers.len() - 1;
        for (j, sum) in readout.iter_mut().enumerate() {
            *sum += if network.readout == Readout::SpikeCount { fired[last][j] } else { v[last][j] };
        }
        trains.push(fired.clone());
    }
    let per = if network.readout == Readout::SpikeCount { 1.0 } else { spikes_in.len() as f64 };
    (trains, readout.iter().map(|&sum| sum as f64 / per).collect())
}

fn layer(inputs: &[(Source, usize)], synapse: bool) -> impl Strategy<Value = Layer> + use<> {
    let inputs = inputs.to_vec();
    (1_usize..40, any::<bool>(), 0_u32..9).prop_flat_map(move |(n, subtract, shift)| {
        let own = inputs.iter().map(|&(from, width)| {
            let width = if width == 0 { n } else { width };
            prop::collection::vec(any::<i8>(), width * n).prop_map(move |weights| Projection { from, weights })
        });
        let scale = 1 << shift;
        (
            own.collect::<Vec<_>>(),
            prop::collection::vec(0..=KEEP_ALL, n),
            prop::collection::vec(0..=KEEP_ALL, if synapse { n } else { 0 }),
            prop::collection::vec(0..400 * scale, n),
            prop::collection::vec(-40 * scale..60 * scale, n),
            prop::collection::vec(-20 * scale..40 * scale, n),
        )
            .prop_map(move |(projections, keep_v, keep_u, threshold, current, bias)| Layer {
                projections,
                keep_v,
                keep_u,
                threshold,
                current,
                bias,
                shift,
                reset: if subtract { Reset::Subtract } else { Reset::Zero },
                unit: Vec::new(),
            })
    })
}

/// Two layers: the first recurrent and with feedback from the second, the second fed by the first and by the input.
fn network() -> impl Strategy<Value = Network> {
    (1_usize..50, any::<bool>(), any::<bool>()).prop_flat_map(|(inputs, synapse, membrane)| {
        layer(&[(Source::Input, inputs), (Source::Layer(0), 0)], synapse).prop_flat_map(move |first| {
            let n = first.outputs();
            (Just(first), layer(&[(Source::Layer(0), n), (Source::Input, inputs)], !synapse), any::<u64>()).prop_map(
                move |(mut first, second, seed)| {
                    let count = second.outputs() * n;
                    let weight = |i: usize| i8::try_from(seed.wrapping_mul(2 * i as u64 + 1) >> 32 & 63).unwrap() - 32;
                    let weights = (0..count).map(weight).collect();
                    first.projections.push(Projection { from: Source::Layer(1), weights });
                    let readout = if membrane { Readout::Membrane } else { Readout::SpikeCount };
                    Network { inputs, steps: 12, coding: Coding::Spikes, layers: vec![first, second], readout }
                },
            )
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_tier_kernel_and_number_of_threads_is_the_definition(
        network in network(),
        input in prop::collection::vec(prop::bool::weighted(0.4), 3 * 12 * 50),
    ) {
        let (steps, rows) = (12, 3);
        let row = network.inputs * steps;
        let input: Vec<f32> = input[..rows * row].iter().map(|&s| f32::from(u8::from(s))).collect();
        let wanted: Vec<_> = input
            .chunks(row)
            .map(|row| {
                let trains: Vec<Vec<i64>> =
                    row.chunks(network.inputs).map(|t| t.iter().map(|&s| i64::from(s > 0.0)).collect()).collect();
                definition(&network, &trains)
            })
            .collect();
        let cpu = Cpu::detect();
        for tier in cpu.tiers() {
            for (threads, dense_percent) in [(1, 0), (1, 100), (2, DENSE_PERCENT), (3, DENSE_PERCENT)] {
                let options = SimulatorOptions { dense_percent, ..SimulatorOptions::new(cpu.up_to(tier)) };
                let mut simulator = simulator(&network, threads, options);
                let mut out = vec![0.0; rows * network.outputs()];
                simulator.run(&input, steps, &mut out).unwrap();
                let values: Vec<f32> = wanted.iter().flat_map(|w| w.1.iter().map(|x| x.to_string().parse::<f32>().unwrap())).collect();
                prop_assert_eq!(&out, &values);
                let spikes: Vec<u64> = (0..2)
                    .map(|l| wanted.iter().flat_map(|w| &w.0).map(|t| t[l].iter().sum::<i64>().cast_unsigned()).sum())
                    .collect();
                prop_assert_eq!(simulator.activity().spikes, spikes);
                let mut differ = 0;
                simulator
                    .run_watched(&input, steps, &mut out, &mut |seen| {
                        let want = &wanted[seen.row].0[seen.step][seen.layer];
                        differ += usize::from(!seen.fired.iter().zip(want).all(|(&f, &w)| i64::from(f) == w));
                    })
                    .unwrap();
                prop_assert_eq!((differ, &out), (0, &values));
            }
        }
    }
}

/// One neuron per input that passes its input's spikes on.
fn relay(coding: Coding, inputs: usize, steps: usize) -> Network {
    let mut layer = Layer::new(inputs, 0, 0, 0, Reset::Zero);
    let weights = (0..inputs * inputs).map(|i| i8::from(i % (inputs + 1) == 0)).collect();
    layer.projections.push(Projection { from: Source::Input, weights });
    Network { inputs, steps, coding, layers: vec![layer], readout: Readout::SpikeCount }
}

fn trains(network: &Network, input: &[f32]) -> Vec<Vec<u8>> {
    let mut trains = Vec::new();
    let mut out = vec![0.0; network.outputs()];
    let mut simulator = simulator(network, 1, SimulatorOptions::new(Cpu::detect()));
    simulator.run_watched(input, network.steps, &mut out, &mut |seen| trains.push(seen.fired.to_vec())).unwrap();
    trains
}

#[test]
fn a_latency_code_spikes_once_and_the_earlier_the_larger() {
    let network = relay(Coding::Latency { scale: 0.5 }, 5, 9);
    let trains = trains(&network, &[2.0, 1.0, 0.5, 0.0, -3.0]);
    let times: Vec<Vec<usize>> = (0..5).map(|i| (0..9).filter(|&t| trains[t][i] == 1).collect()).collect();
    assert_eq!(times, [vec![0], vec![4], vec![6], vec![], vec![]]);
}

#[test]
fn a_rate_code_has_its_rate_and_depends_on_the_seed_alone() {
    let steps = 4000;
    let network = relay(Coding::Rate { scale: 1.0, seed: 5 }, 4, steps);
    let input = [0.1, 0.75, 0.0, 1.0];
    let counts = run(&network, &input, steps);
    for (count, p) in counts.iter().zip(input) {
        // Six standard deviations.
        let margin = 6.0 * (p * (1.0 - p) * steps as f32).sqrt();
        assert!((count - p * steps as f32).abs() <= margin, "{counts:?}");
    }
    assert_eq!(counts, run(&network, &input, steps));
    // The second of two rows is drawn anew, with one worker as with two.
    let rows = run(&network, &[input, input].concat(), steps);
    assert_eq!(rows[..4], counts);
    assert_ne!(rows[4..6], counts[..2]);
    let other = relay(Coding::Rate { scale: 1.0, seed: 6 }, 4, steps);
    assert_ne!(run(&other, &input, steps)[..2], counts[..2]);
}

#[test]
fn a_direct_input_is_a_constant_current_with_sign() {
    let mut layer = Layer::new(2, KEEP_ALL, i32::MAX, 7, Reset::Zero);
    layer.projections.push(Projection { from: Source::Input, weights: vec![100, -7, 50, 3, 9, 9] });
    layer.unit = vec![1.0 / 128.0; 2];
    let coding = Coding::Direct { scale: 1.0 };
    let network = Network { inputs: 3, steps: 1, coding, layers: vec![layer], readout: Readout::Membrane };
    let values = run(&network, &[0.5, -0.25, 0.0], 1);
    assert_eq!(values, [0.5 * 100.0 - 0.25 * 50.0, 0.5 * -7.0 - 0.25 * 3.0]);
    // The largest value is 127 of 128.
    assert_eq!(run(&network, &[0.0, 0.0, 9.0], 1), [9.0 * 127.0 / 128.0; 2]);
}

/// What makes a sound network unsound.
type Break = fn(&mut Network);

#[test]
fn unsound_networks_are_named() {
    let sound = relay(Coding::Spikes, 3, 5);
    sound.check().unwrap();
    let broken: Vec<(&str, Break)> = vec![
        ("inputs", |n| n.inputs = 0),
        ("steps", |n| n.steps = 0),
        ("coding", |n| n.coding = Coding::Rate { scale: f32::NAN, seed: 0 }),
        ("coding", |n| n.coding = Coding::Latency { scale: 0.0 }),
        ("layers", |n| n.layers.clear()),
        ("layer 0", |n| n.layers[0].projections[0].from = Source::Layer(1)),
        ("layer 0", |n| n.layers[0].projections[0].weights.truncate(8)),
        ("layer 0", |n| n.layers[0].keep_v[1] = KEEP_ALL + 1),
        ("layer 0", |n| n.layers[0].threshold[0] = -1),
        ("layer 0", |n| n.layers[0].bias.truncate(2)),
        ("layer 0", |n| n.layers[0].unit = vec![1.0, 0.0, 1.0]),
        ("layer 0", |n| n.layers[0].shift = 17),
        ("layer 0", |n| n.layers[0].current[0] = i32::MIN),
    ];
    for (place, breaks) in broken {
        let mut network = sound.clone();
        breaks(&mut network);
        let found = network.check().unwrap_err();
        assert_eq!(found.place, place, "{found}");
        assert!(Simulator::plan(&network, 1).is_err());
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let network = relay(Coding::Spikes, 3, 5);
    let mut simulator = simulator(&network, 1, SimulatorOptions::new(Cpu::detect()));
    let mut out = vec![0.0; 3];
    assert!(simulator.run(&[0.0; 15], 5, &mut out).is_ok());
    assert!(simulator.run(&[0.0; 14], 5, &mut out).is_err());
    assert!(simulator.run(&[0.0; 18], 6, &mut out).is_err(), "more steps than the network was made for");
    assert!(simulator.run(&[0.0; 15], 5, &mut out[..2]).is_err());
    let two = simulator.run(&[2.0; 15], 5, &mut out).unwrap_err();
    assert!(two.to_string().contains("0 or 1"), "{two}");
    // Nothing to run is no error.
    assert!(simulator.run(&[], 5, &mut []).is_ok());
}
