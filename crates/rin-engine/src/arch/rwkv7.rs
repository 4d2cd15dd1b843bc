//! RWKV-7 (Peng et al., 2025, "RWKV-7 Goose"): time mixing by a generalised delta rule, channel mixing by a squared ReLU,
//! both over shares of a token and of the one before it.

use crate::Error;
use crate::plan::{
    Act, Builder, Columns, CorrectionOf, DecayOf, HeldId, MemoryStep, Plan, PlanOptions, RecurOf, SlotId,
};
use crate::weights::{MatrixId, VectorId};
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::attention::KvType;
use rin_kernels::ops::memory::{DecayKind, Read};
use rin_model::{Config, ModelFile};

/// The shares in the order of the fused tensor.
const LERPS: [&str; 6] = ["r", "w", "k", "v", "a", "g"];

/// A layer while it is written down.
struct Layer<'p, 'f> {
    p: &'p mut Builder<'f>,
    number: usize,
    dim: usize,
}

pub(super) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    let c = &config;
    let mut p = Builder::new(file, options);
    let embedding = p.matrix("token_embd.weight")?;
    let inv_freq = p.state("rope inv_freq", 0, 4);
    let embedded = p.embed(embedding, c.dim);
    let mut x = p.scratch("residual x", c.dim, 4);
    layer_norm(&mut p, embedded, "token_embd_norm", c.dim, x)?;
    let mut first_values = None;
    for layer in 0..c.n_layers {
        p.layer(Some(layer));
        let mut l = Layer { p: &mut p, number: layer, dim: c.dim };
        let v = l.time_mix(c, x, first_values)?;
        first_values.get_or_insert(v);
        l.channel_mix(c, x)?;
    }
    p.layer(None);
    x = p.select(x, c.dim);
    let output = p.matrix("output.weight")?;
    let normed = p.scratch("norm f32", c.dim, 4);
    layer_norm(&mut p, x, "output_norm", c.dim, normed)?;
    let h = p.forms("norm", normed, c.dim, &[output]);
    let logits = p.linear(&h, &[(output, None, "logits")])[0];
    p.finish(config, options.kv_type.unwrap_or(KvType::F32), inv_freq, logits)
}

fn layer_norm(p: &mut Builder<'_>, x: SlotId, name: &str, cols: usize, out: SlotId) -> Result<(), Error> {
    let (weight, bias) = (p.vector(&format!("{name}.weight"))?, p.vector(&format!("{name}.bias"))?);
    p.memory(MemoryStep::LayerNorm { x, cols, weight, bias, out });
    Ok(())
}

impl Layer<'_, '_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.number)
    }

    fn numbers(&mut self, part: &str, len: usize) -> Result<VectorId, Error> {
        let name = self.name(part);
        let id = self.p.numbers(&name)?;
        self.p.expect_len(id, &name, len)?;
        Ok(id)
    }

    fn matrix(&mut self, part: &str) -> Result<MatrixId, Error> {
        let name = self.name(part);
        self.p.matrix(&name)
    }

    /// Shares of this token and the one before.
    fn shift(&mut self, x: SlotId, mix: VectorId, at: usize, held: HeldId, readers: &[MatrixId]) -> Act {
        let cols = self.dim;
        let out = self.p.scratch("shifted f32", cols, 4);
        self.p.memory(MemoryStep::Shift { x, cols, mix, at, held, out });
        self.p.forms("shifted", out, cols, readers)
    }

    /// The product of two thin matrices: `f(x W1) W2`, with the second one's bias and function.
    fn low_rank(
        &mut self,
        x: &Act,
        part: &str,
        inner: Function,
        bias: Option<VectorId>,
        outer: Function,
    ) -> Result<SlotId, Error> {
        let (w1, w2) =
            (self.matrix(&format!("time_mix_{part}1.weight"))?, self.matrix(&format!("time_mix_{part}2.weight"))?);
        let rank = self.p.rows_of(w1);
        self.p.expect_shape(w1, None, self.dim)?;
        self.p.expect_shape(w2, Some(self.dim), rank)?;
        let h = self.p.linear_with(x, &[(w1, None, "low rank")], inner)[0];
        let h = self.p.forms("low rank", h, rank, &[w2]);
        Ok(self.p.linear_with(&h, &[(w2, bias, part)], outer)[0])
    }

    /// The shares of [`LERPS`]: a vector, and which row of it.
    fn mixes(&mut self) -> Result<[(VectorId, usize); LERPS.len()], Error> {
        let dim = self.dim;
        if self.p.has(&self.name("time_mix_lerp_fused.weight")) {
            let all = self.numbers("time_mix_lerp_fused.weight", LERPS.len() * dim)?;
            return Ok(std::array::from_fn(|at| (all, at)));
        }
        let first = self.numbers("time_mix_lerp_r.weight", dim)?;
        let mut mixes = [(first, 0); LERPS.len()];
        for (mix, part) in mixes.iter_mut().zip(LERPS).skip(1) {
            *mix = (self.numbers(&format!("time_mix_lerp_{part}.weight"), dim)?, 0);
        }
        Ok(mixes)
    }

    /// Adds time mixing to `x`; returns the values of this layer.
    fn time_mix(&mut self, c: &Config, x: SlotId, first_values: Option<SlotId>) -> Result<SlotId, Error> {
        let (dim, layer) = (self.dim, self.number);
        let m = c.memory_of(layer).ok_or(Error::NoPlan("rwkv7 with attention"))?;
        let h = self.p.scratch("norm f32", dim, 4);
        let norm = self.name("attn_norm");
        layer_norm(self.p, x, &norm, dim, h)?;
        let held = self.p.hold(self.name("token before time mixing"), 1, dim * 4);

        let mixes = self.mixes()?;
        let shifted = |l: &mut Self, part: &str, readers: &[MatrixId]| {
            let at = LERPS.iter().position(|lerp| *lerp == part).unwrap_or(0);
            let (mix, at) = mixes[at];
            l.shift(h, mix, at, held, readers)
        };

        let (wr, wk) = (self.matrix("time_mix_receptance.weight")?, self.matrix("time_mix_key.weight")?);
        let (wv, wo) = (self.matrix("time_mix_value.weight")?, self.matrix("time_mix_output.weight")?);
        let xr = shifted(self, "r", &[wr]);
        let r = self.p.linear(&xr, &[(wr, None, "receptance")])[0];
        let w1 = self.matrix("time_mix_w1.weight")?;
        let xw = shifted(self, "w", &[w1]);
        let w = self.low_rank(&xw, "w", Function::Tanh, None, Function::Identity)?;
        let bias = Some(self.numbers("time_mix_w0.weight", dim)?);
        let decay = Columns::all(w, dim);
        let kind = DecayKind::Rwkv7;
        self.p.memory(MemoryStep::Decays { x: decay, cols: dim, a: None, bias, kind, steps: None });
        let xk = shifted(self, "k", &[wk]);
        let k = self.p.linear(&xk, &[(wk, None, "key")])[0];
        let mut readers = vec![wv];
        if first_values.is_some() {
            readers.push(self.matrix("time_mix_v1.weight")?);
        }
        let xv = shifted(self, "v", &readers);
        let v = self.p.linear(&xv, &[(wv, None, "value")])[0];
        if let Some(other) = first_values {
            let bias = Some(self.numbers("time_mix_v0.weight", dim)?);
            let share = self.low_rank(&xv, "v", Function::Identity, bias, Function::Sigmoid)?;
            self.p.memory(MemoryStep::Blend { x: v, other, share, cols: dim });
        }
        let a1 = self.matrix("time_mix_a1.weight")?;
        let xa = shifted(self, "a", &[a1]);
        let bias = Some(self.numbers("time_mix_a0.weight", dim)?);
        let a = self.low_rank(&xa, "a", Function::Identity, bias, Function::Sigmoid)?;
        let g1 = self.matrix("time_mix_g1.weight")?;
        let xg = shifted(self, "g", &[g1]);
        let g = self.low_rank(&xg, "g", Function::Sigmoid, None, Function::Identity)?;
        self.p.memory(MemoryStep::Keep { x: Columns::all(h, dim), cols: dim, tokens: 1, held });

        let rates = [self.numbers("time_mix_k_k.weight", dim)?, self.numbers("time_mix_k_a.weight", dim)?];
        let take = self.p.scratch("taken back", dim, 4);
        let (key, head) = (Columns::all(k, dim), m.k_dim);
        self.p.memory(MemoryStep::RwkvKeys { k: key, a, take, rates, cols: dim, head });
        let memory = self.p.hold_memory(self.name("memory"), m.v_heads, m.k_dim, m.v_dim);
        let out = self.p.scratch("memory out", dim, 4);
        self.p.memory(MemoryStep::Recur(RecurOf {
            q: Columns::all(r, dim),
            k: key,
            v: Columns::all(v, dim),
            k_heads: m.k_heads,
            tiled: m.tiled,
            heads: m.v_heads,
            rows: m.k_dim,
            cols: m.v_dim,
            decay: DecayOf::Rows(decay),
            correction: CorrectionOf::RankOne { a: Columns::all(take, dim), b: Columns::all(a, dim) },
            read: Read::After,
            held: memory,
            out,
        }));
        let weights = [
            self.numbers("time_mix_r_k.weight", dim)?,
            self.numbers("time_mix_ln.weight", dim)?,
            self.numbers("time_mix_ln.bias", dim)?,
        ];
        self.p.memory(MemoryStep::RwkvOut { x: out, rows: [r, k, v, g], weights, cols: dim, head });
        let o = self.p.forms("memory", out, dim, &[wo]);
        self.p.linear_add(&o, wo, None, x);
        Ok(v)
    }

    fn channel_mix(&mut self, c: &Config, x: SlotId) -> Result<(), Error> {
        let dim = self.dim;
        let h = self.p.scratch("norm f32", dim, 4);
        let norm = self.name("attn_norm_2");
        layer_norm(self.p, x, &norm, dim, h)?;
        let held = self.p.hold(self.name("token before channel mixing"), 1, dim * 4);
        let (wk, wv) = (self.matrix("channel_mix_key.weight")?, self.matrix("channel_mix_value.weight")?);
        let mix = self.numbers("channel_mix_lerp_k.weight", dim)?;
        let xk = self.shift(h, mix, 0, held, &[wk]);
        self.p.memory(MemoryStep::Keep { x: Columns::all(h, dim), cols: dim, tokens: 1, held });
        let k = self.p.linear(&xk, &[(wk, None, "ffn key")])[0];
        self.p.memory(MemoryStep::ReluSquared { x: k, cols: c.ffn_dim });
        let k = self.p.forms("ffn", k, c.ffn_dim, &[wv]);
        self.p.linear_add(&k, wv, None, x);
        Ok(())
    }
}
