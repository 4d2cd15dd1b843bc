//! The configuration of a training of a dense classifier.
//!
//! ```toml
//! [model]
//! family = "mlp"
//! hidden = [128]           # outputs of the hidden layers, each with a relu
//!
//! [data]
//! inputs = "x.npy"         # (rows, inputs), relative to this file
//! labels = "y.npy"         # (rows), classes from 0
//! scale = 0.0625           # factor on the inputs
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
use crate::spiking::config::SpikingData;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A whole configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// The network.
    pub model: MlpModel,
    /// The rows.
    pub data: SpikingData,
    /// The optimisation.
    pub train: MlpLoop,
    /// Where results go.
    pub output: OutputConfig,
}

/// The family's name, so that a configuration says what it is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MlpFamily {
    /// Dense layers.
    Mlp,
}

/// `[model]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MlpModel {
    /// `"mlp"`.
    pub family: MlpFamily,
    /// Outputs of the hidden layers.
    pub hidden: Vec<usize>,
}

/// `[train]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MlpLoop {
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
    /// Share of the inputs that are left out of a row, drawn anew for each epoch; the others grow by as much.
    #[serde(default)]
    pub input_dropout: f64,
    /// Height and width of a row that is a picture, and the most by which it is moved in each direction, drawn anew for
    /// each epoch.
    #[serde(default)]
    pub shift: Option<[usize; 3]>,
    /// Share of the epochs after which the forward pass rounds to 8 bits.
    #[serde(default = "quant_from")]
    pub quant_from: f64,
    /// Seed of everything random, the split among it.
    #[serde(default)]
    pub seed: u64,
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
fn quant_from() -> f64 {
    0.5
}

impl MlpConfig {
    /// Whether a configuration file is one of a dense classifier: its `model.family` says so.
    pub fn is_meant(text: &str) -> bool {
        is_family(text, "mlp")
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
        within("model.hidden", model.hidden.len(), 0, 16)?;
        model.hidden.iter().try_for_each(|&n| within("model.hidden", n, 1, 1 << 16))?;
        within("train.epochs", train.epochs, 1, 1 << 20)?;
        within("train.batch", train.batch, 1, 1 << 20)?;
        for (key, value) in [("data.scale", f64::from(data.scale)), ("train.lr", train.lr)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::value(key, value, "positive"));
            }
        }
        for (key, value, most) in [
            ("data.test", data.test, 0.9),
            ("train.input_dropout", train.input_dropout, 0.9),
            ("train.quant_from", train.quant_from, 1.0),
            ("train.weight_decay", train.weight_decay, 1.0),
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
