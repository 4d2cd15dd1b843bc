//! The model inside the binary, put to the checks.

use rin_energy::Sensors;
use rin_energy::protocol::Protocol;
use rin_engine::digest::LogitDigest;
use rin_engine::topology::Policy;
use rin_engine::{Engine, Feed, LoadOptions, Rows, Sequence};
use rin_kernels::alloc::allocations;
use rin_kernels::ops::lif::{KEEP_ALL, LifNeurons, LifStep, Reset};
use rin_kernels::{Cpu, Tier};

use super::{Measured, Options, checks};
use crate::decoder::{Arithmetic, Decoder, Gate, Seen, losses};
use crate::random::Random;
use crate::{Context, Error};

/// Tokens of the text that checks read: windows of the model's context, written by the model itself.
const WINDOWS: usize = 4;
/// Steps that are timed, and counted.
const STEPS: usize = 1000;
/// Nats that leaving out may cost.
const MARGIN: f64 = 0.02;
/// Points of a cloud.
const POINTS: usize = 200;

/// The model in the engine and in floats, and a text.
pub(super) struct Subject {
    engine: Engine,
    decoder: Decoder,
    /// Windows of a whole context.
    text: Vec<Vec<u32>>,
}

impl Subject {
    pub(super) fn load() -> Result<Self, Error> {
        let ctx = rin_embedded::model()?.config()?.ctx;
        let options = LoadOptions { ctx: Some(ctx), n_logits: ctx, n_batch: ctx, ..LoadOptions::default() };
        let mut engine = Engine::load(rin_embedded::model()?, &options, |_| {})?;
        let decoder = Decoder::read(&rin_embedded::model()?)?;
        let text = (0..WINDOWS).map(|seed| written(&mut engine, ctx, seed as u32)).collect::<Result<_, _>>()?;
        Ok(Self { engine, decoder, text })
    }

    fn n_vocab(&self) -> usize {
        self.decoder.config().vocab
    }

    /// Logits of every position of every window, by the engine.
    fn logits(&mut self) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        for window in &self.text {
            let sequence = self.engine.sequence()?;
            let fed = self.engine.feed_all(&sequence, window, |row| logits.extend_from_slice(row));
            self.engine.release(sequence);
            fed?;
        }
        Ok(logits)
    }
}

/// One step of generation; the context begins anew where it is full.
fn generate(engine: &mut Engine, sequence: &Sequence, token: &mut u32) -> Result<(), Error> {
    if engine.position(sequence) >= engine.plan().options.ctx {
        engine.truncate(sequence, 0)?;
    }
    let logits = engine.feed(sequence, &[*token])?;
    *token = first(logits);
    Ok(())
}

fn first(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, x)| if *x > b.1 { (i, *x) } else { b });
    best.0 as u32
}

/// A text of the model: drawn from its own distribution.
fn written(engine: &mut Engine, length: usize, seed: u32) -> Result<Vec<u32>, Error> {
    let mut random = Random::new(seed, 700);
    let mut tokens = vec![random.below(engine.plan().config.vocab.min(64)) as u32];
    let sequence = engine.sequence()?;
    while tokens.len() < length {
        let last = tokens[tokens.len() - 1];
        let logits: Vec<f64> = engine.feed(&sequence, &[last])?.iter().map(|x| f64::from(*x)).collect();
        let mut left = random.uniform();
        let p = crate::softmax::float(&logits);
        let drawn = p.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        tokens.push(drawn.unwrap_or(0) as u32);
    }
    engine.release(sequence);
    Ok(tokens)
}

pub(super) fn joule(
    subject: &mut Subject,
    options: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let sensors = Sensors::discover(options.sys_root);
    let engine = &mut subject.engine;
    let sequence = engine.sequence()?;
    let mut token = 0;
    let found = checks::joule(&sensors, Protocol::default(), threshold, || {
        (0..64).try_for_each(|_| generate(engine, &sequence, &mut token))?;
        Ok(64)
    });
    engine.release(sequence);
    found
}

pub(super) fn fidelity(
    subject: &mut Subject,
    _: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let found = subject.logits()?;
    let mut expected = Vec::with_capacity(found.len());
    for window in &subject.text {
        context.check()?;
        expected.extend(subject.decoder.logits(window, &Arithmetic::FLOAT, None)?);
    }
    Ok(checks::fidelity(&found, &expected, subject.n_vocab(), threshold))
}

pub(super) fn latency(
    subject: &mut Subject,
    _: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let engine = &mut subject.engine;
    let sequence = engine.sequence()?;
    let mut token = 0;
    let found = checks::latency(STEPS, threshold, || generate(engine, &sequence, &mut token));
    engine.release(sequence);
    found
}

pub(super) fn thermal(
    subject: &mut Subject,
    options: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let engine = &mut subject.engine;
    let sequence = engine.sequence()?;
    let mut token = 0;
    let found = checks::thermal(options.sys_root, options.heat, threshold, || {
        context.check()?;
        (0..256).try_for_each(|_| generate(engine, &sequence, &mut token))
    });
    engine.release(sequence);
    found
}

/// Digests of the first window's logits over tiers, threads and chunks, and neurons against their definition.
pub(super) fn numerical(
    subject: &mut Subject,
    _: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let window = subject.text[0].clone();
    let mut digests = Vec::new();
    let (before, threads) = (subject.engine.tier(), subject.engine.threads());
    for tier in Cpu::detect().tiers() {
        for threads in [1, 2, 3] {
            context.check()?;
            subject.engine.reconfigure(tier, threads, Policy::None)?;
            for chunk in [1, 7, 64] {
                subject.engine.forget_prefixes();
                digests.push(digest(&mut subject.engine, &window, chunk)?);
            }
        }
    }
    subject.engine.reconfigure(before, threads, Policy::None)?;
    let (fired, expected) = neurons(Cpu::detect().tiers().last().unwrap_or(Tier::Scalar));
    Ok(checks::numerical(&digests, &fired, &expected, threshold))
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

/// Which of 256 neurons fire over 400 steps: by the kernel of a tier, and by the definition written out.
fn neurons(tier: Tier) -> (Vec<bool>, Vec<bool>) {
    const NEURONS: usize = 256;
    const THRESHOLD: i32 = 9_000;
    let step = LifStep::select(&Cpu::detect().up_to(tier));
    let (keep, threshold, zeros) = (vec![KEEP_ALL - 512; NEURONS], vec![THRESHOLD; NEURONS], vec![0; NEURONS]);
    let neurons = LifNeurons {
        keep_v: &keep,
        keep_u: &[],
        threshold: &threshold,
        current: &zeros,
        bias: &zeros,
        shift: 0,
        reset: Reset::Zero,
    };
    let (mut v, mut fired, mut defined) = (vec![0; NEURONS], vec![0; NEURONS], vec![0_i32; NEURONS]);
    let mut random = Random::new(3, 701);
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        let current: Vec<i32> = (0..NEURONS).map(|_| (4000.0 * random.normal()) as i32).collect();
        step.run(&mut v, &mut [], &mut fired, &current, neurons);
        found.extend(fired.iter().map(|fired| *fired != 0));
        for (v, current) in defined.iter_mut().zip(&current) {
            // An eighth leaks, rounded up, towards zero.
            let left = v.abs() - ((v.abs() + 7) >> 3);
            *v = v.signum() * left + current;
            expected.push(*v > THRESHOLD);
            if *v > THRESHOLD {
                *v = 0;
            }
        }
    }
    (found, expected)
}

/// Hidden values below their layer's threshold are left out; thresholds are quantiles of those of the first window.
pub(super) fn sparsity(
    subject: &mut Subject,
    _: &Options<'_>,
    context: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let mut seen = Seen::default();
    subject.decoder.logits(&subject.text[0], &Arithmetic::FLOAT, Some(&mut seen))?;
    let sizes: Vec<Vec<f32>> = seen
        .hidden
        .iter()
        .map(|values| {
            let mut sizes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
            sizes.sort_unstable_by(f32::total_cmp);
            sizes
        })
        .collect();
    let text: Vec<u32> = subject.text[1..].concat();
    let decoder = &subject.decoder;
    let found = checks::sparsity(MARGIN, threshold, |share| {
        let at = |sizes: &Vec<f32>| match share {
            share if share >= 1.0 => f32::INFINITY,
            share => sizes[((sizes.len() as f64 * share) as usize).min(sizes.len() - 1)],
        };
        let gate = if share > 0.0 { Gate::Hidden(sizes.iter().map(at).collect()) } else { Gate::All };
        let (found, left_out) = losses(decoder, &text, &Arithmetic { gate, ..Arithmetic::FLOAT }, context)?;
        Ok((found.iter().sum::<f64>() / found.len().max(1) as f64, left_out))
    })?;
    let of = format!("; {} tokens that the model wrote itself, a text that it finds easy", text.len());
    Ok(Measured { detail: found.detail.clone() + &of, ..found })
}

pub(super) fn memory(
    subject: &mut Subject,
    _: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let engine = &mut subject.engine;
    let sequence = engine.sequence()?;
    let mut token = 0;
    let found = checks::memory(STEPS, threshold, allocations, || generate(engine, &sequence, &mut token));
    engine.release(sequence);
    found
}

pub(super) fn topology(
    subject: &mut Subject,
    _: &Options<'_>,
    _: &Context<'_>,
    threshold: f64,
) -> Result<Measured, Error> {
    let width = subject.decoder.config().dim;
    let tokens = &subject.text[0][..POINTS];
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
