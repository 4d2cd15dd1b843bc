//! A power cap: pacing work so that its mean power stays at a budget.
//!
//! What is paced is the duty cycle, the share of time in which work runs. A machine is taken for a lag of first order: in
//! the share of time in which work runs its power goes towards a busy power, in the rest towards its resting power. The
//! lag, hundredths of a second or seconds, and the slope, the busy power above the resting one, are not known beforehand,
//! and a sensor's noise hides them. So each lag of a list is a hypothesis, with a Kalman filter for power and slope (R. E.
//! Kálmán, "A new approach to linear filtering and prediction problems", 1960), and what is measured tells how probable
//! each is: multiple-model adaptive control (D. T. Magill, "Optimal adaptive estimation of sampled stochastic processes",
//! 1965). The duty cycle is the probable ones' mean, less where they disagree. A slope that may drift does what the
//! integral does in a PI controller: no error stays; and as nothing is summed up, nothing winds up at the limits.
//!
//! It meets a cap. It does not save energy: a paced machine rests at its idle power and takes longer.

use std::time::Duration;

use crate::{Error, Sensors};

mod model;

use model::Models;

/// The least share of time that work gets, so that it ends at all.
const DUTY_LEAST: f64 = 0.02;
/// The duty cycle before anything is known.
const DUTY_FIRST: f64 = 0.2;
/// Decisions in a row that have to ask for fewer or more threads.
const PATIENCE: u32 = 5;
/// Below this duty cycle fewer threads would do.
const FEWER_BELOW: f64 = 0.4;

/// Why a budget cannot be met.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TunerError {
    /// Without a sensor nothing can be held at a budget.
    #[error("a power budget needs a sensor: {0}")]
    NoSensor(Error),
    /// The budget is no power.
    #[error("a power budget is a number of watts above 0, not {watts}")]
    BadBudget {
        /// The budget.
        watts: f64,
    },
    /// The sensor is brought up to date too seldom.
    #[error("the sensor shows a new value every {:.1} s; a power budget needs one every {:.1} s", .update.as_secs_f64(), PERIOD.as_secs_f64())]
    TooSlow {
        /// How often it is.
        update: Duration,
    },
    /// The machine takes as much when it does nothing.
    #[error("the budget of {budget:.1} W is not above the {idle:.1} W that this machine takes when idle")]
    BelowIdle {
        /// The budget, in W.
        budget: f64,
        /// What the idle machine takes, in W.
        idle: f64,
    },
}

/// How often a decision is made at most: below, single updates of the counter would be most of what is seen.
pub const PERIOD: Duration = Duration::from_millis(100);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The share of time in which work may run.
    pub duty: f64,
    /// How many threads may work.
    pub threads: usize,
}

impl Pace {
    /// How long to rest after work that took so long.
    pub fn rest(&self, busy: Duration) -> Duration {
        let factor = (1.0 / self.duty.max(DUTY_LEAST) - 1.0).max(0.0);
        busy.mul_f64(factor)
    }
}

/// Holds the mean power at a budget.
#[derive(Clone, Debug)]
pub struct PowerTuner {
    budget: f64,
    idle: f64,
    duty: f64,
    models: Models,
    threads: usize,
    most_threads: usize,
    asked: [u32; 2],
}

impl PowerTuner {
    /// For a budget in W on a machine that takes `idle` W when it does nothing.
    ///
    /// # Errors
    /// Where the budget is no power or not above that.
    pub fn new(budget: f64, idle: f64) -> Result<Self, TunerError> {
        if !(budget > 0.0 && budget.is_finite()) {
            return Err(TunerError::BadBudget { watts: budget });
        }
        if !(idle >= 0.0 && budget > idle) {
            return Err(TunerError::BelowIdle { budget, idle });
        }
        let (threads, asked) = (1, [0; 2]);
        let models = Models::new(budget - idle);
        Ok(Self { budget, idle, duty: DUTY_FIRST, models, threads, most_threads: 1, asked })
    }

    /// Measures the idle power of a machine for a second, and makes a controller for it.
    ///
    /// # Errors
    /// [`TunerError::NoSensor`] where it cannot be measured, [`TunerError::TooSlow`] where it is seen too seldom; as
    /// [`PowerTuner::new`].
    pub fn for_machine(budget: f64, sensors: &Sensors) -> Result<Self, TunerError> {
        // A budget that no machine could meet is told first.
        Self::new(budget, 0.0)?;
        let meter = sensors.meter().map_err(TunerError::NoSensor)?;
        let update = meter.update();
        if update > PERIOD {
            return Err(TunerError::TooSlow { update });
        }
        let began = meter.edge();
        sensors.host().sleep(Duration::from_secs(1));
        let idle = meter.between(&began, &meter.edge()).and_then(|found| found.watts());
        Self::new(budget, idle.map_err(TunerError::NoSensor)?)
    }

    /// Permits it to use up to so many threads.
    #[must_use]
    pub fn with_threads(self, most: usize) -> Self {
        let most = most.max(1);
        Self { threads: most, most_threads: most, ..self }
    }

    /// The budget, in W.
    pub fn budget(&self) -> f64 {
        self.budget
    }

    /// What to do now.
    pub fn pace(&self) -> Pace {
        Pace { duty: self.duty, threads: self.threads }
    }

    /// Hears the mean power, in W, of a span that held whole cycles of work and rest and was at least [`PERIOD`] long.
    /// What is no power is not heard.
    pub fn observe(&mut self, watts: f64, span: Duration) -> Pace {
        let seconds = span.as_secs_f64();
        if watts.is_finite() && seconds > 0.0 {
            self.models.hear((watts - self.idle).max(0.0), self.idle, self.duty, seconds);
            self.duty = self.models.duty(seconds);
            self.choose_threads(watts);
        }
        self.pace()
    }

    fn choose_threads(&mut self, watts: f64) {
        let [fewer, more] = &mut self.asked;
        let low = self.duty < FEWER_BELOW && self.threads > 1;
        let high = self.duty >= 1.0 && watts < 0.95 * self.budget && self.threads < self.most_threads;
        *fewer = if low { *fewer + 1 } else { 0 };
        *more = if high { *more + 1 } else { 0 };
        let threads = match (*fewer >= PATIENCE, *more >= PATIENCE) {
            (true, _) => self.threads - 1,
            (_, true) => self.threads + 1,
            _ => return,
        };
        // Power above idle goes about with the threads: the duty cycle starts from there.
        let ratio = self.threads as f64 / threads as f64;
        self.duty = (self.duty * ratio).clamp(DUTY_LEAST, 1.0);
        self.models.scale(1.0 / ratio);
        self.threads = threads;
        self.asked = [0; 2];
    }
}
