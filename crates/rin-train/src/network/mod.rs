//! Networks: each is one module that names its parameters and writes its forward pass down.

mod decoder;
mod feed_forward;

pub use decoder::Decoder;
pub use feed_forward::{Activated, Cut, FeedForward, Neurons, Predictor, Route};

use crate::Error;
use crate::config::ModelConfig;
use crate::ops::Dropout;
use crate::parameters::{Parameter, Parameters};
use crate::random::stream;
use crate::weights::Weights;
use candle_core::Tensor;
use rin_model::Config;

/// Token sequences of one length.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, `(sequences, seq)`.
    pub ids: &'a [u32],
    /// Tokens of each sequence.
    pub seq: usize,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// Evaluation: nothing is dropped.
    Evaluate,
    /// Training with dropout.
    Train {
        /// Share of the elements that are dropped.
        dropout: f64,
        /// Key of the masks: another for each step.
        key: u64,
    },
}

impl Pass {
    /// The mask of the place `site` in the network.
    pub fn dropout(self, site: u64) -> Option<Dropout> {
        match self {
            Self::Evaluate => None,
            Self::Train { dropout, key } => Dropout::new(stream(key, &[site]), dropout),
        }
    }
}

/// A network that can be trained and exported.
pub trait Network: std::fmt::Debug + Send + Sync {
    /// The numbers of the network, as the exported file has them.
    fn config(&self) -> &Config;

    /// Its parameters without numbers, named and shaped as the exported file has them.
    fn parameters(&self) -> Vec<Parameter>;

    /// Logits `(tokens, vocab)` of a batch.
    ///
    /// # Errors
    /// When the weights are not those of [`Network::parameters`], or the tensor library refuses.
    fn forward(&self, weights: &Weights, batch: Batch<'_>, pass: Pass) -> Result<Tensor, Error> {
        self.forward_seen(weights, batch, pass, None)
    }

    /// As [`Network::forward`]; `inside` gets what the layers made of the batch.
    ///
    /// # Errors
    /// As for [`Network::forward`].
    fn forward_seen(
        &self,
        weights: &Weights,
        batch: Batch<'_>,
        pass: Pass,
        inside: Option<&mut Inside>,
    ) -> Result<Tensor, Error>;
}

/// What the layers made of a batch.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    /// The residual stream `(tokens, dim)`: the embedding, then after each layer.
    pub hidden: Vec<Tensor>,
    /// Queries, keys and values `(tokens, (heads + 2 kv_heads) head_dim)` of each layer that attends, before rotation.
    pub qkv: Vec<Tensor>,
    /// The neurons of each layer whose feed-forward part is a [`FeedForward`].
    pub neurons: Vec<Neurons>,
}

/// The network that a configuration describes, over a vocabulary of `vocab` tokens.
///
/// # Errors
/// When the numbers do not fit each other.
pub fn build(model: &ModelConfig, vocab: usize, name: &str) -> Result<Box<dyn Network>, Error> {
    match model.family {
        crate::config::Family::Llama => Ok(Box::new(Decoder::new(model, vocab, name)?)),
    }
}

/// First values of a network's parameters.
pub fn initialize(network: &dyn Network, seed: u64) -> Parameters {
    Parameters::initialized(network.parameters(), seed)
}
