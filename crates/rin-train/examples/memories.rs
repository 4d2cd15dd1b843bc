//! Memories of a fixed size, compared: `memories recall|stability|text|million [--NAME VALUE …]`.
//!
//! - `recall`: accuracy of multi-query associative recall against the bytes of the memory.
//! - `stability`: the same task at a large learning rate, with and without the norm of what is read, at 4, 8 and 12 layers.
//! - `text`: loss in nats per character of a language model of equal size on a text (`--file`), loss by position in long
//!   texts, and what 8-bit arithmetic changes.
//! - `million`: time per token by position over a million tokens of the model `--model`, with the slope of its logarithm.
//!
//! One line of JSON per trial. The same seeds and examples for every arm, and the same learning rates. `--arms a,b` chooses
//! among the arms, `--seeds N` how many seeds from `--first-seed` on; `--dim`, `--layers`, `--heads`, `--steps`, `--batch`,
//! `--lr a,b`, `--pairs a,b`, `--seq`, `--vocab`, `--k-dim`, `--v-dim`, `--slots`, `--top`, `--conv`, `--ffn`, `--window` and
//! `--tokens` set sizes, all of which have defaults; `--harsh yes` leaves warmup and clipping out of `stability`,
//! `--clamped yes` shortens the gradients of signs instead of masking them.
#![expect(clippy::print_stdout, reason = "a program for the command line")]

use rin_train::arms::{ARMS, arm};
use rin_train::config::MemoryConfig;
use rin_train::mqar::{Task, Trial};
use rin_train::ops::Straight;
use rin_train::trials::{TextTrial, latency};
use serde_json::json;
use std::ops::Range;
use std::path::Path;

type Anything = Box<dyn std::error::Error>;

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
        let first = self.number("first-seed", 0)? as u64;
        Ok(first..first + self.number("seeds", 3)? as u64)
    }

    /// Tokens that an arm's attention reaches back.
    fn window(&self, arm: &str, default: usize) -> Result<Option<usize>, Anything> {
        let window = self.number("window", default)?;
        Ok((arm == "window").then_some(window))
    }

    fn memory(&self, name: &str, slots: usize) -> Result<Option<MemoryConfig>, Anything> {
        let mut memory = arm(name, self.number("slots", slots)?);
        if let Some(memory) = &mut memory {
            // Keys that are bound to values are as wide as they are.
            if let (Some(k_dim), true) = (self.text("k-dim"), memory.outer || !name.starts_with('a')) {
                memory.k_dim = Some(k_dim.parse()?);
            }
            memory.v_dim = self.text("v-dim").map(str::parse).transpose()?;
            memory.top = self.number("top", memory.top)?.min(memory.slots);
            memory.conv = self.number("conv", memory.conv)?;
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
    let (layers, heads) = (options.number("layers", 2)?, options.number("heads", 2)?);
    for pairs in options.list("pairs", "4,8,16,32")? {
        let task = Task { vocab: options.number("vocab", 512)?, seq: options.number("seq", pairs * 8)?, pairs };
        for name in options.arms() {
            for seed in options.seeds()? {
                for lr in options.list("lr", "1e-3,3e-3,1e-2")? {
                    let (memory, window) = (options.memory(name, dim / 2)?, options.window(name, dim / 4)?);
                    let (gentle, straight) = (true, Straight::Masked);
                    let trial =
                        Trial { task, dim, layers, heads, memory, window, steps, batch, lr, gentle, straight, seed };
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
    let lr = options.list("lr", "3e-3")?.first().copied().unwrap_or(3e-3);
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
                    let (dim, heads, gentle) = (32, 2, options.text("harsh").is_none());
                    let straight = if options.text("clamped").is_some() { Straight::Clamped } else { Straight::Masked };
                    let trial =
                        Trial { task, dim, layers, heads, memory, window, steps, batch, lr, gentle, straight, seed };
                    let found = trial.run(128)?;
                    println!(
                        "{}",
                        json!({
                            "experiment": "stability", "arm": name, "layers": layers, "norm": norm, "seed": seed,
                            "steps": steps, "lr": lr, "result": found,
                        })
                    );
                }
            }
        }
    }
    Ok(())
}

fn text(options: &Options, name: &str, seed: u64, file: &Path) -> Result<(), Anything> {
    let (dim, layers, seq) = (options.number("dim", 128)?, options.number("layers", 4)?, options.number("seq", 256)?);
    let (steps, batch) = (options.number("steps", 3000)?, options.number("batch", 32)?);
    let lr = options.list("lr", "2e-3")?.first().copied().unwrap_or(2e-3);
    let (memory, window) = (options.memory(name, 16)?, options.window(name, dim / 8)?);
    let heads = options.number("heads", 4)?;
    let ffn = options.number("ffn", dim * 11 / 4)?;
    let trial = TextTrial { dim, layers, heads, ffn, memory, window, seq, steps, batch, lr, seed };
    let folder = std::env::temp_dir().join(format!("rin-memories-{}", std::process::id()));
    let found = trial.run(file, &folder, &format!("{name}-{seed}"), options.number("tokens", 100_000)?)?;
    println!(
        "{}",
        json!({
            "experiment": "text", "arm": name, "dim": dim, "layers": layers, "ctx": seq, "steps": steps, "batch": batch,
            "seed": seed, "lr": lr, "result": found,
        })
    );
    if options.text("keep").is_some() {
        std::fs::copy(&found.summary.model, format!("{name}-{seed}.rin"))?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn million(options: &Options) -> Result<(), Anything> {
    let path = options.text("model").ok_or("which --model?")?;
    let found = latency(Path::new(path), options.number("tokens", 1_000_000)?)?;
    println!("{}", json!({ "experiment": "million", "model": path, "result": found }));
    Ok(())
}
