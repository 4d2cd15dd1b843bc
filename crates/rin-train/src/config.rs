//! The configuration of a training: a TOML file of four sections, and a fifth where there is a teacher.
//!
//! ```toml
//! [model]
//! family = "llama"      # the network
//! dim = 128             # width of the residual stream
//! layers = 4
//! heads = 4             # query heads; dim / heads is the width of a head
//! kv_heads = 2          # key and value heads; as many as heads where it is not given
//! # window = 64         # tokens that attention reaches back; all of them where it is not given
//! ffn = 352             # inner width of the feed-forward network
//! ctx = 128             # context that the file states
//! tokenizer = "char"    # "byte", "char" or "bpe" (then also vocab = 1024)
//! # memory = { layers = ["gated-delta", "softmax"] }   # see docs/memory.md
//!
//! [data]
//! files = ["input.txt"] # relative to this file
//!
//! [train]
//! steps = 5000
//! batch = 32
//! lr = 1e-3
//!
//! [output]
//! name = "shakespeare"
//! ```

use crate::Error;
pub use crate::memory_config::MemoryConfig;
use crate::ops::Dropout;
use rin_kernels::Format;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The network and its vocabulary.
    pub model: ModelConfig,
    /// The text.
    pub data: DataConfig,
    /// The optimisation.
    pub train: LoopConfig,
    /// Where results go.
    pub output: OutputConfig,
    /// The teacher, where there is one.
    #[serde(default)]
    pub distill: Option<DistillConfig>,
}

/// Networks that can be trained.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// The llama-style decoder.
    Llama,
}

/// Kinds of vocabularies.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TokenizerKind {
    /// All 256 bytes.
    Byte,
    /// The characters of the training text.
    Char,
    /// Byte-level byte-pair encoding, learned from the training text.
    Bpe,
}

/// `[model]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The network.
    #[serde(default = "llama")]
    pub family: Family,
    /// Width of the residual stream.
    pub dim: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; none: as many as query heads.
    pub kv_heads: Option<usize>,
    /// Tokens that attention reaches back, a token itself among them; none: all.
    #[serde(default)]
    pub window: Option<usize>,
    /// Inner width of the feed-forward network.
    pub ffn: usize,
    /// Context in tokens that the exported network states.
    pub ctx: usize,
    /// Base of the rotation frequencies.
    #[serde(default = "rope_base")]
    pub rope_base: f32,
    /// ε of the norms.
    #[serde(default = "norm_eps")]
    pub norm_eps: f32,
    /// Whether the output matrix is the embedding.
    #[serde(default = "yes")]
    pub tie: bool,
    /// The vocabulary.
    pub tokenizer: TokenizerKind,
    /// Tokens of a `bpe` vocabulary.
    pub vocab: Option<usize>,
    /// Memories of a fixed size in the place of attention.
    #[serde(default)]
    pub memory: Option<MemoryConfig>,
}

/// `[data]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Text files, read in this order as one text; relative to the configuration file.
    pub files: Vec<PathBuf>,
    /// Share of the text, from its beginning, that is trained on; the rest is for validation.
    #[serde(default = "split")]
    pub split: f64,
}

/// Formats of matrices in the forward pass and in the result.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Quant {
    /// f32.
    None,
    /// 8-bit weights and activations.
    Q8_0,
    /// 4-bit weights, 8-bit activations.
    Q4_0,
    /// Ternary weights in the layers, 8-bit ones outside, 8-bit activations.
    Tq2_0,
}

impl Quant {
    /// The kernels' format.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::None => None,
            Self::Q8_0 => Some(Format::Q8_0),
            Self::Q4_0 => Some(Format::Q4_0),
            Self::Tq2_0 => Some(Format::TQ2_0),
        }
    }
}

/// Where the steps of Q4_0 come from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StepSize {
    /// The largest magnitude of each block.
    Magnitude,
    /// Learned (Esser et al., 2020).
    Learned,
}

/// `[train]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Sequences of a batch.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Tokens of a sequence; none: `model.ctx`.
    pub seq: Option<usize>,
    /// Batches whose gradients are averaged for a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Largest learning rate.
    #[serde(default = "lr")]
    pub lr: f64,
    /// Learning rate at the end of the cosine; none: a tenth of `lr`.
    pub min_lr: Option<f64>,
    /// Steps in which the learning rate rises; none: a hundredth of `steps`.
    pub warmup: Option<usize>,
    /// Decay of matrices.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Decay rates of the moments.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Largest norm of a gradient; 0: no limit.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Decay of the moving average of the weights that is evaluated and exported; 0: the weights themselves.
    #[serde(default)]
    pub ema: f64,
    /// Share of the activations that are dropped.
    #[serde(default)]
    pub dropout: f64,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Steps between evaluations.
    #[serde(default = "interval")]
    pub eval_every: usize,
    /// Evaluations without an improvement after which training ends; 0: never.
    #[serde(default)]
    pub patience: usize,
    /// Steps between checkpoints.
    #[serde(default = "interval")]
    pub checkpoint_every: usize,
    /// Steps between lines of the log.
    #[serde(default = "log_every")]
    pub log_every: usize,
    /// Format of the matrices.
    #[serde(default = "no_quant")]
    pub quant: Quant,
    /// Steps after which the forward pass computes in that format; before, in f32.
    #[serde(default)]
    pub quant_from_step: usize,
    /// Where the steps of `q4_0` come from.
    #[serde(default = "magnitude")]
    pub step_size: StepSize,
    /// Whether f32 products have the runtime's bits too; slower.
    #[serde(default)]
    pub exact: bool,
}

impl LoopConfig {
    /// So many steps with a learning rate that falls along a cosine, everything else as it is by default.
    pub fn plain(steps: usize, lr: f64, min_lr: f64) -> Self {
        Self {
            steps,
            batch: batch(),
            seq: None,
            accumulate: one(),
            lr,
            min_lr: Some(min_lr),
            warmup: None,
            weight_decay: weight_decay(),
            betas: betas(),
            clip: clip(),
            ema: 0.0,
            dropout: 0.0,
            seed: 0,
            eval_every: interval(),
            patience: 0,
            checkpoint_every: interval(),
            log_every: log_every(),
            quant: no_quant(),
            quant_from_step: 0,
            step_size: magnitude(),
            exact: false,
        }
    }
}

/// `[output]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// Folder of the results, made where it is missing; relative to the configuration file.
    #[serde(default = "here")]
    pub dir: PathBuf,
    /// First part of the file names, and the name in the file.
    pub name: String,
}

/// `[distill]`: the loss is `(1 − weight)` times that against the text and `weight` times
/// [`distillation`](crate::ops::distillation).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The teacher: the configuration file of a training that has been run (`.toml`) or a model (`.rin`), relative to
    /// the configuration file, or [`EMBEDDED`].
    pub teacher: PathBuf,
    /// Share of the teacher in the loss.
    #[serde(default = "half")]
    pub weight: f64,
    /// Both distributions are those of logits over this number.
    #[serde(default = "temperature")]
    pub temperature: f32,
    /// What else the student learns of the teacher than its answers.
    #[serde(default)]
    pub hints: Hints,
    /// Factor on the hint's distances, each of which is divided by that of the first step.
    #[serde(default = "whole")]
    pub hint_weight: f64,
    /// Which of the teacher's layers a student's looks at.
    #[serde(default)]
    pub hint_layers: HintLayers,
}

impl DistillConfig {
    /// The answers of `teacher` alone, with the weight and temperature that are the default.
    pub fn plain(teacher: PathBuf) -> Self {
        let (hints, hint_layers) = (Hints::None, HintLayers::Uniform);
        Self { teacher, weight: half(), temperature: temperature(), hints, hint_weight: whole(), hint_layers }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        fraction("distill.weight", self.weight, 0.0, 1.0)?;
        fraction("distill.temperature", self.temperature.into(), 0.01, 1000.0)?;
        fraction("distill.hint_weight", self.hint_weight, 0.0, 1000.0)
    }
}

/// What [`DistillConfig::teacher`] calls the model inside the binary.
pub const EMBEDDED: &str = "embedded";

/// What of a teacher's inside a student learns.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Hints {
    /// Nothing.
    #[default]
    None,
    /// The residual stream after a layer, through a learned map (FitNets: Romero et al., 2015).
    Hidden,
    /// The distribution of each head's attention (as attention transfer: Zagoruyko and Komodakis, 2017; TinyBERT: Jiao
    /// et al., 2020).
    Attention,
    /// [`Hints::Hidden`] and [`Hints::Attention`], each divided by its first distance (as TinyBERT, without the embedding).
    Both,
    /// Of the last layer alone: the distribution of each head's attention, and that of each head's values over each other
    /// (MiniLM: Wang et al., 2020).
    Relations,
}

/// Which of `T` teacher's layers the student's layer `s` of `S` looks at, both from 1.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HintLayers {
    /// Layer `⌊s T / S⌋`.
    #[default]
    Uniform,
    /// Those of [`HintLayers::Uniform`] in the opposite order: a control.
    Reversed,
}

fn whole() -> f64 {
    1.0
}
fn half() -> f64 {
    0.5
}
fn temperature() -> f32 {
    2.0
}
fn llama() -> Family {
    Family::Llama
}
fn rope_base() -> f32 {
    10_000.0
}
fn norm_eps() -> f32 {
    1e-5
}
fn yes() -> bool {
    true
}
fn split() -> f64 {
    0.9
}
fn batch() -> usize {
    32
}
fn one() -> usize {
    1
}
fn lr() -> f64 {
    1e-3
}
fn weight_decay() -> f64 {
    0.1
}
fn betas() -> [f64; 2] {
    [0.9, 0.99]
}
fn clip() -> f64 {
    1.0
}
fn interval() -> usize {
    250
}
fn log_every() -> usize {
    10
}
fn no_quant() -> Quant {
    Quant::None
}
fn magnitude() -> StepSize {
    StepSize::Magnitude
}
fn here() -> PathBuf {
    PathBuf::from(".")
}

/// Bound on sizes, far above what a CPU trains.
const MAX_SIZE: usize = 1 << 20;

/// A configuration of any kind; `path` is what errors call it.
pub(crate) fn from_toml<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, Error> {
    toml::from_str(text).map_err(|e| Error::ConfigSyntax { path: path.to_owned(), reason: e.to_string() })
}

impl TrainConfig {
    /// Reads and checks a file; paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`Error::ConfigSyntax`] names a key that is unknown, missing or of another type, [`Error::ConfigValue`] one
    /// whose value cannot be.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
        let mut config = Self::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in &mut config.data.files {
            *file = folder.join(&*file);
        }
        config.output.dir = folder.join(&config.output.dir);
        if let Some(distill) = &mut config.distill
            && distill.teacher != Path::new(EMBEDDED)
        {
            distill.teacher = folder.join(&distill.teacher);
        }
        Ok(config)
    }

    /// As [`TrainConfig::read`] for a text; `path` is what errors call it.
    ///
    /// # Errors
    /// As for [`TrainConfig::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let config: Self = from_toml(text, path)?;
        config.check()?;
        Ok(config)
    }

    /// Tokens of a training sequence.
    pub fn seq(&self) -> usize {
        self.train.seq.unwrap_or(self.model.ctx)
    }

    /// Holds the values against each other.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] names the first key that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        self.model.check()?;
        if self.data.files.is_empty() {
            return Err(Error::value("data.files", "[]", "at least one file"));
        }
        fraction("data.split", self.data.split, 0.01, 0.999)?;
        self.train.check()?;
        if let Some(distill) = &self.distill {
            distill.check()?;
        }
        if self.seq() > self.model.ctx {
            let expected = format!("at most model.ctx = {}", self.model.ctx);
            return Err(Error::value("train.seq", self.seq(), expected));
        }
        if let Some(format) = self.train.quant.format() {
            for (key, n) in [("model.dim", self.model.dim), ("model.ffn", self.model.ffn)] {
                let block = format.block_len();
                if !n.is_multiple_of(block) {
                    return Err(Error::value(key, n, format!("a multiple of {block} with train.quant = {format}")));
                }
            }
        }
        let name = Path::new(&self.output.name);
        if name.file_name() != Some(name.as_os_str()) {
            return Err(Error::value("output.name", format!("{:?}", self.output.name), "a file name without folders"));
        }
        Ok(())
    }
}

impl ModelConfig {
    /// A llama without sizes, which whoever asks fills in; everything else as it is by default.
    pub fn plain(tokenizer: TokenizerKind) -> Self {
        Self {
            family: llama(),
            dim: 0,
            layers: 0,
            heads: 0,
            kv_heads: None,
            window: None,
            ffn: 0,
            ctx: 0,
            rope_base: rope_base(),
            norm_eps: norm_eps(),
            tie: yes(),
            tokenizer,
            vocab: None,
            memory: None,
        }
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Holds the values against each other.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] names the first key that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        size("model.dim", self.dim, 2)?;
        size("model.layers", self.layers, 1)?;
        size("model.heads", self.heads, 1)?;
        size("model.kv_heads", self.kv_heads(), 1)?;
        size("model.ffn", self.ffn, 1)?;
        size("model.ctx", self.ctx, 2)?;
        size("model.window", self.window.unwrap_or(1), 1)?;
        if !self.dim.is_multiple_of(self.heads) {
            return Err(Error::value("model.heads", self.heads, format!("a divisor of model.dim = {}", self.dim)));
        }
        if !(self.dim / self.heads).is_multiple_of(2) {
            let expected =
                format!("such that model.dim / model.heads is even, for rotation; {} is not", self.dim / self.heads);
            return Err(Error::value("model.heads", self.heads, expected));
        }
        if !self.heads.is_multiple_of(self.kv_heads()) {
            let expected = format!("a divisor of model.heads = {}", self.heads);
            return Err(Error::value("model.kv_heads", self.kv_heads(), expected));
        }
        if !(self.rope_base.is_finite() && self.rope_base >= 1.0) {
            return Err(Error::value("model.rope_base", self.rope_base, "a finite number of at least 1"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::value("model.norm_eps", self.norm_eps, "above 0 and below 1"));
        }
        if let Some(memory) = &self.memory {
            memory.check(self)?;
        }
        match (self.tokenizer, self.vocab) {
            (TokenizerKind::Bpe, None) => {
                Err(Error::value("model.vocab", "nothing", "a number from 257 to 65536 with tokenizer = \"bpe\""))
            }
            (TokenizerKind::Bpe, Some(n)) if !(257..=65_536).contains(&n) => {
                Err(Error::value("model.vocab", n, "from 257 to 65536"))
            }
            (TokenizerKind::Byte | TokenizerKind::Char, Some(n)) => {
                Err(Error::value("model.vocab", n, "left out: only tokenizer = \"bpe\" has a vocabulary to choose"))
            }
            _ => Ok(()),
        }
    }
}

impl LoopConfig {
    fn check(&self) -> Result<(), Error> {
        if self.steps == 0 {
            return Err(Error::value("train.steps", 0, "at least 1"));
        }
        size("train.batch", self.batch, 1)?;
        size("train.seq", self.seq.unwrap_or(2), 2)?;
        size("train.accumulate", self.accumulate, 1)?;
        size("train.eval_every", self.eval_every, 1)?;
        size("train.checkpoint_every", self.checkpoint_every, 1)?;
        size("train.log_every", self.log_every, 1)?;
        fraction("train.lr", self.lr, 1e-12, 10.0)?;
        fraction("train.min_lr", self.min_lr.unwrap_or(0.0), 0.0, self.lr)?;
        fraction("train.weight_decay", self.weight_decay, 0.0, 10.0)?;
        fraction("train.betas", self.betas[0], 0.0, 0.999_999)?;
        fraction("train.betas", self.betas[1], 0.0, 0.999_999)?;
        fraction("train.clip", self.clip, 0.0, 1e9)?;
        fraction("train.ema", self.ema, 0.0, 0.999_999)?;
        fraction("train.dropout", self.dropout, 0.0, 0.9)?;
        if self.warmup.unwrap_or(0) > self.steps {
            let expected = format!("at most train.steps = {}", self.steps);
            return Err(Error::value("train.warmup", self.warmup.unwrap_or(0), expected));
        }
        if self.step_size == StepSize::Learned && self.quant != Quant::Q4_0 {
            return Err(Error::value("train.step_size", "\"learned\"", "\"magnitude\" unless train.quant = \"q4_0\""));
        }
        if self.quant_from_step > 0 && self.quant_from_step >= self.steps {
            let expected = format!("below train.steps = {}", self.steps);
            return Err(Error::value("train.quant_from_step", self.quant_from_step, expected));
        }
        debug_assert!(self.dropout == 0.0 || Dropout::new(0, self.dropout).is_some() || self.dropout < 1e-4);
        Ok(())
    }
}

fn size(key: &'static str, n: usize, least: usize) -> Result<(), Error> {
    if (least..=MAX_SIZE).contains(&n) {
        return Ok(());
    }
    Err(Error::value(key, n, format!("from {least} to {MAX_SIZE}")))
}

fn fraction(key: &'static str, x: f64, least: f64, most: f64) -> Result<(), Error> {
    if (least..=most).contains(&x) { Ok(()) } else { Err(Error::value(key, x, format!("from {least} to {most}"))) }
}
