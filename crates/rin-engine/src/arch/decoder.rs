//! The llama-style decoder: llama (with Mistral, SmolLM, TinyLlama), qwen2, and Qwen3-Next with dense feed-forward networks.
//!
//! RMSNorm before each part, grouped-query attention with rotary positions or a memory of a fixed size, SwiGLU, residuals.
//! The families differ in what [`Config`] says: biases, tied embeddings, rotation pairs, window, memories. Sources: Touvron et al. 2023 (LLaMA, section
//! 2.2); Ainslie et al. 2023 (GQA); Qwen2 technical report 2024, section 2.2.

use super::memory;
use crate::Error;
use crate::plan::{Builder, Columns, MemoryStep, Plan, PlanOptions, SlotId};
use crate::weights::{VectorId, format_of};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_kernels::ops::memory::Gating;
use rin_model::{Arch, Config, ModelFile};

pub(super) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    let c = &config;
    let mut p = Builder::new(file, options);
    let stage = options.stage.filter(|stage| stage.count > 1);
    let layers = stage.map_or(0..c.n_layers, |stage| stage.first_layer..stage.end_layer);
    let kv_type = options.kv_type.unwrap_or(kv_type_of(file));
    let inv_freq = p.state("rope inv_freq", c.rope.dims / 2, 4);

    let ports = stage.map(|stage| p.ports(stage, c.dim)).transpose()?;
    let mut x = match (stage, ports) {
        (Some(stage), Some(rows)) if !stage.is_first() => rows,
        _ => {
            let embedding = p.matrix("token_embd.weight")?;
            p.embed(embedding, c.dim)
        }
    };
    let angles = p.rope_table(c.rope.dims / 2);
    for layer in layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        p.layer(Some(layer));
        let norm = p.vector(&name("attn_norm.weight"))?;
        match c.memory_of(layer) {
            Some(memory) => memory::mixer(&mut p, c, memory, layer, norm, x)?,
            None => attention(&mut p, c, layer, norm, kv_type, angles, x)?,
        }

        let (gate, up) = (p.matrix(&name("ffn_gate.weight"))?, p.matrix(&name("ffn_up.weight"))?);
        let down = p.matrix(&name("ffn_down.weight"))?;
        let (mut bg, mut bu, mut bd) = (None, None, None);
        if c.mlp_bias {
            bg = Some(p.vector(&name("ffn_gate.bias"))?);
            bu = Some(p.vector(&name("ffn_up.bias"))?);
            bd = Some(p.vector(&name("ffn_down.bias"))?);
        }
        let norm = p.vector(&name("ffn_norm.weight"))?;
        let h = p.norm(x, norm, &[gate, up]);
        let gu = p.linear(&h, &[(gate, bg, "ffn gate"), (up, bu, "ffn up")]);
        let f = p.swiglu(gu[0], gu[1], c.ffn_dim, &[down]);
        p.linear_add(&f, down, bd, x);
    }
    p.layer(None);
    match (stage, ports) {
        (Some(stage), Some(rows)) if stage.is_first() => {
            p.hand_on(x);
            p.take_back();
            x = rows;
        }
        (Some(stage), _) => {
            if stage.is_last() {
                x = p.select(x, c.dim);
            }
            p.hand_on(x);
            return p.finish(config, kv_type, inv_freq, x);
        }
        (None, _) => x = p.select(x, c.dim),
    }
    let output = p.matrix(if c.tied_embeddings { "token_embd.weight" } else { "output.weight" })?;
    let norm = p.vector("output_norm.weight")?;
    let h = p.norm(x, norm, &[output]);
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    p.finish(config, kv_type, inv_freq, logits)
}

/// How keys and values are stored where nobody says: with all bits beside weights that have all.
fn kv_type_of(file: &ModelFile) -> KvType {
    let embedding = file.tensor("token_embd.weight").and_then(|t| format_of(t.dtype));
    if embedding == Some(Format::F32) { KvType::F32 } else { KvType::F16 }
}

/// Adds grouped-query attention to the residual `x`; `norm` are the weights of the norm before it.
fn attention(
    p: &mut Builder<'_>,
    c: &Config,
    layer: usize,
    norm: VectorId,
    kv_type: KvType,
    angles: (SlotId, SlotId),
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let kv = p.kv_cache(layer, c, kv_type);
    let (wq, wk) = (p.matrix(&name("attn_q.weight"))?, p.matrix(&name("attn_k.weight"))?);
    let (wv, wo) = (p.matrix(&name("attn_v.weight"))?, p.matrix(&name("attn_output.weight"))?);
    let (mut bq, mut bk, mut bv, mut bo) = (None, None, None, None);
    if c.qkv_bias {
        bq = Some(p.vector(&name("attn_q.bias"))?);
        bk = Some(p.vector(&name("attn_k.bias"))?);
        bv = Some(p.vector(&name("attn_v.bias"))?);
    }
    if c.attn_output_bias {
        bo = Some(p.vector(&name("attn_output.bias"))?);
    }
    let h = p.norm(x, norm, &[wq, wk, wv]);
    let qkv = p.linear(&h, &[(wq, bq, "q"), (wk, bk, "k"), (wv, bv, "v")]);
    if c.arch == Arch::Qwen3Next {
        return gated_attention(p, c, layer, [qkv[0], qkv[1], qkv[2]], kv, angles, x);
    }
    p.rope_store([qkv[0], qkv[1], qkv[2]], angles, kv);
    let a = p.attend(qkv[0], kv, c.q_dim(), &[wo]);
    p.linear_add(&a, wo, bo, x);
    Ok(())
}

/// Attention whose query and key heads are normed before they rotate, and whose output is multiplied with the sigmoid of
/// a gate, which lies behind the queries (Qwen3-Next; Qiu et al., 2025, "Gated Attention").
fn gated_attention(
    p: &mut Builder<'_>,
    c: &Config,
    layer: usize,
    [both, k, v]: [SlotId; 3],
    kv: SlotId,
    angles: (SlotId, SlotId),
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let (cols, head, eps) = (c.q_dim(), c.head_dim, c.norm_eps);
    let both = Columns::all(both, 2 * cols);
    let (q, gate) = (p.scratch("queries", cols, 4), p.scratch("gates", cols, 4));
    p.memory(MemoryStep::Copy { x: both, cols, out: q });
    p.memory(MemoryStep::Copy { x: both.from(cols), cols, out: gate });
    p.memory(MemoryStep::Sigmoid { x: gate, cols });
    for (x, cols, weight) in [(q, cols, "attn_q_norm.weight"), (k, c.kv_dim(), "attn_k_norm.weight")] {
        let weight = Some(p.vector(&name(weight))?);
        p.memory(MemoryStep::HeadNorm { x, cols, head, weight, gate: None, gating: Gating::None, eps });
    }
    p.rope_store([q, k, v], angles, kv);
    let a = p.attend(q, kv, cols, &[]);
    p.memory(MemoryStep::Multiply { x: a.x, cols, y: Columns::all(gate, cols) });
    let wo = p.matrix(&name("attn_output.weight"))?;
    let a = p.forms("gated attention", a.x, cols, &[wo]);
    p.linear_add(&a, wo, None, x);
    Ok(())
}
