//! Shapes: what moves, repeats, cuts and joins elements.

use super::Val;
use crate::onnx::error::OnnxError;
use crate::onnx::node::{Context, Lowered, dim, product, signed, steps, to_i64, to_usize};
use rin_engine::graph::Held;
use rin_model::DType;
use rin_model::graph::{GraphOp, Region};
use rin_model::onnx::Attribute;

pub(super) fn reshape(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let wanted = cx.list("shape", 1)?.ok_or_else(|| OnnxError::shape("no shape"))?;
    let (own, zero_is_zero) = (cx.shape(x), cx.flag("allowzero", false)?);
    let mut made = Vec::with_capacity(wanted.len());
    for (d, &n) in wanted.iter().enumerate() {
        made.push(match n {
            0 if !zero_is_zero => {
                own.get(d).copied().ok_or_else(|| OnnxError::shape("a size of 0 beyond the input"))?
            }
            // Worked out below.
            -1 => 1,
            n => to_usize(n)?,
        });
    }
    let open: Vec<usize> = (0..wanted.len()).filter(|&d| wanted.get(d) == Some(&-1)).collect();
    if let [open] = open[..] {
        let rest = product(&made);
        let n = product(&own).checked_div(rest).unwrap_or(0);
        made.iter_mut().skip(open).take(1).for_each(|size| *size = n);
    } else if !open.is_empty() {
        return Err(OnnxError::shape(format!("shape {wanted:?}, with more than one size to be worked out")));
    }
    Ok(vec![cx.reshape(x, &made)?])
}

pub(super) fn flatten(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let axis = cx.int("axis", 1)?;
    // The rank itself is an axis here.
    let axis = if axis == to_i64(shape.len()) { shape.len() } else { cx.axis(axis, shape.len())? };
    let (rows, cols) = shape.split_at_checked(axis).unwrap_or((&shape, &[]));
    Ok(vec![cx.reshape(x, &[product(rows), product(cols)])?])
}

pub(super) fn squeeze(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let gone = match cx.list("axes", 1)? {
        Some(axes) => cx.axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&d| dim(&shape, d) == 1).collect(),
    };
    if gone.iter().any(|&d| dim(&shape, d) != 1) {
        return Err(OnnxError::shape(format!("axes {gone:?} of {shape:?}, which are not all of size 1")));
    }
    let made: Vec<usize> = shape.iter().enumerate().filter(|(d, _)| !gone.contains(d)).map(|(_, &n)| n).collect();
    Ok(vec![cx.reshape(x, &made)?])
}

pub(super) fn unsqueeze(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let axes = cx.list("axes", 1)?.ok_or_else(|| OnnxError::shape("no axes"))?;
    let own = cx.shape(x);
    let rank = own.len().saturating_add(axes.len());
    let new = cx.axes(&axes, rank)?;
    let mut sizes = own.into_iter();
    let made: Vec<usize> = (0..rank).map(|d| if new.contains(&d) { 1 } else { sizes.next().unwrap_or(1) }).collect();
    Ok(vec![cx.reshape(x, &made)?])
}

pub(super) fn transpose(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let rank = cx.shape(x).len();
    let order = match cx.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(order) => {
            let found = order.iter().map(|&d| cx.axis(d, rank)).collect::<Lowered<Vec<_>>>()?;
            if found.len() != rank || cx.axes(&order, rank)?.len() != rank {
                return Err(OnnxError::shape(format!("perm {order:?} of {rank} dimensions")));
            }
            found
        }
    };
    Ok(vec![cx.transpose(x, &order)?])
}

pub(super) fn concat(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let parts = (0..cx.inputs.len()).map(|i| cx.input(i)).collect::<Lowered<Vec<_>>>()?;
    let rank = parts.first().map_or(0, |&x| cx.shape(x).len());
    let axis = cx.axis(cx.int("axis", 1)?, rank)?;
    Ok(vec![cx.concat(&parts, axis)?])
}

pub(super) fn split(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", 0)?, shape.len())?;
    let n = dim(&shape, axis);
    let parts = if let Some(list) = cx.list("split", 1)? {
        list.into_iter().map(to_usize).collect::<Lowered<Vec<_>>>()?
    } else {
        let outputs = to_i64(cx.outputs());
        let count = to_usize(cx.int("num_outputs", outputs)?)?.clamp(1, 1 << 16);
        // The last may be smaller.
        let each = n.div_ceil(count);
        (0..count).map(|i| each.min(n.saturating_sub(i.saturating_mul(each)))).collect()
    };
    if parts.iter().fold(0_usize, |sum, &part| sum.saturating_add(part)) != n {
        return Err(OnnxError::shape(format!("parts {parts:?} of {n} along axis {axis}")));
    }
    let mut made = Vec::with_capacity(parts.len());
    let mut first = 0_usize;
    for part in parts {
        made.push(cx.cut(x, axis, first, 1, part)?);
        first = first.saturating_add(part);
    }
    Ok(made)
}

pub(super) fn slice(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let mut x = cx.input(0)?;
    let rank = cx.shape(x).len();
    let missing = || OnnxError::shape("no starts or ends");
    let (starts, ends) = (cx.list("starts", 1)?.ok_or_else(missing)?, cx.list("ends", 2)?.ok_or_else(missing)?);
    let axes = cx.list("axes", 3)?.unwrap_or_else(|| (0..to_i64(starts.len())).collect());
    let steps = cx.known_input(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    cx.axes(&axes, rank)?;
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(OnnxError::shape("starts, ends, axes and steps of different lengths"));
    }
    for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let axis = cx.axis(axis, rank)?;
        let n = to_i64(dim(&cx.shape(x), axis));
        let from_start = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
        let (first, last) = match step {
            0 => return Err(OnnxError::shape("a step of 0")),
            1.. => (from_start(start).clamp(0, n), from_start(end).clamp(0, n)),
            _ => {
                (from_start(start).clamp(0, n.saturating_sub(1).max(0)), from_start(end).clamp(-1, n.saturating_sub(1)))
            }
        };
        let span = if step > 0 { last.saturating_sub(first) } else { first.saturating_sub(last) };
        let stride = step.unsigned_abs();
        let count = u64::try_from(span).unwrap_or(0).div_ceil(stride);
        let count = if n == 0 { 0 } else { usize::try_from(count).unwrap_or(0) };
        let first = if count == 0 { 0 } else { to_usize(first)? };
        x = cx.cut(x, axis, first, step, count)?;
    }
    Ok(vec![x])
}

pub(super) fn gather(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, indices) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", 0)?, shape.len())?;
    // One known index cuts a slice out, which needs no look-up.
    if let Some(list) = cx.builder.held(indices).and_then(Held::to_integers)
        && let [index] = list[..]
        && cx.builder.held(x).is_none()
    {
        let n = dim(&shape, axis);
        let at = cx.axis(index, n)?;
        let cut = cx.cut(x, axis, at, 1, 1)?;
        let (before, rest) = shape.split_at_checked(axis).unwrap_or((&shape, &[]));
        let made = [before, &cx.shape(indices), rest.get(1..).unwrap_or_default()].concat();
        return Ok(vec![cx.reshape(cut, &made)?]);
    }
    if let Some(list) = cx.builder.held(indices).and_then(Held::to_integers) {
        let n = dim(&shape, axis);
        list.iter()
            .try_for_each(|&index| cx.axis(index, n).map(|_| ()))
            .map_err(|_| OnnxError::shape(format!("an index beyond the {n} elements along axis {axis}")))?;
    }
    Ok(vec![cx.push(GraphOp::Gather { axis }, &[x, indices])?])
}

pub(super) fn gather_elements(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let (x, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis(cx.int("axis", 0)?, cx.shape(x).len())?;
    Ok(vec![cx.push(GraphOp::GatherElements { axis }, &[x, indices])?])
}

pub(super) fn shape(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = signed(&cx.shape(x));
    let rank = to_i64(shape.len());
    let place =
        |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0);
    let (start, end) = (place(cx.int("start", 0)?), place(cx.int("end", rank)?));
    let sizes = shape.get(start..end).unwrap_or_default().to_vec();
    Ok(vec![cx.builder.constant(Held::integers(DType::I64, &[sizes.len()], &sizes))])
}

pub(super) fn size(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let n = to_i64(product(&cx.shape(x)));
    Ok(vec![cx.builder.constant(Held::integers(DType::I64, &[], &[n]))])
}

pub(super) fn constant(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    if let Some(found) = cx.tensor("value")? {
        return Ok(vec![found]);
    }
    let held = match cx.node.attributes.first().map(|(_, value)| value) {
        Some(Attribute::Float(x)) => Held::floats(&[], &[*x]),
        Some(Attribute::Floats(list)) => Held::floats(&[list.len()], list),
        Some(Attribute::Int(n)) => Held::integers(DType::I64, &[], &[*n]),
        Some(Attribute::Ints(list)) => Held::integers(DType::I64, &[list.len()], list),
        _ => return Err(OnnxError::shape("a constant that is no number")),
    };
    Ok(vec![cx.builder.constant(held)])
}

/// Sizes of an input that is a list of them.
fn sizes(cx: &Context<'_, '_>, input: usize, what: &str) -> Lowered<Vec<usize>> {
    let list = cx.known_input(input, what)?.ok_or_else(|| OnnxError::shape(format!("no {what}")))?;
    list.into_iter().map(to_usize).collect()
}

pub(super) fn constant_of_shape(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let shape = sizes(cx, 0, "shape")?;
    let value = match cx.tensor("value")? {
        Some(value) => cx.reshape(value, &[])?,
        None => cx.float(0.0),
    };
    Ok(vec![cx.expand(value, &shape)?])
}

pub(super) fn expand(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let (own, wanted) = (cx.shape(x), sizes(cx, 1, "shape")?);
    // The shape may have sizes of 1 where the input has others.
    let rank = own.len().max(wanted.len());
    let at = |list: &[usize], d: usize| d.checked_sub(rank.saturating_sub(list.len())).map_or(1, |d| dim(list, d));
    let size = |d: usize| if at(&wanted, d) == 1 { at(&own, d) } else { at(&wanted, d) };
    let made: Vec<usize> = (0..rank).map(size).collect();
    Ok(vec![cx.expand(x, &made)?])
}

pub(super) fn tile(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let (own, repeats) = (cx.shape(x), sizes(cx, 1, "repeats")?);
    if repeats.len() != own.len() {
        return Err(OnnxError::shape(format!("repeats {repeats:?} of {own:?}")));
    }
    // Each dimension as (times, size), the first of which is repeated.
    let once: Vec<usize> = own.iter().flat_map(|&n| [1, n]).collect();
    let made: Vec<usize> = own.iter().zip(&repeats).map(|(&n, &times)| n.saturating_mul(times)).collect();
    if once.len() <= rin_model::graph::MAX_RANK {
        let often: Vec<usize> = own.iter().zip(&repeats).flat_map(|(&n, &times)| [times, n]).collect();
        let x = cx.reshape(x, &once)?;
        let x = cx.expand(x, &often)?;
        return Ok(vec![cx.reshape(x, &made)?]);
    }
    let mut x = x;
    for (axis, &times) in repeats.iter().enumerate() {
        let parts = vec![x; times];
        if times != 1 {
            x = cx.concat(&parts, axis)?;
        }
    }
    Ok(vec![x])
}

pub(super) fn pad(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let name = if cx.opset < 2 { "paddings" } else { "pads" };
    let pads = cx.list(name, 1)?.ok_or_else(|| OnnxError::shape("no pads"))?;
    let axes = match cx.known_input(3, "axes")? {
        Some(axes) => axes.iter().map(|&axis| cx.axis(axis, shape.len())).collect::<Lowered<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    if pads.len() != axes.len().saturating_mul(2) {
        return Err(OnnxError::shape(format!("pads {pads:?} of {} dimensions", axes.len())));
    }
    let (mut before, mut after) = (vec![0_i64; shape.len()], vec![0_i64; shape.len()]);
    let (starts, ends) = pads.split_at_checked(axes.len()).unwrap_or((&pads, &[]));
    for ((&axis, &start), &end) in axes.iter().zip(starts).zip(ends) {
        before.iter_mut().skip(axis).take(1).for_each(|n| *n = start);
        after.iter_mut().skip(axis).take(1).for_each(|n| *n = end);
    }
    match cx.text("mode", "constant")? {
        "constant" => pad_with_number(cx, x, &before, &after),
        mode @ ("edge" | "reflect" | "wrap") => {
            let mut made = x;
            for (axis, (&start, &end)) in before.iter().zip(&after).enumerate() {
                if (start, end) != (0, 0) {
                    let n = to_i64(dim(&shape, axis));
                    let indices = padded_indices(mode, n, start, end)?;
                    let held = Held::integers(DType::I64, &[indices.len()], &indices);
                    let indices = cx.builder.constant(held);
                    made = cx.push(GraphOp::Gather { axis }, &[made, indices])?;
                }
            }
            Ok(vec![made])
        }
        other => Err(OnnxError::shape(format!("mode `{other}`"))),
    }
}

/// Where along an axis of size `n` each element of the padded axis comes from.
fn padded_indices(mode: &str, n: i64, start: i64, end: i64) -> Lowered<Vec<i64>> {
    let total = n.saturating_add(start).saturating_add(end);
    if n == 0 || !(0..=1 << 24).contains(&total) {
        return Err(OnnxError::shape(format!("padding of {start} and {end} around {n}")));
    }
    let place = |at: i64| match mode {
        "edge" => at.clamp(0, n.saturating_sub(1)),
        "wrap" => at.rem_euclid(n),
        _ => {
            // To and fro, without the ends twice.
            let period = n.saturating_sub(1).saturating_mul(2).max(1);
            let at = at.rem_euclid(period);
            at.min(period.saturating_sub(at)).min(n.saturating_sub(1))
        }
    };
    Ok((0..total).map(|at| place(at.saturating_sub(start))).collect())
}

fn pad_with_number(cx: &mut Context<'_, '_>, x: Val, before: &[i64], after: &[i64]) -> Lowered<Vec<Val>> {
    let shape = cx.shape(x);
    let dtype = cx.dtype(x);
    let fill = if let Some(number) = cx.maybe(2) {
        cx.reshape(number, &[])?
    } else {
        let number = cx.number("value", 0.0)?;
        cx.builder.scalar(dtype, number)
    };
    let own = steps(&shape);
    let mut made = Vec::with_capacity(shape.len());
    let (mut from, mut kept) = (0_usize, Vec::with_capacity(shape.len()));
    for (d, &n) in shape.iter().enumerate() {
        let (start, end) = (before.get(d).copied().unwrap_or(0), after.get(d).copied().unwrap_or(0));
        made.push(to_usize(to_i64(n).saturating_add(start).saturating_add(end))?);
        // Negative padding cuts off.
        let (first, last) = (start.saturating_neg().max(0), to_i64(n).saturating_add(end.min(0)));
        kept.push(to_usize(last.saturating_sub(first).max(0))?);
        from = from.saturating_add(to_usize(first)?.saturating_mul(dim(&own, d)));
    }
    let to_strides = steps(&made);
    let to = before.iter().zip(&to_strides).fold(0_usize, |to, (&start, &step)| {
        to.saturating_add(usize::try_from(start.max(0)).unwrap_or(usize::MAX).saturating_mul(step))
    });
    let region = Region { input: 0, from, strides: signed(&own), to, to_strides, shape: kept.clone() };
    let regions = if product(&kept) == 0 { Vec::new() } else { vec![region] };
    Ok(vec![cx.push(GraphOp::Copy { shape: made, fill: true, regions }, &[x, fill])?])
}

pub(super) fn range(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    const MOST: f64 = 16_777_216.0;
    let (start, limit, delta) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = cx.dtype(start);
    let unknown =
        || OnnxError::shape("numbers that are computed from the inputs' values; every size has to be known beforehand");
    if dtype == DType::F32 {
        let float = |cx: &Context<'_, '_>, val| {
            cx.builder.held(val).and_then(Held::to_floats).and_then(|list| list.first().copied()).ok_or_else(unknown)
        };
        let (start, limit, delta) = (float(cx, start)?, float(cx, limit)?, float(cx, delta)?);
        let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil().max(0.0);
        if count.is_nan() || count > MOST {
            return Err(OnnxError::shape(format!("{count} numbers")));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^24")]
        let count = count as usize;
        #[expect(clippy::cast_precision_loss, reason = "below 2^24")]
        let values: Vec<f32> = (0..count).map(|i| start + i as f32 * delta).collect();
        return Ok(vec![cx.builder.constant(Held::floats(&[count], &values))]);
    }
    let integer = |cx: &Context<'_, '_>, val| {
        cx.builder.held(val).and_then(Held::to_integers).and_then(|list| list.first().copied()).ok_or_else(unknown)
    };
    let (start, limit, delta) = (integer(cx, start)?, integer(cx, limit)?, integer(cx, delta)?);
    let span = if delta > 0 { limit.saturating_sub(start) } else { start.saturating_sub(limit) };
    let count = u64::try_from(span).unwrap_or(0).checked_next_multiple_of(delta.unsigned_abs());
    let count = count.and_then(|span| span.checked_div(delta.unsigned_abs())).filter(|&n| n <= 1 << 24);
    let count = count.ok_or_else(|| OnnxError::shape("more numbers than fit"))?;
    let values: Vec<i64> =
        (0..i64::try_from(count).unwrap_or(0)).map(|i| start.saturating_add(i.saturating_mul(delta))).collect();
    Ok(vec![cx.builder.constant(Held::integers(dtype, &[values.len()], &values))])
}

pub(super) fn trilu(cx: &mut Context<'_, '_>) -> Lowered<Vec<Val>> {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let k = cx.known_input(1, "k")?.and_then(|list| list.first().copied()).unwrap_or(0);
    let upper = cx.flag("upper", true)?;
    let [.., rows, cols] = shape[..] else { return Err(OnnxError::shape("an array of fewer than two dimensions")) };
    let cells =
        rows.checked_mul(cols).filter(|&n| n <= 1 << 28).ok_or_else(|| OnnxError::shape("a matrix too large"))?;
    let mut kept = Vec::with_capacity(cells);
    for row in 0..to_i64(rows) {
        for col in 0..to_i64(cols) {
            let above = col.saturating_sub(row);
            kept.push(i64::from(if upper { above >= k } else { above <= k }));
        }
    }
    let mask = cx.builder.constant(Held::integers(DType::Bool, &[rows, cols], &kept));
    let dtype = cx.dtype(x);
    let zero = cx.builder.scalar(dtype, 0.0);
    Ok(vec![cx.push(GraphOp::Where, &[mask, x, zero])?])
}
