//! Holding the mean power of work that comes in steps at a budget: rests between them.

use std::time::{Duration, Instant};

use crate::tuner::{PERIOD, PowerTuner};
use crate::{Meter, Reading};

/// The longest rest. A long prompt is one step: resting as long after it as the budget asks would look like a fault.
const REST_MOST: Duration = Duration::from_secs(2);

/// Rests between steps of work.
#[derive(Debug)]
pub struct Pacer {
    tuner: PowerTuner,
    last: Option<Reading>,
    /// When the step before began.
    began: Option<Instant>,
    rested: Duration,
    decisions: u32,
    failures: u32,
}

impl Pacer {
    /// As a controller decides.
    pub fn new(tuner: PowerTuner) -> Self {
        Self { tuner, last: None, began: None, rested: Duration::ZERO, decisions: 0, failures: 0 }
    }

    /// What decides.
    pub fn tuner(&self) -> &PowerTuner {
        &self.tuner
    }

    /// How long it has rested.
    pub fn rested(&self) -> Duration {
        self.rested
    }

    /// How often the pace was decided anew.
    pub fn decisions(&self) -> u32 {
        self.decisions
    }

    /// How often a decision was due and the power was not known.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Before each step: rests after the one before, and learns from what both took. Allocates nothing unless a sensor
    /// fails.
    pub fn step(&mut self, meter: &Meter) {
        let (Some(began), Some(last)) = (self.began, self.last) else {
            self.last = Some(meter.read());
            self.began = Some(Instant::now());
            return;
        };
        let wanted = self.tuner.pace().rest(began.elapsed());
        let rest = wanted.min(REST_MOST);
        std::thread::sleep(rest);
        self.rested += rest;
        let now = meter.read();
        if rest < wanted {
            // This was no whole cycle of work and rest, so its power says nothing.
            self.last = Some(now);
        } else if now.at().saturating_sub(last.at()) >= PERIOD {
            match meter.span(&last, &now) {
                Ok(span) => {
                    self.tuner.observe(span.watts(), now.at().saturating_sub(last.at()));
                    self.decisions += 1;
                }
                // The pace stays as it is: the last that is known to fit.
                Err(_) => self.failures += 1,
            }
            self.last = Some(now);
        }
        self.began = Some(Instant::now());
    }

    /// Forgets the step before, where work begins anew: what passed meanwhile was none of it.
    pub fn pause(&mut self) {
        (self.last, self.began) = (None, None);
    }
}
