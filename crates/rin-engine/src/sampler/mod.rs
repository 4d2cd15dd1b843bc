//! Chooses the next token from a step's logits.
//!
//! The choice is a function of (logit bits, parameters, position, history) alone: not of earlier choices, of the batch, of
//! threads or of the processor. The steps come in the order of llama.cpp's default chain:
//!
//! 1. `logit_bias` is added, 2. the penalties lower the logits of recent tokens,
//! 3. top-k, 4. locally typical, 5. top-p and 6. min-p cut the candidates,
//! 7. the temperature divides the logits that are left, and 8. one is drawn with [`philox::uniform`] of seed and position.
//!
//! With temperature 0, steps 3 to 8 are one: the highest logit wins. Candidates are ordered by logit descending, then id
//! ascending, so of equal logits the lowest id wins. A logit of −∞ forbids its token; NaN and +∞ are errors.
//!
//! Logits are f32; probabilities and their sums are f64, see the filters. No step sorts the whole vocabulary unless the
//! parameters ask for it, and none allocates.

mod filters;
mod params;
pub mod philox;
mod ranked;
#[cfg(test)]
mod tests;

use filters::Typical;
pub use params::SamplingParams;
use ranked::{Candidate, Ranked};

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter is out of its range.
    #[error("{field}: expected {expected}, found {found}")]
    Parameter {
        /// Name of the field of [`SamplingParams`], or `n_vocab`.
        field: &'static str,
        /// What the field may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The logits are not one per token of the vocabulary.
    #[error("logits: expected {expected} values, found {found}")]
    LogitCount {
        /// Size of the vocabulary.
        expected: usize,
        /// Number of logits given.
        found: usize,
    },
    /// A logit is NaN or +∞.
    #[error("logit {index} is {value}; expected a finite number, or -inf for a forbidden token")]
    NonFiniteLogit {
        /// The token whose logit it is.
        index: usize,
        /// The logit.
        value: f32,
    },
    /// Every logit is −∞.
    #[error("every token is forbidden: all logits are -inf")]
    AllForbidden,
    /// A token of the history is not in the vocabulary.
    #[error("history: expected token ids below {n_vocab}, found {id} at index {index}")]
    UnknownToken {
        /// Index into the history.
        index: usize,
        /// The id found there.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
}

/// Samples tokens; owns every buffer that takes.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// `(n_vocab)`, the logits after bias and penalties.
    logits: Vec<f32>,
    /// `(n_vocab)`, how often each token occurs among the recent ones; all 0 between calls.
    counts: Vec<u32>,
    /// Up to `n_vocab` candidates; none if the temperature is 0.
    candidates: Ranked<Candidate>,
    /// As many as the typical filter can meet; none if it is off.
    by_deviation: Ranked<Typical>,
}

/// How many items the filters can meet.
struct Capacities {
    candidates: usize,
    by_deviation: usize,
}

impl Capacities {
    fn of(params: &SamplingParams, n_vocab: usize) -> Self {
        let candidates = if params.temp > 0.0 { n_vocab } else { 0 };
        let by_deviation = match (params.typical_p < 1.0, params.top_k) {
            (false, _) => 0,
            (true, 0) => candidates,
            (true, top_k) => top_k.min(candidates),
        };
        Self { candidates, by_deviation }
    }
}

impl Sampler {
    /// A sampler for logits of `n_vocab` values. Allocates all that sampling needs, at most 32 bytes per token.
    ///
    /// # Errors
    ///
    /// [`SamplingError::Parameter`] as [`SamplingParams::validate`].
    pub fn new(params: SamplingParams, n_vocab: usize) -> Result<Self, SamplingError> {
        params.validate(n_vocab)?;
        let Capacities { candidates, by_deviation } = Capacities::of(&params, n_vocab);
        Ok(Self {
            logits: vec![0.0; n_vocab],
            counts: vec![0; n_vocab],
            candidates: Ranked::with_capacity(candidates),
            by_deviation: Ranked::with_capacity(by_deviation),
            params,
        })
    }

    /// Bytes that [`Sampler::new`] allocates.
    pub fn bytes(params: &SamplingParams, n_vocab: usize) -> usize {
        let Capacities { candidates, by_deviation } = Capacities::of(params, n_vocab);
        let of_tokens = n_vocab.saturating_mul(size_of::<f32>() + size_of::<u32>());
        let of_candidates = candidates.saturating_mul(size_of::<Candidate>());
        of_tokens.saturating_add(of_candidates).saturating_add(by_deviation.saturating_mul(size_of::<Typical>()))
    }

    /// The parameters in use.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses the token of a position. Allocates nothing.
    ///
    /// `logits` is `(n_vocab)`; `position` keys the random draw and counts tokens from the start of the sequence;
    /// `history` holds the tokens before it, newest last, of which the last `repeat_last_n` are penalised.
    ///
    /// # Errors
    ///
    /// Any [`SamplingError`] but [`SamplingError::Parameter`]; the sampler stays usable.
    pub fn sample(&mut self, logits: &[f32], position: u64, history: &[u32]) -> Result<u32, SamplingError> {
        self.adjust(logits, history)?;
        if self.params.temp <= 0.0 {
            return highest(&self.logits).ok_or(SamplingError::AllForbidden);
        }
        self.filter();
        let uniform = philox::uniform(self.params.seed, position);
        filters::draw(&mut self.candidates, self.params.temp, uniform).ok_or(SamplingError::AllForbidden)
    }

    /// Checks the logits and takes them over with bias and penalties.
    fn adjust(&mut self, logits: &[f32], history: &[u32]) -> Result<(), SamplingError> {
        let n_vocab = self.logits.len();
        if logits.len() != n_vocab {
            return Err(SamplingError::LogitCount { expected: n_vocab, found: logits.len() });
        }
        check_logits(logits)?;
        let recent_start = history.len().saturating_sub(self.params.repeat_last_n);
        let recent = &history[recent_start..];
        if let Some(index) = recent.iter().position(|&id| id as usize >= n_vocab) {
            return Err(SamplingError::UnknownToken { index: recent_start + index, id: recent[index], n_vocab });
        }

        self.logits.copy_from_slice(logits);
        for &(id, bias) in &self.params.logit_bias {
            let logit = &mut self.logits[id as usize];
            *logit = shifted(*logit, bias);
        }
        for &id in recent {
            self.counts[id as usize] = self.counts[id as usize].saturating_add(1);
        }
        for &id in recent {
            let count = std::mem::take(&mut self.counts[id as usize]);
            if count > 0 {
                let logit = &mut self.logits[id as usize];
                *logit = penalised(*logit, count, &self.params);
            }
        }
        Ok(())
    }

    /// Cuts the tokens that are not forbidden down to the candidates of the draw.
    fn filter(&mut self) {
        let Self { params, logits, candidates, by_deviation, .. } = self;
        candidates.fill(
            (0u32..)
                .zip(logits.iter())
                .filter(|&(_, &logit)| logit > f32::NEG_INFINITY)
                // Adding zero turns −0 into +0, so that the two are ties.
                .map(|(id, &logit)| Candidate::new(id, logit + 0.0)),
        );
        if params.top_k > 0 {
            filters::top_k(candidates, params.top_k);
        }
        if params.typical_p < 1.0 {
            filters::typical_p(candidates, by_deviation, params.typical_p);
        }
        if params.top_p < 1.0 {
            filters::top_p(candidates, params.top_p);
        }
        if params.min_p > 0.0 {
            filters::min_p(candidates, params.min_p);
        }
    }
}

/// The token with the highest logit; of equal ones the lowest id.
///
/// # Errors
///
/// [`SamplingError::NonFiniteLogit`], and [`SamplingError::AllForbidden`] where no logit is above −∞.
pub fn argmax(logits: &[f32]) -> Result<u32, SamplingError> {
    check_logits(logits)?;
    highest(logits).ok_or(SamplingError::AllForbidden)
}

fn highest(logits: &[f32]) -> Option<u32> {
    let (mut highest, mut found) = (f32::NEG_INFINITY, None);
    for (id, &logit) in (0..=u32::MAX).zip(logits) {
        if logit > highest {
            (highest, found) = (logit, Some(id));
        }
    }
    found
}

fn check_logits(logits: &[f32]) -> Result<(), SamplingError> {
    match logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        Some(index) => Err(SamplingError::NonFiniteLogit { index, value: logits[index] }),
        None => Ok(()),
    }
}

/// A logit with a bias added. Only −∞ forbids: a sum beyond the range of f32 stays at its end.
fn shifted(logit: f32, bias: f32) -> f32 {
    if logit == f32::NEG_INFINITY || bias == f32::NEG_INFINITY {
        return f32::NEG_INFINITY;
    }
    (logit + bias).clamp(f32::MIN, f32::MAX)
}

/// The logit of a token that occurs `count` times among the recent ones, rounded once from f64.
///
/// Source: Keskar et al., "CTRL", 2019, section 4.1, for the repeat penalty, with negative logits multiplied, so that they
/// fall too; presence and frequency penalties as in the OpenAI API.
fn penalised(logit: f32, count: u32, params: &SamplingParams) -> f32 {
    if logit == f32::NEG_INFINITY {
        return logit;
    }
    let (wide, repeat) = (f64::from(logit), f64::from(params.repeat_penalty));
    let repeated = if wide > 0.0 { wide / repeat } else { wide * repeat };
    let penalty = f64::from(params.presence_penalty) + f64::from(params.frequency_penalty) * f64::from(count);
    #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32, clamped to its range")]
    let rounded = (repeated - penalty).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    rounded
}
