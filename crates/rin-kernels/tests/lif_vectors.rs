//! LIF layers against Lava's fixed-point model bit for bit, and against snntorch spike for spike.

use std::path::Path;

use rin_kernels::Cpu;
use rin_kernels::ops::lif::{AddSpikes, KEEP_ALL, LifNeurons, LifStep, Reset, collect_spikes};
use serde_json::Value;

fn golden(name: &str) -> (Value, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/snn");
    let read = |end: &str| {
        let path = folder.join(format!("{name}.{end}"));
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    (serde_json::from_slice(&read("json")).unwrap_or_else(|e| panic!("{name}.json: {e}")), read("bin"))
}

fn number<T: TryFrom<i64>>(value: &Value, key: &str) -> T {
    let found = value[key].as_i64().unwrap_or_else(|| panic!("{key} in {value}"));
    T::try_from(found).unwrap_or_else(|_| panic!("{key} = {found}"))
}

/// Takes the next `n` bytes.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (first, rest) = bytes.split_at(n);
    *bytes = rest;
    first
}

fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

fn words(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// The constants of a layer whose neurons are alike, and its state.
struct Layer {
    keep_v: Vec<u16>,
    keep_u: Vec<u16>,
    threshold: Vec<i32>,
    zero: Vec<i32>,
    bias: Vec<i32>,
    v: Vec<i32>,
    u: Vec<i32>,
    fired: Vec<u8>,
    shift: u32,
    reset: Reset,
    op: LifStep,
}

impl Layer {
    fn new(n: usize, cpu: Cpu, keep_v: u16, keep_u: Option<u16>, threshold: i32, shift: u32, reset: Reset) -> Self {
        let synapses = if keep_u.is_some() { n } else { 0 };
        Self {
            keep_v: vec![keep_v; n],
            keep_u: vec![keep_u.unwrap_or(0); synapses],
            threshold: vec![threshold; n],
            zero: vec![0; n],
            bias: vec![0; n],
            v: vec![0; n],
            u: vec![0; synapses],
            fired: vec![0; n],
            shift,
            reset,
            op: LifStep::select(&cpu),
        }
    }

    fn step(&mut self, acc: &[i32]) {
        let neurons = LifNeurons {
            keep_v: &self.keep_v,
            keep_u: &self.keep_u,
            threshold: &self.threshold,
            current: &self.zero,
            bias: &self.bias,
            shift: self.shift,
            reset: self.reset,
        };
        self.op.run(&mut self.v, &mut self.u, &mut self.fired, acc, neurons);
    }
}

#[test]
fn a_million_neuron_steps_are_those_of_lava() {
    let (meta, bytes) = golden("lava");
    let (n, steps, every) =
        (number::<usize>(&meta, "neurons"), number::<usize>(&meta, "steps"), number::<usize>(&meta, "states_every"));
    let cases = meta["cases"].as_array().unwrap();
    assert!(n * steps * cases.len() >= 1_000_000);
    for cpu in Cpu::detect().tiers().map(|tier| Cpu::detect().up_to(tier)) {
        let mut bytes = &bytes[..];
        for case in cases {
            // Lava adds 1 to `du`, not to `dv`, and shifts inputs and thresholds by 6.
            let keep_u = KEEP_ALL - 1 - number::<u16>(case, "du");
            let keep_v = KEEP_ALL - number::<u16>(case, "dv");
            let mut layer = Layer::new(n, cpu, keep_v, Some(keep_u), number::<i32>(case, "vth") << 6, 6, Reset::Zero);
            layer.bias.fill(number::<i32>(case, "bias_mant") << number::<u32>(case, "bias_exp"));
            let most: i32 = number(case, "max_input");
            let mut state: u64 = number(case, "seed");
            let spikes = take(&mut bytes, n * steps / 8);
            for t in 0..steps {
                let input: Vec<i32> = (0..n)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        i32::try_from((state >> 32) % (2 * u64::from(most.unsigned_abs()) + 1)).unwrap() - most
                    })
                    .collect();
                layer.step(&input);
                for (j, &fired) in layer.fired.iter().enumerate() {
                    assert_eq!(fired, bit(spikes, t * n + j), "{}: neuron {j}, step {t} of {case}", layer.op.tier());
                }
                if t % every == every - 1 {
                    assert_eq!(layer.u, words(take(&mut bytes, 4 * n)), "u at step {t} of {case}");
                    assert_eq!(layer.v, words(take(&mut bytes, 4 * n)), "v at step {t} of {case}");
                }
            }
        }
        assert!(bytes.is_empty());
    }
}

/// snntorch computes in float32, where a membrane that decays to the very threshold may fall on either side.
#[test]
fn spike_trains_are_those_of_snntorch() {
    let (meta, bytes) = golden("snntorch");
    let mut bytes = &bytes[..];
    let (inputs, n, steps) =
        (number::<usize>(&meta, "inputs"), number::<usize>(&meta, "outputs"), number::<usize>(&meta, "steps"));
    let cpu = Cpu::detect();
    let (mut total, mut differ) = (0, 0);
    for case in meta["cases"].as_array().unwrap() {
        let signed = |bytes: &[u8]| -> Vec<i8> { bytes.iter().map(|b| b.cast_signed()).collect() };
        let w = signed(take(&mut bytes, inputs * n));
        let recurrent = if case["kind"] == "recurrent" { signed(take(&mut bytes, n * n)) } else { Vec::new() };
        let x = take(&mut bytes, inputs * steps / 8);
        let want = take(&mut bytes, n * steps / 8);
        let keep_u: u16 = number(case, "keep_u");
        let reset = if case["reset"] == "zero" { Reset::Zero } else { Reset::Subtract };
        // Eight fractional bits make membranes of 16 bits and more.
        let shift = 8;
        let keep_v = KEEP_ALL - (1 << (12 - number::<u32>(case, "k")));
        let threshold = number::<i32>(case, "threshold") << shift;
        let mut layer = Layer::new(n, cpu, keep_v, (keep_u > 0).then_some(keep_u), threshold, shift, reset);
        let mut list = vec![0; inputs.max(n)];
        let (mut wrong, mut acc) = (0, vec![0; n]);
        for t in 0..steps {
            acc.fill(0);
            if !recurrent.is_empty() {
                let count = collect_spikes(&layer.fired, &mut list);
                AddSpikes::select(&cpu).run(&mut acc, &recurrent, &list[..count]);
            }
            let input: Vec<u8> = (0..inputs).map(|i| bit(x, t * inputs + i)).collect();
            let count = collect_spikes(&input, &mut list);
            AddSpikes::select(&cpu).run(&mut acc, &w, &list[..count]);
            layer.step(&acc);
            wrong += layer.fired.iter().enumerate().filter(|&(j, &f)| f != bit(want, t * n + j)).count();
        }
        println!("{case}: {wrong} of {} differ", n * steps);
        (total, differ) = (total + n * steps, differ + wrong);
    }
    assert!(bytes.is_empty());
    assert!(1000 * differ <= total, "{differ} of {total} spikes differ: more than 0.1 %");
}
