//! The contract over every axis, on a model of each kind of weights; the digests are those of the repository.
#![expect(clippy::unwrap_used, reason = "a test")]

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

#[test]
fn every_model_has_its_digest_in_every_way() {
    let goldens = std::fs::read_to_string(conformance("digests.json")).unwrap();
    let goldens: Value = serde_json::from_str(&goldens).unwrap();
    let tiers: Vec<Tier> = Cpu::detect().tiers().collect();
    let mut wrong = Vec::new();
    for (name, digest) in goldens["models"].as_object().unwrap() {
        let axes = Axes { threads: vec![1, 3], batch: vec![1, 4], ..Axes::contract(tiers.clone()) };
        let (mut engine, options) = load(&conformance(name), |n_vocab| options(n_vocab, axes.clone()));
        let report = verify(&mut engine, &options, |_, _, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.mismatches, [], "{name}");
        assert_eq!((report.equal, report.cases), (report.cases, tiers.len() * 2 * 2 * 2), "{name}");
        if report.digest.to_string() != digest.as_str().unwrap() {
            wrong.push(format!("    \"{name}\": \"{}\"", report.digest));
        }
    }
    assert!(wrong.is_empty(), "other digests than in conformance/digests.json:\n{}", wrong.join(",\n"));
}
