//! Convolutions and pools.

use super::Val;
use super::quantized;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, to_usize};
use rin_model::Function;
use rin_model::graph::{GraphOp, PoolKind, ReduceKind, Window};

/// Sizes of a parameter with one entry for each dimension.
fn sizes(cx: &Context<'_, '_>, name: &str, rank: usize, default: usize) -> Lowered<Vec<usize>> {
    match cx.ints(name)? {
        None => Ok(vec![default; rank]),
        Some(list) if list.len() == rank => list.into_iter().map(to_usize).collect(),
        Some(list) => Err(OnnxError::shape(format!("{name} {list:?} of {rank} dimensions"))),
    }
}

/// The window of a node over an image of these sizes; `ceil` is whether the last place may hang over.
pub(super) fn window(cx: &Context<'_, '_>, image: &[usize], kernel: Vec<usize>, ceil: bool) -> Lowered<Window> {
    let rank = image.len();
    if !(1..=3).contains(&rank) || kernel.len() != rank {
        return Err(OnnxError::shape(format!("a window {kernel:?} over {image:?}, and 1 to 3 dimensions are run")));
    }
    let (strides, dilations) = (sizes(cx, "strides", rank, 1)?, sizes(cx, "dilations", rank, 1)?);
    if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
        return Err(OnnxError::shape("a size or a step of 0"));
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    let mut places = Vec::with_capacity(rank);
    let pads = sizes(cx, "pads", rank.saturating_mul(2), 0)?;
    let auto = cx.text("auto_pad", "NOTSET")?;
    for d in 0..rank {
        let (n, stride) = (dim(image, d), dim(&strides, d));
        let reach = dim(&kernel, d).saturating_sub(1).saturating_mul(dim(&dilations, d)).saturating_add(1);
        let (start, end) = match auto {
            "NOTSET" => (pads.get(d).copied().unwrap_or(0), pads.get(d.saturating_add(rank)).copied().unwrap_or(0)),
            "VALID" => (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let places = n.div_ceil(stride);
                let total = places.saturating_sub(1).saturating_mul(stride).saturating_add(reach).saturating_sub(n);
                let less = total.checked_div(2).unwrap_or(0);
                let more = total.saturating_sub(less);
                if auto == "SAME_UPPER" { (less, more) } else { (more, less) }
            }
            other => return Err(OnnxError::shape(format!("auto_pad `{other}`"))),
        };
        let padded = n.saturating_add(start).saturating_add(end);
        let room = padded.checked_sub(reach);
        let room = room.ok_or_else(|| OnnxError::shape(format!("a window of {reach} over {padded} elements")))?;
        let steps = if ceil { room.div_ceil(stride) } else { room.checked_div(stride).unwrap_or(0) };
        let mut count = steps.saturating_add(1);
        // A last place that begins in the padding behind the image is none.
        if ceil && steps.saturating_mul(stride) >= n.saturating_add(start) {
            count = count.saturating_sub(1);
        }
        before.iter_mut().skip(d).take(1).for_each(|pad| *pad = start);
        after.iter_mut().skip(d).take(1).for_each(|pad| *pad = end);
        places.push(count);
    }
    Ok(Window { kernel, strides, dilations, before, after, places })
}

/// Sizes of the image of an array `(batch, channels, …)`.
pub(super) fn image(shape: &[usize]) -> &[usize] {
    shape.get(2..).unwrap_or_default()
}

pub(super) fn conv(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (shape, weight) = (cx.shape(x), cx.shape(w));
    let window = window(cx, image(&shape), image(&weight).to_vec(), false)?;
    let group = to_usize(cx.int("group", 1)?)?;
    if let Some(made) = quantized::integer_convolution(cx, x, w, &window, group)? {
        return Ok(vec![match cx.maybe(2) {
            Some(bias) => quantized::add_channel_bias(cx, made, bias)?,
            None => made,
        }]);
    }
    let mut inputs = vec![x, w];
    inputs.extend(cx.maybe(2));
    Ok(vec![cx.push(GraphOp::Conv { window, group, function: Function::Identity }, &inputs)?])
}

/// Whether the pool looks at whole columns and only has to be asked for what it needs.
fn pool(cx: &mut Context<'_, '_>, kind: PoolKind) -> Lowered<Val> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let kernel = sizes(cx, "kernel_shape", image(&shape).len(), 1)?;
    let window = window(cx, image(&shape), kernel, cx.flag("ceil_mode", false)?)?;
    cx.push(GraphOp::Pool { kind, window }, &[x])
}

pub(super) fn max_pool(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let mut made = vec![pool(cx, PoolKind::Max)?];
    if cx.wants(1) {
        if cx.flag("storage_order", false)? {
            return Err(OnnxError::shape("places counted column by column (storage_order 1)"));
        }
        made.push(pool(cx, PoolKind::MaxIndex)?);
    }
    Ok(made)
}

pub(super) fn average_pool(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let padding = cx.flag("count_include_pad", false)?;
    Ok(vec![pool(cx, if padding { PoolKind::AverageWithPadding } else { PoolKind::Average })?])
}

fn over_image(cx: &mut Context<'_, '_>, kind: ReduceKind) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axes: Vec<usize> = (2..cx.shape(x).len()).collect();
    Ok(vec![super::reductions::reduced(cx, kind, &axes, x)?])
}

pub(super) fn global_average_pool(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    over_image(cx, ReduceKind::Mean)
}

pub(super) fn global_max_pool(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    over_image(cx, ReduceKind::Max)
}
