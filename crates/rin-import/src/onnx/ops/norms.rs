//! Normalisations.

use super::Val;
use super::reductions::reduced;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, product, to_usize};
use rin_engine::graph::Held;
use rin_model::graph::{Binary, GraphOp, ReduceKind, Unary};

/// `1 ÷ √(x + ε)`.
fn inverse_root(cx: &mut Context<'_, '_>, x: Val, eps: f32) -> Lowered<Val> {
    let eps = cx.float(eps);
    let sum = cx.binary(Binary::Add, x, eps)?;
    let root = cx.unary(Unary::Sqrt, sum)?;
    cx.unary(Unary::Reciprocal, root)
}

pub(super) fn batch(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let [x, scale, bias, mean, variance] = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?];
    if cx.flag("training_mode", false)? || cx.opset >= 14 && cx.wants(1) {
        return Err(OnnxError::shape("training mode; export the model for inference"));
    }
    let eps = cx.number("epsilon", 1e-5)?;
    let rank = cx.shape(x).len();
    let root = inverse_root(cx, variance, eps)?;
    let factor = cx.binary(Binary::Mul, scale, root)?;
    let product = cx.binary(Binary::Mul, mean, factor)?;
    let offset = cx.binary(Binary::Sub, bias, product)?;
    if let Some(made) = into_convolution(cx, x, factor, offset)? {
        return Ok(vec![made]);
    }
    let (factor, offset) = (cx.along(factor, 1, rank)?, cx.along(offset, 1, rank)?);
    let scaled = cx.binary(Binary::Mul, x, factor)?;
    Ok(vec![cx.binary(Binary::Add, scaled, offset)?])
}

/// A factor and an offset for each channel as part of the convolution before, where all of them are constants.
fn into_convolution(cx: &mut Context<'_, '_>, x: Val, factor: Val, offset: Val) -> Lowered<Option<Val>> {
    let floats = |cx: &Context<'_, '_>, val: Val| cx.builder.held(val).and_then(Held::to_floats);
    let Some((GraphOp::Conv { window, group, function }, inputs)) = cx.builder.made_by(x) else { return Ok(None) };
    let (window, group, inputs) = (window.clone(), *group, inputs.to_vec());
    let (Some(&image), Some(&weight)) = (inputs.first(), inputs.get(1)) else { return Ok(None) };
    if !function.is_identity() || !cx.is_alone(0) {
        return Ok(None);
    }
    let bias = match inputs.get(2) {
        Some(&bias) => floats(cx, bias),
        None => Some(vec![0.0; dim(&cx.shape(weight), 0)]),
    };
    let (Some(w), Some(bias), Some(f), Some(o)) = (floats(cx, weight), bias, floats(cx, factor), floats(cx, offset))
    else {
        return Ok(None);
    };
    let shape = cx.shape(weight);
    let each = product(&shape).checked_div(dim(&shape, 0)).unwrap_or(0).max(1);
    if f.len() != dim(&shape, 0) || o.len() != f.len() || bias.len() != f.len() {
        return Ok(None);
    }
    // In double precision, rounded once.
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
    let scaled: Vec<f32> = w
        .chunks(each)
        .zip(&f)
        .flat_map(|(row, &f)| row.iter().map(move |&w| (f64::from(w) * f64::from(f)) as f32))
        .collect();
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
    let moved: Vec<f32> = bias
        .iter()
        .zip(f.iter().zip(&o))
        .map(|(&b, (&f, &o))| (f64::from(b) * f64::from(f) + f64::from(o)) as f32)
        .collect();
    let weight = cx.builder.constant(Held::floats(&shape, &scaled));
    let bias = cx.builder.constant(Held::floats(&[moved.len()], &moved));
    let op = GraphOp::Conv { window, group, function: rin_model::Function::Identity };
    cx.push(op, &[image, weight, bias]).map(Some)
}

/// The mean, the inverse of the deviation, and what is normalised with them, along axes.
fn normalised(cx: &mut Context<'_, '_>, x: Val, axes: &[usize], eps: f32) -> Lowered<[Val; 3]> {
    let mean = reduced(cx, ReduceKind::Mean, axes, x)?;
    let moved = cx.binary(Binary::Sub, x, mean)?;
    let squares = cx.binary(Binary::Mul, moved, moved)?;
    let variance = reduced(cx, ReduceKind::Mean, axes, squares)?;
    let root = inverse_root(cx, variance, eps)?;
    Ok([mean, root, cx.binary(Binary::Mul, moved, root)?])
}

pub(super) fn layer(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", -1)?, shape.len())?;
    let eps = cx.number("epsilon", 1e-5)?;
    let own = shape.get(axis..).unwrap_or_default().to_vec();
    if !cx.wants(1) && !cx.wants(2) {
        let zero = cx.float(0.0);
        let bias = cx.maybe(2).unwrap_or(zero);
        let (scale, bias) = (cx.expand(scale, &own)?, cx.expand(bias, &own)?);
        return Ok(vec![cx.push(GraphOp::LayerNorm { axis, eps }, &[x, scale, bias])?]);
    }
    let axes: Vec<usize> = (axis..shape.len()).collect();
    let [mean, root, made] = normalised(cx, x, &axes, eps)?;
    let mut made = cx.binary(Binary::Mul, made, scale)?;
    if let Some(bias) = cx.maybe(2) {
        made = cx.binary(Binary::Add, made, bias)?;
    }
    Ok(vec![made, mean, root])
}

pub(super) fn rms(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", -1)?, shape.len())?;
    let axes: Vec<usize> = (axis..shape.len()).collect();
    let eps = cx.number("epsilon", 1e-5)?;
    let squares = cx.binary(Binary::Mul, x, x)?;
    let mean = reduced(cx, ReduceKind::Mean, &axes, squares)?;
    let root = inverse_root(cx, mean, eps)?;
    let made = cx.binary(Binary::Mul, x, root)?;
    Ok(vec![cx.binary(Binary::Mul, made, scale)?])
}

pub(super) fn instance(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let rank = cx.shape(x).len();
    let axes: Vec<usize> = (2..rank).collect();
    let eps = cx.number("epsilon", 1e-5)?;
    let [_, _, made] = normalised(cx, x, &axes, eps)?;
    channels(cx, made, scale, bias)
}

/// A scale and a bias for each channel.
fn channels(cx: &mut Context<'_, '_>, x: Val, scale: Val, bias: Val) -> Lowered<Vec<Val>> {
    let rank = cx.shape(x).len();
    let (scale, bias) = (cx.along(scale, 1, rank)?, cx.along(bias, 1, rank)?);
    let made = cx.binary(Binary::Mul, x, scale)?;
    Ok(vec![cx.binary(Binary::Add, made, bias)?])
}

pub(super) fn group(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, mut scale, mut bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let shape = cx.shape(x);
    let groups = to_usize(cx.int("num_groups", 0)?)?;
    let (batch, n) = (dim(&shape, 0), product(shape.get(1..).unwrap_or_default()));
    let each = n.checked_div(groups).unwrap_or(0);
    let eps = cx.number("epsilon", 1e-5)?;
    let flat = cx.reshape(x, &[batch, groups, each])?;
    let [_, _, made] = normalised(cx, flat, &[2], eps)?;
    let made = cx.reshape(made, &shape)?;
    if cx.opset < 21 {
        // One number for each group until version 21.
        let per_group = dim(&shape, 1).checked_div(groups).unwrap_or(0);
        for val in [&mut scale, &mut bias] {
            let column = cx.reshape(*val, &[groups, 1])?;
            let wide = cx.expand(column, &[groups, per_group])?;
            *val = cx.reshape(wide, &[groups.saturating_mul(per_group)])?;
        }
    }
    channels(cx, made, scale, bias)
}
