//! The slots and weights of a plan in the making: what every kind of plan is built from.

use super::layout;
use super::{Act, QuantAct, Slot, SlotId};
use crate::Error;
use crate::weights::{ArrayId, MatrixId, VectorId, WeightTable};
use rin_kernels::Format;
use rin_kernels::format::Activation;
use rin_kernels::ops::activation::Function;
use rin_model::ModelFile;
use std::ops::Range;

/// Slots whose lifetimes follow from use, and the weights that the steps name.
#[derive(Debug)]
pub(crate) struct Slots<'f> {
    file: &'f ModelFile,
    /// Rows of a scratch slot.
    pub(crate) rows: usize,
    /// The step that is being written.
    step: usize,
    list: Vec<Slot>,
    weights: WeightTable,
    overflow: bool,
}

/// Slots that have their places.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) slots: Vec<Slot>,
    pub(crate) state_bytes: usize,
    pub(crate) scratch_bytes: usize,
    pub(crate) weights: WeightTable,
}

impl<'f> Slots<'f> {
    /// No slots yet; scratch slots will have `rows` rows.
    pub(crate) fn new(file: &'f ModelFile, rows: usize) -> Self {
        Self { file, rows, step: 0, list: Vec::new(), weights: WeightTable::default(), overflow: false }
    }

    /// The next step begins.
    pub(crate) fn advance(&mut self) {
        self.step += 1;
    }

    pub(crate) fn matrix(&mut self, name: &str) -> Result<MatrixId, Error> {
        self.weights.matrix(self.file, name)
    }

    /// Whether the file holds a tensor in panels.
    pub(crate) fn packed(&self, name: &str) -> bool {
        self.file.tensor(name).is_some_and(|t| t.packed)
    }

    pub(crate) fn matrix_rows(&mut self, name: &str, rows: Range<usize>) -> Result<MatrixId, Error> {
        self.weights.matrix_rows(self.file, name, rows)
    }

    pub(crate) fn vector(&mut self, name: &str) -> Result<VectorId, Error> {
        self.weights.vector(self.file, name)
    }

    pub(crate) fn vector_part(&mut self, name: &str, part: Range<usize>) -> Result<VectorId, Error> {
        self.weights.vector_part(self.file, name, part)
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<ArrayId, Error> {
        self.weights.array(self.file, name)
    }

    pub(crate) fn numbers(&mut self, name: &str) -> Result<VectorId, Error> {
        self.weights.numbers(self.file, name)
    }

    /// Whether the file has a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    pub(crate) fn weights(&self) -> &WeightTable {
        &self.weights
    }

    pub(crate) fn format(&self, id: MatrixId) -> Format {
        self.weights.get(id).format
    }

    /// The plan is of some of the network only.
    pub(crate) fn partial(&mut self) {
        self.weights.set_partial();
    }

    /// A scratch slot of `cols` elements per row.
    pub(crate) fn scratch(&mut self, name: impl Into<String>, cols: usize, elem_bytes: usize) -> SlotId {
        let n = self.rows.checked_mul(cols);
        self.slot(name.into(), n, elem_bytes, false)
    }

    /// A slot of `n` elements; none: more than there can be.
    pub(crate) fn slot(&mut self, name: String, n: Option<usize>, elem_bytes: usize, state: bool) -> SlotId {
        let bytes = n.and_then(|n| n.checked_mul(elem_bytes)).filter(|&b| isize::try_from(b).is_ok());
        self.overflow |= bytes.is_none();
        let (first_step, bytes) = (self.step, bytes.unwrap_or(0));
        self.list.push(Slot { name, offset: 0, bytes, first_step, last_step: first_step, state });
        SlotId(self.list.len() - 1)
    }

    /// Keeps slots alive up to the step that is being written.
    pub(crate) fn uses(&mut self, ids: impl IntoIterator<Item = SlotId>) {
        for id in ids {
            self.list[id.0].last_step = self.step;
        }
    }

    pub(crate) fn uses_act(&mut self, a: &Act) {
        let quants = [a.block32, a.block256].into_iter().flatten();
        self.uses([a.x].into_iter().chain(quants.flat_map(|q| [q.q, q.d, q.sums])));
    }

    /// Activations in the forms that `readers` take; `x` is their f32 slot, where it is there already.
    pub(crate) fn act(&mut self, name: &str, x: Option<SlotId>, cols: usize, readers: &[MatrixId]) -> Act {
        let x = x.unwrap_or_else(|| self.scratch(format!("{name} f32"), cols, 4));
        let wanted = |s: &Self, a: Activation| readers.iter().any(|&m| s.format(m).activation() == a);
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

    /// Places the slots; `results` are read after the last step.
    pub(crate) fn place(mut self, results: &[SlotId]) -> Result<Placed, Error> {
        if self.overflow {
            return Err(Error::PlanOverflow { what: "slot" });
        }
        let last = self.step.saturating_sub(1);
        for slot in self.list.iter_mut().filter(|s| s.state) {
            (slot.first_step, slot.last_step) = (0, last);
        }
        for id in results {
            self.list[id.0].last_step = last;
        }
        let (state_bytes, scratch_bytes) = layout::place(&mut self.list)?;
        let total = state_bytes.checked_add(scratch_bytes).and_then(|n| n.checked_add(self.weights.bytes()));
        if total.is_none() {
            return Err(Error::PlanOverflow { what: "total" });
        }
        Ok(Placed { slots: self.list, state_bytes, scratch_bytes, weights: self.weights })
    }
}

/// The kernel of a function.
pub(crate) fn kernel_of(function: rin_model::Function) -> Function {
    Function::ALL.iter().copied().find(|f| f.name() == function.name()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_function_of_a_file_has_its_kernel() {
        for function in rin_model::Function::ALL {
            assert_eq!(super::kernel_of(function).name(), function.name());
        }
    }
}
