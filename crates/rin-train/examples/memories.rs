//! Memories of a fixed size, compared: `memories recall|stability|text|million [--NAME VALUE …]`.
//!
//! - `recall`: accuracy of multi-query associative recall against the bytes of the memory.
//! - `stability`: the same task at a large learning rate, with and without the norm of what is read, at 4, 8 and 12 layers.
//! - `text`: loss in nats per character of a language model of equal size on a text (`--file`), loss by position in long
//!   texts, and what 8-bit arithmetic changes.
//! - `million`: time per token by position over a million tokens of the model `--model`, with the slope of its logarithm.
//!
//! One line of JSON per trial. The same seeds and examples for every arm, and the same learning rates. `--arms a,b` chooses
//! among the arms, `--seeds N` how many seeds; `--dim`, `--layers`, `--steps`, `--batch`, `--lr a,b`, `--pairs a,b`, `--seq`,
//! `--vocab`, `--k-dim`, `--slots`, `--window` and `--tokens` set sizes, all of which have defaults.
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
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

type Anything = Box<dyn std::error::Error>;

/// The arms by name. The numbered ones are BHRR's: each adds to the one before.
const ARMS: [&str; 15] = [
    "softmax",
    "window",
    "linear",
    "retnet",
    "gla",
    "delta",
    "gated-delta",
    "gsa",
    "a0",
    "a1",
    "a2",
    "a3",
    "a4",
    "a5",
    "a6",
];

/// The memory of an arm; none for softmax, with or without a window.
fn arm(name: &str, slots: usize) -> Option<MemoryConfig> {
    let Some(number) = name.strip_prefix('a').and_then(|n| n.parse::<u32>().ok()) else {
        return (!matches!(name, "softmax" | "window")).then(|| MemoryConfig { slots, ..MemoryConfig::of(name) });
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

/// The arguments after the first one.
struct Options(Vec<String>);

impl Options {
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument.strip_prefix("--") == Some(name))?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn list<T: std::str::FromStr<Err: std::error::Error + 'static>>(
        &self,
        name: &str,
        default: &str,
    ) -> Result<Vec<T>, Anything> {
        self.text(name).unwrap_or(default).split(',').map(|part| Ok(part.parse()?)).collect()
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, Anything> {
        Ok(self.text(name).map_or(Ok(default), str::parse)?)
    }

    fn arms(&self) -> Vec<&str> {
        self.text("arms").map_or(ARMS.to_vec(), |arms| arms.split(',').collect())
    }

    fn seeds(&self) -> Result<Range<u64>, Anything> {
        Ok(0..self.number("seeds", 3)? as u64)
    }

    /// Tokens that an arm's attention reaches back.
    fn window(&self, arm: &str, default: usize) -> Result<Option<usize>, Anything> {
        let window = self.number("window", default)?;
        Ok((arm == "window").then_some(window))
    }

    fn memory(&self, name: &str, slots: usize) -> Result<Option<MemoryConfig>, Anything> {
        let mut memory = arm(name, self.number("slots", slots)?);
        // Keys of the slots of `bhrr` are as wide as its values.
        if let (Some(memory), Some(k_dim), false) = (&mut memory, self.text("k-dim"), name.starts_with('a')) {
            memory.k_dim = Some(k_dim.parse()?);
        }
        Ok(memory)
    }
}

fn main() -> Result<(), Anything> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next();
    let options = Options(arguments.collect());
    match what.as_deref() {
        Some("recall") => recall(&options),
        Some("stability") => stability(&options),
        Some("text") => {
            let file = options.text("file").ok_or("which --file?")?;
            let mut arms = options.arms().into_iter();
            arms.try_for_each(|arm| options.seeds()?.try_for_each(|seed| text(&options, arm, seed, Path::new(file))))
        }
        Some("million") => million(&options),
        _ => Err("recall, stability, text or million?".into()),
    }
}

fn recall(options: &Options) -> Result<(), Anything> {
    let (dim, steps, batch) =
        (options.number("dim", 64)?, options.number("steps", 3000)?, options.number("batch", 32)?);
    let layers = options.number("layers", 2)?;
    for pairs in options.list("pairs", "4,8,16,32")? {
        let task = Task { vocab: options.number("vocab", 512)?, seq: options.number("seq", pairs * 8)?, pairs };
        for name in options.arms() {
            for seed in options.seeds()? {
                for lr in options.list("lr", "1e-3,3e-3,1e-2")? {
                    let (memory, window) = (options.memory(name, dim / 2)?, options.window(name, dim / 4)?);
                    let trial = Trial { task, dim, layers, heads: 2, memory, window, steps, batch, lr, seed };
                    let found = trial.run(options.number("test", 1024)?)?;
                    println!(
                        "{}",
                        json!({
                            "experiment": "recall", "arm": name, "pairs": pairs, "seq": task.seq, "vocab": task.vocab,
                            "dim": dim, "layers": layers, "steps": steps, "batch": batch, "seed": seed, "lr": lr,
                            "result": found,
                        })
                    );
                }
            }
        }
    }
    Ok(())
}

fn stability(options: &Options) -> Result<(), Anything> {
    let (steps, batch) = (options.number("steps", 1000)?, options.number("batch", 16)?);
    for layers in options.list("layers", "4,8,12")? {
        for name in options.arms() {
            for norm in [false, true] {
                for seed in options.seeds()? {
                    let mut memory = options.memory(name, 8)?;
                    if let Some(memory) = &mut memory {
                        (memory.output_norm, memory.output_gate) = (norm, false);
                    }
                    let task = Task { vocab: 64, seq: options.number("seq", 64)?, pairs: 8 };
                    let window = options.window(name, 16)?;
                    let trial = Trial { task, dim: 32, layers, heads: 2, memory, window, steps, batch, lr: 3e-3, seed };
                    let found = trial.run(128)?;
                    println!(
                        "{}",
                        json!({
                            "experiment": "stability", "arm": name, "layers": layers, "norm": norm, "seed": seed,
                            "steps": steps, "result": found,
                        })
                    );
                }
            }
        }
    }
    Ok(())
}

fn text(options: &Options, name: &str, seed: u64, file: &Path) -> Result<(), Anything> {
    let (dim, layers, ctx) = (options.number("dim", 128)?, options.number("layers", 4)?, options.number("seq", 256)?);
    let (steps, batch) = (options.number("steps", 3000)?, options.number("batch", 32)?);
    let lr = options.list("lr", "2e-3")?.first().copied().unwrap_or(2e-3);
    let folder = std::env::temp_dir().join(format!("rin-memories-{}", std::process::id()));
    let output = OutputConfig { dir: folder.clone(), name: format!("{name}-{seed}") };
    let model = ModelConfig {
        family: Family::Llama,
        dim,
        layers,
        heads: 4,
        kv_heads: None,
        window: options.window(name, dim / 8)?,
        ffn: dim * 11 / 4,
        ctx,
        rope_base: 10_000.0,
        norm_eps: 1e-5,
        tie: true,
        tokenizer: TokenizerKind::Char,
        vocab: None,
        memory: options.memory(name, 16)?,
    };
    let train = LoopConfig {
        seed,
        batch,
        eval_every: steps,
        checkpoint_every: steps,
        ..LoopConfig::plain(steps, lr, lr / 10.0)
    };
    let data = DataConfig { files: vec![PathBuf::from(file)], split: 0.9 };
    let keep = options.text("keep").is_some();
    let most = options.number("tokens", 100_000)?;
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
    let path = folder.join(format!("{name}-{seed}.rin"));
    let by_position = by_position(&path, file, most)?;
    println!(
        "{}",
        json!({
            "experiment": "text", "arm": name, "dim": dim, "layers": layers, "ctx": ctx, "steps": steps, "batch": batch,
            "seed": seed, "nats_per_char": losses, "by_position": by_position, "summary": *summary,
        })
    );
    if keep {
        std::fs::copy(path, format!("{name}-{seed}.rin"))?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Loss in nats per token by position, in buckets that double, over one text of up to `most` tokens; nothing for networks
/// that attend to all of it, whose context ends.
fn by_position(model: &Path, file: &Path, most: usize) -> Result<Vec<(usize, f64)>, Anything> {
    let options = LoadOptions { n_logits: 64, ctx: Some(most), ..LoadOptions::default() };
    let file_of_model = ModelFile::open(model)?;
    let config = file_of_model.config()?;
    if config.attends() && config.window.is_none() {
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

/// Times each of `--tokens` single tokens of a random text, and fits the logarithm of the median time of a bucket of positions
/// to the logarithm of its middle. There are four buckets to a factor of two, from position 1,024 on.
fn million(options: &Options) -> Result<(), Anything> {
    let path = options.text("model").ok_or("which --model?")?;
    let tokens = options.number("tokens", 1_000_000)?;
    let load = LoadOptions { threads: Some(1), ctx: Some(tokens), ..LoadOptions::default() };
    let file = ModelFile::open(Path::new(path))?;
    let vocab = file.config()?.vocab as u64;
    let mut engine = Engine::load(file, &load, |_| {})?;
    let arena = engine.arena_len();
    let sequence = engine.sequence()?;
    let mut nanoseconds = Vec::with_capacity(tokens);
    for position in 0..tokens as u64 {
        let id = u32::try_from(rin_train::random::stream(7, &[position]) % vocab)?;
        let start = Instant::now();
        engine.feed(&sequence, &[id])?;
        nanoseconds.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions, far below 2^53")]
    let place = |x: f64| (x as usize).min(tokens);
    let (mut points, mut first) = (Vec::new(), 1024_f64);
    while first * 1.19 < tokens as f64 {
        let end = first * libm::exp2(0.25);
        let bucket = &mut nanoseconds[place(first)..place(end)];
        bucket.sort_unstable();
        points.push((first * libm::exp2(0.125), bucket[bucket.len() / 2]));
        first = end;
    }
    let logarithms: Vec<_> = points.iter().map(|&(x, y)| (libm::log(x), libm::log(y as f64))).collect();
    let (slope, half) = slope(&logarithms);
    println!(
        "{}",
        json!({
            "experiment": "million", "model": path, "tokens": tokens, "slope": slope,
            "interval": [slope - half, slope + half], "median_ns": points, "position": engine.position(&sequence),
            "arena_bytes": [arena, engine.arena_len()],
        })
    );
    Ok(())
}

/// Slope of the least squares line, and half of its 95 % interval (normal errors; 1.96 standard errors and a little more for
/// few points).
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let xx: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / xx;
    let rest: f64 = points.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
    let error = (rest / (n - 2.0) / xx).sqrt();
    (slope, error * (1.96 + 2.5 / (n - 2.0)))
}
