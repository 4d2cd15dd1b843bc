//! Networks of nodes in whole numbers, as a `.rin` file describes them. What they compute is said by
//! `rin_kernels::ops::wide`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::config::inconsistent;
use crate::dtype::DType;
use crate::error::Error;
use crate::network::{Extents, Network, Node, Op, Port};
use crate::tensor::{TensorTable, check_tensor};

/// Outputs and inputs of matrices are filled up to a multiple of this.
const LANES: u64 = 16;
/// Most inputs of a product: its sums fit 32 bits.
const MAX_INPUTS: u64 = 1 << 16;
/// Most elements of a layer norm.
const MAX_NORM: usize = 1 << 14;
/// Most positions that attend to each other.
const MAX_POSITIONS: usize = 1 << 14;
/// Most elements of a head.
const MAX_HEAD: usize = 256;
/// Entries of a function's table.
const CURVE: usize = (1 << 12) + 1;

/// A list of nodes in whole numbers. Values are rows of 32-bit integers, each in steps of a scale of its own.
///
/// The nodes are those of a network in numbers; what they name are other tensors: the `weight` of a dense layer U8 in lines
/// of 16 outputs × 4 inputs plus 128, with `WEIGHT.multiplier` and `WEIGHT.shift` I32, one per output, filled up to 16; its
/// `bias` I32; gain and bias of a norm I32; vectors I32; tables I32 `(rows, width)`; angles I32 with 15 fractional bits; the
/// function of an activation I32 `(4097)`, called `OUTPUT.table`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    /// Nodes in the order in which they run.
    pub nodes: Vec<Node>,
    /// What each node multiplies with, in order.
    pub scales: Vec<NodeScales>,
    /// One step of each input in order; 0 for ids and lengths.
    pub input_steps: Vec<f32>,
    /// One step of each output in order.
    pub output_steps: Vec<f32>,
    /// Outputs of each matrix, and its inputs filled up.
    pub matrices: BTreeMap<String, [u64; 2]>,
}

/// The numbers of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeScales {
    /// `(multiplier, shift)`: of a dense layer what a row's largest magnitude is multiplied with, of a sum those of both
    /// operands, of a product of two values that of both, of an attention what makes an exponent of a product, of a norm the
    /// shift alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub factors: Vec<(i32, i32)>,
    /// `n · ε` of a norm, in units of squares.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epsilon: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Whole {
    /// The shape that a tensor has for the nodes: of a matrix that of what it holds.
    pub fn shape<'a>(&'a self, name: &str, tensors: impl Fn(&str) -> Option<&'a [u64]>) -> Option<&'a [u64]> {
        self.matrices.get(name).map(<[u64; 2]>::as_slice).or_else(|| tensors(name))
    }

    /// Holds the description against its network, whose sizes are known, and the tensors.
    ///
    /// # Errors
    /// `InconsistentConfig`, `MissingTensor`, `BadType`, `BadShape`.
    pub(crate) fn check(&self, network: &Network, extents: &Extents<'_>, tensors: &TensorTable) -> Result<(), Error> {
        let counts = [
            ("scales", self.scales.len(), self.nodes.len()),
            ("input_steps", self.input_steps.len(), network.inputs.len()),
            ("output_steps", self.output_steps.len(), network.outputs.len()),
        ];
        for (field, found, expected) in counts {
            if found != expected {
                return Err(inconsistent(field, expected.to_string(), found));
            }
        }
        let fits = |step: &f32| *step >= 0.0 && step.is_finite();
        if let Some(step) = self.input_steps.iter().chain(&self.output_steps).find(|step| !fits(step)) {
            return Err(inconsistent("steps", "finite numbers of at least 0", step));
        }
        for (node, scales) in self.nodes.iter().zip(&self.scales) {
            self.check_node(node, scales, extents, tensors)?;
        }
        for (name, [outputs, inputs]) in &self.matrices {
            let wide = inputs.is_multiple_of(LANES) && (LANES..=MAX_INPUTS).contains(inputs);
            let (Some(padded), true) = (to_usize(outputs.checked_next_multiple_of(LANES)), wide) else {
                return Err(inconsistent(name, format!("up to {MAX_INPUTS} inputs, filled up to {LANES}"), inputs));
            };
            let inputs = to_usize(Some(*inputs)).unwrap_or(usize::MAX);
            check_tensor(tensors, name, DType::U8, &[padded, inputs])?;
            for part in ["multiplier", "shift"] {
                check_tensor(tensors, &format!("{name}.{part}"), DType::I32, &[padded])?;
            }
        }
        Ok(())
    }

    fn check_node(
        &self,
        node: &Node,
        scales: &NodeScales,
        extents: &Extents<'_>,
        tensors: &TensorTable,
    ) -> Result<(), Error> {
        let wrong = |expected: &str, found: String| Err(inconsistent(&node.output, expected, found));
        let extent = |name: &str| extents.get(name).copied();
        let x = node.inputs.first().and_then(|name| extent(name));
        let (Some(x), Some(out)) = (x, extent(&node.output)) else { return wrong("known values", "others".to_owned()) };
        let vector = |name: &str, len: usize| check_tensor(tensors, name, DType::I32, &[len]);
        let table = |name: &str| {
            let found = tensors.get(name).map(|tensor| tensor.dtype);
            if found == Some(DType::I32) { Ok(()) } else { wrong("a table I32", format!("{found:?}")) }
        };
        let factors = match &node.op {
            Op::Dense { weight, bias, function } => {
                let Some([_, inputs]) = self.matrices.get(weight) else {
                    return wrong("a matrix", weight.clone());
                };
                let (Some(bias), true) = (bias, function.is_identity()) else {
                    return wrong("a bias, and no function", format!("{bias:?}, {}", function.name()));
                };
                if to_usize(Some(*inputs)) != x.width.checked_next_multiple_of(16) {
                    return wrong("inputs filled up to 16", format!("{} in {inputs}", x.width));
                }
                vector(bias, out.width)?;
                1
            }
            Op::LayerNorm { weight, bias, .. } if x.width <= MAX_NORM => {
                vector(weight, x.width)?;
                vector(bias, x.width)?;
                1
            }
            Op::RmsNorm { weight, .. } if x.width <= MAX_NORM => {
                vector(weight, x.width)?;
                1
            }
            Op::Multiply => 1,
            Op::Rotate { angles, .. } => {
                table(angles)?;
                0
            }
            Op::Activation { .. } => {
                vector(&format!("{}.table", node.output), CURVE)?;
                0
            }
            Op::Add { function } if function.is_identity() => 2,
            Op::Embed { table: name } => {
                table(name)?;
                0
            }
            Op::AddPositions { table: name } => {
                table(name)?;
                2
            }
            Op::Prepend { vector: name } => {
                vector(name, x.width)?;
                0
            }
            Op::Attention { heads, .. }
                if x.positions.most() <= MAX_POSITIONS
                    && out.width.checked_div(*heads).is_some_and(|head| head <= MAX_HEAD) =>
            {
                1
            }
            Op::Patches { .. } | Op::Pool { .. } => 0,
            op => return wrong("an operation that has whole numbers, of these sizes", op.name().to_owned()),
        };
        let sound = scales.factors.iter().all(|(multiplier, shift)| *multiplier >= 0 && (1..=62).contains(shift));
        if scales.factors.len() != factors || !sound || scales.epsilon > 1 << 62 {
            return wrong(&format!("{factors} factors with shifts of 1 to 62"), format!("{scales:?}"));
        }
        Ok(())
    }
}

impl Whole {
    /// Whether a table is read by this input.
    pub fn is_id(&self, port: &Port) -> bool {
        let reads = |node: &Node| matches!(node.op, Op::Embed { .. }) && node.inputs.first() == Some(&port.name);
        self.nodes.iter().any(reads)
    }
}

fn to_usize(n: Option<u64>) -> Option<usize> {
    n.and_then(|n| usize::try_from(n).ok())
}
