//! The configuration of a training of a spiking network.
//!
//! ```toml
//! [model]
//! family = "snn"
//! hidden = [128]           # neurons of the hidden layers
//! steps = 8                # time steps of a row
//! leak = 1                 # a step keeps 1 - 2^-leak of a membrane
//! reset = "subtract"       # or "zero"
//!
//! [data]
//! inputs = "x.npy"         # (rows, inputs), relative to this file
//! labels = "y.npy"         # (rows), classes from 0
//! scale = 0.0625           # brings inputs to at most 1
//! test = 0.2               # share of the rows that is kept for the test
//!
//! [train]
//! epochs = 60
//!
//! [output]
//! name = "digits"
//! ```

use crate::Error;
use crate::classifier::{is_family, within};
use crate::config::OutputConfig;
use crate::config::from_toml;
use rin_kernels::ops::lif::Reset;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SpikingConfig {
    /// The network.
    pub model: SpikingModel,
    /// The rows.
    pub data: SpikingData,
    /// The optimisation.
    pub train: SpikingLoop,
    /// Where results go.
    pub output: OutputConfig,
}

/// The family's name, so that a configuration says what it is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SpikingFamily {
    /// A spiking network.
    Snn,
}

/// What a spike does to a membrane.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ResetKind {
    /// To 0.
    Zero,
    /// By the threshold.
    Subtract,
}

impl From<ResetKind> for Reset {
    fn from(kind: ResetKind) -> Self {
        match kind {
            ResetKind::Zero => Self::Zero,
            ResetKind::Subtract => Self::Subtract,
        }
    }
}

/// The slope that a spike has in the backward pass.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Surrogate {
    /// `(a / 2) / (1 + (π a x / 2)²)` (Fang et al., 2021).
    Atan,
    /// `1 / (1 + a |x|)²` (Zenke and Ganguli, 2018).
    FastSigmoid,
}

/// `[model]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SpikingModel {
    /// `"snn"`.
    pub family: SpikingFamily,
    /// Neurons of the hidden layers.
    pub hidden: Vec<usize>,
    /// Time steps of a row.
    pub steps: usize,
    /// A step keeps `1 - 2^-leak` of a membrane.
    #[serde(default = "leak")]
    pub leak: u32,
    /// What a spike does.
    #[serde(default = "subtract")]
    pub reset: ResetKind,
}

/// `[data]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SpikingData {
    /// `.npy` or `.csv` of `(rows, inputs)`.
    pub inputs: PathBuf,
    /// `.npy` or `.csv` of one class per row.
    pub labels: PathBuf,
    /// Factor that brings inputs to at most 1.
    #[serde(default = "one")]
    pub scale: f32,
    /// Share of the rows that is kept for the test.
    #[serde(default = "test")]
    pub test: f64,
}

/// `[train]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SpikingLoop {
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows of a batch.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Largest learning rate; it falls to a hundredth along a cosine.
    #[serde(default = "lr")]
    pub lr: f64,
    /// Decay of matrices.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// What a spike of a neuron in a step costs, averaged over neurons and steps: λ.
    #[serde(default)]
    pub rate_penalty: f32,
    /// Share of the inputs that are left out of a row, drawn anew for each epoch; the others grow by as much.
    #[serde(default)]
    pub input_dropout: f64,
    /// The slope of a spike.
    #[serde(default = "fast_sigmoid")]
    pub surrogate: Surrogate,
    /// Its parameter a; none: 2 for `atan`, 25 for `fast_sigmoid`.
    #[serde(default)]
    pub slope: Option<f32>,
    /// Share of the epochs after which weights are rounded to 8 bits in the forward pass.
    #[serde(default = "quant_from")]
    pub quant_from: f64,
    /// Seed of everything random, the split among it.
    #[serde(default)]
    pub seed: u64,
}

fn leak() -> u32 {
    1
}
fn subtract() -> ResetKind {
    ResetKind::Subtract
}
fn one() -> f32 {
    1.0
}
fn test() -> f64 {
    0.2
}
fn batch() -> usize {
    32
}
fn lr() -> f64 {
    2e-3
}
fn weight_decay() -> f64 {
    0.01
}
fn fast_sigmoid() -> Surrogate {
    Surrogate::FastSigmoid
}
fn quant_from() -> f64 {
    2.0 / 3.0
}

impl SpikingLoop {
    /// The parameter of the surrogate.
    pub fn slope(&self) -> f32 {
        self.slope.unwrap_or(match self.surrogate {
            Surrogate::Atan => 2.0,
            Surrogate::FastSigmoid => 25.0,
        })
    }
}

impl SpikingConfig {
    /// Whether a configuration file is one of a spiking network: its `model.family` says so.
    pub fn is_meant(text: &str) -> bool {
        is_family(text, "snn")
    }

    /// Reads and checks a file; paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`Error::ConfigSyntax`] names a key that is unknown, missing or of another type, [`Error::ConfigValue`] one
    /// whose value cannot be.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
        let mut config: Self = from_toml(&text, path)?;
        config.check()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.data.inputs = folder.join(&config.data.inputs);
        config.data.labels = folder.join(&config.data.labels);
        config.output.dir = folder.join(&config.output.dir);
        Ok(config)
    }

    /// Holds the values against what they may be.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] names the first key that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let Self { model, data, train, output } = self;
        within("model.hidden", model.hidden.len(), 1, 16)?;
        model.hidden.iter().try_for_each(|&n| within("model.hidden", n, 1, 1 << 16))?;
        within("model.steps", model.steps, 1, 1024)?;
        within("model.leak", model.leak as usize, 0, 12)?;
        within("train.epochs", train.epochs, 1, 1 << 20)?;
        within("train.batch", train.batch, 1, 1 << 20)?;
        let positive = |key, value: f64| match value {
            value if value.is_finite() && value > 0.0 => Ok(()),
            value => Err(Error::value(key, value, "positive")),
        };
        positive("data.scale", f64::from(data.scale))?;
        positive("train.lr", train.lr)?;
        positive("train.slope", f64::from(train.slope()))?;
        for (key, value, most) in [
            ("data.test", data.test, 0.9),
            ("train.input_dropout", train.input_dropout, 0.9),
            ("train.quant_from", train.quant_from, 1.0),
            ("train.weight_decay", train.weight_decay, 1.0),
            ("train.rate_penalty", f64::from(train.rate_penalty), 1e6),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::value(key, value, format!("0 to {most}")));
            }
        }
        let name = Path::new(&output.name);
        if name.file_name() != Some(name.as_os_str()) {
            return Err(Error::value("output.name", format!("{:?}", output.name), "a file name without folders"));
        }
        Ok(())
    }
}
