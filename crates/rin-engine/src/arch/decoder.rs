//! The decoder: llama (with Mistral, SmolLM, TinyLlama), qwen2, Qwen3-Next with dense feed-forward networks, and GPT-2.
//!
//! A norm before each part, attention or a memory of a fixed size, a feed-forward network, residuals. The families differ in
//! what [`Config`] says: norms, positions, activation, biases, tied embeddings, rotation pairs, window, memories. Sources:
//! Touvron et al. 2023 (LLaMA, section 2.2); Ainslie et al. 2023 (GQA); Qwen2 technical report 2024, section 2.2; Radford et
//! al. 2019 (GPT-2, section 2.3).

use super::memory;
use crate::Error;
use crate::plan::{Act, Builder, Columns, MemoryStep, Plan, PlanOptions, SlotId, Stage, Width, kernel_of};
use crate::weights::{MatrixId, format_of};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_kernels::ops::memory::Gating;
use rin_model::{Arch, Config, ModelFile, Norm, POSITIONS};

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
            let x = p.embed(embedding, c.dim);
            if c.learned_positions() {
                let table = p.matrix(POSITIONS)?;
                p.add_positions(table, x, c.dim)
            } else {
                x
            }
        }
    };
    if widths.dim.is_cut() {
        p.hand_on(x);
    }
    let angles = (c.rope.dims > 0).then(|| p.rope_table(c.rope.dims / 2));
    for layer in layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        p.layer(Some(layer));
        match c.memory_of(layer) {
            Some(memory) => {
                let norm = p.vector(&name("attn_norm.weight"))?;
                memory::mixer(&mut p, c, memory, layer, norm, x)?;
            }
            None => attention(&mut p, c, &widths, layer, kv_type, angles, x)?,
        }
        if c.arch == Arch::Gpt2 {
            plain_ffn(&mut p, c, layer, x)?;
            continue;
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
        let h = norm(&mut p, c, &name("ffn_norm"), x, &[gate, up])?;
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
    let h = norm(&mut p, c, "output_norm", x, &[output])?;
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    let logits = p.gather_logits(logits, vocab, stage.is_none_or(|stage| stage.is_first()));
    p.finish(config, kv_type, inv_freq, logits)
}

/// The norm called `name` of `x`, in the forms that `readers` take.
fn norm(p: &mut Builder<'_>, c: &Config, name: &str, x: SlotId, readers: &[MatrixId]) -> Result<Act, Error> {
    let weight = p.vector(&format!("{name}.weight"))?;
    if c.norm == Norm::Layer {
        let (bias, out) = (p.vector(&format!("{name}.bias"))?, p.scratch("norm f32", c.dim, 4));
        p.memory(MemoryStep::LayerNorm { x, cols: c.dim, weight, bias, out });
        return Ok(p.forms("norm", out, c.dim, readers));
    }
    Ok(p.norm(x, weight, readers))
}

/// Adds a feed-forward network without a gate to the residual `x`.
fn plain_ffn(p: &mut Builder<'_>, c: &Config, layer: usize, x: SlotId) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let (up, down) = (p.matrix(&name("ffn_up.weight"))?, p.matrix(&name("ffn_down.weight"))?);
    let (bu, bd) = (p.vector(&name("ffn_up.bias"))?, p.vector(&name("ffn_down.bias"))?);
    let h = norm(p, c, &name("ffn_norm"), x, &[up])?;
    let f = p.linear_with(&h, &[(up, Some(bu), "ffn up")], kernel_of(c.activation.function()))[0];
    let f = p.forms("ffn", f, c.ffn_dim, &[down]);
    p.linear_add(&f, down, Some(bd), x);
    Ok(())
}

/// How keys and values are stored where nobody says: with all bits beside weights that have all.
fn kv_type_of(file: &ModelFile) -> KvType {
    let embedding = file.tensor("token_embd.weight").and_then(|t| format_of(t.dtype));
    if embedding == Some(Format::F32) { KvType::F32 } else { KvType::F16 }
}

/// Adds grouped-query attention to the residual `x`.
fn attention(
    p: &mut Builder<'_>,
    c: &Config,
    widths: &Widths,
    layer: usize,
    kv_type: KvType,
    angles: Option<(SlotId, SlotId)>,
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let kv = p.kv_cache(layer, c, kv_type);
    let qkv = if c.arch == Arch::Gpt2 { fused_qkv(p, c, layer, x)? } else { separate_qkv(p, c, widths, layer, x)? };
    if c.arch == Arch::Qwen3Next {
        return gated_attention(p, c, layer, qkv, kv, angles, x);
    }
    let wo = p.rows(&name("attn_output.weight"), widths.dim)?;
    let bo = if c.attn_output_bias { Some(p.part(&name("attn_output.bias"), widths.dim)?) } else { None };
    p.rope_store(qkv, angles, kv);
    let a = p.attend(qkv[0], kv, widths.q, &[wo]);
    p.linear_add_own(&a, wo, bo, x, widths.dim);
    Ok(())
}

/// Queries, keys and values of the norm of `x`, each by a matrix of its own.
fn separate_qkv(
    p: &mut Builder<'_>,
    c: &Config,
    widths: &Widths,
    layer: usize,
    x: SlotId,
) -> Result<[SlotId; 3], Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let Widths { q, kv, .. } = *widths;
    let (wq, wk) = (p.rows(&name("attn_q.weight"), q)?, p.rows(&name("attn_k.weight"), kv)?);
    let wv = p.rows(&name("attn_v.weight"), kv)?;
    let (mut bq, mut bk, mut bv) = (None, None, None);
    if c.qkv_bias {
        bq = Some(p.part(&name("attn_q.bias"), q)?);
        bk = Some(p.part(&name("attn_k.bias"), kv)?);
        bv = Some(p.part(&name("attn_v.bias"), kv)?);
    }
    let h = norm(p, c, &name("attn_norm"), x, &[wq, wk, wv])?;
    let qkv = p.linear(&h, &[(wq, bq, "q"), (wk, bk, "k"), (wv, bv, "v")]);
    Ok([qkv[0], qkv[1], qkv[2]])
}

/// The same by one matrix, whose outputs come apart.
fn fused_qkv(p: &mut Builder<'_>, c: &Config, layer: usize, x: SlotId) -> Result<[SlotId; 3], Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let (w, bias) = (p.matrix(&name("attn_qkv.weight"))?, p.vector(&name("attn_qkv.bias"))?);
    let h = norm(p, c, &name("attn_norm"), x, &[w])?;
    let all = p.linear(&h, &[(w, Some(bias), "qkv")])[0];
    let (q, kv) = (c.q_dim(), c.kv_dim());
    let all = Columns::all(all, q + 2 * kv);
    Ok([p.copied("q", all, q), p.copied("k", all.from(q), kv), p.copied("v", all.from(q + kv), kv)])
}

/// Attention whose query and key heads are normed before they rotate, and whose output is multiplied with the sigmoid of
/// a gate, which lies behind the queries (Qwen3-Next; Qiu et al., 2025, "Gated Attention").
fn gated_attention(
    p: &mut Builder<'_>,
    c: &Config,
    layer: usize,
    [both, k, v]: [SlotId; 3],
    kv: SlotId,
    angles: Option<(SlotId, SlotId)>,
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let (cols, head, eps) = (c.q_dim(), c.head_dim, c.norm_eps);
    let both = Columns::all(both, 2 * cols);
    let (q, gate) = (p.copied("queries", both, cols), p.copied("gates", both.from(cols), cols));
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
