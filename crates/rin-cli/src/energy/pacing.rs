//! Holding the mean power of a generation at a budget: rests between its steps, and fewer threads where those would be long.

use std::time::{Duration, Instant};

use anyhow::Result;
use rin_energy::tuner::{PERIOD, PowerTuner, TunerError};
use rin_energy::{Meter, Reading};
use serde::Serialize;

use super::Gauge;

/// The longest rest. A long prompt is one step: resting as long after it as the budget asks would look like a fault.
const REST_MOST: Duration = Duration::from_secs(2);

/// Rests between the steps of a generation.
#[derive(Debug)]
pub(crate) struct Pacing<'a> {
    tuner: PowerTuner,
    meter: &'a Meter,
    last: Reading,
    /// When the step before began.
    began: Option<Instant>,
    rested: Duration,
    decisions: u32,
    failures: u32,
}

/// What became of a budget.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Power {
    pub(crate) budget_watts: f64,
    /// Mean power over the generation; none where it was not measured.
    pub(crate) mean_watts: Option<f64>,
    /// Share of time in which steps may run, at the end.
    pub(crate) duty: f64,
    /// Threads that may work, at the end.
    pub(crate) threads: usize,
    pub(crate) rested_s: f64,
    pub(crate) decisions: u32,
    pub(crate) failures: u32,
}

impl<'a> Pacing<'a> {
    /// Measures what the machine takes when idle, before the model is loaded.
    ///
    /// # Errors
    /// [`TunerError`], where there is no sensor or the budget cannot be met.
    pub(crate) fn new(budget: f64, gauge: &'a Gauge) -> Result<Self> {
        let meter = gauge.meter.as_ref().map_err(|error| TunerError::NoSensor(error.clone()))?;
        let tuner = PowerTuner::for_machine(budget, &gauge.sensors)?;
        let (rested, last) = (Duration::ZERO, meter.read());
        Ok(Self { tuner, meter, last, began: None, rested, decisions: 0, failures: 0 })
    }

    /// Lets it choose among so many threads.
    pub(crate) fn with_threads(self, most: usize) -> Self {
        Self { tuner: self.tuner.with_threads(most), ..self }
    }

    /// How many threads may work.
    pub(crate) fn threads(&self) -> usize {
        self.tuner.pace().threads
    }

    /// Before each step: rests after the one before, and learns from what both took. Allocates nothing unless a sensor
    /// fails.
    pub(crate) fn step(&mut self) {
        let Some(began) = self.began else {
            self.last = self.meter.read();
            self.began = Some(Instant::now());
            return;
        };
        let wanted = self.tuner.pace().rest(began.elapsed());
        let rest = wanted.min(REST_MOST);
        std::thread::sleep(rest);
        self.rested += rest;
        let now = self.meter.read();
        if rest < wanted {
            // This was no whole cycle of work and rest, so its power says nothing.
            self.last = now;
        } else if now.at().saturating_sub(self.last.at()) >= PERIOD {
            match self.meter.span(&self.last, &now) {
                Ok(span) => {
                    self.tuner.observe(span.watts());
                    self.decisions += 1;
                }
                // The pace stays as it is: the last that is known to fit.
                Err(_) => self.failures += 1,
            }
            self.last = now;
        }
        self.began = Some(Instant::now());
    }

    /// What became of it, from the readings around the generation.
    pub(crate) fn result(&self, began: Option<&Reading>, ended: Option<&Reading>) -> Power {
        let span = began.zip(ended).and_then(|(began, ended)| self.meter.span(began, ended).ok());
        Power {
            budget_watts: self.tuner.budget(),
            mean_watts: span.map(|span| span.watts()),
            duty: self.tuner.pace().duty,
            threads: self.threads(),
            rested_s: self.rested.as_secs_f64(),
            decisions: self.decisions,
            failures: self.failures,
        }
    }
}
