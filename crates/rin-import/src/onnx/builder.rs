//! A graph in the making: values with their types, constants at hand, and what is computed before it is written.

use super::error::OnnxError;
use rin_engine::graph::{Held, evaluate};
use rin_model::graph::{Graph, GraphNode, GraphOp, ValueType};
use rin_model::{DType, Function};
use std::collections::HashMap;

/// A value of the graph in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Val(usize);

/// How a value comes about.
#[derive(Debug, Clone)]
enum Kind {
    /// An input of the network.
    Input,
    /// Known now.
    Constant(Held),
    /// Computed when the network runs.
    Node(GraphOp, Vec<Val>),
}

#[derive(Debug, Clone)]
struct Entry {
    value: ValueType,
    kind: Kind,
}

/// A matrix or vector that an operation names: `(outputs, inputs)` and its numbers.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// What a float value is in integers: `value = (integer − zero) · scale`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantized {
    /// The integers.
    pub(super) integer: Val,
    /// One number, or one for each element along an axis, in a shape that broadcasts.
    pub(super) scale: Val,
    /// As the scale; none: 0.
    pub(super) zero: Option<Val>,
    /// Whether negative values count as 0.
    pub(super) rectified: bool,
}

/// Values and operations.
#[derive(Debug, Default)]
pub(super) struct Builder {
    entries: Vec<Entry>,
    weights: Vec<Weight>,
    /// Floats that are known to come from integers.
    quantized: HashMap<Val, Quantized>,
}

/// Most bytes of a result that is computed beforehand.
const MAX_FOLDED: usize = 1 << 30;

impl Builder {
    pub(super) fn value(&self, val: Val) -> &ValueType {
        const NONE: &ValueType = &ValueType { dtype: DType::F32, shape: Vec::new() };
        self.entries.get(val.0).map_or(NONE, |entry| &entry.value)
    }

    pub(super) fn shape(&self, val: Val) -> Vec<usize> {
        self.value(val).shape.clone()
    }

    pub(super) fn dtype(&self, val: Val) -> DType {
        self.value(val).dtype
    }

    fn add(&mut self, value: ValueType, kind: Kind) -> Val {
        self.entries.push(Entry { value, kind });
        Val(self.entries.len().saturating_sub(1))
    }

    pub(super) fn input(&mut self, value: ValueType) -> Val {
        self.add(value, Kind::Input)
    }

    pub(super) fn constant(&mut self, held: Held) -> Val {
        self.add(held.value().clone(), Kind::Constant(held))
    }

    /// One number of a type.
    pub(super) fn scalar(&mut self, dtype: DType, number: f32) -> Val {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers of small size")]
        let held = match dtype {
            DType::F32 => Held::floats(&[], &[number]),
            _ => Held::integers(dtype, &[], &[number as i64]),
        };
        self.constant(held)
    }

    /// The numbers of a value that is known.
    pub(super) fn held(&self, val: Val) -> Option<&Held> {
        match self.entries.get(val.0).map(|entry| &entry.kind) {
            Some(Kind::Constant(held)) => Some(held),
            _ => None,
        }
    }

    /// The operation that makes a value, and what it takes.
    pub(super) fn made_by(&self, val: Val) -> Option<(&GraphOp, &[Val])> {
        match self.entries.get(val.0).map(|entry| &entry.kind) {
            Some(Kind::Node(op, inputs)) => Some((op, inputs)),
            _ => None,
        }
    }

    /// Puts another operation, with other inputs, in the place of the one that makes a value of the same type.
    pub(super) fn replace(&mut self, val: Val, op: GraphOp, inputs: Vec<Val>) {
        if let Some(entry) = self.entries.get_mut(val.0) {
            entry.kind = Kind::Node(op, inputs);
        }
    }

    pub(super) fn quantized(&self, val: Val) -> Option<Quantized> {
        self.quantized.get(&val).copied()
    }

    pub(super) fn note_quantized(&mut self, val: Val, quantized: Quantized) {
        self.quantized.insert(val, quantized);
    }

    /// Adds an operation; computes it now where everything that it takes is known.
    pub(super) fn push(&mut self, op: GraphOp, inputs: &[Val]) -> Result<Val, OnnxError> {
        let types: Vec<&ValueType> = inputs.iter().map(|&val| self.value(val)).collect();
        let stored = |name: &str| self.weights.iter().find(|w| w.name == name).map(|w| w.shape.clone());
        let made = op.infer(&types, stored).map_err(|expected| {
            let found: Vec<String> = types.iter().map(|t| format!("{} {:?}", t.dtype, t.shape)).collect();
            OnnxError::shape(format!("{} takes {expected}, not {}", op.name(), found.join(", ")))
        })?;
        if let Some(fault) = made.fault() {
            return Err(OnnxError::shape(fault));
        }
        if let (GraphOp::Reshape { shape }, [x]) = (&op, inputs)
            && *shape == self.value(*x).shape
        {
            return Ok(*x);
        }
        let held: Option<Vec<&Held>> = inputs.iter().map(|&val| self.held(val)).collect();
        if let Some(held) = held
            && !matches!(op, GraphOp::Linear { .. })
            && made.bytes() <= MAX_FOLDED
        {
            let found = evaluate(&op, &held, &made).map_err(|error| OnnxError::shape(error.to_string()))?;
            return Ok(self.constant(found));
        }
        Ok(self.add(made, Kind::Node(op, inputs.to_vec())))
    }

    /// Adds a matrix or vector that an operation will name; gives its name.
    pub(super) fn weight(&mut self, what: &str, shape: &[usize], values: Vec<f32>) -> String {
        let name = format!("{what}.{}", self.weights.len());
        self.weights.push(Weight { name: name.clone(), shape: shape.to_vec(), values });
        name
    }

    /// Applies a function to what a product or a convolution makes; whether there was one without a function.
    pub(super) fn fuse(&mut self, val: Val, with: Function) -> bool {
        let Some(Entry { kind: Kind::Node(op, _), .. }) = self.entries.get_mut(val.0) else { return false };
        match op {
            GraphOp::Linear { function, .. } | GraphOp::Conv { function, .. } if function.is_identity() => {
                *function = with;
                true
            }
            _ => false,
        }
    }

    /// What the outputs need, as a graph: the graph, its constants by name, and the weights that it names.
    pub(super) fn finish(self, inputs: &[Val], outputs: &[Val]) -> Result<Finished, OnnxError> {
        let mut needed = vec![false; self.entries.len()];
        outputs.iter().chain(inputs).for_each(|val| mark(&mut needed, *val));
        // Nodes refer to what was made before them, so that one walk from the end finds all.
        for (at, entry) in self.entries.iter().enumerate().rev() {
            if let (Some(true), Kind::Node(_, takes)) = (needed.get(at).copied(), &entry.kind) {
                let takes = takes.clone();
                for val in takes {
                    mark(&mut needed, val);
                }
            }
        }
        let mut numbers: HashMap<usize, u32> = HashMap::new();
        let mut graph = Graph { inputs: Vec::new(), constants: Vec::new(), nodes: Vec::new(), outputs: Vec::new() };
        let mut constants = Vec::new();
        let number = |numbers: &mut HashMap<usize, u32>, at: usize| {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            numbers.insert(at, next);
        };
        for &input in inputs {
            graph.inputs.push(self.value(input).clone());
            number(&mut numbers, input.0);
        }
        for (at, entry) in self.entries.iter().enumerate() {
            if let (Some(true), Kind::Constant(held)) = (needed.get(at).copied(), &entry.kind) {
                let name = format!("constant.{}", constants.len());
                graph.constants.push(name.clone());
                constants.push((name, held.clone()));
                number(&mut numbers, at);
            }
        }
        let find = |numbers: &HashMap<usize, u32>, val: &Val| {
            let missing = || OnnxError::shape("a value refers to one that is made after it");
            numbers.get(&val.0).copied().ok_or_else(missing)
        };
        for (at, entry) in self.entries.iter().enumerate() {
            if let (Some(true), Kind::Node(op, takes)) = (needed.get(at).copied(), &entry.kind) {
                let takes = takes.iter().map(|val| find(&numbers, val)).collect::<Result<Vec<_>, _>>()?;
                graph.nodes.push(GraphNode { op: op.clone(), inputs: takes });
                number(&mut numbers, at);
            }
        }
        graph.outputs = outputs.iter().map(|val| find(&numbers, val)).collect::<Result<Vec<_>, _>>()?;
        let named = |weight: &Weight| {
            graph.nodes.iter().any(|node| match &node.op {
                GraphOp::Linear { weight: w, bias, .. } => *w == weight.name || bias.as_ref() == Some(&weight.name),
                _ => false,
            })
        };
        let weights = self.weights.iter().filter(|weight| named(weight)).cloned().collect();
        Ok(Finished { graph, constants, weights })
    }
}

fn mark(needed: &mut [bool], val: Val) {
    if let Some(needed) = needed.get_mut(val.0) {
        *needed = true;
    }
}

/// A graph with its numbers.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) graph: Graph,
    pub(super) constants: Vec<(String, Held)>,
    pub(super) weights: Vec<Weight>,
}

impl Finished {
    /// The type of every value, by its number.
    pub(super) fn types(&self) -> Result<Vec<ValueType>, rin_model::Error> {
        let constant = |name: &str| {
            let found = self.constants.iter().find(|(known, _)| known == name);
            found.map(|(_, held)| held.value().clone())
        };
        let stored = |name: &str| self.weights.iter().find(|w| w.name == name).map(|w| w.shape.clone());
        self.graph.types(constant, stored)
    }
}
