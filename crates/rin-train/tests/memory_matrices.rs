//! BHRR whose slots hold matrices: gradients against differences of the loss, forward passes against the engine, and one
//! slot against DeltaNet.
#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

use rin_engine::{Engine, LoadOptions};
use rin_kernels::Cpu;
use rin_model::ModelFile;
use rin_train::arms::arm;
use rin_train::config::{MemoryConfig, ModelConfig, TokenizerKind};
use rin_train::kernels::Kernels;
use rin_train::network::{Batch, Decoder, Network, Pass, initialize};
use rin_train::ops::cross_entropy;
use rin_train::parameters::Parameters;
use rin_train::vocabulary::Vocabulary;
use rin_train::weights::{Arithmetic, Weights};

const VOCAB: usize = 24;
const TOKENS: usize = 20;

fn network(memory: MemoryConfig) -> Decoder {
    let model = ModelConfig {
        dim: 32,
        layers: 2,
        heads: 2,
        ffn: 48,
        ctx: TOKENS,
        memory: Some(memory),
        ..ModelConfig::plain(TokenizerKind::Char)
    };
    Decoder::new(&model, VOCAB, "tiny").unwrap()
}

/// Slots of matrices, every slot with a share of each token so that the loss has a gradient everywhere.
fn matrices(name: &str, slots: usize) -> MemoryConfig {
    MemoryConfig { k_dim: Some(8), top: slots, ..arm(name, slots).unwrap() }
}

/// First weights of a size at which every part counts.
fn parameters(network: &Decoder) -> Parameters {
    let mut parameters = initialize(network, 5);
    for p in parameters.0.iter_mut().filter(|p| p.shape.len() == 2) {
        p.values.iter_mut().for_each(|x| *x *= 8.0);
    }
    parameters
}

fn tokens() -> Vec<u32> {
    (0..=TOKENS as u64).map(|i| u32::try_from(rin_train::random::stream(3, &[i]) % VOCAB as u64).unwrap()).collect()
}

fn logits(network: &Decoder, parameters: &Parameters, arithmetic: Arithmetic) -> Vec<f32> {
    let weights = Weights::constant(parameters, arithmetic, Kernels::select(&Cpu::detect())).unwrap();
    let ids = &tokens()[..TOKENS];
    let logits = network.forward(&weights, Batch { ids, seq: TOKENS }, Pass::Evaluate).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The mean loss in nats, in double precision from the logits on.
fn loss(network: &Decoder, parameters: &Parameters) -> f64 {
    let all = logits(network, parameters, Arithmetic::Float);
    let tokens = tokens();
    let rows = all.chunks_exact(VOCAB).zip(&tokens[1..]).map(|(row, &next)| {
        let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x))).sum();
        libm::log(sum) - f64::from(row[next as usize])
    });
    rows.sum::<f64>() / TOKENS as f64
}

#[test]
fn gradients_are_slopes_of_the_loss() {
    for name in ["a9", "a10"] {
        let network = network(matrices(name, 3));
        let parameters = parameters(&network);
        let kernels = Kernels::select(&Cpu::detect());
        let (weights, vars) = Weights::variable(&parameters, Arithmetic::Float, kernels).unwrap();
        let ids = &tokens()[..TOKENS];
        let logits = network.forward(&weights, Batch { ids, seq: TOKENS }, Pass::Evaluate).unwrap();
        let gradients = cross_entropy(&logits, &tokens()[1..], kernels).unwrap().backward().unwrap();
        let mut checked = 0;
        for (i, (var, p)) in vars.iter().zip(&parameters.0).enumerate().filter(|(_, (_, p))| p.name.contains("mem_")) {
            let found: Vec<f32> = gradients.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let norm = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-5, "{name}: no gradient of {}", p.name);
            // Along the gradient the slope is its length.
            let step = 3e-3 / norm;
            let at = |sign: f64| {
                let mut moved = parameters.clone();
                for (x, g) in moved.0[i].values.iter_mut().zip(&found) {
                    #[expect(clippy::cast_possible_truncation, reason = "a step in single precision")]
                    let by = (sign * step * f64::from(*g)) as f32;
                    *x += by;
                }
                loss(&network, &moved)
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * 3e-3);
            assert!((slope - norm).abs() < 0.02 * norm + 3e-5, "{name}: {}: {slope} for {norm}", p.name);
            checked += 1;
        }
        assert!(checked >= 14, "{name}: {checked}");
    }
}

#[test]
fn the_forward_pass_has_the_bits_of_the_engine() {
    for (name, slots, top) in [("a9", 4, 2), ("a10", 4, 2), ("a10", 2, 1)] {
        let network = network(MemoryConfig { top, ..matrices(name, slots) });
        let parameters = parameters(&network);
        let want = logits(&network, &parameters, Arithmetic::Exact);
        let letters: Vec<u8> = (0..u8::try_from(VOCAB).unwrap()).map(|i| b'A' + i).collect();
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, &letters, 0).unwrap();
        let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("matrices-{name}-{top}.rin"));
        rin_train::export::export(&network, &parameters, &vocabulary, None, &path).unwrap();
        let options = LoadOptions { threads: Some(1), ctx: Some(64), n_logits: 64, ..LoadOptions::default() };
        let mut engine = Engine::load(ModelFile::open(&path).unwrap(), &options, |_| {}).unwrap();
        let sequence = engine.sequence().unwrap();
        let mut found = Vec::new();
        engine.feed_all(&sequence, &tokens()[..TOKENS], |logits| found.extend_from_slice(logits)).unwrap();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&want), "{name}, the best {top} of {slots} slots");
        std::fs::remove_file(path).unwrap();
    }
}

/// With one slot there is nothing to choose: what is left is the delta rule, whose recurrence is held against others'
/// elsewhere.
#[test]
fn one_slot_with_delta_writes_is_delta_net() {
    let delta = network(MemoryConfig { k_dim: Some(8), ..MemoryConfig::of("delta") });
    let one = network(MemoryConfig { decay: false, ..matrices("a10", 1) });
    let parameters = parameters(&delta);
    let mut same = initialize(&one, 0);
    for p in same.0.iter_mut().filter(|p| !p.name.ends_with("mem_codebook")) {
        p.values.clone_from(&parameters.0.iter().find(|q| q.name == p.name).unwrap().values);
    }
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let want = bits(logits(&delta, &parameters, Arithmetic::Float));
    assert_eq!(bits(logits(&one, &same, Arithmetic::Float)), want);
}

/// Slots by keys as one long key, with the delta rule over it, written down in double precision.
#[test]
fn delta_writes_to_matrices_in_slots_are_the_delta_rule_over_slots_by_keys() {
    const SLOTS: usize = 3;
    const KEY: usize = 8;
    const VALUE: usize = 16;
    const SEQ: usize = 12;
    let config = MemoryConfig { conv: 0, output_norm: false, output_gate: false, top: 2, ..matrices("a10", SLOTS) };
    let shape = network(config).config().memory_of(0).cloned().unwrap();
    // One head of queries, keys, values, beta, decays; then biases of decays and the codebook.
    let shape = rin_model::Memory { k_heads: 1, v_heads: 1, k_dim: KEY, v_dim: VALUE, ..shape };
    let width = 2 * KEY + VALUE + 1 + SLOTS;
    let draw = |part: u64, n: usize| -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "random numbers in single precision")]
        let one = |i: u64| (4.0 * rin_train::random::uniform(part, i) - 2.0) as f32;
        (0..n as u64).map(one).collect()
    };
    let (x, p) = (draw(1, SEQ * width), draw(2, SLOTS + SLOTS * KEY));
    let device = candle_core::Device::Cpu;
    let [tensor, numbers] = [(&x, (SEQ, width)), (&p, (1, p.len()))]
        .map(|(values, shape)| candle_core::Tensor::from_slice(values, shape, &device).unwrap());
    let numbers = numbers.flatten_all().unwrap();
    let of_ops = rin_train::ops::MemoryShape::new(&shape, SEQ, 1e-5);
    let found = rin_train::ops::memory(&tensor, &numbers, &of_ops, Kernels::select(&Cpu::detect())).unwrap();
    let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();

    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    let shares = |x: &[f64]| -> Vec<f64> {
        let rows = p[SLOTS..].chunks_exact(KEY);
        let scores: Vec<f64> = rows.map(|row| row.iter().zip(x).map(|(b, x)| f64::from(*b) * x).sum()).collect();
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let kept: Vec<f64> = scores.iter().map(|&s| if s > least { libm::exp(s) } else { 0.0 }).collect();
        kept.iter().map(|s| s / kept.iter().sum::<f64>()).collect()
    };
    let long = |x: &[f64], scale: f64| -> Vec<f64> {
        let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
        shares(x).iter().flat_map(|s| x.iter().map(move |x| s * x * scale / length)).collect()
    };
    let mut state = vec![[0.0_f64; VALUE]; SLOTS * KEY];
    for (row, found) in x.chunks_exact(width).zip(found.chunks_exact(VALUE)) {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let (q, k) = (long(&row[..KEY], 1.0 / (KEY as f64).sqrt()), long(&row[KEY..2 * KEY], 1.0));
        let (v, gates) = row[2 * KEY..].split_at(VALUE);
        for (i, state) in state.iter_mut().enumerate() {
            let keep = libm::pow(sigmoid(gates[1 + i / KEY] + f64::from(p[i / KEY])), 1.0 / 16.0);
            for s in state {
                *s *= keep;
            }
        }
        for c in 0..VALUE {
            let held: f64 = state.iter().zip(&k).map(|(s, k)| s[c] * k).sum();
            let written = sigmoid(gates[0]) * (v[c] - held);
            state.iter_mut().zip(&k).for_each(|(s, k)| s[c] += k * written);
            let want: f64 = state.iter().zip(&q).map(|(s, q)| s[c] * q).sum();
            assert!((f64::from(found[c]) - want).abs() < 2e-6, "{} for {want}", found[c]);
        }
    }
}
