//! Functions of one and more numbers, and changes of type.

use super::Val;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered};
use rin_engine::graph::Held;
use rin_model::graph::{Binary, GraphOp, Unary};
use rin_model::{DType, Function};

/// The function of a product's output that an operator is; none where it has to be an operation of its own.
fn function_of(op: &str, alpha: f32, beta: f32) -> Option<Function> {
    let is = |x: f32, want: f32| (x - want).abs() < 1e-9;
    Some(match op {
        "Relu" => Function::Relu,
        "LeakyRelu" if is(alpha, 0.01) => Function::LeakyRelu,
        "Sigmoid" => Function::Sigmoid,
        "HardSigmoid" if is(alpha, 1.0 / 6.0) && is(beta, 0.5) => Function::HardSigmoid,
        "HardSwish" => Function::HardSwish,
        "Tanh" => Function::Tanh,
        "Swish" if is(alpha, 1.0) => Function::Silu,
        _ => return None,
    })
}

/// The function of an operator, and the values of its parameters where the file leaves them out.
fn function_and_defaults(op: &str) -> Option<(Unary, f32, f32)> {
    Some(match op {
        "Abs" => (Unary::Abs, 0.0, 0.0),
        "Ceil" => (Unary::Ceil, 0.0, 0.0),
        "Celu" => (Unary::Celu, 1.0, 0.0),
        "Cos" => (Unary::Cos, 0.0, 0.0),
        "Elu" => (Unary::Elu, 1.0, 0.0),
        "Erf" => (Unary::Erf, 0.0, 0.0),
        "Exp" => (Unary::Exp, 0.0, 0.0),
        "Floor" => (Unary::Floor, 0.0, 0.0),
        "HardSigmoid" => (Unary::HardSigmoid, 0.2, 0.5),
        "HardSwish" => (Unary::HardSwish, 0.0, 0.0),
        "LeakyRelu" => (Unary::LeakyRelu, 0.01, 0.0),
        "Log" => (Unary::Log, 0.0, 0.0),
        "Mish" => (Unary::Mish, 0.0, 0.0),
        "Neg" => (Unary::Neg, 0.0, 0.0),
        "Reciprocal" => (Unary::Reciprocal, 0.0, 0.0),
        "Relu" => (Unary::Relu, 0.0, 0.0),
        "Round" => (Unary::Round, 0.0, 0.0),
        "Selu" => (Unary::Selu, 1.673_263_2, 1.050_701),
        "Sigmoid" => (Unary::Sigmoid, 0.0, 0.0),
        "Sign" => (Unary::Sign, 0.0, 0.0),
        "Sin" => (Unary::Sin, 0.0, 0.0),
        "Softplus" => (Unary::Softplus, 0.0, 0.0),
        "Softsign" => (Unary::Softsign, 0.0, 0.0),
        "Sqrt" => (Unary::Sqrt, 0.0, 0.0),
        "Swish" => (Unary::Swish, 1.0, 0.0),
        "Tanh" => (Unary::Tanh, 0.0, 0.0),
        "ThresholdedRelu" => (Unary::ThresholdedRelu, 1.0, 0.0),
        _ => return None,
    })
}

/// A function of each number, by a product before it where there is one that nobody else reads.
pub(super) fn apply(cx: &mut Context<'_, '_>, x: Val, function: Option<Function>, op: GraphOp) -> Lowered<Val> {
    if let Some(function) = function
        && cx.is_alone(0)
        && cx.builder.fuse(x, function)
    {
        return Ok(x);
    }
    let made = cx.push(op, &[x])?;
    if function == Some(Function::Relu)
        && let Some(quantized) = cx.builder.quantized(x)
    {
        cx.builder.note_quantized(made, crate::onnx::builder::Quantized { rectified: true, ..quantized });
    }
    Ok(made)
}

pub(super) fn unary(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let unknown = || OnnxError::shape("a function without a kernel");
    let (function, alpha, beta) = function_and_defaults(cx.node.op).ok_or_else(unknown)?;
    // The second parameter has a name of its own in one operator.
    let second = if cx.node.op == "Selu" { "gamma" } else { "beta" };
    let (alpha, beta) = (cx.number("alpha", alpha)?, cx.number(second, beta)?);
    let fused = if cx.dtype(x) == DType::F32 { function_of(cx.node.op, alpha, beta) } else { None };
    Ok(vec![apply(cx, x, fused, GraphOp::Unary { function, alpha, beta })?])
}

pub(super) fn gelu(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let (function, unary) = match cx.text("approximate", "none")? {
        "none" => (Function::Gelu, Unary::Gelu),
        "tanh" => (Function::GeluTanh, Unary::GeluTanh),
        other => return Err(OnnxError::shape(format!("approximate is `{other}`, and `none` and `tanh` are known"))),
    };
    Ok(vec![apply(cx, x, Some(function), GraphOp::Unary { function: unary, alpha: 0.0, beta: 0.0 })?])
}

pub(super) fn identity(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    Ok(vec![cx.input(0)?])
}

pub(super) fn dropout(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    if cx.known_input(2, "training_mode")?.is_some_and(|mode| mode.first().is_some_and(|&on| on != 0)) {
        return Err(OnnxError::shape("training mode; export the model for inference"));
    }
    let mut made = vec![x];
    if cx.wants(1) {
        // Nothing is dropped. The mask of the first versions is of the type of the input.
        let dtype = if cx.opset >= 10 { DType::Bool } else { cx.dtype(x) };
        let one = cx.builder.scalar(dtype, 1.0);
        let shape = cx.shape(x);
        made.push(cx.expand(one, &shape)?);
    }
    Ok(made)
}

pub(super) fn not(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    Ok(vec![cx.push(GraphOp::Not, &[x])?])
}

pub(super) fn is_nan(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    Ok(vec![cx.push(GraphOp::IsNan, &[x])?])
}

/// The function of an operator with two inputs.
fn binary_of(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" | "Sum" | "Mean" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Mod" => Binary::Mod,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        "Equal" => Binary::Equal,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        _ => return None,
    })
}

/// The second operand as the first six versions broadcast it: along an axis of the first.
fn old_broadcast(cx: &mut Context<'_, '_>, a: Val, b: Val) -> Lowered<Val> {
    if cx.opset >= 7 || !cx.flag("broadcast", false)? || cx.node.attribute("axis").is_none() {
        return Ok(b);
    }
    let rank = cx.shape(a).len();
    let axis = cx.axis(cx.int("axis", 0)?, rank)?;
    let mut shape = cx.shape(b);
    while shape.len().saturating_add(axis) < rank {
        shape.push(1);
    }
    cx.reshape(b, &shape)
}

pub(super) fn binary(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let b = old_broadcast(cx, a, b)?;
    let unknown = || OnnxError::shape("a function without a kernel");
    let mut function = binary_of(cx.node.op).ok_or_else(unknown)?;
    if function == Binary::Mod && cx.flag("fmod", false)? {
        function = Binary::Fmod;
    }
    if function == Binary::Add
        && let Some(made) = super::products::add_bias(cx, a, b)?
    {
        return Ok(vec![made]);
    }
    if function == Binary::Mul
        && let Some(made) = silu(cx, a, b)?
    {
        return Ok(vec![made]);
    }
    if function == Binary::Mul
        && let Some(x) = gelu_argument(cx, a, b)
    {
        return Ok(vec![cx.unary(Unary::Gelu, x)?]);
    }
    Ok(vec![cx.binary(function, a, b)?])
}

/// `x · sigmoid(x)` as one function.
fn silu(cx: &mut Context<'_, '_>, a: Val, b: Val) -> Lowered<Option<Val>> {
    for (x, y, place) in [(a, b, 1), (b, a, 0)] {
        let is = matches!(cx.builder.made_by(y), Some((GraphOp::Unary { function: Unary::Sigmoid, .. }, [from])) if *from == x);
        if is && cx.is_alone(place) {
            return cx.push(GraphOp::Unary { function: Unary::Swish, alpha: 1.0, beta: 0.0 }, &[x]).map(Some);
        }
    }
    Ok(None)
}

/// The operands of a function of two numbers; none where something else makes the value.
fn operands(cx: &Context<'_, '_>, val: Val, wanted: Binary) -> Option<[Val; 2]> {
    match cx.builder.made_by(val) {
        Some((GraphOp::Binary { function }, &[a, b])) if *function == wanted => Some([a, b]),
        _ => None,
    }
}

/// Whether a value is this one number.
fn is_number(cx: &Context<'_, '_>, val: Val, wanted: f32) -> bool {
    let held = cx.builder.held(val).and_then(Held::to_floats);
    held.is_some_and(|list| matches!(list[..], [x] if (x - wanted).abs() <= 1e-6))
}

/// The other operand beside this one number.
fn beside(cx: &Context<'_, '_>, [a, b]: [Val; 2], number: f32) -> Option<Val> {
    if is_number(cx, b, number) { Some(a) } else { is_number(cx, a, number).then_some(b) }
}

/// `x` of `1 + erf(x ÷ √2)`.
fn error_function_argument(cx: &Context<'_, '_>, val: Val) -> Option<Val> {
    let erf = beside(cx, operands(cx, val, Binary::Add)?, 1.0)?;
    let Some((GraphOp::Unary { function: Unary::Erf, .. }, &[scaled])) = cx.builder.made_by(erf) else { return None };
    if let Some([x, root]) = operands(cx, scaled, Binary::Div) {
        return is_number(cx, root, std::f32::consts::SQRT_2).then_some(x);
    }
    beside(cx, operands(cx, scaled, Binary::Mul)?, std::f32::consts::FRAC_1_SQRT_2)
}

/// `x` of `x · (1 + erf(x ÷ √2)) ÷ 2`, which exporters write in several orders.
fn gelu_argument(cx: &Context<'_, '_>, a: Val, b: Val) -> Option<Val> {
    if let Some(product) = beside(cx, [a, b], 0.5) {
        let [c, d] = operands(cx, product, Binary::Mul)?;
        return [(c, d), (d, c)].into_iter().find_map(|(x, y)| error_function_argument(cx, y).filter(|&z| z == x));
    }
    [(a, b), (b, a)].into_iter().find_map(|(half, other)| {
        let x = error_function_argument(cx, other)?;
        beside(cx, operands(cx, half, Binary::Mul)?, 0.5).filter(|&y| y == x)
    })
}

pub(super) fn prelu(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
    let (rank, own) = (cx.shape(x).len(), cx.shape(slope));
    // A slope for each channel, as the first versions had it.
    if cx.opset < 7 && own.len() == 1 && rank > 1 {
        slope = cx.along(slope, 1, rank)?;
    }
    Ok(vec![cx.binary(Binary::PRelu, x, slope)?])
}

pub(super) fn pow(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let b = old_broadcast(cx, a, b)?;
    let (base, power) = (cx.dtype(a), cx.dtype(b));
    if base == power {
        return Ok(vec![cx.binary(Binary::Pow, a, b)?]);
    }
    if base == DType::F32 || power != DType::F32 {
        let b = cx.cast(b, base)?;
        return Ok(vec![cx.binary(Binary::Pow, a, b)?]);
    }
    let wide = cx.cast(a, DType::F32)?;
    let made = cx.binary(Binary::Pow, wide, b)?;
    Ok(vec![cx.cast(made, base)?])
}

/// The same function of all inputs, one after the other.
pub(super) fn fold(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let unknown = || OnnxError::shape("a function without a kernel");
    let function = binary_of(cx.node.op).ok_or_else(unknown)?;
    let mut made = cx.input(0)?;
    let n = cx.inputs.len();
    for i in 1..n {
        let next = cx.input(i)?;
        made = cx.binary(function, made, next)?;
    }
    if cx.node.op == "Mean" {
        #[expect(clippy::cast_precision_loss, reason = "a number of inputs")]
        let count = cx.float(n as f32);
        made = cx.binary(Binary::Div, made, count)?;
    }
    Ok(vec![made])
}

pub(super) fn clip(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let (mut least, mut most) = (cx.maybe(1), cx.maybe(2));
    if cx.opset < 11 {
        let mut bound = |name: &str| -> Lowered<Option<Val>> {
            let given = cx.node.attribute(name).is_some();
            let number = cx.number(name, 0.0)?;
            Ok(given.then(|| cx.float(number)))
        };
        (least, most) = (bound("min")?, bound("max")?);
    }
    let one = |cx: &Context<'_, '_>, val: Option<Val>| {
        val.and_then(|val| cx.builder.held(val)).and_then(Held::to_floats).and_then(|x| x.first().copied())
    };
    let bounds = (one(cx, least), one(cx, most));
    if bounds == (Some(0.0), Some(6.0)) && cx.is_alone(0) && cx.builder.fuse(x, Function::Relu6) {
        return Ok(vec![x]);
    }
    let mut made = x;
    if let Some(least) = least {
        made = cx.binary(Binary::Max, made, least)?;
    }
    if let Some(most) = most {
        made = cx.binary(Binary::Min, made, most)?;
    }
    Ok(vec![made])
}

pub(super) fn choose(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    Ok(vec![cx.push(GraphOp::Where, &inputs)?])
}

/// A change to the element type of a number in files; narrow floats are rounded and stay F32.
fn change_type(cx: &mut Context<'_, '_>, x: Val, element: i64) -> Lowered<Val> {
    let to = crate::onnx::types::dtype_of(i32::try_from(element).unwrap_or(0))?;
    let made = cx.cast(x, to)?;
    match element {
        10 => cx.unary(Unary::RoundF16, made),
        16 => cx.unary(Unary::RoundBf16, made),
        _ => Ok(made),
    }
}

pub(super) fn cast(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let to = cx.int("to", 0)?;
    Ok(vec![change_type(cx, x, to)?])
}

pub(super) fn cast_like(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, like) = (cx.input(0)?, cx.input(1)?);
    let to = cx.dtype(like);
    // Whether the other array was a narrow float in the file is not known any more: F32 holds what those hold.
    Ok(vec![cx.cast(x, to)?])
}
