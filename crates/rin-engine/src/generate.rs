//! From a prompt to text: the loop around the engine.
//!
//! prefill → logits → sampler → token → text, once per token; every buffer is sized before the first step.

use crate::digest::{DigestHex, LogitDigest};
use crate::sampler::{Sampler, SamplingParams};
use crate::text_stop::StopMatcher;
use crate::tokenizer::Tokenizer;
use crate::{Engine, Error};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Ids of the prompt, the beginning-of-text token included where one is wanted.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; none: until the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Whether end-of-generation tokens are treated like any other.
    pub ignore_eos: bool,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token or a stop string.
    Stop,
    /// The number of tokens asked for, or the end of the context.
    Length,
    /// The caller asked to stop.
    Cancelled,
}

impl FinishReason {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a generation was.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Generated ids, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Generated text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time for all tokens after the first.
    pub decode: Duration,
    /// Time from the start to the first token.
    pub first_token: Duration,
    /// SHA-256 over the logit bits of every step.
    pub digest: DigestHex,
    /// Heap allocations of the whole process meanwhile; 0 without the counting allocator.
    pub allocations: u64,
}

/// What the caller hears while it runs.
pub trait Listener {
    /// Text that is certain to be part of the result. Breaking cancels the generation.
    fn text(&mut self, text: &str) -> ControlFlow<()>;
    /// The logits that the next token is drawn from, `(vocab)`.
    fn logits(&mut self, _logits: &[f32]) {}
    /// Asked before each step whether to go on.
    fn cancelled(&mut self) -> bool {
        false
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Listener for Silent {
    fn text(&mut self, _text: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Buffers of a generation, all of their final size.
struct Text<'t> {
    /// None where the model has no tokenizer: there is no text then.
    decoder: Option<crate::tokenizer::StreamDecoder<'t>>,
    stops: StopMatcher,
    piece: String,
    all: String,
    told: usize,
}

impl<'t> Text<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, request: &Request, max_tokens: usize) -> Self {
        // A broken byte becomes a replacement character of three.
        let longest = 3 * tokenizer.map_or(0, Tokenizer::longest_piece) + 16;
        let held: usize = request.stop.iter().map(String::len).sum();
        let capacity = max_tokens.saturating_mul(longest).min(MAX_TEXT).saturating_add(longest + held);
        let mut decoder = tokenizer.map(Tokenizer::decoder);
        let mut piece = String::with_capacity(longest.max(64));
        // The text continues the prompt: whether a leading space is dropped depends on what came before.
        if let Some(decoder) = &mut decoder {
            for &id in &request.prompt {
                decoder.push(id, &mut piece);
                piece.clear();
            }
            decoder.finish(&mut piece);
            piece.clear();
        }
        let stops = StopMatcher::new(&request.stop);
        Self { decoder, stops, piece, all: String::with_capacity(capacity), told: 0 }
    }

    /// Adds a token; true when a stop string ended the text.
    fn push(&mut self, id: u32) -> bool {
        self.piece.clear();
        if let Some(decoder) = &mut self.decoder {
            decoder.push(id, &mut self.piece);
        }
        self.stops.push(&self.piece, &mut self.all)
    }

    /// What was held back, at the end.
    fn finish(&mut self) {
        if !self.stops.is_stopped() {
            self.piece.clear();
            if let Some(decoder) = &mut self.decoder {
                decoder.finish(&mut self.piece);
            }
            if !self.stops.push(&self.piece, &mut self.all) {
                self.stops.finish(&mut self.all);
            }
        }
    }

    /// The text since the last call.
    fn news(&mut self) -> &str {
        let from = std::mem::replace(&mut self.told, self.all.len());
        &self.all[from..]
    }
}

/// Room for text that is reserved at most; longer texts grow, and the growth is counted.
const MAX_TEXT: usize = 64 << 20;

/// Runs a request on a fresh sequence of `engine`. Without a tokenizer there are tokens and no text, and no token ends it.
///
/// # Errors
///
/// When the prompt does not fit, an id is unknown, a setting is out of range, or the logits are no numbers.
pub fn generate(
    engine: &mut Engine,
    tokenizer: Option<&Tokenizer>,
    request: &Request,
    listener: &mut impl Listener,
) -> Result<Outcome, Error> {
    let ctx = engine.plan().options.ctx;
    let prompt = request.prompt.len();
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    if prompt >= ctx && request.max_tokens != Some(0) || prompt > ctx {
        return Err(Error::PromptTooLong { tokens: prompt, ctx });
    }
    let max_tokens = request.max_tokens.unwrap_or(usize::MAX).min(ctx - prompt);
    let mut run = Run {
        sampler: Sampler::new(request.sampling.clone(), engine.plan().config.vocab)?,
        text: Text::new(tokenizer, request, max_tokens),
        history: Vec::with_capacity(prompt + max_tokens),
        digest: LogitDigest::new(),
        prompt,
        end: tokenizer.map_or(&[], |t| &t.special().end),
    };
    run.history.extend_from_slice(&request.prompt);
    let mut sequence = engine.sequence()?;
    let outcome = run.tokens(engine, &mut sequence, request, max_tokens, listener);
    engine.release(sequence);
    outcome
}

/// A generation under way.
struct Run<'t> {
    sampler: Sampler,
    text: Text<'t>,
    /// Prompt and generated ids.
    history: Vec<u32>,
    digest: LogitDigest,
    prompt: usize,
    /// Ids that end a text.
    end: &'t [u32],
}

impl Run<'_> {
    fn tokens(
        mut self,
        engine: &mut Engine,
        sequence: &mut crate::Sequence,
        request: &Request,
        max_tokens: usize,
        listener: &mut impl Listener,
    ) -> Result<Outcome, Error> {
        let allocations = rin_kernels::alloc::allocations();
        let start = Instant::now();
        let mut first_token = None;
        let mut finish = FinishReason::Length;
        let mut prefill = None;
        while self.history.len() - self.prompt < max_tokens || prefill.is_none() {
            if listener.cancelled() {
                finish = FinishReason::Cancelled;
                break;
            }
            let new = if prefill.is_none() { 0..self.prompt } else { self.history.len() - 1..self.history.len() };
            let logits = engine.feed(sequence, &self.history[new])?;
            prefill.get_or_insert_with(|| start.elapsed());
            if max_tokens == 0 {
                break;
            }
            self.digest.update(logits);
            let position = self.history.len() as u64;
            let id = self.sampler.sample(logits, position, &self.history)?;
            first_token.get_or_insert_with(|| start.elapsed());
            if !request.ignore_eos && self.end.contains(&id) {
                finish = FinishReason::Stop;
                break;
            }
            listener.logits(logits);
            self.history.push(id);
            let stopped = self.text.push(id);
            let told = listener.text(self.text.news());
            if stopped || told.is_break() {
                finish = if stopped { FinishReason::Stop } else { FinishReason::Cancelled };
                break;
            }
        }
        let total = start.elapsed();
        self.text.finish();
        // The generation is over, so nobody is left to cancel it.
        let _: ControlFlow<()> = listener.text(self.text.news());
        let allocations = rin_kernels::alloc::allocations() - allocations;
        let first_token = first_token.unwrap_or(total);
        Ok(Outcome {
            tokens: self.history.split_off(self.prompt),
            text: self.text.all,
            finish,
            prefill: prefill.unwrap_or(total),
            decode: total.saturating_sub(first_token),
            first_token,
            digest: self.digest.finish(),
            allocations,
        })
    }
}
