//! How well a model predicts a text, and how far it is from a reference.
//!
//! Protocol: the text's tokens are seen through windows of the context's size, each with a beginning-of-text token in
//! front where the tokenizer adds one to texts. A window begins so far behind the one before it that at least half a
//! context of the text's own tokens precedes every token that it scores, and it scores those that no window before it
//! has scored: each token once. Tokens in the first window have what the text offers before them; without a
//! beginning-of-text token the first token of the text has nothing and is not scored.
//!
//! All figures are f64 in a fixed order of the tokens over the engine's logits, whose bits depend on neither tier nor
//! threads nor batch; so do none of the figures.

mod bootstrap;
mod distribution;
mod error;
mod text;

use std::ops::ControlFlow;

pub use bootstrap::{BLOCK_CHARS, MIN_BLOCKS, RESAMPLES, block_tokens, mean_interval};
pub use distribution::LogSoftmax;
use distribution::{Distribution, argmax};
pub use error::EvalError;
pub use text::EvalText;
use text::Window;

use crate::{Engine, Error, Sequence};

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// −ln p of each scored token, in nats, in the order of the text.
    pub nll: Vec<f64>,
    /// Its mean, in nats per token.
    pub nll_mean: f64,
    /// The 95 % interval of the mean, [`mean_interval`] over blocks of [`block_tokens`]; none for a short text.
    pub nll_ci95: Option<[f64; 2]>,
    /// `exp(nll_mean)`.
    pub perplexity: f64,
    /// Nats per byte of the text; none where the tokens spell nothing.
    pub nll_per_byte: Option<f64>,
    /// Nats per character of the text; none where the tokens spell nothing.
    pub nll_per_char: Option<f64>,
    /// The distance to the reference; none without one.
    pub comparison: Option<Comparison>,
    /// Positions of a window.
    pub ctx: usize,
}

/// How far a model is from a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Mean of KL(reference ‖ model) over the scored tokens, in nats.
    pub kl_mean: f64,
    /// The 99th percentile of it, by nearest rank: the smallest value that 99 % of the tokens do not exceed.
    pub kl_p99: f64,
    /// Share of the scored tokens for which both rank the same token first; of equal logits the lowest id is first.
    pub top1_agreement: f64,
    /// How much larger the mean loss is than the reference's, in nats per token.
    pub nll_more: f64,
    /// The 95 % interval of it: [`mean_interval`] over the differences token by token, so that what both models find
    /// hard does not widen it; none for a short text.
    pub nll_more_ci95: Option<[f64; 2]>,
}

/// Bytes of logits that one step computes at most, unless a single row is larger.
const LOGIT_BYTES: usize = 16 << 20;

/// Rows of logits to plan for in an engine that evaluates: [`LoadOptions::n_logits`](crate::LoadOptions).
pub fn logit_rows(n_vocab: usize, n_batch: usize) -> usize {
    (LOGIT_BYTES / 4 / n_vocab.max(1)).clamp(1, n_batch.max(1))
}

/// Whether two models' distributions are over the same number of tokens.
///
/// # Errors
///
/// [`EvalError::OtherVocabulary`] where not.
pub fn check_vocabularies(model: usize, reference: usize) -> Result<(), EvalError> {
    if model == reference { Ok(()) } else { Err(EvalError::OtherVocabulary { model, reference }) }
}

/// Scores a text; `progress` hears how many tokens are scored so far, and breaks to cancel.
///
/// Windows have the smaller of the two contexts. Rows of logits are held one step at a time.
///
/// # Errors
///
/// [`EvalError`] for a text, a context or a reference that cannot be evaluated; what [`Engine::feed_all`] refuses.
pub fn evaluate(
    model: &mut Engine,
    reference: Option<&mut Engine>,
    text: &EvalText,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Evaluation, Error> {
    if text.ids.len() < 2 {
        return Err(EvalError::TextTooShort { tokens: text.ids.len() }.into());
    }
    let n_vocab = model.plan().config.vocab;
    let mut ctx = model.plan().options.ctx;
    if let Some(reference) = &reference {
        check_vocabularies(n_vocab, reference.plan().config.vocab)?;
        ctx = ctx.min(reference.plan().options.ctx);
    }
    if let Some(&id) = text.ids.iter().find(|&&id| id as usize >= n_vocab) {
        return Err(Error::UnknownToken { id, n_vocab });
    }
    let windows = text.windows(ctx)?;
    let mut run = Run {
        rows: step_rows(model).min(reference.as_deref().map_or(usize::MAX, step_rows)),
        model,
        reference,
        text,
        n_vocab,
        reference_rows: Vec::new(),
        scores: Scores { nll: Vec::with_capacity(text.scored()), ..Scores::default() },
    };
    for window in windows {
        run.window(window, &mut progress)?;
    }
    let compared = run.reference.is_some();
    Ok(run.scores.summarize(text, ctx, compared))
}

/// Rows of logits that a step of an engine gives at most.
fn step_rows(engine: &Engine) -> usize {
    let options = &engine.plan().options;
    options.n_batch.min(options.n_logits).max(1)
}

/// An evaluation under way.
struct Run<'a> {
    model: &'a mut Engine,
    reference: Option<&'a mut Engine>,
    text: &'a EvalText,
    n_vocab: usize,
    /// Rows of a step.
    rows: usize,
    /// The reference's logits of one step.
    reference_rows: Vec<f32>,
    scores: Scores,
}

impl Run<'_> {
    fn window(&mut self, window: Window, progress: impl FnMut(usize) -> ControlFlow<()>) -> Result<(), Error> {
        let sequence = self.model.sequence()?;
        let reference = match &mut self.reference {
            Some(reference) => Some(reference.sequence()?),
            None => None,
        };
        let outcome = self.score(window, &sequence, reference.as_ref(), progress);
        self.model.release(sequence);
        if let (Some(engine), Some(sequence)) = (&mut self.reference, reference) {
            engine.release(sequence);
        }
        outcome
    }

    fn score(
        &mut self,
        window: Window,
        sequence: &Sequence,
        reference: Option<&Sequence>,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        // The last token is predicted, not fed.
        let shown = self.text.ids.get(window.first..window.end.saturating_sub(1)).unwrap_or_default();
        let fed: Vec<u32> = self.text.bos.into_iter().chain(shown.iter().copied()).collect();
        let targets = self.text.ids.get(window.scored..window.end).unwrap_or_default();
        // Each of the last tokens predicts one target, those before are context.
        let (context, predictors) = fed.split_at(fed.len().saturating_sub(targets.len()));
        if !context.is_empty() {
            self.model.feed(sequence, context)?;
            if let (Some(engine), Some(sequence)) = (&mut self.reference, reference) {
                engine.feed(sequence, context)?;
            }
        }
        for (predictors, targets) in predictors.chunks(self.rows).zip(targets.chunks(self.rows)) {
            if progress(self.scores.nll.len()).is_break() {
                return Err(EvalError::Cancelled.into());
            }
            self.reference_rows.clear();
            if let (Some(engine), Some(sequence)) = (&mut self.reference, reference) {
                let rows = &mut self.reference_rows;
                engine.feed_all(sequence, predictors, |row| rows.extend_from_slice(row))?;
            }
            let mut reference_rows = self.reference_rows.chunks_exact(self.n_vocab);
            let mut targets = targets.iter();
            let (scores, skipped) = (&mut self.scores, self.text.ids.len() - self.text.scored());
            let mut failed = None;
            self.model.feed_all(sequence, predictors, |row| {
                if scores.add(row, reference_rows.next(), targets.next()).is_none() {
                    failed.get_or_insert(skipped + scores.nll.len());
                }
            })?;
            if let Some(position) = failed {
                return Err(EvalError::NonFiniteLogits { position }.into());
            }
        }
        // Whoever counts hears the end too; there is nothing left to cancel.
        let _: ControlFlow<()> = progress(self.scores.nll.len());
        Ok(())
    }
}

/// What is known of each scored token.
#[derive(Debug, Default)]
struct Scores {
    nll: Vec<f64>,
    kl: Vec<f64>,
    /// Loss less the reference's.
    more: Vec<f64>,
    agreed: usize,
    /// The two distributions, kept to be overwritten.
    weights: Vec<f64>,
    reference_weights: Vec<f64>,
}

impl Scores {
    /// Adds a token; none where logits are no numbers.
    fn add(&mut self, row: &[f32], reference: Option<&[f32]>, target: Option<&u32>) -> Option<()> {
        let model = Distribution { row, softmax: LogSoftmax::of(row, &mut self.weights)? };
        let target = *target? as usize;
        let nll = -model.softmax.log_p(*row.get(target)?);
        if let Some(row) = reference {
            let reference = Distribution { row, softmax: LogSoftmax::of(row, &mut self.reference_weights)? };
            self.kl.push(reference.divergence(&self.reference_weights, &model));
            self.agreed += usize::from(argmax(row) == argmax(model.row));
            self.more.push(nll + reference.softmax.log_p(*row.get(target)?));
        }
        self.nll.push(nll);
        Some(())
    }

    fn summarize(self, text: &EvalText, ctx: usize, compared: bool) -> Evaluation {
        let n = as_f64(self.nll.len());
        let sum: f64 = self.nll.iter().sum();
        let nll_mean = sum / n;
        let per = |count: usize| (count > 0).then(|| sum / as_f64(count));
        let block = block_tokens(self.nll.len(), text.chars);
        let comparison = compared.then(|| Comparison {
            kl_mean: self.kl.iter().sum::<f64>() / n,
            kl_p99: nearest_rank_p99(self.kl),
            top1_agreement: as_f64(self.agreed) / n,
            nll_more: self.more.iter().sum::<f64>() / n,
            nll_more_ci95: mean_interval(&self.more, block),
        });
        Evaluation {
            nll_mean,
            nll_ci95: mean_interval(&self.nll, block),
            perplexity: libm::exp(nll_mean),
            nll_per_byte: per(text.bytes),
            nll_per_char: per(text.chars),
            comparison,
            ctx,
            nll: self.nll,
        }
    }
}

/// The smallest of the values that 99 % of them do not exceed.
fn nearest_rank_p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = values.len() - values.len() / 100;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens and bytes are far below 2⁵³")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_of_the_nearest_rank() {
        let to = |n: u32| (1..=n).rev().map(f64::from).collect::<Vec<_>>();
        for (n, expected) in [(1, 1.0), (99, 99.0), (100, 99.0), (101, 100.0), (200, 198.0), (1000, 990.0)] {
            assert_eq!(nearest_rank_p99(to(n)).to_bits(), f64::to_bits(expected), "of {n}");
        }
    }

    #[test]
    fn rows_fit_their_bytes_and_the_batch() {
        assert_eq!(logit_rows(512, 512), 512);
        assert_eq!(logit_rows(128_256, 512), 32);
        assert_eq!(logit_rows(usize::MAX / 8, 512), 1);
        assert_eq!(logit_rows(0, 0), 1);
    }
}
