//! Networks of dense layers in integers, as a `.rin` file describes them. What they compute is said by
//! `rin_kernels::ops::integer`.

use serde::{Deserialize, Serialize};

use crate::config::inconsistent;
use crate::dtype::DType;
use crate::error::Error;
use crate::network::{Output, Port, PortKind};
use crate::tensor::{TensorTable, check_tensor};

/// Most layers.
const MAX_LAYERS: usize = 1024;
/// Most inputs of a layer, and most outputs.
const MAX_WIDTH: usize = 1 << 16;
/// Outputs, and inputs, are filled up to a multiple of this.
const LANES: usize = 16;
/// The largest magnitude of an output of 8 bits, and of a last layer.
const MAX_NARROW: i32 = 127;
const MAX_WIDE: i32 = 1 << 24;

/// Dense layers one after the other, in integers.
///
/// Tensors of layer N, where outputs and inputs are filled up to multiples of 16: `layer.N.weight` U8 `(outputs, inputs)` in
/// lines of 16 outputs × 4 inputs, plus 128; `layer.N.bias`, `.multiplier`, `.shift` I32 `(outputs)`; `layer.N.table` I8
/// `(256)` where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integer {
    /// One step of the input's 8 bits.
    pub input_scale: f32,
    /// One step of the output's 32 bits.
    pub output_scale: f32,
    /// The layers; the last one has outputs of 32 bits.
    pub layers: Vec<IntegerLayer>,
}

/// A layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerLayer {
    /// Outputs.
    pub outputs: usize,
    /// The least of them.
    pub low: i32,
    /// The largest.
    pub high: i32,
    /// Whether a table stands behind: an activation function.
    #[serde(default)]
    pub table: bool,
}

impl IntegerLayer {
    /// Outputs, filled up.
    pub fn padded(&self) -> usize {
        self.outputs.checked_next_multiple_of(LANES).unwrap_or(usize::MAX)
    }
}

impl Integer {
    /// Inputs of every layer, filled up.
    pub fn padded_inputs(&self, width: usize) -> impl Iterator<Item = usize> {
        let first = width.checked_next_multiple_of(LANES).unwrap_or(usize::MAX);
        std::iter::once(first).chain(self.layers.iter().map(IntegerLayer::padded))
    }

    /// Holds the description against the ports and the tensors.
    ///
    /// # Errors
    /// `InconsistentConfig`, `MissingTensor`, `BadType`, `BadShape`.
    pub(crate) fn check(&self, inputs: &[Port], outputs: &[Output], tensors: &TensorTable) -> Result<(), Error> {
        let ([input], [output]) = (inputs, outputs) else {
            return Err(inconsistent("inputs", "one input and one output", inputs.len()));
        };
        let width = input.width();
        if input.kind != PortKind::Row || !(1..=MAX_WIDTH).contains(&width) {
            return Err(inconsistent("inputs", format!("rows of 1 to {MAX_WIDTH} numbers"), width));
        }
        for (name, scale) in [("input_scale", self.input_scale), ("output_scale", self.output_scale)] {
            if !(scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite()) {
                return Err(inconsistent(name, "a step above 0", scale));
            }
        }
        let Some(last) = self.layers.last().filter(|_| self.layers.len() <= MAX_LAYERS) else {
            return Err(inconsistent("layers", format!("1 to {MAX_LAYERS}"), self.layers.len()));
        };
        if !output.labels.is_empty() && output.labels.len() != last.outputs {
            let expected = format!("{}, one name per class, or none", last.outputs);
            return Err(inconsistent("outputs.labels", expected, output.labels.len()));
        }
        let count = self.layers.len();
        for ((at, layer), inputs) in self.layers.iter().enumerate().zip(self.padded_inputs(width)) {
            let is_last = at.saturating_add(1) == count;
            let most = if is_last { MAX_WIDE } else { MAX_NARROW };
            let bounds = (most.saturating_neg()..=0).contains(&layer.low) && (0..=most).contains(&layer.high);
            if !(1..=MAX_WIDTH).contains(&layer.outputs) || !bounds || is_last && layer.table {
                let expected =
                    format!("1 to {MAX_WIDTH} outputs around 0, of at most {most}, the last without a table");
                return Err(inconsistent("layers", expected, format!("{layer:?}")));
            }
            let outputs = layer.padded();
            let tensor =
                |name: &str, dtype, shape: &[usize]| check_tensor(tensors, &format!("layer.{at}.{name}"), dtype, shape);
            tensor("weight", DType::U8, &[outputs, inputs])?;
            for name in ["bias", "multiplier", "shift"] {
                tensor(name, DType::I32, &[outputs])?;
            }
            if layer.table {
                tensor("table", DType::I8, &[256])?;
            }
        }
        Ok(())
    }
}
