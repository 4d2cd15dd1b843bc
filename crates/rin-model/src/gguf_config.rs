//! The configuration in a GGUF file's keys.

#[path = "gguf_recurrent.rs"]
mod recurrent;

use crate::config::{Activation, Arch, Config, Norm, Rope, RopeScaling, derived_head_dim, inconsistent};
use crate::error::{Error, fault};
use crate::family::{EMBEDDING, OUTPUT, ROPE_FACTORS, check_tensors};
use crate::gguf::Metadata;
use crate::qwen3_next;
use crate::tensor::TensorTable;
use crate::value::Value;

const ARCHITECTURE: &str = "general.architecture";
const NAME: &str = "general.name";
// Keys below the architecture's name; the reader and the writer share them.
const EMBEDDING_LENGTH: &str = "embedding_length";
const BLOCK_COUNT: &str = "block_count";
const CONTEXT_LENGTH: &str = "context_length";
const FEED_FORWARD_LENGTH: &str = "feed_forward_length";
const HEAD_COUNT: &str = "attention.head_count";
const HEAD_COUNT_KV: &str = "attention.head_count_kv";
const KEY_LENGTH: &str = "attention.key_length";
const VALUE_LENGTH: &str = "attention.value_length";
const SLIDING_WINDOW: &str = "attention.sliding_window";
const NORM_EPS: &str = "attention.layer_norm_rms_epsilon";
const LAYER_NORM_EPS: &str = "attention.layer_norm_epsilon";
const VOCAB_SIZE: &str = "vocab_size";
const ROPE_BASE: &str = "rope.freq_base";
const ROPE_DIMS: &str = "rope.dimension_count";
const SCALING_TYPE: &str = "rope.scaling.type";
const SCALING_FACTOR: &str = "rope.scaling.factor";
const SCALING_ORIGINAL_CTX: &str = "rope.scaling.original_context_length";
const SCALING_ATTN_FACTOR: &str = "rope.scaling.attn_factor";
const SCALING_BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
const SCALING_BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";

/// Keys under the architecture's name that change what is computed in ways that RIN does not know. 0 means absent.
const UNKNOWN_MEANING: [&str; 4] = ["expert_count", "attention.scale", "logit_scale", "residual_scale"];

/// Keys with the architecture's name in front.
struct Keys<'m, 'a> {
    metadata: &'m Metadata<'a>,
    prefix: &'static str,
}

impl Keys<'_, '_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    fn number(&self, suffix: &str) -> Result<Option<usize>, Error> {
        let key = self.key(suffix);
        let Some(n) = self.metadata.u64(&key)? else { return Ok(None) };
        usize::try_from(n).map(Some).map_err(|_| inconsistent(&key, "a number that fits the machine", n))
    }

    fn needed(&self, suffix: &str) -> Result<usize, Error> {
        self.number(suffix)?.ok_or_else(|| missing(&self.key(suffix)))
    }

    fn float(&self, suffix: &str) -> Result<Option<f32>, Error> {
        self.metadata.f32(&self.key(suffix))
    }

    fn text(&self, suffix: &str) -> Result<Option<&str>, Error> {
        self.metadata.str(&self.key(suffix))
    }
}

fn missing(key: &str) -> Error {
    Error::MissingKey(fault("metadata", key, "a network's description", "no such key"))
}

/// The family of a file, and what its keys begin with.
fn architecture(metadata: &Metadata<'_>) -> Result<(Arch, &'static str), Error> {
    let name = metadata.str(ARCHITECTURE)?.ok_or_else(|| missing(ARCHITECTURE))?;
    if name.starts_with(recurrent::QWEN35) && name != recurrent::QWEN35 {
        return Err(Error::Unsupported(fault("metadata", ARCHITECTURE, "Qwen3.5 without a mixture of experts", name)));
    }
    if name == recurrent::QWEN35 {
        return Ok((Arch::Qwen3Next, recurrent::QWEN35));
    }
    let arch = Arch::from_gguf(name)?;
    Ok((arch, arch.family().gguf))
}

/// Reads the configuration and checks it against the tensors, which get their canonical names where the file has others.
pub(crate) fn config(metadata: &Metadata<'_>, tensors: &mut TensorTable) -> Result<Config, Error> {
    let (arch, prefix) = architecture(metadata)?;
    let keys = Keys { metadata, prefix };
    refuse_unknown_meaning(&keys)?;
    let mut n_layers = keys.number(BLOCK_COUNT)?;
    match arch {
        Arch::Mamba2 => return recurrent::mamba2(&keys, tensors),
        Arch::Rwkv7 => return recurrent::rwkv7(&keys, tensors),
        Arch::Qwen3Next => {
            // Blocks that guess further tokens stand behind the others, and are not run.
            let guesses = keys.number("nextn_predict_layers")?.unwrap_or(0);
            n_layers = n_layers.map(|n| n.saturating_sub(guesses));
            let all = std::mem::take(tensors).into_all();
            let most = n_layers.unwrap_or(usize::MAX);
            *tensors =
                TensorTable::new(all.into_iter().filter_map(|tensor| qwen3_next::from_gguf(tensor, most)).collect())?;
        }
        Arch::Llama | Arch::Qwen2 | Arch::Gpt2 => {}
    }
    let n_layers = n_layers.ok_or_else(|| missing(&keys.key(BLOCK_COUNT)))?;
    let (norm, activation, norm_eps) = match arch {
        Arch::Gpt2 => (Norm::Layer, Activation::GeluTanh, LAYER_NORM_EPS),
        _ => (Norm::Rms, Activation::Silu, NORM_EPS),
    };
    let dim = keys.needed(EMBEDDING_LENGTH)?;
    let n_heads = keys.needed(HEAD_COUNT)?;
    let head_dim = head_dim(&keys, dim, n_heads)?;
    let rows = tensors.get(EMBEDDING).and_then(|tensor| tensor.shape.first().copied());
    let vocab = match keys.number(VOCAB_SIZE)? {
        Some(vocab) => vocab,
        None => usize::try_from(rows.unwrap_or(0)).unwrap_or(usize::MAX),
    };
    let has = |name: &str| tensors.get(name).is_some();
    let config = Config {
        arch,
        name: metadata.str(NAME)?.map(str::to_owned),
        n_layers,
        dim,
        n_heads,
        n_kv_heads: keys.number(HEAD_COUNT_KV)?.unwrap_or(n_heads),
        head_dim,
        ffn_dim: keys.needed(FEED_FORWARD_LENGTH)?,
        vocab,
        ctx: keys.needed(CONTEXT_LENGTH)?,
        norm_eps: keys.float(norm_eps)?.ok_or_else(|| missing(&keys.key(norm_eps)))?,
        rope: match arch {
            Arch::Gpt2 => Rope::none(),
            _ => Rope {
                base: keys.float(ROPE_BASE)?.unwrap_or(10_000.0),
                dims: keys.number(ROPE_DIMS)?.unwrap_or(head_dim),
                pairing: arch.family().pairing,
                scaling: scaling(&keys, has(ROPE_FACTORS))?,
            },
        },
        qkv_bias: has("blk.0.attn_q.bias") || arch == Arch::Gpt2,
        attn_output_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_up.bias"),
        tied_embeddings: !has(OUTPUT),
        window: keys.number(SLIDING_WINDOW)?.filter(|&window| window > 0),
        activation,
        norm,
        eos: Vec::new(),
        bos: None,
        memory: match arch {
            Arch::Qwen3Next => recurrent::qwen3_next(&keys, n_layers.min(tensors.all().len()))?,
            _ => Vec::new(),
        },
    };
    check_embedding(&config, tensors)?;
    config.validate()?;
    check_tensors(&config, tensors)?;
    for tensor in tensors.all_mut() {
        tensor.rows = qwen3_next::gguf_rows(&config, &tensor.name);
    }
    Ok(config)
}

/// Numbers of a key and of a value.
fn head_dim(keys: &Keys<'_, '_>, dim: usize, n_heads: usize) -> Result<usize, Error> {
    let head_dim = match keys.number(KEY_LENGTH)? {
        Some(head_dim) => head_dim,
        None => derived_head_dim(dim, n_heads)?,
    };
    let value_length = keys.number(VALUE_LENGTH)?.unwrap_or(head_dim);
    if value_length != head_dim {
        let found = format!("{head_dim} and {value_length}");
        return Err(Error::Unsupported(fault("metadata", VALUE_LENGTH, "keys as wide as values", found)));
    }
    Ok(head_dim)
}

/// A file of a vocabulary alone has no embedding, and says so before a width of 0 is complained of.
fn check_embedding(config: &Config, tensors: &TensorTable) -> Result<(), Error> {
    if config.vocab > 0 || tensors.get(EMBEDDING).is_some() {
        return Ok(());
    }
    Err(Error::MissingTensor(fault("tensor", EMBEDDING, "the embedding", "no such tensor")))
}

fn refuse_unknown_meaning(keys: &Keys<'_, '_>) -> Result<(), Error> {
    for suffix in UNKNOWN_MEANING {
        let key = keys.key(suffix);
        let Some(value) = keys.metadata.get(&key) else { continue };
        if value.as_u64() != Some(0) && value.as_f32() != Some(0.0) {
            let expected = if suffix == "expert_count" { "0: mixtures of experts do not run" } else { "no such key" };
            return Err(Error::Unsupported(fault("metadata", key, expected, value)));
        }
    }
    Ok(())
}

fn scaling(keys: &Keys<'_, '_>, has_factors: bool) -> Result<RopeScaling, Error> {
    let old = keys.float("rope.scale_linear")?.filter(|&factor| factor != 0.0);
    let factor = match keys.float(SCALING_FACTOR)? {
        Some(factor) => Some(factor),
        None => old,
    };
    let scaling = match keys.text(SCALING_TYPE)?.unwrap_or(if old.is_some() { "linear" } else { "none" }) {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor.unwrap_or(1.0) },
        "yarn" => RopeScaling::Yarn {
            factor: factor.unwrap_or(1.0),
            original_ctx: match keys.number(SCALING_ORIGINAL_CTX)? {
                Some(original) => original,
                None => keys.needed(CONTEXT_LENGTH)?,
            },
            attention_factor: None,
            multiplier: match keys.float(SCALING_ATTN_FACTOR)? {
                Some(multiplier) => multiplier,
                None => keys.float("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0),
            },
            beta_fast: keys.float(SCALING_BETA_FAST)?.unwrap_or(32.0),
            beta_slow: keys.float(SCALING_BETA_SLOW)?.unwrap_or(1.0),
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        },
        other => {
            let found = crate::error::shorten(other);
            return Err(Error::Unsupported(fault("metadata", keys.key(SCALING_TYPE), "none, linear or yarn", found)));
        }
    };
    match (scaling, has_factors) {
        (scaling, false) => Ok(scaling),
        (RopeScaling::None, true) => Ok(RopeScaling::Factors),
        (_, true) => {
            let found = format!("both a scaling type and `{ROPE_FACTORS}`");
            Err(Error::Unsupported(fault("metadata", keys.key(SCALING_TYPE), "one way of scaling", found)))
        }
    }
}

impl Config {
    /// The keys of a GGUF file of this network, but for those of its tokenizer.
    ///
    /// [`RopeScaling::Factors`] lie in the tensor `rope_freqs.weight`; Llama 3's scaling has to be turned into them.
    ///
    /// # Errors
    /// `Unsupported` for what no key of GGUF says.
    pub fn to_gguf(&self) -> Result<Vec<(String, Value<'_>)>, Error> {
        if !self.memory.is_empty() {
            let found = self.memory.iter().flatten().next().map_or("softmax", |memory| memory.kind.name());
            return Err(Error::Unsupported(fault("config", "memory", "attention in all layers", found)));
        }
        let uint = |n: usize| Value::Uint(u64::try_from(n).unwrap_or(u64::MAX));
        let mut keys = vec![
            (EMBEDDING_LENGTH, uint(self.dim)),
            (BLOCK_COUNT, uint(self.n_layers)),
            (CONTEXT_LENGTH, uint(self.ctx)),
            (FEED_FORWARD_LENGTH, uint(self.ffn_dim)),
            (HEAD_COUNT, uint(self.n_heads)),
            (HEAD_COUNT_KV, uint(self.n_kv_heads)),
            (VOCAB_SIZE, uint(self.vocab)),
        ];
        match self.norm {
            Norm::Layer => keys.push((LAYER_NORM_EPS, Value::F32(self.norm_eps))),
            Norm::Rms => keys.push((NORM_EPS, Value::F32(self.norm_eps))),
        }
        if self.arch == Arch::Gpt2 && self.activation != Activation::GeluTanh {
            let found = format!("{:?}", self.activation);
            return Err(Error::Unsupported(fault("config", "activation", "that of GPT-2, gelu_new", found)));
        }
        if !self.learned_positions() {
            keys.extend([(ROPE_BASE, Value::F32(self.rope.base)), (ROPE_DIMS, uint(self.rope.dims))]);
        }
        if self.q_dim() != self.dim {
            keys.extend([(KEY_LENGTH, uint(self.head_dim)), (VALUE_LENGTH, uint(self.head_dim))]);
        }
        keys.extend(self.window.map(|window| (SLIDING_WINDOW, uint(window))));
        match &self.rope.scaling {
            RopeScaling::None | RopeScaling::Factors => {}
            RopeScaling::Linear { factor } => {
                keys.extend([(SCALING_TYPE, Value::Str("linear")), (SCALING_FACTOR, Value::F32(*factor))]);
            }
            RopeScaling::Yarn {
                factor,
                original_ctx,
                attention_factor: None,
                multiplier,
                beta_fast,
                beta_slow,
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            } => keys.extend([
                (SCALING_TYPE, Value::Str("yarn")),
                (SCALING_FACTOR, Value::F32(*factor)),
                (SCALING_ORIGINAL_CTX, uint(*original_ctx)),
                (SCALING_ATTN_FACTOR, Value::F32(*multiplier)),
                (SCALING_BETA_FAST, Value::F32(*beta_fast)),
                (SCALING_BETA_SLOW, Value::F32(*beta_slow)),
            ]),
            other => {
                let expected = "a scaling that GGUF has keys for";
                return Err(Error::Unsupported(fault("config", "rope.scaling", expected, format!("{other:?}"))));
            }
        }
        let prefix = self.arch.family().gguf;
        let general = [(ARCHITECTURE.to_owned(), Value::Str(prefix))];
        let name = self.name.as_deref().map(|name| (NAME.to_owned(), Value::Str(name)));
        let keys = keys.into_iter().map(|(suffix, value)| (format!("{prefix}.{suffix}"), value));
        Ok(general.into_iter().chain(name).chain(keys).collect())
    }
}
