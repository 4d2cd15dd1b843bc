//! The teacher of a distillation: the best weights of another training.

use super::all_parameters;
use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::config::{DistillConfig, TrainConfig};
use crate::kernels::Kernels;
use crate::network::{self, Batch, Network, Pass};
use crate::ops::distillation;
use crate::parameters::Parameters;
use crate::weights::{Arithmetic, Weights};
use candle_core::Tensor;

/// A network that is not trained any more, and what its word counts.
pub(super) struct Teacher {
    network: Box<dyn Network>,
    weights: Weights,
    config: DistillConfig,
    kernels: Kernels,
}

impl Teacher {
    /// Reads the weights of the best evaluation of the teacher's training.
    ///
    /// # Errors
    /// When they are not there, are of another vocabulary, or its context is shorter than a training sequence.
    pub(super) fn load(
        config: &DistillConfig,
        vocab: usize,
        vocabulary: &str,
        seq: usize,
        kernels: Kernels,
    ) -> Result<Self, Error> {
        let of = TrainConfig::read(&config.teacher)?;
        let not = |expected: String| Error::value("distill.teacher", config.teacher.display(), expected);
        if of.model.ctx < seq {
            return Err(not(format!("a network with a context of at least {seq} tokens")));
        }
        let network = network::build(&of.model, vocab, &of.output.name)?;
        let like = Parameters::initialized(all_parameters(&*network, &of), 0);
        let best = of.output.dir.join(format!("{}.best", of.output.name));
        if !best.exists() {
            return Err(not(format!("a training that was run: {} is missing", best.display())));
        }
        let best = Checkpoint::load(&best, &like, None)?;
        if best.state.fingerprint.vocabulary != vocabulary {
            return Err(not("a network of the same vocabulary".to_owned()));
        }
        let arithmetic = of.train.quant.format().map_or(Arithmetic::Float, Arithmetic::Quant);
        let weights = Weights::constant(&best.parameters, arithmetic, kernels)?;
        Ok(Self { network, weights, config: config.clone(), kernels })
    }

    /// The loss of a student with these `logits`, `nats` its loss against the text.
    pub(super) fn loss(&self, nats: &Tensor, logits: &Tensor, batch: Batch<'_>) -> Result<Tensor, Error> {
        let teacher = self.network.forward(&self.weights, batch, Pass::Evaluate)?;
        let distance = distillation(logits, &teacher, self.config.temperature, self.kernels)?;
        let share = self.config.weight;
        Ok(((nats * (1.0 - share))? + (distance * share)?)?)
    }
}
