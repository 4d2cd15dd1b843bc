use super::*;
use crate::Cpu;
use crate::ops::cases::Random;

fn bytes(random: &mut Random, n: usize) -> Vec<i8> {
    (0..n).map(|_| i8::from_le_bytes([random.bits().to_le_bytes()[0]])).collect()
}

fn words(random: &mut Random, n: usize) -> Vec<i32> {
    (0..n).map(|_| random.bits().cast_signed()).collect()
}

pub(super) struct SpikesCase {
    acc: Vec<i32>,
    w: Vec<i8>,
    spikes: Vec<u32>,
}

impl SpikesCase {
    pub(super) fn check(&self, reference: &AddSpikes, candidate: &AddSpikes) {
        let (mut want, mut got) = (self.acc.clone(), self.acc.clone());
        reference.run(&mut want, &self.w, &self.spikes);
        candidate.run(&mut got, &self.w, &self.spikes);
        assert_eq!(want, got, "{}: {} spikes, {} outputs", candidate.tier(), self.spikes.len(), self.acc.len());
    }
}

pub(super) fn for_each_spikes_case(mut f: impl FnMut(SpikesCase)) {
    let mut random = Random::new(31);
    for n in [32, 64, 96, 128, 160, 256, 288, 480, 512] {
        for (inputs, count) in [(1, 0), (1, 1), (7, 3), (300, 300), (300, 257), (1000, 900)] {
            let mut spikes: Vec<u32> = (0..count).map(|_| u32::try_from(random.below(inputs)).unwrap()).collect();
            spikes.sort_unstable();
            f(SpikesCase { acc: words(&mut random, n), w: bytes(&mut random, inputs * n), spikes });
        }
        // 256 of the least and of the greatest weight: the edge of a 16-bit sum.
        for weight in [-128, 127] {
            f(SpikesCase { acc: vec![0; n], w: vec![weight; 512 * n], spikes: (0..512).collect() });
        }
    }
}

pub(super) struct DenseCase {
    acc: Vec<i32>,
    w: Vec<i8>,
    x: Vec<u8>,
}

impl DenseCase {
    pub(super) fn check(&self, reference: &DenseSpikes, candidate: &DenseSpikes) {
        let (mut want, mut got) = (self.acc.clone(), self.acc.clone());
        reference.run(&mut want, &self.w, &self.x);
        candidate.run(&mut got, &self.w, &self.x);
        assert_eq!(want, got, "{}: {} inputs, {} outputs", candidate.tier(), self.x.len(), self.acc.len());
    }
}

pub(super) fn for_each_dense_case(mut f: impl FnMut(DenseCase)) {
    let mut random = Random::new(32);
    for n in [32, 64, 96, 128, 160, 256, 288, 480] {
        for inputs in [0, 4, 8, 36, 256, 1000] {
            for levels in [2, 128] {
                let x = (0..inputs).map(|_| u8::try_from(random.below(levels)).unwrap()).collect();
                f(DenseCase { acc: words(&mut random, n), w: bytes(&mut random, inputs * n), x });
            }
        }
        for weight in [-128, 127] {
            f(DenseCase { acc: vec![0; n], w: vec![weight; 64 * n], x: vec![127; 64] });
        }
    }
}

pub(super) struct StepCase {
    v: Vec<i32>,
    u: Vec<i32>,
    acc: Vec<i32>,
    keep_v: Vec<u16>,
    keep_u: Vec<u16>,
    threshold: Vec<i32>,
    current: Vec<i32>,
    bias: Vec<i32>,
    shift: u32,
    reset: Reset,
}

impl StepCase {
    fn random(random: &mut Random, n: usize, bits: u32, synapse: bool, reset: Reset) -> Self {
        let cut = |random: &mut Random, bits: u32| -> Vec<i32> {
            (0..n).map(|_| random.bits().cast_signed() >> (32 - bits)).collect()
        };
        let keep = |random: &mut Random| (0..n).map(|_| u16::try_from(random.below(4097)).unwrap()).collect();
        Self {
            v: cut(random, bits),
            u: if synapse { cut(random, bits) } else { Vec::new() },
            acc: cut(random, bits - 6),
            keep_v: keep(random),
            keep_u: if synapse { keep(random) } else { Vec::new() },
            threshold: cut(random, bits - 1),
            current: cut(random, bits - 4),
            bias: cut(random, bits - 4),
            shift: u32::try_from(random.below(9)).unwrap(),
            reset,
        }
    }

    fn run(&self, op: &LifStep) -> (Vec<i32>, Vec<i32>, Vec<u8>) {
        let (mut v, mut u, mut fired) = (self.v.clone(), self.u.clone(), vec![9; self.v.len()]);
        let neurons = LifNeurons {
            keep_v: &self.keep_v,
            keep_u: &self.keep_u,
            threshold: &self.threshold,
            current: &self.current,
            bias: &self.bias,
            shift: self.shift,
            reset: self.reset,
        };
        op.run(&mut v, &mut u, &mut fired, &self.acc, neurons);
        (v, u, fired)
    }

    pub(super) fn check(&self, reference: &LifStep, candidate: &LifStep) {
        assert_eq!(self.run(reference), self.run(candidate), "{}: {} neurons", candidate.tier(), self.v.len());
    }
}

pub(super) fn for_each_step_case(mut f: impl FnMut(StepCase)) {
    let mut random = Random::new(33);
    for n in [0, 32, 64, 96, 256] {
        for bits in [8, 16, 24, 26, 32] {
            for synapse in [false, true] {
                for reset in [Reset::Zero, Reset::Subtract] {
                    f(StepCase::random(&mut random, n, bits, synapse, reset));
                }
            }
        }
    }
}

/// Lava's fixed-point equations, in 64 bits and in the words of its documentation, for one neuron.
fn lava(case: &StepCase, j: usize) -> (i64, i64, bool) {
    let decayed = |x: i32, keep: u16| {
        let x = i64::from(x);
        x.signum() * ((x.abs() * i64::from(keep)) >> 12)
    };
    let limit = 1_i64 << 23;
    let mut u = (i64::from(case.acc[j]) << case.shift) + i64::from(case.current[j]);
    if !case.u.is_empty() {
        let sum = decayed(case.u[j], case.keep_u[j]) + u;
        u = match sum {
            _ if sum > limit => sum - 2 * limit,
            _ if sum <= -limit => sum + 2 * limit,
            _ => sum,
        };
    }
    let v = (decayed(case.v[j], case.keep_v[j]) + u + i64::from(case.bias[j])).clamp(1 - limit, limit - 1);
    let spike = v > i64::from(case.threshold[j]);
    let after = if case.reset == Reset::Zero { 0 } else { v - i64::from(case.threshold[j]) };
    (if spike { after } else { v }, u, spike)
}

#[test]
fn a_step_is_the_fixed_point_model_in_64_bits() {
    let op = LifStep::select(&Cpu::detect());
    let mut random = Random::new(34);
    let mut spikes = 0;
    for round in 0..4000 {
        let reset = if round % 2 == 0 { Reset::Zero } else { Reset::Subtract };
        let case = StepCase::random(&mut random, 64, 24, round % 3 == 0, reset);
        let (v, u, fired) = case.run(&op);
        for j in 0..v.len() {
            let (want_v, want_u, spike) = lava(&case, j);
            assert_eq!((i64::from(v[j]), fired[j] == 1), (want_v, spike));
            assert!(u.is_empty() || i64::from(u[j]) == want_u);
            spikes += usize::from(fired[j]);
        }
    }
    assert!((1000..255_000).contains(&spikes), "{spikes} spikes show both branches");
}

#[test]
fn a_leak_by_a_power_of_two_is_a_shift() {
    let mut random = Random::new(35);
    for k in 1..=12 {
        let keep = KEEP_ALL - (1 << (12 - k));
        let near_zero = -9000..9000;
        let anywhere: Vec<i32> = (0..20_000).map(|_| random.bits().cast_signed() >> 8).collect();
        for v in near_zero.chain(anywhere).chain([MEMBRANE_MAX, -MEMBRANE_MAX]) {
            let kept = v.abs() - ((v.abs() + (1 << k) - 1) >> k);
            assert_eq!(decay(v, keep), v.signum() * kept, "{v} with k = {k}");
        }
    }
    assert_eq!(decay(i32::MIN, KEEP_ALL), i32::MIN);
    assert_eq!(decay(-1, KEEP_ALL - 1), 0, "a negative membrane reaches zero");
}

#[test]
fn spikes_and_the_dense_product_agree_with_the_definition() {
    let cpu = Cpu::detect();
    let mut random = Random::new(36);
    for (inputs, n) in [(1, 32), (5, 64), (130, 96), (700, 256)] {
        let w = bytes(&mut random, inputs * n);
        let mut packed = vec![0; dense_bytes(inputs, n).unwrap()];
        pack_dense(&w, n, &mut packed);
        let mut fired = vec![0; inputs.next_multiple_of(4)];
        fired[..inputs].iter_mut().for_each(|x| *x = u8::from(random.below(3) == 0));
        let mut spikes = vec![0; fired.len()];
        let count = collect_spikes(&fired, &mut spikes);
        let want: Vec<i32> =
            (0..n).map(|j| (0..inputs).filter(|&i| fired[i] == 1).map(|i| i32::from(w[i * n + j])).sum()).collect();
        let (mut by_rows, mut dense) = (vec![0; n], vec![0; n]);
        AddSpikes::select(&cpu).run(&mut by_rows, &w, &spikes[..count]);
        DenseSpikes::select(&cpu).run(&mut dense, &packed, &fired);
        assert_eq!(by_rows, want);
        assert_eq!(dense, want);
    }
}

#[test]
fn spikes_are_collected_in_order() {
    let mut random = Random::new(37);
    for n in [0, 1, 7, 8, 9, 64, 100] {
        let fired: Vec<u8> = (0..n).map(|_| u8::from(random.below(3) == 0)).collect();
        let want: Vec<u32> = (0..n).filter(|&i| fired[i] == 1).map(|i| u32::try_from(i).unwrap()).collect();
        let mut spikes = vec![7; n];
        let count = collect_spikes(&fired, &mut spikes);
        assert_eq!(spikes[..count], want);
    }
}

#[test]
#[should_panic(expected = "spike 3 of 3 inputs")]
fn a_spike_beyond_the_inputs_is_refused() {
    AddSpikes::select(&Cpu::detect()).run(&mut [0; 32], &[0; 96], &[1, 3]);
}

#[test]
#[should_panic(expected = "more than 7 bits")]
fn an_input_of_eight_bits_is_refused() {
    DenseSpikes::select(&Cpu::detect()).run(&mut [0; 32], &[0; 128], &[0, 128, 0, 0]);
}
