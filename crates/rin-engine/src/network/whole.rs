//! Encoders and decoders in integers: the nodes of a network over rows of 32-bit integers, planned.
//!
//! A row is filled up to a multiple of 16, which products ask for. What the operations compute is said by
//! [`rin_kernels::ops::wide`].

use super::NetworkError;
use super::inputs::Domain;
use super::plan::{NetworkPlan, OutputSlot, Step};
use crate::Error;
use crate::plan::{Placed, SlotId, Slots};
use crate::weights::{ArrayId, Weights};
use rin_kernels::ops::integer::{IntegerLayer, is_sound};
use rin_kernels::ops::wide::attention::{FRACTION, key_pairs, value_pairs};
use rin_kernels::ops::wide::rotate::MAX_ANGLE;
use rin_kernels::ops::wide::softmax::Powers;
use rin_kernels::ops::wide::{Factor, MAX_ELEMENT};
use rin_kernels::pack::LANES;
use rin_model::{Extent, Extents, ModelFile, Network, Node, NodeScales, Op, Pool, Port, PortKind, Positions, Whole};
use std::collections::HashMap;

/// Heads that are attended to at once, and so the most workers of an attention.
const MAX_UNITS: usize = 64;

/// Rows of a named value.
#[derive(Clone, Copy, Debug)]
pub struct WholeValue {
    /// i32 `(rows, cols)`.
    pub slot: SlotId,
    /// Values in a row, or at a position.
    pub width: usize,
    /// Width, filled up.
    pub cols: usize,
    /// Rows per row of the inputs.
    pub positions: Positions,
}

/// The matrix of a product.
#[derive(Clone, Copy, Debug)]
pub struct WholeMatrix {
    pub(super) w: ArrayId,
    pub(super) multiplier: ArrayId,
    pub(super) shift: ArrayId,
    pub(super) bias: ArrayId,
    /// What a row's largest magnitude is multiplied with.
    pub(super) factor: Factor,
    /// i8 `(rows, inputs filled up)`.
    pub(super) bytes: SlotId,
    /// Zeros, as many as outputs.
    pub(super) zeros: SlotId,
}

/// An operation on rows.
#[derive(Clone, Copy, Debug)]
pub enum WholeOp {
    /// The row of a table for the number at each position.
    Embed(ArrayId),
    /// A sum of `x` and the row of a table for each position.
    AddPositions(ArrayId, [Factor; 2]),
    /// A sum.
    Add([Factor; 2]),
    /// A product.
    Multiply(Factor),
    /// Layer norm: gain, bias, shift, `n · ε`.
    LayerNorm(ArrayId, ArrayId, i32, u64),
    /// Root mean square: gain, shift, `n · ε`.
    RmsNorm(ArrayId, i32, u64),
    /// Rotary positions: angles, heads, pairs of a head, whether neighbours form a pair.
    Rotate(ArrayId, usize, usize, bool),
    /// A function by its table.
    Curve(ArrayId),
    /// A vector before the first position.
    Prepend(ArrayId),
    /// Squares of a picture: its height and width, the side of a square.
    Patches([usize; 3]),
    /// One row of a sequence.
    Pool(Pool),
}

/// One operation of a network in integers.
#[derive(Clone, Debug)]
pub enum WholeStep {
    /// Numbers in steps of a scale.
    Input {
        /// Which input.
        port: usize,
        /// Steps per unit.
        inverse: f32,
        /// Result.
        out: WholeValue,
    },
    /// A product, each row brought to 8 bits by its own largest magnitude.
    Dense {
        /// The matrix.
        matrix: WholeMatrix,
        /// Operand.
        x: WholeValue,
        /// Result.
        out: WholeValue,
    },
    /// An operation on rows.
    Rows {
        /// Which.
        op: WholeOp,
        /// Operand.
        x: WholeValue,
        /// Second operand, where there is one.
        y: Option<WholeValue>,
        /// Result.
        out: WholeValue,
    },
    /// Attention of every position to its sequence.
    Attention {
        /// Heads.
        heads: usize,
        /// Whether positions after its own are left out.
        causal: bool,
        /// What makes an exponent of a product.
        factor: Factor,
        /// Powers of two.
        powers: Powers,
        /// Queries, keys and values.
        x: WholeValue,
        /// Keys, values and scores of some heads, `(units, bytes of one)`.
        pages: SlotId,
        /// Heads that fit in at once.
        units: usize,
        /// Result.
        out: WholeValue,
    },
    /// Steps of a scale as numbers, with zeros where positions do not count.
    Output {
        /// One step.
        scale: f32,
        /// Operand.
        x: WholeValue,
        /// f32 `(rows, positions, width)`.
        out: SlotId,
    },
}

/// Bytes of what a worker needs for a head: exponents, weights, a query, keys and values.
pub(super) fn unit_bytes(positions: usize, head: usize) -> usize {
    // The reader of files has bounded positions and heads.
    let scores = positions.saturating_mul(12).next_multiple_of(8);
    let pairs = head.div_ceil(2) + key_pairs(positions, head) + value_pairs(positions, head);
    scores.saturating_add(pairs.saturating_mul(4)).checked_next_multiple_of(64).unwrap_or(usize::MAX)
}

struct Writer<'f> {
    s: Slots<'f>,
    n_rows: usize,
    extents: Extents<'f>,
    values: HashMap<&'f str, WholeValue>,
    steps: Vec<Step>,
    zeros: Option<SlotId>,
}

/// Plans the nodes for up to `n_rows` rows at once.
pub(super) fn plan_whole(
    file: &ModelFile,
    network: &Network,
    whole: &Whole,
    n_rows: usize,
) -> Result<NetworkPlan, Error> {
    let extents = network.extents(|name| file.tensor(name).map(|tensor| tensor.shape.as_slice()))?;
    let (values, steps) = (HashMap::new(), Vec::new());
    let mut writer = Writer { s: Slots::new(file, n_rows), n_rows, extents, values, steps, zeros: None };
    for (port, (input, step)) in network.inputs.iter().zip(&whole.input_steps).enumerate() {
        let out = writer.value(&input.name)?;
        let inverse = if *step > 0.0 { 1.0 / step } else { 1.0 };
        writer.push(WholeStep::Input { port, inverse, out });
    }
    for (node, scales) in whole.nodes.iter().zip(&whole.scales) {
        writer.node(node, scales)?;
    }
    let mut outputs = Vec::with_capacity(network.outputs.len());
    for (output, &scale) in network.outputs.iter().zip(&whole.output_steps) {
        let x = writer.read(&output.name);
        writer.s.rows = n_rows.saturating_mul(x.positions.most());
        let out = writer.s.scratch(format!("output {} f32", output.name), x.width, 4);
        writer.push(WholeStep::Output { scale, x, out });
        outputs.push(OutputSlot { slot: out, width: x.width, positions: x.positions });
    }
    let results: Vec<SlotId> = outputs.iter().map(|output| output.slot).collect();
    let Placed { slots, state_bytes, scratch_bytes, weights } = writer.s.place(&results)?;
    let (domains, steps) = (domains(file, network, whole), writer.steps);
    Ok(NetworkPlan {
        network: network.clone(),
        n_rows,
        domains,
        steps,
        slots,
        outputs,
        state_bytes,
        scratch_bytes,
        weights,
    })
}

/// Which numbers the inputs take.
fn domains(file: &ModelFile, network: &Network, whole: &Whole) -> Vec<Domain> {
    let rows = |port: &Port| {
        let tables = whole.nodes.iter().filter_map(|node| match &node.op {
            Op::Embed { table } if node.inputs.first() == Some(&port.name) => file.tensor(table),
            _ => None,
        });
        tables.filter_map(|table| usize::try_from(*table.shape.first()?).ok()).min()
    };
    let most = network.inputs.iter().map(Port::positions).max().unwrap_or(1);
    let domain = |port: &Port| match (port.kind, rows(port)) {
        (PortKind::Length, _) => Domain::Length(most),
        (_, Some(rows)) => Domain::Ids(rows),
        _ => Domain::Numbers,
    };
    network.inputs.iter().map(domain).collect()
}

fn factor((multiplier, shift): (i32, i32)) -> Factor {
    Factor { multiplier, shift }
}

impl<'f> Writer<'f> {
    fn push(&mut self, step: WholeStep) {
        self.steps.push(Step::Whole(step));
        self.s.advance();
    }

    /// The slot of a value that the step to come makes.
    fn value(&mut self, name: &'f str) -> Result<WholeValue, Error> {
        let Extent { width, positions } = self.extents[name];
        let cols = width.next_multiple_of(LANES);
        self.s.rows = self.n_rows.checked_mul(positions.most()).ok_or(Error::PlanOverflow { what: "slot" })?;
        let slot = self.s.scratch(format!("{name} i32"), cols, 4);
        self.s.uses([slot]);
        let value = WholeValue { slot, width, cols, positions };
        self.values.insert(name, value);
        Ok(value)
    }

    /// An earlier value, read by the step to come.
    fn read(&mut self, name: &str) -> WholeValue {
        let value = self.values[name];
        self.s.uses([value.slot]);
        value
    }

    fn node(&mut self, node: &'f Node, scales: &NodeScales) -> Result<(), Error> {
        let factors: Vec<Factor> = scales.factors.iter().copied().map(factor).collect();
        // The reader of files has counted them.
        let one = factors.first().copied().unwrap_or(Factor { multiplier: 0, shift: 1 });
        let two = [one, factors.get(1).copied().unwrap_or(one)];
        let x = self.read(&node.inputs[0]);
        let y = node.inputs.get(1).map(|name| self.read(name));
        let op = match &node.op {
            Op::Dense { weight, bias, .. } => return self.dense(node, weight, bias.as_deref(), one, x),
            Op::Attention { heads, causal } => {
                let out = self.value(&node.output)?;
                let units = (*heads).clamp(1, MAX_UNITS);
                let bytes = unit_bytes(x.positions.most(), out.width / heads.max(&1));
                let pages = self.s.slot(format!("{} keys and values", node.output), Some(units), bytes, false);
                self.s.uses([pages]);
                let powers = Powers::new(FRACTION);
                let (heads, causal) = (*heads, *causal);
                self.push(WholeStep::Attention { heads, causal, factor: one, powers, x, pages, units, out });
                return Ok(());
            }
            Op::Embed { table } => WholeOp::Embed(self.s.array(table)?),
            Op::AddPositions { table } => WholeOp::AddPositions(self.s.array(table)?, two),
            Op::Add { .. } => WholeOp::Add(two),
            Op::Multiply => WholeOp::Multiply(one),
            Op::RmsNorm { weight, .. } => WholeOp::RmsNorm(self.s.array(weight)?, one.shift, scales.epsilon),
            Op::Rotate { heads, pairs, interleaved, angles } => {
                WholeOp::Rotate(self.s.array(angles)?, *heads, *pairs, *interleaved)
            }
            Op::LayerNorm { weight, bias, .. } => {
                WholeOp::LayerNorm(self.s.array(weight)?, self.s.array(bias)?, one.shift, scales.epsilon)
            }
            Op::Activation { .. } => WholeOp::Curve(self.s.array(&format!("{}.table", node.output))?),
            Op::Prepend { vector } => WholeOp::Prepend(self.s.array(vector)?),
            Op::Patches { height, width, size, .. } => WholeOp::Patches([*height, *width, *size]),
            Op::Pool { kind } => WholeOp::Pool(*kind),
            other => return Err(Error::NoPlan(other.name())),
        };
        let out = self.value(&node.output)?;
        self.push(WholeStep::Rows { op, x, y, out });
        Ok(())
    }

    fn dense(
        &mut self,
        node: &'f Node,
        weight: &str,
        bias: Option<&str>,
        factor: Factor,
        x: WholeValue,
    ) -> Result<(), Error> {
        let out = self.value(&node.output)?;
        // Rows of the operand are as many as those of the result.
        let bytes = self.s.scratch(format!("{} i8", node.inputs[0]), x.cols, 1);
        let widest = self.extents.values().map(|extent| extent.width).max().unwrap_or(0).next_multiple_of(LANES);
        let zeros = match self.zeros {
            Some(zeros) => zeros,
            None => *self.zeros.insert(self.s.slot("zeros i32".to_owned(), Some(widest), 4, true)),
        };
        self.s.uses([bytes]);
        let matrix = WholeMatrix {
            w: self.s.array(weight)?,
            multiplier: self.s.array(&format!("{weight}.multiplier"))?,
            shift: self.s.array(&format!("{weight}.shift"))?,
            bias: self.s.array(bias.unwrap_or_default())?,
            factor,
            bytes,
            zeros,
        };
        self.push(WholeStep::Dense { matrix, x, out });
        Ok(())
    }
}

/// A matrix as the kernel takes it; `bias` is zeros.
pub(super) fn layer_of<'a>(
    matrix: &WholeMatrix,
    weights: &'a Weights,
    bias: &'a [i32],
) -> Result<IntegerLayer<'a>, Error> {
    Ok(IntegerLayer {
        w: weights.array(matrix.w)?,
        bias,
        multiplier: weights.array(matrix.multiplier)?,
        shift: weights.array(matrix.shift)?,
        low: -i32::MAX,
        high: i32::MAX,
    })
}

/// Looks once at the numbers of all nodes, so that no sum wraps afterwards.
pub(super) fn check_sound(plan: &NetworkPlan, weights: &Weights) -> Result<(), Error> {
    let name = |id: ArrayId| weights.file().tensors()[weights.table().tensor_of(id)].name.clone();
    let bounded = |id: ArrayId, most: i32| {
        let fits = weights.array::<i32>(id)?.iter().all(|x| (-most..=most).contains(x));
        if fits { Ok(()) } else { Err(Error::from(NetworkError::UnsoundTensor { tensor: name(id) })) }
    };
    for step in &plan.steps {
        match step {
            Step::Whole(WholeStep::Dense { matrix, .. }) => {
                if !is_sound(&layer_of(matrix, weights, &[])?) {
                    return Err(NetworkError::UnsoundTensor { tensor: name(matrix.w) }.into());
                }
                bounded(matrix.bias, MAX_ELEMENT)?;
            }
            Step::Whole(WholeStep::Rows { op, .. }) => match *op {
                WholeOp::Embed(id) | WholeOp::AddPositions(id, _) | WholeOp::Curve(id) | WholeOp::Prepend(id) => {
                    bounded(id, MAX_ELEMENT)?;
                }
                WholeOp::LayerNorm(gain, bias, ..) => {
                    bounded(gain, i32::MAX)?;
                    bounded(bias, MAX_ELEMENT)?;
                }
                WholeOp::RmsNorm(gain, ..) => bounded(gain, i32::MAX)?,
                WholeOp::Rotate(angles, ..) => bounded(angles, MAX_ANGLE)?,
                WholeOp::Add(_) | WholeOp::Multiply(_) | WholeOp::Patches(_) | WholeOp::Pool(_) => {}
            },
            _ => {}
        }
    }
    Ok(())
}
