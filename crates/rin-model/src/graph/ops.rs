//! The operations of a graph: a small set into which the operators of ONNX are taken apart.

use crate::dtype::DType;
use crate::network::Function;
use serde::{Deserialize, Serialize};

/// Declares functions once: variant and name in files, which the kernel has too.
macro_rules! named {
    ($(#[$doc:meta])* $Enum:ident { $($Variant:ident $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "the kernel of the same name defines each")]
        pub enum $Enum { $($Variant),+ }

        impl $Enum {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$Variant),+];

            /// The name in files, which is that of the kernel.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => $name),+ }
            }
        }
    };
}

named! {
    /// A function of one number.
    Unary {
        Identity "identity",
        Neg "neg",
        Abs "abs",
        Sign "sign",
        Reciprocal "reciprocal",
        Sqrt "sqrt",
        Exp "exp",
        Log "log",
        Erf "erf",
        Floor "floor",
        Ceil "ceil",
        Round "round",
        Sin "sin",
        Cos "cos",
        Relu "relu",
        LeakyRelu "leaky_relu",
        Elu "elu",
        Celu "celu",
        Selu "selu",
        ThresholdedRelu "thresholded_relu",
        Sigmoid "sigmoid",
        HardSigmoid "hard_sigmoid",
        HardSwish "hard_swish",
        Tanh "tanh",
        Softplus "softplus",
        Softsign "softsign",
        Mish "mish",
        Gelu "gelu",
        GeluTanh "gelu_tanh",
        Swish "swish",
        RoundF16 "round_f16",
        RoundBf16 "round_bf16",
    }
}

named! {
    /// A function of two numbers.
    Binary {
        Add "add",
        Sub "sub",
        Mul "mul",
        Div "div",
        Pow "pow",
        Mod "mod",
        Fmod "fmod",
        Min "min",
        Max "max",
        PRelu "p_relu",
        And "and",
        Or "or",
        Xor "xor",
        Equal "equal",
        Less "less",
        LessOrEqual "less_or_equal",
        Greater "greater",
        GreaterOrEqual "greater_or_equal",
    }
}

impl Binary {
    /// Whether the result is a truth value, whatever the operands are.
    pub const fn compares(self) -> bool {
        matches!(self, Self::Equal | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual)
    }

    /// Whether the operands are truth values.
    pub const fn is_logic(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Xor)
    }
}

/// What a reduction makes of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
}

/// Which extreme is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ArgKind {
    Max,
    Min,
}

/// What a pool makes of the values under its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// The largest.
    Max,
    /// The place of the largest in the input, the first of them, as if the input were one row.
    MaxIndex,
    /// The mean of those within the input.
    Average,
    /// The mean of those within the input and its padding.
    AverageWithPadding,
}

/// A window that moves over the last dimensions of `(batch, channels, …)`: one entry per dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Size.
    pub kernel: Vec<usize>,
    /// Step from one place to the next.
    pub strides: Vec<usize>,
    /// Step from one element under the window to the next.
    pub dilations: Vec<usize>,
    /// Elements of padding before the input.
    pub before: Vec<usize>,
    /// Elements of padding behind the input.
    pub after: Vec<usize>,
    /// Places, which may lead beyond the padding for a pool.
    pub places: Vec<usize>,
}

/// A block of elements that is copied: for every index of `shape`, from `from + Σ index · strides` in the input to
/// `to + Σ index · to_strides` in the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Which input.
    pub input: usize,
    /// First element in the input.
    pub from: usize,
    /// Steps in the input, in elements.
    pub strides: Vec<i64>,
    /// First element in the result.
    pub to: usize,
    /// Steps in the result, in elements.
    pub to_strides: Vec<usize>,
    /// Sizes.
    pub shape: Vec<usize>,
}

/// An operation. Arrays are row-major; "broadcast" means NumPy's rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum GraphOp {
    /// The same elements in another shape.
    Reshape {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Copied blocks: transposing, slicing, joining, repeating, padding.
    Copy {
        /// Shape of the result.
        shape: Vec<usize>,
        /// Whether the last input, a single number, stands where nothing is copied to; else every element is.
        fill: bool,
        /// The blocks.
        regions: Vec<Region>,
    },
    /// A function of each number.
    Unary {
        /// Which.
        function: Unary,
        /// Its first parameter.
        #[serde(default, skip_serializing_if = "is_zero")]
        alpha: f32,
        /// Its second parameter.
        #[serde(default, skip_serializing_if = "is_zero")]
        beta: f32,
    },
    /// The opposite of truth values.
    Not,
    /// Whether a float is NaN.
    IsNan,
    /// A function of two numbers, broadcast.
    Binary {
        /// Which.
        function: Binary,
    },
    /// The second input where the first is true, the third elsewhere, broadcast.
    Where,
    /// Another element type. Floats become integers by cutting off, within the range; truth is 1.
    Cast {
        /// The type.
        to: DType,
    },
    /// One number of those along axes.
    Reduce {
        /// Which.
        kind: ReduceKind,
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Whether they stay with size 1.
        keep: bool,
    },
    /// The place of the extreme along an axis, I64.
    Arg {
        /// Which extreme.
        kind: ArgKind,
        /// The axis.
        axis: usize,
        /// Whether it stays with size 1.
        keep: bool,
        /// Whether the last of several is taken.
        last: bool,
    },
    /// Softmax along an axis, or its logarithm.
    Softmax {
        /// The axis.
        axis: usize,
        /// Whether the logarithm is meant.
        log: bool,
    },
    /// `(x − mean) ÷ √(variance + ε) · scale + bias` over the dimensions from `axis` on; scale and bias, two more inputs of F32,
    /// hold one number for each element that is normalised together.
    LayerNorm {
        /// First of the dimensions.
        axis: usize,
        /// ε.
        eps: f32,
    },
    /// Product of two arrays of matrices `(…, m, k) × (…, k, n)`, broadcast over the dimensions before.
    MatMul,
    /// `function(x · weightᵀ + bias)` over the last dimension; the weight is packed for the kernels.
    Linear {
        /// Matrix `(outputs, inputs)` of the file, whose rows may be filled up with zeros.
        weight: String,
        /// Vector `(outputs)` of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Applied to each element.
        #[serde(default, skip_serializing_if = "Function::is_identity")]
        function: Function,
    },
    /// Convolution of `(batch, channels, …)` with `(outputs, channels ÷ group, …)`, and `(outputs)` added where there is a
    /// third input.
    Conv {
        /// The window.
        window: Window,
        /// Groups of channels.
        group: usize,
        /// Applied to each element.
        #[serde(default, skip_serializing_if = "Function::is_identity")]
        function: Function,
    },
    /// A pool over `(batch, channels, …)`.
    Pool {
        /// What of the window comes out.
        kind: PoolKind,
        /// The window.
        window: Window,
    },
    /// Slices along an axis, by a second input of indices; negative ones count from the end.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// Elements along an axis, by a second input of indices, one for each element of the result.
    GatherElements {
        /// The axis.
        axis: usize,
    },
    /// `saturate(round(x ÷ scale) + zero)`, ties to even, broadcast: x F32, then scale F32, then zero of the type `to` or none.
    Quantize {
        /// The type: an integer of 8 or 16 bits.
        to: DType,
    },
    /// `(x − zero) · scale`, broadcast: x an integer, then scale F32, then zero of the type of x or none.
    Dequantize,
    /// Product as of `MatMul` of integers of 8 bits, exact, as I32: `(a − a zero) × (b − b zero)`. The zeros, of the types of
    /// a and b, are one number each, or one for each row of a `(m)` and for each column of b `(n)`.
    MatMulInteger,
    /// Convolution as of `Conv` of integers of 8 bits, exact, as I32, less their zeros: one for x, one or one for each
    /// output for the weight.
    ConvInteger {
        /// The window.
        window: Window,
        /// Groups of channels.
        group: usize,
    },
    /// `saturate(round(x · factor) + zero)`, ties to even, broadcast: x I32, then factor F32, then zero of the type `to`.
    Requantize {
        /// The type: an integer of 8 bits.
        to: DType,
    },
    /// The largest or smallest `k` along an axis, sorted, equal ones in the order of their places.
    TopK {
        /// How many.
        k: usize,
        /// The axis.
        axis: usize,
        /// Which extreme.
        kind: ArgKind,
        /// Whether their places come out, as I64, instead of the values.
        places: bool,
    },
    /// Sums of all values up to each along an axis.
    CumSum {
        /// The axis.
        axis: usize,
        /// Whether the value itself is left out.
        exclusive: bool,
        /// Whether it goes from the end.
        reverse: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(x: &f32) -> bool {
    x.to_bits() == 0
}

impl GraphOp {
    /// The name in files and messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reshape { .. } => "reshape",
            Self::Copy { .. } => "copy",
            Self::Unary { function, .. } => function.name(),
            Self::Not => "not",
            Self::IsNan => "is_nan",
            Self::Binary { function } => function.name(),
            Self::Where => "where",
            Self::Cast { .. } => "cast",
            Self::Reduce { .. } => "reduce",
            Self::Arg { .. } => "arg",
            Self::Softmax { .. } => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::MatMul => "mat_mul",
            Self::Linear { .. } => "linear",
            Self::Conv { .. } => "conv",
            Self::Pool { .. } => "pool",
            Self::Gather { .. } => "gather",
            Self::GatherElements { .. } => "gather_elements",
            Self::Quantize { .. } => "quantize",
            Self::Dequantize => "dequantize",
            Self::MatMulInteger => "mat_mul_integer",
            Self::ConvInteger { .. } => "conv_integer",
            Self::Requantize { .. } => "requantize",
            Self::TopK { .. } => "top_k",
            Self::CumSum { .. } => "cum_sum",
        }
    }
}
