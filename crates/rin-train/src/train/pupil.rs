//! Students that are trained side by side, each for a budget of its own, and whose result is a loss.

use super::course::{Course, Seen, seen};
use super::step::{Learner, Lesson};
use super::teacher::Teaching;
use crate::Error;
use crate::clock::processor_time;
use crate::config::{DistillConfig, LoopConfig, ModelConfig};
use crate::evaluate::{Evaluation, evaluate};
use crate::network::{self, Batch};
use crate::optimizer::learning_rate;
use crate::random::{index, stream};
use crate::weights::{Arithmetic, Weights};
use rin_kernels::Format;
use std::time::Duration;

/// Steps of the learning rate's schedule: the whole budget.
const SCHEDULE: usize = 10_000;
/// In which of them it rises.
const WARMUP: usize = 500;
/// Share of a step's loss in the running one.
const LATEST: f64 = 0.05;

/// How long a student is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Processor time.
    Time(Duration),
    /// Steps.
    Steps(usize),
}

/// A student.
#[derive(Clone, Debug)]
pub struct PupilConfig {
    /// The network.
    pub model: ModelConfig,
    /// Windows of a step.
    pub batch: usize,
    /// Largest learning rate; it falls to a tenth along a cosine over the budget.
    pub lr: f64,
    /// Seed of the first weights and of the order of the windows.
    pub seed: u64,
    /// How long it is trained.
    pub budget: Budget,
    /// What it learns of the teacher, whose name is not looked at; none: the text alone.
    pub distill: Option<DistillConfig>,
    /// Whether its time counts the teacher's answer to each window that it sees for the first time.
    pub pays_teacher: bool,
}

/// A student at school.
#[derive(Debug)]
pub struct Pupil {
    config: PupilConfig,
    schedule: LoopConfig,
    learner: Learner,
    teaching: Option<Teaching>,
    /// Windows of the pool that it has seen.
    met: Vec<bool>,
    spent: Duration,
    paid: Duration,
    loss: Option<f64>,
}

impl Pupil {
    /// Before its first step.
    ///
    /// # Errors
    /// When the network cannot be, or the course's teacher has no such hints for it.
    pub fn new(config: PupilConfig, course: &Course) -> Result<Self, Error> {
        let name = "student";
        let network = network::build(&config.model, course.vocabulary.size(), name)?;
        let of = |distill: &DistillConfig| {
            distill.check()?;
            Teaching::new(distill, &*network, &course.teacher, course.seq, course.kernels)
        };
        let teaching = config.distill.as_ref().map(of).transpose()?;
        let mut all = network.parameters();
        // Last, so that the network begins as it does without hints.
        all.extend(teaching.iter().flat_map(Teaching::parameters));
        let learner = Learner::new(network, all, config.seed, course.kernels);
        let schedule = LoopConfig { warmup: Some(WARMUP), ..LoopConfig::plain(SCHEDULE, config.lr, config.lr / 10.0) };
        let met = vec![false; course.pool.len()];
        let (spent, paid, loss) = (Duration::ZERO, Duration::ZERO, None);
        Ok(Self { config, schedule, learner, teaching, met, spent, paid, loss })
    }

    /// The share of the budget that is spent.
    fn share(&self) -> f64 {
        match self.config.budget {
            Budget::Time(time) => self.spent.as_secs_f64() / time.as_secs_f64(),
            Budget::Steps(steps) => self.learner.steps as f64 / steps as f64,
        }
    }

    /// Trains for about `slice` of processor time, a step at least, within the budget; whether some of it is left.
    ///
    /// # Errors
    /// [`Error::Diverged`] when losses are no numbers any more; when the pool is empty, or the tensor library refuses.
    pub fn work(&mut self, course: &Course, slice: Duration) -> Result<bool, Error> {
        let until = self.spent + slice;
        while self.share() < 1.0 {
            let begun = processor_time();
            let met = self.step(course)?;
            self.spent += processor_time().saturating_sub(begun);
            if self.config.pays_teacher {
                let price = course.time_of_answer() * met;
                self.spent += price;
                self.paid += price;
            }
            if self.spent >= until {
                break;
            }
        }
        Ok(self.share() < 1.0)
    }

    /// One step; how many of its windows are new to it.
    fn step(&mut self, course: &Course) -> Result<u32, Error> {
        if course.pool.is_empty() || self.met.len() != course.pool.len() {
            return Err(Error::value("windows", course.pool.len(), "as many as when the student began, and some"));
        }
        let state = stream(self.config.seed, &[1, self.learner.steps as u64]);
        let windows: Vec<usize> = (0..self.config.batch as u64).map(|i| index(state, i, course.pool.len())).collect();
        let (ids, targets) = course.texts(&windows);
        let answers = self.teaching.as_ref().map(|_| course.answers(&windows)).transpose()?;
        let taught = self.teaching.as_ref().zip(answers.as_ref());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and SCHEDULE")]
        let at = (self.share().clamp(0.0, 1.0) * SCHEDULE as f64) as usize;
        let lr = learning_rate(&self.schedule, at.max(1));
        let lesson = Lesson { batch: Batch { ids: &ids, seq: course.seq }, targets: &targets, taught };
        let nats = self.learner.step(&lesson, Arithmetic::Float, lr, &self.schedule)?;
        self.loss = Some(self.loss.map_or(nats, |loss| loss + LATEST * (nats - loss)));
        let mut new = 0;
        for window in windows {
            new += u32::from(!std::mem::replace(&mut self.met[window], true));
        }
        Ok(new)
    }

    /// Steps done.
    pub fn steps(&self) -> usize {
        self.learner.steps
    }

    /// Time spent.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// What of it counts for the teacher.
    pub fn paid(&self) -> Duration {
        self.paid
    }

    /// The loss against the text over the last twenty steps or so, in nats per token; none before the first step.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// Numbers of the network.
    pub fn parameters(&self) -> usize {
        self.learner.parameters.count()
    }

    fn weights(&self, course: &Course, format: Option<Format>) -> Result<Weights, Error> {
        let arithmetic = format.map_or(Arithmetic::Float, Arithmetic::Quant);
        Weights::constant(&self.learner.parameters, arithmetic, course.kernels)
    }

    /// How well it predicts the whole validation split.
    ///
    /// # Errors
    /// When the split is too short, or the tensor library refuses.
    pub fn evaluate(&self, course: &Course) -> Result<Evaluation, Error> {
        let weights = self.weights(course, None)?;
        let (vocabulary, tokens) = (&course.vocabulary, &course.validation);
        let found = evaluate(&*self.learner.network, &weights, vocabulary, tokens, self.config.batch, &|| false)?;
        found.ok_or_else(|| Error::value("stop", "true", "an evaluation that ends"))
    }

    /// What it makes of windows, `(windows, seq)`, with its matrices in `format` or in f32.
    ///
    /// # Errors
    /// When a matrix does not fit the format, or the tensor library refuses.
    pub fn seen(&self, course: &Course, ids: &[u32], format: Option<Format>) -> Result<Seen, Error> {
        seen(&*self.learner.network, &self.weights(course, format)?, ids, course.seq)
    }
}
