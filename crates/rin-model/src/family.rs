//! The families of networks: their names, and the tensors that each needs, in one table.

use crate::config::{Arch, Config, Pairing, RopeScaling, inconsistent};
use crate::error::{Error, fault};
use crate::tensor::{RowOrder, TensorTable};

/// What sets one family apart.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) arch: Arch,
    /// `general.architecture` of GGUF files.
    pub(crate) gguf: &'static str,
    /// `model_type`s of Hugging Face configurations.
    pub(crate) hf: &'static [&'static str],
    /// Which elements of a head rotate together.
    pub(crate) pairing: Pairing,
    /// Whether Hugging Face files hold the rows of q and k in the order of rotated halves, against `pairing`.
    pub(crate) hf_half_rows: bool,
}

pub(crate) static FAMILIES: [Family; 2] = [
    Family {
        arch: Arch::Llama,
        gguf: "llama",
        hf: &["llama", "mistral"],
        pairing: Pairing::Interleaved,
        hf_half_rows: true,
    },
    Family { arch: Arch::Qwen2, gguf: "qwen2", hf: &["qwen2"], pairing: Pairing::Half, hf_half_rows: false },
];

/// A width in terms of the configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Dim,
    Q,
    Kv,
    Ffn,
    Vocab,
    RopePairs,
}

impl Width {
    fn of(self, config: &Config) -> u64 {
        let width = match self {
            Self::Dim => config.dim,
            Self::Q => config.q_dim(),
            Self::Kv => config.kv_dim(),
            Self::Ffn => config.ffn_dim,
            Self::Vocab => config.vocab,
            Self::RopePairs => config.rope.dims.checked_div(2).unwrap_or(0),
        };
        u64::try_from(width).unwrap_or(u64::MAX)
    }
}

/// When a tensor is needed.
#[derive(Debug, Clone, Copy)]
enum Needed {
    Always,
    Untied,
    RopeFactors,
    QkvBias,
    AttnOutputBias,
    MlpBias,
}

impl Needed {
    fn by(self, config: &Config) -> bool {
        match self {
            Self::Always => true,
            Self::Untied => !config.tied_embeddings,
            Self::RopeFactors => config.rope.scaling == RopeScaling::Factors,
            Self::QkvBias => config.qkv_bias,
            Self::AttnOutputBias => config.attn_output_bias,
            Self::MlpBias => config.mlp_bias,
        }
    }
}

#[derive(Debug)]
struct TensorRule {
    /// Name in GGUF files; in a layer, what follows `blk.N.`.
    name: &'static str,
    /// Name in Hugging Face files; in a layer, what follows `model.layers.N.`. Empty: never there.
    hf: &'static str,
    shape: &'static [Width],
    needed: Needed,
}

const fn rule(name: &'static str, hf: &'static str, shape: &'static [Width], needed: Needed) -> TensorRule {
    TensorRule { name, hf, shape, needed }
}

use Width::{Dim, Ffn, Kv, Q, RopePairs, Vocab};

/// Tensors that exist once.
static MODEL: [TensorRule; 4] = [
    rule(EMBEDDING, "model.embed_tokens.weight", &[Vocab, Dim], Needed::Always),
    rule("output_norm.weight", "model.norm.weight", &[Dim], Needed::Always),
    rule(OUTPUT, "lm_head.weight", &[Vocab, Dim], Needed::Untied),
    rule(ROPE_FACTORS, "", &[RopePairs], Needed::RopeFactors),
];

/// Tensors of each layer.
static LAYER: [TensorRule; 16] = [
    rule("attn_norm.weight", "input_layernorm.weight", &[Dim], Needed::Always),
    rule("attn_q.weight", "self_attn.q_proj.weight", &[Q, Dim], Needed::Always),
    rule("attn_q.bias", "self_attn.q_proj.bias", &[Q], Needed::QkvBias),
    rule("attn_k.weight", "self_attn.k_proj.weight", &[Kv, Dim], Needed::Always),
    rule("attn_k.bias", "self_attn.k_proj.bias", &[Kv], Needed::QkvBias),
    rule("attn_v.weight", "self_attn.v_proj.weight", &[Kv, Dim], Needed::Always),
    rule("attn_v.bias", "self_attn.v_proj.bias", &[Kv], Needed::QkvBias),
    rule("attn_output.weight", "self_attn.o_proj.weight", &[Dim, Q], Needed::Always),
    rule("attn_output.bias", "self_attn.o_proj.bias", &[Dim], Needed::AttnOutputBias),
    rule("ffn_norm.weight", "post_attention_layernorm.weight", &[Dim], Needed::Always),
    rule("ffn_gate.weight", "mlp.gate_proj.weight", &[Ffn, Dim], Needed::Always),
    rule("ffn_gate.bias", "mlp.gate_proj.bias", &[Ffn], Needed::MlpBias),
    rule("ffn_up.weight", "mlp.up_proj.weight", &[Ffn, Dim], Needed::Always),
    rule("ffn_up.bias", "mlp.up_proj.bias", &[Ffn], Needed::MlpBias),
    rule("ffn_down.weight", "mlp.down_proj.weight", &[Dim, Ffn], Needed::Always),
    rule("ffn_down.bias", "mlp.down_proj.bias", &[Dim], Needed::MlpBias),
];

/// The embedding, whose rows are the vocabulary.
pub(crate) const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, absent where it is the embedding.
pub(crate) const OUTPUT: &str = "output.weight";
/// Divisors of the rotary frequencies.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// GGUF name of a tensor of layer `layer`.
fn layer_name(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Splits `N.rest`, where N is written as numbers are.
fn layer_and_rest(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((layer, rest))
}

/// A tensor of a network, by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorName {
    /// Canonical name, that of GGUF.
    pub name: String,
    /// Name in Hugging Face files; none where they never have it.
    pub hf: Option<String>,
}

/// The names of all tensors that a network needs, layer by layer.
pub(crate) fn tensor_names(config: &Config) -> Vec<TensorName> {
    let needed = |rule: &&TensorRule| rule.needed.by(config);
    let model = |rule: &TensorRule| TensorName {
        name: rule.name.to_owned(),
        hf: (!rule.hf.is_empty()).then(|| rule.hf.to_owned()),
    };
    let in_layer = |layer: usize| {
        LAYER.iter().filter(needed).map(move |rule| TensorName {
            name: layer_name(layer, rule.name),
            hf: Some(format!("model.layers.{layer}.{}", rule.hf)),
        })
    };
    let is_first = |rule: &&TensorRule| rule.name == EMBEDDING;
    let first = MODEL.iter().filter(is_first).map(model);
    let last = MODEL.iter().filter(|rule| !is_first(rule)).filter(needed).map(model);
    first.chain((0..config.n_layers).flat_map(in_layer)).chain(last).collect()
}

/// GGUF name of a tensor in a Hugging Face file; none where no family has it.
pub(crate) fn canonical_name(hf: &str) -> Option<String> {
    if let Some((layer, rest)) = hf.strip_prefix("model.layers.").and_then(layer_and_rest) {
        return LAYER.iter().find(|rule| rule.hf == rest).map(|rule| layer_name(layer, rule.name));
    }
    MODEL.iter().find(|rule| !rule.hf.is_empty() && rule.hf == hf).map(|rule| rule.name.to_owned())
}

/// Order of the rows of a tensor in a Hugging Face file.
pub(crate) fn hf_rows(config: &Config, name: &str) -> RowOrder {
    let heads = rotated_heads(config, name).filter(|_| config.arch.family().hf_half_rows);
    heads.map_or(RowOrder::AsStored, |heads| RowOrder::HalfToInterleaved { heads })
}

/// Number of heads in a tensor whose rows the rotary embedding pairs: queries and keys.
pub(crate) fn rotated_heads(config: &Config, name: &str) -> Option<usize> {
    match name.strip_prefix("blk.").and_then(layer_and_rest).map(|(_, rest)| rest) {
        Some("attn_q.weight" | "attn_q.bias") => Some(config.n_heads),
        Some("attn_k.weight" | "attn_k.bias") => Some(config.n_kv_heads),
        _ => None,
    }
}

/// Holds configuration and tensors against each other.
///
/// `InconsistentConfig` for a vocabulary that is not the embedding's and for layers that do not match the tensors';
/// `MissingTensor` and `BadShape` for what the family needs.
pub(crate) fn check_tensors(config: &Config, table: &TensorTable) -> Result<(), Error> {
    if config.n_layers > table.all().len() {
        let expected = format!("at most {}, the number of tensors", table.all().len());
        return Err(inconsistent("n_layers", expected, config.n_layers));
    }
    for tensor in table.all() {
        if let Some((layer, _)) = tensor.name.strip_prefix("blk.").and_then(layer_and_rest)
            && layer >= config.n_layers
        {
            let found = format!("{} beside `{}`", config.n_layers, tensor.source_name);
            return Err(inconsistent("n_layers", "all layers of the file", found));
        }
    }
    if let Some([rows, _]) = table.get(EMBEDDING).map(|tensor| tensor.shape.as_slice())
        && *rows != Vocab.of(config)
    {
        return Err(inconsistent("vocab", format!("{rows}, the rows of the embedding"), config.vocab));
    }
    for rule in &MODEL {
        check_tensor(config, table, rule, rule.name)?;
    }
    for layer in 0..config.n_layers {
        for rule in &LAYER {
            check_tensor(config, table, rule, &layer_name(layer, rule.name))?;
        }
    }
    Ok(())
}

fn check_tensor(config: &Config, table: &TensorTable, rule: &TensorRule, name: &str) -> Result<(), Error> {
    if !rule.needed.by(config) {
        return Ok(());
    }
    let shape: Vec<u64> = rule.shape.iter().map(|width| width.of(config)).collect();
    match table.get(name) {
        None => Err(Error::MissingTensor(fault("tensor", name, format!("shape {shape:?}"), "no such tensor"))),
        Some(tensor) if tensor.shape == shape => Ok(()),
        Some(tensor) => {
            let found = format!("{:?}", tensor.shape);
            Err(Error::BadShape(fault("tensor", &tensor.source_name, format!("shape {shape:?}"), found)))
        }
    }
}
