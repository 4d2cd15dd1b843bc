//! What lies behind a handle: a model, its settings and its sums.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use rin_energy::tuner::PowerTuner;
use rin_energy::{Error as EnergyError, Meter, Pacer, Reading, Record, Sensors, Span};
use rin_engine::generate::{FinishReason, Listener, Outcome, Request, generate};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::topology::Policy;
use rin_engine::{Engine, LoadOptions};
use rin_kernels::{FloatEnv, FloatScope};
use rin_model::ModelFile;

use crate::failure::{Failure, invalid};
use crate::types::{RIN_TEXT_CONTROL, RIN_TEXT_NO_SPECIAL, RinCallback, RinMode, RinStatus};

/// A loaded model.
#[derive(Debug)]
struct Model {
    engine: Engine,
    /// None where the file has none: ids work without.
    tokenizer: Option<Tokenizer>,
    /// As it was loaded.
    options: LoadOptions,
}

/// Everything that a handle stands for.
#[derive(Debug)]
pub(crate) struct Context {
    model: Option<Model>,
    /// Temperature, top-k and top-p; the rest comes with each generation.
    sampling: SamplingParams,
    sensors: Sensors,
    meter: Result<Meter, EnergyError>,
    pacer: Option<Pacer>,
    totals: Totals,
}

/// Sums over all generations of a context.
#[derive(Debug, Default)]
struct Totals {
    inferences: u64,
    tokens: u64,
    energy: Option<Span>,
    /// Why the sum of the energy is not known.
    lost: Option<EnergyError>,
}

/// A generation, with what was measured beside it.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) outcome: Outcome,
    pub(crate) prompt_tokens: usize,
    pub(crate) latency: Duration,
    pub(crate) energy: Record,
}

/// Whether and how text is turned into ids.
pub(crate) fn encode_options(flags: u32) -> Result<EncodeOptions, Failure> {
    if flags & !(RIN_TEXT_NO_SPECIAL | RIN_TEXT_CONTROL) != 0 {
        return Err(invalid(format!("flags of text are RIN_TEXT_NO_SPECIAL and RIN_TEXT_CONTROL, not {flags:#x}")));
    }
    let (no_special, control) = (flags & RIN_TEXT_NO_SPECIAL != 0, flags & RIN_TEXT_CONTROL != 0);
    Ok(EncodeOptions { add_special: !no_special, parse_special: control })
}

/// Nothing but the network that this version runs.
pub(crate) fn check_mode(mode: i32) -> Result<(), Failure> {
    let other = [RinMode::Mlp, RinMode::Snn, RinMode::Attn, RinMode::Thor];
    if mode == RinMode::Transformer as i32 {
        return Ok(());
    }
    if let Some(mode) = other.into_iter().find(|other| *other as i32 == mode) {
        let message = format!("this version runs transformers, not the mode {mode:?}");
        return Err(Failure::new(RinStatus::Unsupported, "NoPlan", message));
    }
    Err(invalid(format!("a mode is one of RinMode, not {mode}")))
}

/// Options for a host program: its thread is its own.
pub(crate) fn default_load_options() -> LoadOptions {
    LoadOptions { affinity: Policy::None, text: Some(SamplingParams::default()), ..LoadOptions::default() }
}

impl Context {
    /// Looks for sensors; loads nothing.
    pub(crate) fn new() -> Self {
        let root = std::env::var_os("RIN_SYS_ROOT").filter(|root| !root.is_empty());
        let sensors = Sensors::discover(root.as_ref().map_or(Path::new("/"), Path::new));
        let meter = sensors.meter().and_then(|mut meter| meter.watch().map(|()| meter));
        let (sampling, totals) = (SamplingParams::default(), Totals::default());
        Self { model: None, sampling, sensors, meter, pacer: None, totals }
    }

    /// Loads a model in the place of that which is loaded.
    pub(crate) fn load(&mut self, path: &str, options: &LoadOptions) -> Result<(), Failure> {
        // First, so that two models never have to fit.
        self.unload();
        let _float = FloatEnv::scope();
        let file = ModelFile::open(Path::new(path))?;
        let tokenizer = match Tokenizer::of_model(&file) {
            Ok(tokenizer) => Some(tokenizer),
            // A model of ids alone.
            Err(_) if file.tokenizer().is_err() => None,
            Err(error) => return Err(error.into()),
        };
        let engine = Engine::load(file, options, |_| {})?;
        self.pacer = self.pacer.take().map(|pacer| paced(pacer.tuner().clone(), &engine));
        self.model = Some(Model { engine, tokenizer, options: options.clone() });
        Ok(())
    }

    /// Lets the model go, where one is loaded.
    pub(crate) fn unload(&mut self) {
        self.model = None;
    }

    fn model(&self) -> Result<&Model, Failure> {
        self.model.as_ref().ok_or_else(not_loaded)
    }

    /// The engine of the model.
    pub(crate) fn engine(&self) -> Result<&Engine, Failure> {
        Ok(&self.model()?.engine)
    }

    /// How the model was loaded.
    pub(crate) fn options(&self) -> Result<&LoadOptions, Failure> {
        Ok(&self.model()?.options)
    }

    fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        self.model()?.tokenizer.as_ref().ok_or_else(|| {
            Failure::new(
                RinStatus::Unsupported,
                "MissingTokenizer",
                "the model has no tokenizer; give ids in place of text",
            )
        })
    }

    /// Changes the settings, where they are within their ranges.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut SamplingParams)) -> Result<(), Failure> {
        let mut sampling = self.sampling.clone();
        change(&mut sampling);
        sampling.validate(1)?;
        self.sampling = sampling;
        Ok(())
    }

    /// The settings.
    pub(crate) fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    /// Holds the mean power of generations at a budget; 0 lifts it.
    pub(crate) fn set_power_budget(&mut self, watts: f64) -> Result<(), Failure> {
        if watts == 0.0 {
            self.pacer = None;
            if let Some(model) = &mut self.model {
                model.engine.set_active_threads(usize::MAX);
            }
            return Ok(());
        }
        let tuner = PowerTuner::for_machine(watts, &self.sensors)?;
        self.pacer = Some(match &self.model {
            Some(model) => paced(tuner, &model.engine),
            None => Pacer::new(tuner),
        });
        Ok(())
    }

    /// The ids of a text.
    pub(crate) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Failure> {
        Ok(self.tokenizer()?.encode(text, options).map_err(rin_engine::Error::from)?)
    }

    /// The text of ids.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        let tokenizer = self.tokenizer()?;
        let n_vocab = tokenizer.vocab_size();
        match ids.iter().find(|&&id| id as usize >= n_vocab) {
            Some(&id) => Err(rin_engine::Error::UnknownToken { id, n_vocab }.into()),
            None => Ok(tokenizer.decode(ids)),
        }
    }

    /// Runs a request.
    pub(crate) fn generate(&mut self, request: &Request, callback: Callback) -> Result<Generated, Failure> {
        let float = FloatEnv::scope();
        let model = self.model.as_mut().ok_or_else(not_loaded)?;
        let meter = self.meter.as_ref();
        let read = || meter.ok().map(Meter::read);
        if let Some(pacer) = &mut self.pacer {
            pacer.pause();
        }
        let pacing = self.pacer.as_mut().zip(meter.ok());
        let mut listener = Heard { callback, pacing, float: &float, line: Vec::new() };
        let (clock, began) = (Instant::now(), read());
        let outcome = generate(&mut model.engine, model.tokenizer.as_ref(), request, &mut listener)?;
        let (latency, ended) = (clock.elapsed(), read());
        let n_tokens = outcome.tokens.len() as u64;
        let energy = self.totals.add(meter, &[began, ended], n_tokens);
        Ok(Generated { outcome, prompt_tokens: request.prompt.len(), latency, energy })
    }

    /// Energy of all generations, in J.
    pub(crate) fn joules(&self) -> Result<f64, Failure> {
        let meter = self.meter.as_ref().map_err(Clone::clone)?;
        if let Some(error) = &self.totals.lost {
            return Err(error.clone().into());
        }
        let Some(span) = self.totals.energy else {
            return Err(Failure::new(
                RinStatus::Unmeasured,
                "NotStarted",
                "nothing was generated, so nothing was measured",
            ));
        };
        let record = Record::sum(&[span], 0, meter);
        let reason = record.reason.unwrap_or_default();
        record.joules.ok_or_else(|| Failure::new(RinStatus::Unmeasured, "BelowResolution", reason))
    }

    /// Generations that have ended, and tokens that they gave.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [self.totals.inferences, self.totals.tokens]
    }

    /// Time of a step of one token after four others: the mean over `iterations`, after as many as `warmup` that do not
    /// count.
    pub(crate) fn profile(&mut self, warmup: u32, iterations: u32) -> Result<Duration, Failure> {
        /// A short text; what it says makes no difference.
        const PROMPT: [u32; 4] = [0, 1, 2, 3];
        if iterations == 0 {
            return Err(invalid("iterations is 0: at least one has to be timed"));
        }
        let _float = FloatEnv::scope();
        let model = self.model.as_mut().ok_or_else(not_loaded)?;
        let engine = &mut model.engine;
        // Ids below the vocabulary, however small.
        let prompt = PROMPT.map(|id| id % u32::try_from(engine.plan().config.vocab).unwrap_or(u32::MAX).max(1));
        let sequence = engine.sequence()?;
        let mut timed = || -> Result<Duration, rin_engine::Error> {
            engine.feed(&sequence, &prompt)?;
            let mark = engine.mark(&sequence);
            let mut spent = Duration::ZERO;
            for n in 0..u64::from(warmup) + u64::from(iterations) {
                let start = Instant::now();
                engine.feed(&sequence, &PROMPT[..1])?;
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

/// A pacer that may choose among the threads of an engine.
fn paced(tuner: PowerTuner, engine: &Engine) -> Pacer {
    Pacer::new(tuner.with_threads(engine.threads()))
}

fn not_loaded() -> Failure {
    Failure::new(RinStatus::NotInitialized, "NotLoaded", "no model is loaded; call rin_load_model first")
}

impl Totals {
    /// Adds a generation, and gives its own energy.
    fn add(&mut self, meter: Result<&Meter, &EnergyError>, ends: &[Option<Reading>; 2], tokens: u64) -> Record {
        self.inferences += 1;
        self.tokens += tokens;
        let (meter, [Some(began), Some(ended)]) = (meter, ends) else {
            return Record::unmeasured(meter.err().unwrap_or(&EnergyError::NotStarted));
        };
        let Ok(meter) = meter else { return Record::unmeasured(&EnergyError::NotStarted) };
        match meter.span(began, ended) {
            Ok(span) => {
                self.energy = Some(self.energy.map_or(span, |sum| sum + span));
                Record::sum(&[span], tokens, meter)
            }
            Err(error) => {
                let record = Record::unmeasured(&error);
                self.lost = Some(error);
                record
            }
        }
    }
}

/// A function of the host, and what it wants to be called with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callback {
    function: RinCallback,
    user: *mut c_void,
}

impl Callback {
    /// Nobody.
    pub(crate) const NONE: Self = Self { function: None, user: std::ptr::null_mut() };

    /// # Safety
    /// The function may be called with `user`, as `RinCallback` says, until the call that it was given to returns.
    pub(crate) unsafe fn new(function: RinCallback, user: *mut c_void) -> Self {
        Self { function, user }
    }
}

/// Hands text on, and rests where a power budget asks for it.
struct Heard<'a> {
    callback: Callback,
    pacing: Option<(&'a mut Pacer, &'a Meter)>,
    float: &'a FloatScope,
    /// The text with a zero after it.
    line: Vec<u8>,
}

impl Listener for Heard<'_> {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        let Some(function) = self.callback.function.filter(|_| !text.is_empty()) else {
            return ControlFlow::Continue(());
        };
        self.line.clear();
        self.line.extend_from_slice(text.as_bytes());
        self.line.push(0);
        let (line, user) = (self.line.as_ptr().cast::<c_char>(), self.callback.user);
        // SAFETY: who made the callback allows this; the line lives until it is changed by the next call.
        let answer = self.float.outside(|| unsafe { function(line, text.len(), user) });
        if answer == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn cancelled(&mut self) -> bool {
        if let Some((pacer, meter)) = &mut self.pacing {
            pacer.step(meter);
        }
        false
    }

    fn threads(&mut self) -> Option<usize> {
        self.pacing.as_ref().map(|(pacer, _)| pacer.tuner().pace().threads)
    }
}

/// Why a generation ended, for C.
pub(crate) fn finish(reason: FinishReason) -> crate::types::RinFinish {
    use crate::types::RinFinish;
    match reason {
        FinishReason::Stop => RinFinish::Stop,
        FinishReason::Length => RinFinish::Length,
        FinishReason::Cancelled => RinFinish::Cancelled,
    }
}
