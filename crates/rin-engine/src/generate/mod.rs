//! From a prompt to text: the loop around the engine.
//!
//! prefill → logits → sampler → token → text, once per token; every buffer is sized before the first step.

mod speculate;

pub use speculate::{DraftModel, Drafter};

use crate::digest::{DigestHex, LogitDigest};
use crate::sampler::{Sampler, SamplingParams};
use crate::text_stop::StopMatcher;
use crate::tokenizer::Tokenizer;
use crate::{Engine, Error, Feed, Rows, Sequence};
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
    /// What happens when the context is full; none: the generation ends.
    pub shift: Option<Shift>,
    /// Most tokens that are guessed at a time, where somebody guesses.
    pub max_draft: usize,
}

/// Going on when the context is full: the oldest tokens but the first `keep` are left out, so that half of the others
/// remain, and those are computed anew. What follows has the bits of a generation that begins with these tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Tokens at the start that stay.
    pub keep: usize,
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
    /// The tokens that the sequence stands for now, the last one not fed yet; after a [`Shift`] not all of the text.
    pub context: Vec<u32>,
    /// Tokens of the prompt that the cache had already.
    pub cached: usize,
    /// Tokens that were guessed.
    pub drafted: usize,
    /// Of them, those that were right.
    pub accepted: usize,
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
    /// Asked between the steps of a long prompt whether to stop.
    fn interrupted(&mut self) -> bool {
        false
    }
    /// Asked before each step how many of the engine's workers are to compute from now on; none: as before. See
    /// [`Engine::set_active_threads`].
    fn threads(&mut self) -> Option<usize> {
        None
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
        Self { decoder, stops, piece, all: String::from_utf8(touched(capacity, b' ')).unwrap_or_default(), told: 0 }
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

/// Bytes of a buffer that are touched in advance at most; what is written beyond them faults once per page.
const MAX_TOUCHED: usize = 1 << 20;

/// An empty vector whose room has been written to, so that filling it faults no page in.
fn touched<T: Clone>(capacity: usize, value: T) -> Vec<T> {
    let mut room = Vec::with_capacity(capacity);
    room.resize(capacity.min(MAX_TOUCHED / size_of::<T>().max(1)), value);
    room.clear();
    room
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
    let max_tokens = check(engine, request)?;
    let limit = if request.shift.is_some() { engine.plan().options.ctx } else { request.prompt.len() + max_tokens };
    let mut sequence = engine.admit(&request.prompt, limit)?;
    let outcome = continue_with(engine, &mut sequence, tokenizer, request, None, listener);
    engine.release(sequence);
    outcome
}

/// The most tokens that a request can give.
fn check(engine: &Engine, request: &Request) -> Result<usize, Error> {
    let ctx = engine.plan().options.ctx;
    let prompt = request.prompt.len();
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    if prompt >= ctx && request.max_tokens != Some(0) || prompt > ctx {
        return Err(Error::PromptTooLong { tokens: prompt, ctx });
    }
    let asked = request.max_tokens.unwrap_or(usize::MAX);
    Ok(if request.shift.is_some() { asked } else { asked.min(ctx - prompt) })
}

/// As [`generate`] on a sequence that may hold the first tokens of the prompt already, with somebody to guess. Afterwards
/// the sequence holds the prompt and what was generated, but for the last token.
///
/// # Errors
///
/// As for [`generate`].
pub fn continue_with(
    engine: &mut Engine,
    sequence: &mut Sequence,
    tokenizer: Option<&Tokenizer>,
    request: &Request,
    drafter: Option<&mut Drafter<'_>>,
    listener: &mut impl Listener,
) -> Result<Outcome, Error> {
    let max_tokens = check(engine, request)?;
    let options = engine.plan().options;
    let prompt = request.prompt.len();
    // The last token of the prompt is fed even where it is there, for its logits.
    let cached = engine.position(sequence).min(prompt - 1);
    engine.truncate(sequence, cached)?;
    let room = options.ctx + 1;
    let reserved = max_tokens.min(room.max(MAX_HISTORY));
    let mut run = Run {
        sampler: Sampler::new(request.sampling.clone(), engine.plan().config.vocab)?,
        text: Text::new(tokenizer, request, reserved),
        history: touched(prompt + reserved, 0),
        view: touched(room + request.max_draft, 0),
        drafts: touched(request.max_draft, 0),
        digest: LogitDigest::new(),
        end: tokenizer.map_or(&[], |t| &t.special().end),
        // A memory of a fixed size cannot take back what was guessed wrongly.
        most_drafts: if engine.plan().held.is_empty() {
            request.max_draft.min(options.n_logits.min(options.n_batch).saturating_sub(1))
        } else {
            0
        },
        request,
        max_tokens,
        cached,
        drafted: 0,
        accepted: 0,
        allocations: rin_kernels::alloc::allocations(),
        start: Instant::now(),
        prefill: None,
        first_token: None,
    };
    run.history.extend_from_slice(&request.prompt);
    run.view.extend_from_slice(&request.prompt);
    run.allocations = rin_kernels::alloc::allocations();
    run.start = Instant::now();
    let finish = run.tokens(engine, sequence, drafter, listener)?;
    Ok(run.finish(finish, listener))
}

/// Tokens that room is reserved for at most where the context is no bound; longer texts grow, and that is counted.
const MAX_HISTORY: usize = 1 << 20;

/// A generation under way.
struct Run<'t> {
    sampler: Sampler,
    text: Text<'t>,
    /// Prompt and generated ids.
    history: Vec<u32>,
    /// The ids that the sequence holds, and the one that it gets next.
    view: Vec<u32>,
    drafts: Vec<u32>,
    digest: LogitDigest,
    /// Ids that end a text.
    end: &'t [u32],
    most_drafts: usize,
    request: &'t Request,
    max_tokens: usize,
    cached: usize,
    drafted: usize,
    accepted: usize,
    allocations: u64,
    start: Instant,
    prefill: Option<Duration>,
    first_token: Option<Duration>,
}

impl Run<'_> {
    fn generated(&self) -> usize {
        self.history.len() - self.request.prompt.len()
    }

    fn tokens(
        &mut self,
        engine: &mut Engine,
        sequence: &mut Sequence,
        mut drafter: Option<&mut Drafter<'_>>,
        listener: &mut impl Listener,
    ) -> Result<FinishReason, Error> {
        while self.generated() < self.max_tokens || self.prefill.is_none() {
            if listener.cancelled() {
                return Ok(FinishReason::Cancelled);
            }
            if let Some(threads) = listener.threads() {
                engine.set_active_threads(threads);
            }
            if self.view.len() > engine.plan().options.ctx {
                self.shift(engine, sequence)?;
            }
            let fed = engine.position(sequence);
            self.drafts.clear();
            let one_pending = self.view.len() == fed + 1 && self.prefill.is_some();
            if let Some(drafter) = drafter.as_deref_mut().filter(|_| one_pending) {
                let left = (self.max_tokens - self.generated()).saturating_sub(1);
                let room = engine.plan().options.ctx - self.view.len();
                let most = self.most_drafts.min(left).min(room);
                drafter.guess(&self.view, most, &mut self.drafts)?;
            }
            let ended = if self.drafts.is_empty() {
                if !self.feed_but_last_step(engine, sequence, listener)? {
                    return Ok(FinishReason::Cancelled);
                }
                let fed = engine.position(sequence);
                let logits = engine.feed(sequence, &self.view[fed..])?;
                self.prefill.get_or_insert_with(|| self.start.elapsed());
                if self.max_tokens == 0 { None } else { self.take(logits, listener)? }
            } else {
                self.verify(engine, sequence, fed, listener)?
            };
            if let Some(finish) = ended {
                return Ok(finish);
            }
        }
        Ok(FinishReason::Length)
    }

    /// Feeds tokens that take several steps, but for those of the last one; false where the caller asked to stop meanwhile.
    fn feed_but_last_step(
        &self,
        engine: &mut Engine,
        sequence: &Sequence,
        listener: &mut impl Listener,
    ) -> Result<bool, Error> {
        let n_batch = engine.plan().options.n_batch;
        loop {
            let rest = &self.view[engine.position(sequence)..];
            if rest.len() <= n_batch {
                return Ok(true);
            }
            if listener.interrupted() {
                return Ok(false);
            }
            engine.step(&[Feed { sequence, tokens: &rest[..n_batch], rows: Rows::None }])?;
        }
    }

    /// Computes the next token and the guesses after it in one step, and keeps what is right.
    fn verify(
        &mut self,
        engine: &mut Engine,
        sequence: &Sequence,
        fed: usize,
        listener: &mut impl Listener,
    ) -> Result<Option<FinishReason>, Error> {
        let vocab = engine.plan().config.vocab;
        let (first, drafts) = (self.view.len(), self.drafts.len());
        self.drafted += drafts;
        self.view.extend_from_slice(&self.drafts);
        let feed = Feed { sequence, tokens: &self.view[fed..], rows: Rows::All };
        let logits = engine.step(&[feed])?;
        self.view.truncate(first);
        let mut ended = None;
        for (i, row) in logits.chunks_exact(vocab).enumerate() {
            let before = self.view.len();
            ended = self.take(row, listener)?;
            let right = self.drafts.get(i).is_some_and(|guess| self.view.get(before) == Some(guess));
            if ended.is_some() || !right {
                break;
            }
            self.accepted += 1;
        }
        // The last token that was drawn is not fed, whether it was guessed or not.
        let keep = self.view.len().saturating_sub(1).max(fed + 1).min(fed + 1 + drafts);
        engine.truncate(sequence, keep)?;
        Ok(ended)
    }

    /// Draws a token from logits; says why it is the last, where it is.
    fn take(&mut self, logits: &[f32], listener: &mut impl Listener) -> Result<Option<FinishReason>, Error> {
        self.digest.update(logits);
        let position = self.history.len() as u64;
        let id = self.sampler.sample(logits, position, &self.history)?;
        self.first_token.get_or_insert_with(|| self.start.elapsed());
        if !self.request.ignore_eos && self.end.contains(&id) {
            return Ok(Some(FinishReason::Stop));
        }
        listener.logits(logits);
        self.history.push(id);
        self.view.push(id);
        let stopped = self.text.push(id);
        let told = listener.text(self.text.news());
        Ok(match (stopped, told) {
            (true, _) => Some(FinishReason::Stop),
            (false, ControlFlow::Break(())) => Some(FinishReason::Cancelled),
            (false, ControlFlow::Continue(())) => None,
        })
    }

    /// Makes room: see [`Shift`].
    fn shift(&mut self, engine: &mut Engine, sequence: &mut Sequence) -> Result<(), Error> {
        let n = self.view.len();
        let keep = self.request.shift.map_or(0, |shift| shift.keep).min(n / 2);
        let dropped = (n - keep).div_ceil(2);
        self.view.drain(keep..keep + dropped);
        engine.restart(sequence, &self.view, engine.plan().options.ctx)
    }

    fn finish(mut self, finish: FinishReason, listener: &mut impl Listener) -> Outcome {
        let total = self.start.elapsed();
        self.text.finish();
        // The generation is over, so nobody is left to cancel it.
        let _: ControlFlow<()> = listener.text(self.text.news());
        let allocations = rin_kernels::alloc::allocations() - self.allocations;
        let first_token = self.first_token.unwrap_or(total);
        Outcome {
            tokens: self.history.split_off(self.request.prompt.len()),
            text: self.text.all,
            finish,
            prefill: self.prefill.unwrap_or(total),
            decode: total.saturating_sub(first_token),
            first_token,
            digest: self.digest.finish(),
            context: self.view,
            cached: self.cached,
            drafted: self.drafted,
            accepted: self.accepted,
            allocations,
        }
    }
}
