//! Mamba-2 (Dao and Gu, 2024, "Transformers are SSMs"): blocks of one projection in, a short convolution, a recurrence with
//! one decay per head, a gated norm, one projection out.
//!
//! The norm runs over groups of heads, as in the authors' own package and in llama.cpp; with one group that is all of it.

use super::memory::{convolve, step_values};
use crate::Error;
use crate::plan::{Builder, Columns, CorrectionOf, DecayOf, MemoryStep, Plan, PlanOptions, RecurOf};
use rin_kernels::ops::attention::KvType;
use rin_kernels::ops::memory::{DecayKind, Gating, Read};
use rin_model::{Config, ModelFile};

pub(super) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    let c = &config;
    let mut p = Builder::new(file, options);
    let embedding = p.matrix("token_embd.weight")?;
    let inv_freq = p.state("rope inv_freq", 0, 4);
    let mut x = p.embed(embedding, c.dim);
    for layer in 0..c.n_layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let m = c.memory_of(layer).ok_or(Error::NoPlan("mamba2 with attention"))?;
        let (keys, values, heads) = (m.k_width(), m.v_width(), m.v_heads);
        p.layer(Some(layer));
        let (w_in, w_out) = (p.matrix(&name("ssm_in.weight"))?, p.matrix(&name("ssm_out.weight"))?);
        let norm = p.vector(&name("attn_norm.weight"))?;
        let h = p.norm(x, norm, &[w_in]);
        let stride = p.rows_of(w_in);
        let z = Columns::all(p.linear(&h, &[(w_in, None, "z, x, B, C, dt")])[0], stride);
        let weight = p.numbers(&name("ssm_conv1d.weight"))?;
        let bias = if p.has(&name("ssm_conv1d.bias")) { Some(p.numbers(&name("ssm_conv1d.bias"))?) } else { None };
        if let Some(bias) = bias {
            p.expect_len(bias, &name("ssm_conv1d.bias"), m.channels())?;
        }
        let xbc = convolve(&mut p, &name("convolution"), z.from(values), m.channels(), m.conv, weight, bias);

        let decay = z.from(values + m.channels());
        let steps = p.scratch("steps", heads, 4);
        let (a, bias) = (Some(p.numbers(&name("ssm_a"))?), Some(p.numbers(&name("ssm_dt.bias"))?));
        let kind = DecayKind::Step;
        p.memory(MemoryStep::Decays { x: decay, cols: heads, a, bias, kind, steps: Some(steps) });
        let v = step_values(&mut p, xbc, heads, m.v_dim, steps);
        let held = p.hold_memory(name("memory"), heads, m.k_dim, m.v_dim);
        let out = p.scratch("memory out", values, 4);
        p.memory(MemoryStep::Recur(RecurOf {
            q: xbc.from(values + keys),
            k: xbc.from(values),
            v,
            k_heads: m.k_heads,
            tiled: m.tiled,
            heads,
            rows: m.k_dim,
            cols: m.v_dim,
            decay: DecayOf::Heads(decay),
            correction: CorrectionOf::None,
            read: Read::After,
            held,
            out,
        }));
        let weight = p.numbers(&name("ssm_d"))?;
        p.memory(MemoryStep::AddScaled { x: out, y: xbc, heads, head: m.v_dim, weight });
        let weight = Some(p.numbers(&name("ssm_norm.weight"))?);
        let (gate, gating, head, eps) = (Some(z), Gating::SiluBefore, values / m.k_heads, c.norm_eps);
        p.memory(MemoryStep::HeadNorm { x: out, cols: values, head, weight, gate, gating, eps });
        let a = p.forms("memory", out, values, &[w_out]);
        p.linear_add(&a, w_out, None, x);
    }
    p.layer(None);
    x = p.select(x, c.dim);
    let output = p.matrix(if c.tied_embeddings { "token_embd.weight" } else { "output.weight" })?;
    let norm = p.vector("output_norm.weight")?;
    let h = p.norm(x, norm, &[output]);
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    p.finish(config, options.kv_type.unwrap_or(KvType::F32), inv_freq, logits)
}
