//! The steps of encoders and decoders in integers over their arena. Between `input` and `output` nothing is a float.

use super::inputs::Spans;
use super::whole::{WholeMatrix, WholeOp, WholeStep, WholeValue, layer_of, unit_bytes};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::SlotId;
use crate::pool::partition;
use crate::run::{Dense, Machine, WholeKernels, deal, rows_of, split};
use rin_kernels::MatMut;
use rin_kernels::ops::wide::attention::{Attended, key_pairs, put_key, put_value, to_query, value_pairs};
use rin_kernels::ops::wide::norm::WideNorm;
use rin_kernels::ops::wide::rows::times;
use rin_kernels::ops::wide::softmax::Powers;
use rin_kernels::ops::wide::{Factor, MAX_ELEMENT};
use rin_model::Pool;
use std::ops::Range;

/// What an element of an operation on rows counts for: most are some multiplications in 64 bits.
const ROW_WORK: usize = 4;

impl Machine<'_> {
    /// One step.
    pub(super) fn whole(&mut self, spans: &Spans, step: &WholeStep, inputs: &[&[f32]]) -> Result<(), Error> {
        match step {
            WholeStep::Input { port, inverse, out } => self.whole_input(spans, inputs[*port], *inverse, out),
            WholeStep::Dense { matrix, x, out } => self.whole_dense(spans.rows(out.positions), matrix, x, out),
            WholeStep::Rows { op, x, y, out } => self.whole_rows(spans, *op, x, y.as_ref(), out),
            WholeStep::Attention { heads, causal, factor, powers, x, pages, units, out } => {
                self.whole_attention(spans, (*heads, *causal, *factor, powers), x, (*pages, *units), out)
            }
            WholeStep::Output { scale, x, out } => self.whole_output(spans, *scale, x, *out),
        }
    }

    fn whole_range(&self, rows: usize, value: &WholeValue) -> Range<usize> {
        self.range(value.slot, rows * value.cols * 4)
    }

    /// The positions that count, one sequence after the other; zeros where nothing was given.
    fn whole_input(&mut self, spans: &Spans, values: &[f32], inverse: f32, out: &WholeValue) -> Result<(), Error> {
        let rows = spans.rows(out.positions);
        let [to] = self.arena.slices_mut([self.whole_range(rows, out)])?;
        for (r, to) in cast_mut::<i32>(to)?.chunks_exact_mut(out.cols).enumerate() {
            to.fill(0);
            if values.is_empty() {
                continue;
            }
            let row = &values[spans.padded(out.positions, r) * out.width..][..out.width];
            for (to, x) in to.iter_mut().zip(row) {
                #[expect(clippy::cast_possible_truncation, reason = "clamped; NaN becomes 0")]
                let whole = (x * inverse).round_ties_even() as i32;
                *to = whole.clamp(-MAX_ELEMENT, MAX_ELEMENT);
            }
        }
        Ok(())
    }

    fn whole_dense(
        &mut self,
        rows: usize,
        matrix: &WholeMatrix,
        x: &WholeValue,
        out: &WholeValue,
    ) -> Result<(), Error> {
        let ranges = [
            self.whole_range(rows, out),
            self.range(matrix.bytes, rows * x.cols),
            self.whole_range(rows, x),
            self.range(matrix.zeros, out.cols * 4),
        ];
        let [y, bytes, xs, zeros] = self.arena.slices_mut(ranges)?;
        let (xs, zeros): (&[i32], &[i32]) = (cast(xs)?, cast(zeros)?);
        let layer = layer_of(matrix, self.weights, zeros)?;
        let bias: &[i32] = self.weights.array(matrix.bias)?;
        let (whole, product, factor) = (self.kernels.whole, self.kernels.integer.wide, matrix.factor);
        let y = Dense { data: cast_mut::<i32>(y)?, cols: out.cols };
        let bytes = Dense { data: cast_mut::<i8>(bytes)?, cols: x.cols };
        let row = |r: usize| {
            let (row, mut most) = (&xs[r * x.cols..][..x.width], 0);
            whole.largest.run(row, &mut most);
            (row, most)
        };
        split((y, bytes), rows, self.pool.active()).run(
            self.pool,
            rows * x.cols * out.cols / 16,
            |first, (y, bytes)| {
                for (i, q) in bytes.data.chunks_exact_mut(x.cols).enumerate() {
                    let (row, most) = row(first + i);
                    whole.to_bytes.run(q, row, most);
                }
                let n = y.data.len() / out.cols;
                product.run(&mut MatMut::new(y.data, n, out.cols), bytes.data, layer);
                for (i, y) in y.data.chunks_exact_mut(out.cols).enumerate() {
                    whole.rescale.run(&mut y[..out.width], bias, times(factor, row(first + i).1));
                }
            },
        );
        Ok(())
    }

    fn whole_rows(
        &mut self,
        spans: &Spans,
        op: WholeOp,
        x: &WholeValue,
        y: Option<&WholeValue>,
        out: &WholeValue,
    ) -> Result<(), Error> {
        let rows = spans.rows(out.positions);
        // A value beside itself is borrowed once.
        let y = y.filter(|y| y.slot != x.slot);
        let y_range = y.map_or(0..0, |y| self.whole_range(spans.rows(y.positions), y));
        let ranges = [self.whole_range(rows, out), self.whole_range(spans.rows(x.positions), x), y_range];
        let [to, xs, ys] = self.arena.slices_mut(ranges)?;
        let (xs, ys): (&[i32], &[i32]) = (cast(xs)?, cast(ys)?);
        let ys = if y.is_some() { ys } else { xs };
        let array = |id| self.weights.array::<i32>(id);
        let [first_array, second_array]: [&[i32]; 2] = match op {
            WholeOp::Embed(id) | WholeOp::AddPositions(id, _) | WholeOp::Curve(id) | WholeOp::Prepend(id) => {
                [array(id)?, &[]]
            }
            WholeOp::LayerNorm(gain, bias, ..) => [array(gain)?, array(bias)?],
            WholeOp::RmsNorm(id, ..) | WholeOp::Rotate(id, ..) => [array(id)?, &[]],
            WholeOp::Add(_) | WholeOp::Multiply(_) | WholeOp::Patches(_) | WholeOp::Pool(_) => [&[], &[]],
        };
        let source = Source { spans, x, out, xs, ys, arrays: [first_array, second_array] };
        let whole = self.kernels.whole;
        let to = Dense { data: cast_mut::<i32>(to)?, cols: out.cols };
        split(to, rows, self.pool.active()).run(self.pool, rows * out.width * ROW_WORK, |first, to| {
            for (i, to) in to.data.chunks_exact_mut(out.cols).enumerate() {
                let (to, rest) = to.split_at_mut(out.width);
                rest.fill(0);
                source.row(&whole, op, first + i, to);
            }
        });
        Ok(())
    }

    fn whole_attention(
        &mut self,
        spans: &Spans,
        (heads, causal, factor, powers): (usize, bool, Factor, &Powers),
        x: &WholeValue,
        (pages, units): (SlotId, usize),
        out: &WholeValue,
    ) -> Result<(), Error> {
        let (rows, samples) = (spans.rows(out.positions), spans.count());
        let head = out.width / heads.max(1);
        let unit = unit_bytes(x.positions.most(), head);
        let ranges = [self.whole_range(rows, out), self.whole_range(rows, x), self.range(pages, units * unit)];
        let [o, qkv, pages] = self.arena.slices_mut(ranges)?;
        let qkv: &[i32] = cast(qkv)?;
        let (whole, rest) = rows_of(cast_mut::<i32>(o)?, rows, out.cols).split_cols(out.width);
        let mut padding = rest;
        for row in 0..padding.rows() {
            padding.row_mut(row).fill(0);
        }
        let span = |sample: usize| spans.start(out.positions, sample)..spans.start(out.positions, sample + 1);
        let workers = self.pool.active().min(units).min(heads);
        let (mut left, mut pages_left) = (Some(whole), pages);
        let attend = Attending { kernels: &self.kernels.whole, heads, head, cols: x.cols, qkv, causal, factor, powers };
        let make = |i: usize| {
            let range = partition(heads, workers, i, 1);
            let (share, after) = left.take()?.split_cols(range.len() * head);
            left = Some(after);
            let (own, after) = std::mem::take(&mut pages_left).split_at_mut_checked(unit)?;
            pages_left = after;
            Some((share, own, range))
        };
        deal(self.pool, workers, make, |(mut share, own, range): (MatMut<'_, i32>, &mut [u8], Range<usize>)| {
            for sample in 0..samples {
                for (column, head) in range.clone().enumerate() {
                    attend.run(head, span(sample), own, |position, found| {
                        share.row_mut(position)[column * attend.head..][..attend.head].copy_from_slice(found);
                    });
                }
            }
        });
        Ok(())
    }

    fn whole_output(&mut self, spans: &Spans, scale: f32, x: &WholeValue, out: SlotId) -> Result<(), Error> {
        let padded = spans.padded_positions(x.positions) * x.width;
        let ranges = [self.whole_range(spans.rows(x.positions), x), self.range(out, spans.count() * padded * 4)];
        let [xs, out] = self.arena.slices_mut(ranges)?;
        let xs: &[i32] = cast(xs)?;
        for (row, to) in cast_mut::<f32>(out)?.chunks_exact_mut(padded.max(1)).enumerate() {
            let span = spans.start(x.positions, row)..spans.start(x.positions, row + 1);
            let (counted, rest) = to.split_at_mut(span.len() * x.width);
            for (to, at) in counted.chunks_exact_mut(x.width).zip(span) {
                for (to, x) in to.iter_mut().zip(&xs[at * x.cols..]) {
                    // At most 2^20: exact.
                    *to = *x as f32 * scale;
                }
            }
            rest.fill(0.0);
        }
        Ok(())
    }
}

/// What an operation on rows reads.
struct Source<'a> {
    spans: &'a Spans,
    x: &'a WholeValue,
    out: &'a WholeValue,
    xs: &'a [i32],
    ys: &'a [i32],
    arrays: [&'a [i32]; 2],
}

impl Source<'_> {
    /// Row `at` of the result.
    fn row(&self, whole: &WholeKernels, op: WholeOp, at: usize, to: &mut [i32]) {
        let Self { spans, x, out, xs, ys, arrays: [array, second] } = *self;
        let (width, cols) = (out.width, x.cols);
        let same = |to: &mut [i32]| to.copy_from_slice(&xs[at * cols..][..width]);
        match op {
            WholeOp::Embed(_) => {
                // Ids were checked.
                let id = usize::try_from(xs[at * cols]).unwrap_or(0);
                to.copy_from_slice(&array[id * width..][..width]);
            }
            WholeOp::AddPositions(_, [own, other]) => {
                let (_, position) = spans.place(out.positions, at);
                same(to);
                whole.add.run(to, &array[position * width..][..width], own, other);
            }
            WholeOp::Add([own, other]) => {
                same(to);
                whole.add.run(to, &ys[at * cols..][..width], own, other);
            }
            WholeOp::Multiply(factor) => {
                same(to);
                whole.multiply.run(to, &ys[at * cols..][..width], factor);
            }
            WholeOp::RmsNorm(_, shift, epsilon) => {
                let norm = WideNorm { gain: array, bias: &[], shift, epsilon };
                whole.rms_norm.run(to, &xs[at * cols..][..width], norm);
            }
            WholeOp::Rotate(_, heads, pairs, interleaved) => {
                let (_, position) = spans.place(out.positions, at);
                same(to);
                let (head, angles) = (width / (3 * heads).max(1), &array[position * 2 * pairs..][..2 * pairs]);
                whole.rotate.run(&mut to[..2 * heads * head], angles, head, interleaved);
            }
            WholeOp::LayerNorm(_, _, shift, epsilon) => {
                let norm = WideNorm { gain: array, bias: second, shift, epsilon };
                whole.layer_norm.run(to, &xs[at * cols..][..width], norm);
            }
            WholeOp::Curve(_) => {
                same(to);
                whole.curve.run(to, array);
            }
            WholeOp::Prepend(_) => {
                let (row, position) = spans.place(out.positions, at);
                match position.checked_sub(1) {
                    Some(before) => {
                        let from = spans.start(x.positions, row) + before;
                        to.copy_from_slice(&xs[from * cols..][..width]);
                    }
                    None => to.copy_from_slice(array),
                }
            }
            WholeOp::Patches([height, picture, size]) => {
                let (row, position) = spans.place(out.positions, at);
                let across = picture / size;
                let (top, left) = (position / across * size, position % across * size);
                for (i, to) in to.chunks_exact_mut(size).enumerate() {
                    let (channel, line) = (i / size, top + i % size);
                    let from = row * cols + (channel * height + line) * picture + left;
                    to.copy_from_slice(&xs[from..][..size]);
                }
            }
            WholeOp::Pool(kind) => {
                let span = spans.start(x.positions, at)..spans.start(x.positions, at + 1);
                to.copy_from_slice(&xs[span.start * cols..][..width]);
                if kind == Pool::Mean {
                    let n = i64::try_from(span.len().max(1)).unwrap_or(1);
                    for (column, to) in to.iter_mut().enumerate() {
                        let sum: i64 = span.clone().map(|position| i64::from(xs[position * cols + column])).sum();
                        // Of elements within 21 bits.
                        *to = i32::try_from((sum + n / 2).div_euclid(n)).unwrap_or(0);
                    }
                }
            }
        }
    }
}

/// What all workers of an attention read.
struct Attending<'a> {
    kernels: &'a WholeKernels,
    heads: usize,
    head: usize,
    cols: usize,
    qkv: &'a [i32],
    causal: bool,
    factor: Factor,
    powers: &'a Powers,
}

impl Attending<'_> {
    /// The values of a head at a position: its queries (0), keys (1) or values (2).
    fn part(&self, position: usize, part: usize, head: usize) -> &[i32] {
        let column = (part * self.heads + head) * self.head;
        &self.qkv[position * self.cols + column..][..self.head]
    }

    /// Attention of the positions `span` to their sequence in one head; `put` takes what comes of each.
    fn run(&self, head: usize, span: Range<usize>, own: &mut [u8], mut put: impl FnMut(usize, &[i32])) {
        let (n, width) = (span.len(), self.head);
        let (exponents, rest) = own.split_at_mut(n * 8);
        let (weights, rest) = rest.split_at_mut((n * 4).next_multiple_of(8));
        // Slots begin at multiples of 64 bytes, and so does what a worker has.
        let [q_len, k_len, v_len] = [width.div_ceil(2), key_pairs(n, width), value_pairs(n, width)];
        let (Ok(exponents), Ok(weights), Ok(halves)) = (
            cast_mut::<i64>(exponents),
            cast_mut::<u32>(&mut weights[..n * 4]),
            cast_mut::<i16>(&mut rest[..(q_len + k_len + v_len) * 4]),
        ) else {
            return;
        };
        let (q, pairs) = halves.as_chunks_mut().0.split_at_mut(q_len);
        pairs.fill([0; 2]);
        let (keys, values) = pairs.split_at_mut(k_len);
        for (i, position) in span.clone().enumerate() {
            put_key(keys, i, self.part(position, 1, head));
            put_value(values, i, self.part(position, 2, head));
        }
        let mut found = [0; rin_kernels::ops::wide::attention::MAX_HEAD];
        for (i, position) in span.enumerate() {
            let seen = if self.causal { i + 1 } else { n };
            let to = Attended { keys, values, factor: self.factor, powers: self.powers };
            to_query(q, self.part(position, 0, head));
            self.kernels.attend.run(&mut found[..width], q, to, &mut exponents[..seen], &mut weights[..seen]);
            put(position, &found[..width]);
        }
    }
}
