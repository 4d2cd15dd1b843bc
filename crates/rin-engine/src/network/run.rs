//! The steps of a network over its arena.

use super::NetworkEngine;
use super::inputs::Spans;
use super::plan::{RowOp, Step, Value};
use crate::Error;
use crate::arena::cast;
use crate::run::{ACT_SLOTS, ActRows, Machine, QuantizeAct, split};
use rin_kernels::math::canonical;
use rin_kernels::ops::activation::Function;
use std::ops::Range;

/// What an element of a row operation counts for against a plain one: most call an exponential.
const ROW_OP_WORK: usize = 8;

impl NetworkEngine {
    pub(super) fn forward(&mut self, first: usize, inputs: &[&[f32]]) -> Result<(), Error> {
        let Self { plan, weights, arena, pool, kernels, spans, counts, .. } = self;
        let mut machine = Machine { slots: &plan.slots, weights, arena, pool, kernels };
        for step in &plan.steps {
            match step {
                Step::Input { port, out } => machine.input(spans, inputs[*port], out)?,
                Step::Dense { x, part, out } => {
                    let rows = spans.rows(out.positions);
                    machine.linear(rows, x, part, false)?;
                    machine.finish(rows, out)?;
                }
                Step::Rows { op, x, y, out } => machine.rows(spans.rows(out.positions), op, x, y.as_ref(), out)?,
                Step::Sequence { op, x, out } => machine.sequence(spans, op, x, out)?,
                Step::Attention { heads, causal, x, pages, units, out } => {
                    machine.encode(spans, (*heads, *causal), x, (*pages, *units), out)?;
                }
                Step::Graph(program) => machine.graph(program, inputs, spans.count(), &plan.outputs)?,
                Step::Integer(step) => machine.integer(spans.count(), step, inputs)?,
                Step::Whole(step) => machine.whole(spans, step, inputs)?,
                Step::Spiking(step) => machine.spiking(step, inputs, first, spans.count(), counts)?,
                Step::Unpack { x, out } => machine.unpack(spans, x, *out)?,
            }
        }
        Ok(())
    }
}

impl Machine<'_> {
    /// Calls `f` with each row of a value and its number; what follows the row's values is zeros, and the row is
    /// quantised as its readers ask.
    pub(super) fn write(
        &mut self,
        rows: usize,
        out: &Value,
        sources: [Range<usize>; 2],
        work: usize,
        f: impl Fn(usize, &mut [f32], [&[f32]; 2]) + Sync,
    ) -> Result<(), Error> {
        const N: usize = ACT_SLOTS + 2;
        let mut ranges: [Range<usize>; N] = [const { 0..0 }; N];
        ranges[..ACT_SLOTS].clone_from_slice(&self.act_ranges(rows, &out.act)[..ACT_SLOTS]);
        let [x, y] = sources;
        (ranges[ACT_SLOTS], ranges[ACT_SLOTS + 1]) = (x, y);
        let [a, b, c, d, e, g, h, x, y] = self.arena.slices_mut(ranges)?;
        let sources = [cast::<f32>(x)?, cast::<f32>(y)?];
        let (kernels, quantize, width) = (self.kernels, QuantizeAct::new(&out.act), out.width);
        let written = ActRows::new([a, b, c, d, e, g, h], rows, &out.act)?;
        split(written, rows, self.pool.active()).run(self.pool, work, |first, mut a| {
            for r in 0..a.x.rows() {
                let (values, rest) = a.x.row_mut(r).split_at_mut(width);
                f(first + r, values, sources);
                rest.fill(0.0);
                quantize.run(kernels, &mut a, r);
            }
        });
        Ok(())
    }

    /// The positions that count, one sequence after the other; zeros where nothing was given.
    fn input(&mut self, spans: &Spans, values: &[f32], out: &Value) -> Result<(), Error> {
        let width = out.width;
        let rows = spans.rows(out.positions);
        self.write(rows, out, [0..0, 0..0], rows * width, |r, row, _| {
            if values.is_empty() {
                return row.fill(0.0);
            }
            row.copy_from_slice(&values[spans.padded(out.positions, r) * width..][..width]);
        })
    }

    /// Zeros behind the rows of a product, and their quantised forms.
    pub(super) fn finish(&mut self, rows: usize, out: &Value) -> Result<(), Error> {
        let act = &out.act;
        if act.cols == out.width && act.block32.is_none() && act.block256.is_none() {
            return Ok(());
        }
        self.write(rows, out, [0..0, 0..0], rows * act.cols, |_, _, _| ())
    }

    fn rows(&mut self, rows: usize, op: &RowOp, x: &Value, y: Option<&Value>, out: &Value) -> Result<(), Error> {
        let (kernels, weights, width, stride) = (self.kernels, self.weights, out.width, x.act.cols);
        // A value beside itself is borrowed once.
        let same = y.is_some_and(|y| y.act.x == x.act.x);
        let range = |m: &Self, v: &Value| m.range(v.act.x, rows * v.act.cols * 4);
        let sources = [range(self, x), y.filter(|_| !same).map_or(0..0, |y| range(self, y))];
        let y_stride = y.map_or(0, |y| y.act.cols);
        let vectors = match *op {
            RowOp::LayerNorm { weight, bias, .. } | RowOp::Scale { weight, bias, .. } => {
                [weights.values(weight)?, weights.values(bias)?]
            }
            RowOp::RmsNorm { weight, .. } => [weights.values(weight)?, &[][..]],
            _ => [&[][..]; 2],
        };
        let [g, b] = vectors;
        self.write(rows, out, sources, rows * width * ROW_OP_WORK, |r, to, [xs, ys]| {
            let x = &xs[r * stride..][..width];
            let function = match *op {
                RowOp::LayerNorm { eps, .. } => {
                    kernels.layer_norm.run(to, x, g, b, eps);
                    Function::Identity
                }
                RowOp::RmsNorm { eps, .. } => {
                    kernels.norm.run(to, x, g, eps);
                    Function::Identity
                }
                RowOp::Scale { function, .. } => {
                    for (((to, x), g), b) in to.iter_mut().zip(x).zip(g).zip(b) {
                        *to = canonical(x.mul_add(*g, *b));
                    }
                    function
                }
                RowOp::Activate(function) => {
                    to.copy_from_slice(x);
                    function
                }
                RowOp::Add(function) => {
                    let ys = if same { xs } else { ys };
                    for ((to, x), y) in to.iter_mut().zip(x).zip(&ys[r * y_stride..][..width]) {
                        *to = canonical(x + y);
                    }
                    function
                }
                RowOp::Multiply => {
                    let ys = if same { xs } else { ys };
                    for ((to, x), y) in to.iter_mut().zip(x).zip(&ys[r * y_stride..][..width]) {
                        *to = canonical(x * y);
                    }
                    Function::Identity
                }
                RowOp::Softmax => {
                    to.copy_from_slice(x);
                    kernels.softmax.run(to);
                    Function::Identity
                }
            };
            kernels.activate.run(to, function);
        })
    }
}
