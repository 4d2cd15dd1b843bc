//! The llama-style decoder: RMSNorm, rotary positions, grouped-query attention or a memory of a fixed size, SwiGLU
//! (Touvron et al., 2023).

use super::feed_forward::FeedForward;
use super::{Batch, Inside, Network, Pass};
use crate::Error;
use crate::config::ModelConfig;
use crate::ops::{AttentionShape, MemoryShape, Source, Straight, Tail, attention, dropout, embedding, linear, memory};
use crate::parameters::{Parameter, Role};
use crate::weights::Weights;
use candle_core::Tensor;
use rin_model::{Activation, Address, Arch, Config, Memory, MemoryKind, Norm, Pairing, Rope, RopeScaling};
use std::path::Path;

/// Standard deviation of first weights (Radford et al., 2019).
const STD: f64 = 0.02;

/// The decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    /// What stands in the place of SwiGLU; such networks are compared in memory and cannot be exported.
    feed_forward: Option<FeedForward>,
    /// How gradients pass the signs of memories.
    straight: Straight,
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
            window: model.window,
            activation: Activation::Silu,
            norm: Norm::Rms,
            eos: Vec::new(),
            bos: None,
            memory: match &model.memory {
                Some(memory) => memory.memories(model)?,
                None => Vec::new(),
            },
        };
        Ok(Self { config, feed_forward: None, straight: Straight::default() })
    }

    /// The same network with another way through the feed-forward part, for comparisons in memory: no file describes it.
    #[must_use]
    pub fn with_feed_forward(mut self, feed_forward: FeedForward) -> Self {
        self.feed_forward = Some(feed_forward);
        self
    }

    /// The same network with gradients that pass the signs of its memories in another way.
    #[must_use]
    pub fn with_straight(self, straight: Straight) -> Self {
        Self { straight, ..self }
    }

    /// The decoder that a file describes; `path` is what errors call it.
    ///
    /// # Errors
    /// When it has parts that are not trained.
    pub fn of(config: &Config, path: &Path) -> Result<Self, Error> {
        let c = config;
        let same = c.arch == Arch::Llama
            && !c.qkv_bias
            && !c.attn_output_bias
            && !c.mlp_bias
            && c.activation == Activation::Silu
            && c.norm == Norm::Rms
            && c.rope.scaling == RopeScaling::None
            && c.rope.dims == c.head_dim
            && c.memory.iter().all(Option::is_none);
        if same {
            return Ok(Self { config: c.clone(), feed_forward: None, straight: Straight::default() });
        }
        let expected = "a llama without biases, stretched rotations and memories".to_owned();
        Err(Error::value("distill.teacher", path.display(), expected))
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
            if let Some(memory) = c.memory_of(layer) {
                all.extend(memory_parameters(memory, layer, c.dim, [inner, outer]));
            } else {
                add("attn_q", &[c.q_dim(), c.dim], inner);
                add("attn_k", &[c.kv_dim(), c.dim], inner);
                add("attn_v", &[c.kv_dim(), c.dim], inner);
                add("attn_output", &[c.dim, c.q_dim()], outer);
            }
            let mut add = |part: &str, shape: &[usize], role| {
                all.push(Parameter::new(format!("blk.{layer}.{part}.weight"), shape, role));
            };
            add("ffn_norm", &[c.dim], gain);
            add("ffn_gate", &[c.ffn_dim, c.dim], inner);
            add("ffn_up", &[c.ffn_dim, c.dim], inner);
            add("ffn_down", &[c.dim, c.ffn_dim], outer);
            all.extend(self.feed_forward.iter().flat_map(|way| way.parameters(layer, c.dim, c.ffn_dim)));
        }
        all.push(Parameter::new("output_norm.weight", &[c.dim], gain));
        if !c.tied_embeddings {
            all.push(Parameter::new("output.weight", &[c.vocab, c.dim], inner));
        }
        all
    }

    fn forward_seen(
        &self,
        weights: &Weights,
        batch: Batch<'_>,
        pass: Pass,
        mut inside: Option<&mut Inside>,
    ) -> Result<Tensor, Error> {
        let (c, k) = (&self.config, weights.kernels);
        let shape = AttentionShape::new(c, batch.seq, &k);
        let mut x = embedding(weights.tensor("token_embd.weight")?, batch.ids)?;
        x = dropout(&x, pass.dropout(0))?;
        for layer in 0..c.n_layers {
            if let Some(inside) = &mut inside {
                inside.hidden.push(x.clone());
            }
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let site = 2 * layer as u64;

            let h = Source::Normed { x: &x, gain: weights.tensor(&name("attn_norm"))?, eps: c.norm_eps };
            let (a, wo) = if let Some(of_layer) = c.memory_of(layer) {
                let shape = MemoryShape::new(of_layer, batch.seq, c.norm_eps).with_straight(self.straight);
                let inputs = memory_inputs(of_layer).map(name);
                let inputs: Vec<&str> =
                    inputs.iter().filter(|n| weights.tensor(n).is_ok()).map(String::as_str).collect();
                let all = weights.matrix(&inputs)?;
                let all = linear(h, &all.tensor, &all.product, Tail::default(), k)?;
                let numbers = memory_numbers(layer).map(|name| weights.tensor(&name).ok().cloned());
                let numbers: Vec<Tensor> = numbers.into_iter().flatten().collect();
                let numbers = match &numbers[..] {
                    [] => Tensor::zeros(0, candle_core::DType::F32, &candle_core::Device::Cpu)?,
                    all => Tensor::cat(all, 0)?,
                };
                (memory(&all, &numbers, &shape, k)?, "mem_output")
            } else {
                let qkv = weights.matrix(&[&name("attn_q"), &name("attn_k"), &name("attn_v")])?;
                let qkv = linear(h, &qkv.tensor, &qkv.product, Tail::default(), k)?;
                if let Some(inside) = &mut inside {
                    inside.qkv.push(qkv.clone());
                }
                (attention(&qkv, &shape, weights.is_exact(), k)?, "attn_output")
            };
            let wo = weights.matrix(&[&name(wo)])?;
            let tail = Tail { dropout: pass.dropout(site + 1), residual: Some(&x) };
            x = linear(Source::Plain(&a), &wo.tensor, &wo.product, tail, k)?;

            let gate_up = weights.matrix(&[&name("ffn_gate"), &name("ffn_up")])?;
            let down = weights.matrix(&[&name("ffn_down")])?;
            let h = Source::Normed { x: &x, gain: weights.tensor(&name("ffn_norm"))?, eps: c.norm_eps };
            let gate_up = linear(h, &gate_up.tensor, &gate_up.product, Tail::default(), k)?;
            let tail = Tail { dropout: pass.dropout(site + 2), residual: Some(&x) };
            x = if let Some(way) = &self.feed_forward {
                let neurons = way.neurons(layer, &gate_up, &x, weights, batch)?;
                let next = linear(Source::Plain(&neurons.outputs), &down.tensor, &down.product, tail, k)?;
                if let Some(inside) = &mut inside {
                    inside.neurons.push(neurons);
                }
                next
            } else {
                linear(Source::Gated(&gate_up), &down.tensor, &down.product, tail, k)?
            };
        }
        if let Some(inside) = inside {
            inside.hidden.push(x.clone());
        }
        let output = weights.matrix(&[if c.tied_embeddings { "token_embd.weight" } else { "output.weight" }])?;
        let h = Source::Normed { x: &x, gain: weights.tensor("output_norm.weight")?, eps: c.norm_eps };
        Ok(linear(h, &output.tensor, &output.product, Tail::default(), k)?)
    }
}

/// The matrices that a memory's input row is the product with, in the order of its columns; not all kinds have all.
fn memory_inputs(memory: &Memory) -> [&'static str; 4] {
    match memory.kind {
        MemoryKind::GatedDelta => ["mem_in", "mem_ba", "", ""],
        _ => ["mem_in", "mem_beta", "mem_decay", "mem_learn"],
    }
}

/// The numbers of a layer's memory, in the order in which the operation takes them; not all kinds have all.
fn memory_numbers(layer: usize) -> [String; 9] {
    [
        "mem_conv.weight",
        "mem_decay.bias",
        "mem_rate",
        "mem_learn.bias",
        "mem_key_unit",
        "mem_key_rate",
        "mem_skip",
        "mem_norm.weight",
        "mem_codebook",
    ]
    .map(|part| format!("blk.{layer}.{part}"))
}

/// First bias of decays, and the rate by which a step becomes a share, where there are steps. Where the token says a share
/// for the whole memory or RWKV-7's, they begin at exp(-0.02): half of a memory is left after 35 tokens. Mamba-2's steps
/// begin at a half, since values are written by them.
fn first_decay(kind: MemoryKind) -> (f32, f32) {
    match kind {
        MemoryKind::GatedDelta => (-4.6, -2.0),
        MemoryKind::Mamba2 => (-0.43, -0.04),
        MemoryKind::Rwkv7 => (-3.38, 0.0),
        _ => (2.0, 0.0),
    }
}

fn memory_parameters(m: &Memory, layer: usize, dim: usize, [inner, outer]: [Role; 2]) -> Vec<Parameter> {
    let mut all = Vec::new();
    let mut add = |part: &str, shape: &[usize], role| {
        all.push(Parameter::new(format!("blk.{layer}.{part}"), shape, role));
    };
    let fused = m.kind == MemoryKind::GatedDelta;
    let (bias, rate) = first_decay(m.kind);
    let gate = if m.output_gate { m.v_width() } else { 0 };
    add("mem_in.weight", &[m.channels() + gate, dim], inner);
    if fused {
        add("mem_ba.weight", &[2 * m.v_heads, dim], inner);
    } else if m.has_beta() {
        add("mem_beta.weight", &[m.v_heads, dim], inner);
    }
    if m.decay_width() > 0 {
        if !fused {
            add("mem_decay.weight", &[m.decay_width(), dim], inner);
        }
        add("mem_decay.bias", &[m.decay_width()], Role::Vector { value: bias });
    }
    if fused || m.kind == MemoryKind::Mamba2 {
        add("mem_rate", &[m.v_heads], Role::Vector { value: rate });
    }
    if m.kind == MemoryKind::Mamba2 {
        // At 1, as published, values of this size would drown what is read.
        add("mem_skip", &[m.v_heads], Role::Vector { value: 0.0 });
    }
    if m.kind == MemoryKind::Rwkv7 {
        add("mem_learn.weight", &[m.k_width(), dim], inner);
        add("mem_learn.bias", &[m.k_width()], Role::Vector { value: 0.0 });
        add("mem_key_unit", &[m.k_width()], Role::Vector { value: 1.0 });
        add("mem_key_rate", &[m.k_width()], Role::Vector { value: 1.0 });
    }
    if m.conv > 0 {
        add("mem_conv.weight", &[m.channels() * m.conv], Role::Numbers { std: 0.4 });
    }
    if m.output_norm {
        add("mem_norm.weight", &[m.v_dim], Role::Vector { value: 1.0 });
    }
    if m.bhrr.as_ref().is_some_and(|arms| arms.address != Address::Hash) {
        let std = 1.0 / (m.k_dim as f64).sqrt();
        add("mem_codebook", &[m.k_heads * m.slots * m.k_dim], Role::Numbers { std });
    }
    add("mem_output.weight", &[dim, m.v_width()], outer);
    all
}
