//! A thread of its own for each configuration: it loads the subject and measures when it is told to.
//!
//! An engine pins the thread that makes it, and threads inherit the mask of their maker. So every engine is made on a
//! fresh thread, and the one that conducts the measurement is never pinned.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rin_energy::{Error as MeterError, Meter, Reading, Span};
use rin_engine::digest::{DigestHex, LogitDigest};
use rin_kernels::alloc::allocations;

use crate::Error;
use crate::plan::{Setting, Test, token};
use crate::subject::{Facts, Loader, Subject};

/// What a lane is told to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Job {
    /// Load and warm up, if that has not been done.
    Prepare,
    /// One repetition of the test with this number.
    Measure(usize),
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Ready.
    Ready(Box<Facts>),
    /// The repetition, and what it was made with.
    Sample(Box<Facts>, Sample),
}

/// One repetition.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Time of all forward passes that count.
    pub(crate) time: Duration,
    /// Time from the first token fed to the first logits.
    pub(crate) first_token: Duration,
    /// Time of each single step, in ns; none for a prompt.
    pub(crate) steps: Vec<u64>,
    /// Allocations on all threads meanwhile.
    pub(crate) allocations: u64,
    /// What the forward passes took, the digests between them included; none without a meter.
    pub(crate) energy: Option<Result<Span, MeterError>>,
    /// Digest of all logits.
    pub(crate) digest: DigestHex,
}

/// The life of a lane: answers every job until there are no more.
pub(crate) fn work(
    loader: &dyn Loader,
    setting: &Setting,
    resident: bool,
    meter: Option<&Meter>,
    jobs: &Receiver<Job>,
    answers: &Sender<Result<Answer, Error>>,
) {
    let mut lane = Lane { loader, setting, meter, loaded: None, digests: vec![None; setting.tests.len()] };
    for job in jobs {
        let answer = lane.answer(job);
        if !resident {
            lane.loaded = None;
        }
        if answers.send(answer).is_err() {
            return;
        }
    }
}

struct Lane<'a> {
    loader: &'a dyn Loader,
    setting: &'a Setting,
    meter: Option<&'a Meter>,
    loaded: Option<(Box<dyn Subject>, Facts)>,
    digests: Vec<Option<DigestHex>>,
}

impl Lane<'_> {
    fn answer(&mut self, job: Job) -> Result<Answer, Error> {
        let facts = Box::new(self.prepare()?);
        match job {
            Job::Prepare => Ok(Answer::Ready(facts)),
            Job::Measure(test) => Ok(Answer::Sample(facts, self.repetition(test)?)),
        }
    }

    /// Loads and runs every test once.
    fn prepare(&mut self) -> Result<Facts, Error> {
        if let Some((_, facts)) = &self.loaded {
            return Ok(facts.clone());
        }
        let subject = self.loader.load(self.setting)?;
        let facts = subject.facts();
        self.loaded = Some((subject, facts.clone()));
        for test in 0..self.setting.tests.len() {
            self.repetition(test)?;
        }
        Ok(facts)
    }

    fn repetition(&mut self, index: usize) -> Result<Sample, Error> {
        let lacking = || Error::LaneEnded(index);
        let (subject, facts) = self.loaded.as_mut().ok_or_else(lacking)?;
        let test = *self.setting.tests.get(index).ok_or_else(lacking)?;
        let sample = measure(subject.as_mut(), test, self.setting, facts.vocab, self.meter)?;
        let expected = *self.digests.get_mut(index).ok_or_else(lacking)?.get_or_insert(sample.digest);
        if expected != sample.digest {
            let (expected, found) = (expected.to_string(), sample.digest.to_string());
            return Err(Error::Unrepeatable { test, expected, found });
        }
        Ok(sample)
    }
}

/// Runs a test once. What is timed are the forward passes alone; the digest of the logits is taken between them.
fn measure(
    subject: &mut dyn Subject,
    test: Test,
    setting: &Setting,
    vocab: usize,
    meter: Option<&Meter>,
) -> Result<Sample, Error> {
    subject.reset(setting.n_parallel, setting.depth)?;
    match test {
        Test::Prompt(n) => prompt(subject, n, setting.depth, vocab, meter),
        Test::Generate(n) => generate(subject, n, setting, vocab, meter),
    }
}

/// What was taken between two readings.
fn energy(meter: Option<&Meter>, began: Option<&Reading>, ended: Option<&Reading>) -> Option<Result<Span, MeterError>> {
    Some(meter?.span(began?, ended?))
}

fn prompt(
    subject: &mut dyn Subject,
    n: usize,
    depth: usize,
    vocab: usize,
    meter: Option<&Meter>,
) -> Result<Sample, Error> {
    let tokens: Vec<u32> = (depth..depth + n).map(|i| token(i, 0, vocab)).collect();
    let mut digest = LogitDigest::new();
    let before = allocations();
    let began = meter.map(Meter::read);
    let start = Instant::now();
    let logits = subject.prefill(0, &tokens)?;
    let time = start.elapsed();
    let ended = meter.map(Meter::read);
    let allocations = allocations() - before;
    let energy = energy(meter, began.as_ref(), ended.as_ref());
    digest.update(logits);
    Ok(Sample { time, first_token: time, steps: Vec::new(), allocations, energy, digest: digest.finish() })
}

fn generate(
    subject: &mut dyn Subject,
    n: usize,
    setting: &Setting,
    vocab: usize,
    meter: Option<&Meter>,
) -> Result<Sample, Error> {
    let &Setting { n_parallel, depth, .. } = setting;
    // Row by row the tokens of one step.
    let ids = (depth..=depth + n).flat_map(|step| (0..n_parallel).map(move |sequence| token(step, sequence, vocab)));
    let tokens: Vec<u32> = ids.collect();
    let (first, rest) = tokens.split_at(n_parallel.min(tokens.len()));
    let mut steps = Vec::with_capacity(n);
    let mut digest = LogitDigest::new();
    let (mut time, mut first_token) = (Duration::ZERO, None);
    let before = allocations();
    for (sequence, token) in first.chunks(1).enumerate() {
        let start = Instant::now();
        let logits = subject.prefill(sequence, token)?;
        first_token.get_or_insert(start.elapsed());
        digest.update(logits);
    }
    let began = meter.map(Meter::read);
    for tokens in rest.chunks_exact(n_parallel.max(1)) {
        let start = Instant::now();
        let logits = subject.decode(tokens)?;
        let step = start.elapsed();
        time += step;
        steps.push(u64::try_from(step.as_nanos()).unwrap_or(u64::MAX));
        digest.update(logits);
    }
    let ended = meter.map(Meter::read);
    let allocations = allocations() - before;
    let energy = energy(meter, began.as_ref(), ended.as_ref());
    let first_token = first_token.unwrap_or_default();
    Ok(Sample { time, first_token, steps, allocations, energy, digest: digest.finish() })
}
