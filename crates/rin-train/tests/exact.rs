//! What was trained is what runs: the logits of the training's forward pass against those of the runtime, bit for bit.
#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

use candle_core::Tensor;
use rin_engine::{Engine, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Cpu, Format, Tier};
use rin_model::ModelFile;
use rin_train::config::TrainConfig;
use rin_train::data::Batches;
use rin_train::export::export;
use rin_train::kernels::Kernels;
use rin_train::network::{self, Batch, Network, Pass};
use rin_train::ops::cross_entropy;
use rin_train::optimizer::AdamW;
use rin_train::parameters::{Parameter, Parameters, Role, steps_of};
use rin_train::vocabulary::Vocabulary;
use rin_train::weights::{Arithmetic, Weights};
use std::path::{Path, PathBuf};

const TEXT: &str = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
    foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the \
    season of Darkness, it was the spring of hope, it was the winter of despair.";

/// Tokens that are compared: more than a page of the attention.
const LENGTH: usize = 100;

const CONFIG: &str = r#"
[model]
dim = 64
layers = 2
heads = 4
kv_heads = 2
ffn = 96
ctx = 128
tokenizer = "char"
[data]
files = ["none"]
[train]
steps = 4
batch = 2
seq = 80
warmup = 0
lr = 0.02
[output]
name = "exact"
"#;

struct Trained {
    network: Box<dyn Network>,
    vocabulary: Vocabulary,
    parameters: Parameters,
    tokens: Vec<u32>,
    losses: Vec<f32>,
}

/// A few steps, with learned steps of the blocks where `learned`.
fn train(config: &str, arithmetic: Arithmetic, learned: bool) -> Trained {
    let config = TrainConfig::parse(config, Path::new("exact.toml")).unwrap();
    let vocabulary = Vocabulary::learn(config.model.tokenizer, TEXT.as_bytes(), 0).unwrap();
    let network = network::build(&config.model, vocabulary.size(), "exact").unwrap();
    let mut all = network.parameters();
    if learned {
        let matrices: Vec<_> = all.iter().filter(|p| p.shape.len() == 2).cloned().collect();
        all.extend(
            matrices.iter().map(|p| Parameter::new(steps_of(&p.name), &[p.shape[0], p.shape[1] / 32], Role::Steps)),
        );
    }
    let mut parameters = Parameters::initialized(all, 1);
    for p in parameters.0.iter_mut().filter(|p| p.role == Role::Steps) {
        p.values.fill(0.01);
    }
    let tokens = vocabulary.encode(TEXT.as_bytes()).unwrap();
    let batches = Batches::new(tokens.clone(), 80, 2, 1).unwrap();
    let kernels = Kernels::select(&Cpu::detect());
    let mut optimizer = AdamW::new(&parameters, false);
    let mut losses = Vec::new();
    for step in 1..=4 {
        let (weights, vars) = Weights::variable(&parameters, arithmetic, kernels).unwrap();
        let (ids, targets) = batches.get(step, 0);
        let logits = network.forward(&weights, Batch { ids: &ids, seq: 80 }, Pass::Evaluate).unwrap();
        let loss = cross_entropy(&logits, &targets, kernels).unwrap();
        losses.push(loss.to_scalar().unwrap());
        let store = loss.backward().unwrap();
        let gradients: Vec<Vec<f32>> = vars.iter().map(|var| numbers(store.get(var.as_tensor()).unwrap())).collect();
        assert!(gradients.iter().all(|g| g.iter().any(|&g| g != 0.0)), "every parameter learns");
        optimizer.update(&mut parameters, &gradients, 1.0, &config.train);
    }
    Trained { network, vocabulary, parameters, tokens, losses }
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn of_training(t: &Trained, arithmetic: Arithmetic, cpu: Cpu) -> Vec<f32> {
    let weights = Weights::constant(&t.parameters, arithmetic, Kernels::select(&cpu)).unwrap();
    let batch = Batch { ids: &t.tokens[..LENGTH], seq: LENGTH };
    numbers(&t.network.forward(&weights, batch, Pass::Evaluate).unwrap())
}

fn of_runtime(path: &Path, tokens: &[u32], tier: Option<Tier>) -> Vec<f32> {
    let file = ModelFile::open(path).unwrap();
    let options = LoadOptions {
        threads: Some(2),
        tier,
        kv_type: Some(KvType::F32),
        n_logits: 7,
        n_batch: 33,
        ..LoadOptions::default()
    };
    let mut engine = Engine::load(file, &options, |_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    let mut logits = Vec::new();
    engine.feed_all(&sequence, tokens, |row| logits.extend_from_slice(row)).unwrap();
    logits
}

fn compare(name: &str, format: Option<Format>, learned: bool) {
    compare_of(CONFIG, name, format, learned);
}

fn compare_of(config: &str, name: &str, format: Option<Format>, learned: bool) {
    let arithmetic = format.map_or(Arithmetic::Exact, Arithmetic::Quant);
    let trained = train(config, arithmetic, learned);
    assert!(trained.losses[3] < trained.losses[0] - 0.1, "{name}: {:?}", trained.losses);
    let path: PathBuf = std::env::temp_dir().join(format!("rin-train-{name}-{}.rin", std::process::id()));
    export(&*trained.network, &trained.parameters, &trained.vocabulary, format, &path).unwrap();
    let want = of_runtime(&path, &trained.tokens[..LENGTH], None);
    let found = of_training(&trained, arithmetic, Cpu::detect());
    assert_eq!(bits(&found), bits(&want), "{name}");
    assert_eq!(want.len(), LENGTH * trained.vocabulary.size());
    // The definition of all tiers gives them too.
    assert_eq!(bits(&of_training(&trained, arithmetic, Cpu::detect().up_to(Tier::Scalar))), bits(&want), "{name}");
    // Another arithmetic does not: the comparison can tell.
    assert_ne!(bits(&of_training(&trained, Arithmetic::Float, Cpu::detect())), bits(&want), "{name}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn logits_of_8_bit_weights_are_those_of_the_runtime() {
    compare("q8_0", Some(Format::Q8_0), false);
}

#[test]
fn logits_of_4_bit_weights_are_those_of_the_runtime() {
    compare("q4_0", Some(Format::Q4_0), false);
}

#[test]
fn logits_of_4_bit_weights_with_learned_steps_are_those_of_the_runtime() {
    compare("q4_0-learned", Some(Format::Q4_0), true);
}

/// Blocks of 256; several in a row of the down matrix, and matrices of 8 bits outside of the layers.
#[test]
fn logits_of_ternary_weights_are_those_of_the_runtime() {
    let config = CONFIG.replace("dim = 64", "dim = 256").replace("ffn = 96", "ffn = 512");
    compare_of(&config, "tq2_0", Some(Format::TQ2_0), false);
}

#[test]
fn logits_of_f32_weights_are_those_of_the_runtime() {
    compare("f32", None, false);
}

/// Both forward passes see what the runtime sees; 20 tokens end within pages of 64.
#[test]
fn a_sliding_window_is_that_of_the_runtime() {
    let config = CONFIG.replace("kv_heads = 2", "kv_heads = 2\nwindow = 20");
    compare_of(&config, "window", None, false);
    let trained = train(&config, Arithmetic::Exact, false);
    let [exact, float] = [Arithmetic::Exact, Arithmetic::Float].map(|a| of_training(&trained, a, Cpu::detect()));
    let far = exact.iter().zip(&float).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-3, "{far}");
}
