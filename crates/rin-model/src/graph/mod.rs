//! Networks as graphs of typed arrays: what an ONNX model becomes.
//!
//! A [`Graph`] computes one row at a time: every array has a fixed shape and a fixed element type, so that every byte is
//! known before anything runs. Values are numbered: the inputs first, then the constants, then what each [`GraphNode`]
//! makes, in the order in which the nodes run; a node refers to values with lower numbers, so there are no cycles. Shapes
//! and types of what nodes make are not written down but follow from the operations: see [`infer`](GraphOp::infer).

mod infer;
mod ops;

#[cfg(test)]
mod tests;

pub use ops::{ArgKind, Binary, GraphOp, PoolKind, ReduceKind, Region, Unary, Window};

use crate::config::inconsistent;
use crate::dtype::DType;
use crate::error::Error;
use crate::network::{Output, Port};
use crate::tensor::{TensorInfo, TensorTable};
use serde::{Deserialize, Serialize};

/// Most values of a graph.
const MAX_VALUES: usize = 1 << 17;
/// Most dimensions of an array.
pub const MAX_RANK: usize = 8;
/// Most elements of an array.
pub const MAX_ELEMENTS: usize = 1 << 40;

/// A network of typed arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// Type and shape of each input of the network, for one row.
    pub inputs: Vec<ValueType>,
    /// Tensors of the file that are values.
    pub constants: Vec<String>,
    /// Operations in the order in which they run.
    pub nodes: Vec<GraphNode>,
    /// The value of each output of the network.
    pub outputs: Vec<u32>,
}

/// Element type and shape of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueType {
    /// Element type: F32, a type of integers, or BOOL.
    pub dtype: DType,
    /// Sizes, slowest first; none: a single number.
    pub shape: Vec<usize>,
}

/// An operation on values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphNode {
    /// What it computes.
    pub op: GraphOp,
    /// Numbers of the values that it takes.
    pub inputs: Vec<u32>,
}

impl ValueType {
    /// A type.
    pub fn new(dtype: DType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.to_vec() }
    }

    /// Elements of the array.
    pub fn count(&self) -> usize {
        self.shape.iter().fold(1, |product: usize, &n| product.saturating_mul(n))
    }

    /// Bytes of the array.
    pub fn bytes(&self) -> usize {
        self.count().saturating_mul(usize::try_from(self.dtype.block_bytes()).unwrap_or(usize::MAX))
    }

    /// What stands against a value of this type, if anything does.
    pub fn fault(&self) -> Option<String> {
        const KNOWN: [DType; 10] = [
            DType::F32,
            DType::I8,
            DType::U8,
            DType::I16,
            DType::U16,
            DType::I32,
            DType::U32,
            DType::I64,
            DType::U64,
            DType::Bool,
        ];
        if !KNOWN.contains(&self.dtype) {
            return Some(format!("elements of {}", self.dtype));
        }
        if self.shape.len() > MAX_RANK {
            return Some(format!("{} dimensions, more than {MAX_RANK}", self.shape.len()));
        }
        // Also of the sizes beside a 0, so that no product of some of them overflows.
        let product = self.shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n.max(1)));
        match product.filter(|&n| n <= MAX_ELEMENTS) {
            Some(_) => None,
            None => Some(format!("shape {:?}, more than {MAX_ELEMENTS} elements", self.shape)),
        }
    }
}

impl Graph {
    /// The type of every value, by its number. `constant` gives the element type and shape of a tensor of the file that is
    /// a value, `stored` the shape of one that an operation names.
    ///
    /// # Errors
    /// `InconsistentConfig` names the first value that does not fit.
    pub fn types(
        &self,
        constant: impl Fn(&str) -> Option<ValueType>,
        stored: impl Fn(&str) -> Option<Vec<usize>>,
    ) -> Result<Vec<ValueType>, Error> {
        let total = self.inputs.len().saturating_add(self.constants.len()).saturating_add(self.nodes.len());
        if total > MAX_VALUES {
            return Err(inconsistent("graph", format!("at most {MAX_VALUES} values"), total));
        }
        let mut types: Vec<ValueType> = Vec::with_capacity(total);
        let add = |types: &mut Vec<ValueType>, what: &str, value: ValueType| {
            if let Some(fault) = value.fault() {
                let name = format!("value {}", types.len());
                return Err(inconsistent(&name, format!("{what} of at most {MAX_RANK} dimensions of numbers"), fault));
            }
            types.push(value);
            Ok(())
        };
        for input in &self.inputs {
            add(&mut types, "an input", input.clone())?;
        }
        for name in &self.constants {
            let value = constant(name).ok_or_else(|| inconsistent(name, "a tensor that is a value", "none"))?;
            add(&mut types, "a constant", value)?;
        }
        for node in &self.nodes {
            let name = || format!("value {}, {}", types.len(), node.op.name());
            let mut inputs = Vec::with_capacity(node.inputs.len().min(64));
            for &input in &node.inputs {
                let value = usize::try_from(input).ok().and_then(|at| types.get(at));
                inputs.push(value.ok_or_else(|| inconsistent(&name(), "values that are made before it", input))?);
            }
            let made = node.op.infer(&inputs, &stored).map_err(|fault| {
                let shapes: Vec<String> = inputs.iter().map(|t| format!("{} {:?}", t.dtype, t.shape)).collect();
                inconsistent(&name(), fault, shapes.join(", "))
            })?;
            add(&mut types, "a result", made)?;
        }
        Ok(types)
    }

    /// Holds the graph against the ports of its network and the tensors of its file.
    pub(crate) fn check(&self, inputs: &[Port], outputs: &[Output], tensors: &TensorTable) -> Result<(), Error> {
        let types = self.types(|name| constant_type(tensors, name), |name| shape_of(tensors.get(name)?))?;
        if self.inputs.len() != inputs.len() || self.outputs.len() != outputs.len() {
            let found = format!("{} inputs and {} outputs in the graph", self.inputs.len(), self.outputs.len());
            return Err(inconsistent("graph", "as many inputs and outputs as the network has", found));
        }
        for (port, input) in inputs.iter().zip(&self.inputs) {
            if port.width() != input.count() {
                let found = format!("{} in the graph", input.count());
                return Err(inconsistent(&port.name, format!("{} values in a row", port.width()), found));
            }
        }
        for (output, &at) in outputs.iter().zip(&self.outputs) {
            let value = usize::try_from(at).ok().and_then(|at| types.get(at));
            let value = value.ok_or_else(|| inconsistent(&output.name, "a value of the graph", at))?;
            if !output.labels.is_empty() && output.labels.len() != value.count() {
                let found = format!("{} names for `{}`", output.labels.len(), output.name);
                return Err(inconsistent("outputs.labels", format!("{}, or none", value.count()), found));
            }
        }
        Ok(())
    }
}

/// The type of a tensor that is a value.
fn constant_type(tensors: &TensorTable, name: &str) -> Option<ValueType> {
    let tensor = tensors.get(name).filter(|tensor| !tensor.packed)?;
    Some(ValueType { dtype: tensor.dtype, shape: shape_of(tensor)? })
}

fn shape_of(tensor: &TensorInfo) -> Option<Vec<usize>> {
    tensor.shape.iter().map(|&n| usize::try_from(n).ok()).collect()
}
