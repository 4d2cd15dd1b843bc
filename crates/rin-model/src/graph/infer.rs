//! What an operation makes of the types that it is given: one rule per operation, for importers and readers of files.

use super::ValueType;
use super::ops::{Binary, GraphOp, PoolKind, ReduceKind, Region, Unary, Window};
use crate::dtype::DType;

/// Largest size, stride, step or padding of a window.
const MAX_WINDOW: usize = 1 << 20;
/// Most blocks of one copy.
const MAX_REGIONS: usize = 1 << 16;

type Inferred = Result<ValueType, String>;

/// The shape that arrays have when each is repeated along the dimensions in which it has size 1.
pub(crate) fn broadcast(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut joined = vec![1; rank];
    for shape in shapes {
        for (joined, &n) in joined.iter_mut().rev().zip(shape.iter().rev()) {
            if *joined == 1 {
                *joined = n;
            } else if n != 1 && n != *joined {
                return None;
            }
        }
    }
    Some(joined)
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product: usize, &n| product.saturating_mul(n))
}

fn is_integer(dtype: DType) -> bool {
    !matches!(dtype, DType::F32 | DType::Bool)
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8)
}

fn check(holds: bool, expected: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(expected.to_owned()) }
}

fn arity<'t, const N: usize>(inputs: &[&'t ValueType]) -> Result<[&'t ValueType; N], String> {
    inputs.try_into().map_err(|_| format!("{N} inputs"))
}

/// The first input and the others, of which there are between `least` and `most`.
fn first<'t, 'i>(
    inputs: &'i [&'t ValueType],
    least: usize,
    most: usize,
) -> Result<(&'t ValueType, &'i [&'t ValueType]), String> {
    let (first, rest) = inputs.split_first().ok_or("an input")?;
    check((least..=most).contains(&rest.len()), "as many inputs as the operation takes")?;
    Ok((first, rest))
}

fn axis_of(shape: &[usize], axis: usize) -> Result<usize, String> {
    shape.get(axis).copied().ok_or_else(|| "an axis of the input".to_owned())
}

/// A shape with some axes gone or of size 1.
fn without(shape: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let one = |(at, &n): (usize, &usize)| match (axes.contains(&at), keep) {
        (false, _) => Some(n),
        (true, true) => Some(1),
        (true, false) => None,
    };
    shape.iter().enumerate().filter_map(one).collect()
}

impl GraphOp {
    /// The type of what the operation makes of `inputs`; `stored` gives the shape of a tensor of the
    /// file that is no value.
    ///
    /// # Errors
    /// What the operation would have taken, in words.
    #[expect(clippy::too_many_lines, reason = "a list: one rule per operation")]
    pub fn infer(
        &self,
        inputs: &[&ValueType],
        stored: impl Fn(&str) -> Option<Vec<usize>>,
    ) -> Result<ValueType, String> {
        match self {
            Self::Reshape { shape } => {
                let [x] = arity(inputs)?;
                // A product that saturates is no size that a value has.
                check(product(shape) == x.count(), "a shape of as many elements as the input has")?;
                Ok(ValueType::new(x.dtype, shape))
            }
            Self::Copy { shape, fill, regions } => copy(shape, *fill, regions, inputs),
            Self::Unary { function, alpha, beta } => {
                let [x] = arity(inputs)?;
                let any = matches!(function, Unary::Identity | Unary::Neg | Unary::Abs | Unary::Sign | Unary::Relu);
                check(x.dtype == DType::F32 || any && is_integer(x.dtype), "F32, as the function takes it")?;
                check(alpha.is_finite() && beta.is_finite(), "finite parameters")?;
                Ok(x.clone())
            }
            Self::Not => {
                let [x] = arity(inputs)?;
                check(x.dtype == DType::Bool, "truth values")?;
                Ok(x.clone())
            }
            Self::IsNan => {
                let [x] = arity(inputs)?;
                check(x.dtype == DType::F32, "F32")?;
                Ok(ValueType::new(DType::Bool, &x.shape))
            }
            Self::Binary { function } => binary(*function, inputs),
            Self::Where => {
                let [condition, x, y] = arity(inputs)?;
                check(condition.dtype == DType::Bool && x.dtype == y.dtype, "truth values and two arrays of one type")?;
                let shape = broadcast(&[&condition.shape, &x.shape, &y.shape]).ok_or("shapes that broadcast")?;
                Ok(ValueType::new(x.dtype, &shape))
            }
            Self::Cast { to } => {
                let [x] = arity(inputs)?;
                Ok(ValueType::new(*to, &x.shape))
            }
            Self::Reduce { kind, axes, keep } => {
                let [x] = arity(inputs)?;
                let ascending = axes.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
                check(ascending && axes.iter().all(|&axis| axis < x.shape.len()), "axes of the input, ascending")?;
                let truth = matches!(kind, ReduceKind::Max | ReduceKind::Min);
                check(x.dtype != DType::Bool || truth, "numbers")?;
                Ok(ValueType::new(x.dtype, &without(&x.shape, axes, *keep)))
            }
            Self::Arg { axis, keep, .. } => {
                let [x] = arity(inputs)?;
                check(axis_of(&x.shape, *axis)? > 0 && x.dtype != DType::Bool, "an axis with numbers along it")?;
                Ok(ValueType::new(DType::I64, &without(&x.shape, &[*axis], *keep)))
            }
            Self::Softmax { axis, .. } => {
                let [x] = arity(inputs)?;
                axis_of(&x.shape, *axis)?;
                check(x.dtype == DType::F32, "F32")?;
                Ok(x.clone())
            }
            Self::LayerNorm { axis, eps } => {
                let [x, scale, bias] = arity(inputs)?;
                let together = product(x.shape.get(*axis..).ok_or("an axis of the input")?);
                check([x, scale, bias].iter().all(|t| t.dtype == DType::F32), "F32")?;
                let fits = scale.count() == together && bias.count() == together;
                check(fits && together > 0, "a scale and a bias for each element that is normalised together")?;
                check(*eps >= 0.0 && *eps < 1.0, "eps from 0 to below 1")?;
                Ok(x.clone())
            }
            Self::MatMul => {
                let [a, b] = arity(inputs)?;
                check(a.dtype == DType::F32 && b.dtype == DType::F32, "F32")?;
                Ok(ValueType::new(DType::F32, &matrices(a, b)?))
            }
            Self::Linear { weight, bias, .. } => {
                let [x] = arity(inputs)?;
                let (k, batch) = x.shape.split_last().ok_or("rows of numbers")?;
                let Some(&[rows, cols]) = stored(weight).as_deref() else { return Err(format!("a matrix `{weight}`")) };
                check(x.dtype == DType::F32 && rows > 0 && *k > 0, "F32")?;
                // A block of the widest type has 256 columns.
                check(cols >= *k && cols.saturating_sub(*k) < 256, "rows as wide as those of the weight")?;
                if let Some(bias) = bias {
                    check(stored(bias).as_deref() == Some(&[rows]), "a bias for each output")?;
                }
                Ok(ValueType { dtype: DType::F32, shape: [batch, &[rows]].concat() })
            }
            Self::Conv { window, group, .. } => {
                let (x, rest) = first(inputs, 1, 2)?;
                check(inputs.iter().all(|t| t.dtype == DType::F32), "F32")?;
                let made = conv(window, *group, x, rest)?;
                let bias = rest.get(1).is_none_or(|bias| bias.shape.as_slice() == made.get(1..2).unwrap_or_default());
                check(bias, "a bias for each output")?;
                Ok(ValueType { dtype: DType::F32, shape: made })
            }
            Self::Pool { kind, window } => {
                let [x] = arity(inputs)?;
                let numbers = match kind {
                    PoolKind::Max | PoolKind::MaxIndex => x.dtype == DType::F32 || is_byte(x.dtype),
                    PoolKind::Average | PoolKind::AverageWithPadding => x.dtype == DType::F32,
                };
                check(numbers, "F32, or bytes where the largest is looked for")?;
                let shape = windowed(window, x, true)?;
                let dtype = if *kind == PoolKind::MaxIndex { DType::I64 } else { x.dtype };
                Ok(ValueType { dtype, shape })
            }
            Self::Gather { axis } => {
                let [x, indices] = arity(inputs)?;
                axis_of(&x.shape, *axis)?;
                check(matches!(indices.dtype, DType::I32 | DType::I64), "indices of I32 or I64")?;
                let (before, rest) = x.shape.split_at_checked(*axis).ok_or("an axis of the input")?;
                let shape = [before, &indices.shape, rest.get(1..).unwrap_or_default()].concat();
                Ok(ValueType { dtype: x.dtype, shape })
            }
            Self::GatherElements { axis } => {
                let [x, indices] = arity(inputs)?;
                axis_of(&x.shape, *axis)?;
                check(matches!(indices.dtype, DType::I32 | DType::I64), "indices of I32 or I64")?;
                let fits = x.shape.iter().zip(&indices.shape).enumerate().all(|(at, (n, m))| at == *axis || m <= n);
                check(fits && x.shape.len() == indices.shape.len(), "indices within the input")?;
                Ok(ValueType::new(x.dtype, &indices.shape))
            }
            Self::Quantize { to } => {
                let (x, rest) = first(inputs, 1, 2)?;
                check(x.dtype == DType::F32, "F32")?;
                let to_fits = matches!(to, DType::I8 | DType::U8 | DType::I16 | DType::U16);
                check(to_fits, "an integer type of 8 or 16 bits")?;
                scaled(x, rest, *to)
            }
            Self::Dequantize => {
                let (x, rest) = first(inputs, 1, 2)?;
                check(is_integer(x.dtype), "integers")?;
                scaled(x, rest, x.dtype).map(|made| ValueType { dtype: DType::F32, ..made })
            }
            Self::Requantize { to } => {
                let (x, rest) = first(inputs, 2, 2)?;
                check(x.dtype == DType::I32 && is_byte(*to), "sums of I32 that become bytes")?;
                scaled(x, rest, *to)
            }
            Self::MatMulInteger => {
                let [a, b, a_zero, b_zero] = arity(inputs)?;
                check(is_byte(a.dtype) && is_byte(b.dtype), "integers of 8 bits")?;
                let shape = matrices(a, b)?;
                let (m, n) = match shape[..] {
                    [.., m, n] => (m, n),
                    _ => (0, 0),
                };
                check(a_zero.dtype == a.dtype && b_zero.dtype == b.dtype, "zeros of the types of the operands")?;
                let zeros = [1, m].contains(&a_zero.count()) && [1, n].contains(&b_zero.count());
                check(zeros, "one zero, or one for each row or column")?;
                Ok(ValueType { dtype: DType::I32, shape })
            }
            Self::ConvInteger { window, group } => {
                let [x, w, x_zero, w_zero] = arity(inputs)?;
                check(is_byte(x.dtype) && is_byte(w.dtype), "integers of 8 bits")?;
                check(x_zero.dtype == x.dtype && w_zero.dtype == w.dtype, "zeros of the types of the operands")?;
                let shape = conv(window, *group, x, &[w])?;
                let outputs = shape.get(1).copied().unwrap_or(0);
                check(
                    x_zero.count() == 1 && [1, outputs].contains(&w_zero.count()),
                    "one zero, or one for each output",
                )?;
                Ok(ValueType { dtype: DType::I32, shape })
            }
            Self::TopK { k, axis, places, .. } => {
                let [x] = arity(inputs)?;
                check(*k <= axis_of(&x.shape, *axis)? && x.dtype != DType::Bool, "at most as many as there are")?;
                let mut shape = x.shape.clone();
                shape.iter_mut().skip(*axis).take(1).for_each(|n| *n = *k);
                Ok(ValueType { dtype: if *places { DType::I64 } else { x.dtype }, shape })
            }
            Self::CumSum { axis, .. } => {
                let [x] = arity(inputs)?;
                axis_of(&x.shape, *axis)?;
                check(x.dtype != DType::Bool, "numbers")?;
                Ok(x.clone())
            }
        }
    }
}

fn binary(function: Binary, inputs: &[&ValueType]) -> Inferred {
    let [a, b] = arity(inputs)?;
    check(a.dtype == b.dtype, "two arrays of one type")?;
    let fits = match function {
        Binary::Equal => true,
        Binary::PRelu => a.dtype == DType::F32,
        _ => (a.dtype == DType::Bool) == function.is_logic(),
    };
    check(fits, "numbers, or truth values for a logical function")?;
    let shape = broadcast(&[&a.shape, &b.shape]).ok_or("shapes that broadcast")?;
    Ok(ValueType::new(if function.compares() { DType::Bool } else { a.dtype }, &shape))
}

/// The shape of a product of matrices.
fn matrices(a: &ValueType, b: &ValueType) -> Result<Vec<usize>, String> {
    let fault = || "matrices (…, m, k) and (…, k, n)".to_owned();
    let ([batch_a @ .., m, k], [batch_b @ .., k2, n]) = (&a.shape[..], &b.shape[..]) else { return Err(fault()) };
    check(k == k2, &fault())?;
    let mut shape = broadcast(&[batch_a, batch_b]).ok_or_else(fault)?;
    shape.extend([*m, *n]);
    Ok(shape)
}

/// What is scaled by the second input and moved by the third.
fn scaled(x: &ValueType, rest: &[&ValueType], zero_type: DType) -> Inferred {
    let mut shapes = vec![x.shape.as_slice()];
    if let Some(scale) = rest.first() {
        check(scale.dtype == DType::F32, "scales of F32")?;
        shapes.push(&scale.shape);
    }
    if let Some(zero) = rest.get(1) {
        check(zero.dtype == zero_type, "zeros of the type of the integers")?;
        shapes.push(&zero.shape);
    }
    let shape = broadcast(&shapes).filter(|shape| *shape == x.shape);
    let shape = shape.ok_or("scales and zeros that broadcast to the input")?;
    Ok(ValueType { dtype: zero_type, shape })
}

/// The shape of a convolution of `x` with the weight that `rest` begins with.
fn conv(window: &Window, group: usize, x: &ValueType, rest: &[&ValueType]) -> Result<Vec<usize>, String> {
    let weight = rest.first().ok_or("a weight")?;
    let ([_, channels, ..], [outputs, per_group, kernel @ ..]) = (&x.shape[..], &weight.shape[..]) else {
        return Err("an image (batch, channels, …) and a weight (outputs, channels, …)".to_owned());
    };
    check(kernel == window.kernel.as_slice(), "a weight of the window's size")?;
    let fits = group > 0 && per_group.checked_mul(group) == Some(*channels) && outputs.is_multiple_of(group);
    check(fits && *outputs > 0 && *per_group > 0, "channels and outputs in whole groups")?;
    let mut shape = windowed(window, x, false)?;
    shape.iter_mut().skip(1).take(1).for_each(|n| *n = *outputs);
    Ok(shape)
}

/// The shape of what a window makes of `x`. `beyond`: whether the last place may lead beyond the padding.
fn windowed(window: &Window, x: &ValueType, beyond: bool) -> Result<Vec<usize>, String> {
    let (Some(start), Some(sizes)) = (x.shape.get(..2), x.shape.get(2..)) else {
        return Err("an array (batch, channels, …)".to_owned());
    };
    let Window { kernel, strides, dilations, before, after, places } = window;
    let lists = [kernel, strides, dilations, before, after, places];
    check((1..=3).contains(&sizes.len()), "1 to 3 dimensions behind the channels")?;
    check(lists.iter().all(|list| list.len() == sizes.len()), "one entry of the window for each of them")?;
    check(lists.iter().take(5).all(|list| list.iter().all(|&n| n <= MAX_WINDOW)), "a window of sensible sizes")?;
    let positive = [kernel, strides, dilations].iter().all(|list| list.iter().all(|&n| n > 0));
    check(positive, "sizes and steps of the window above 0")?;
    for (at, &n) in sizes.iter().enumerate() {
        let get = |list: &Vec<usize>| list.get(at).copied().unwrap_or(0);
        let padded = n.saturating_add(get(before)).saturating_add(get(after));
        let last = get(places).saturating_sub(1).saturating_mul(get(strides));
        let reach = get(kernel).saturating_sub(1).saturating_mul(get(dilations)).saturating_add(1);
        let inside = if beyond { last < padded.max(1) } else { last.saturating_add(reach) <= padded };
        check(inside || get(places) == 0, "places of the window within the padded input")?;
    }
    Ok([start, places].concat())
}

fn copy(shape: &[usize], fill: bool, regions: &[Region], inputs: &[&ValueType]) -> Inferred {
    check(regions.len() <= MAX_REGIONS, "a sensible number of blocks")?;
    let dtype = inputs.first().ok_or("an input")?.dtype;
    check(inputs.iter().all(|input| input.dtype == dtype), "inputs of one type")?;
    let sources = if fill { inputs.len().saturating_sub(1) } else { inputs.len() };
    check(!fill || inputs.last().is_some_and(|value| value.count() == 1), "a single number to fill with")?;
    let made = ValueType::new(dtype, shape);
    for region in regions {
        let source =
            inputs.get(region.input).filter(|_| region.input < sources).ok_or("a block of one of the inputs")?;
        let ranks = region.strides.len() == region.shape.len() && region.to_strides.len() == region.shape.len();
        check(ranks, "as many steps as sizes of a block")?;
        if product(&region.shape) == 0 {
            continue;
        }
        let to_strides = region.to_strides.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX));
        let to_strides: Vec<i64> = to_strides.collect();
        let within = |from: usize, strides: &[i64], count: usize| {
            // The first and the last element that are touched.
            let (mut least, mut most) = (i64::try_from(from).ok()?, i64::try_from(from).ok()?);
            for (&n, &stride) in region.shape.iter().zip(strides) {
                let reach = stride.checked_mul(i64::try_from(n.saturating_sub(1)).ok()?)?;
                if reach < 0 {
                    least = least.checked_add(reach)?;
                } else {
                    most = most.checked_add(reach)?;
                }
            }
            (least >= 0 && most < i64::try_from(count).ok()?).then_some(())
        };
        let source_fits = within(region.from, &region.strides, source.count());
        let made_fits = within(region.to, &to_strides, made.count());
        check(source_fits.and(made_fits).is_some(), "blocks within the input and the result")?;
    }
    Ok(made)
}
