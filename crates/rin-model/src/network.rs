//! Networks from rows of numbers to rows of numbers, as a `.rin` file describes them: named inputs, a body, named
//! outputs. (Networks that continue text are described by [`Config`](crate::Config).)
//!
//! The body of the modes `mlp` and `attn` is a list of [`Node`]s in the order in which they run, each of which makes one
//! named value of earlier ones, as in ONNX. A value has one row of numbers for each row of the inputs, or a sequence of
//! them, one per [position](Positions).

mod extent;

pub use extent::{Extent, Extents, Positions};

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::integer::Integer;
use crate::mode::Mode;
use crate::spiking::Spiking;
use crate::whole::Whole;

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
    /// Dense layers in integers.
    Integer(Integer),
    /// Nodes in whole numbers.
    Whole(Whole),
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
    /// How a row is read.
    #[serde(default, skip_serializing_if = "PortKind::is_row")]
    pub kind: PortKind,
    /// Whether it may be left out, which gives zeros.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_false(truth: &bool) -> bool {
    !truth
}

/// How the rows of an input are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PortKind {
    /// One row of numbers.
    #[default]
    Row,
    /// A sequence: the first dimension of the shape counts its positions, of which a run may give fewer. All sequences of
    /// a run have the same number of them.
    Sequence,
    /// One number: how many positions of the row's sequences count; 0 for all. Those after them are as if they were not
    /// there.
    Length,
}

impl PortKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
    fn is_row(&self) -> bool {
        *self == Self::Row
    }
}

impl Port {
    /// An input of one row of numbers, which must be given.
    pub fn row(name: impl Into<String>, shape: Vec<usize>) -> Self {
        Self { name: name.into(), shape, kind: PortKind::Row, optional: false }
    }

    /// An input of sequences of one number at each of at most `positions` positions.
    pub fn sequence(name: impl Into<String>, positions: usize, optional: bool) -> Self {
        Self { name: name.into(), shape: vec![positions], kind: PortKind::Sequence, optional }
    }

    /// How long the sequences are; they are as long as can be where it is left out.
    pub fn length() -> Self {
        Self { name: "length".to_owned(), shape: vec![1], kind: PortKind::Length, optional: true }
    }

    /// Values in a row; of a sequence, the most.
    pub fn width(&self) -> usize {
        self.shape.iter().fold(1, |product: usize, &n| product.saturating_mul(n))
    }

    /// Most positions of a sequence; 1 for other inputs.
    pub fn positions(&self) -> usize {
        match (self.kind, self.shape.first()) {
            (PortKind::Sequence, Some(&positions)) => positions,
            _ => 1,
        }
    }

    /// Values at a position.
    pub fn unit(&self) -> usize {
        let skipped = usize::from(self.kind == PortKind::Sequence);
        self.shape.iter().skip(skipped).fold(1, |product: usize, &n| product.saturating_mul(n))
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
    /// `x ÷ √(mean of x² + eps) · weight`, over a row (Zhang and Sennrich, 2019).
    RmsNorm {
        /// Vector of the row's width.
        weight: String,
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
    /// `x · y`, element by element: a gate.
    Multiply,
    /// Softmax over a row.
    Softmax,
    /// Rows of a table, one per position; `x` is a sequence of their numbers.
    Embed {
        /// Matrix `(ids, width)`.
        table: String,
    },
    /// `x` and, at each position, the row of a table that has the position's number.
    AddPositions {
        /// Matrix `(positions or more, width)`.
        table: String,
    },
    /// A position before all others: the same vector for every row.
    Prepend {
        /// Vector of the width of a position.
        vector: String,
    },
    /// A picture `(channels, height, width)` cut into squares, row by row, each a position `(channels, size, size)`.
    Patches {
        /// Channels of the picture.
        channels: usize,
        /// Its height.
        height: usize,
        /// Its width.
        width: usize,
        /// Side of a square.
        size: usize,
    },
    /// Queries and keys turned by their position (Su et al., 2021). A position of `x` is that of an attention; its values
    /// stay. Element `i` of a head forms a pair with `i + pairs`, or, `interleaved`, `2i` with `2i + 1`; elements after the
    /// pairs stay.
    Rotate {
        /// Heads.
        heads: usize,
        /// Pairs of a head.
        pairs: usize,
        /// Which elements form a pair.
        #[serde(default, skip_serializing_if = "is_false")]
        interleaved: bool,
        /// Vector: for each position the cosines of all pairs, then their sines.
        angles: String,
    },
    /// Attention of every position of a sequence to all of them, or to those up to its own (Vaswani et al., 2017). A
    /// position of `x` holds its queries, its keys and its values, one after the other, each head by head; scores are
    /// divided by the root of a head's width.
    Attention {
        /// Heads.
        heads: usize,
        /// Whether positions after its own are left out.
        #[serde(default, skip_serializing_if = "is_false")]
        causal: bool,
    },
    /// A sequence becomes one row.
    Pool {
        /// Which.
        kind: Pool,
    },
}

/// How a sequence becomes a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pool {
    /// Its first position.
    First,
    /// The mean of all positions that count.
    Mean,
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
            Self::RmsNorm { .. } => "rms_norm",
            Self::Scale { .. } => "scale",
            Self::Activation { .. } => "activation",
            Self::Add { .. } => "add",
            Self::Multiply => "multiply",
            Self::Softmax => "softmax",
            Self::Embed { .. } => "embed",
            Self::AddPositions { .. } => "add_positions",
            Self::Prepend { .. } => "prepend",
            Self::Patches { .. } => "patches",
            Self::Rotate { .. } => "rotate",
            Self::Attention { .. } => "attention",
            Self::Pool { .. } => "pool",
        }
    }

    /// Values that it takes.
    pub const fn n_inputs(&self) -> usize {
        match self {
            Self::Add { .. } | Self::Multiply => 2,
            _ => 1,
        }
    }
}
