//! A node with its inputs looked up: what the rules of the operators read.

use super::builder::{Builder, Val};
use super::error::OnnxError;
use super::types::{dtype_of, held_of};
use rin_model::DType;
use rin_model::graph::{Binary, GraphOp, Region, Unary};
use rin_model::onnx::{Attribute, ExternalFiles, Node};

pub(super) type Lowered<T> = Result<T, OnnxError>;

/// The node that is being taken apart.
pub(super) struct Context<'a, 'b> {
    pub(super) builder: &'b mut Builder,
    pub(super) node: &'b Node<'a>,
    /// Its inputs; none where one is left out.
    pub(super) inputs: Vec<Option<Val>>,
    /// Whether nobody but this node reads an input.
    pub(super) alone: Vec<bool>,
    /// Version of the operators.
    pub(super) opset: i64,
    pub(super) files: &'b mut ExternalFiles,
}

/// Steps of a row-major array.
pub(super) fn steps(shape: &[usize]) -> Vec<usize> {
    let mut steps = vec![1_usize; shape.len()];
    let mut step = 1_usize;
    for (own, &n) in steps.iter_mut().zip(shape).rev() {
        *own = step;
        step = step.saturating_mul(n);
    }
    steps
}

pub(super) fn signed(steps: &[usize]) -> Vec<i64> {
    steps.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect()
}

pub(super) fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn to_usize(n: i64) -> Lowered<usize> {
    usize::try_from(n).map_err(|_| OnnxError::shape(format!("a size of {n}, and sizes are 0 or more")))
}

pub(super) fn dim(shape: &[usize], at: usize) -> usize {
    shape.get(at).copied().unwrap_or(1)
}

pub(super) fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product: usize, &n| product.saturating_mul(n))
}

impl<'a> Context<'a, '_> {
    pub(super) fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether an output is asked for.
    pub(super) fn wants(&self, output: usize) -> bool {
        self.node.outputs.get(output).is_some_and(|name| !name.is_empty())
    }

    pub(super) fn maybe(&self, input: usize) -> Option<Val> {
        self.inputs.get(input).copied().flatten()
    }

    pub(super) fn input(&self, input: usize) -> Lowered<Val> {
        self.maybe(input).ok_or_else(|| OnnxError::shape(format!("input {input} is missing")))
    }

    pub(super) fn is_alone(&self, input: usize) -> bool {
        self.alone.get(input).copied().unwrap_or(false)
    }

    pub(super) fn shape(&self, val: Val) -> Vec<usize> {
        self.builder.shape(val)
    }

    pub(super) fn dtype(&self, val: Val) -> DType {
        self.builder.dtype(val)
    }

    pub(super) fn push(&mut self, op: GraphOp, inputs: &[Val]) -> Lowered<Val> {
        self.builder.push(op, inputs)
    }

    pub(super) fn unary(&mut self, function: Unary, x: Val) -> Lowered<Val> {
        self.push(GraphOp::Unary { function, alpha: 0.0, beta: 0.0 }, &[x])
    }

    pub(super) fn binary(&mut self, function: Binary, a: Val, b: Val) -> Lowered<Val> {
        self.push(GraphOp::Binary { function }, &[a, b])
    }

    pub(super) fn reshape(&mut self, x: Val, shape: &[usize]) -> Lowered<Val> {
        self.push(GraphOp::Reshape { shape: shape.to_vec() }, &[x])
    }

    pub(super) fn cast(&mut self, x: Val, to: DType) -> Lowered<Val> {
        if self.dtype(x) == to { Ok(x) } else { self.push(GraphOp::Cast { to }, &[x]) }
    }

    pub(super) fn float(&mut self, number: f32) -> Val {
        self.builder.scalar(DType::F32, number)
    }

    fn wrong_kind(name: &str, expected: &str, found: &Attribute<'_>) -> OnnxError {
        OnnxError::shape(format!("parameter `{name}` is {expected}, not {}", found.kind()))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Lowered<i64> {
        match self.node.attribute(name) {
            None => Ok(default),
            Some(Attribute::Int(n)) => Ok(*n),
            Some(other) => Err(Self::wrong_kind(name, "an integer", other)),
        }
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Lowered<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub(super) fn number(&self, name: &str, default: f32) -> Lowered<f32> {
        match self.node.attribute(name) {
            None => Ok(default),
            Some(Attribute::Float(x)) => Ok(*x),
            Some(other) => Err(Self::wrong_kind(name, "a number", other)),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Lowered<Option<Vec<i64>>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(list)) => Ok(Some(list.clone())),
            Some(other) => Err(Self::wrong_kind(name, "a list of integers", other)),
        }
    }

    pub(super) fn text(&self, name: &str, default: &'a str) -> Lowered<&'a str> {
        match self.node.attribute(name) {
            None => Ok(default),
            Some(Attribute::String(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| OnnxError::shape(format!("parameter `{name}` is no text")))
            }
            Some(other) => Err(Self::wrong_kind(name, "a text", other)),
        }
    }

    /// A constant in a parameter.
    pub(super) fn tensor(&mut self, name: &str) -> Lowered<Option<Val>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(tensor)) => Ok(Some(self.builder.constant(held_of(tensor, self.files)?))),
            Some(other) => Err(Self::wrong_kind(name, "a constant", other)),
        }
    }

    /// A parameter that names an element type.
    pub(super) fn element(&self, name: &str, default: i64) -> Lowered<DType> {
        dtype_of(i32::try_from(self.int(name, default)?).unwrap_or(0))
    }

    /// The integers of a value that has to be known before anything runs.
    pub(super) fn known(&self, val: Val, what: &str) -> Lowered<Vec<i64>> {
        let held = self.builder.held(val).ok_or_else(|| {
            OnnxError::shape(format!(
                "{what} is computed from the inputs' values; every size has to be known beforehand"
            ))
        })?;
        held.to_integers().ok_or_else(|| OnnxError::shape(format!("{what} is no list of integers")))
    }

    /// As [`known`](Self::known), of an input that may be left out.
    pub(super) fn known_input(&self, input: usize, what: &str) -> Lowered<Option<Vec<i64>>> {
        self.maybe(input).map(|val| self.known(val, what)).transpose()
    }

    /// Integers that later versions take as an input and earlier ones as a parameter.
    pub(super) fn list(&self, name: &str, input: usize) -> Lowered<Option<Vec<i64>>> {
        match self.known_input(input, name)? {
            Some(list) => Ok(Some(list)),
            None => self.ints(name),
        }
    }

    /// An axis, counted from the end where it is negative.
    #[expect(clippy::unused_self, reason = "a rule asks its node for everything")]
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Lowered<usize> {
        let from_start = if axis < 0 { axis.saturating_add(to_i64(rank)) } else { axis };
        let found = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
        found.ok_or_else(|| OnnxError::shape(format!("axis {axis} of an array of {rank} dimensions")))
    }

    /// Axes, ascending, each once.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Lowered<Vec<usize>> {
        let mut found = axes.iter().map(|&axis| self.axis(axis, rank)).collect::<Lowered<Vec<_>>>()?;
        found.sort_unstable();
        found.dedup();
        if found.len() == axes.len() { Ok(found) } else { Err(OnnxError::shape("an axis twice")) }
    }

    /// The dimensions in another order.
    pub(super) fn transpose(&mut self, x: Val, order: &[usize]) -> Lowered<Val> {
        let shape = self.shape(x);
        let own = steps(&shape);
        let made: Vec<usize> = order.iter().map(|&d| dim(&shape, d)).collect();
        let moved: Vec<usize> = order.iter().copied().filter(|&d| dim(&shape, d) != 1).collect();
        if moved.is_sorted() {
            return self.reshape(x, &made);
        }
        let strides: Vec<usize> = order.iter().map(|&d| dim(&own, d)).collect();
        self.copy(x, 0, &signed(&strides), &made)
    }

    /// One block of an input as the whole result.
    pub(super) fn copy(&mut self, x: Val, from: usize, strides: &[i64], shape: &[usize]) -> Lowered<Val> {
        let strides = strides.to_vec();
        let region = Region { input: 0, from, strides, to: 0, to_strides: steps(shape), shape: shape.to_vec() };
        // A block of nothing begins nowhere.
        let regions = if product(shape) == 0 { Vec::new() } else { vec![region] };
        self.push(GraphOp::Copy { shape: shape.to_vec(), fill: false, regions }, &[x])
    }

    /// The array repeated along the dimensions in which it has size 1.
    pub(super) fn expand(&mut self, x: Val, shape: &[usize]) -> Lowered<Val> {
        let own = self.shape(x);
        if own == shape {
            return Ok(x);
        }
        let missing = shape.len().checked_sub(own.len());
        let missing = missing.ok_or_else(|| OnnxError::shape(format!("{own:?} does not broadcast to {shape:?}")))?;
        let own_steps = steps(&own);
        let stride = |(d, &n): (usize, &usize)| match d.checked_sub(missing) {
            Some(d) if dim(&own, d) == n && n != 1 => Ok(to_i64(dim(&own_steps, d))),
            Some(d) if dim(&own, d) != 1 => Err(OnnxError::shape(format!("{own:?} does not broadcast to {shape:?}"))),
            _ => Ok(0),
        };
        let strides = shape.iter().enumerate().map(stride).collect::<Lowered<Vec<_>>>()?;
        self.copy(x, 0, &strides, shape)
    }

    /// Arrays one after the other along an axis.
    pub(super) fn concat(&mut self, parts: &[Val], axis: usize) -> Lowered<Val> {
        let mut shape = parts.first().map(|&x| self.shape(x)).unwrap_or_default();
        let total = parts.iter().fold(0_usize, |sum, &x| sum.saturating_add(dim(&self.shape(x), axis)));
        shape.iter_mut().skip(axis).take(1).for_each(|n| *n = total);
        let to_strides = steps(&shape);
        let mut regions = Vec::with_capacity(parts.len());
        let mut at = 0_usize;
        for (input, &x) in parts.iter().enumerate() {
            let own = self.shape(x);
            let same =
                own.len() == shape.len() && own.iter().zip(&shape).enumerate().all(|(d, (a, b))| d == axis || a == b);
            if !same {
                return Err(OnnxError::shape(format!("{own:?} beside {shape:?} along axis {axis}")));
            }
            if product(&own) > 0 {
                let to = at.saturating_mul(dim(&to_strides, axis));
                let strides = signed(&steps(&own));
                regions.push(Region {
                    input,
                    from: 0,
                    strides,
                    to,
                    to_strides: to_strides.clone(),
                    shape: own.clone(),
                });
            }
            at = at.saturating_add(dim(&own, axis));
        }
        self.push(GraphOp::Copy { shape, fill: false, regions }, parts)
    }

    /// `n` elements from `first` on along an axis, each `step` behind the one before.
    pub(super) fn cut(&mut self, x: Val, axis: usize, first: usize, step: i64, n: usize) -> Lowered<Val> {
        let mut shape = self.shape(x);
        let own = steps(&shape);
        let mut strides = signed(&own);
        strides.iter_mut().skip(axis).take(1).for_each(|stride| *stride = stride.saturating_mul(step));
        let from = first.saturating_mul(dim(&own, axis));
        if (first, step, n) == (0, 1, dim(&shape, axis)) {
            return Ok(x);
        }
        shape.iter_mut().skip(axis).take(1).for_each(|size| *size = n);
        self.copy(x, from, &strides, &shape)
    }

    /// A vector in the shape in which it broadcasts along an axis of an array.
    pub(super) fn along(&mut self, x: Val, axis: usize, rank: usize) -> Lowered<Val> {
        let own = self.shape(x);
        if own.len() != 1 {
            return Ok(x);
        }
        let shape: Vec<usize> = (0..rank).map(|d| if d == axis { dim(&own, 0) } else { 1 }).collect();
        self.reshape(x, &shape)
    }
}
