//! Memories over long texts: loss by position, time per token.

use rin_train::arms::arm;
use rin_train::config::MemoryConfig;
use rin_train::trials::{TextTrial, latency};
use serde_json::{Value, json};

use crate::report::{Table, digits, interval};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

const TEXT: &str = "text/tinyshakespeare.txt";
const ARMS: [&str; 5] = ["softmax", "gated-delta", "gla", "a6", "a10"];
const LATENCY_ARMS: [&str; 3] = ["gated-delta", "a6", "a10"];

fn name_of(arm: &str) -> String {
    format!("text, {arm}")
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let (steps, most, tokens) = scale.pick((5, 2000, 5000), (STEPS, 100_000, 1_000_000));
    ARMS.map(|name| Case::new(name_of(name), move |context| run(name, steps, most, tokens, context))).into()
}

/// Steps of 8 sequences of 256 characters.
const STEPS: usize = 600;

/// A language model, its loss by position, and the time of its tokens.
fn run(name: &str, steps: usize, most: usize, tokens: usize, context: &Context<'_>) -> Result<Value, Error> {
    let memory = match name {
        "a6" => arm(name, 32),
        "a10" => arm(name, 2).map(|m| MemoryConfig { k_dim: Some(16), ..m }),
        _ => arm(name, 16),
    };
    let (dim, layers, heads, ffn, window, seq, batch, lr, seed) = (64, 2, 2, 176, None, 256, 8, 4e-3, 0);
    let trial = TextTrial { dim, layers, heads, ffn, memory, window, seq, steps, batch, lr, seed };
    let folder = std::env::temp_dir().join(format!("rin-lab-memory-{}-{name}", std::process::id()));
    let found = trial.run(&context.data(TEXT)?, &folder, name, most)?;
    let time = if LATENCY_ARMS.contains(&name) { Some(latency(&found.summary.model, tokens)?) } else { None };
    std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    Ok(json!({ "result": found, "latency": time }))
}

/// The table, and the arms whose time does not depend on the position and whose arena stays.
pub(super) fn judge(results: &Results) -> Result<(Table, Vec<&'static str>), Error> {
    let mut table = Table::new(
        "Smaller language models over long texts (nats per character on the whole validation split; positions in one text of 100,000 characters), and a million \
         tokens one by one (slope of log time over log position):",
        &["arm", "parameters", "nats", "95 % interval", "257 to 512", "from 65,537 on", "slope", "95 % interval of it"],
    );
    let mut flat = Vec::new();
    for name in ARMS {
        let case = name_of(name);
        let nats = results.number(&case, "/result/nats_per_char")?;
        let ci = results.numbers(&case, "/result/interval")?;
        let buckets = results.at(&case, "/result/by_position")?.as_array().cloned().unwrap_or_default();
        let at = |end: u64| buckets.iter().find(|b| b[0].as_u64() == Some(end)).and_then(|b| b[1].as_f64());
        let mut cells = vec![
            name.to_owned(),
            digits(results.number(&case, "/result/summary/parameters")?),
            digits(nats),
            interval([ci.first().copied().unwrap_or(f64::NAN), ci.last().copied().unwrap_or(f64::NAN)]),
        ];
        let or_dash = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), digits);
        cells.extend([or_dash(at(512)), or_dash(at(131_072))]);
        if LATENCY_ARMS.contains(&name) {
            let ci = results.numbers(&case, "/latency/interval")?;
            let [low, high] = [ci.first(), ci.last()].map(|x| x.copied().unwrap_or(f64::NAN));
            let arena = results.numbers(&case, "/latency/arena_bytes")?;
            if low <= 0.0 && high >= 0.0 && arena.first() == arena.last() {
                flat.push(name);
            }
            cells.extend([digits(results.number(&case, "/latency/slope")?), interval([low, high])]);
        } else {
            cells.extend(["-".to_owned(), "-".to_owned()]);
        }
        table.row(cells);
    }
    Ok((table, flat))
}
