//! Networks in integers: floats become 8 bits at the input, 32 bits become floats at the output, and nothing between is a
//! float.

use super::NetworkError;
use super::inputs::Domain;
use super::plan::{NetworkPlan, OutputSlot, Step};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::{Placed, SlotId, Slots};
use crate::pool::{Pool, partition};
use crate::run::{Machine, deal, rows_of};
use crate::weights::{ArrayId, Weights};
use rin_kernels::MatMut;
use rin_kernels::ops::integer::{IntegerLayer, MAX_WIDE, is_sound, look_up};
use rin_kernels::pack::LANES;
use rin_model::{Integer, ModelFile, Network, Positions};
use std::ops::Range;

/// Below this many multiplications a layer runs on its caller: waking a worker takes longer than as many products.
const WORTH_SHARING: usize = 1 << 20;

/// The arrays of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerArrays {
    w: ArrayId,
    bias: ArrayId,
    multiplier: ArrayId,
    shift: ArrayId,
    table: Option<ArrayId>,
    low: i32,
    high: i32,
    /// Outputs and inputs, filled up.
    outputs: usize,
    inputs: usize,
}

/// One operation of a network in integers.
#[derive(Clone, Copy, Debug)]
pub enum IntegerStep {
    /// Numbers in steps of a scale, 8 bits.
    Input {
        /// Steps per unit.
        inverse: f32,
        /// Numbers in a row.
        width: usize,
        /// i8 `(rows, width filled up)`.
        out: SlotId,
        /// Width, filled up.
        padded: usize,
    },
    /// A layer.
    Dense {
        /// Its arrays.
        layer: LayerArrays,
        /// i8 `(rows, inputs)`.
        x: SlotId,
        /// i8 `(rows, outputs)`, or i32 where it is the last one.
        out: SlotId,
        /// Whether it is.
        last: bool,
    },
    /// Steps of a scale as numbers.
    Output {
        /// One step.
        scale: f32,
        /// i32 `(rows, width filled up)`.
        x: SlotId,
        /// Width, filled up.
        padded: usize,
        /// f32 `(rows, width)`.
        out: SlotId,
        /// Width.
        width: usize,
    },
}

/// Plans a network in integers for up to `n_rows` rows at once.
pub(super) fn plan_integer(
    file: &ModelFile,
    network: &Network,
    integer: &Integer,
    n_rows: usize,
) -> Result<NetworkPlan, Error> {
    let mut s = Slots::new(file, n_rows);
    let width = network.inputs.first().map_or(0, rin_model::Port::width);
    let mut steps = Vec::with_capacity(integer.layers.len() + 2);
    let mut padded = integer.padded_inputs(width);
    let mut inputs = padded.next().unwrap_or(0);
    let mut x = s.scratch("input i8", inputs, 1);
    steps.push(IntegerStep::Input { inverse: 1.0 / integer.input_scale, width, out: x, padded: inputs });
    s.advance();
    for (at, (layer, outputs)) in integer.layers.iter().zip(padded).enumerate() {
        let last = at + 1 == integer.layers.len();
        let mut array = |name: &str| s.array(&format!("layer.{at}.{name}"));
        let layer = LayerArrays {
            w: array("weight")?,
            bias: array("bias")?,
            multiplier: array("multiplier")?,
            shift: array("shift")?,
            table: if layer.table { Some(array("table")?) } else { None },
            low: layer.low,
            high: layer.high,
            outputs,
            inputs,
        };
        let (kind, bytes) = if last { ("i32", 4) } else { ("i8", 1) };
        let out = s.scratch(format!("layer {at} {kind}"), outputs, bytes);
        s.uses([x, out]);
        s.advance();
        steps.push(IntegerStep::Dense { layer, x, out, last });
        (x, inputs) = (out, outputs);
    }
    let width = integer.layers.last().map_or(0, |layer| layer.outputs);
    let out = s.scratch("output f32", width, 4);
    s.uses([x, out]);
    s.advance();
    steps.push(IntegerStep::Output { scale: integer.output_scale, x, padded: inputs, out, width });
    let Placed { slots, state_bytes, scratch_bytes, weights } = s.place(&[out])?;
    Ok(NetworkPlan {
        network: network.clone(),
        n_rows,
        domains: vec![Domain::Numbers],
        steps: steps.into_iter().map(Step::Integer).collect(),
        slots,
        outputs: vec![OutputSlot { slot: out, width, positions: Positions::One }],
        state_bytes,
        scratch_bytes,
        weights,
    })
}

/// Looks once at the numbers of all layers, so that no sum wraps afterwards.
pub(super) fn check_sound(plan: &NetworkPlan, weights: &Weights) -> Result<(), Error> {
    let layers = plan.steps.iter().filter_map(|step| match step {
        Step::Integer(IntegerStep::Dense { layer, last, .. }) => Some((layer, *last)),
        _ => None,
    });
    for (at, (arrays, last)) in layers.enumerate() {
        let (layer, table) = layer_of(arrays, weights)?;
        let most = if last { MAX_WIDE } else { 127 };
        let in_range = layer.low >= -most && layer.high <= most && table.is_none_or(|table| !table.contains(&i8::MIN));
        if !is_sound(&layer) || !in_range {
            return Err(NetworkError::UnsoundLayer { layer: at }.into());
        }
    }
    Ok(())
}

fn layer_of<'a>(
    arrays: &LayerArrays,
    weights: &'a Weights,
) -> Result<(IntegerLayer<'a>, Option<&'a [i8; 256]>), Error> {
    let layer = IntegerLayer {
        w: weights.array(arrays.w)?,
        bias: weights.array(arrays.bias)?,
        multiplier: weights.array(arrays.multiplier)?,
        shift: weights.array(arrays.shift)?,
        low: arrays.low,
        high: arrays.high,
    };
    let table = arrays.table.map(|table| weights.array::<i8>(table)).transpose()?;
    Ok((layer, table.and_then(|table| table.first_chunk())))
}

/// The outputs `panels` of a layer.
fn panels_of<'a>(layer: &IntegerLayer<'a>, inputs: usize, panels: Range<usize>) -> IntegerLayer<'a> {
    let outputs = panels.start * LANES..panels.end * LANES;
    IntegerLayer {
        w: &layer.w[outputs.start * inputs..outputs.end * inputs],
        bias: &layer.bias[outputs.clone()],
        multiplier: &layer.multiplier[outputs.clone()],
        shift: &layer.shift[outputs],
        ..*layer
    }
}

impl Machine<'_> {
    /// One step over `rows` rows.
    pub(super) fn integer(&mut self, rows: usize, step: &IntegerStep, inputs: &[&[f32]]) -> Result<(), Error> {
        match *step {
            IntegerStep::Input { inverse, width, out, padded } => {
                let [out] = self.arena.slices_mut([self.range(out, rows * padded)])?;
                let x = inputs.first().copied().unwrap_or_default();
                for (q, x) in cast_mut::<i8>(out)?.chunks_exact_mut(padded).zip(x.chunks_exact(width)) {
                    self.kernels.integer.quantize.run(q, x, inverse);
                }
                Ok(())
            }
            IntegerStep::Dense { layer, x, out, last } => self.integer_layer(rows, &layer, x, out, last),
            IntegerStep::Output { scale, x, padded, out, width } => {
                let ranges = [self.range(x, rows * padded * 4), self.range(out, rows * width * 4)];
                let [x, out] = self.arena.slices_mut(ranges)?;
                let x: &[i32] = cast(x)?;
                for (y, x) in cast_mut::<f32>(out)?.chunks_exact_mut(width).zip(x.chunks_exact(padded)) {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x as f32 * scale;
                    }
                }
                Ok(())
            }
        }
    }

    fn integer_layer(
        &mut self,
        rows: usize,
        arrays: &LayerArrays,
        x: SlotId,
        out: SlotId,
        last: bool,
    ) -> Result<(), Error> {
        let (layer, table) = layer_of(arrays, self.weights)?;
        let LayerArrays { outputs, inputs, .. } = *arrays;
        let bytes = if last { 4 } else { 1 };
        let ranges = [self.range(x, rows * inputs), self.range(out, rows * outputs * bytes)];
        let [x, out] = self.arena.slices_mut(ranges)?;
        let x: &[i8] = cast(x)?;
        let kernels = self.kernels.integer;
        let panels = outputs / LANES;
        let workers = if rows * outputs * inputs < WORTH_SHARING { 1 } else { self.pool.active().min(panels) };
        if last {
            let whole = rows_of(cast_mut::<i32>(out)?, rows, outputs);
            share(self.pool, workers, panels, whole, |range, mut y| {
                kernels.wide.run(&mut y, x, panels_of(&layer, inputs, range));
            });
            return Ok(());
        }
        let whole = rows_of(cast_mut::<i8>(out)?, rows, outputs);
        share(self.pool, workers, panels, whole, |range, mut y| {
            kernels.narrow.run(&mut y, x, panels_of(&layer, inputs, range));
            if let Some(table) = table {
                for row in 0..y.rows() {
                    look_up(y.row_mut(row), table);
                }
            }
        });
        Ok(())
    }
}

/// Deals the panels of a layer out.
fn share<T: Send>(
    pool: &mut Pool,
    workers: usize,
    panels: usize,
    whole: MatMut<'_, T>,
    f: impl Fn(Range<usize>, MatMut<'_, T>) + Sync,
) {
    if workers <= 1 {
        return f(0..panels, whole);
    }
    let mut rest = Some(whole);
    let make = |i: usize| {
        let range = partition(panels, workers, i, 1);
        let (share, after) = rest.take()?.split_cols(range.len() * LANES);
        rest = Some(after);
        Some((range, share))
    };
    deal(pool, workers, make, |(range, y)| f(range, y));
}
