//! The llama-style decoder: llama (with Mistral, SmolLM, TinyLlama), qwen2, and Qwen3-Next with dense feed-forward networks.
//!
//! RMSNorm before each part, grouped-query attention with rotary positions or a memory of a fixed size, SwiGLU, residuals.
//! The families differ in what [`Config`] says: biases, tied embeddings, rotation pairs, window, memories. Sources: Touvron et al. 2023 (LLaMA, section
//! 2.2); Ainslie et al. 2023 (GQA); Qwen2 technical report 2024, section 2.2.

use super::memory;
use crate::Error;
use crate::plan::{Builder, Columns, MemoryStep, Plan, PlanOptions, SlotId, Stage, Width};
use crate::weights::{VectorId, format_of};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_kernels::ops::memory::Gating;
use rin_model::{Arch, Config, ModelFile};

/// What ranks share of each product.
#[derive(Clone, Copy, Debug)]
struct Widths {
    /// All query heads.
    q: Width,
    /// All key heads.
    kv: Width,
    /// The feed-forward network.
    ffn: Width,
    /// The residual.
    dim: Width,
}

impl Widths {
    fn new(c: &Config, stage: Option<Stage>) -> Self {
        // Query heads stay with their key head.
        let group = c.n_heads / c.n_kv_heads.max(1);
        Self {
            q: Width::new(c.q_dim(), c.head_dim.saturating_mul(group), stage),
            kv: Width::new(c.kv_dim(), c.head_dim, stage),
            ffn: Width::of_panels(c.ffn_dim, stage),
            dim: Width::of_panels(c.dim, stage),
        }
    }

    /// The network as this process has it: cache, rotation and attention are of its own heads alone.
    fn own(&self, whole: Config) -> Config {
        let head = whole.head_dim.max(1);
        let (n_heads, n_kv_heads) = (self.q.own().len() / head, self.kv.own().len() / head);
        Config { n_heads, n_kv_heads, ffn_dim: self.ffn.own().len(), ..whole }
    }
}

pub(super) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    let mut p = Builder::new(file, options);
    let stage = options.stage.filter(|stage| stage.count > 1);
    let layers = stage.map_or(0..config.n_layers, |stage| stage.first_layer..stage.end_layer);
    let kv_type = options.kv_type.unwrap_or(kv_type_of(file));
    let inv_freq = p.state("rope inv_freq", config.rope.dims / 2, 4);
    let (widths, vocab) = (Widths::new(&config, stage), Width::of_panels(config.vocab, stage));
    let config = if widths.dim.is_cut() { widths.own(config) } else { config };
    let c = &config;

    let ports = stage.map(|stage| p.ports(stage, c.dim)).transpose()?;
    let mut x = match (stage, ports) {
        (Some(stage), Some(rows)) if !stage.is_first() => rows,
        _ => {
            let embedding = p.matrix("token_embd.weight")?;
            p.embed(embedding, c.dim)
        }
    };
    if widths.dim.is_cut() {
        p.hand_on(x);
    }
    let angles = p.rope_table(c.rope.dims / 2);
    for layer in layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        p.layer(Some(layer));
        let norm = p.vector(&name("attn_norm.weight"))?;
        match c.memory_of(layer) {
            Some(memory) => memory::mixer(&mut p, c, memory, layer, norm, x)?,
            None => attention(&mut p, c, &widths, layer, norm, kv_type, angles, x)?,
        }

        let Widths { ffn, dim, .. } = widths;
        let (gate, up) = (p.rows(&name("ffn_gate.weight"), ffn)?, p.rows(&name("ffn_up.weight"), ffn)?);
        let down = p.rows(&name("ffn_down.weight"), dim)?;
        let (mut bg, mut bu, mut bd) = (None, None, None);
        if c.mlp_bias {
            bg = Some(p.part(&name("ffn_gate.bias"), ffn)?);
            bu = Some(p.part(&name("ffn_up.bias"), ffn)?);
            bd = Some(p.part(&name("ffn_down.bias"), dim)?);
        }
        let norm = p.vector(&name("ffn_norm.weight"))?;
        let h = p.norm(x, norm, &[gate, up]);
        let gu = p.linear(&h, &[(gate, bg, "ffn gate"), (up, bu, "ffn up")]);
        let f = p.swiglu(gu[0], gu[1], ffn, &[down]);
        p.linear_add_own(&f, down, bd, x, dim);
    }
    p.layer(None);
    match (stage, ports) {
        (Some(stage), Some(rows)) if stage.is_first() && !stage.has_rows() => {
            p.hand_on(x);
            p.take_back();
            x = rows;
        }
        (Some(stage), _) if !stage.has_rows() => {
            if stage.is_last() {
                x = p.select(x, c.dim);
            }
            p.hand_on(x);
            return p.finish(config, kv_type, inv_freq, x);
        }
        _ => x = p.select(x, c.dim),
    }
    let output = p.rows(if c.tied_embeddings { "token_embd.weight" } else { "output.weight" }, vocab)?;
    let norm = p.vector("output_norm.weight")?;
    let h = p.norm(x, norm, &[output]);
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    let logits = p.gather_logits(logits, vocab, stage.is_none_or(|stage| stage.is_first()));
    p.finish(config, kv_type, inv_freq, logits)
}

/// How keys and values are stored where nobody says: with all bits beside weights that have all.
fn kv_type_of(file: &ModelFile) -> KvType {
    let embedding = file.tensor("token_embd.weight").and_then(|t| format_of(t.dtype));
    if embedding == Some(Format::F32) { KvType::F32 } else { KvType::F16 }
}

/// Adds grouped-query attention to the residual `x`; `norm` are the weights of the norm before it.
#[expect(clippy::too_many_arguments, reason = "what all layers share, and what this one has")]
fn attention(
    p: &mut Builder<'_>,
    c: &Config,
    widths: &Widths,
    layer: usize,
    norm: VectorId,
    kv_type: KvType,
    angles: (SlotId, SlotId),
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let kv = p.kv_cache(layer, c, kv_type);
    let Widths { q, kv: keys, dim, .. } = *widths;
    let (wq, wk) = (p.rows(&name("attn_q.weight"), q)?, p.rows(&name("attn_k.weight"), keys)?);
    let (wv, wo) = (p.rows(&name("attn_v.weight"), keys)?, p.rows(&name("attn_output.weight"), dim)?);
    let (mut bq, mut bk, mut bv, mut bo) = (None, None, None, None);
    if c.qkv_bias {
        bq = Some(p.part(&name("attn_q.bias"), q)?);
        bk = Some(p.part(&name("attn_k.bias"), keys)?);
        bv = Some(p.part(&name("attn_v.bias"), keys)?);
    }
    if c.attn_output_bias {
        bo = Some(p.part(&name("attn_output.bias"), dim)?);
    }
    let h = p.norm(x, norm, &[wq, wk, wv]);
    let qkv = p.linear(&h, &[(wq, bq, "q"), (wk, bk, "k"), (wv, bv, "v")]);
    if c.arch == Arch::Qwen3Next {
        return gated_attention(p, c, layer, [qkv[0], qkv[1], qkv[2]], kv, angles, x);
    }
    p.rope_store([qkv[0], qkv[1], qkv[2]], angles, kv);
    let a = p.attend(qkv[0], kv, q, &[wo]);
    p.linear_add_own(&a, wo, bo, x, dim);
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
    let a = p.attend(q, kv, Width::new(cols, 1, None), &[]);
    p.memory(MemoryStep::Multiply { x: a.x, cols, y: Columns::all(gate, cols) });
    let wo = p.matrix(&name("attn_output.weight"))?;
    let a = p.forms("gated attention", a.x, cols, &[wo]);
    p.linear_add(&a, wo, None, x);
    Ok(())
}
