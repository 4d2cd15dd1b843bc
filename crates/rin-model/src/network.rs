//! Networks from rows of numbers to rows of numbers, as a `.rin` file describes them: named inputs, a body, named
//! outputs. (Networks that continue text are described by [`Config`](crate::Config).)
//!
//! The body of the modes `mlp` and `attn` is a list of [`Node`]s in the order in which they run, each of which makes one
//! named value of earlier ones, as in ONNX.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::config::inconsistent;
use crate::error::{Error, fault};
use crate::graph::Graph;
use crate::mode::Mode;
use crate::spiking::Spiking;
use crate::tensor::TensorTable;

/// Most inputs, and most outputs.
const MAX_PORTS: usize = 64;
/// Most nodes.
const MAX_NODES: usize = 1 << 14;
/// Most values of a row.
const MAX_WIDTH: usize = 1 << 24;
/// Longest name, in bytes.
const MAX_NAME: usize = 256;

/// A network from rows of numbers to rows of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What it computes.
    pub mode: Mode,
    /// Name that the file gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What goes in, in the order of positional arguments.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Output>,
    /// How the one becomes the other.
    pub body: Body,
}

/// The computation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// Nodes in the order in which they run.
    Nodes(Vec<Node>),
    /// Layers of spiking neurons over time steps.
    Spiking(Spiking),
    /// A graph of typed arrays, run once for each row.
    Graph(Graph),
}

/// An input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name, which nodes refer to.
    pub name: String,
    /// Shape of one row, without the number of rows; its product is the row's width.
    pub shape: Vec<usize>,
}

impl Port {
    /// Values in a row.
    pub fn width(&self) -> usize {
        self.shape.iter().fold(1, |product: usize, &n| product.saturating_mul(n))
    }
}

/// An output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Name of the value that comes out.
    pub name: String,
    /// Meaning of its numbers.
    pub kind: OutputKind,
    /// Names of the classes; empty where they have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// What the numbers of an output mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OutputKind {
    /// Numbers that stand for themselves: a regression, an embedding.
    Values,
    /// One score per class; their softmax gives probabilities.
    Logits,
    /// One probability per class.
    Probabilities,
}

/// One step of the computation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Names of the values that it takes, as many as the operation asks for.
    pub inputs: Vec<String>,
    /// Name of the value that it makes.
    pub output: String,
    /// What it computes.
    pub op: Op,
}

/// An operation; `x` and `y` are its inputs, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Op {
    /// `function(weight · x + bias)`. Rows of the weight may be longer than `x`, filled up with zeros to whole blocks.
    Dense {
        /// Matrix `(outputs, inputs)`.
        weight: String,
        /// Vector `(outputs)`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Applied to each element.
        #[serde(default, skip_serializing_if = "Function::is_identity")]
        function: Function,
    },
    /// `(x − mean) ÷ √(variance + eps) · weight + bias`, over a row.
    LayerNorm {
        /// Vector of the row's width.
        weight: String,
        /// Vector of the row's width.
        bias: String,
        /// ε.
        eps: f32,
    },
    /// `function(x · weight + bias)`, element by element: a batch norm whose statistics have been folded in.
    Scale {
        /// Vector of the row's width.
        weight: String,
        /// Vector of the row's width.
        bias: String,
        /// Applied to each element.
        #[serde(default, skip_serializing_if = "Function::is_identity")]
        function: Function,
    },
    /// `function(x)`.
    Activation {
        /// Applied to each element.
        function: Function,
    },
    /// `function(x + y)`: a residual.
    Add {
        /// Applied to each element.
        #[serde(default, skip_serializing_if = "Function::is_identity")]
        function: Function,
    },
    /// Softmax over a row.
    Softmax,
}

/// A function of one number, named as the kernels name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the kernel of the same name defines each")]
pub enum Function {
    #[default]
    Identity,
    Relu,
    Relu6,
    LeakyRelu,
    Gelu,
    GeluTanh,
    Silu,
    Tanh,
    Sigmoid,
    HardSigmoid,
    HardSwish,
}

impl Function {
    /// All functions.
    pub const ALL: [Self; 11] = [
        Self::Identity,
        Self::Relu,
        Self::Relu6,
        Self::LeakyRelu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Silu,
        Self::Tanh,
        Self::Sigmoid,
        Self::HardSigmoid,
        Self::HardSwish,
    ];

    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::LeakyRelu => "leaky_relu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::HardSigmoid => "hard_sigmoid",
            Self::HardSwish => "hard_swish",
        }
    }

    /// Whether it leaves numbers as they are.
    pub fn is_identity(&self) -> bool {
        *self == Self::Identity
    }
}

impl Op {
    /// The name in files and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Scale { .. } => "scale",
            Self::Activation { .. } => "activation",
            Self::Add { .. } => "add",
            Self::Softmax => "softmax",
        }
    }

    /// Values that it takes.
    pub const fn n_inputs(&self) -> usize {
        match self {
            Self::Add { .. } => 2,
            _ => 1,
        }
    }
}

/// Widths of the values by name, as [`Network::widths`] finds them.
pub type Widths<'a> = HashMap<&'a str, usize>;

impl Network {
    /// The width of every value of a body of nodes; `shape` gives the shapes of the tensors.
    ///
    /// # Errors
    /// `InconsistentConfig` names a port, a node or a value that does not fit; `MissingTensor` and `BadShape` a tensor.
    pub fn widths<'a>(&'a self, shape: impl Fn(&str) -> Option<&'a [u64]>) -> Result<Widths<'a>, Error> {
        let Body::Nodes(nodes) = &self.body else {
            return Err(inconsistent("body", "a list of nodes", "another"));
        };
        let mut widths = Widths::new();
        for port in &self.inputs {
            check_name("inputs", &port.name)?;
            let width = port.width();
            if !(1..=MAX_WIDTH).contains(&width) {
                return Err(inconsistent("inputs", format!("rows of 1 to {MAX_WIDTH} values"), width));
            }
            if widths.insert(&port.name, width).is_some() {
                return Err(twice(&port.name));
            }
        }
        for node in nodes {
            check_name("nodes", &node.output)?;
            let width = node_width(node, &widths, &shape)?;
            if widths.insert(&node.output, width).is_some() {
                return Err(twice(&node.output));
            }
        }
        for output in &self.outputs {
            let width = known(&widths, &output.name)?;
            if !output.labels.is_empty() && output.labels.len() != width {
                let found = format!("{} names for `{}`", output.labels.len(), output.name);
                return Err(inconsistent("outputs.labels", format!("{width}, one name per class, or none"), found));
            }
        }
        Ok(widths)
    }

    /// Holds the description against itself and the tensors of its file.
    ///
    /// # Errors
    /// As for [`widths`](Self::widths).
    pub(crate) fn check(&self, tensors: &TensorTable) -> Result<(), Error> {
        for (field, n) in [("inputs", self.inputs.len()), ("outputs", self.outputs.len())] {
            if !(1..=MAX_PORTS).contains(&n) {
                return Err(inconsistent(field, format!("1 to {MAX_PORTS}"), n));
            }
        }
        match (&self.body, self.mode) {
            (Body::Nodes(nodes), Mode::Mlp | Mode::Attn) => {
                if !(1..=MAX_NODES).contains(&nodes.len()) {
                    return Err(inconsistent("nodes", format!("1 to {MAX_NODES}"), nodes.len()));
                }
                self.widths(|name| tensors.get(name).map(|tensor| tensor.shape.as_slice())).map(|_| ())
            }
            (Body::Spiking(spiking), Mode::Snn) => spiking.check(&self.inputs, &self.outputs, tensors),
            (Body::Graph(graph), Mode::Mlp | Mode::Attn) => graph.check(&self.inputs, &self.outputs, tensors),
            (Body::Graph(_), mode) => Err(inconsistent("mode", "one whose networks are graphs", mode)),
            (Body::Spiking(_), mode) => Err(inconsistent("mode", "snn, for a network of spiking neurons", mode)),
            (Body::Nodes(_), mode) => Err(inconsistent("mode", "one whose networks are lists of nodes", mode)),
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(inconsistent(field, format!("names of 1 to {MAX_NAME} bytes"), name.len()))
}

fn twice(name: &str) -> Error {
    Error::Duplicate(fault("config", name, "each value made once", "the name twice"))
}

fn known(widths: &Widths<'_>, name: &str) -> Result<usize, Error> {
    widths.get(name).copied().ok_or_else(|| inconsistent(name, "an input or the output of an earlier node", "neither"))
}

fn node_width<'a>(
    node: &Node,
    widths: &Widths<'_>,
    shape: &impl Fn(&str) -> Option<&'a [u64]>,
) -> Result<usize, Error> {
    let wrong = |expected: String, found: String| inconsistent(&node.output, expected, found);
    if node.inputs.len() != node.op.n_inputs() {
        let expected = format!("{} inputs of {}", node.op.n_inputs(), node.op.name());
        return Err(wrong(expected, node.inputs.len().to_string()));
    }
    let mut inputs = node.inputs.iter().map(|name| known(widths, name));
    let width = inputs.next().unwrap_or(Ok(0))?;
    for other in inputs {
        let other = other?;
        if other != width {
            return Err(wrong(format!("inputs of one width, {width}"), other.to_string()));
        }
    }
    let vector = |name: &str, width: usize| {
        let dims = dims(name, shape)?;
        if dims == [to_u64(width)] {
            return Ok(());
        }
        Err(Error::BadShape(fault("tensor", name, format!("shape [{width}]"), format!("{dims:?}"))))
    };
    match &node.op {
        Op::Dense { weight, bias, .. } => {
            let dims = dims(weight, shape)?;
            let rows = match dims {
                [rows, cols] if *cols >= to_u64(width) => usize::try_from(*rows).unwrap_or(usize::MAX),
                _ => {
                    let expected = format!("a matrix with rows of at least {width}");
                    return Err(Error::BadShape(fault("tensor", weight, expected, format!("shape {dims:?}"))));
                }
            };
            if !(1..=MAX_WIDTH).contains(&rows) {
                return Err(wrong(format!("1 to {MAX_WIDTH} outputs"), rows.to_string()));
            }
            bias.as_ref().map_or(Ok(()), |bias| vector(bias, rows))?;
            Ok(rows)
        }
        Op::LayerNorm { weight, bias, eps } => {
            if !(*eps > 0.0 && *eps < 1.0) {
                return Err(wrong("eps above 0 and below 1".to_owned(), eps.to_string()));
            }
            vector(weight, width)?;
            vector(bias, width)?;
            Ok(width)
        }
        Op::Scale { weight, bias, .. } => {
            vector(weight, width)?;
            vector(bias, width)?;
            Ok(width)
        }
        Op::Activation { .. } | Op::Add { .. } | Op::Softmax => Ok(width),
    }
}

fn dims<'a>(name: &str, shape: &impl Fn(&str) -> Option<&'a [u64]>) -> Result<&'a [u64], Error> {
    shape(name).ok_or_else(|| Error::MissingTensor(fault("tensor", name, "the tensor that a node names", "none")))
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
