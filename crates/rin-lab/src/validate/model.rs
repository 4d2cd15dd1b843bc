//! A model, put to the checks.

use rin_energy::Sensors;
use rin_engine::digest::LogitDigest;
use rin_engine::eval::EvalText;
use rin_engine::tokenizer::Tokenizer;
use rin_engine::topology::Policy;
use rin_engine::{Engine, Feed, LoadOptions, Rows, Sequence};
use rin_kernels::alloc::allocations;
use rin_kernels::ops::lif::{KEEP_ALL, LifNeurons, LifStep, Reset};
use rin_kernels::{Cpu, Tier};
use rin_model::ModelFile;

use super::checks::{Way, first};
use super::thermal::{Thermometers, thermal as watched};
use super::{Measured, Options, checks};
use crate::decoder::{Arithmetic, Decoder, Gate, Seen, cut_off, losses, magnitudes};
use crate::random::Random;
use crate::{Context, Error, Scale};

/// A real text, which the model has not been trained on: sonnets 18, 29, 73 and 116 of Shakespeare, whose plays it was
/// trained on.
const TEXT: &str = include_str!("text.txt");
/// Nats that leaving out may cost.
const MARGIN: f64 = 0.02;
/// Points of a cloud.
const POINTS: usize = 200;
/// Shares of neurons that are left out.
const SHARES: [f64; 20] = [
    0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95,
    0.975,
];
/// The last a little above the threshold, since what is left out is a little less than what is asked for, or more.
const QUICK_SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.91];

/// Steps that are timed, and counted.
fn steps(scale: Scale) -> usize {
    scale.pick(100, 1000)
}

/// The constants of the neurons that are held against their definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What a step keeps of the membrane, of 4096.
    pub keep: u16,
    /// The membrane above which a neuron fires.
    pub threshold: i32,
    /// What firing does to the membrane.
    pub reset: Reset,
}

impl Rule {
    /// An eighth leaks, and a neuron that fires begins anew.
    const DEFINED: Self = Self { keep: KEEP_ALL - 512, threshold: 9_000, reset: Reset::Zero };
}

/// What the checks look at. Whoever exchanges a part breaks what a check measures.
pub struct Subject {
    /// The model in the engine.
    pub engine: Engine,
    /// The same weights in floats.
    pub decoder: Decoder,
    /// The neurons that the kernels compute; the definition's are others where this is changed.
    pub rule: Rule,
    /// Done in each step of generation, beside it: nothing.
    pub each_step: Box<dyn FnMut()>,
    /// Done to the engine before each way to compute: nothing.
    pub each_way: Box<dyn FnMut(&mut Engine)>,
    /// What sensors of temperature said before.
    pub cold: Thermometers,
    /// The text, as far as it fills windows of the whole context, and the token after it.
    text: Vec<u32>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("rule", &self.rule).field("cold", &self.cold).finish_non_exhaustive()
    }
}

/// An engine with room for the whole context of a model and the logits of every position.
///
/// # Errors
/// As [`Engine::load`].
pub fn engine(file: ModelFile) -> Result<Engine, Error> {
    let ctx = file.config()?.ctx;
    let options = LoadOptions { ctx: Some(ctx), n_logits: ctx, n_batch: ctx, ..LoadOptions::default() };
    Ok(Engine::load(file, &options, |_| {})?)
}

impl Subject {
    /// A model that speaks characters of the text; `cold` is what sensors of temperature said before.
    ///
    /// # Errors
    /// Where it cannot be loaded, or its context is too long for the text.
    pub fn new(file: ModelFile, cold: Thermometers) -> Result<Self, Error> {
        let ctx = file.config()?.ctx;
        let decoder = Decoder::read(&file)?;
        let mut text = EvalText::encode(&Tokenizer::of_model(&file)?, TEXT, None)?.ids;
        let windows = text.len().saturating_sub(1) / ctx.max(1);
        if windows < 2 {
            return Err(Error::input("model", format!("its context of {ctx} is too long for the suite's text")));
        }
        text.truncate(windows * ctx + 1);
        Ok(Self {
            engine: engine(file)?,
            decoder,
            rule: Rule::DEFINED,
            each_step: Box::new(|| {}),
            each_way: Box::new(|_| {}),
            cold,
            text,
        })
    }

    /// The text that a scale reads: windows of a whole context.
    fn windows(&self, scale: Scale) -> &[u32] {
        let ctx = self.decoder.config().ctx;
        &self.text[..scale.pick(3 * ctx, self.text.len() - 1).min(self.text.len() - 1)]
    }

    /// Generates for as long as `run` calls for steps.
    fn generating<T>(&mut self, run: impl FnOnce(&mut dyn FnMut() -> Result<(), Error>) -> T) -> Result<T, Error> {
        let Self { engine, each_step, .. } = self;
        let sequence = engine.sequence()?;
        let mut token = 0;
        let found = run(&mut || {
            each_step();
            generate(engine, &sequence, &mut token)
        });
        engine.release(sequence);
        Ok(found)
    }
}

/// One step of generation; the context begins anew where it is full.
fn generate(engine: &mut Engine, sequence: &Sequence, token: &mut u32) -> Result<(), Error> {
    if engine.position(sequence) >= engine.plan().options.ctx {
        engine.truncate(sequence, 0)?;
    }
    *token = first(engine.feed(sequence, &[*token])?) as u32;
    Ok(())
}

pub(super) fn joule(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let sensors = Sensors::discover(options.sys_root);
    subject.generating(|step| {
        checks::joule(&sensors, options.energy, threshold, || {
            context.check()?;
            (0..64).try_for_each(|_| step())?;
            Ok(64)
        })
    })?
}

pub(super) fn fidelity(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let (ctx, n_vocab) = (subject.decoder.config().ctx, subject.decoder.config().vocab);
    let text = subject.windows(options.scale).to_vec();
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for window in text.chunks_exact(ctx) {
        context.check()?;
        let sequence = subject.engine.sequence()?;
        let fed = subject.engine.feed_all(&sequence, window, |row| found.extend_from_slice(row));
        subject.engine.release(sequence);
        fed?;
        expected.extend(subject.decoder.logits(window, &Arithmetic::FLOAT, None)?);
    }
    let targets = &subject.text[1..=text.len()];
    Ok(checks::fidelity(&found, &expected, targets, n_vocab, threshold))
}

pub(super) fn latency(
    subject: &mut Subject,
    options: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    subject.generating(|step| checks::latency(steps(options.scale), threshold, step))?
}

pub(super) fn thermal(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let cold = subject.cold.clone();
    subject.generating(|step| {
        watched(&cold, options.heat, threshold, || {
            context.check()?;
            (0..32).try_for_each(|_| step())
        })
    })?
}

/// Digests of a text's logits over tiers, threads and chunks, and neurons of every tier against their definition.
pub(super) fn numerical(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let (length, most_threads, chunks): (usize, usize, &[usize]) =
        options.scale.pick((32, 2, &[1, 16]), (128, 3, &[1, 7, 64]));
    let text = subject.windows(options.scale)[..length].to_vec();
    let Subject { engine, each_way, rule, .. } = subject;
    let mut ways = Vec::new();
    let (before, threads) = (engine.tier(), engine.threads());
    for tier in Cpu::detect().tiers() {
        for threads in 1..=most_threads {
            context.check()?;
            engine.reconfigure(tier, threads, Policy::None)?;
            each_way(engine);
            for chunk in chunks {
                engine.forget_prefixes();
                let name = format!("tier {}, {threads} threads, {chunk} at a time", tier.name());
                ways.push(Way { name, digest: digest(engine, &text, *chunk)? });
            }
        }
    }
    engine.reconfigure(before, threads, Policy::None)?;
    let (mut fired, mut expected) = (Vec::new(), Vec::new());
    for tier in Cpu::detect().tiers() {
        neurons(tier, *rule, &mut fired, &mut expected);
    }
    Ok(checks::numerical(&ways, &fired, &expected, threshold))
}

fn digest(engine: &mut Engine, window: &[u32], chunk: usize) -> Result<String, Error> {
    let mut digest = LogitDigest::new();
    let n_vocab = engine.plan().config.vocab;
    let sequence = engine.sequence()?;
    for tokens in window.chunks(chunk) {
        let feed = Feed { sequence: &sequence, tokens, rows: Rows::All };
        for row in engine.step(&[feed])?.chunks_exact(n_vocab) {
            digest.update(row);
        }
    }
    engine.release(sequence);
    Ok(digest.finish().to_string())
}

/// Which of 256 neurons fire over 400 steps: by the kernel of a tier, and by the definition of [`Rule::DEFINED`] written out.
fn neurons(tier: Tier, rule: Rule, found: &mut Vec<bool>, expected: &mut Vec<bool>) {
    const NEURONS: usize = 256;
    let step = LifStep::select(&Cpu::detect().up_to(tier));
    let (keep, threshold, zeros) = (vec![rule.keep; NEURONS], vec![rule.threshold; NEURONS], vec![0; NEURONS]);
    let neurons = LifNeurons {
        keep_v: &keep,
        keep_u: &[],
        threshold: &threshold,
        current: &zeros,
        bias: &zeros,
        shift: 0,
        reset: rule.reset,
    };
    let (mut v, mut fired, mut defined) = (vec![0; NEURONS], vec![0; NEURONS], vec![0_i32; NEURONS]);
    let mut random = Random::new(3, 701);
    for _ in 0..400 {
        let current: Vec<i32> = (0..NEURONS).map(|_| (4000.0 * random.normal()) as i32).collect();
        step.run(&mut v, &mut [], &mut fired, &current, neurons);
        found.extend(fired.iter().map(|fired| *fired != 0));
        for (v, current) in defined.iter_mut().zip(&current) {
            // An eighth leaks, rounded up, towards zero.
            let left = v.abs() - ((v.abs() + 7) >> 3);
            *v = v.signum() * left + current;
            expected.push(*v > Rule::DEFINED.threshold);
            if *v > Rule::DEFINED.threshold {
                *v = 0;
            }
        }
    }
}

/// Hidden values below their layer's threshold are left out; thresholds are quantiles of those of the first window.
pub(super) fn sparsity(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let mut seen = Seen::default();
    let (first, text) = subject.windows(options.scale).split_at(subject.decoder.config().ctx);
    subject.decoder.logits(first, &Arithmetic::FLOAT, Some(&mut seen))?;
    let sizes: Vec<Vec<f32>> = seen.hidden.iter().map(|values| magnitudes(values)).collect();
    let decoder = &subject.decoder;
    let shares: &[f64] = options.scale.pick(&QUICK_SHARES, &SHARES);
    let found = checks::sparsity(MARGIN, threshold, shares, |share| {
        let thresholds = || sizes.iter().map(|sizes| cut_off(sizes, share)).collect();
        let gate = if share > 0.0 { Gate::Hidden(thresholds()) } else { Gate::All };
        let (found, left_out) = losses(decoder, text, &Arithmetic { gate, ..Arithmetic::FLOAT }, context)?;
        Ok((found.iter().sum::<f64>() / found.len().max(1) as f64, left_out))
    })?;
    let of = format!("; {} tokens, thresholds from {} before them", text.len(), first.len());
    Ok(Measured { detail: found.detail.clone() + &of, ..found })
}

pub(super) fn memory(
    subject: &mut Subject,
    options: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    subject.generating(|step| checks::memory(steps(options.scale), threshold, allocations, step))?
}

pub(super) fn topology(
    subject: &mut Subject,
    _: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let width = subject.decoder.config().dim;
    let tokens = &subject.text[..POINTS];
    let mut seen = Seen::default();
    subject.decoder.logits(tokens, &Arithmetic::FLOAT, Some(&mut seen))?;
    let expected = seen.norms.pop().unwrap_or_default();
    let mut found = Vec::new();
    let sequence = subject.engine.sequence()?;
    let feed = Feed { sequence: &sequence, tokens, rows: Rows::All };
    let stepped = subject.engine.step_traced(&[feed], |trace| {
        if trace.operation == "select" {
            found.extend_from_slice(trace.values);
        }
    });
    stepped?;
    subject.engine.release(sequence);
    checks::topology(&found, &expected, width, threshold)
}
