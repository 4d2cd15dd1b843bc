//! Integers for floats, and products that stay integers.
//!
//! A model with a `QuantizeLinear` and a `DequantizeLinear` around each operator says which integers stand for its floats.
//! A product or a convolution between a `DequantizeLinear` of bytes on both sides is computed on those bytes, exactly, and
//! only its sums are scaled; a `QuantizeLinear` behind it turns the sums into bytes without floats in between.

use super::Val;
use super::windows::{image, window};
use crate::onnx::builder::Quantized;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, product, to_usize};
use rin_model::DType;
use rin_model::graph::{Binary, GraphOp, ReduceKind, Unary, Window};

/// Largest relative distance of two scales that are meant to be the same product.
const SAME_SCALE: f32 = 1e-5;

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8)
}

fn count(cx: &Context<'_, '_>, val: Val) -> usize {
    cx.builder.value(val).count()
}

/// A scale or a zero in the shape in which it broadcasts to `x`: one number, one for each element along the axis, or one for
/// each block along it.
fn spread(cx: &mut Context<'_, '_>, x: Val, scale: Val) -> Lowered<Val> {
    let (shape, own) = (cx.shape(x), cx.shape(scale));
    if product(&own) == 1 {
        return cx.reshape(scale, &[]);
    }
    let axis = cx.axis(cx.int("axis", 1)?, shape.len())?;
    if own.len() <= 1 {
        return cx.along(scale, axis, shape.len());
    }
    let block = to_usize(cx.int("block_size", 0)?)?;
    let (n, blocks) = (dim(&shape, axis), dim(&own, axis));
    if own.len() != shape.len() || block == 0 || blocks != n.div_ceil(block) {
        return Err(OnnxError::shape(format!("scales of shape {own:?} for {shape:?} in blocks of {block}")));
    }
    // Each of them as often as a block has elements, less what the last is short of.
    let mut once = own.clone();
    once.insert(axis.saturating_add(1), 1);
    let mut often = own.clone();
    often.insert(axis.saturating_add(1), block);
    let mut joined = own;
    joined.iter_mut().skip(axis).take(1).for_each(|size| *size = blocks.saturating_mul(block));
    let wide = cx.reshape(scale, &once)?;
    let wide = cx.expand(wide, &often)?;
    let wide = cx.reshape(wide, &joined)?;
    cx.cut(wide, axis, 0, 1, n)
}

pub(super) fn dequantize(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let scale = spread(cx, x, scale)?;
    let zero = cx.maybe(2).map(|zero| spread(cx, x, zero)).transpose()?;
    let inputs: Vec<Val> = [x, scale].into_iter().chain(zero).collect();
    let made = cx.push(GraphOp::Dequantize, &inputs)?;
    let blocked = cx.int("block_size", 0)? != 0;
    if !blocked && (is_byte(cx.dtype(x)) || cx.dtype(x) == DType::I32) {
        cx.builder.note_quantized(made, Quantized { integer: x, scale, zero, rectified: false });
    }
    Ok(vec![made])
}

pub(super) fn quantize(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let scale = spread(cx, x, scale)?;
    let zero = cx.maybe(2).map(|zero| spread(cx, x, zero)).transpose()?;
    let to = match (zero, cx.int("output_dtype", 0)?) {
        (Some(zero), _) => cx.dtype(zero),
        (None, 0) => DType::U8,
        (None, _) => cx.element("output_dtype", 2)?,
    };
    if let Some(made) = requantize(cx, x, scale, zero, to)? {
        return Ok(vec![made]);
    }
    let x = cx.cast(x, DType::F32)?;
    let inputs: Vec<Val> = [x, scale].into_iter().chain(zero).collect();
    Ok(vec![cx.push(GraphOp::Quantize { to }, &inputs)?])
}

/// The sums of a product as bytes, where `x` is nothing but such sums with a scale.
fn requantize(cx: &mut Context<'_, '_>, x: Val, scale: Val, zero: Option<Val>, to: DType) -> Lowered<Option<Val>> {
    let Some(found) = cx.builder.quantized(x) else { return Ok(None) };
    let fits = cx.dtype(found.integer) == DType::I32 && found.zero.is_none() && is_byte(to);
    if !fits || count(cx, scale) != 1 || !cx.is_alone(0) {
        return Ok(None);
    }
    let zero = match zero {
        Some(zero) if count(cx, zero) == 1 => zero,
        Some(_) => return Ok(None),
        None => cx.builder.scalar(to, 0.0),
    };
    let factor = cx.binary(Binary::Div, found.scale, scale)?;
    let made = cx.push(GraphOp::Requantize { to }, &[found.integer, factor, zero])?;
    // A number below zero becomes an integer below the zero.
    let made = if found.rectified { cx.binary(Binary::Max, made, zero)? } else { made };
    Ok(Some(made))
}

pub(super) fn dynamic_quantize(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axes: Vec<usize> = (0..cx.shape(x).len()).collect();
    let (zero, steps) = (cx.float(0.0), cx.float(255.0));
    let mut extreme = |kind, function| -> Lowered<Val> {
        let found = cx.push(GraphOp::Reduce { kind, axes: axes.clone(), keep: false }, &[x])?;
        cx.binary(function, found, zero)
    };
    let (most, least) = (extreme(ReduceKind::Max, Binary::Max)?, extreme(ReduceKind::Min, Binary::Min)?);
    let range = cx.binary(Binary::Sub, most, least)?;
    let scale = cx.binary(Binary::Div, range, steps)?;
    let below = cx.unary(Unary::Neg, least)?;
    let zero_point = cx.push(GraphOp::Quantize { to: DType::U8 }, &[below, scale])?;
    let made = cx.push(GraphOp::Quantize { to: DType::U8 }, &[x, scale, zero_point])?;
    Ok(vec![made, scale, zero_point])
}

/// An input with a zero, or 0.
fn zero_or(cx: &mut Context<'_, '_>, input: usize, of: Val) -> Val {
    let dtype = cx.dtype(of);
    cx.maybe(input).unwrap_or_else(|| cx.builder.scalar(dtype, 0.0))
}

pub(super) fn mat_mul_integer(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (a_zero, b_zero) = (zero_or(cx, 2, a), zero_or(cx, 3, b));
    let multiply = |cx: &mut Context<'_, '_>, a, b| cx.push(GraphOp::MatMulInteger, &[a, b, a_zero, b_zero]);
    Ok(vec![super::products::vectors_too(cx, a, b, multiply)?])
}

pub(super) fn q_linear_mat_mul(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let [a, mut a_scale, a_zero, b, b_scale, b_zero] =
        [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?, cx.input(5)?];
    let (scale, zero) = (cx.input(6)?, cx.input(7)?);
    let rows = count(cx, a_scale);
    if rows > 1 && cx.shape(a_scale).len() == 1 {
        a_scale = cx.reshape(a_scale, &[rows, 1])?;
    }
    let sums = cx.push(GraphOp::MatMulInteger, &[a, b, a_zero, b_zero])?;
    let factor = cx.binary(Binary::Mul, a_scale, b_scale)?;
    let factor = cx.binary(Binary::Div, factor, scale)?;
    let to = cx.dtype(zero);
    Ok(vec![cx.push(GraphOp::Requantize { to }, &[sums, factor, zero])?])
}

fn convolution(cx: &mut Context<'_, '_>, x: Val, w: Val, zeros: [Val; 2]) -> Lowered<Val> {
    let (shape, weight) = (cx.shape(x), cx.shape(w));
    let window = window(cx, image(&shape), image(&weight).to_vec(), false)?;
    let group = to_usize(cx.int("group", 1)?)?;
    cx.push(GraphOp::ConvInteger { window, group }, &[x, w, zeros[0], zeros[1]])
}

pub(super) fn conv_integer(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let zeros = [zero_or(cx, 2, x), zero_or(cx, 3, w)];
    Ok(vec![convolution(cx, x, w, zeros)?])
}

pub(super) fn q_linear_conv(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let [x, x_scale, x_zero, w, w_scale, w_zero] =
        [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?, cx.input(5)?];
    let (scale, zero) = (cx.input(6)?, cx.input(7)?);
    let mut sums = convolution(cx, x, w, [x_zero, w_zero])?;
    let rank = cx.shape(sums).len();
    if let Some(bias) = cx.maybe(8) {
        let bias = cx.along(bias, 1, rank)?;
        sums = cx.binary(Binary::Add, sums, bias)?;
    }
    let w_scale = cx.along(w_scale, 1, rank)?;
    let factor = cx.binary(Binary::Mul, x_scale, w_scale)?;
    let factor = cx.binary(Binary::Div, factor, scale)?;
    let factor = if count(cx, factor) == 1 { cx.reshape(factor, &[])? } else { factor };
    let to = cx.dtype(zero);
    let zero = cx.reshape(zero, &[])?;
    Ok(vec![cx.push(GraphOp::Requantize { to }, &[sums, factor, zero])?])
}

/// What stands for an activation: bytes with one scale and one zero.
fn activation(cx: &mut Context<'_, '_>, x: Val) -> Option<(Val, Val, Val)> {
    let found = cx.builder.quantized(x)?;
    let one = count(cx, found.scale) == 1 && found.zero.is_none_or(|zero| count(cx, zero) == 1);
    if !one || found.rectified || !is_byte(cx.dtype(found.integer)) || cx.builder.held(found.integer).is_some() {
        return None;
    }
    let dtype = cx.dtype(found.integer);
    let zero = found.zero.unwrap_or_else(|| cx.builder.scalar(dtype, 0.0));
    Some((found.integer, found.scale, zero))
}

/// What stands for a weight: bytes with scales and zeros, one each or one for each of the `n` along `axis`.
fn weight(cx: &mut Context<'_, '_>, w: Val, axis: usize) -> Lowered<Option<(Val, Val, Val)>> {
    let Some(found) = cx.builder.quantized(w) else { return Ok(None) };
    if found.rectified || !is_byte(cx.dtype(found.integer)) {
        return Ok(None);
    }
    let n = dim(&cx.shape(w), axis);
    let dtype = cx.dtype(found.integer);
    let zero = found.zero.unwrap_or_else(|| cx.builder.scalar(dtype, 0.0));
    for val in [found.scale, zero] {
        let shape = cx.shape(val);
        // From the end, as broadcasting counts.
        let along = shape.len().checked_sub(cx.shape(w).len()) == Some(0) && dim(&shape, axis) == n;
        if count(cx, val) != 1 && !(along && count(cx, val) == n) {
            return Ok(None);
        }
    }
    let flat = |cx: &mut Context<'_, '_>, val: Val| {
        let n = count(cx, val);
        cx.reshape(val, if n == 1 { &[] } else { std::slice::from_ref(&n) })
    };
    let scale = flat(cx, found.scale)?;
    Ok(Some((found.integer, scale, flat(cx, zero)?)))
}

/// Sums as the floats that they stand for.
fn scaled_sums(cx: &mut Context<'_, '_>, sums: Val, scale: Val) -> Lowered<Val> {
    let made = cx.push(GraphOp::Dequantize, &[sums, scale])?;
    cx.builder.note_quantized(made, Quantized { integer: sums, scale, zero: None, rectified: false });
    Ok(made)
}

/// The product of two arrays of floats that stand for bytes, on those bytes; none where they do not.
pub(super) fn integer_product(cx: &mut Context<'_, '_>, a: Val, b: Val, transposed: bool) -> Lowered<Option<Val>> {
    if cx.shape(b).len() != 2 || cx.shape(a).len() < 2 {
        return Ok(None);
    }
    let Some((a, a_scale, a_zero)) = activation(cx, a) else { return Ok(None) };
    let Some((b, b_scale, b_zero)) = weight(cx, b, usize::from(!transposed))? else { return Ok(None) };
    let b = if transposed { cx.transpose(b, &[1, 0])? } else { b };
    let sums = cx.push(GraphOp::MatMulInteger, &[a, b, a_zero, b_zero])?;
    let scale = cx.binary(Binary::Mul, a_scale, b_scale)?;
    scaled_sums(cx, sums, scale).map(Some)
}

/// The convolution of two arrays of floats that stand for bytes, on those bytes; none where they do not.
pub(super) fn integer_convolution(
    cx: &mut Context<'_, '_>,
    x: Val,
    w: Val,
    window: &Window,
    group: usize,
) -> Lowered<Option<Val>> {
    let Some((x, x_scale, x_zero)) = activation(cx, x) else { return Ok(None) };
    let Some((w, w_scale, w_zero)) = weight(cx, w, 0)? else { return Ok(None) };
    let op = GraphOp::ConvInteger { window: window.clone(), group };
    let sums = cx.push(op, &[x, w, x_zero, w_zero])?;
    let rank = cx.shape(sums).len();
    let scale = cx.binary(Binary::Mul, x_scale, w_scale)?;
    let scale = cx.along(scale, 1, rank)?;
    scaled_sums(cx, sums, scale).map(Some)
}

/// A bias whose integers have the scale of the sums; none where they have not.
fn integer_bias(cx: &Context<'_, '_>, sums: Quantized, bias: Val) -> Option<Val> {
    let found = cx.builder.quantized(bias).filter(|found| cx.dtype(found.integer) == DType::I32)?;
    if let Some(zero) = found.zero
        && cx.builder.held(zero)?.to_integers()?.iter().any(|&n| n != 0)
    {
        return None;
    }
    let scale = cx.builder.held(sums.scale)?.to_floats()?;
    let own = cx.builder.held(found.scale)?.to_floats()?;
    let n = scale.len().max(own.len());
    let fits = [1, n].contains(&scale.len()) && [1, n].contains(&own.len());
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= SAME_SCALE * a.abs();
    (fits && scale.iter().cycle().zip(own.iter().cycle()).take(n).all(near)).then_some(found.integer)
}

fn is_sum(cx: &Context<'_, '_>, val: Val) -> Option<Quantized> {
    let found = cx.builder.quantized(val)?;
    (cx.dtype(found.integer) == DType::I32 && found.zero.is_none() && !found.rectified).then_some(found)
}

/// The sums of a product of integers with a bias of integers; none where either is none.
pub(super) fn add_bias(cx: &mut Context<'_, '_>, made: Val, bias: Val) -> Lowered<Option<Val>> {
    let Some(sums) = is_sum(cx, made).filter(|_| cx.builder.held(made).is_none()) else { return Ok(None) };
    let Some(bias) = integer_bias(cx, sums, bias) else { return Ok(None) };
    if cx.shape(bias).len() > cx.shape(sums.integer).len() {
        return Ok(None);
    }
    let sum = cx.binary(Binary::Add, sums.integer, bias)?;
    scaled_sums(cx, sum, sums.scale).map(Some)
}

/// A bias for each channel of a convolution of integers.
pub(super) fn add_channel_bias(cx: &mut Context<'_, '_>, made: Val, bias: Val) -> Lowered<Val> {
    let rank = cx.shape(made).len();
    if let Some(sums) = is_sum(cx, made)
        && let Some(integers) = integer_bias(cx, sums, bias)
    {
        let integers = cx.along(integers, 1, rank)?;
        let sum = cx.binary(Binary::Add, sums.integer, integers)?;
        return scaled_sums(cx, sum, sums.scale);
    }
    let bias = cx.along(bias, 1, rank)?;
    cx.binary(Binary::Add, made, bias)
}
