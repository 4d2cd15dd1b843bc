//! Logits of the published recurrences, of transformers and of the rwkv package; and the contract over every axis.

use super::{KINDS, OTHERS, all, engine, ids, kind, other};
use rin_engine::topology::Policy;
use rin_engine::verify::{Axes, VerifyOptions, default_prompt, load_options, verify};
use rin_engine::{Engine, LoadOptions};
use rin_kernels::Cpu;
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use rin_testkit::npy::Array2;
use std::ops::ControlFlow;
use std::path::Path;

/// Largest difference to `want` over its range.
fn distance(path: &Path, tokens: &[u32], want: &Array2) -> f32 {
    let mut engine = engine(path, |_| {});
    let sequence = engine.sequence().unwrap();
    let (mut worst, mut r) = (0.0_f32, 0);
    engine
        .feed_all(&sequence, tokens, |logits| {
            for (got, want) in logits.iter().zip(want.row(r)) {
                worst = worst.max((got - want).abs());
            }
            r += 1;
        })
        .unwrap();
    assert_eq!(r, tokens.len());
    let low = want.values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = want.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    worst / (high - low)
}

#[test]
fn logits_are_those_of_the_published_recurrences() {
    let tokens = ids(&conformance("memory/tokens.json"));
    for name in KINDS {
        let path = kind(name);
        let error = distance(&path, &tokens, &Array2::read(&path.with_extension("npy")));
        eprintln!("{name}: {error:e} of the range");
        assert!(error <= 1e-5, "{name}: logits differ by {error:e} of their range");
    }
}

#[test]
fn logits_of_recurrent_networks_are_those_of_others() {
    let tokens = ids(&conformance("recurrent/tokens.json"));
    for name in OTHERS {
        let folder = name.split('/').next().unwrap();
        let want = Array2::read(&other(folder).join("logits.npy"));
        let error = distance(&other(name), &tokens, &want);
        eprintln!("{name}: {error:e} of the range");
        assert!(error <= 1e-4, "{name}: logits differ by {error:e} of their range");
    }
}

#[test]
fn the_contract_holds_over_every_axis() {
    let tiers: Vec<_> = Cpu::detect().tiers().collect();
    let emulated = std::env::var_os("RIN_EMULATED").is_some_and(|v| v == "1");
    let mut axes = Axes { threads: vec![1, 3], batch: vec![1, 4], ..Axes::contract(tiers) };
    if emulated {
        eprintln!("THINNED: no cache hits, one number of threads");
        axes = Axes { threads: vec![3], cache_hit: vec![false], ..axes };
    }
    for path in all() {
        let file = ModelFile::open(&path).unwrap();
        let prompt = default_prompt(file.config().unwrap().vocab, 90);
        let options = VerifyOptions { axes: axes.clone(), prompt, n_generate: 8, full: false, affinity: Policy::None };
        let defaults = LoadOptions { affinity: Policy::None, ..LoadOptions::default() };
        let mut engine = Engine::load(file, &load_options(&defaults, &options), |_| {}).unwrap();
        let report = verify(&mut engine, &options, |_, _, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.mismatches, [], "{}", path.display());
        assert!(report.cases > 8 && report.equal == report.cases, "{}: {report:?}", path.display());
    }
}
