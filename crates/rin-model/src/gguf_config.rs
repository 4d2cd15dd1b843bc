//! The configuration in a GGUF file's keys.

use crate::config::{Activation, Arch, Config, Norm, Rope, RopeScaling, derived_head_dim, inconsistent};
use crate::error::{Error, fault};
use crate::family::{EMBEDDING, OUTPUT, ROPE_FACTORS, check_tensors};
use crate::gguf::Metadata;
use crate::tensor::TensorTable;

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

/// Reads the configuration and checks it against the tensors.
pub(crate) fn config(metadata: &Metadata<'_>, tensors: &TensorTable) -> Result<Config, Error> {
    const ARCHITECTURE: &str = "general.architecture";
    let arch = Arch::from_gguf(metadata.str(ARCHITECTURE)?.ok_or_else(|| missing(ARCHITECTURE))?)?;
    let keys = Keys { metadata, prefix: arch.family().gguf };
    refuse_unknown_meaning(&keys)?;
    let dim = keys.needed("embedding_length")?;
    let n_heads = keys.needed("attention.head_count")?;
    let head_dim = match keys.number("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => derived_head_dim(dim, n_heads)?,
    };
    let value_length = keys.number("attention.value_length")?.unwrap_or(head_dim);
    if value_length != head_dim {
        let found = format!("{head_dim} and {value_length}");
        return Err(Error::Unsupported(fault("metadata", "attention.value_length", "keys as wide as values", found)));
    }
    let rows = tensors.get(EMBEDDING).and_then(|tensor| tensor.shape.first().copied());
    let vocab = match keys.number("vocab_size")? {
        Some(vocab) => vocab,
        None => usize::try_from(rows.unwrap_or(0)).unwrap_or(usize::MAX),
    };
    let has = |name: &str| tensors.get(name).is_some();
    let config = Config {
        arch,
        name: metadata.str("general.name")?.map(str::to_owned),
        n_layers: keys.needed("block_count")?,
        dim,
        n_heads,
        n_kv_heads: keys.number("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        ffn_dim: keys.needed("feed_forward_length")?,
        vocab,
        ctx: keys.needed("context_length")?,
        norm_eps: keys
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing(&keys.key("attention.layer_norm_rms_epsilon")))?,
        rope: Rope {
            base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
            dims: keys.number("rope.dimension_count")?.unwrap_or(head_dim),
            pairing: arch.family().pairing,
            scaling: scaling(&keys, has(ROPE_FACTORS))?,
        },
        qkv_bias: has("blk.0.attn_q.bias"),
        attn_output_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_up.bias"),
        tied_embeddings: !has(OUTPUT),
        window: keys.number("attention.sliding_window")?.filter(|&window| window > 0),
        activation: Activation::Silu,
        norm: Norm::Rms,
        eos: Vec::new(),
        bos: None,
    };
    check_embedding(&config, tensors)?;
    config.validate()?;
    check_tensors(&config, tensors)?;
    Ok(config)
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
            return Err(Error::Unsupported(fault("metadata", key, "no such key", value)));
        }
    }
    Ok(())
}

fn scaling(keys: &Keys<'_, '_>, has_factors: bool) -> Result<RopeScaling, Error> {
    const TYPE: &str = "rope.scaling.type";
    let old = keys.float("rope.scale_linear")?.filter(|&factor| factor != 0.0);
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => old,
    };
    let scaling = match keys.text(TYPE)?.unwrap_or(if old.is_some() { "linear" } else { "none" }) {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor.unwrap_or(1.0) },
        "yarn" => RopeScaling::Yarn {
            factor: factor.unwrap_or(1.0),
            original_ctx: match keys.number("rope.scaling.original_context_length")? {
                Some(original) => original,
                None => keys.needed("context_length")?,
            },
            attention_factor: None,
            multiplier: match keys.float("rope.scaling.attn_factor")? {
                Some(multiplier) => multiplier,
                None => keys.float("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0),
            },
            beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        },
        other => {
            let found = crate::error::shorten(other);
            return Err(Error::Unsupported(fault("metadata", keys.key(TYPE), "none, linear or yarn", found)));
        }
    };
    match (scaling, has_factors) {
        (scaling, false) => Ok(scaling),
        (RopeScaling::None, true) => Ok(RopeScaling::Factors),
        (_, true) => {
            let found = format!("both a scaling type and `{ROPE_FACTORS}`");
            Err(Error::Unsupported(fault("metadata", keys.key(TYPE), "one way of scaling", found)))
        }
    }
}
