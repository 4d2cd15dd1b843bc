//! The steps of a graph over its arena, row by row.

use super::copy;
use super::elements::{float_of, integer_of, load_integers, store_integers};
use super::plan::{GraphStep, LinearStep, Place, Program};
use super::prepare::{MAX_INPUTS, Prepared};
use super::product::{Zeros, integer_panel, pack_columns, widen_rows};
use super::workers::Workers;
use crate::Error;
use crate::arena::{Arena, cast, cast_mut};
use crate::network::NetworkPlan;
use crate::network::plan::{OutputSlot, Step};
use crate::plan::Slot;
use crate::run::{ACT_SLOTS, ActRows, Machine, QuantizeAct, split};
use crate::weights::Weights;
use rin_model::DType;
use rin_model::graph::ValueType;
use std::ops::Range;

/// Makes the constant sides of integer products ready, once the arena and the weights are there.
///
/// # Errors
///
/// Only where the plan and the arena do not fit each other.
pub(crate) fn make_ready(plan: &NetworkPlan, weights: &Weights, arena: &mut Arena) -> Result<(), Error> {
    let programs = plan.steps.iter().filter_map(|step| match step {
        Step::Graph(program) => Some(program),
        _ => None,
    });
    for ready in programs.flat_map(|program| &program.ready) {
        let slot: &Slot = &plan.slots[ready.slot.0];
        let range = slot.offset..slot.offset + slot.bytes;
        let [out, _none] = arena.slices_mut([range, 0..0])?;
        let out = cast_mut::<i16>(out)?;
        let zeros = Zeros { dtype: ready.dtype, bytes: weights.bytes_of(ready.zeros) };
        let bytes = weights.bytes_of(ready.tensor);
        match ready.columns {
            None => widen_rows(ready.dtype, zeros, bytes, ready.k, out),
            Some(n) => {
                for (p, panel) in out.chunks_exact_mut(integer_panel(ready.k)).enumerate() {
                    pack_columns(ready.dtype, zeros, bytes, n, p, panel);
                }
            }
        }
    }
    Ok(())
}

impl Machine<'_> {
    /// Runs a graph once for each row.
    pub(crate) fn graph(
        &mut self,
        program: &Program,
        inputs: &[&[f32]],
        rows: usize,
        outputs: &[OutputSlot],
    ) -> Result<(), Error> {
        for row in 0..rows {
            for (value, (&slot, input)) in program.inputs.iter().zip(inputs).enumerate() {
                let value = &program.types[value];
                let n = value.count();
                let range = self.range(slot, value.bytes());
                let [to] = self.arena.slices_mut([range])?;
                take_row(value.dtype, &input[row * n..][..n], to)?;
            }
            for step in &program.steps {
                self.graph_step(step)?;
            }
            for (&(place, value), output) in program.outputs.iter().zip(outputs) {
                self.give_row(&program.types[value], place, output, row)?;
            }
        }
        Ok(())
    }

    /// The bytes of a value within the arena; none for one in the file.
    fn place(&self, place: Place, bytes: usize) -> Range<usize> {
        match place {
            Place::Slot(slot) => self.range(slot, bytes),
            Place::Tensor(_) => 0..0,
        }
    }

    fn graph_step(&mut self, step: &GraphStep) -> Result<(), Error> {
        if let Some(linear) = &step.linear {
            return self.graph_linear(linear, step);
        }
        if let Prepared::Copy { size, blocks, fill, covered } = &step.op {
            return self.copy(step, *size, blocks, *fill, *covered);
        }
        let mut ranges: [Range<usize>; MAX_INPUTS + 2] = [const { 0..0 }; MAX_INPUTS + 2];
        ranges[MAX_INPUTS] = self.range(step.out, step.out_bytes);
        if let Some(scratch) = step.scratch {
            let bytes = self.slots[scratch.0].bytes;
            ranges[MAX_INPUTS + 1] = self.range(scratch, bytes);
        }
        // An operand beside itself is borrowed once.
        let mut same = [0, 1, 2, 3];
        for (i, (&place, &bytes)) in step.inputs.iter().zip(&step.input_bytes).enumerate() {
            match step.inputs[..i].iter().position(|&other| other == place) {
                Some(first) => same[i] = first,
                None => ranges[i] = self.place(place, bytes),
            }
        }
        let [a, b, c, d, out, scratch] = self.arena.slices_mut(ranges)?;
        let slots: [&[u8]; MAX_INPUTS] = [a, b, c, d];
        let mut inputs: [&[u8]; MAX_INPUTS] = [&[]; MAX_INPUTS];
        for (i, &place) in step.inputs.iter().enumerate() {
            inputs[i] = match place {
                Place::Slot(_) => slots[same[i]],
                Place::Tensor(tensor) => self.weights.bytes_of(tensor),
            };
        }
        let mut workers = Workers(Some(&mut *self.pool));
        step.op.run(&self.kernels.arrays, inputs, out, scratch, &mut workers)
    }

    fn copy(
        &mut self,
        step: &GraphStep,
        size: usize,
        blocks: &[copy::Block],
        fill: bool,
        covered: bool,
    ) -> Result<(), Error> {
        let out = self.range(step.out, step.out_bytes);
        let run = |machine: &mut Self, input: usize, f: &dyn Fn(&[u8], &mut [u8])| {
            let (place, bytes) = (step.inputs[input], step.input_bytes[input]);
            let ranges = [machine.place(place, bytes), out.clone()];
            let [x, out] = machine.arena.slices_mut(ranges)?;
            match place {
                Place::Slot(_) => f(x, out),
                Place::Tensor(tensor) => f(machine.weights.bytes_of(tensor), out),
            }
            Ok::<(), Error>(())
        };
        if fill {
            run(self, step.inputs.len() - 1, &|x, out| copy::fill(size, x, out))?;
        } else if !covered {
            run(self, 0, &|_, out| out.fill(0))?;
        }
        for block in blocks {
            run(self, block.input, &|x, out| block.run(size, x, out))?;
        }
        Ok(())
    }

    fn graph_linear(&mut self, linear: &LinearStep, step: &GraphStep) -> Result<(), Error> {
        let LinearStep { act, staged, part, rows, width } = linear;
        if *rows == 0 {
            return Ok(());
        }
        if *staged || act.block32.is_some() || act.block256.is_some() {
            self.stage(linear, step.inputs[0], *width)?;
        }
        self.linear(*rows, act, &[*part], false)
    }

    /// Brings the rows of an input to where a product takes them, filled up with zeros and quantised.
    fn stage(&mut self, linear: &LinearStep, input: Place, width: usize) -> Result<(), Error> {
        let LinearStep { act, staged, rows, .. } = linear;
        let mut ranges = self.act_ranges(*rows, act);
        if *staged {
            ranges[ACT_SLOTS] = self.place(input, rows * width * 4);
        }
        let slices = self.arena.slices_mut(ranges)?;
        let [a, b, c, d, e, f, g, source] = slices;
        let source = match input {
            Place::Tensor(tensor) => cast::<f32>(self.weights.bytes_of(tensor))?,
            Place::Slot(_) => cast::<f32>(source)?,
        };
        let (kernels, quantize, staged) = (self.kernels, QuantizeAct::new(act), *staged);
        let written = ActRows::new([a, b, c, d, e, f, g], *rows, act)?;
        split(written, *rows, self.pool.active()).run(self.pool, rows * act.cols * 4, |first, mut a| {
            for r in 0..a.x.rows() {
                if staged {
                    let (values, rest) = a.x.row_mut(r).split_at_mut(width);
                    values.copy_from_slice(&source[(first + r) * width..][..width]);
                    rest.fill(0.0);
                }
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    fn give_row(&mut self, value: &ValueType, place: Place, output: &OutputSlot, row: usize) -> Result<(), Error> {
        let start = self.range(output.slot, 0).start + row * output.width * 4;
        let ranges = [self.place(place, value.bytes()), start..start + output.width * 4];
        let [x, out] = self.arena.slices_mut(ranges)?;
        let x = match place {
            Place::Slot(_) => x,
            Place::Tensor(tensor) => self.weights.bytes_of(tensor),
        };
        let out = cast_mut::<f32>(out)?;
        if value.dtype == DType::F32 {
            out.copy_from_slice(cast(x)?);
            return Ok(());
        }
        for (at, out) in out.iter_mut().enumerate() {
            let mut n = [0];
            load_integers(value.dtype, x, at, 1, &mut n);
            *out = float_of(value.dtype, n[0]);
        }
        Ok(())
    }
}

/// Numbers of a row as the elements that the graph takes.
fn take_row(dtype: DType, row: &[f32], to: &mut [u8]) -> Result<(), Error> {
    if dtype == DType::F32 {
        cast_mut::<f32>(to)?.copy_from_slice(row);
        return Ok(());
    }
    let size = super::elements::size_of(dtype);
    for (to, &x) in to.chunks_exact_mut(size).zip(row) {
        store_integers(dtype, &[integer_of(dtype, x)], to);
    }
    Ok(())
}
