//! What a network is, in numbers: the same description whatever file it came from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, fault};
use crate::family::{FAMILIES, Family, TensorName, hf_rows, is_row, rotated_heads, tensor_names};
use crate::memory::Memory;
use crate::network::Function;
use crate::tensor::RowOrder;

/// Bound on every width: embedding, heads × head width, feed-forward, vocabulary.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 14;
const MAX_CTX: usize = 1 << 28;

/// Family of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// Llama and what shares its graph: Mistral, SmolLM, TinyLlama.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3-Next with dense feed-forward networks: gated delta rule and gated attention.
    #[serde(rename = "qwen3next")]
    Qwen3Next,
    /// Mamba-2.
    Mamba2,
    /// RWKV-7.
    Rwkv7,
    /// GPT-2: learned positions, layer norms, one matrix for queries, keys and values.
    Gpt2,
}

impl Arch {
    /// Names that GGUF files and Hugging Face configurations may give.
    pub const KNOWN: &'static [&'static str] = &["llama", "mistral", "qwen2", "qwen3_next", "mamba2", "rwkv7", "gpt2"];

    /// Name, as GGUF has it.
    pub fn name(self) -> &'static str {
        self.family().gguf
    }

    pub(crate) fn family(self) -> &'static Family {
        match self {
            Self::Llama => &FAMILIES[0],
            Self::Qwen2 => &FAMILIES[1],
            Self::Qwen3Next => &FAMILIES[2],
            Self::Mamba2 => &FAMILIES[3],
            Self::Rwkv7 => &FAMILIES[4],
            Self::Gpt2 => &FAMILIES[5],
        }
    }

    /// The family of a GGUF `general.architecture`.
    pub(crate) fn from_gguf(name: &str) -> Result<Self, Error> {
        Self::find(name, |family| family.gguf == name)
    }

    /// The family of a Hugging Face `model_type`.
    pub(crate) fn from_hf(name: &str) -> Result<Self, Error> {
        Self::find(name, |family| family.hf.contains(&name))
    }

    fn find(name: &str, is: impl Fn(&Family) -> bool) -> Result<Self, Error> {
        FAMILIES.iter().find(|family| is(family)).map(|family| family.arch).ok_or_else(|| Error::UnknownArchitecture {
            found: crate::error::shorten(name),
            known: Self::KNOWN.to_vec(),
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairing {
    /// 2i and 2i + 1.
    Interleaved,
    /// i and i + dims ÷ 2.
    Half,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// θ: pair i turns by position × base^(−2i ÷ dims).
    pub base: f32,
    /// Elements of a head that rotate; the others stay. 0 where positions are learned.
    pub dims: usize,
    /// Which elements form a pair.
    pub pairing: Pairing,
    /// How frequencies are stretched for contexts longer than the original one.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Low ones are divided by `factor`, high ones stay, with a ramp between. Source: Llama 3.1.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Wavelengths above original_ctx ÷ this are divided.
        low_freq_factor: f32,
        /// Wavelengths below original_ctx ÷ this stay.
        high_freq_factor: f32,
        /// Context of the first training.
        original_ctx: usize,
    },
    /// Ramp by rotations over the original context, with an attention factor. Source: YaRN (Peng et al., 2023).
    Yarn {
        /// Divisor of low frequencies.
        factor: f32,
        /// Context of the first training.
        original_ctx: usize,
        /// Factor on cos and sin; none: derived from `factor` and the `mscale` fields.
        attention_factor: Option<f32>,
        /// Multiplies the attention factor, whether given or derived (GGUF's `attn_factor`).
        multiplier: f32,
        /// Rotations above which frequencies stay.
        beta_fast: f32,
        /// Rotations below which frequencies are divided.
        beta_slow: f32,
        /// Weight of ln(factor) in the attention factor.
        mscale: Option<f32>,
        /// The same for its divisor.
        mscale_all_dim: Option<f32>,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
    },
    /// Each pair is divided by its element of the tensor `rope_freqs.weight`.
    Factors,
}

/// Activation of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x) with the error function.
    Gelu,
    /// The same by a hyperbolic tangent.
    #[serde(rename = "gelu_tanh")]
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// As networks on rows name it.
    pub fn function(self) -> Function {
        match self {
            Self::Silu => Function::Silu,
            Self::Gelu => Function::Gelu,
            Self::GeluTanh => Function::GeluTanh,
            Self::Relu => Function::Relu,
        }
    }
}

/// Normalisation before each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Norm {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance, with a bias.
    Layer,
}

/// Numbers of a network.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts of a network, none a state")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Family.
    pub arch: Arch,
    /// Name that the file gives itself.
    pub name: Option<String>,
    /// Number of layers.
    pub n_layers: usize,
    /// Width of the embedding.
    pub dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of the feed-forward network.
    pub ffn_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Context that the network was trained for, in tokens.
    pub ctx: usize,
    /// ε of the norms.
    pub norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub attn_output_bias: bool,
    /// Whether the feed-forward matrices have biases.
    pub mlp_bias: bool,
    /// Whether the output matrix is the embedding.
    pub tied_embeddings: bool,
    /// Attention reaches back this many tokens; none: all.
    pub window: Option<usize>,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// Kind of the norms.
    pub norm: Norm,
    /// Ids that end a generation, from a Hugging Face configuration; empty for GGUF.
    pub eos: Vec<u32>,
    /// Id at the beginning, from a Hugging Face configuration.
    pub bos: Option<u32>,
    /// The memory of each layer in the place of attention, none for those that attend; empty: all attend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Option<Memory>>,
}

impl Config {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads.saturating_mul(self.head_dim)
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads.saturating_mul(self.head_dim)
    }

    /// Whether each position up to [`ctx`](Self::ctx) has a learned row that is added to the embedding.
    pub fn learned_positions(&self) -> bool {
        self.arch == Arch::Gpt2
    }

    /// The tensors that the network needs: the embedding, layer by layer, what follows.
    pub fn tensors(&self) -> Vec<TensorName> {
        tensor_names(self)
    }

    /// Which elements of a head rotate together in the GGUF files of the family. Hugging Face files have halves.
    pub fn gguf_pairing(&self) -> Pairing {
        self.arch.family().pairing
    }

    /// Number of heads whose rows are reordered when a tensor goes from one [`Pairing`] to the other; none for a tensor
    /// that stays as it is.
    pub fn rotated_heads(&self, name: &str) -> Option<usize> {
        rotated_heads(self, name)
    }

    /// Whether the folders of the family hold the columns of a matrix as its rows.
    pub fn is_transposed_in_folders(&self, name: &str) -> bool {
        hf_rows(self, name) == RowOrder::Transposed
    }

    /// Whether a tensor of several dimensions is read as a row of numbers, not as a matrix that is multiplied with.
    pub fn is_row(&self, name: &str) -> bool {
        is_row(name)
    }

    /// Holds the numbers against each other; every width is then from 1 to 2²⁴.
    ///
    /// # Errors
    /// `InconsistentConfig` names the first field that does not fit; `BadVocab` a special token beyond the vocabulary.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, n, most) in [
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("dim", self.dim, MAX_WIDTH),
            ("n_heads", self.n_heads, MAX_WIDTH),
            ("n_kv_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            // Mamba-2 has no feed-forward network.
            ("ffn_dim", if self.arch == Arch::Mamba2 { 1 } else { self.ffn_dim }, MAX_WIDTH),
            ("vocab", self.vocab, MAX_WIDTH),
            ("ctx", self.ctx, MAX_CTX),
            ("n_heads × head_dim", self.q_dim(), MAX_WIDTH),
        ] {
            if !(1..=most).contains(&n) {
                return Err(inconsistent(field, format!("from 1 to {most}"), n));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let found = format!("{} heads over {} key heads", self.n_heads, self.n_kv_heads);
            return Err(inconsistent("n_kv_heads", "a divisor of n_heads", found));
        }
        if self.window == Some(0) {
            return Err(inconsistent("window", "at least 1", 0));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(inconsistent("norm_eps", "above 0 and below 1", self.norm_eps));
        }
        self.validate_rope()?;
        self.validate_memory()?;
        let vocab = self.vocab;
        let beyond = |id: &&u32| usize::try_from(**id).map_or(true, |id| id >= vocab);
        if let Some(id) = self.eos.iter().chain(&self.bos).find(beyond) {
            return Err(Error::BadVocab(fault("config", "eos, bos", format!("ids below {vocab}"), id)));
        }
        Ok(())
    }

    fn validate_rope(&self) -> Result<(), Error> {
        let rope = &self.rope;
        if !(rope.base.is_finite() && rope.base >= 1.0) {
            return Err(inconsistent("rope.base", "a finite number of at least 1", rope.base));
        }
        if rope.dims == 0 && self.learned_positions() {
            return Ok(());
        }
        if rope.dims == 0 || rope.dims > self.head_dim || !rope.dims.is_multiple_of(2) {
            return Err(inconsistent("rope.dims", format!("an even number from 2 to {}", self.head_dim), rope.dims));
        }
        let positive = |field: &'static str, x: f32| {
            if x.is_finite() && x > 0.0 { Ok(()) } else { Err(inconsistent(field, "a finite number above 0", x)) }
        };
        let context = |n: usize| {
            let fits = (1..=MAX_CTX).contains(&n);
            if fits { Ok(()) } else { Err(inconsistent("rope.original_ctx", format!("from 1 to {MAX_CTX}"), n)) }
        };
        match rope.scaling {
            RopeScaling::None | RopeScaling::Factors => Ok(()),
            RopeScaling::Linear { factor } => positive("rope.factor", factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_ctx } => {
                positive("rope.factor", factor)?;
                positive("rope.low_freq_factor", low_freq_factor)?;
                positive("rope.high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("above low_freq_factor = {low_freq_factor}");
                    return Err(inconsistent("rope.high_freq_factor", expected, high_freq_factor));
                }
                context(original_ctx)
            }
            RopeScaling::Yarn { factor, original_ctx, attention_factor, multiplier, beta_fast, beta_slow, .. } => {
                positive("rope.factor", factor)?;
                positive("rope.attention_factor", attention_factor.unwrap_or(1.0))?;
                positive("rope.multiplier", multiplier)?;
                positive("rope.beta_fast", beta_fast)?;
                positive("rope.beta_slow", beta_slow)?;
                context(original_ctx)
            }
        }
    }
}

/// Width of a head where the file does not name it.
pub(crate) fn derived_head_dim(dim: usize, n_heads: usize) -> Result<usize, Error> {
    match dim.checked_div(n_heads) {
        Some(head_dim) if dim.is_multiple_of(n_heads) => Ok(head_dim),
        Some(_) => Err(inconsistent("n_heads", format!("a divisor of dim = {dim}"), n_heads)),
        None => Err(inconsistent("n_heads", "at least 1", 0)),
    }
}

pub(crate) fn inconsistent(field: &str, expected: impl Into<String>, found: impl fmt::Display) -> Error {
    Error::InconsistentConfig(fault("config", field, expected, found))
}
