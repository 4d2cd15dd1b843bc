//! Sums, extremes, softmax, and places along axes.

use super::Val;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, product, to_usize};
use rin_engine::graph::Held;
use rin_model::DType;
use rin_model::graph::{ArgKind, Binary, GraphOp, ReduceKind, Unary};

/// What comes before and after the sum or extreme of an operator.
struct Parts {
    before: Option<Unary>,
    squared: bool,
    kind: ReduceKind,
    after: Option<Unary>,
}

fn parts(op: &str) -> Option<Parts> {
    let of = |kind| Parts { before: None, squared: false, kind, after: None };
    let sum = || of(ReduceKind::Sum);
    Some(match op {
        "ReduceSum" => sum(),
        "ReduceMean" => of(ReduceKind::Mean),
        "ReduceMax" => of(ReduceKind::Max),
        "ReduceMin" => of(ReduceKind::Min),
        "ReduceProd" => of(ReduceKind::Prod),
        "ReduceSumSquare" => Parts { squared: true, ..sum() },
        "ReduceL1" => Parts { before: Some(Unary::Abs), ..sum() },
        "ReduceL2" => Parts { squared: true, after: Some(Unary::Sqrt), ..sum() },
        "ReduceLogSum" => Parts { after: Some(Unary::Log), ..sum() },
        _ => return None,
    })
}

/// One number of those along axes that stay with size 1.
pub(super) fn reduced(cx: &mut Context<'_, '_>, kind: ReduceKind, axes: &[usize], x: Val) -> Lowered<Val> {
    cx.push(GraphOp::Reduce { kind, axes: axes.to_vec(), keep: true }, &[x])
}

pub(super) fn reduce(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let listed = cx.list("axes", 1)?.unwrap_or_default();
    if listed.is_empty() && cx.flag("noop_with_empty_axes", false)? {
        return without_axes(cx, x);
    }
    let axes = if listed.is_empty() { (0..shape.len()).collect() } else { cx.axes(&listed, shape.len())? };
    let keep = cx.flag("keepdims", true)?;
    if cx.node.op == "ReduceLogSumExp" {
        return log_sum_exp(cx, x, &axes, keep);
    }
    let unknown = || OnnxError::shape("a reduction without a rule");
    let Parts { before, squared, kind, after } = parts(cx.node.op).ok_or_else(unknown)?;
    let mut made = x;
    if let Some(before) = before {
        made = cx.unary(before, made)?;
    }
    if squared {
        made = cx.binary(Binary::Mul, made, made)?;
    }
    made = cx.push(GraphOp::Reduce { kind, axes, keep }, &[made])?;
    match after {
        Some(after) if cx.dtype(made) == DType::F32 => made = cx.unary(after, made)?,
        Some(after) => {
            let dtype = cx.dtype(made);
            let float = cx.cast(made, DType::F32)?;
            let float = cx.unary(after, float)?;
            made = cx.cast(float, dtype)?;
        }
        None => {}
    }
    Ok(vec![made])
}

/// A reduction over no axes: what is done to each number stays.
fn without_axes(cx: &mut Context<'_, '_>, x: Val) -> Lowered<Vec<Val>> {
    Ok(vec![match cx.node.op {
        "ReduceL1" | "ReduceL2" => cx.unary(Unary::Abs, x)?,
        "ReduceLogSum" => cx.unary(Unary::Log, x)?,
        "ReduceSumSquare" => cx.binary(Binary::Mul, x, x)?,
        _ => x,
    }])
}

/// `ln Σ e^x` from the largest down, so that nothing overflows.
fn log_sum_exp(cx: &mut Context<'_, '_>, x: Val, axes: &[usize], keep: bool) -> Lowered<Vec<Val>> {
    let largest = reduced(cx, ReduceKind::Max, axes, x)?;
    let moved = cx.binary(Binary::Sub, x, largest)?;
    let powers = cx.unary(Unary::Exp, moved)?;
    let sum = reduced(cx, ReduceKind::Sum, axes, powers)?;
    let logarithm = cx.unary(Unary::Log, sum)?;
    let made = cx.binary(Binary::Add, logarithm, largest)?;
    if keep {
        return Ok(vec![made]);
    }
    let shape = cx.shape(made);
    let kept: Vec<usize> = shape.iter().enumerate().filter(|(d, _)| !axes.contains(d)).map(|(_, &n)| n).collect();
    Ok(vec![cx.reshape(made, &kept)?])
}

fn kind_of(largest: bool) -> ArgKind {
    if largest { ArgKind::Max } else { ArgKind::Min }
}

pub(super) fn arg(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axis = cx.axis(cx.int("axis", 0)?, cx.shape(x).len())?;
    let (keep, last) = (cx.flag("keepdims", true)?, cx.flag("select_last_index", false)?);
    let kind = kind_of(cx.node.op == "ArgMax");
    Ok(vec![cx.push(GraphOp::Arg { kind, axis, keep, last }, &[x])?])
}

pub(super) fn softmax(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let (shape, log) = (cx.shape(x), cx.node.op == "LogSoftmax");
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis", -1)?, shape.len())?;
        return Ok(vec![cx.push(GraphOp::Softmax { axis, log }, &[x])?]);
    }
    // Until version 13 over everything from the axis on.
    let axis = cx.axis(cx.int("axis", 1)?, shape.len())?;
    let (rows, cols) = shape.split_at_checked(axis).unwrap_or((&shape, &[]));
    let flat = cx.reshape(x, &[product(rows), product(cols)])?;
    let made = cx.push(GraphOp::Softmax { axis: 1, log }, &[flat])?;
    Ok(vec![cx.reshape(made, &shape)?])
}

pub(super) fn cum_sum(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axis = cx.known_input(1, "axis")?.and_then(|list| list.first().copied());
    let axis = axis.ok_or_else(|| OnnxError::shape("no axis"))?;
    let axis = cx.axis(axis, cx.shape(x).len())?;
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    Ok(vec![cx.push(GraphOp::CumSum { axis, exclusive, reverse }, &[x])?])
}

pub(super) fn top_k(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axis = cx.axis(cx.int("axis", -1)?, cx.shape(x).len())?;
    let k = match cx.maybe(1) {
        Some(k) => {
            let known = cx.builder.held(k).and_then(Held::to_integers).and_then(|list| list.first().copied());
            known.ok_or_else(|| OnnxError::shape("a k that is computed; every size has to be known beforehand"))?
        }
        None => cx.int("k", 0)?,
    };
    let (k, kind) = (to_usize(k)?, kind_of(cx.flag("largest", true)?));
    let values = cx.push(GraphOp::TopK { k, axis, kind, places: false }, &[x])?;
    let places = cx.push(GraphOp::TopK { k, axis, kind, places: true }, &[x])?;
    Ok(vec![values, places])
}
