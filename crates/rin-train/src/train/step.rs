//! What a step of a training shares with one of a network that is trained in memory, and the latter.

use super::teacher::{Answers, Student, Teaching};
use crate::Error;
use crate::config::LoopConfig;
use crate::kernels::Kernels;
use crate::network::{Batch, Inside, Network, Pass};
use crate::ops::{cross_entropy, host};
use crate::optimizer::{AdamW, global_norm};
use crate::parameters::{Parameter, Parameters};
use crate::weights::{Arithmetic, Weights};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

/// The loss against the text, in nats per token, and the loss whose gradient is followed: the same without a teacher.
/// `first` becomes the hints' distances where there are none yet.
pub(super) fn losses(
    network: &dyn Network,
    weights: &Weights,
    batch: Batch<'_>,
    targets: &[u32],
    pass: Pass,
    taught: Option<(&Teaching, &Answers)>,
    first: &mut Vec<f64>,
) -> Result<(f64, Tensor), Error> {
    let mut inside = taught.filter(|(teaching, _)| teaching.hints()).map(|_| Inside::default());
    let logits = network.forward_seen(weights, batch, pass, inside.as_mut())?;
    let nats = cross_entropy(&logits, targets, weights.kernels)?;
    let number = f64::from(nats.to_scalar::<f32>()?);
    let total = match taught {
        Some((teaching, answers)) => {
            let student = Student { nats: &nats, logits: &logits, inside: inside.as_ref(), weights };
            teaching.loss(student, answers, first)?
        }
        None => nats,
    };
    Ok((number, total))
}

/// Adds the gradients of one batch.
pub(super) fn add_gradients(
    sums: &mut Vec<Vec<f32>>,
    store: &GradStore,
    vars: &[Var],
    parameters: &Parameters,
) -> Result<(), Error> {
    let first = sums.is_empty();
    for (i, (var, p)) in vars.iter().zip(&parameters.0).enumerate() {
        let gradient = match store.get(var.as_tensor()) {
            Some(gradient) => Some(gradient.contiguous()?),
            None => None,
        };
        let values = gradient.as_ref().map(host).transpose()?;
        match (first, values) {
            (true, Some(values)) => sums.push(values.to_vec()),
            (true, None) => sums.push(vec![0.0; p.len()]),
            (false, Some(values)) => sums[i].iter_mut().zip(values.iter()).for_each(|(sum, g)| *sum += g),
            (false, None) => {}
        }
    }
    Ok(())
}

/// What is learned in a step.
pub(super) struct Lesson<'a> {
    pub(super) batch: Batch<'a>,
    /// The token after each.
    pub(super) targets: &'a [u32],
    /// What a teacher says of the batch.
    pub(super) taught: Option<(&'a Teaching, &'a Answers)>,
}

/// A network that is trained in memory.
#[derive(Debug)]
pub(super) struct Learner {
    pub(super) network: Box<dyn Network>,
    pub(super) parameters: Parameters,
    pub(super) kernels: Kernels,
    optimizer: AdamW,
    /// Distances of hints in the first step.
    first: Vec<f64>,
    /// Steps done.
    pub(super) steps: usize,
}

impl Learner {
    /// Before the first step; `all` begins with the network's parameters.
    pub(super) fn new(network: Box<dyn Network>, all: Vec<Parameter>, seed: u64, kernels: Kernels) -> Self {
        let parameters = Parameters::initialized(all, seed);
        let optimizer = AdamW::new(&parameters, false);
        Self { network, parameters, kernels, optimizer, first: Vec::new(), steps: 0 }
    }

    /// One step at the learning rate `lr`; the loss against the text before it, in nats per token.
    pub(super) fn step(
        &mut self,
        lesson: &Lesson<'_>,
        arithmetic: Arithmetic,
        lr: f64,
        train: &LoopConfig,
    ) -> Result<f64, Error> {
        let (weights, vars) = Weights::variable(&self.parameters, arithmetic, self.kernels)?;
        let Lesson { batch, targets, taught } = *lesson;
        let (nats, total) = losses(&*self.network, &weights, batch, targets, Pass::Evaluate, taught, &mut self.first)?;
        let mut gradients = Vec::new();
        add_gradients(&mut gradients, &total.backward()?, &vars, &self.parameters)?;
        let norm = global_norm(&gradients);
        for (what, value) in [("the loss", nats), ("the gradient", norm)] {
            if !value.is_finite() {
                return Err(Error::Diverged { what, step: self.steps + 1, checkpoint: None });
            }
        }
        let clip = if train.clip > 0.0 { (train.clip / norm.max(1e-12)).min(1.0) } else { 1.0 };
        self.optimizer.update_at(lr, &mut self.parameters, &gradients, clip, train);
        self.steps += 1;
        Ok(nats)
    }
}
