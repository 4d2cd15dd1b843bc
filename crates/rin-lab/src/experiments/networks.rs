//! Small language models that are trained on tiny Shakespeare: what the experiments on trained networks share.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rin_train::config::{LoopConfig, ModelConfig, TokenizerKind};
use rin_train::evaluate::Evaluation;
use rin_train::network::{Network, build};
use rin_train::train::{Corpus, Trained};
use rin_train::weights::Arithmetic;
use serde_json::{Value, json};

use crate::results::Results;
use crate::{Case, Context, Error};

/// Characters of a window.
pub(super) const SEQ: usize = 64;
/// The text, in the data folder.
const TEXT: &str = "text/tinyshakespeare.txt";
/// Seed of the trials of rates, none of those that count.
const RATE_SEED: u64 = 100;

/// The learning rates that are tried for each arm where windows are short.
pub(super) const RATES: [f64; 3] = [1e-3, 2e-3, 5e-4];

thread_local! {
    /// The text and the networks that this run has trained, which experiments share.
    static KEPT: RefCell<HashMap<String, Kept>> = RefCell::new(HashMap::new());
}

#[derive(Clone)]
enum Kept {
    Corpus(Rc<Corpus>),
    Network(Rc<Trained>),
    Rates(Value),
}

/// The text.
pub(super) fn corpus(context: &Context<'_>) -> Result<Rc<Corpus>, Error> {
    if let Some(Kept::Corpus(corpus)) = kept(TEXT) {
        return Ok(corpus);
    }
    let corpus = Rc::new(Corpus::read(&context.data(TEXT)?)?);
    keep(TEXT, Kept::Corpus(corpus.clone()));
    Ok(corpus)
}

fn kept(name: &str) -> Option<Kept> {
    KEPT.with_borrow(|kept| kept.get(name).cloned())
}

fn keep(name: &str, what: Kept) {
    KEPT.with_borrow_mut(|kept| kept.insert(name.to_owned(), what));
}

/// How a network of an arm is made.
pub(super) type Make = fn(&ModelConfig, usize) -> Result<Box<dyn Network>, rin_train::Error>;

/// What an arm trains.
#[derive(Clone)]
pub(super) struct Arm {
    pub(super) name: &'static str,
    pub(super) model: ModelConfig,
    /// Of its matrices' products, in training and after.
    pub(super) arithmetic: Arithmetic,
    pub(super) make: Make,
}

/// The network of a configuration as it is.
pub(super) fn plain(model: &ModelConfig, vocab: usize) -> Result<Box<dyn Network>, rin_train::Error> {
    build(model, vocab, "arm")
}

/// A llama with heads of 64 and half as many for keys and values.
pub(super) fn model(dim: usize, layers: usize, ffn: usize) -> ModelConfig {
    let heads = (dim / 64).max(1);
    ModelConfig {
        dim,
        layers,
        heads,
        kv_heads: Some((heads / 2).max(1)),
        ffn,
        ctx: SEQ,
        ..ModelConfig::plain(TokenizerKind::Char)
    }
}

/// How long networks are trained.
#[derive(Clone, Copy)]
pub(super) struct Course {
    pub(super) steps: usize,
    /// Steps before matrices are rounded, where an arm rounds them.
    pub(super) float_steps: usize,
    /// Learning rates that are tried.
    pub(super) rates: [f64; 3],
    /// Steps of a trial of a rate.
    pub(super) rate_steps: usize,
    /// Windows of a step.
    pub(super) batch: usize,
    /// Characters of the validation split that are predicted.
    pub(super) chars: usize,
}

impl Course {
    fn settings(self, steps: usize, lr: f64, seed: u64) -> LoopConfig {
        LoopConfig {
            seed,
            batch: self.batch,
            warmup: Some(steps.div_ceil(20)),
            quant_from_step: self.float_steps * steps / self.steps.max(1),
            ..LoopConfig::plain(steps, lr, lr / 10.0)
        }
    }

    fn trained(self, arm: &Arm, steps: usize, lr: f64, seed: u64, context: &Context<'_>) -> Result<Trained, Error> {
        let corpus = corpus(context)?;
        let network = (arm.make)(&arm.model, corpus.vocab())?;
        let stop = || context.check().is_err();
        corpus.train(network, &self.settings(steps, lr, seed), arm.arithmetic, &stop)?.ok_or(Error::Cancelled)
    }

    /// Tries the rates of an arm: the loss of each on the last tenth of a short training, and the rate of the least. A
    /// training that diverges is out.
    pub(super) fn rates(self, arm: &Arm, context: &Context<'_>) -> Result<Value, Error> {
        let key = format!("rates of {}, {} steps", arm.name, self.rate_steps);
        if let Some(Kept::Rates(value)) = kept(&key) {
            return Ok(value);
        }
        let (mut losses, mut best) = (Vec::new(), None::<(f64, f64)>);
        for lr in self.rates {
            let loss = match self.trained(arm, self.rate_steps, lr, RATE_SEED, context) {
                Ok(trained) => Some(trained.loss),
                Err(Error::Training(rin_train::Error::Diverged { .. })) => None,
                Err(error) => return Err(error),
            };
            if let Some(loss) = loss
                && best.is_none_or(|best| loss < best.1)
            {
                best = Some((lr, loss));
            }
            losses.push(json!({ "lr": lr, "loss": loss }));
        }
        let best = best.ok_or_else(|| Error::input("training", format!("{} diverges at every rate", arm.name)))?;
        let value = json!({ "tried": losses, "best": best.0 });
        keep(&key, Kept::Rates(value.clone()));
        Ok(value)
    }

    /// The network of an arm and a seed at the arm's best rate.
    pub(super) fn network(self, arm: &Arm, seed: u64, context: &Context<'_>) -> Result<Rc<Trained>, Error> {
        self.network_at(arm, arm, seed, context)
    }

    /// The same at the best rate of another arm.
    pub(super) fn network_at(
        self,
        arm: &Arm,
        rate_of: &Arm,
        seed: u64,
        context: &Context<'_>,
    ) -> Result<Rc<Trained>, Error> {
        let key = format!("{}, seed {seed}, {} steps", arm.name, self.steps);
        if let Some(Kept::Network(network)) = kept(&key) {
            return Ok(network);
        }
        let lr = self.rates(rate_of, context)?["best"].as_f64().unwrap_or(self.rates[0]);
        let network = Rc::new(self.trained(arm, self.steps, lr, seed, context)?);
        keep(&key, Kept::Network(network.clone()));
        Ok(network)
    }

    /// How well a network predicts with products of `arithmetic`.
    pub(super) fn evaluated(
        self,
        trained: &Trained,
        arithmetic: Arithmetic,
        context: &Context<'_>,
    ) -> Result<Evaluation, Error> {
        let stop = || context.check().is_err();
        corpus(context)?.evaluate(trained, arithmetic, self.chars, &stop)?.ok_or(Error::Cancelled)
    }

    /// Trains and evaluates an arm.
    pub(super) fn run(self, arm: &Arm, seed: u64, context: &Context<'_>) -> Result<Value, Error> {
        let trained = self.network(arm, seed, context)?;
        let found = self.evaluated(&trained, arm.arithmetic, context)?;
        Ok(told(arm, &trained, &found))
    }
}

/// What is stored of a network of an arm.
pub(super) fn told(arm: &Arm, trained: &Trained, found: &Evaluation) -> Value {
    json!({
        "nats": found.nats_per_char,
        "interval": found.interval,
        "chars": found.chars,
        "loss": trained.loss,
        "parameters": trained.parameters(),
        "bytes": trained.bytes(arm.arithmetic),
    })
}

/// The cases of arms: the rates of each, then what `run` finds for each seed.
pub(super) fn cases(
    course: Course,
    arms: impl IntoIterator<Item = Arm>,
    seeds: u64,
    run: fn(Course, &Arm, u64, &Context<'_>) -> Result<Value, Error>,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for arm in arms {
        let of = arm.clone();
        cases.push(Case::new(rates_case(arm.name), move |context| course.rates(&of, context)));
        for seed in 0..seeds {
            let arm = arm.clone();
            cases.push(Case::new(seed_case(arm.name, seed), move |context| run(course, &arm, seed, context)));
        }
    }
    cases
}

/// What the case of the rates of an arm is called.
pub(super) fn rates_case(arm: &str) -> String {
    format!("rates, {arm}")
}

/// What the case of an arm and a seed is called.
pub(super) fn seed_case(arm: &str, seed: u64) -> String {
    format!("{arm}, seed {seed}")
}

/// A number of each seed.
pub(super) fn column(results: &Results, arm: &str, seeds: u64, pointer: &str) -> Result<Vec<f64>, Error> {
    (0..seeds).map(|seed| results.number(&seed_case(arm, seed), pointer)).collect()
}
