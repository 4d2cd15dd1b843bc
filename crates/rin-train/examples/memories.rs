//! Memories of a fixed size, compared: `memories recall|stability|text [--quick] [--seeds N] [--file TEXT] [--arms a,b]`.
//!
//! - `recall`: accuracy of multi-query associative recall against the bytes of the memory.
//! - `stability`: the same task at a large learning rate, with and without the norm of what is read, at 2, 4 and 8 layers.
//! - `text`: loss in nats per character of a language model of equal size on a text, and loss by position in long texts.
//!
//! One line of JSON per trial. The same seeds and examples for every arm; learning rates are tried for each arm alike.
#![expect(clippy::print_stdout, reason = "a program for the command line")]

use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::{Engine, LoadOptions};
use rin_model::{Address, ModelFile, ReadBy, SlotStateType, SlotValues};
use rin_train::config::{
    DataConfig, Family, LoopConfig, MemoryConfig, ModelConfig, OutputConfig, TokenizerKind, TrainConfig,
};
use rin_train::mqar::{Task, Trial};
use rin_train::train::run_config;
use rin_train::{Event, Outcome, RunOptions};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

type Anything = Box<dyn std::error::Error>;

/// The arms by name. The numbered ones are BHRR's: each adds to the one before.
const ARMS: [&str; 13] =
    ["softmax", "linear", "retnet", "gla", "delta", "gated-delta", "a0", "a1", "a2", "a3", "a4", "a5", "a6"];

/// The memory of an arm; none for softmax.
fn arm(name: &str, slots: usize) -> Option<MemoryConfig> {
    let Some(number) = name.strip_prefix('a').and_then(|n| n.parse::<u32>().ok()) else {
        return (name != "softmax").then(|| MemoryConfig::of(name));
    };
    let mut m = MemoryConfig { slots, output_gate: false, output_norm: false, ..MemoryConfig::of("bhrr") };
    (m.address, m.read_by, m.state) = (Address::Hash, ReadBy::Key, SlotStateType::I32);
    if number >= 1 {
        (m.output_norm, m.output_gate) = (true, true);
    }
    if number >= 2 {
        (m.address, m.read_by) = (Address::Lsh, ReadBy::Query);
    }
    if number >= 3 {
        m.address = Address::Router;
    }
    if number >= 4 {
        (m.top, m.state) = (slots.min(3), SlotStateType::F32);
        m.values = SlotValues::Float;
    }
    m.decay = number >= 5;
    m.delta = number >= 6;
    Some(m)
}

fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn main() -> Result<(), Anything> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let seeds: u64 = value(&arguments, "--seeds").map_or(Ok(if quick { 1 } else { 3 }), str::parse)?;
    let arms: Vec<&str> = value(&arguments, "--arms").map_or(ARMS.to_vec(), |arms| arms.split(',').collect());
    match arguments.first().map(String::as_str) {
        Some("recall") => recall(&arms, seeds, quick),
        Some("stability") => stability(&arms, seeds, quick),
        Some("text") => {
            let file = value(&arguments, "--file").ok_or("which --file?")?;
            arms.iter().try_for_each(|arm| (0..seeds).try_for_each(|seed| text(arm, seed, Path::new(file), quick)))
        }
        _ => Err("recall, stability or text?".into()),
    }
}

fn recall(arms: &[&str], seeds: u64, quick: bool) -> Result<(), Anything> {
    let (pairs, dims, steps): (&[usize], &[usize], usize) =
        if quick { (&[4, 8], &[32], 400) } else { (&[4, 8, 16, 32], &[32, 64], 3000) };
    let rates: &[f64] = if quick { &[3e-3] } else { &[1e-3, 3e-3, 1e-2] };
    for &pairs in pairs {
        for &dim in dims {
            for name in arms {
                for seed in 0..seeds {
                    for &lr in rates {
                        let task = Task { vocab: if quick { 64 } else { 512 }, seq: pairs * 8, pairs };
                        let memory = arm(name, dim / 2);
                        let trial = Trial { task, dim, layers: 2, heads: 2, memory, steps, batch: 32, lr, seed };
                        let found = trial.run(if quick { 256 } else { 1024 })?;
                        println!(
                            "{}",
                            json!({"arm": name, "pairs": pairs, "dim": dim, "seed": seed, "lr": lr, "result": found})
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

fn stability(arms: &[&str], seeds: u64, quick: bool) -> Result<(), Anything> {
    for &layers in if quick { &[2, 4][..] } else { &[4, 8, 12] } {
        for name in arms {
            for norm in [false, true] {
                for seed in 0..seeds {
                    let mut memory = arm(name, 8);
                    if let Some(memory) = &mut memory {
                        (memory.output_norm, memory.output_gate) = (norm, false);
                    }
                    let task = Task { vocab: 64, seq: 64, pairs: 8 };
                    let steps = if quick { 100 } else { 1000 };
                    let trial = Trial { task, dim: 32, layers, heads: 2, memory, steps, batch: 16, lr: 3e-3, seed };
                    let found = trial.run(128)?;
                    println!("{}", json!({"arm": name, "layers": layers, "norm": norm, "seed": seed, "result": found}));
                }
            }
        }
    }
    Ok(())
}

fn text(name: &str, seed: u64, file: &Path, quick: bool) -> Result<(), Anything> {
    let (dim, layers, ctx, steps) = if quick { (64, 2, 128, 300) } else { (128, 4, 256, 3000) };
    let folder = std::env::temp_dir().join(format!("rin-memories-{}", std::process::id()));
    let output = OutputConfig { dir: folder.clone(), name: format!("{name}-{seed}") };
    let model = ModelConfig {
        family: Family::Llama,
        dim,
        layers,
        heads: 4,
        kv_heads: None,
        ffn: dim * 11 / 4,
        ctx,
        rope_base: 10_000.0,
        norm_eps: 1e-5,
        tie: true,
        tokenizer: TokenizerKind::Char,
        vocab: None,
        memory: arm(name, 16),
    };
    let train = LoopConfig { seed, eval_every: steps, checkpoint_every: steps, ..LoopConfig::plain(steps, 2e-3, 1e-4) };
    let data = DataConfig { files: vec![PathBuf::from(file)], split: 0.9 };
    let options = RunOptions { resume: false, plot: false, overwrite: true };
    let config = TrainConfig { model, data, train, output, distill: None };
    let mut losses = None;
    let mut hear = |event: &Event<'_>| {
        if let Event::Evaluated { evaluation, .. } = event {
            losses = Some((evaluation.nats_per_char, evaluation.interval));
        }
    };
    let outcome = run_config(config, options, &mut hear, Arc::new(AtomicBool::new(false)))?;
    let Outcome::Finished(summary) = outcome else { return Err("it was stopped".into()) };
    let by_position =
        by_position(&folder.join(format!("{name}-{seed}.rin")), file, if quick { 8_000 } else { 100_000 })?;
    println!(
        "{}",
        json!({"arm": name, "seed": seed, "nats_per_char": losses, "by_position": by_position, "summary": *summary})
    );
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Loss in nats per token by position, in buckets that double, over one text of up to `most` tokens; nothing for networks
/// that attend, whose context ends.
fn by_position(model: &Path, file: &Path, most: usize) -> Result<Vec<(usize, f64)>, Anything> {
    let options = LoadOptions { n_logits: 64, ctx: Some(most), ..LoadOptions::default() };
    let file_of_model = ModelFile::open(model)?;
    if file_of_model.config()?.attends() {
        return Ok(Vec::new());
    }
    let tokenizer = Tokenizer::of_model(&file_of_model)?;
    let all = std::fs::read_to_string(file)?;
    let cut = (0..=all.len() * 9 / 10).rev().find(|&at| all.is_char_boundary(at)).unwrap_or(0);
    let tokens = tokenizer.encode(&all[cut..], EncodeOptions::default())?;
    let n = tokens.len().min(most) - 1;
    let mut engine = Engine::load(file_of_model, &options, |_| {})?;
    let sequence = engine.sequence()?;
    let mut buckets: Vec<(usize, f64, usize)> = Vec::new();
    let mut at = 0_usize;
    engine.feed_all(&sequence, &tokens[..n], |logits| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| libm::exp(f64::from(l - largest))).sum();
        let loss = sum.log2() * std::f64::consts::LN_2 + f64::from(largest - logits[tokens[at + 1] as usize]);
        at += 1;
        let bucket = at.next_power_of_two();
        match buckets.last_mut().filter(|last| last.0 == bucket) {
            Some(last) => (last.1, last.2) = (last.1 + loss, last.2 + 1),
            None => buckets.push((bucket, loss, 1)),
        }
    })?;
    Ok(buckets.into_iter().map(|(bucket, sum, n)| (bucket, sum / n as f64)).collect())
}
