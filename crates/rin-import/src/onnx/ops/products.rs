//! Products. One with a constant matrix becomes a product with weights that are packed for the kernels, and what follows
//! it, a bias and a function, becomes part of it.

use super::Val;
use super::quantized;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, product};
use rin_engine::graph::Held;
use rin_model::graph::{Binary, GraphOp};
use rin_model::{DType, Function};

/// A constant matrix `(k, n)`, or `(n, k)` where it is transposed, times a factor, as the rows of a weight.
fn weight_rows(held: &Held, transposed: bool, factor: f32) -> Option<([usize; 2], Vec<f32>)> {
    let (&[a, b], values) = (held.value().shape.as_slice(), held.to_floats()?) else { return None };
    if a == 0 || b == 0 || !values.iter().all(|x| (x * factor).is_finite()) {
        return None;
    }
    if transposed {
        return Some(([a, b], values.iter().map(|x| x * factor).collect()));
    }
    let mut rows = Vec::with_capacity(values.len());
    for col in 0..b {
        rows.extend(values.iter().skip(col).step_by(b).map(|x| x * factor));
    }
    Some(([b, a], rows))
}

/// `x · weightᵀ`, with a bias of one number for each output.
fn linear(cx: &mut Context<'_, '_>, x: Val, shape: [usize; 2], rows: Vec<f32>, bias: Option<Vec<f32>>) -> Lowered<Val> {
    let weight = cx.builder.weight("weight", &shape, rows);
    let bias = bias.map(|values| {
        let n = values.len();
        cx.builder.weight("bias", &[n], values)
    });
    cx.push(GraphOp::Linear { weight, bias, function: Function::Identity }, &[x])
}

/// A product of arrays, of which either may be a vector.
pub(super) fn mat_mul(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    Ok(vec![vectors_too(cx, a, b, |cx, a, b| {
        if let Some(made) = quantized::integer_product(cx, a, b, false)? {
            return Ok(made);
        }
        let rows = if cx.builder.held(a).is_none() {
            cx.builder.held(b).and_then(|b| weight_rows(b, false, 1.0))
        } else {
            None
        };
        match rows {
            Some((shape, rows)) => linear(cx, a, shape, rows, None),
            None => cx.push(GraphOp::MatMul, &[a, b]),
        }
    })?])
}

/// Runs a product of matrices on arrays of which either may be a vector, which is a matrix of one row or column then.
pub(super) fn vectors_too<F>(cx: &mut Context<'_, '_>, a: Val, b: Val, multiply: F) -> Lowered<Val>
where
    F: FnOnce(&mut Context<'_, '_>, Val, Val) -> Lowered<Val>,
{
    let (left, right) = (cx.shape(a), cx.shape(b));
    let row = left.len() == 1;
    let column = right.len() == 1;
    let a = if row { cx.reshape(a, &[1, product(&left)])? } else { a };
    let b = if column { cx.reshape(b, &[product(&right), 1])? } else { b };
    let made = multiply(cx, a, b)?;
    if !row && !column {
        return Ok(made);
    }
    let shape = cx.shape(made);
    let rank = shape.len();
    let gone = |d: usize| row && d == rank.saturating_sub(2) || column && d == rank.saturating_sub(1);
    let kept: Vec<usize> = shape.iter().enumerate().filter(|(d, _)| !gone(*d)).map(|(_, &n)| n).collect();
    cx.reshape(made, &kept)
}

pub(super) fn gemm(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (mut a, mut b) = (cx.input(0)?, cx.input(1)?);
    let (alpha, beta) = (cx.number("alpha", 1.0)?, cx.number("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.flag("transA", false)?, cx.flag("transB", false)?);
    if cx.shape(a).len() != 2 || cx.shape(b).len() != 2 {
        return Err(OnnxError::shape("arrays that are no matrices"));
    }
    if trans_a {
        a = cx.transpose(a, &[1, 0])?;
    }
    let unscaled = (alpha - 1.0).abs() == 0.0;
    let mut made = None;
    if unscaled {
        made = quantized::integer_product(cx, a, b, trans_b)?;
    }
    if let (None, None) = (made, cx.builder.held(a))
        && let Some((shape, rows)) = cx.builder.held(b).and_then(|b| weight_rows(b, trans_b, alpha))
    {
        let bias = cx.maybe(2).and_then(|c| bias_of(cx, c, dim(&shape, 0), beta));
        let (whole, made) = (bias.is_some(), linear(cx, a, shape, rows, bias)?);
        return match cx.maybe(2) {
            Some(c) if !whole => add_scaled(cx, made, c, beta),
            _ => Ok(vec![made]),
        };
    }
    let mut made = if let Some(made) = made {
        made
    } else {
        if trans_b {
            b = cx.transpose(b, &[1, 0])?;
        }
        cx.push(GraphOp::MatMul, &[a, b])?
    };
    if !unscaled {
        let alpha = cx.float(alpha);
        made = cx.binary(Binary::Mul, made, alpha)?;
    }
    match cx.maybe(2) {
        Some(c) => match quantized::add_bias(cx, made, c)? {
            Some(made) => Ok(vec![made]),
            None => add_scaled(cx, made, c, beta),
        },
        None => Ok(vec![made]),
    }
}

fn add_scaled(cx: &mut Context<'_, '_>, made: Val, c: Val, beta: f32) -> Lowered<Vec<Val>> {
    let c = if (beta - 1.0).abs() == 0.0 {
        c
    } else {
        let beta = cx.float(beta);
        cx.binary(Binary::Mul, c, beta)?
    };
    Ok(vec![cx.binary(Binary::Add, made, c)?])
}

/// A constant that adds one number to each of `n` outputs, times a factor.
fn bias_of(cx: &Context<'_, '_>, c: Val, n: usize, factor: f32) -> Option<Vec<f32>> {
    let held = cx.builder.held(c).filter(|held| held.value().dtype == DType::F32)?;
    let shape = &held.value().shape;
    // A single number, or a row: whatever comes before the last dimension has size 1.
    let row = shape.len() <= 1 || product(shape.get(..shape.len().saturating_sub(1)).unwrap_or_default()) == 1;
    let values = held.to_floats()?;
    if !row || !values.iter().all(|x| (x * factor).is_finite()) {
        return None;
    }
    match values[..] {
        [one] => Some(vec![one * factor; n]),
        _ if values.len() == n => Some(values.iter().map(|x| x * factor).collect()),
        _ => None,
    }
}

/// `a + b` as the bias of a product that makes one of them, where the other is a constant for each output.
pub(super) fn add_bias(cx: &mut Context<'_, '_>, a: Val, b: Val) -> Lowered<Option<Val>> {
    for (made, other, place) in [(a, b, 0), (b, a, 1)] {
        if !cx.is_alone(place) {
            continue;
        }
        if let Some(found) = quantized::add_bias(cx, made, other)? {
            return Ok(Some(found));
        }
        let Some((GraphOp::Linear { weight, bias: None, function }, inputs)) = cx.builder.made_by(made) else {
            continue;
        };
        if !function.is_identity() || cx.shape(other).len() > cx.shape(made).len() {
            continue;
        }
        let (weight, inputs) = (weight.clone(), inputs.to_vec());
        let n = cx.shape(made).last().copied().unwrap_or(0);
        if let Some(values) = bias_of(cx, other, n, 1.0) {
            let bias = Some(cx.builder.weight("bias", &[n], values));
            cx.builder.replace(made, GraphOp::Linear { weight, bias, function: Function::Identity }, inputs);
            return Ok(Some(made));
        }
    }
    Ok(None)
}
