//! Hugging Face configurations of networks with memories: Mamba-2, RWKV-7 (as flash-linear-attention writes it),
//! Qwen3-Next.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ConfigJson, GenerationJson, Ids, eos_of, needed, unsupported};
use crate::config::{Activation, Arch, Config, Norm, Rope, inconsistent};
use crate::error::Error;
use crate::memory::{Memory, MemoryKind};
use crate::qwen3_next::QWEN35_TEXT;

/// The keys that only networks with memories have.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RecurrentJson {
    num_heads: Option<usize>,
    state_size: Option<usize>,
    n_groups: Option<usize>,
    conv_kernel: Option<usize>,
    use_bias: Option<bool>,
    time_step_limit: Option<(f64, serde_json::Value)>,
    norm_eps: Option<f32>,
    hidden_ratio: Option<f32>,
    attn: Option<IgnoredAny>,
    linear_num_key_heads: Option<usize>,
    linear_num_value_heads: Option<usize>,
    linear_key_head_dim: Option<usize>,
    linear_value_head_dim: Option<usize>,
    linear_conv_kernel_dim: Option<usize>,
    full_attention_interval: Option<usize>,
    num_experts: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,
}

/// The numbers that the families without attention have.
struct Common {
    arch: Arch,
    ffn_dim: usize,
    norm_eps: f32,
    tied_embeddings: bool,
    memory: Memory,
}

/// Mamba-2 (Dao and Gu, 2024), as transformers names its numbers; the defaults are those of its class.
pub(super) fn mamba2(json: &ConfigJson, generation: GenerationJson) -> Result<Config, Error> {
    let r = &json.recurrent;
    if r.use_bias == Some(true) {
        return Err(unsupported("use_bias", "false", true));
    }
    // Python writes infinity in several ways, none of them a number of JSON.
    if let Some((low, high)) = &r.time_step_limit
        && (*low > 0.0 || high.is_number())
    {
        return Err(unsupported("time_step_limit", "[0, inf]", format!("[{low}, {high}]")));
    }
    let memory = Memory {
        kind: MemoryKind::Mamba2,
        k_heads: r.n_groups.unwrap_or(8),
        v_heads: r.num_heads.unwrap_or(128),
        k_dim: r.state_size.unwrap_or(128),
        v_dim: json.head_dim.unwrap_or(64),
        tiled: false,
        slots: 0,
        conv: r.conv_kernel.unwrap_or(4),
        output_norm: true,
        output_gate: true,
        bhrr: None,
    };
    let common = Common {
        arch: Arch::Mamba2,
        ffn_dim: 0,
        norm_eps: json.layer_norm_epsilon.unwrap_or(1e-5),
        tied_embeddings: json.tie_word_embeddings.unwrap_or(false),
        memory,
    };
    finish(json, generation, common)
}

/// RWKV-7 (Peng et al., 2025), as flash-linear-attention names its numbers.
pub(super) fn rwkv7(json: &ConfigJson, generation: GenerationJson) -> Result<Config, Error> {
    let dim = needed(json.hidden_size, "hidden_size")?;
    let head = json.head_dim.unwrap_or(64);
    if json.recurrent.attn.is_some() {
        return Err(unsupported("attn", "null", "attention in some layers"));
    }
    let heads = match dim.checked_div(head) {
        Some(heads) if dim.is_multiple_of(head) => heads,
        _ => return Err(inconsistent("head_dim", format!("a divisor of hidden_size = {dim}"), head)),
    };
    let ratio = json.recurrent.hidden_ratio.unwrap_or(4.0);
    let ffn_dim = match json.intermediate_size {
        Some(ffn_dim) => ffn_dim,
        None if (ratio - 4.0).abs() < f32::EPSILON => dim.saturating_mul(4),
        None => return Err(unsupported("hidden_ratio", "4, or intermediate_size", ratio)),
    };
    let common = Common {
        arch: Arch::Rwkv7,
        ffn_dim,
        norm_eps: json.recurrent.norm_eps.unwrap_or(1e-5),
        tied_embeddings: false,
        memory: Memory::of_rwkv7(heads, head),
    };
    finish(json, generation, common)
}

fn finish(json: &ConfigJson, generation: GenerationJson, common: Common) -> Result<Config, Error> {
    let Common { arch, ffn_dim, norm_eps, tied_embeddings, memory } = common;
    let n_layers = needed(json.num_hidden_layers, "num_hidden_layers")?;
    let config = Config {
        arch,
        name: json.name.clone().filter(|name| !name.is_empty()),
        n_layers,
        dim: needed(json.hidden_size, "hidden_size")?,
        n_heads: memory.v_heads,
        n_kv_heads: memory.v_heads,
        head_dim: memory.v_dim,
        ffn_dim,
        vocab: needed(json.vocab_size, "vocab_size")?,
        ctx: json.max_position_embeddings.unwrap_or(1 << 20),
        norm_eps,
        rope: Rope::unused(),
        qkv_bias: false,
        attn_output_bias: false,
        mlp_bias: false,
        tied_embeddings,
        window: None,
        activation: Activation::Silu,
        norm: Norm::Rms,
        eos: eos_of(json, generation)?,
        bos: json.bos_token_id.as_ref().map_or(Ok(Vec::new()), Ids::list)?.first().copied(),
        // Checked against the tensors before anything is made of it.
        memory: vec![Some(memory); n_layers.min(1 << 14)],
    };
    config.validate()?;
    Ok(config)
}

/// The memories of Qwen3-Next: the gated delta rule in all layers but every fourth.
pub(super) fn qwen3_next(json: &ConfigJson, n_layers: usize) -> Result<Vec<Option<Memory>>, Error> {
    let r = &json.recurrent;
    let dense = |layer: &usize| r.mlp_only_layers.as_ref().is_some_and(|dense| dense.contains(layer));
    let n_layers = n_layers.min(1 << 14);
    let experts = if json.model_type.as_deref() == Some(QWEN35_TEXT) { 0 } else { 512 };
    if r.num_experts.unwrap_or(experts) != 0 && !(0..n_layers).all(|layer| dense(&layer)) {
        return Err(unsupported("num_experts", "0, or all layers in mlp_only_layers", "a mixture of experts"));
    }
    let memory = Memory {
        kind: MemoryKind::GatedDelta,
        k_heads: r.linear_num_key_heads.unwrap_or(16),
        v_heads: r.linear_num_value_heads.unwrap_or(32),
        k_dim: r.linear_key_head_dim.unwrap_or(128),
        v_dim: r.linear_value_head_dim.unwrap_or(128),
        tiled: false,
        slots: 0,
        conv: r.linear_conv_kernel_dim.unwrap_or(4),
        output_norm: true,
        output_gate: true,
        bhrr: None,
    };
    if let Some(types) = &json.layer_types {
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                "linear_attention" => Ok(Some(memory.clone())),
                "full_attention" => Ok(None),
                other => {
                    let expected = "linear_attention or full_attention";
                    Err(unsupported("layer_types", expected, crate::error::shorten(other)))
                }
            })
            .collect();
    }
    let every = r.full_attention_interval.unwrap_or(4).max(1);
    Ok((1..=n_layers).map(|layer| (!layer.is_multiple_of(every)).then(|| memory.clone())).collect())
}
