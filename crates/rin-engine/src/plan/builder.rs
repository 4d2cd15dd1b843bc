//! Writing a network down: steps over slots, whose lifetimes follow from use.

use super::{MAX_PARTS, Part, Plan, PlanOptions, Slot, SlotId, Step, layout};
use crate::Error;
use crate::weights::{MatrixId, VectorId, WeightTable};
use rin_kernels::format::Activation;
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Format, ops::attention::PAGE};
use rin_model::{Config, ModelFile};

/// Quantised activations: values, block scales, sums of 16.
#[derive(Clone, Copy, Debug)]
pub struct QuantAct {
    /// i8 `(tokens, cols)`.
    pub q: SlotId,
    /// f32 `(tokens, cols / block)`.
    pub d: SlotId,
    /// i16 `(tokens, cols / 16)`.
    pub sums: SlotId,
}

/// Activations in every form that the products after them ask for.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// f32 `(tokens, cols)`.
    pub x: SlotId,
    /// Values in a row.
    pub cols: usize,
    /// One scale per 32.
    pub block32: Option<QuantAct>,
    /// One scale per 256.
    pub block256: Option<QuantAct>,
}

/// A plan in the making.
#[derive(Debug)]
pub struct Builder<'f> {
    file: &'f ModelFile,
    options: PlanOptions,
    rows: usize,
    steps: Vec<Step>,
    /// Where layers begin and end: the first step, and the layer from there on.
    marks: Vec<(usize, Option<usize>)>,
    head: Option<usize>,
    slots: Vec<Slot>,
    weights: WeightTable,
    overflow: bool,
}

impl<'f> Builder<'f> {
    /// An empty plan over the tensors of `file`.
    pub fn new(file: &'f ModelFile, options: PlanOptions) -> Self {
        Self {
            file,
            options,
            rows: options.n_batch,
            steps: Vec::new(),
            marks: Vec::new(),
            head: None,
            slots: Vec::new(),
            weights: WeightTable::default(),
            overflow: false,
        }
    }

    /// The steps from here on belong to this layer, or to none.
    pub fn layer(&mut self, layer: Option<usize>) {
        self.marks.push((self.steps.len(), layer));
    }

    /// The matrix called `name`.
    ///
    /// # Errors
    ///
    /// When it is missing or of an unsupported type.
    pub fn matrix(&mut self, name: &str) -> Result<MatrixId, Error> {
        self.weights.matrix(self.file, name)
    }

    /// The vector called `name`.
    ///
    /// # Errors
    ///
    /// When it is missing or of an unsupported type.
    pub fn vector(&mut self, name: &str) -> Result<VectorId, Error> {
        self.weights.vector(self.file, name)
    }

    /// The format of a matrix.
    pub fn format(&self, id: MatrixId) -> Format {
        self.weights.get(id).format
    }

    /// A slot that outlives the steps.
    pub fn state(&mut self, name: impl Into<String>, n: usize, elem_bytes: usize) -> SlotId {
        self.slot(name.into(), Some(n), elem_bytes, true)
    }

    /// A scratch slot of `cols` elements per token.
    pub fn scratch(&mut self, name: impl Into<String>, cols: usize, elem_bytes: usize) -> SlotId {
        let n = self.rows.checked_mul(cols);
        self.slot(name.into(), n, elem_bytes, false)
    }

    fn slot(&mut self, name: String, n: Option<usize>, elem_bytes: usize, state: bool) -> SlotId {
        let bytes = n.and_then(|n| n.checked_mul(elem_bytes)).filter(|&b| isize::try_from(b).is_ok());
        self.overflow |= bytes.is_none();
        let first_step = self.steps.len();
        let bytes = bytes.unwrap_or(0);
        self.slots.push(Slot { name, offset: 0, bytes, first_step, last_step: first_step, state });
        SlotId(self.slots.len() - 1)
    }

    /// Keeps slots alive up to the step that is pushed next.
    fn uses(&mut self, ids: impl IntoIterator<Item = SlotId>) {
        for id in ids {
            self.slots[id.0].last_step = self.steps.len();
        }
    }

    fn act(&mut self, name: &str, x: Option<SlotId>, cols: usize, readers: &[MatrixId]) -> Act {
        let x = x.unwrap_or_else(|| self.scratch(format!("{name} f32"), cols, 4));
        let wanted = |b: &Self, a: Activation| readers.iter().any(|&m| b.format(m).activation() == a);
        let mut quant = |a: Activation| {
            wanted(self, a).then(|| QuantAct {
                q: self.scratch(format!("{name} q8 per {}", a.block_len()), cols, 1),
                d: self.scratch(format!("{name} scales per {}", a.block_len()), cols / a.block_len(), 4),
                sums: self.scratch(format!("{name} sums per {}", a.block_len()), cols / 16, 2),
            })
        };
        let block32 = quant(Activation::Block32);
        let block256 = quant(Activation::Block256);
        Act { x, cols, block32, block256 }
    }

    /// Embedding rows of the tokens.
    pub fn embed(&mut self, table: MatrixId, dim: usize) -> SlotId {
        let x = self.scratch("residual x", dim, 4);
        self.steps.push(Step::Embed { table, x });
        x
    }

    /// Cosines and sines of the tokens' positions.
    pub fn rope_table(&mut self, pairs: usize) -> (SlotId, SlotId) {
        let (cos, sin) = (self.scratch("rope cos", pairs, 4), self.scratch("rope sin", pairs, 4));
        self.steps.push(Step::RopeTable { cos, sin });
        (cos, sin)
    }

    /// Norm of `x`, in the forms that `readers` take.
    pub fn norm(&mut self, x: SlotId, weight: VectorId, readers: &[MatrixId]) -> Act {
        let cols = self.weights.vector_len(weight);
        let out = self.act("norm", None, cols, readers);
        self.uses([x]);
        self.uses_act(&out);
        self.steps.push(Step::Norm { x, weight, out });
        out
    }

    fn uses_act(&mut self, a: &Act) {
        let quants = [a.block32, a.block256].into_iter().flatten();
        self.uses([a.x].into_iter().chain(quants.flat_map(|q| [q.q, q.d, q.sums])));
    }

    /// Products of one input with up to three matrices, each into its own slot.
    pub fn linear(&mut self, x: &Act, matrices: &[(MatrixId, Option<VectorId>, &str)]) -> Vec<SlotId> {
        debug_assert!(matrices.len() <= MAX_PARTS, "at most {MAX_PARTS} matrices share an input");
        let parts: Vec<Part> = matrices
            .iter()
            .map(|&(matrix, bias, name)| {
                let rows = self.weights.get(matrix).rows;
                Part { matrix, bias, out: self.scratch(name, rows, 4) }
            })
            .collect();
        let outs = parts.iter().map(|p| p.out).collect();
        self.uses_act(x);
        self.uses(parts.iter().map(|p| p.out));
        self.steps.push(Step::Linear { x: *x, parts, add: false });
        outs
    }

    /// A product added to `y`: the residual.
    pub fn linear_add(&mut self, x: &Act, matrix: MatrixId, bias: Option<VectorId>, y: SlotId) {
        self.uses_act(x);
        self.uses([y]);
        self.steps.push(Step::Linear { x: *x, parts: vec![Part { matrix, bias, out: y }], add: true });
    }

    /// Rotation of q and k, and the store of k and v.
    pub fn rope_store(&mut self, [q, k, v]: [SlotId; 3], (cos, sin): (SlotId, SlotId), kv: SlotId) {
        self.uses([q, k, v, cos, sin, kv]);
        self.steps.push(Step::RopeStore { q, k, v, cos, sin, kv });
    }

    /// Attention of `q` over the cache, in the forms that `readers` take.
    pub fn attend(&mut self, q: SlotId, kv: SlotId, cols: usize, readers: &[MatrixId]) -> Act {
        let out = self.act("attention", None, cols, readers);
        self.uses([q, kv]);
        self.uses_act(&out);
        self.steps.push(Step::Attend { q, kv, out });
        out
    }

    /// `silu(gate) * up` in place of the gate, in the forms that `readers` take.
    pub fn swiglu(&mut self, gate: SlotId, up: SlotId, cols: usize, readers: &[MatrixId]) -> Act {
        let gate = self.act("ffn", Some(gate), cols, readers);
        self.uses([up]);
        self.uses_act(&gate);
        self.steps.push(Step::SwiGlu { gate, up });
        gate
    }

    /// From here on only the rows whose logits are wanted.
    pub fn select(&mut self, x: SlotId, dim: usize) -> SlotId {
        self.head = Some(self.steps.len() + 1);
        self.rows = self.options.n_logits;
        let out = self.scratch("selected x", dim, 4);
        self.uses([x]);
        self.uses([out]);
        self.steps.push(Step::Select { x, out });
        out
    }

    /// The cache of one layer: `(kv heads, pages, K page | V page)`.
    pub fn kv_cache(&mut self, layer: usize, config: &Config, kv: KvType) -> SlotId {
        let page = kv.k_page_bytes(config.head_dim) + kv.v_page_bytes(config.head_dim);
        let n = super::cache_shape(config, &self.options).pages.checked_mul(config.n_kv_heads);
        self.slot(format!("blk.{layer}.kv {kv}"), n, page, true)
    }

    /// Places the slots and closes the plan.
    ///
    /// # Errors
    ///
    /// When a size leaves the address space.
    pub fn finish(mut self, config: Config, kv_type: KvType, inv_freq: SlotId, logits: SlotId) -> Result<Plan, Error> {
        let pages = super::cache_shape(&config, &self.options).pages;
        let page_tokens = self.slot("tokens of the cache".to_owned(), pages.checked_mul(PAGE), 4, true);
        if self.overflow {
            return Err(Error::PlanOverflow { what: "slot" });
        }
        let last = self.steps.len().saturating_sub(1);
        for slot in self.slots.iter_mut().filter(|s| s.state) {
            (slot.first_step, slot.last_step) = (0, last);
        }
        // The logits are read after the last step.
        self.slots[logits.0].last_step = last;
        let (state_bytes, scratch_bytes) = layout::place(&mut self.slots)?;
        let total = state_bytes.checked_add(scratch_bytes).and_then(|n| n.checked_add(self.weights.bytes()));
        if total.is_none() {
            return Err(Error::PlanOverflow { what: "total" });
        }
        let layer_of =
            |step: usize| self.marks.iter().rev().find(|(first, _)| *first <= step).and_then(|(_, layer)| *layer);
        Ok(Plan {
            layers: (0..self.steps.len()).map(layer_of).collect(),
            config,
            options: self.options,
            kv_type,
            head: self.head.unwrap_or(self.steps.len()),
            steps: self.steps,
            slots: self.slots,
            inv_freq,
            page_tokens,
            logits,
            state_bytes,
            scratch_bytes,
            weights: self.weights,
            vocabulary_bytes: 0,
        })
    }
}
