//! Where the time of a forward pass goes: to each step of the plan, beside what the machine could do in that time.
//!
//! [`run`] loads an engine, measures it and then the machine; [`Profile::measure`] is its part for an engine that is
//! there already. A [`Profile`] is written as a [`table`](Profile::table), as [`json`](Profile::json), as a trace for
//! [Chrome and Perfetto](Profile::chrome_trace) and as a [picture](Profile::svg).

mod phase;
mod record;
mod svg;
mod table;
#[cfg(test)]
mod tests;
mod trace;

use std::thread::{Builder, scope};

use rin_engine::Engine;
use serde::Serialize;

pub use phase::{Call, Example, Measured, Operation, Phase, PlanStep};

use crate::peak::Peaks;
use crate::plan::{Setting, Test, Workload, token};
use crate::quiet::Reading;
use crate::report::{Machine, figure};
use crate::run::{cpu_info, peaks_of};
use crate::subject::{EngineLoader, Facts};
use crate::{Error, Event, time};
use record::Recorder;

/// The time of a prompt's pass and of the steps of a generation, attributed to the steps of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Version of RIN.
    pub version: String,
    /// Path or name of the model.
    pub model_filename: String,
    /// Family, size and type of the weights.
    pub model_type: String,
    /// Bytes of all tensors in the file.
    pub model_size: u64,
    /// Workers.
    pub n_threads: u64,
    /// Most tokens in one step.
    pub n_batch: u64,
    /// The highest tier in use.
    pub tier: String,
    /// How keys and values are stored.
    pub kv_type: String,
    /// Begin of the first repetition, UTC.
    pub test_time: String,
    /// The prompt, then the generation; whichever was measured.
    pub phases: Vec<Phase>,
    /// The machine meanwhile. Its jitter is not measured here.
    pub machine: Machine,
}

/// Loads a configuration on a thread of its own and measures it; then, with nothing loaded, the machine. `tell` hears how
/// far it is. One sequence is run, however many the setting names.
///
/// # Errors
///
/// When the configuration cannot be loaded or run; as [`Profile::measure`].
pub fn run(
    loader: &EngineLoader,
    setting: &Setting,
    workload: &Workload,
    mut tell: impl FnMut(Event) + Send,
) -> Result<Profile, Error> {
    workload.check()?;
    tell(Event::Loading(0));
    // An engine pins the thread that makes it: the machine is measured from one that is not pinned.
    let measured = scope(|scope| {
        let work = || {
            let mut engine = loader.engine(setting)?;
            measure(&mut engine, workload, &mut tell)
        };
        let thread = Builder::new().name("rin-profile".to_owned()).spawn_scoped(scope, work).map_err(Error::Spawn)?;
        thread.join().unwrap_or(Err(Error::LaneEnded(0)))
    });
    let mut profile = measured?;
    tell(Event::Machine);
    let threads = usize::try_from(profile.n_threads).unwrap_or(usize::MAX);
    let peaks = peaks_of(loader, threads, &profile.tier, &mut profile.machine.notes);
    if let Some(peaks) = peaks {
        profile.set_peaks(peaks);
    }
    Ok(profile)
}

impl Profile {
    /// Measures a prompt of `n_prompt` tokens and a generation of `n_gen` steps of one token after a prompt of one token,
    /// each so many times beside once to warm up; 0 tokens leave one out. Token ids are those of a bench. What the machine
    /// could do is not known yet: see [`Profile::set_peaks`].
    ///
    /// # Errors
    ///
    /// [`Error::NothingToMeasure`] and [`Error::BadOption`] for numbers out of range; [`Error::ContextTooShort`]; when no
    /// sequence is left in the engine or it cannot run the tokens.
    pub fn measure(engine: &mut Engine, n_prompt: usize, n_gen: usize, repetitions: usize) -> Result<Self, Error> {
        let workload = Workload { n_prompt, n_gen, repetitions, ..Workload::default() };
        measure(engine, &workload, &mut |_| {})
    }

    /// Compares with what the machine can do: the shares of the roofline are known from here on.
    pub fn set_peaks(&mut self, peaks: Peaks) {
        for phase in &mut self.phases {
            phase.set_peaks(&peaks);
        }
        for note in &peaks.notes {
            if !self.machine.notes.contains(note) {
                self.machine.notes.push(note.clone());
            }
        }
        self.machine.peaks = vec![peaks];
    }

    /// All of it but the single pass of the trace, as one JSON object with a line end.
    ///
    /// # Errors
    ///
    /// [`Error::Json`], which a profile never gives.
    pub fn json(&self) -> Result<String, Error> {
        Ok(serde_json::to_string_pretty(self).map_err(Error::Json)? + "\n")
    }

    /// What was measured, in words: the model's file and type, threads, tier and cache.
    fn title(&self) -> String {
        let file = self.model_filename.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("model");
        let (of, threads) = (&self.model_type, self.n_threads);
        plain(&format!("{file}: {of}, {threads} threads, {}, cache in {}", self.tier, self.kv_type))
    }
}

/// Text without control characters, which a file's name may hold.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A time with its unit: µs below 10 ms, else ms.
fn duration(ns: f64) -> String {
    if ns < 1e7 { format!("{} µs", figure(ns / 1e3)) } else { format!("{} ms", figure(ns / 1e6)) }
}

/// A share in percent, with one decimal.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn measure(engine: &mut Engine, workload: &Workload, tell: &mut dyn FnMut(Event)) -> Result<Profile, Error> {
    workload.check()?;
    let (needed, ctx) = (workload.positions(), engine.plan().options.ctx);
    if needed > ctx {
        return Err(Error::ContextTooShort { needed, ctx });
    }
    let tests = workload.tests();
    let mut recorders: Vec<Recorder> =
        tests.iter().map(|test| Recorder::new(engine.plan(), *test, workload.repetitions)).collect();
    for recorder in &mut recorders {
        repetition(engine, recorder)?;
        recorder.forget();
    }
    let (before, test_time) = (Reading::now(), time::now());
    let total = workload.repetitions.saturating_mul(recorders.len());
    for round in 0..workload.repetitions {
        for (i, recorder) in recorders.iter_mut().enumerate() {
            tell(Event::Repetitions(round * tests.len() + i, total));
            repetition(engine, recorder)?;
        }
    }
    tell(Event::Repetitions(total, total));
    let disturbance = before.until(&Reading::now());
    let facts = Facts::of(engine);
    let phases = recorders.iter().map(|recorder| Phase::of(engine.plan(), recorder, workload.repetitions)).collect();
    Ok(Profile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model_filename: facts.model_filename,
        model_type: facts.model_type,
        model_size: facts.model_size,
        n_threads: facts.n_threads as u64,
        n_batch: facts.n_batch as u64,
        tier: facts.tier,
        kv_type: facts.kv_type,
        test_time,
        phases,
        machine: Machine { cpu_info: cpu_info(), disturbance, jitter: None, peaks: Vec::new(), notes: facts.notes },
    })
}

/// One repetition of a test in a new sequence.
fn repetition(engine: &mut Engine, recorder: &mut Recorder) -> Result<(), Error> {
    engine.forget_prefixes();
    let sequence = engine.sequence()?;
    let vocab = engine.plan().config.vocab;
    let tokens: Vec<u32> = (0..recorder.test.positions()).map(|i| token(i, 0, vocab)).collect();
    let ran = match recorder.test {
        Test::Prompt(_) => recorder.passes(engine, &sequence, &tokens),
        Test::Generate(_) => {
            let (first, rest) = tokens.split_at(tokens.len().min(1));
            engine
                .feed(&sequence, first)
                .map_err(Error::from)
                .map(drop)
                .and_then(|()| recorder.passes(engine, &sequence, rest))
        }
    };
    engine.release(sequence);
    ran
}
