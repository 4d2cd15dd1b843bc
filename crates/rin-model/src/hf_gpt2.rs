//! Hugging Face configurations of GPT-2 (Radford et al., 2019), with the defaults of transformers' class.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConfigJson, GenerationJson, Ids, eos_of, needed, shortest, unsupported};
use crate::config::{Activation, Arch, Config, Norm, Rope, derived_head_dim};
use crate::error::Error;

/// The keys that only GPT-2 has.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Gpt2Json {
    n_embd: Option<usize>,
    n_layer: Option<usize>,
    n_head: Option<usize>,
    n_positions: Option<usize>,
    n_inner: Option<usize>,
    activation_function: Option<String>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    add_cross_attention: Option<bool>,
}

pub(super) fn config(json: &ConfigJson, generation: GenerationJson) -> Result<Config, Error> {
    let g = &json.gpt2;
    for (name, value, run) in [
        ("scale_attn_weights", g.scale_attn_weights, true),
        ("scale_attn_by_inverse_layer_idx", g.scale_attn_by_inverse_layer_idx, false),
        ("add_cross_attention", g.add_cross_attention, false),
    ] {
        if value.is_some_and(|value| value != run) {
            return Err(unsupported(name, if run { "true" } else { "false" }, !run));
        }
    }
    let dim = needed(g.n_embd, "n_embd")?;
    let n_heads = needed(g.n_head, "n_head")?;
    let config = Config {
        arch: Arch::Gpt2,
        name: json.name.clone().filter(|name| !name.is_empty()),
        n_layers: needed(g.n_layer, "n_layer")?,
        dim,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: derived_head_dim(dim, n_heads)?,
        ffn_dim: g.n_inner.unwrap_or(dim.saturating_mul(4)),
        vocab: needed(json.vocab_size, "vocab_size")?,
        ctx: needed(g.n_positions, "n_positions")?,
        norm_eps: json.layer_norm_epsilon.unwrap_or(1e-5),
        rope: Rope::none(),
        qkv_bias: true,
        attn_output_bias: true,
        mlp_bias: true,
        tied_embeddings: json.tie_word_embeddings.unwrap_or(true),
        window: None,
        activation: activation(g.activation_function.as_deref().unwrap_or("gelu_new"))?,
        norm: Norm::Layer,
        eos: eos_of(json, generation)?,
        bos: json.bos_token_id.as_ref().map_or(Ok(Vec::new()), Ids::list)?.first().copied(),
        memory: Vec::new(),
    };
    config.validate()?;
    Ok(config)
}

/// `config.json` of a GPT-2.
pub(super) fn to_hf(config: &Config, dtype: &str) -> Value {
    let activation = match config.activation {
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    };
    let mut json = json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": config.dim,
        "n_inner": config.ffn_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.ctx,
        "n_ctx": config.ctx,
        "vocab_size": config.vocab,
        "layer_norm_epsilon": shortest(config.norm_eps),
        "activation_function": activation,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos_json(),
        "torch_dtype": dtype,
        "use_cache": true,
    });
    if let (Value::Object(keys), Some(name)) = (&mut json, &config.name) {
        keys.insert("_name_or_path".to_owned(), json!(name));
    }
    json
}

fn activation(name: &str) -> Result<Activation, Error> {
    Ok(match name {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => {
            let expected = "gelu_new, gelu, relu or silu";
            return Err(unsupported("activation_function", expected, crate::error::shorten(other)));
        }
    })
}
