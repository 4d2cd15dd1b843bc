//! Networks that are trained in memory on one text, so that many can be compared.

use super::step::{Learner, Lesson};
use crate::Error;
use crate::config::{DataConfig, LoopConfig, TokenizerKind};
use crate::data::{Batches, Text};
use crate::evaluate::{Evaluation, evaluate};
use crate::heap::KeepHeap;
use crate::kernels::Kernels;
use crate::network::{Batch, Inside, Network, Neurons, Pass};
use crate::ops::host;
use crate::optimizer::learning_rate;
use crate::parameters::Parameters;
use crate::vocabulary::Vocabulary;
use crate::weights::{Arithmetic, Weights};
use rin_kernels::Cpu;
use std::path::{Path, PathBuf};

/// Share of the text, from its beginning, that is trained on.
const SPLIT: f64 = 0.9;
/// Tokens that an evaluation takes at a time.
const GROUP: usize = 2048;

/// A text by characters.
#[derive(Debug)]
pub struct Corpus {
    vocabulary: Vocabulary,
    train: Vec<u32>,
    validation: Vec<u32>,
    kernels: Kernels,
    _heap: KeepHeap,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is trained on.
    Training,
    /// What is only evaluated.
    Validation,
}

/// The numbers of [`Neurons`], row-major `(tokens, ffn)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Gates before their activation.
    pub inputs: Vec<f32>,
    /// Activated gates, 0 where a neuron is left out.
    pub gates: Vec<f32>,
    /// What the down matrix multiplies.
    pub outputs: Vec<f32>,
}

/// A network after its training.
#[derive(Debug)]
pub struct Trained {
    network: Box<dyn Network>,
    parameters: Parameters,
    /// The loss of the last tenth of the steps, in nats per token.
    pub loss: f64,
}

impl Corpus {
    /// Reads a text; the last tenth is for validation.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let heap = KeepHeap::new();
        let text = Text::read(&DataConfig { files: vec![PathBuf::from(file)], split: SPLIT }, TokenizerKind::Char)?;
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, &text.train, 0)?;
        let (train, validation) = (vocabulary.encode(&text.train)?, vocabulary.encode(&text.validation)?);
        Ok(Self { vocabulary, train, validation, kernels: Kernels::select(&Cpu::detect()), _heap: heap })
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocabulary.size()
    }

    /// Trains a network on windows of its context; products are those of `arithmetic` after
    /// `train.quant_from_step`, in f32 before; of `train` the sizes, rates and the seed count, too. None where `stop` said
    /// so before a step.
    ///
    /// # Errors
    /// [`Error::Diverged`] when losses are no numbers any more; when the network does not fit `quant`.
    pub fn train(
        &self,
        network: Box<dyn Network>,
        train: &LoopConfig,
        arithmetic: Arithmetic,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Trained>, Error> {
        let seq = network.config().ctx;
        let batches = Batches::new(self.train.clone(), seq, train.batch, train.seed)?;
        let all = network.parameters();
        let mut learner = Learner::new(network, all, train.seed, self.kernels);
        let (mut loss, last) = (0.0, train.steps.div_ceil(10));
        for step in 1..=train.steps {
            if stop() {
                return Ok(None);
            }
            let (ids, targets) = batches.get(step, 0);
            let lesson = Lesson { batch: Batch { ids: &ids, seq }, targets: &targets, taught: None };
            let arithmetic = if step > train.quant_from_step { arithmetic } else { Arithmetic::Float };
            let nats = learner.step(&lesson, arithmetic, learning_rate(train, step), train)?;
            if step + last > train.steps {
                loss += nats / last as f64;
            }
        }
        Ok(Some(Trained { network: learner.network, parameters: learner.parameters, loss }))
    }

    /// The neurons of each layer over the first `windows` windows of a part of the text, for networks with a
    /// [`FeedForward`](crate::network::FeedForward).
    ///
    /// # Errors
    /// When the text is shorter, or the tensor library refuses.
    pub fn neurons(&self, trained: &Trained, windows: usize, part: Part) -> Result<Vec<Numbers>, Error> {
        let seq = trained.network.config().ctx;
        let (ids, split) = match part {
            Part::Training => (&self.train, "training"),
            Part::Validation => (&self.validation, "validation"),
        };
        let (tokens, needed) = (ids.len(), windows * seq);
        let ids = ids.get(..needed).ok_or(Error::DataTooShort { split, tokens, needed, key: "windows" })?;
        let weights = Weights::constant(&trained.parameters, Arithmetic::Float, self.kernels)?;
        let mut inside = Inside::default();
        trained.network.forward_seen(&weights, Batch { ids, seq }, Pass::Evaluate, Some(&mut inside))?;
        let numbers = |n: &Neurons| {
            let [inputs, gates, outputs] = [&n.inputs, &n.gates, &n.outputs].map(|t| Ok::<_, Error>(host(t)?.to_vec()));
            Ok(Numbers { inputs: inputs?, gates: gates?, outputs: outputs? })
        };
        inside.neurons.iter().map(numbers).collect()
    }

    /// How well a network predicts the validation split, or the first `most` tokens of it, with its matrices as
    /// `arithmetic` has them. None where `stop` said so.
    ///
    /// # Errors
    /// When a matrix does not fit the format, or there are fewer than two tokens.
    pub fn evaluate(
        &self,
        trained: &Trained,
        arithmetic: Arithmetic,
        most: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Evaluation>, Error> {
        let weights = Weights::constant(&trained.parameters, arithmetic, self.kernels)?;
        let tokens = &self.validation[..most.min(self.validation.len())];
        let batch = (GROUP / trained.network.config().ctx.max(1)).max(1);
        evaluate(&*trained.network, &weights, &self.vocabulary, tokens, batch, stop)
    }
}

impl Trained {
    /// The same numbers in a network that has the same parameters.
    #[must_use]
    pub fn within(&self, network: Box<dyn Network>) -> Self {
        Self { network, parameters: self.parameters.clone(), loss: self.loss }
    }

    /// The numbers of the parameter `name`.
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.parameters.get(name).map(|p| &p.values[..])
    }

    /// Numbers of the network.
    pub fn parameters(&self) -> usize {
        self.parameters.count()
    }

    /// Bytes of its weights in a file with the matrices as `arithmetic` has them and vectors of f32 (in f32 where no format
    /// has them); none where they do not fit.
    pub fn bytes(&self, arithmetic: Arithmetic) -> Option<usize> {
        let of = |p: &crate::parameters::Parameter| match (p.role, &p.shape[..]) {
            (crate::parameters::Role::Matrix { .. }, [rows, cols]) => {
                arithmetic.format_of(&p.name).row_bytes(*cols)?.checked_mul(*rows)
            }
            _ => p.len().checked_mul(4),
        };
        self.parameters.0.iter().filter(|p| p.role.is_exported()).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Corpus;
    use crate::config::{LoopConfig, ModelConfig, TokenizerKind};
    use crate::network::build;
    use crate::weights::Arithmetic;
    use rin_kernels::Format;

    #[test]
    fn a_ternary_network_learns_and_its_bytes_are_those_of_its_formats() {
        let file = std::env::temp_dir().join(format!("rin-train-corpus-{}.txt", std::process::id()));
        std::fs::write(&file, "It was the best of times, it was the worst of times. ".repeat(40)).unwrap();
        let corpus = Corpus::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let model =
            ModelConfig { dim: 256, layers: 1, heads: 4, ffn: 256, ctx: 32, ..ModelConfig::plain(TokenizerKind::Char) };
        let network = || build(&model, corpus.vocab(), "arm").unwrap();
        let train = LoopConfig { batch: 4, ..LoopConfig::plain(20, 4e-3, 4e-4) };
        let format = Arithmetic::Quant(Format::TQ2_0);
        let trained = corpus.train(network(), &train, format, &|| false).unwrap().unwrap();
        let of = |arithmetic| corpus.evaluate(&trained, arithmetic, 200, &|| false).unwrap().unwrap();
        let found = of(format);
        assert_eq!(found.tokens, 199);
        assert!(trained.loss < 2.6 && found.nats_per_char < 2.4, "{} {}", trained.loss, found.nats_per_char);
        // The weights behind the rounding are another network.
        assert!((of(Arithmetic::Float).nats_per_char - found.nats_per_char).abs() > 1e-3);
        let (vocab, weights) = (corpus.vocab(), 7 * 256 * 256);
        assert_eq!(trained.parameters(), weights + vocab * 256 + 3 * 256);
        assert_eq!(trained.bytes(format).unwrap(), weights / 256 * 66 + vocab * 256 / 32 * 34 + 3 * 256 * 4);
        assert_eq!(trained.bytes(Arithmetic::Float).unwrap(), 4 * trained.parameters());
        assert!(corpus.train(network(), &train, format, &|| true).unwrap().is_none());
    }
}
