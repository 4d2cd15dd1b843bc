//! Writing a network down: steps over slots, whose lifetimes follow from use.

use super::memory::Held;
use super::slots::{Placed, Slots};
use super::{Columns, Gather, MAX_PARTS, Part, Plan, PlanOptions, Ports, SlotId, Step, Width};
use crate::Error;
use crate::weights::{MatrixId, VectorId};
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::attention::KvType;
use rin_kernels::pack::LANES;
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
    pub(super) s: Slots<'f>,
    pub(super) options: PlanOptions,
    steps: Vec<Step>,
    /// What sequences hold beside pages.
    pub(super) held: Vec<Held>,
    /// Where layers begin and end: the first step, and the layer from there on.
    marks: Vec<(usize, Option<usize>)>,
    head: Option<usize>,
    ports: Option<Ports>,
}

impl<'f> Builder<'f> {
    /// An empty plan over the tensors of `file`.
    pub fn new(file: &'f ModelFile, options: PlanOptions) -> Self {
        Self {
            s: Slots::new(file, options.n_batch),
            options,
            steps: Vec::new(),
            held: Vec::new(),
            marks: Vec::new(),
            head: None,
            ports: None,
        }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
        self.s.advance();
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
        self.s.matrix(name)
    }

    /// The vector called `name`.
    ///
    /// # Errors
    ///
    /// When it is missing or of an unsupported type.
    pub fn vector(&mut self, name: &str) -> Result<VectorId, Error> {
        self.s.vector(name)
    }

    /// The rows of a matrix that this process has, of all that `width` says.
    ///
    /// # Errors
    ///
    /// As for [`matrix`](Self::matrix); where the file cannot be cut there.
    pub fn rows(&mut self, name: &str, width: Width) -> Result<MatrixId, Error> {
        if !width.is_cut() {
            return self.s.matrix(name);
        }
        if self.s.packed(name) && !width.own().start.is_multiple_of(LANES) {
            let expected = format!(
                "fewer: the file has panels of {LANES} rows, and a share of '{name}' would begin within one; or take the file \
                 that it was imported from"
            );
            return Err(Error::BadOption { field: "--tp", expected, found: width.count().to_string() });
        }
        self.s.matrix_rows(name, width.own())
    }

    /// The elements of a vector that this process has, of all that `width` says.
    ///
    /// # Errors
    ///
    /// As for [`vector`](Self::vector).
    pub fn part(&mut self, name: &str, width: Width) -> Result<VectorId, Error> {
        if !width.is_cut() {
            return self.s.vector(name);
        }
        self.s.vector_part(name, width.own())
    }

    /// The format of a matrix.
    pub fn format(&self, id: MatrixId) -> Format {
        self.s.format(id)
    }

    /// A slot that outlives the steps.
    pub fn state(&mut self, name: impl Into<String>, n: usize, elem_bytes: usize) -> SlotId {
        self.s.slot(name.into(), Some(n), elem_bytes, true)
    }

    /// A scratch slot of `cols` elements per token.
    pub fn scratch(&mut self, name: impl Into<String>, cols: usize, elem_bytes: usize) -> SlotId {
        self.s.scratch(name, cols, elem_bytes)
    }

    /// Embedding rows of the tokens.
    pub fn embed(&mut self, table: MatrixId, dim: usize) -> SlotId {
        let x = self.scratch("residual x", dim, 4);
        self.push(Step::Embed { table, x });
        x
    }

    /// The sum of `x` and the learned rows of the tokens' positions.
    pub fn add_positions(&mut self, table: MatrixId, x: SlotId, dim: usize) -> SlotId {
        let out = self.scratch("residual x", dim, 4);
        self.s.uses([x, out]);
        self.push(Step::Positions { table, x, out });
        out
    }

    /// Cosines and sines of the tokens' positions.
    pub fn rope_table(&mut self, pairs: usize) -> (SlotId, SlotId) {
        let (cos, sin) = (self.scratch("rope cos", pairs, 4), self.scratch("rope sin", pairs, 4));
        self.push(Step::RopeTable { cos, sin });
        (cos, sin)
    }

    /// Norm of `x`, in the forms that `readers` take.
    pub fn norm(&mut self, x: SlotId, weight: VectorId, readers: &[MatrixId]) -> Act {
        let cols = self.s.weights().vector_len(weight);
        let out = self.s.act("norm", None, cols, readers);
        self.s.uses([x]);
        self.s.uses_act(&out);
        self.push(Step::Norm { x, weight, out });
        out
    }

    /// Products of one input with up to three matrices, each into its own slot.
    pub fn linear(&mut self, x: &Act, matrices: &[(MatrixId, Option<VectorId>, &str)]) -> Vec<SlotId> {
        self.linear_with(x, matrices, Function::Identity)
    }

    /// As [`linear`](Self::linear), with a function of each output.
    pub fn linear_with(
        &mut self,
        x: &Act,
        matrices: &[(MatrixId, Option<VectorId>, &str)],
        function: Function,
    ) -> Vec<SlotId> {
        debug_assert!(matrices.len() <= MAX_PARTS, "at most {MAX_PARTS} matrices share an input");
        let parts: Vec<Part> = matrices
            .iter()
            .map(|&(matrix, bias, name)| {
                let rows = self.s.weights().get(matrix).rows;
                Part { matrix, bias, function, out: self.scratch(name, rows, 4), first: 0, stride: rows }
            })
            .collect();
        let outs = parts.iter().map(|p| p.out).collect();
        self.s.uses_act(x);
        self.s.uses(parts.iter().map(|p| p.out));
        self.push(Step::Linear { x: *x, parts, add: false });
        outs
    }

    /// A product added to `y`: the residual.
    pub fn linear_add(&mut self, x: &Act, matrix: MatrixId, bias: Option<VectorId>, y: SlotId) {
        let rows = self.s.weights().get(matrix).rows;
        self.linear_add_own(x, matrix, bias, y, Width::new(rows, 1, None));
    }

    /// As [`linear_add`](Self::linear_add), where each process adds to its own columns of `y`, and all get all of them.
    pub fn linear_add_own(&mut self, x: &Act, matrix: MatrixId, bias: Option<VectorId>, y: SlotId, width: Width) {
        self.s.uses_act(x);
        self.s.uses([y]);
        let (first, stride) = (width.own().start, width.all);
        let part = Part { matrix, bias, function: Function::Identity, out: y, first, stride };
        self.push(Step::Linear { x: *x, parts: vec![part], add: true });
        if width.is_cut() {
            self.gather(Columns::all(y, stride).from(first), width, y, false);
        }
    }

    /// The columns that this process has in `x` and those of all others become rows of `out`; with `to_first` in the first
    /// process alone.
    fn gather(&mut self, x: Columns, width: Width, out: SlotId, to_first: bool) {
        let mut buffer = |name: &str| self.s.scratch(name, width.most(), 4);
        let buffers = [buffer("columns sent"), buffer("columns taken")];
        self.s.uses(buffers.into_iter().chain([x.slot, out]));
        self.push(Step::Gather(Gather { x, width, out, buffers, to_first }));
    }

    /// What each process has made of its own columns, `(tokens, width.own())`, as whole rows in the forms that `readers` take.
    fn gather_act(&mut self, name: &str, x: SlotId, width: Width, readers: &[MatrixId]) -> Act {
        let out = self.scratch(format!("{name} of all ranks"), width.all, 4);
        self.gather(Columns::all(x, width.own().len()), width, out, false);
        self.forms(name, out, width.all, readers)
    }

    /// Logits whose columns several processes have, as whole rows in the first one.
    pub fn gather_logits(&mut self, x: SlotId, width: Width, is_first: bool) -> SlotId {
        if !width.is_cut() {
            return x;
        }
        let out = if is_first { self.scratch("logits of all ranks", width.all, 4) } else { x };
        self.gather(Columns::all(x, width.own().len()), width, out, true);
        out
    }

    /// Rotation of q and k, where there are angles, and the store of k and v.
    pub fn rope_store(&mut self, [q, k, v]: [SlotId; 3], angles: Option<(SlotId, SlotId)>, kv: SlotId) {
        self.s.uses([q, k, v, kv]);
        self.s.uses(angles.into_iter().flat_map(<[SlotId; 2]>::from));
        self.push(Step::RopeStore { q, k, v, angles, kv });
    }

    /// Attention of `q` over the cache, in the forms that `readers` take; `width` is that of all heads together.
    pub fn attend(&mut self, q: SlotId, kv: SlotId, width: Width, readers: &[MatrixId]) -> Act {
        let forms = if width.is_cut() { &[] } else { readers };
        let out = self.s.act("attention", None, width.own().len(), forms);
        self.s.uses([q, kv]);
        self.s.uses_act(&out);
        self.push(Step::Attend { q, kv, out });
        if width.is_cut() { self.gather_act("attention", out.x, width, readers) } else { out }
    }

    /// `silu(gate) * up` in place of the gate, in the forms that `readers` take; `width` is that of the gates of all.
    pub fn swiglu(&mut self, gate: SlotId, up: SlotId, width: Width, readers: &[MatrixId]) -> Act {
        let forms = if width.is_cut() { &[] } else { readers };
        let gate = self.s.act("ffn", Some(gate), width.own().len(), forms);
        self.s.uses([up]);
        self.s.uses_act(&gate);
        self.push(Step::SwiGlu { gate, up });
        if width.is_cut() { self.gather_act("ffn", gate.x, width, readers) } else { gate }
    }

    /// From here on only the rows whose logits are wanted.
    pub fn select(&mut self, x: SlotId, dim: usize) -> SlotId {
        self.head = Some(self.steps.len() + 1);
        self.s.rows = self.options.n_logits;
        let out = self.scratch("selected x", dim, 4);
        self.s.uses([x]);
        self.s.uses([out]);
        self.push(Step::Select { x, out });
        out
    }

    /// The rows of the stage before, `(tokens, dim)`; where there is none, the rows whose logits are wanted, which come back
    /// from the last stage, or nothing where all have them.
    ///
    /// # Errors
    ///
    /// When a size leaves the address space.
    pub fn ports(&mut self, stage: super::Stage, dim: usize) -> Result<SlotId, Error> {
        let o = self.options;
        let rows = match (stage.is_first(), stage.has_rows()) {
            (true, true) => 0,
            (true, false) => o.n_logits,
            (false, _) => o.n_batch,
        };
        // Beside all others: rows come back while others are computed.
        let entry = self.s.slot("rows in".to_owned(), rows.checked_mul(dim), 4, false);
        let bytes = crate::chain::message_bytes(&o, dim).ok_or(Error::PlanOverflow { what: "message" })?;
        let message = self.state("message between stages", bytes, 1);
        self.ports = Some(Ports { entry, exit: entry, after: 0, message });
        self.s.partial();
        Ok(entry)
    }

    /// `x` goes to the next stage, so it stays up to here even where no step of this stage reads it.
    pub fn hand_on(&mut self, x: SlotId) {
        self.s.uses([x]);
        if let Some(ports) = &mut self.ports {
            (ports.exit, ports.after) = (x, self.steps.len());
        }
    }

    /// From here on the rows that have come back.
    pub fn take_back(&mut self) {
        self.head = Some(self.steps.len());
        self.s.rows = self.options.n_logits;
    }

    /// The cache of one layer: `(kv heads, pages, K page | V page)`.
    pub fn kv_cache(&mut self, layer: usize, config: &Config, kv: KvType) -> SlotId {
        let page = kv.k_page_bytes(config.head_dim) + kv.v_page_bytes(config.head_dim);
        let n = super::cache_shape(config, &self.options).pages.checked_mul(config.n_kv_heads);
        self.s.slot(format!("blk.{layer}.kv {kv}"), n, page, true)
    }

    /// Places the slots and closes the plan.
    ///
    /// # Errors
    ///
    /// When a size leaves the address space.
    pub fn finish(mut self, config: Config, kv_type: KvType, inv_freq: SlotId, logits: SlotId) -> Result<Plan, Error> {
        let pages = super::cache_shape(&config, &self.options).pages;
        let page_tokens = self.s.slot("tokens of the cache".to_owned(), pages.checked_mul(PAGE), 4, true);
        // The logits are read after the last step.
        let Placed { slots, state_bytes, scratch_bytes, weights } = self.s.place(&[logits])?;
        let layer_of =
            |step: usize| self.marks.iter().rev().find(|(first, _)| *first <= step).and_then(|(_, layer)| *layer);
        Ok(Plan {
            layers: (0..self.steps.len()).map(layer_of).collect(),
            config,
            options: self.options,
            kv_type,
            head: self.head.unwrap_or(self.steps.len()),
            steps: self.steps,
            ports: self.ports,
            slots,
            inv_freq,
            page_tokens,
            held: self.held,
            logits,
            state_bytes,
            scratch_bytes,
            weights,
            vocabulary_bytes: 0,
        })
    }
}
