//! `--power-budget`: the mean power of a run is held at a budget by rests between its steps, and by fewer threads
//! where those would be long.

use anyhow::Result;
use rin_energy::tuner::{PowerTuner, TunerError};
use rin_energy::{Meter, Pacer, Reading};
use serde::Serialize;

use super::Gauge;

/// Rests between the steps of a run: tokens, or batches of rows.
#[derive(Debug)]
pub(crate) struct Pacing<'a> {
    pacer: Pacer,
    meter: &'a Meter,
}

/// What became of a budget.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Power {
    pub(crate) budget_watts: f64,
    /// Mean power over the run; none where it was not measured.
    pub(crate) mean_watts: Option<f64>,
    /// Share of time in which steps may run, at the end.
    pub(crate) duty: f64,
    /// Threads that may work, at the end.
    pub(crate) threads: usize,
    pub(crate) rested_s: f64,
    pub(crate) decisions: u32,
    pub(crate) failures: u32,
}

impl Power {
    /// In words.
    pub(crate) fn line(&self) -> String {
        let mean = self.mean_watts.map_or_else(|| "unknown".to_owned(), |watts| format!("{watts:.2} W"));
        format!("power cap {} W: {mean} on average, {:.2} s of rest", self.budget_watts, self.rested_s)
    }
}

impl<'a> Pacing<'a> {
    /// Measures what the machine takes when idle, before the model is loaded.
    ///
    /// # Errors
    /// [`TunerError`], where there is no sensor or the budget cannot be met.
    pub(crate) fn new(budget: f64, gauge: &'a Gauge) -> Result<Self> {
        let meter = gauge.meter.as_ref().map_err(|error| TunerError::NoSensor(error.clone()))?;
        Ok(Self { pacer: Pacer::new(PowerTuner::for_machine(budget, &gauge.sensors)?), meter })
    }

    /// Lets it choose among so many threads.
    pub(crate) fn with_threads(self, most: usize) -> Self {
        Self { pacer: Pacer::new(self.pacer.tuner().clone().with_threads(most)), ..self }
    }

    /// How many threads may work.
    pub(crate) fn threads(&self) -> usize {
        self.pacer.tuner().pace().threads
    }

    /// Before each step; see [`Pacer::step`].
    pub(crate) fn step(&mut self) {
        self.pacer.step(self.meter);
    }

    /// What became of it, from the readings around the run.
    pub(crate) fn result(&self, began: Option<&Reading>, ended: Option<&Reading>) -> Power {
        let span = began.zip(ended).and_then(|(began, ended)| self.meter.span(began, ended).ok());
        Power {
            budget_watts: self.pacer.tuner().budget(),
            mean_watts: span.map(|span| span.watts()),
            duty: self.pacer.tuner().pace().duty,
            threads: self.threads(),
            rested_s: self.pacer.rested().as_secs_f64(),
            decisions: self.pacer.decisions(),
            failures: self.pacer.failures(),
        }
    }
}
