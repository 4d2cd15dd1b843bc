//! Writing layers with memories down: what the builder does for them.

use super::memory::{Held, HeldId, MemoryStep};
use super::{Act, Builder, Columns, SlotId, Step};
use crate::Error;
use crate::weights::{MatrixId, VectorId};

/// Columns of a memory that one worker handles at a time.
pub(crate) fn column_block(cols: usize) -> usize {
    [64, 48, 32, 16].into_iter().find(|&block| cols.is_multiple_of(block)).unwrap_or(cols)
}

impl Builder<'_> {
    /// The numbers of a tensor, whatever its dimensions.
    ///
    /// # Errors
    ///
    /// When it is missing or of a quantised type.
    pub fn numbers(&mut self, name: &str) -> Result<VectorId, Error> {
        self.s.numbers(name)
    }

    /// Whether the file has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.s.has(name)
    }

    /// What each sequence holds: `parts` pieces of `bytes`.
    pub fn hold(&mut self, name: String, parts: usize, bytes: usize) -> HeldId {
        let n = self.options.n_sequences.checked_mul(parts);
        let slot = self.s.slot(name, n, bytes, true);
        self.held.push(Held { slot, parts, bytes });
        HeldId(self.held.len() - 1)
    }

    /// What each sequence holds of a recurrence of `heads` memories of `rows × cols` numbers.
    pub fn hold_memory(&mut self, name: String, heads: usize, rows: usize, cols: usize) -> HeldId {
        let block = column_block(cols);
        let parts = heads.saturating_mul(cols / block.max(1));
        self.hold(name, parts, rows.saturating_mul(block).saturating_mul(4))
    }

    /// A step of a memory.
    pub fn memory(&mut self, step: MemoryStep) {
        self.s.uses(step.slots().into_iter().flatten());
        if let MemoryStep::Forms { act } = &step {
            self.s.uses_act(act);
        }
        self.push(Step::Memory(step));
    }

    /// Some columns in a slot of their own.
    pub fn copied(&mut self, name: &str, x: Columns, cols: usize) -> SlotId {
        let out = self.scratch(name, cols, 4);
        self.memory(MemoryStep::Copy { x, cols, out });
        out
    }

    /// The f32 values of a slot in the forms that `readers` take.
    pub fn forms(&mut self, name: &str, x: SlotId, cols: usize, readers: &[MatrixId]) -> Act {
        let act = self.s.act(name, Some(x), cols, readers);
        if act.block32.is_some() || act.block256.is_some() {
            self.memory(MemoryStep::Forms { act });
        }
        act
    }

    /// Holds the columns of a matrix against the input that it gets.
    ///
    /// # Errors
    ///
    /// [`Error::BadShape`] where they differ.
    pub fn expect_shape(&self, id: MatrixId, rows: Option<usize>, cols: usize) -> Result<(), Error> {
        let m = self.s.weights().get(id);
        if m.cols == cols && rows.is_none_or(|rows| rows == m.rows) {
            return Ok(());
        }
        let rows = rows.map_or("any".to_owned(), |rows| rows.to_string());
        Err(Error::BadShape {
            tensor: m.name.clone(),
            rows: m.rows,
            cols: m.cols,
            format: m.format.name().to_owned(),
            reason: format!("the tensors beside it ask for {rows} x {cols}"),
        })
    }

    /// Rows of a matrix.
    pub fn rows_of(&self, id: MatrixId) -> usize {
        self.s.weights().get(id).rows
    }

    /// Holds the length of a vector against what is asked of it.
    ///
    /// # Errors
    ///
    /// [`Error::BadShape`] where they differ.
    pub fn expect_len(&self, id: VectorId, name: &str, len: usize) -> Result<(), Error> {
        let found = self.s.weights().vector_len(id);
        if found == len {
            return Ok(());
        }
        Err(Error::BadShape {
            tensor: name.to_owned(),
            rows: found,
            cols: 1,
            format: "F32".to_owned(),
            reason: format!("the tensors beside it ask for {len} numbers"),
        })
    }
}
