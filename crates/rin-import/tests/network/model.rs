//! Networks to test with, and their definition in plain arithmetic.

use rin_engine::digest::LogitDigest;
use rin_engine::topology::Policy;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_import::{NewNetwork, NewTensor, write_network};
use rin_kernels::{Cpu, Format, Tier};
use rin_model::{Body, Function, Mode, ModelFile, Network, Node, Op, Output, OutputKind, Port};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers in -1..1 that look random.
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let unit = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        unit
    };
    (0..n).map(|_| next()).collect()
}

/// A file that is removed at the end of a test.
#[derive(Debug)]
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Temporary {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("rin-network-{}-{number}.rin", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

pub(crate) fn node(op: Op, inputs: &[&str], output: &str) -> Node {
    Node { inputs: inputs.iter().map(|&name| name.to_owned()).collect(), output: output.to_owned(), op }
}

pub(crate) fn dense(layer: &str, function: Function) -> Op {
    Op::Dense { weight: format!("{layer}.weight"), bias: Some(format!("{layer}.bias")), function }
}

/// Two hidden layers with every operation between, two outputs; `[input, hidden, classes]`.
pub(crate) fn residual_mlp([n_in, hidden, classes]: [usize; 3], format: Format) -> (Network, Vec<NewTensor>) {
    let nodes = vec![
        node(dense("fc1", Function::Gelu), &["x"], "h1"),
        node(Op::LayerNorm { weight: "ln.weight".into(), bias: "ln.bias".into(), eps: 1e-5 }, &["h1"], "n1"),
        node(dense("fc2", Function::Silu), &["n1"], "h2"),
        node(Op::Add { function: Function::Relu }, &["h2", "h1"], "sum"),
        node(
            Op::Scale { weight: "bn.weight".into(), bias: "bn.bias".into(), function: Function::Tanh },
            &["sum"],
            "scaled",
        ),
        node(dense("fc3", Function::Identity), &["scaled"], "class"),
        node(Op::Dense { weight: "fc4.weight".into(), bias: None, function: Function::Sigmoid }, &["scaled"], "gate"),
        node(Op::Softmax, &["class"], "p"),
    ];
    let output = |name: &str, kind| Output { name: name.to_owned(), kind, labels: Vec::new() };
    let network = Network {
        mode: Mode::Mlp,
        name: Some("residual".to_owned()),
        inputs: vec![Port::row("x", vec![n_in])],
        outputs: vec![
            output("class", OutputKind::Logits),
            output("gate", OutputKind::Values),
            output("p", OutputKind::Probabilities),
            // A value that later products read too: its rows may have gaps within the arena.
            output("h1", OutputKind::Values),
        ],
        body: Body::Nodes(nodes),
    };
    let matrix = |name: &str, rows: usize, cols: usize, seed| {
        let scale = 1.5 / (cols as f32).sqrt();
        let values: Vec<f32> = noise(rows * cols, seed).iter().map(|x| x * scale).collect();
        NewTensor::matrix(name, format, [rows, cols], &values).unwrap()
    };
    let vector = |name: &str, n, seed| NewTensor::vector(name, &noise(n, seed));
    let tensors = vec![
        matrix("fc1.weight", hidden, n_in, 1),
        vector("fc1.bias", hidden, 2),
        vector("ln.weight", hidden, 3),
        vector("ln.bias", hidden, 4),
        matrix("fc2.weight", hidden, hidden, 5),
        vector("fc2.bias", hidden, 6),
        vector("bn.weight", hidden, 7),
        vector("bn.bias", hidden, 8),
        matrix("fc3.weight", classes, hidden, 9),
        vector("fc3.bias", classes, 10),
        matrix("fc4.weight", 3, hidden, 11),
    ];
    (network, tensors)
}

pub(crate) fn save(network: &Network, tensors: &[NewTensor]) -> Temporary {
    let file = Temporary::new();
    let model = NewNetwork { network, source: "a test", format: "test", quant: None };
    write_network(&file.0, &model, tensors, &[], false).unwrap();
    file
}

pub(crate) fn load(file: &Temporary, n_batch: usize) -> NetworkEngine {
    let options = LoadOptions { n_batch, threads: Some(1), affinity: Policy::None, ..LoadOptions::default() };
    NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap()
}

/// All outputs of `rows` rows in runs of `batch`, and the digest.
pub(crate) fn outputs(engine: &mut NetworkEngine, x: &[f32], batch: usize) -> (Vec<Vec<f32>>, String) {
    let width = engine.inputs()[0].width();
    let mut all = vec![Vec::new(); engine.outputs().len()];
    let mut digest = LogitDigest::new();
    for x in x.chunks(batch * width) {
        engine.run(&[x], x.len() / width).unwrap();
        for (i, all) in all.iter_mut().enumerate() {
            all.extend_from_slice(engine.output(i));
        }
        engine.digest(&mut digest);
    }
    (all, digest.finish().to_string())
}

/// Every tier that this machine has.
pub(crate) fn tiers() -> Vec<Tier> {
    let cpu = Cpu::detect();
    Tier::ALL.into_iter().filter(|&tier| cpu.has(tier)).collect()
}
