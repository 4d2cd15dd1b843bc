//! The llama-style decoder: llama (with Mistral, SmolLM, TinyLlama) and qwen2.
//!
//! RMSNorm before each part, grouped-query attention with rotary positions, SwiGLU, residuals. The families differ in
//! what [`Config`] says: biases, tied embeddings, rotation pairs, window. Sources: Touvron et al. 2023 (LLaMA, section
//! 2.2); Ainslie et al. 2023 (GQA); Qwen2 technical report 2024, section 2.2.

use crate::Error;
use crate::plan::{Builder, Plan, PlanOptions};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_model::{Config, ModelFile};

pub(super) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    let c = &config;
    let mut p = Builder::new(file, options);
    let embedding = p.matrix("token_embd.weight")?;
    let kv_type = options.kv_type.unwrap_or(if p.format(embedding) == Format::F32 { KvType::F32 } else { KvType::F16 });
    let inv_freq = p.state("rope inv_freq", c.rope.dims / 2, 4);

    let mut x = p.embed(embedding, c.dim);
    let angles = p.rope_table(c.rope.dims / 2);
    for layer in 0..c.n_layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        p.layer(Some(layer));
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
        let norm = p.vector(&name("attn_norm.weight"))?;
        let h = p.norm(x, norm, &[wq, wk, wv]);
        let qkv = p.linear(&h, &[(wq, bq, "q"), (wk, bk, "k"), (wv, bv, "v")]);
        p.rope_store([qkv[0], qkv[1], qkv[2]], angles, kv);
        let a = p.attend(qkv[0], kv, c.q_dim(), &[wo]);
        p.linear_add(&a, wo, bo, x);

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
    x = p.select(x, c.dim);
    let output = p.matrix(if c.tied_embeddings { "token_embd.weight" } else { "output.weight" })?;
    let norm = p.vector("output_norm.weight")?;
    let h = p.norm(x, norm, &[output]);
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    p.finish(config, kv_type, inv_freq, logits)
}
