//! Evaluation over a whole split, with an interval.

use crate::Error;
use crate::network::{Batch, Network, Pass};
use crate::ops::{host, log_sums};
use crate::random::{index, stream};
use crate::vocabulary::Vocabulary;
use crate::weights::Weights;
use rayon::prelude::*;
use serde::Serialize;

/// Characters of a block of the bootstrap.
const BLOCK: usize = 1_000;
/// Resamples of the bootstrap.
const RESAMPLES: u64 = 10_000;
/// Seed of the bootstrap.
const SEED: u64 = 20_240_229;

/// How well a network predicts a split.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Mean loss per character, in nats.
    pub nats_per_char: f64,
    /// 95 % interval of it, by a bootstrap over blocks of 1,000 characters.
    pub interval: [f64; 2],
    /// Mean loss per token, in nats.
    pub nats_per_token: f64,
    /// Tokens that were predicted: all but the first.
    pub tokens: usize,
    /// Their characters.
    pub chars: usize,
    /// Loss of each token.
    #[serde(skip)]
    pub losses: Vec<f64>,
    /// Characters of each token.
    #[serde(skip)]
    pub characters: Vec<usize>,
    /// Most probable token at each place; ties go to the lowest id.
    #[serde(skip)]
    pub argmax: Vec<u32>,
    /// By how much its logit exceeds the next at each place.
    #[serde(skip)]
    pub margins: Vec<f32>,
}

/// Predicts every token of `tokens` but the first, each from at least `ctx / 2` tokens where there are so many.
///
/// Windows of `ctx` tokens begin every `ctx / 2` tokens; of each but the first, the second half counts. `batch` windows
/// are computed at a time. `stop` is asked between them and ends the evaluation early: then there is no result.
///
/// # Errors
/// When there are fewer than two tokens, or the forward pass fails.
pub fn evaluate(
    network: &dyn Network,
    weights: &Weights,
    vocabulary: &Vocabulary,
    tokens: &[u32],
    batch: usize,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>, Error> {
    let n = tokens.len().saturating_sub(1);
    if n == 0 {
        let (split, key) = ("validation", "data.split");
        return Err(Error::DataTooShort { split, tokens: tokens.len(), needed: 2, key });
    }
    let ctx = network.config().ctx.min(n);
    let (mut losses, mut argmax, mut margins) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    for group in windows(n, ctx).chunks(batch.max(1)) {
        if stop() {
            return Ok(None);
        }
        let ids: Vec<u32> = group.iter().flat_map(|w| &tokens[w.start..w.start + ctx]).copied().collect();
        let logits = network.forward(weights, Batch { ids: &ids, seq: ctx }, Pass::Evaluate)?;
        let logits = host(&logits)?;
        let vocab = network.config().vocab;
        let sums = log_sums(&logits, vocab, &weights.kernels);
        for (i, w) in group.iter().enumerate() {
            for at in w.scored..w.start + ctx {
                let row = i * ctx + at - w.start;
                let logits = &logits[row * vocab..][..vocab];
                losses.push(sums[row] - f64::from(logits[tokens[at + 1] as usize]));
                let best = most_probable(logits);
                argmax.push(best);
                margins.push(margin(logits, best));
            }
        }
    }
    let chars: Vec<usize> = tokens[1..].iter().map(|&id| vocabulary.characters(id)).collect();
    let (nats, n_chars) = (losses.iter().sum::<f64>(), chars.iter().sum::<usize>());
    Ok(Some(Evaluation {
        nats_per_char: nats / n_chars.max(1) as f64,
        interval: bootstrap(&losses, &chars),
        nats_per_token: nats / n as f64,
        tokens: n,
        chars: n_chars,
        losses,
        characters: chars,
        argmax,
        margins,
    }))
}

impl Evaluation {
    /// How much larger the loss is than that of `other` on the same tokens, in nats per character, and the 95 %
    /// interval of it: by the bootstrap over the differences token by token.
    pub fn more_than(&self, other: &Self) -> (f64, [f64; 2]) {
        let more: Vec<f64> = self.losses.iter().zip(&other.losses).map(|(a, b)| a - b).collect();
        (self.nats_per_char - other.nats_per_char, bootstrap(&more, &self.characters))
    }
}

/// A window of inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    /// Its first token.
    start: usize,
    /// The first token whose successor counts.
    scored: usize,
}

/// Windows of `ctx` inputs over `n` inputs, the last one ending with them.
fn windows(n: usize, ctx: usize) -> Vec<Window> {
    let stride = (ctx / 2).max(1);
    let mut windows = vec![Window { start: 0, scored: 0 }];
    let mut end = ctx;
    while end < n {
        let scored = end;
        end = (end + ctx - stride).min(n);
        windows.push(Window { start: end - ctx, scored });
    }
    windows
}

/// The most probable token; ties go to the lowest id.
#[expect(clippy::cast_possible_truncation, reason = "a vocabulary has fewer than 2^24 tokens")]
fn most_probable(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// By how much the logit of the most probable token exceeds the next; infinite where there is no other.
fn margin(logits: &[f32], best: u32) -> f32 {
    let others = logits.iter().enumerate().filter(|(id, _)| *id != best as usize);
    let next = others.fold(f32::NEG_INFINITY, |next, (_, logit)| next.max(*logit));
    logits.get(best as usize).map_or(f32::INFINITY, |logit| logit - next)
}

/// The 2.5th and 97.5th percentile of the loss per character over resampled blocks of text.
fn bootstrap(losses: &[f64], chars: &[usize]) -> [f64; 2] {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    let mut at = 0;
    for (loss, &chars) in losses.iter().zip(chars) {
        let block = at / BLOCK;
        if block >= blocks.len() {
            blocks.resize(block + 1, (0.0, 0));
        }
        blocks[block].0 += loss;
        blocks[block].1 += chars;
        at += chars;
    }
    let mut means: Vec<f64> = (0..RESAMPLES)
        .into_par_iter()
        .map(|resample| {
            let state = stream(SEED, &[resample]);
            let drawn = (0..blocks.len() as u64).map(|i| blocks[index(state, i, blocks.len())]);
            let (nats, chars) = drawn.fold((0.0, 0), |sum, block| (sum.0 + block.0, sum.1 + block.1));
            nats / chars.max(1) as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let n = means.len();
    [means[n / 40], means[n - 1 - n / 40]]
}

#[cfg(test)]
mod tests {
    use super::{Evaluation, Window, bootstrap, margin, most_probable, windows};
    use crate::kernels::Kernels;
    use crate::ops::log_sums;
    use crate::random::uniform;
    use rin_kernels::Cpu;

    #[test]
    fn every_token_counts_once_and_has_half_a_window_before_it() {
        for (n, ctx) in [(10, 10), (11, 10), (100, 10), (103, 10), (7, 2), (1, 1), (50, 7), (6, 5)] {
            let windows = windows(n, ctx);
            assert_eq!(windows[0], Window { start: 0, scored: 0 });
            for pair in windows.windows(2) {
                assert_eq!(pair[1].scored, pair[0].start + ctx, "n {n}, ctx {ctx}");
                assert!(pair[1].scored - pair[1].start >= ctx / 2, "n {n}, ctx {ctx}");
            }
            assert_eq!(windows.last().unwrap().start + ctx, n);
        }
    }

    #[test]
    fn losses_are_those_of_the_softmax_and_ties_go_to_the_lowest_id() {
        let logits = [1.0, 3.0, 3.0, -90.0, 0.5, 0.25, 1.5, -1.0, 2.0];
        let want = logits.iter().map(|&x: &f32| libm::exp(f64::from(x))).sum::<f64>().log2() * std::f64::consts::LN_2;
        let kernels = Kernels::select(&Cpu::detect());
        for sum in log_sums(&logits.repeat(300), logits.len(), &kernels) {
            assert!((sum - want).abs() < 1e-6);
        }
        assert_eq!(most_probable(&logits), 1);
        assert!(margin(&logits, 1) == 0.0 && (margin(&logits[..2], 1) - 2.0).abs() < 1e-6);
        assert!(margin(&logits[..1], 0).is_infinite());
    }

    #[test]
    fn a_difference_is_paired() {
        let evaluation = |shift: f64| {
            let losses: Vec<f64> = (0..50_000).map(|i| 3.0 * uniform(4, i) + shift + 0.01 * uniform(5, i)).collect();
            Evaluation {
                nats_per_char: losses.iter().sum::<f64>() / losses.len() as f64,
                interval: [0.0, 0.0],
                nats_per_token: 0.0,
                tokens: losses.len(),
                chars: losses.len(),
                characters: vec![1; losses.len()],
                argmax: Vec::new(),
                margins: Vec::new(),
                losses,
            }
        };
        let (more, [low, high]) = evaluation(0.25).more_than(&evaluation(0.0));
        assert!((more - 0.25).abs() < 1e-9 && low - 1e-9 <= more && more <= high + 1e-9);
        assert!(high - low < 1e-9, "what both find hard does not count: {low} to {high}");
    }

    #[test]
    fn the_interval_has_the_width_of_the_standard_error() {
        // 200 blocks of 1,000 uniform losses: the mean of a block has the standard deviation 1 / sqrt(12,000).
        let losses: Vec<f64> = (0..200_000).map(|i| uniform(4, i)).collect();
        let [low, high] = bootstrap(&losses, &vec![1; losses.len()]);
        let want = 2.0 * 1.96 / (12.0 * 200_000.0_f64).sqrt();
        assert!(low < 0.5 && 0.5 < high);
        assert!(((high - low) / want - 1.0).abs() < 0.15, "{} for {want}", high - low);
    }
}
