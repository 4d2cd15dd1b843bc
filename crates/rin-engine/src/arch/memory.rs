//! The mixer of a layer with a memory of a fixed size, in the place of attention.
//!
//! One matrix gives queries, keys, values and the gate; a short convolution mixes the last tokens; the kind of memory says
//! how keys and values are made ready, and what is left, taken back and read. The output of each head is brought to one
//! length and gated. Layout and order are those of the Gated DeltaNet layer (Yang et al., 2024) for all kinds, so that
//! they differ in their memories alone.

use crate::Error;
use crate::plan::{Builder, Columns, CorrectionOf, DecayOf, MemoryStep, RecurOf, SlotId, SlotsOf};
use crate::weights::VectorId;
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::memory::{DecayKind, Gating, Quant, Read};
use rin_model::{Address, Bhrr, Config, Memory, MemoryKind, ReadBy, SlotStateType, SlotValues};

/// Added to the sum of squares of keys and queries that are brought to one length.
const UNIT_EPS: f32 = 1e-6;

/// A layer's parts, while it is written down.
struct Mixer<'p, 'f> {
    p: &'p mut Builder<'f>,
    m: &'p Memory,
    layer: usize,
    q: Columns,
    k: Columns,
    v: Columns,
    /// What was read: `(tokens, values)`.
    out: SlotId,
}

/// What a token projects beside queries, keys and values.
#[derive(Clone, Copy, Debug, Default)]
struct Gates {
    beta: Option<Columns>,
    decay: Option<Columns>,
    learn: Option<SlotId>,
}

/// Adds the mixer of `layer` to the residual `x`; `norm` are the weights of the norm before it.
pub(super) fn mixer(
    p: &mut Builder<'_>,
    c: &Config,
    m: &Memory,
    layer: usize,
    norm: VectorId,
    x: SlotId,
) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let (keys, values, channels) = (m.k_width(), m.v_width(), m.channels());
    let parted = p.has(&name("mem_qkv.weight"));
    let w_in = p.matrix(&name(if parted { "mem_qkv.weight" } else { "mem_in.weight" }))?;
    let w_gate = if parted { Some(p.matrix(&name("mem_gate.weight"))?) } else { None };
    let w_out = p.matrix(&name("mem_output.weight"))?;
    let mut readers = vec![w_in];
    let fused = m.kind == MemoryKind::GatedDelta && !p.has(&name("mem_beta.weight"));
    let w_ba = if fused { Some(p.matrix(&name("mem_ba.weight"))?) } else { None };
    let w_beta = if m.has_beta() && !fused { Some(p.matrix(&name("mem_beta.weight"))?) } else { None };
    let w_decay = if m.decay_width() > 0 && !fused { Some(p.matrix(&name("mem_decay.weight"))?) } else { None };
    let w_learn = if m.kind == MemoryKind::Rwkv7 { Some(p.matrix(&name("mem_learn.weight"))?) } else { None };
    readers.extend([w_gate, w_ba, w_beta, w_decay, w_learn].into_iter().flatten());
    let h = p.norm(x, norm, &readers);

    let stride = p.rows_of(w_in);
    let parts: Vec<_> =
        [Some((w_in, None, "memory in")), w_gate.map(|w| (w, None, "memory gate"))].into_iter().flatten().collect();
    let projected = p.linear(&h, &parts);
    let all = Columns::all(projected[0], stride);
    let output_gate = projected.get(1).map_or(all.from(channels), |gate| Columns::all(*gate, values));
    let mut gates = Gates::default();
    if let Some(w) = w_ba {
        let ba = Columns::all(p.linear(&h, &[(w, None, "beta and decay")])[0], 2 * m.v_heads);
        // A sigmoid of the first half, in place: a unit of its own, as the second half has another function.
        let beta = p.copied("beta", ba, m.v_heads);
        p.memory(MemoryStep::Sigmoid { x: beta, cols: m.v_heads });
        gates.beta = Some(Columns::all(beta, m.v_heads));
        gates.decay = Some(ba.from(m.v_heads));
    }
    if let Some(w) = w_beta {
        let beta = p.linear_with(&h, &[(w, None, "beta")], Function::Sigmoid)[0];
        gates.beta = Some(Columns::all(beta, m.v_heads));
    }
    if let Some(w) = w_decay {
        gates.decay = Some(Columns::all(p.linear(&h, &[(w, None, "decay")])[0], m.decay_width()));
    }
    if let Some(w) = w_learn {
        let bias = p.vector(&name("mem_learn.bias"))?;
        gates.learn = Some(p.linear_with(&h, &[(w, Some(bias), "rates of learning")], Function::Sigmoid)[0]);
    }

    let mut qkv = all;
    if m.conv > 0 {
        let weight = p.numbers(&name("mem_conv.weight"))?;
        qkv = convolve(p, &name("convolution"), all, channels, m.conv, weight, None);
    }
    let out = p.scratch("memory out", values, 4);
    let mut mixer = Mixer { p, m, layer, q: qkv, k: qkv.from(keys), v: qkv.from(2 * keys), out };
    mixer.remember(gates)?;

    if m.output_norm {
        let weight = Some(p.vector(&name("mem_norm.weight"))?);
        let gate = m.output_gate.then_some(output_gate);
        let gating = if m.output_gate { Gating::SiluAfter } else { Gating::None };
        let eps = c.norm_eps;
        p.memory(MemoryStep::HeadNorm { x: out, cols: values, head: m.v_dim, weight, gate, gating, eps });
    }
    let a = p.forms("memory", out, values, &[w_out]);
    p.linear_add(&a, w_out, None, x);
    Ok(())
}

/// A convolution over the last tokens of `cols` columns from `x` on, and what it keeps for the next step.
pub(super) fn convolve(
    p: &mut Builder<'_>,
    name: &str,
    x: Columns,
    cols: usize,
    taps: usize,
    weight: VectorId,
    bias: Option<VectorId>,
) -> Columns {
    let held = p.hold(name.to_owned(), 1, (taps - 1).saturating_mul(cols).saturating_mul(4));
    let out = p.scratch("convolved", cols, 4);
    p.memory(MemoryStep::Conv { x, cols, weight, bias, taps, held, out });
    p.memory(MemoryStep::Keep { x, cols, tokens: taps - 1, held });
    Columns::all(out, cols)
}

impl Mixer<'_, '_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.layer)
    }

    /// Queries by the root of their width.
    fn scale_queries(&mut self) {
        let factor = 1.0 / (self.m.k_dim as f32).sqrt();
        self.p.memory(MemoryStep::Scale { x: self.q, cols: self.m.k_width(), factor });
    }

    /// Queries and keys of one length, queries by the root of their width.
    fn unit_keys(&mut self) {
        let (cols, head) = (self.m.k_width(), self.m.k_dim);
        let scale = 1.0 / (head as f32).sqrt();
        self.p.memory(MemoryStep::UnitNorm { x: self.q, cols, head, eps: UNIT_EPS, scale });
        self.p.memory(MemoryStep::UnitNorm { x: self.k, cols, head, eps: UNIT_EPS, scale: 1.0 });
    }

    /// Shares that are left, in place of what was projected.
    fn decays(&mut self, x: Columns, kind: DecayKind, steps: Option<SlotId>) -> Result<(), Error> {
        let cols = self.m.decay_width();
        let bias = Some(self.p.vector(&self.name("mem_decay.bias"))?);
        let a = if kind == DecayKind::Step { Some(self.p.numbers(&self.name("mem_rate"))?) } else { None };
        self.p.memory(MemoryStep::Decays { x, cols, a, bias, kind, steps });
        Ok(())
    }

    /// The recurrence over keys and values.
    fn recur(&mut self, decay: DecayOf, correction: CorrectionOf) {
        let m = self.m;
        let held = self.p.hold_memory(self.name("memory"), m.v_heads, m.k_dim, m.v_dim);
        let (q, k, v, out) = (self.q, self.k, self.v, self.out);
        self.p.memory(MemoryStep::Recur(RecurOf {
            q,
            k,
            v,
            k_heads: m.k_heads,
            tiled: m.tiled,
            heads: m.v_heads,
            rows: m.k_dim,
            cols: m.v_dim,
            decay,
            correction,
            read: Read::After,
            held,
            out,
        }));
    }

    fn remember(&mut self, gates: Gates) -> Result<(), Error> {
        let missing = || Error::PlanOverflow { what: "gates of a memory" };
        match self.m.kind {
            MemoryKind::Linear => {
                self.scale_queries();
                self.recur(DecayOf::None, CorrectionOf::None);
            }
            MemoryKind::Retnet => {
                self.scale_queries();
                self.recur(DecayOf::Retnet, CorrectionOf::None);
            }
            MemoryKind::Gla => {
                self.scale_queries();
                let decay = gates.decay.ok_or_else(missing)?;
                self.decays(decay, DecayKind::SixteenthSigmoid, None)?;
                self.recur(DecayOf::Rows(decay), CorrectionOf::None);
            }
            MemoryKind::Delta => {
                self.unit_keys();
                self.recur(DecayOf::None, CorrectionOf::Delta(gates.beta.ok_or_else(missing)?));
            }
            MemoryKind::GatedDelta => {
                self.unit_keys();
                let decay = gates.decay.ok_or_else(missing)?;
                self.decays(decay, DecayKind::Step, None)?;
                self.recur(DecayOf::Heads(decay), CorrectionOf::Delta(gates.beta.ok_or_else(missing)?));
            }
            MemoryKind::Mamba2 => self.mamba2(gates.decay.ok_or_else(missing)?)?,
            MemoryKind::Rwkv7 => {
                let (decay, a) = (gates.decay.ok_or_else(missing)?, gates.learn.ok_or_else(missing)?);
                self.rwkv7(decay, a)?;
            }
            MemoryKind::Gsa => self.gsa(gates.decay.ok_or_else(missing)?)?,
            MemoryKind::Bhrr => {
                let arms = self.m.bhrr.clone().ok_or_else(missing)?;
                self.bhrr(&arms, gates)?;
            }
            other => return Err(Error::NoPlan(other.name())),
        }
        Ok(())
    }

    fn mamba2(&mut self, decay: Columns) -> Result<(), Error> {
        let (heads, head) = (self.m.v_heads, self.m.v_dim);
        let steps = self.p.scratch("steps", heads, 4);
        self.decays(decay, DecayKind::Step, Some(steps))?;
        let weight = self.p.numbers(&self.name("mem_skip"))?;
        let plain = self.v;
        self.v = step_values(self.p, plain, heads, head, steps);
        self.recur(DecayOf::Heads(decay), CorrectionOf::None);
        self.p.memory(MemoryStep::AddScaled { x: self.out, y: plain, heads, head, weight });
        Ok(())
    }

    fn rwkv7(&mut self, decay: Columns, a: SlotId) -> Result<(), Error> {
        let (cols, head) = (self.m.k_width(), self.m.k_dim);
        self.decays(decay, DecayKind::Rwkv7, None)?;
        let rates = [self.p.numbers(&self.name("mem_key_unit"))?, self.p.numbers(&self.name("mem_key_rate"))?];
        let take = self.p.scratch("taken back", cols, 4);
        self.p.memory(MemoryStep::RwkvKeys { k: self.k, a, take, rates, cols, head });
        let correction = CorrectionOf::RankOne { a: Columns::all(take, cols), b: Columns::all(a, cols) };
        self.recur(DecayOf::Rows(decay), correction);
        Ok(())
    }

    /// Slots that are found by a softmax: a memory of keys by slots, then one of slots by values.
    fn gsa(&mut self, decay: Columns) -> Result<(), Error> {
        let m = self.m;
        let cols = m.decay_width();
        self.scale_queries();
        let written = self.p.scratch("slot shares", cols, 4);
        self.decays(decay, DecayKind::SixteenthSigmoid, Some(written))?;
        let scores = self.p.scratch("slot scores", cols, 4);
        let written = Columns::all(written, cols);
        let keys = RecurOf {
            q: self.q,
            k: self.k,
            v: written,
            k_heads: m.k_heads,
            tiled: false,
            heads: m.v_heads,
            rows: m.k_dim,
            cols: m.slots,
            decay: DecayOf::Columns(decay),
            correction: CorrectionOf::None,
            read: Read::After,
            held: self.p.hold_memory(self.name("memory of keys"), m.v_heads, m.k_dim, m.slots),
            out: scores,
        };
        self.p.memory(MemoryStep::Recur(keys));
        self.p.memory(MemoryStep::Softmax { x: scores, cols, head: m.slots });
        let values = RecurOf {
            q: Columns::all(scores, cols),
            k: written,
            v: self.v,
            k_heads: m.v_heads,
            rows: m.slots,
            cols: m.v_dim,
            decay: DecayOf::Rows(decay),
            held: self.p.hold_memory(self.name("memory of values"), m.v_heads, m.slots, m.v_dim),
            out: self.out,
            ..keys
        };
        self.p.memory(MemoryStep::Recur(values));
        Ok(())
    }

    fn bhrr(&mut self, arms: &Bhrr, gates: Gates) -> Result<(), Error> {
        let m = self.m;
        let (heads, dim, slots) = (m.v_heads, m.v_dim, m.slots);
        let (cols, keys_cols, shares) = (heads * dim, m.k_width(), heads * slots);
        let quant = match arms.values {
            SlotValues::Sign => Quant::Sign,
            SlotValues::Bits4 => Quant::Steps(7),
            SlotValues::Bits8 => Quant::Steps(127),
            SlotValues::Float => Quant::Float,
        };
        let codebook = match arms.address {
            Address::Hash => None,
            Address::Lsh | Address::Router => Some(self.p.numbers(&self.name("mem_codebook"))?),
        };
        let route = |p: &mut Builder<'_>, x: Columns, name: &str| {
            let out = p.scratch(name, shares, 4);
            p.memory(MemoryStep::Route { x, cols: keys_cols, codebook, slots, top: arms.top, out, out_cols: shares });
            out
        };
        let write = route(self.p, self.k, "slots written");
        // A delta write of whole slots changes the shares in place.
        let by_key = arms.read_by == ReadBy::Key;
        let read = if by_key && (arms.outer || !arms.delta) {
            write
        } else {
            route(self.p, if by_key { self.k } else { self.q }, "slots read")
        };
        let keys = (!arms.outer).then_some(self.k);
        self.p.memory(MemoryStep::Bind { v: self.v, k: keys, cols, quant });
        if arms.state == SlotStateType::F32 {
            self.real_slots(arms, gates, read, write)?;
        } else {
            let narrow = arms.state == SlotStateType::I16;
            let bytes = slots * dim * if narrow { 2 } else { 4 };
            let held = self.p.hold(self.name("slots"), heads, bytes);
            let (bound, out) = (self.v, self.out);
            self.p.memory(MemoryStep::Slots(SlotsOf { read, write, bound, heads, slots, dim, narrow, held, out }));
        }
        if arms.outer {
            self.p.memory(MemoryStep::Scale { x: Columns::all(self.out, cols), cols, factor: quant.scale() });
        } else {
            self.p.memory(MemoryStep::Unbind { x: self.out, q: self.q, cols, scale: quant.scale() });
        }
        Ok(())
    }

    /// Slots of real numbers: a memory whose rows are slots, or slots by keys.
    fn real_slots(&mut self, arms: &Bhrr, gates: Gates, read: SlotId, write: SlotId) -> Result<(), Error> {
        let m = self.m;
        let (heads, head, slots) = (m.v_heads, m.k_dim, m.slots);
        let shares = heads * slots;
        let (mut correction, mut order) = (CorrectionOf::None, Read::Before);
        let mut keep = None;
        if let Some(decay) = gates.decay {
            self.decays(decay, DecayKind::SixteenthSigmoid, None)?;
            keep = Some(decay.slot);
        }
        if let (true, Some(beta)) = (arms.outer, gates.beta) {
            // A key of one slot is a key of the whole memory, so what it takes back is what DeltaNet's does.
            (correction, order) = (CorrectionOf::Delta(beta), Read::After);
        } else if let Some(beta) = gates.beta {
            let keep = *keep.get_or_insert_with(|| {
                let ones = self.p.scratch("slots kept", shares, 4);
                self.p.memory(MemoryStep::Ones { x: ones, cols: shares });
                ones
            });
            self.p.memory(MemoryStep::DeltaShares { keep, write, beta: beta.slot, heads, slots });
        }
        let (mut q, mut k, mut rows) = (Columns::all(read, shares), Columns::all(write, shares), slots);
        if arms.outer {
            self.unit_keys();
            rows = slots * head;
            let outer = |p: &mut Builder<'_>, shares: SlotId, x: Columns, name: &str| {
                let out = p.scratch(name, heads * rows, 4);
                p.memory(MemoryStep::Outer { shares, x, heads, slots, head, out });
                out
            };
            q = Columns::all(outer(self.p, read, self.q, "slots by queries"), heads * rows);
            k = Columns::all(outer(self.p, write, self.k, "slots by keys"), heads * rows);
            if let Some(kept) = keep {
                let ones = self.p.scratch("ones", heads * head, 4);
                self.p.memory(MemoryStep::Ones { x: ones, cols: heads * head });
                keep = Some(outer(self.p, kept, Columns::all(ones, heads * head), "slots kept"));
            }
        }
        let decay = keep.map_or(DecayOf::None, |keep| DecayOf::Rows(Columns::all(keep, heads * rows)));
        let held = self.p.hold_memory(self.name("slots"), heads, rows, m.v_dim);
        let (v, out) = (self.v, self.out);
        let (k_heads, cols, read) = (heads, m.v_dim, order);
        self.p.memory(MemoryStep::Recur(RecurOf {
            q,
            k,
            v,
            k_heads,
            tiled: false,
            heads,
            rows,
            cols,
            decay,
            correction,
            read,
            held,
            out,
        }));
        Ok(())
    }
}

/// Values by the steps of their heads, in a slot of their own.
pub(super) fn step_values(p: &mut Builder<'_>, v: Columns, heads: usize, head: usize, steps: SlotId) -> Columns {
    let cols = heads * head;
    let stepped = Columns::all(p.copied("values by steps", v, cols), cols);
    p.memory(MemoryStep::ScaleHeads { x: stepped, heads, head, by: steps });
    stepped
}
