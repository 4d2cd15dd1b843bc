//! Attention as one operator (version 23): products, a mask and a softmax.

use super::Val;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, to_i64, to_usize};
use rin_engine::graph::Held;
use rin_model::DType;
use rin_model::graph::{Binary, GraphOp, Unary};

/// Rows of heads side by side, `(batch, length, heads × width)`, as `(batch, heads, length, width)`.
fn heads_first(cx: &mut Context<'_, '_>, x: Val, heads: &str) -> Lowered<Val> {
    let shape = cx.shape(x);
    if shape.len() == 4 {
        return Ok(x);
    }
    let n = to_usize(cx.int(heads, 0)?)?;
    let [batch, length, width] = shape[..] else {
        return Err(OnnxError::shape(format!("an input of shape {shape:?}")));
    };
    let each = width.checked_div(n).ok_or_else(|| OnnxError::shape(format!("no {heads}")))?;
    let x = cx.reshape(x, &[batch, length, n, each])?;
    cx.transpose(x, &[0, 2, 1, 3])
}

/// Keys or values for each head of the queries: heads that share them follow each other.
fn repeated(cx: &mut Context<'_, '_>, x: Val, heads: usize) -> Lowered<Val> {
    let shape = cx.shape(x);
    let [batch, own, length, width] = shape[..] else {
        return Err(OnnxError::shape("keys or values of other dimensions"));
    };
    if own == heads {
        return Ok(x);
    }
    let times = heads.checked_div(own).filter(|times| times.saturating_mul(own) == heads);
    let times = times.ok_or_else(|| OnnxError::shape(format!("{heads} heads of queries for {own} of keys")))?;
    let x = cx.reshape(x, &[batch, own, 1, length, width])?;
    let x = cx.expand(x, &[batch, own, times, length, width])?;
    cx.reshape(x, &[batch, heads, length, width])
}

/// What is added to the scores: 0 where a query may look, −∞ elsewhere, or what the model says.
fn bias(cx: &mut Context<'_, '_>, queries: usize, keys: usize, past: usize) -> Lowered<Option<Val>> {
    let mut made = None;
    if let Some(mask) = cx.maybe(3) {
        let mask = match cx.dtype(mask) {
            DType::Bool => {
                let (zero, never) = (cx.float(0.0), cx.float(f32::NEG_INFINITY));
                cx.push(GraphOp::Where, &[mask, zero, never])?
            }
            _ => mask,
        };
        let shape = cx.shape(mask);
        let rank = shape.len();
        let width = dim(&shape, rank.saturating_sub(1));
        // Keys that a mask does not speak of are not looked at.
        made = Some(if width < keys && width > 1 {
            let never = cx.float(f32::NEG_INFINITY);
            let mut rest = shape;
            rest.iter_mut().skip(rank.saturating_sub(1)).for_each(|n| *n = keys.saturating_sub(width));
            let never = cx.expand(never, &rest)?;
            cx.concat(&[mask, never], rank.saturating_sub(1))?
        } else {
            mask
        });
    }
    if let Some(lengths) = cx.maybe(6) {
        let batch = cx.builder.value(lengths).count();
        let limit = cx.reshape(lengths, &[batch, 1, 1, 1])?;
        return with_lengths(cx, made, limit, queries, keys);
    }
    if cx.flag("is_causal", false)? {
        let mut values = Vec::with_capacity(queries.saturating_mul(keys));
        for query in 0..queries {
            values.extend((0..keys).map(|key| if key <= query.saturating_add(past) { 0.0 } else { f32::NEG_INFINITY }));
        }
        let causal = cx.builder.constant(Held::floats(&[queries, keys], &values));
        made = Some(match made {
            Some(mask) => cx.binary(Binary::Add, mask, causal)?,
            None => causal,
        });
    }
    Ok(made)
}

/// The bias with keys left out from a length on that each row of the batch has for itself: `(batch, 1, 1, 1)`. Causal
/// queries are the last of those keys.
fn with_lengths(
    cx: &mut Context<'_, '_>,
    mask: Option<Val>,
    lengths: Val,
    queries: usize,
    keys: usize,
) -> Lowered<Option<Val>> {
    let places: Vec<i64> = (0..to_i64(keys)).collect();
    let places = cx.builder.constant(Held::integers(DType::I64, &[keys], &places));
    let mut seen = cx.binary(Binary::Less, places, lengths)?;
    if cx.flag("is_causal", false)? {
        let from_end: Vec<i64> = (0..to_i64(queries)).map(|at| at.saturating_sub(to_i64(queries))).collect();
        let from_end = cx.builder.constant(Held::integers(DType::I64, &[queries, 1], &from_end));
        let own = cx.binary(Binary::Add, lengths, from_end)?;
        let causal = cx.binary(Binary::LessOrEqual, places, own)?;
        seen = cx.binary(Binary::And, seen, causal)?;
    }
    let (zero, never) = (cx.float(0.0), cx.float(f32::NEG_INFINITY));
    let made = cx.push(GraphOp::Where, &[seen, zero, never])?;
    match mask {
        Some(mask) => cx.binary(Binary::Add, mask, made).map(Some),
        None => Ok(Some(made)),
    }
}

pub(super) fn attention(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if cx.maybe(6).is_some() && cx.maybe(4).is_some() {
        return Err(OnnxError::shape("nonpad_kv_seqlen beside keys of the past"));
    }
    let flat = cx.shape(q).len() == 3;
    let (q, mut k, mut v) =
        (heads_first(cx, q, "q_num_heads")?, heads_first(cx, k, "kv_num_heads")?, heads_first(cx, v, "kv_num_heads")?);
    let mut past = 0;
    if let (Some(past_k), Some(past_v)) = (cx.maybe(4), cx.maybe(5)) {
        past = dim(&cx.shape(past_k), 2);
        k = cx.concat(&[past_k, k], 2)?;
        v = cx.concat(&[past_v, v], 2)?;
    }
    let present = [k, v];
    let shape = cx.shape(q);
    let [batch, heads, length, width] = shape[..] else { return Err(OnnxError::shape(format!("queries {shape:?}"))) };
    let keys = dim(&cx.shape(k), 2);
    let (k, v) = (repeated(cx, k, heads)?, repeated(cx, v, heads)?);
    // Half of the scale on either side, as the definition has it.
    #[expect(clippy::cast_precision_loss, reason = "a width of a head")]
    let scale = cx.number("scale", 1.0 / (width as f32).sqrt())?.sqrt();
    let scale = cx.float(scale);
    let (q, k) = (cx.binary(Binary::Mul, q, scale)?, cx.binary(Binary::Mul, k, scale)?);
    let k = cx.transpose(k, &[0, 1, 3, 2])?;
    let raw = cx.push(GraphOp::MatMul, &[q, k])?;
    let softcap = cx.number("softcap", 0.0)?;
    let capped = if softcap > 0.0 {
        let cap = cx.float(softcap);
        let x = cx.binary(Binary::Div, raw, cap)?;
        let x = cx.unary(Unary::Tanh, x)?;
        cx.binary(Binary::Mul, x, cap)?
    } else {
        raw
    };
    let mask = bias(cx, length, keys, past)?;
    let masked = match mask {
        Some(mask) => cx.binary(Binary::Add, capped, mask)?,
        None => capped,
    };
    let axis = 3;
    let mut share = cx.push(GraphOp::Softmax { axis, log: false }, &[masked])?;
    if mask.is_some() {
        // A query that may look at nothing gets nothing.
        let (nothing, zero) = (cx.push(GraphOp::IsNan, &[share])?, cx.float(0.0));
        share = cx.push(GraphOp::Where, &[nothing, zero, share])?;
    }
    let mut made = cx.push(GraphOp::MatMul, &[share, v])?;
    if flat {
        let width = dim(&cx.shape(made), 3);
        made = cx.transpose(made, &[0, 2, 1, 3])?;
        made = cx.reshape(made, &[batch, length, heads.saturating_mul(width)])?;
    }
    let scores = match cx.int("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => capped,
        2 => masked,
        3 => share,
        mode => return Err(OnnxError::shape(format!("qk_matmul_output_mode {mode} of 0 to 3"))),
    };
    Ok(vec![made, present[0], present[1], scores])
}
