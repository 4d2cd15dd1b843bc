//! Whole networks against others' results: logits of `transformers`, and a published text.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use rin_engine::generate::{FinishReason, Request, Silent, generate};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Engine, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Cpu, Tier};
use rin_model::ModelFile;
use rin_testkit::data::{conformance, shared};
use rin_testkit::npy::Array2;
use serde_json::Value;
use std::path::Path;

fn engine(path: &Path, change: impl FnOnce(&mut LoadOptions)) -> Engine {
    let mut options =
        LoadOptions { threads: Some(2), kv_type: Some(KvType::F32), n_logits: 64, ..LoadOptions::default() };
    change(&mut options);
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Engine::load(file, &options, |_| {}).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn all_logits(engine: &mut Engine, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let sequence = engine.sequence().unwrap();
    engine.feed_all(&sequence, tokens, |l| rows.push(l.to_vec())).unwrap();
    engine.release(sequence);
    rows
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

/// Largest difference to `want` over its range, and whether every argmax agrees.
fn compare(got: &[Vec<f32>], want: &Array2, rows: &[usize]) -> (f32, usize) {
    let low = want.values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = want.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut worst = 0.0_f32;
    let mut disagree = 0;
    for (i, &r) in rows.iter().enumerate() {
        for (g, w) in got[r].iter().zip(want.row(i)) {
            worst = worst.max((g - w).abs());
        }
        disagree += usize::from(argmax(&got[r]) != argmax(want.row(i)));
    }
    (worst / (high - low), disagree)
}

const FLOAT_MODELS: [&str; 9] = [
    "tiny-llama",
    "tiny-llama-tied",
    "tiny-llama3",
    "tiny-llama-linear",
    "tiny-llama-bias",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen2-yarn",
    "tiny-gpt2",
];

fn check_float_model(path: &Path, folder: &Path) {
    let prompt: Value = serde_json::from_slice(&std::fs::read(folder.join("prompt.json")).unwrap()).unwrap();
    let mut cases = vec![(prompt.clone(), (0..ids(&prompt["tokens"]).len()).collect::<Vec<_>>())];
    if prompt["long"].is_object() {
        let long = prompt["long"].clone();
        let rows = serde_json::from_value(long["rows"].clone()).unwrap();
        cases.push((long, rows));
    }
    for (case, rows) in cases {
        let want = Array2::read(&folder.join(case["logits"].as_str().unwrap()));
        let got = all_logits(&mut engine(path, |_| {}), &ids(&case["tokens"]));
        let (error, disagree) = compare(&got, &want, &rows);
        eprintln!("{}: {error:e} of the range over {} rows", path.display(), rows.len());
        assert!(error <= 1e-4, "{}: logits differ by {error:e} of their range", path.display());
        assert_eq!(disagree, 0, "{}: argmax differs", path.display());
    }
}

#[test]
fn logits_of_hugging_face_folders_are_those_of_transformers() {
    for name in FLOAT_MODELS {
        let folder = conformance("models").join(name);
        check_float_model(&folder, &folder);
    }
}

#[test]
fn logits_of_gguf_files_are_those_of_transformers() {
    let mut n = 0;
    for name in FLOAT_MODELS {
        let folder = conformance("models").join(name);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "gguf") {
                check_float_model(&path, &folder);
                n += 1;
            }
        }
    }
    assert!(n >= 6, "only {n} GGUF models");
}

#[test]
fn gguf_and_safetensors_of_the_same_weights_give_the_same_bits() {
    for (name, file) in [
        ("tiny-llama", "tiny-llama-f16.gguf"),
        ("tiny-llama-tied", "tiny-llama-tied-f32.gguf"),
        ("tiny-llama3", "tiny-llama3-bf16.gguf"),
        ("tiny-qwen2", "tiny-qwen2-bf16.gguf"),
        ("tiny-qwen2-yarn", "tiny-qwen2-yarn-f16.gguf"),
        ("tiny-gpt2", "tiny-gpt2-f32.gguf"),
    ] {
        let folder = conformance("models").join(name);
        let tokens: Vec<u32> = (0..150).map(|i| i * 7 % 280).collect();
        let a = all_logits(&mut engine(&folder, |_| {}), &tokens);
        let b = all_logits(&mut engine(&folder.join(file), |_| {}), &tokens);
        assert!(bits(&a) == bits(&b), "{name}");
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|x| x.to_bits()).collect()
}

/// Against a float64 forward whose products take activations quantised as RIN's are; the rest of the distance is
/// ties of the rounding that fall the other way in f32.
#[test]
fn logits_of_quantised_files_are_those_of_a_quantised_reference() {
    for folder in ["tiny-llama-b32", "tiny-llama-k256"] {
        let folder = conformance("models").join(folder);
        let prompt: Value = serde_json::from_slice(&std::fs::read(folder.join("prompt.json")).unwrap()).unwrap();
        for (name, case) in prompt["types"].as_object().unwrap() {
            let text = |key: &str| folder.join(case[key].as_str().unwrap());
            let got = all_logits(&mut engine(&text("file"), |_| {}), &ids(&prompt["tokens"]));
            let rows: Vec<usize> = (0..got.len()).collect();
            let (loose, disagree) = compare(&got, &Array2::read(&text("logits")), &rows);
            let rows: Vec<usize> = serde_json::from_value(case["int8_rows"].clone()).unwrap();
            let (close, _) = compare(&got, &Array2::read(&text("int8_logits")), &rows);
            eprintln!("{name}: {loose:e} to float, {disagree} argmax differ, {close:e} to the quantised reference");
            assert!(loose < 0.06 && disagree <= 5, "{name}: {loose:e} of the range, {disagree} argmax differ");
            assert!(close < 0.01, "{name}: {close:e} of the range to the quantised reference");
        }
    }
}

fn greedy() -> SamplingParams {
    SamplingParams { temp: 0.0, ..SamplingParams::default() }
}

#[test]
fn greedy_text_of_stories260k_is_the_published_one() {
    let (Some(path), Some(text)) =
        (shared("models/stories260k/stories260K.gguf"), shared("models/stories260k/greedy-200.txt"))
    else {
        return;
    };
    let mut engine = engine(&path, |_| {});
    let tokenizer = Tokenizer::from_source(&engine.file().tokenizer().unwrap()).unwrap();
    let request =
        Request { prompt: vec![1], max_tokens: Some(200), sampling: greedy(), ignore_eos: true, ..Request::default() };
    let outcome = generate(&mut engine, Some(&tokenizer), &request, &mut Silent).unwrap();
    let want = std::fs::read_to_string(text).unwrap();
    assert_eq!(outcome.finish, FinishReason::Length);
    assert_eq!(outcome.text.trim_end(), want.trim_end());
}

fn stories(name: &str) -> Option<std::path::PathBuf> {
    shared(&format!("models/stories260k/stories260K{name}.gguf"))
}

#[test]
fn one_digest_over_tiers_and_threads() {
    for name in ["", "-Q8_0", "-Q4_0"] {
        let Some(path) = stories(name) else { return };
        let mut digests = Vec::new();
        for tier in Cpu::detect().tiers() {
            for threads in [1, 2, 3, 5] {
                let mut engine = engine(&path, |o| {
                    o.threads = Some(threads);
                    o.tier = Some(tier);
                });
                let tokenizer = Tokenizer::from_source(&engine.file().tokenizer().unwrap()).unwrap();
                let prompt = (1..70).collect();
                let n = if tier == Tier::Scalar { 20 } else { 40 };
                let request =
                    Request { prompt, max_tokens: Some(n), sampling: greedy(), ignore_eos: true, ..Request::default() };
                let outcome = generate(&mut engine, Some(&tokenizer), &request, &mut Silent).unwrap();
                let all = all_logits(&mut engine, &outcome.tokens[..20]);
                digests.push((tier, threads, outcome.tokens[..20].to_vec(), bits(&all)));
            }
        }
        for d in &digests {
            assert!(
                d.2 == digests[0].2 && d.3 == digests[0].3,
                "stories260K{name}: {} on {} threads differs",
                d.0,
                d.1
            );
        }
    }
}

#[test]
fn chunks_and_batches_do_not_change_a_bit() {
    for name in ["", "-Q8_0", "-Q4_0"] {
        let Some(path) = stories(name) else { return };
        let tokens: Vec<u32> = (0..200).map(|i| i * 13 % 500).collect();
        for kv in KvType::ALL {
            let run = |chunk: usize| {
                let mut engine = engine(&path, |o| {
                    o.n_batch = chunk;
                    o.kv_type = Some(kv);
                });
                bits(&all_logits(&mut engine, &tokens))
            };
            let want = run(1);
            for chunk in [7, 64, 200] {
                assert!(run(chunk) == want, "stories260K{name} with {kv}: chunks of {chunk} differ from stepping");
            }
        }
    }
}

/// KL divergence of the quantised network's distribution to the F32 one, in nats, mean over the published text.
#[test]
fn q8_0_is_close_to_f32() {
    let (Some(f32_path), Some(q8_path)) = (stories(""), stories("-Q8_0")) else { return };
    let mut a = engine(&f32_path, |_| {});
    let tokenizer = Tokenizer::from_source(&a.file().tokenizer().unwrap()).unwrap();
    let text = std::fs::read_to_string(shared("models/stories260k/greedy-200.txt").unwrap()).unwrap();
    let tokens = tokenizer
        .encode(&text, rin_engine::tokenizer::EncodeOptions { add_special: true, parse_special: false })
        .unwrap();
    let (p, q) = (all_logits(&mut a, &tokens), all_logits(&mut engine(&q8_path, |_| {}), &tokens));
    let kl = p.iter().zip(&q).map(|(p, q)| divergence(p, q)).sum::<f64>() / p.len() as f64;
    eprintln!("KL divergence of Q8_0 to F32: {kl:e} nats over {} positions", p.len());
    assert!(kl < 1e-3, "{kl} nats");
}

fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|v| libm::exp(f64::from(v - max))).sum();
        x.iter().map(|v| f64::from(v - max) - libm::log(sum)).collect::<Vec<_>>()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| libm::exp(*p) * (p - q)).sum()
}
