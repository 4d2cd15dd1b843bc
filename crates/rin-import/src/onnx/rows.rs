//! Graphs that are nothing but layers on rows, as lists of layers: those run many rows at once.

use super::builder::{Finished, Weight};
use rin_engine::graph::Held;
use rin_model::graph::{Binary, GraphNode, GraphOp, Unary, ValueType};
use rin_model::{Function, Node, Op, Output, Port};

/// The function of layers that a function of graphs is.
fn function_of(function: Unary, alpha: f32, beta: f32) -> Option<Function> {
    let is = |x: f32, want: f32| (x - want).abs() < 1e-9;
    Some(match function {
        Unary::Identity => Function::Identity,
        Unary::Relu => Function::Relu,
        Unary::LeakyRelu if is(alpha, 0.01) => Function::LeakyRelu,
        Unary::Gelu => Function::Gelu,
        Unary::GeluTanh => Function::GeluTanh,
        Unary::Swish if is(alpha, 1.0) => Function::Silu,
        Unary::Tanh => Function::Tanh,
        Unary::Sigmoid => Function::Sigmoid,
        Unary::HardSigmoid if is(alpha, 1.0 / 6.0) && is(beta, 0.5) => Function::HardSigmoid,
        Unary::HardSwish => Function::HardSwish,
        _ => return None,
    })
}

/// The layers that a graph is, with the vectors that they name beside its weights; none where it is more.
pub(super) fn layers(
    finished: &Finished,
    types: &[ValueType],
    inputs: &[Port],
    outputs: &[Output],
) -> Option<(Vec<Node>, Vec<Weight>)> {
    let graph = &finished.graph;
    let first_node = graph.inputs.len().checked_add(graph.constants.len())?;
    // Rows are independent where each value is one row of numbers.
    let row = |value: &ValueType| value.dtype == rin_model::DType::F32 && value.count() > 0;
    if !graph.inputs.iter().all(|input| row(input) && input.shape.first() == Some(&1)) {
        return None;
    }
    let n_inputs = graph.inputs.len();
    let mut layers = Layers { names: Vec::new(), vectors: Vec::new(), constants: &finished.constants, n_inputs };
    layers.names.extend(inputs.iter().map(|port| Some(port.name.clone())));
    layers.names.extend(graph.constants.iter().map(|_| None));
    let mut nodes = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let made = types.get(first_node.checked_add(at)?).filter(|made| row(made))?;
        if let GraphOp::Reshape { .. } = node.op {
            let name = layers.name(node, 0)?;
            layers.names.push(Some(name));
            continue;
        }
        let input = |i: usize| types.get(usize::try_from(*node.inputs.get(i)?).ok()?);
        let (op, n) = layers.op(node, input(0)?, made)?;
        if n == 2 && input(1)?.count() != made.count() {
            return None;
        }
        let place = u32::try_from(layers.names.len()).ok()?;
        // What comes out is called as the model calls it.
        let port = graph.outputs.iter().position(|&value| value == place).and_then(|port| outputs.get(port));
        let output = port.map_or_else(|| format!("layer.{at}"), |port| port.name.clone());
        let takes = (0..n).map(|input| layers.name(node, input)).collect::<Option<Vec<_>>>()?;
        layers.names.push(Some(output.clone()));
        nodes.push(Node { inputs: takes, output, op });
    }
    let mut seen = std::collections::HashSet::new();
    let named = inputs.iter().map(|port| &port.name).chain(nodes.iter().map(|node| &node.output));
    // A name twice, or an output that is an input or another's reshape, is left to the graph.
    let sound = named.into_iter().all(|name| !name.is_empty() && seen.insert(name.clone()));
    let all = outputs.iter().all(|output| nodes.iter().any(|node| node.output == output.name));
    (sound && all && !nodes.is_empty()).then_some((nodes, layers.vectors))
}

struct Layers<'a> {
    /// The name of each value; none for constants.
    names: Vec<Option<String>>,
    vectors: Vec<Weight>,
    constants: &'a [(String, Held)],
    /// Values before the constants.
    n_inputs: usize,
}

impl Layers<'_> {
    fn name(&self, node: &GraphNode, input: usize) -> Option<String> {
        self.names.get(usize::try_from(*node.inputs.get(input)?).ok()?)?.clone()
    }

    /// A constant of `n` numbers as a vector that a layer names.
    fn vector(&mut self, node: &GraphNode, input: usize, n: usize) -> Option<String> {
        let value = usize::try_from(*node.inputs.get(input)?).ok()?;
        let (_, held) = self.constants.get(value.checked_sub(self.n_inputs)?)?;
        let values = held.to_floats().filter(|values| values.len() == n)?;
        let name = format!("vector.{}", self.vectors.len());
        self.vectors.push(Weight { name: name.clone(), shape: vec![n], values });
        Some(name)
    }

    /// The operation of a layer, and how many values it takes.
    fn op(&mut self, node: &GraphNode, x: &ValueType, made: &ValueType) -> Option<(Op, usize)> {
        let last = |value: &ValueType| value.shape.last().copied();
        // All of a value is one row of the operation.
        let whole = |value: &ValueType| last(value) == Some(value.count());
        match &node.op {
            GraphOp::Linear { weight, bias, function } if whole(x) => {
                Some((Op::Dense { weight: weight.clone(), bias: bias.clone(), function: *function }, 1))
            }
            GraphOp::Unary { function, alpha, beta } => {
                Some((Op::Activation { function: function_of(*function, *alpha, *beta)? }, 1))
            }
            GraphOp::Binary { function: Binary::Add } => {
                self.name(node, 1)?;
                (x.count() == made.count()).then_some((Op::Add { function: Function::Identity }, 2))
            }
            GraphOp::Softmax { axis, log: false } if whole(x) && axis.checked_add(1) == Some(x.shape.len()) => {
                Some((Op::Softmax, 1))
            }
            GraphOp::LayerNorm { axis, eps } if *eps > 0.0 => {
                let n: usize = x.shape.iter().skip(*axis).fold(1, |product: usize, &n| product.saturating_mul(n));
                if n != x.count() {
                    return None;
                }
                let (weight, bias) = (self.vector(node, 1, n)?, self.vector(node, 2, n)?);
                Some((Op::LayerNorm { weight, bias, eps: *eps }, 1))
            }
            _ => None,
        }
    }
}
