//! The times of a test's passes, step by step of the plan.

use std::time::{Duration, Instant};

use rin_engine::{Engine, Feed, Plan, Rows, Sequence};

use crate::Error;
use crate::cost::Work;
use crate::plan::Test;

/// Times that are kept for medians and the trace, about: 32 MiB of them.
const MAX_KEPT: usize = 1 << 22;

/// One step of the plan in one forward pass of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The step's place in the plan.
    pub(super) step: usize,
    /// Which of the pass's forward passes: a prompt longer than the batch takes several.
    pub(super) forward: usize,
}

/// Passes of one test: a whole prompt, or one step of a generation.
#[derive(Debug)]
pub(super) struct Recorder {
    /// The test.
    pub(super) test: Test,
    /// Most tokens in one forward pass.
    pub(super) n_batch: usize,
    /// What every pass consists of, in order.
    pub(super) slots: Vec<Slot>,
    /// Sum of the times of each slot over all passes, in ns.
    pub(super) totals: Vec<u64>,
    /// Sum of the times of whole passes, in ns.
    pub(super) whole: u64,
    /// Passes.
    pub(super) n_passes: u64,
    /// Of the first passes the times of all slots, in ns, pass after pass.
    kept: Vec<u64>,
    /// Of the same passes the time of the whole.
    kept_whole: Vec<u64>,
    /// Most passes whose times are kept.
    most_kept: usize,
    /// The pass that is under way.
    current: Vec<u64>,
}

impl Recorder {
    pub(super) fn new(plan: &Plan, test: Test, repetitions: usize) -> Self {
        let n_batch = plan.options.n_batch.max(1);
        let mut slots = Vec::new();
        for (forward, work) in works(test, 0, n_batch).enumerate() {
            let n_steps = if work.rows == 0 { plan.head.min(plan.steps.len()) } else { plan.steps.len() };
            slots.extend((0..n_steps).map(|step| Slot { step, forward }));
        }
        let passes = passes_per_repetition(test).saturating_mul(repetitions);
        let most_kept = passes.min(MAX_KEPT / slots.len().max(1)).max(1);
        Self {
            test,
            n_batch,
            totals: vec![0; slots.len()],
            whole: 0,
            n_passes: 0,
            // Room for all: nothing allocates while time is taken.
            kept: Vec::with_capacity(most_kept.saturating_mul(slots.len())),
            kept_whole: Vec::with_capacity(most_kept),
            most_kept,
            current: vec![0; slots.len()],
            slots,
        }
    }

    /// Counts anew.
    pub(super) fn forget(&mut self) {
        self.totals.fill(0);
        (self.whole, self.n_passes) = (0, 0);
        self.kept.clear();
        self.kept_whole.clear();
    }

    /// Runs the passes of one repetition over `tokens`, which go on from where the sequence is.
    pub(super) fn passes(&mut self, engine: &mut Engine, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        let mut rest = tokens;
        for pass in 0..passes_per_repetition(self.test) {
            let (mut at, mut whole) = (0, Duration::ZERO);
            for work in works(self.test, pass, self.n_batch) {
                let (tokens, after) = rest.split_at(work.tokens.min(rest.len()));
                rest = after;
                let rows = if work.rows == 0 { Rows::None } else { Rows::Last };
                let current = &mut self.current;
                let start = Instant::now();
                engine.step_timed(&[Feed { sequence, tokens, rows }], |_, time| {
                    if let Some(slot) = current.get_mut(at) {
                        *slot = nanoseconds(time);
                    }
                    at += 1;
                })?;
                whole += start.elapsed();
            }
            debug_assert_eq!(at, self.slots.len(), "every pass has the same steps");
            self.count(nanoseconds(whole));
        }
        Ok(())
    }

    /// Counts the pass that is under way.
    fn count(&mut self, whole: u64) {
        for (total, time) in self.totals.iter_mut().zip(&self.current) {
            *total = total.saturating_add(*time);
        }
        self.whole = self.whole.saturating_add(whole);
        self.n_passes += 1;
        if self.kept_whole.len() < self.most_kept {
            self.kept.extend_from_slice(&self.current);
            self.kept_whole.push(whole);
        }
    }

    /// A pass of these times, for tests.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, times: impl Fn(Slot) -> u64, between: u64) {
        for (time, slot) in self.current.iter_mut().zip(&self.slots) {
            *time = times(*slot);
        }
        self.count(self.current.iter().sum::<u64>() + between);
    }

    /// Of each pass that is kept the times of its slots, and of the whole.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&[u64], u64)> {
        self.kept.chunks_exact(self.slots.len().max(1)).zip(self.kept_whole.iter().copied())
    }

    /// What the forward passes of pass `pass`, counted over all repetitions, are fed.
    pub(super) fn works(&self, pass: usize) -> impl Iterator<Item = Work> + use<> {
        works(self.test, pass % passes_per_repetition(self.test).max(1), self.n_batch)
    }

    /// What all forward passes of one repetition are fed.
    pub(super) fn works_of_repetition(&self) -> impl Iterator<Item = Work> + use<> {
        let (test, n_batch) = (self.test, self.n_batch);
        (0..passes_per_repetition(test)).flat_map(move |pass| works(test, pass, n_batch))
    }
}

/// A prompt is one pass; each step of a generation is one.
fn passes_per_repetition(test: Test) -> usize {
    match test {
        Test::Prompt(_) => 1,
        Test::Generate(steps) => steps,
    }
}

/// What the forward passes of one pass are fed: a prompt in parts of the batch, of which the last one gives logits; or one
/// token after those before it.
fn works(test: Test, pass: usize, n_batch: usize) -> impl Iterator<Item = Work> {
    let (first, end) = match test {
        Test::Prompt(tokens) => (0, tokens),
        Test::Generate(_) => (pass.saturating_add(1), pass.saturating_add(2)),
    };
    (first..end).step_by(n_batch.max(1)).map(move |position| {
        let tokens = (end - position).min(n_batch);
        Work { position, tokens, rows: usize::from(position + tokens == end) }
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_cut_as_the_engine_cuts_it() {
        let cut = |n, n_batch| works(Test::Prompt(n), 0, n_batch).collect::<Vec<_>>();
        let work = |position, tokens, rows| Work { position, tokens, rows };
        assert_eq!(cut(5, 2), [work(0, 2, 0), work(2, 2, 0), work(4, 1, 1)]);
        assert_eq!(cut(4, 2), [work(0, 2, 0), work(2, 2, 1)]);
        assert_eq!(cut(1, 512), [work(0, 1, 1)]);
        let steps = (0..3).flat_map(|pass| works(Test::Generate(3), pass, 2)).collect::<Vec<_>>();
        assert_eq!(steps, [work(1, 1, 1), work(2, 1, 1), work(3, 1, 1)]);
    }
}
