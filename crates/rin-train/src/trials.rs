//! Memories compared on a text, and over many tokens; associative recall is in [`mqar`](crate::mqar).

use crate::Error;
use crate::config::{DataConfig, LoopConfig, MemoryConfig, ModelConfig, OutputConfig, TokenizerKind, TrainConfig};
use crate::random::stream;
use crate::train::{Event, Outcome, RunOptions, Summary, run_config};
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::{Engine, LoadOptions};
use rin_model::ModelFile;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A language model of characters and how it is trained on a text.
#[derive(Clone, Debug)]
pub struct TextTrial {
    /// Width.
    pub dim: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// The memories; none: softmax attention.
    pub memory: Option<MemoryConfig>,
    /// Tokens that softmax attention reaches back; none: all.
    pub window: Option<usize>,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Steps.
    pub steps: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Largest learning rate.
    pub lr: f64,
    /// Seed of the weights and of the order of the text.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct TextResult {
    /// Loss on the whole validation split (the last tenth), in nats per character.
    pub nats_per_char: f64,
    /// Its 95 % interval.
    pub interval: [f64; 2],
    /// Share of the most probable characters that are the same with 8-bit weights and activations (Q8_0); none where a
    /// matrix has rows that hold no whole blocks.
    pub same_in_q8_0: Option<f64>,
    /// Loss by position in one long text, `(end of the bucket, nats)`; see [`by_position`].
    pub by_position: Vec<(usize, f64)>,
    /// What the training says at its end.
    pub summary: Summary,
}

impl TextTrial {
    /// Trains on `file`, leaves `NAME.rin` in `folder`, and measures over up to `most` tokens of one text.
    ///
    /// # Errors
    /// When the numbers do not fit each other, a file cannot be read or written, or the training diverges.
    pub fn run(&self, file: &Path, folder: &Path, name: &str, most: usize) -> Result<TextResult, Error> {
        let model = ModelConfig {
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            window: self.window,
            ffn: self.ffn,
            ctx: self.seq,
            memory: self.memory.clone(),
            ..ModelConfig::plain(TokenizerKind::Char)
        };
        let train = LoopConfig {
            seed: self.seed,
            batch: self.batch,
            eval_every: self.steps,
            checkpoint_every: self.steps,
            ..LoopConfig::plain(self.steps, self.lr, self.lr / 10.0)
        };
        let data = DataConfig { files: vec![PathBuf::from(file)], split: 0.9 };
        let output = OutputConfig { dir: folder.to_owned(), name: name.to_owned() };
        let options = RunOptions { resume: false, plot: false, overwrite: true };
        let config = TrainConfig { model, data, train, output, distill: None };
        let cancel = Arc::new(AtomicBool::new(false));
        let Outcome::Finished(summary) = run_config(config, options, &mut |_: &Event<'_>| {}, cancel)? else {
            return Err(Error::value("train.steps", self.steps, "a training that ends"));
        };
        let same = summary.formats.iter().find(|format| format.format.eq_ignore_ascii_case("q8_0"));
        Ok(TextResult {
            nats_per_char: summary.evaluation.nats_per_char,
            interval: summary.evaluation.interval,
            same_in_q8_0: same.map(|format| format.same_argmax),
            by_position: by_position(&summary.model, file, most)?,
            summary: *summary,
        })
    }
}

/// Loss in nats per token by position, in buckets that double, over one text of up to `most` tokens from the last tenth of
/// `file`; nothing for networks that attend to all of it, whose context ends.
///
/// # Errors
/// When a file cannot be read or the network cannot be run.
pub fn by_position(model: &Path, file: &Path, most: usize) -> Result<Vec<(usize, f64)>, Error> {
    let options = LoadOptions { n_logits: 64, ctx: Some(most), ..LoadOptions::default() };
    let file_of_model = ModelFile::open(model)?;
    let config = file_of_model.config()?;
    if config.attends() && config.window.is_none() {
        return Ok(Vec::new());
    }
    let tokenizer = Tokenizer::of_model(&file_of_model)?;
    let all = std::fs::read_to_string(file).map_err(|source| Error::reading(file, source))?;
    let cut = (0..=all.len() * 9 / 10).rev().find(|&at| all.is_char_boundary(at)).unwrap_or(0);
    let tokens = tokenizer.encode(&all[cut..], EncodeOptions::default())?;
    let n = tokens.len().min(most).saturating_sub(1);
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

/// The time of single tokens by their position.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Tokens that were fed.
    pub tokens: usize,
    /// Slope of the logarithm of the time over the logarithm of the position.
    pub slope: f64,
    /// Its 95 % interval.
    pub interval: [f64; 2],
    /// The middle of a bucket of positions, and the median time in it, in nanoseconds.
    pub median_ns: Vec<(f64, u64)>,
    /// Bytes of the arena before the first token and after the last.
    pub arena_bytes: [usize; 2],
    /// Tokens that the engine counts at the end.
    pub position: usize,
}

/// Times each of `tokens` single tokens of a random text on one thread, and fits the logarithm of the median time of a bucket
/// of positions to the logarithm of its middle. There are four buckets to a factor of two, from position 1,024 on.
///
/// # Errors
/// When the network cannot be run.
pub fn latency(model: &Path, tokens: usize) -> Result<Latency, Error> {
    let load = LoadOptions { threads: Some(1), ctx: Some(tokens), ..LoadOptions::default() };
    let file = ModelFile::open(model)?;
    let vocab = file.config()?.vocab as u64;
    let mut engine = Engine::load(file, &load, |_| {})?;
    let arena = engine.arena_len();
    let sequence = engine.sequence()?;
    let mut nanoseconds = Vec::with_capacity(tokens);
    for position in 0..tokens as u64 {
        let id = u32::try_from(stream(7, &[position]) % vocab).unwrap_or(0);
        let start = Instant::now();
        engine.feed(&sequence, &[id])?;
        nanoseconds.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
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
    Ok(Latency {
        tokens,
        slope,
        interval: [slope - half, slope + half],
        median_ns: points,
        arena_bytes: [arena, engine.arena_len()],
        position: engine.position(&sequence),
    })
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

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn the_slope_of_a_line_is_found_with_its_interval() {
        let line: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), 3.0 - 0.5 * f64::from(i))).collect();
        let (found, half) = slope(&line);
        assert!((found + 0.5).abs() < 1e-12 && half < 1e-9, "{found} {half}");
        // Errors of +-1 in turn: their standard deviation over the root of the sum of squares, 665, by 2.1.
        let noisy: Vec<_> = line.iter().zip([1.0, -1.0].into_iter().cycle()).map(|(p, e)| (p.0, p.1 + e)).collect();
        let (found, half) = slope(&noisy);
        assert!((found + 0.5).abs() < 0.03 && (0.07..0.1).contains(&half), "{found} {half}");
    }
}
