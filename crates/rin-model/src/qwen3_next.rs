//! Qwen3-Next and Qwen3.5 in the files of others: names of tensors and orders of rows.

use crate::config::{Arch, Config};
use crate::family::{layer_and_rest, layer_name};
use crate::tensor::{RowOrder, TensorInfo};

/// `model_type` of Qwen3.5's text: Qwen3-Next with a matrix of its own for each gate, and no mixture of experts.
pub(crate) const QWEN35_TEXT: &str = "qwen3_5_text";

/// Qwen3-Next's norms are around zero, and its projections come group by group, each with its own queries, keys, values
/// and gates (transformers, `fix_query_key_value_ordering`).
pub(crate) fn rows(config: &Config, name: &str, in_layer: Option<(usize, &str)>) -> RowOrder {
    let Some((layer, rest)) = in_layer else {
        return if name == "output_norm.weight" { RowOrder::PlusOne } else { RowOrder::AsStored };
    };
    let memory = config.memory_of(layer);
    match (rest, memory) {
        ("attn_norm.weight" | "ffn_norm.weight" | "attn_q_norm.weight" | "attn_k_norm.weight", _) => RowOrder::PlusOne,
        ("attn_q.weight", _) => {
            RowOrder::Grouped { groups: config.n_heads, parts: [config.head_dim, config.head_dim, 0, 0] }
        }
        ("mem_in.weight", Some(m)) => {
            let values = m.v_width().checked_div(m.k_heads).unwrap_or(0);
            RowOrder::Grouped { groups: m.k_heads, parts: [m.k_dim, m.k_dim, values, values] }
        }
        ("mem_ba.weight", Some(m)) => {
            let heads = m.v_heads.checked_div(m.k_heads).unwrap_or(0);
            RowOrder::Grouped { groups: m.k_heads, parts: [heads, heads, 0, 0] }
        }
        _ => RowOrder::AsStored,
    }
}

/// A tensor of a GGUF file of Qwen3-Next or Qwen3.5 under its canonical name; none in the layers from `n_layers` on, which
/// guess further tokens.
pub(crate) fn from_gguf(mut tensor: TensorInfo, n_layers: usize) -> Option<TensorInfo> {
    let Some((layer, rest)) = tensor.name.strip_prefix("blk.").and_then(layer_and_rest) else { return Some(tensor) };
    if layer >= n_layers {
        return None;
    }
    let name = match rest {
        "post_attention_norm.weight" => "ffn_norm.weight",
        "ssm_in.weight" => "mem_in.weight",
        "attn_qkv.weight" => "mem_qkv.weight",
        "attn_gate.weight" => "mem_gate.weight",
        "ssm_conv1d.weight" => "mem_conv.weight",
        "ssm_ba.weight" => "mem_ba.weight",
        "ssm_beta.weight" => "mem_beta.weight",
        "ssm_alpha.weight" => "mem_decay.weight",
        "ssm_dt.bias" => "mem_decay.bias",
        "ssm_a" => "mem_rate",
        "ssm_norm.weight" => "mem_norm.weight",
        "ssm_out.weight" => "mem_output.weight",
        _ => return Some(tensor),
    };
    tensor.name = layer_name(layer, name);
    Some(tensor)
}

/// Order of the rows of a tensor in a GGUF file.
pub(crate) fn gguf_rows(config: &Config, name: &str) -> RowOrder {
    if config.arch != Arch::Qwen3Next {
        return RowOrder::AsStored;
    }
    let in_layer = name.strip_prefix("blk.").and_then(layer_and_rest);
    // Norms and rates are converted, groups are not.
    match rows(config, name, in_layer) {
        groups @ RowOrder::Grouped { .. } => groups,
        _ => RowOrder::AsStored,
    }
}
