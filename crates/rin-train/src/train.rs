//! The training itself: steps, evaluations, checkpoints, and the result.

mod course;
mod files;
mod hints;
mod pupil;
mod report;
mod step;
mod teacher;
mod trained;

use crate::Error;
use crate::checkpoint::{Checkpoint, Fingerprint, State, WithEma, previous};
use crate::config::{StepSize, TokenizerKind, TrainConfig};
use crate::data::{Batches, Text};
use crate::evaluate::{Evaluation, evaluate};
use crate::heap::KeepHeap;
use crate::journal::{Journal, Line};
use crate::kernels::Kernels;
use crate::network::{self, Batch, Network, Pass};
use crate::ops::first_step;
use crate::optimizer::{AdamW, global_norm, learning_rate};
use crate::parameters::{Parameter, Parameters, Role, steps_of};
use crate::plot;
use crate::random::stream;
use crate::vocabulary::Vocabulary;
use crate::weights::{Arithmetic, Weights};
use files::Files;
use rin_kernels::Cpu;
use rin_model::rin_format::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use step::{add_gradients, losses};
use teacher::{Teacher, Teaching};

pub use course::{Course, Kept, Seen};
pub use pupil::{Budget, Pupil, PupilConfig};
pub use report::{Comparison, Summary};
pub use trained::{Corpus, Numbers, Part, Trained};

/// Quantised weights that share a learned step.
const BLOCK: usize = 32;

/// How a training is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Goes on from the last checkpoint.
    pub resume: bool,
    /// Draws the curves when training ends.
    pub plot: bool,
    /// Whether results of an earlier training of this name may be replaced.
    pub overwrite: bool,
}

/// What happens during a training.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is read and checked.
    Started {
        /// Numbers of the network.
        parameters: usize,
        /// Tokens of the vocabulary.
        vocab: usize,
        /// Tokens to train on.
        train_tokens: usize,
        /// Tokens to evaluate on.
        validation_tokens: usize,
        /// Steps that were done before.
        resumed_at: usize,
    },
    /// A step is done.
    Step {
        /// Which, from 1.
        step: usize,
        /// Of how many.
        steps: usize,
        /// Its loss in nats per token.
        loss: f64,
        /// Its learning rate.
        lr: f64,
        /// Speed of late, evaluations left out.
        tokens_per_second: f64,
        /// Time to the last step at that speed.
        seconds_left: f64,
    },
    /// The validation split was evaluated.
    Evaluated {
        /// After which step.
        step: usize,
        /// The result.
        evaluation: &'a Evaluation,
        /// Whether it is the best one so far.
        best: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// The file.
        path: &'a Path,
    },
    /// Something that the user should know.
    Note(&'a str),
}

/// Who hears of the events.
pub trait Progress {
    /// Takes one.
    fn event(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>)> Progress for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event);
    }
}

/// How a training ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a result.
    Finished(Box<Summary>),
    /// It was interrupted; resuming goes on with the losses that it would have had.
    Cancelled {
        /// Steps done.
        step: usize,
        /// Where they are kept.
        checkpoint: PathBuf,
    },
}

/// Trains as the file `config` says. Once `cancel` is true, training saves a checkpoint and ends.
///
/// # Errors
/// See [`Error`]: a configuration, data, a file or a checkpoint that cannot be used, or losses that are no numbers.
pub fn run(
    config: &Path,
    options: RunOptions,
    progress: &mut dyn Progress,
    cancel: Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    run_config(TrainConfig::read(config)?, options, progress, cancel)
}

/// As [`run`] for a configuration that was read before.
///
/// # Errors
/// As for [`run`].
pub fn run_config(
    config: TrainConfig,
    options: RunOptions,
    progress: &mut dyn Progress,
    cancel: Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    let _heap = KeepHeap::new();
    let mut trainer = Trainer::new(config, options, cancel, progress)?;
    if !trainer.steps(progress)? {
        let checkpoint = trainer.save(progress)?;
        return Ok(Outcome::Cancelled { step: trainer.state.step, checkpoint });
    }
    let Some(summary) = trainer.finish(options.plot)? else {
        let checkpoint = trainer.save(progress)?;
        return Ok(Outcome::Cancelled { step: trainer.state.step, checkpoint });
    };
    Ok(Outcome::Finished(Box::new(summary)))
}

/// A training in progress.
struct Trainer {
    config: TrainConfig,
    files: Files,
    network: Box<dyn Network>,
    teacher: Option<(Teacher, Teaching)>,
    vocabulary: Vocabulary,
    kernels: Kernels,
    batches: Batches,
    validation: Vec<u32>,
    parameters: Parameters,
    optimizer: AdamW,
    state: State,
    journal: Journal,
    cancel: Arc<AtomicBool>,
    speed: Speed,
}

/// What a step gives.
struct Done {
    loss: f64,
    grad_norm: f64,
}

impl Trainer {
    fn new(
        config: TrainConfig,
        options: RunOptions,
        cancel: Arc<AtomicBool>,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        config.check()?;
        let files = Files::new(&config.output)?;
        let text = Text::read(&config.data, config.model.tokenizer)?;
        let vocabulary = learn(&config, &text)?;
        let network = network::build(&config.model, vocabulary.size(), &config.output.name)?;
        let train = &config.train;
        let batches = Batches::new(vocabulary.encode(&text.train)?, config.seq(), train.batch, train.seed)?;
        let validation = vocabulary.encode(&text.validation)?;
        if validation.len() < 2 {
            let (tokens, key) = (validation.len(), "data.split");
            return Err(Error::DataTooShort { split: "validation", tokens, needed: 2, key });
        }
        let fingerprint = Fingerprint {
            model: serde_json::to_string(&config.model)?,
            data: hex(&Sha256::digest([text.train, text.validation].concat())),
            vocabulary: vocabulary.hash(),
        };
        let kernels = Kernels::select(&Cpu::detect());
        let teacher = match &config.distill {
            Some(of) => {
                let teacher = Teacher::load(&of.teacher, &vocabulary, config.seq(), kernels)?;
                let teaching = Teaching::new(of, &*network, &teacher, config.seq(), kernels)?;
                Some((teacher, teaching))
            }
            None => None,
        };
        let mut all = all_parameters(&*network, &config);
        // Last, so that the network begins as it does without hints.
        all.extend(teacher.iter().flat_map(|(_, teaching)| teaching.parameters()));
        let parameters = Parameters::initialized(all, train.seed);
        let start = if options.resume {
            resume(&files.checkpoint, &parameters, &fingerprint, train.ema > 0.0, progress)?
        } else {
            files.check_free(options.overwrite)?;
            let optimizer = AdamW::new(&parameters, train.ema > 0.0);
            Checkpoint { state: State { fingerprint, ..State::default() }, parameters, optimizer }
        };
        let Checkpoint { state, parameters, optimizer } = start;
        let journal = Journal::open(&files.log, state.step)?;
        let event = Event::Started {
            parameters: parameters.count(),
            vocab: vocabulary.size(),
            train_tokens: batches.n_tokens(),
            validation_tokens: validation.len(),
            resumed_at: state.step,
        };
        progress.event(&event);
        let speed = Speed::new();
        Ok(Self {
            config,
            files,
            network,
            teacher,
            vocabulary,
            kernels,
            batches,
            validation,
            parameters,
            optimizer,
            state,
            journal,
            cancel,
            speed,
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// How products are computed in step `step`, from 1, and in evaluations after it.
    fn arithmetic(&self, step: usize) -> Arithmetic {
        let train = &self.config.train;
        match train.quant.format() {
            Some(format) if step > train.quant_from_step => Arithmetic::Quant(format),
            _ if train.exact => Arithmetic::Exact,
            _ => Arithmetic::Float,
        }
    }

    /// Runs the steps that are left; false when cancelled.
    fn steps(&mut self, progress: &mut dyn Progress) -> Result<bool, Error> {
        let train = self.config.train.clone();
        let (mut losses, mut n_losses) = (0.0, 0);
        while self.state.step < train.steps {
            if self.is_cancelled() {
                return Ok(false);
            }
            let step = self.state.step + 1;
            if step == train.quant_from_step + 1 && train.quant.format().is_some() {
                self.begin_quantization();
            }
            let done = self.step(step)?;
            self.state.step = step;
            let tokens = train.batch * self.config.seq() * train.accumulate;
            let tokens_per_second = self.speed.measure(tokens);
            let seconds_left = (train.steps - step) as f64 * tokens as f64 / tokens_per_second;
            let lr = learning_rate(&train, step);
            let steps = train.steps;
            progress.event(&Event::Step { step, steps, loss: done.loss, lr, tokens_per_second, seconds_left });
            losses += done.loss;
            n_losses += 1;
            if step.is_multiple_of(train.log_every) || step == train.steps {
                let loss = losses / f64::from(n_losses);
                let grad_norm = done.grad_norm;
                self.journal.add(Line::Train { step, loss, lr, grad_norm, tokens_per_second })?;
                (losses, n_losses) = (0.0, 0);
            }
            let mut stop = false;
            if step.is_multiple_of(train.eval_every) || step == train.steps {
                match self.evaluate(step, progress)? {
                    Some(patience_is_over) => stop = patience_is_over,
                    None => return Ok(false),
                }
            }
            if step.is_multiple_of(train.checkpoint_every) || step == train.steps || stop {
                self.save(progress)?;
            }
            self.speed.restart();
            if stop {
                break;
            }
        }
        Ok(true)
    }

    /// One step of the optimiser.
    fn step(&mut self, step: usize) -> Result<Done, Error> {
        let train = &self.config.train;
        let (weights, vars) = Weights::variable(&self.parameters, self.arithmetic(step), self.kernels)?;
        let mut gradients: Vec<Vec<f32>> = Vec::new();
        let mut loss = 0.0;
        for micro in 0..train.accumulate {
            let (ids, targets) = self.batches.get(step, micro);
            let key = stream(train.seed, &[2, step as u64, micro as u64]);
            let pass = Pass::Train { dropout: train.dropout, key };
            let batch = Batch { ids: &ids, seq: self.config.seq() };
            let answers = match &self.teacher {
                Some((teacher, teaching)) => Some((teaching, teacher.answers(batch, teaching.hints())?)),
                None => None,
            };
            let taught = answers.as_ref().map(|(teaching, answers)| (*teaching, answers));
            let (nats, total) = losses(&*self.network, &weights, batch, &targets, pass, taught, &mut self.state.hint)?;
            loss += nats / train.accumulate as f64;
            add_gradients(&mut gradients, &total.backward()?, &vars, &self.parameters)?;
        }
        let grad_norm = global_norm(&gradients) / train.accumulate as f64;
        for (what, value) in [("the loss", loss), ("the gradient", grad_norm)] {
            if !value.is_finite() {
                let checkpoint = Some(self.files.checkpoint.clone()).filter(|path| path.exists());
                return Err(Error::Diverged { what, step, checkpoint });
            }
        }
        let clip = if train.clip > 0.0 { (train.clip / grad_norm.max(1e-12)).min(1.0) } else { 1.0 };
        self.optimizer.update(&mut self.parameters, &gradients, clip / train.accumulate as f64, train);
        Ok(Done { loss, grad_norm })
    }

    /// Gives learned steps their first values; earlier losses do not compare with those to come.
    fn begin_quantization(&mut self) {
        self.state.best = None;
        for i in 0..self.parameters.0.len() {
            let Some(steps) = self.parameters.0.iter().position(|p| p.name == steps_of(&self.parameters.0[i].name))
            else {
                continue;
            };
            let first = |values: &[f32]| values.chunks(BLOCK).map(first_step).collect::<Vec<_>>();
            if let Some(average) = self.optimizer.ema.get(i).map(|values| first(values)) {
                self.optimizer.ema[steps] = average;
            }
            self.parameters.0[steps].values = first(&self.parameters.0[i].values);
        }
    }

    /// Evaluates the weights that would be exported; whether patience is over, none when cancelled.
    fn evaluate(&mut self, step: usize, progress: &mut dyn Progress) -> Result<Option<bool>, Error> {
        let start = Instant::now();
        let averaged = self.optimizer.averaged(&self.parameters);
        let Some(evaluation) = self.evaluation(&averaged, self.arithmetic(step))? else { return Ok(None) };
        if !evaluation.nats_per_char.is_finite() {
            let checkpoint = Some(self.files.checkpoint.clone()).filter(|path| path.exists());
            return Err(Error::Diverged { what: "the validation loss", step, checkpoint });
        }
        let best = self.state.best.is_none_or(|best| evaluation.nats_per_char < best);
        if best {
            let state = &mut self.state;
            (state.best, state.best_step, state.waited) = (Some(evaluation.nats_per_char), step, 0);
            let (state, optimizer) = (self.state.clone(), AdamW::default());
            Checkpoint { state, parameters: averaged, optimizer }.save(&self.files.best)?;
        } else {
            self.state.waited += 1;
        }
        self.journal.add(Line::eval(step, &evaluation, start.elapsed().as_secs_f64()))?;
        progress.event(&Event::Evaluated { step, evaluation: &evaluation, best });
        let patience = self.config.train.patience;
        Ok(Some(patience > 0 && self.state.waited >= patience))
    }

    fn evaluation(&self, parameters: &Parameters, arithmetic: Arithmetic) -> Result<Option<Evaluation>, Error> {
        let weights = Weights::constant(parameters, arithmetic, self.kernels)?;
        // A batch of the evaluation takes about the memory of one of the training.
        let batch = (self.config.train.batch * self.config.seq() / self.config.model.ctx).max(1);
        let stop = || self.is_cancelled();
        evaluate(&*self.network, &weights, &self.vocabulary, &self.validation, batch, &stop)
    }

    fn save(&self, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        let path = &self.files.checkpoint;
        let (parameters, optimizer) = (self.parameters.clone(), self.optimizer.clone());
        Checkpoint { state: self.state.clone(), parameters, optimizer }.save(path)?;
        progress.event(&Event::Saved { path });
        Ok(path.clone())
    }

    /// Exports the best weights and measures them; none when cancelled.
    fn finish(&mut self, draw: bool) -> Result<Option<Summary>, Error> {
        if draw {
            let svg = plot::svg(&self.config.output.name, &self.journal.lines);
            files::replace(&self.files.plot, svg.as_bytes())?;
        }
        let best = Checkpoint::load(&self.files.best, &self.parameters, None)?;
        report::write(self, &best.parameters, best.state.step.max(best.state.best_step))
    }
}

/// The vocabulary of the training part.
fn learn(config: &TrainConfig, text: &Text) -> Result<Vocabulary, Error> {
    let size = config.model.vocab.unwrap_or(0);
    let vocabulary = Vocabulary::learn(config.model.tokenizer, &text.train, size)?;
    if config.model.tokenizer == TokenizerKind::Bpe && vocabulary.size() < size {
        let expected = format!("at most {}, for so many pairs of tokens repeat in the text", vocabulary.size());
        return Err(Error::value("model.vocab", size, expected));
    }
    Ok(vocabulary)
}

/// The network's parameters, and the learned steps of its matrices where they are asked for.
fn all_parameters(network: &dyn Network, config: &TrainConfig) -> Vec<Parameter> {
    let mut all = network.parameters();
    if config.train.step_size == StepSize::Learned {
        let steps = |p: &Parameter| match (p.role, &p.shape[..]) {
            (Role::Matrix { .. }, &[rows, cols]) => {
                Some(Parameter::new(steps_of(&p.name), &[rows, cols / BLOCK], Role::Steps))
            }
            _ => None,
        };
        let steps: Vec<_> = all.iter().filter_map(steps).collect();
        all.extend(steps);
    }
    all
}

/// The last checkpoint, or the one before where that is damaged.
fn resume(
    path: &Path,
    like: &Parameters,
    fingerprint: &Fingerprint,
    ema: bool,
    progress: &mut dyn Progress,
) -> Result<Checkpoint, Error> {
    let before = previous(path);
    if !path.exists() && !before.exists() {
        return Err(Error::NoCheckpoint(path.to_owned()));
    }
    let moments = Some(WithEma(ema));
    let (checkpoint, path) = match Checkpoint::load(path, like, moments) {
        Err(error @ (Error::BrokenCheckpoint { .. } | Error::Read { .. })) if before.exists() => {
            progress.event(&Event::Note(&format!("{error}; going on from {}", before.display())));
            (Checkpoint::load(&before, like, moments)?, &*before)
        }
        loaded => (loaded?, path),
    };
    let found = &checkpoint.state.fingerprint;
    let differs = [
        ("[model]", found.model != fingerprint.model),
        ("the text of data.files", found.data != fingerprint.data),
        ("the vocabulary", found.vocabulary != fingerprint.vocabulary),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(Error::OtherTraining { path: path.to_owned(), reason: format!("{what} differs") }),
        None => Ok(checkpoint),
    }
}

/// Tokens per second of late.
struct Speed {
    since: Instant,
    average: Option<f64>,
}

impl Speed {
    fn new() -> Self {
        Self { since: Instant::now(), average: None }
    }

    /// Counts a step that began at the last [`Speed::restart`].
    fn measure(&mut self, tokens: usize) -> f64 {
        let now = tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        let average = self.average.map_or(now, |average| average + 0.1 * (now - average));
        self.average = Some(average);
        average
    }

    fn restart(&mut self) {
        self.since = Instant::now();
    }
}
