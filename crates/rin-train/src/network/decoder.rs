//! The llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al., 2023).

use super::{Batch, Network, Pass};
use crate::Error;
use crate::config::ModelConfig;
use crate::ops::{AttentionShape, Source, Tail, attention, dropout, embedding, linear};
use crate::parameters::{Parameter, Role};
use crate::weights::Weights;
use candle_core::Tensor;
use rin_model::{Activation, Arch, Config, Norm, Pairing, Rope, RopeScaling};

/// Standard deviation of first weights (Radford et al., 2019).
const STD: f64 = 0.02;

/// The decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
}

impl Decoder {
    /// A decoder over `vocab` tokens.
    ///
    /// # Errors
    /// When the numbers do not fit each other.
    pub fn new(model: &ModelConfig, vocab: usize, name: &str) -> Result<Self, Error> {
        model.check()?;
        let head_dim = model.dim / model.heads;
        let config = Config {
            arch: Arch::Llama,
            name: Some(name.to_owned()),
            n_layers: model.layers,
            dim: model.dim,
            n_heads: model.heads,
            n_kv_heads: model.kv_heads(),
            head_dim,
            ffn_dim: model.ffn,
            vocab,
            ctx: model.ctx,
            norm_eps: model.norm_eps,
            rope: Rope {
                base: model.rope_base,
                dims: head_dim,
                pairing: Pairing::Interleaved,
                scaling: RopeScaling::None,
            },
            qkv_bias: false,
            attn_output_bias: false,
            mlp_bias: false,
            tied_embeddings: model.tie,
            window: None,
            activation: Activation::Silu,
            norm: Norm::Rms,
            eos: Vec::new(),
            bos: None,
            memory: Vec::new(),
        };
        Ok(Self { config })
    }
}

impl Network for Decoder {
    fn config(&self) -> &Config {
        &self.config
    }

    fn parameters(&self) -> Vec<Parameter> {
        let c = &self.config;
        let gain = Role::Vector { value: 1.0 };
        let inner = Role::Matrix { std: STD };
        // What adds to the residual stream begins smaller, so that its variance does not grow with the depth.
        let outer = Role::Matrix { std: STD / (2.0 * c.n_layers as f64).sqrt() };
        let mut all = vec![Parameter::new("token_embd.weight", &[c.vocab, c.dim], inner)];
        for layer in 0..c.n_layers {
            let mut add = |part: &str, shape: &[usize], role| {
                all.push(Parameter::new(format!("blk.{layer}.{part}.weight"), shape, role));
            };
            add("attn_norm", &[c.dim], gain);
            add("attn_q", &[c.q_dim(), c.dim], inner);
            add("attn_k", &[c.kv_dim(), c.dim], inner);
            add("attn_v", &[c.kv_dim(), c.dim], inner);
            add("attn_output", &[c.dim, c.q_dim()], outer);
            add("ffn_norm", &[c.dim], gain);
            add("ffn_gate", &[c.ffn_dim, c.dim], inner);
            add("ffn_up", &[c.ffn_dim, c.dim], inner);
            add("ffn_down", &[c.dim, c.ffn_dim], outer);
        }
        all.push(Parameter::new("output_norm.weight", &[c.dim], gain));
        if !c.tied_embeddings {
            all.push(Parameter::new("output.weight", &[c.vocab, c.dim], inner));
        }
        all
    }

    fn forward(&self, weights: &Weights, batch: Batch<'_>, pass: Pass) -> Result<Tensor, Error> {
        let (c, k) = (&self.config, weights.kernels);
        let shape = AttentionShape::new(c, batch.seq, &k);
        let mut x = embedding(weights.tensor("token_embd.weight")?, batch.ids)?;
        x = dropout(&x, pass.dropout(0))?;
        for layer in 0..c.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let site = 2 * layer as u64;

            let qkv = weights.matrix(&[&name("attn_q"), &name("attn_k"), &name("attn_v")])?;
            let wo = weights.matrix(&[&name("attn_output")])?;
            let h = Source::Normed { x: &x, gain: weights.tensor(&name("attn_norm"))?, eps: c.norm_eps };
            let qkv = linear(h, &qkv.tensor, &qkv.product, Tail::default(), k)?;
            let a = attention(&qkv, &shape, weights.is_exact(), k)?;
            let tail = Tail { dropout: pass.dropout(site + 1), residual: Some(&x) };
            x = linear(Source::Plain(&a), &wo.tensor, &wo.product, tail, k)?;

            let gate_up = weights.matrix(&[&name("ffn_gate"), &name("ffn_up")])?;
            let down = weights.matrix(&[&name("ffn_down")])?;
            let h = Source::Normed { x: &x, gain: weights.tensor(&name("ffn_norm"))?, eps: c.norm_eps };
            let gate_up = linear(h, &gate_up.tensor, &gate_up.product, Tail::default(), k)?;
            let tail = Tail { dropout: pass.dropout(site + 2), residual: Some(&x) };
            x = linear(Source::Gated(&gate_up), &down.tensor, &down.product, tail, k)?;
        }
        let output = weights.matrix(&[if c.tied_embeddings { "token_embd.weight" } else { "output.weight" }])?;
        let h = Source::Normed { x: &x, gain: weights.tensor("output_norm.weight")?, eps: c.norm_eps };
        Ok(linear(h, &output.tensor, &output.product, Tail::default(), k)?)
    }
}
