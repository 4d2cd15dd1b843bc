//! Models that continue text.

use std::ops::ControlFlow;
use std::time::Duration;

use rin_energy::{Meter, Pacer, Record};
use rin_engine::generate::{Listener, Outcome, Request, generate};
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::{Engine, Error as EngineError, LoadOptions, Plan, Sequence};
use rin_kernels::FloatScope;
use rin_model::ModelFile;

use crate::session::Hear;
use crate::{Failure, RinStatus};

/// A generation, with what was measured beside it.
#[derive(Debug)]
pub struct Generated {
    /// Tokens, text, times and the digest.
    pub outcome: Outcome,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time of all of it.
    pub latency: Duration,
    /// Its energy.
    pub energy: Record,
}

/// Which rows of logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// Those after every token.
    All,
    /// Those after the last token. What the last such call computed of the same tokens is not computed again.
    Last,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct TextModel {
    pub(crate) engine: Engine,
    /// None where the file has none: ids work without.
    tokenizer: Option<Tokenizer>,
    /// As it was loaded.
    pub(crate) options: LoadOptions,
    /// The text that logits were asked of last.
    open: Option<Open>,
}

/// Tokens in the cache between two calls.
#[derive(Debug)]
struct Open {
    sequence: Sequence,
    ids: Vec<u32>,
}

impl TextModel {
    pub(crate) fn load(file: ModelFile, options: &LoadOptions) -> Result<Self, Failure> {
        let tokenizer = match Tokenizer::of_model(&file) {
            Ok(tokenizer) => Some(tokenizer),
            // A model of ids alone.
            Err(_) if file.tokenizer().is_err() => None,
            Err(error) => return Err(error.into()),
        };
        let engine = Engine::load(file, options, |_| {})?;
        Ok(Self { engine, tokenizer, options: options.clone(), open: None })
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.engine.plan()
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        self.tokenizer.as_ref().ok_or_else(|| {
            let message = "the model has no tokenizer; give ids in place of text";
            Failure::new(RinStatus::Unsupported, "MissingTokenizer", message)
        })
    }

    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Failure> {
        Ok(self.tokenizer()?.encode(text, options).map_err(EngineError::from)?)
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        let tokenizer = self.tokenizer()?;
        let n_vocab = tokenizer.vocab_size();
        match ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(&id) => Err(EngineError::UnknownToken { id, n_vocab }.into()),
            None => Ok(tokenizer.decode(ids)),
        }
    }

    pub(crate) fn generate(&mut self, request: &Request, listener: &mut Heard<'_>) -> Result<Outcome, Failure> {
        self.end();
        Ok(generate(&mut self.engine, self.tokenizer.as_ref(), request, listener)?)
    }

    /// Gives the place of the open text back; its pages stay for prompts that begin alike.
    pub(crate) fn end(&mut self) {
        if let Some(Open { sequence, .. }) = self.open.take() {
            self.engine.release(sequence);
        }
    }

    /// The logits after `ids`; `each` gets every row that is wanted, `(vocab)`.
    pub(crate) fn logits(&mut self, ids: &[u32], rows: LogitRows, mut each: impl FnMut(&[f32])) -> Result<(), Failure> {
        let (mut sequence, mut held) = match self.open.take() {
            Some(Open { sequence, ids }) => (sequence, ids),
            None => (self.engine.sequence()?, Vec::new()),
        };
        let alike = held.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let keep = if rows == LogitRows::All { 0 } else { alike.min(ids.len().saturating_sub(1)) };
        let fed = self.resume(&mut sequence, keep).and_then(|keep| {
            let news = ids.get(keep..).unwrap_or_default();
            match rows {
                LogitRows::All => self.engine.feed_all(&sequence, news, &mut each),
                LogitRows::Last => self.engine.feed(&sequence, news).map(&mut each),
            }
        });
        if let Err(error) = fed {
            self.engine.release(sequence);
            return Err(error.into());
        }
        held.clear();
        held.extend_from_slice(ids);
        self.open = Some(Open { sequence, ids: held });
        Ok(())
    }

    /// Goes back to the first `keep` tokens, or to none where a window has left them behind; says how many are left.
    fn resume(&mut self, sequence: &mut Sequence, keep: usize) -> Result<usize, EngineError> {
        match self.engine.truncate(sequence, keep) {
            Ok(()) => Ok(keep),
            Err(EngineError::OutOfWindow { .. } | EngineError::CacheFull { .. }) => {
                let ctx = self.engine.plan().options.ctx;
                self.engine.restart(sequence, &[], ctx).map(|()| 0)
            }
            Err(error) => Err(error),
        }
    }

    /// Time of a step of one token after four others: the mean over `iterations`, after as many as `warmup` that do not
    /// count.
    pub(crate) fn profile(&mut self, warmup: u32, iterations: u32) -> Result<Duration, Failure> {
        /// A short text; what it says makes no difference.
        const PROMPT: [u32; 4] = [0, 1, 2, 3];
        self.end();
        let engine = &mut self.engine;
        // Ids below the vocabulary, however small.
        let prompt = PROMPT.map(|id| id % u32::try_from(engine.plan().config.vocab).unwrap_or(u32::MAX).max(1));
        let [first, ..] = PROMPT;
        let sequence = engine.sequence()?;
        let mut timed = || -> Result<Duration, EngineError> {
            engine.feed(&sequence, &prompt)?;
            let mark = engine.mark(&sequence);
            let mut spent = Duration::ZERO;
            for n in 0..u64::from(warmup) + u64::from(iterations) {
                let start = std::time::Instant::now();
                engine.feed(&sequence, &[first])?;
                if n >= u64::from(warmup) {
                    spent += start.elapsed();
                }
                engine.rewind(&sequence, &mark)?;
            }
            Ok(spent / iterations)
        };
        let found = timed();
        engine.release(sequence);
        Ok(found?)
    }
}

/// Hands text on, and rests where a power budget asks for it.
pub(crate) struct Heard<'a> {
    pub(crate) hear: &'a mut dyn Hear,
    pub(crate) pacing: Option<(&'a mut Pacer, &'a Meter)>,
    pub(crate) float: &'a FloatScope,
}

impl Listener for Heard<'_> {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.float.outside(|| self.hear.text(text))
    }

    fn cancelled(&mut self) -> bool {
        if let Some((pacer, meter)) = &mut self.pacing {
            pacer.step(meter);
        }
        self.float.outside(|| self.hear.cancelled())
    }

    fn interrupted(&mut self) -> bool {
        self.float.outside(|| self.hear.cancelled())
    }

    fn threads(&mut self) -> Option<usize> {
        self.pacing.as_ref().map(|(pacer, _)| pacer.tuner().pace().threads)
    }
}
