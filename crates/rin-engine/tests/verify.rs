//! The contract over every axis, on a model of each kind of weights; the digests are those of the repository.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that says what it leaves out")]

use rin_engine::topology::Policy;
use rin_engine::verify::{Axes, VerifyOptions, default_prompt, load_options, verify};
use rin_engine::{Engine, LoadOptions};
use rin_kernels::{Cpu, Tier};
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;

fn options(n_vocab: usize, axes: Axes) -> VerifyOptions {
    let prompt = default_prompt(n_vocab, 100);
    VerifyOptions { axes, prompt, n_generate: 20, full: false, affinity: Policy::None }
}

fn load(path: &Path, verify: impl Fn(usize) -> VerifyOptions) -> (Engine, VerifyOptions) {
    let file = ModelFile::open(path).unwrap();
    let verify = verify(file.config().unwrap().vocab);
    let defaults = LoadOptions { affinity: Policy::None, ..LoadOptions::default() };
    let engine = Engine::load(file, &load_options(&defaults, &verify), |_| {}).unwrap();
    (engine, verify)
}

/// The combinations to run: fewer with `RIN_EMULATED=1`, because an emulated processor is many times slower.
fn axes(tiers: Vec<Tier>) -> Axes {
    if std::env::var_os("RIN_EMULATED").is_some_and(|v| v == "1") {
        eprintln!("THINNED: 2 of 8 cases per tier (3 threads, 1 and 4 sequences, no cache hits); all tiers and models");
        return Axes { threads: vec![3], batch: vec![1, 4], cache_hit: vec![false], ..Axes::contract(tiers) };
    }
    Axes { threads: vec![1, 3], batch: vec![1, 4], ..Axes::contract(tiers) }
}

#[test]
fn every_model_has_its_digest_in_every_way() {
    let goldens = std::fs::read_to_string(conformance("digests.json")).unwrap();
    let goldens: Value = serde_json::from_str(&goldens).unwrap();
    let tiers: Vec<Tier> = Cpu::detect().tiers().collect();
    let axes = axes(tiers.clone());
    let cases = tiers.len() * axes.threads.len() * axes.batch.len() * axes.cache_hit.len();
    let mut wrong = Vec::new();
    for (name, digest) in goldens["models"].as_object().unwrap() {
        let (mut engine, options) = load(&conformance(name), |n_vocab| options(n_vocab, axes.clone()));
        let report = verify(&mut engine, &options, |_, _, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.mismatches, [], "{name}");
        assert_eq!((report.equal, report.cases), (report.cases, cases), "{name}");
        if report.digest.to_string() != digest.as_str().unwrap() {
            wrong.push(format!("    \"{name}\": \"{}\"", report.digest));
        }
    }
    assert!(wrong.is_empty(), "other digests than in conformance/digests.json:\n{}", wrong.join(",\n"));
}

/// What overflows in a product becomes a NaN whose sign the processor picks; the logit's bits are the same all the same.
#[test]
fn an_overflow_is_one_nan_on_every_tier() {
    const ID: usize = 17;
    let path = conformance("models/tiny-llama-tied/tiny-llama-tied-f32.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let file = ModelFile::open(&path).unwrap();
    let dim = file.config().unwrap().dim;
    // The values before the output are large, and those that they are multiplied with larger, so that the partial sums
    // of one logit become infinities of both signs.
    for (tensor, row, values) in
        [("output_norm.weight", 0, [100.0; 4]), ("token_embd.weight", ID, [f32::MAX, f32::MAX, f32::MIN, f32::MIN])]
    {
        let place = usize::try_from(file.tensor(tensor).unwrap().offset).unwrap() + row * dim * 4;
        for (bytes, value) in bytes[place..][..dim * 4].as_chunks_mut::<4>().0.iter_mut().zip(values.iter().cycle()) {
            *bytes = value.to_le_bytes();
        }
    }
    let mut first: Option<Vec<u32>> = None;
    for tier in Cpu::detect().tiers() {
        let file = ModelFile::from_bytes("changed.gguf", bytes.clone()).unwrap();
        let options = LoadOptions { affinity: Policy::None, tier: Some(tier), ..LoadOptions::default() };
        let mut engine = Engine::load(file, &options, |_| {}).unwrap();
        let sequence = engine.sequence().unwrap();
        let logits: Vec<u32> = engine.feed(&sequence, &[1, 5, 9]).unwrap().iter().map(|l| l.to_bits()).collect();
        assert_eq!(logits[ID], 0x7fc0_0000, "{tier}");
        assert_eq!(logits.iter().filter(|bits| !f32::from_bits(**bits).is_finite()).count(), 1, "{tier}");
        assert_eq!(&logits, first.get_or_insert_with(|| logits.clone()), "{tier}");
    }
}
