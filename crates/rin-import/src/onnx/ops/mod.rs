//! The operators: one list, and a rule for each that takes it apart into operations of a graph.

mod attention;
mod elementwise;
mod norms;
mod products;
mod quantized;
mod reductions;
mod shapes;
mod windows;

use super::builder::Val;
use super::node::{Context, Lowered};

/// What an operator becomes: its results, in the order of its outputs; those that nobody asks for may be missing.
pub(super) type Rule = fn(&mut Context<'_, '_>) -> Lowered<Vec<Val>>;

/// An operator of the standard domain.
pub(super) struct Operator {
    pub(super) name: &'static str,
    pub(super) rule: Rule,
    /// What is not run of it; empty: nothing.
    pub(super) limits: &'static str,
}

/// Declares the operators once.
macro_rules! operators {
    ($($name:literal $rule:expr, $limits:literal;)+) => {
        /// All operators, by name.
        pub(super) const OPERATORS: &[Operator] = &[$(Operator { name: $name, rule: $rule, limits: $limits }),+];
    };
}

operators! {
    "Abs" elementwise::unary, "";
    "Add" elementwise::binary, "";
    "And" elementwise::binary, "";
    "ArgMax" reductions::arg, "";
    "ArgMin" reductions::arg, "";
    "Attention" attention::attention, "no `nonpad_kv_seqlen` beside keys of the past";
    "AveragePool" windows::average_pool, "1 to 3 dimensions";
    "BatchNormalization" norms::batch, "with the statistics of the file";
    "Cast" elementwise::cast, "no float8, no 4-bit or 2-bit types, no strings";
    "CastLike" elementwise::cast_like, "as `Cast`";
    "Ceil" elementwise::unary, "";
    "Celu" elementwise::unary, "";
    "Clip" elementwise::clip, "";
    "Concat" shapes::concat, "";
    "Constant" shapes::constant, "numbers";
    "ConstantOfShape" shapes::constant_of_shape, "";
    "Conv" windows::conv, "1 to 3 dimensions";
    "ConvInteger" quantized::conv_integer, "";
    "Cos" elementwise::unary, "";
    "CumSum" reductions::cum_sum, "";
    "DequantizeLinear" quantized::dequantize, "integers of 8 to 32 bits";
    "Div" elementwise::binary, "";
    "Dropout" elementwise::dropout, "as in inference";
    "DynamicQuantizeLinear" quantized::dynamic_quantize, "";
    "Elu" elementwise::unary, "";
    "Equal" elementwise::binary, "numbers";
    "Erf" elementwise::unary, "";
    "Exp" elementwise::unary, "";
    "Expand" shapes::expand, "";
    "Flatten" shapes::flatten, "";
    "Floor" elementwise::unary, "";
    "Gather" shapes::gather, "";
    "GatherElements" shapes::gather_elements, "";
    "Gelu" elementwise::gelu, "";
    "Gemm" products::gemm, "";
    "GlobalAveragePool" windows::global_average_pool, "";
    "GlobalMaxPool" windows::global_max_pool, "";
    "Greater" elementwise::binary, "";
    "GreaterOrEqual" elementwise::binary, "";
    "GroupNormalization" norms::group, "";
    "HardSigmoid" elementwise::unary, "";
    "HardSwish" elementwise::unary, "";
    "Identity" elementwise::identity, "arrays";
    "InstanceNormalization" norms::instance, "";
    "IsNaN" elementwise::is_nan, "";
    "LayerNormalization" norms::layer, "";
    "LeakyRelu" elementwise::unary, "";
    "Less" elementwise::binary, "";
    "LessOrEqual" elementwise::binary, "";
    "Log" elementwise::unary, "";
    "LogSoftmax" reductions::softmax, "";
    "MatMul" products::mat_mul, "";
    "MatMulInteger" quantized::mat_mul_integer, "";
    "Max" elementwise::fold, "";
    "MaxPool" windows::max_pool, "1 to 3 dimensions";
    "Mean" elementwise::fold, "";
    "Min" elementwise::fold, "";
    "Mish" elementwise::unary, "";
    "Mod" elementwise::binary, "integers";
    "Mul" elementwise::binary, "";
    "Neg" elementwise::unary, "";
    "Not" elementwise::not, "";
    "Or" elementwise::binary, "";
    "PRelu" elementwise::prelu, "";
    "Pad" shapes::pad, "";
    "Pow" elementwise::pow, "";
    "QLinearConv" quantized::q_linear_conv, "";
    "QLinearMatMul" quantized::q_linear_mat_mul, "";
    "QuantizeLinear" quantized::quantize, "integers of 8 and 16 bits";
    "RMSNormalization" norms::rms, "";
    "Range" shapes::range, "of known numbers";
    "Reciprocal" elementwise::unary, "";
    "ReduceL1" reductions::reduce, "";
    "ReduceL2" reductions::reduce, "";
    "ReduceLogSum" reductions::reduce, "";
    "ReduceLogSumExp" reductions::reduce, "";
    "ReduceMax" reductions::reduce, "";
    "ReduceMean" reductions::reduce, "";
    "ReduceMin" reductions::reduce, "";
    "ReduceProd" reductions::reduce, "";
    "ReduceSum" reductions::reduce, "";
    "ReduceSumSquare" reductions::reduce, "";
    "Relu" elementwise::unary, "";
    "Reshape" shapes::reshape, "";
    "Round" elementwise::unary, "";
    "Selu" elementwise::unary, "";
    "Shape" shapes::shape, "";
    "Sigmoid" elementwise::unary, "";
    "Sign" elementwise::unary, "";
    "Sin" elementwise::unary, "";
    "Size" shapes::size, "";
    "Slice" shapes::slice, "";
    "Softmax" reductions::softmax, "";
    "Softplus" elementwise::unary, "";
    "Softsign" elementwise::unary, "";
    "Split" shapes::split, "";
    "Sqrt" elementwise::unary, "";
    "Squeeze" shapes::squeeze, "";
    "Sub" elementwise::binary, "";
    "Sum" elementwise::fold, "";
    "Swish" elementwise::unary, "";
    "Tanh" elementwise::unary, "";
    "ThresholdedRelu" elementwise::unary, "";
    "Tile" shapes::tile, "";
    "TopK" reductions::top_k, "";
    "Transpose" shapes::transpose, "";
    "Trilu" shapes::trilu, "";
    "Unsqueeze" shapes::unsqueeze, "";
    "Where" elementwise::choose, "";
    "Xor" elementwise::binary, "";
}

/// The operator of a name in a domain.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    let standard = matches!(domain, "" | "ai.onnx");
    OPERATORS.iter().find(|operator| standard && operator.name == name)
}
