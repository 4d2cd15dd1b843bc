//! What a person reads beside the result: the progress of loading, and the summary of a run.

use std::fmt::{self, Write};

use rin_engine::Engine;
use rin_engine::generate::Outcome;

use crate::json::{Memory, Timings};
use crate::output::Size;
use crate::progress::{ProgressBar, Unit};

/// A bar over `total` bytes on standard error; hidden where that is no terminal.
pub(crate) fn byte_progress(total: u64, what: &str, quiet: bool) -> ProgressBar {
    ProgressBar::new(total, Unit::Bytes, what, quiet)
}

/// A bar over `total` tokens on standard error; hidden where that is no terminal.
pub(crate) fn token_progress(total: u64, what: &str, quiet: bool) -> ProgressBar {
    ProgressBar::new(total, Unit::Tokens, what, quiet)
}

/// A bar over `total` cases on standard error; hidden where that is no terminal.
pub(crate) fn case_progress(total: u64, what: &str, quiet: bool) -> ProgressBar {
    ProgressBar::new(total, Unit::Cases, what, quiet)
}

/// A bar over the steps of a training on standard error; hidden where that is no terminal.
#[cfg(feature = "train")]
pub(crate) fn step_progress(quiet: bool) -> ProgressBar {
    ProgressBar::new(0, Unit::Steps, "", quiet)
}

/// Two or three lines about a run.
pub(crate) fn summary(
    engine: &Engine,
    outcome: &Outcome,
    prompt_tokens: usize,
    timings: Timings,
    memory: Memory,
    energy: &rin_energy::Record,
) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for note in engine.notes() {
        writeln!(text, "note: {note}")?;
    }
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    writeln!(
        text,
        "prompt {prompt_tokens} tokens, {} tokens/s | generated {} tokens, {} tokens/s, {} | first token {:.1} ms, load {:.1} ms",
        rate(timings.prefill_tps),
        outcome.tokens.len(),
        rate(timings.decode_tps),
        outcome.finish.name(),
        timings.first_token_ms,
        timings.load_ms,
    )?;
    let size = |bytes: usize| Size(bytes as u64);
    writeln!(
        text,
        "plan {} = weights {} + state {} + scratch {} + vocabulary {} | peak {} | tier {}, {} threads",
        size(memory.plan_bytes),
        size(memory.weights_bytes),
        size(memory.state_bytes),
        size(memory.scratch_bytes),
        size(memory.vocabulary_bytes),
        memory.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Size(bytes).to_string()),
        engine.tier(),
        engine.threads(),
    )?;
    if outcome.drafted > 0 {
        writeln!(text, "guessed {} tokens, {} of them right", outcome.drafted, outcome.accepted)?;
    }
    writeln!(text, "energy {}", crate::energy::line(energy, "token"))?;
    write!(text, "digest {}", outcome.digest)?;
    Ok(text)
}
