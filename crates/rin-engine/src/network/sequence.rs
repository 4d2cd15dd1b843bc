//! Operations that know positions: tables, rotary positions, patches, pooling.

use super::inputs::Spans;
use super::plan::{Step, Value, Writer};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::SlotId;
use crate::run::Machine;
use crate::weights::{MatrixId, VectorId};
use rin_kernels::math::canonical;
use rin_kernels::ops::attention::{KvType, PAGE};
use rin_model::{Node, Op, Pool, Positions};

/// Heads of sequences whose keys and values are in pages at once, and so the most workers of an attention.
const MAX_UNITS: usize = 64;

/// An operation that knows positions.
#[derive(Clone, Copy, Debug)]
pub enum SequenceOp {
    /// The row of a table for the number at each position.
    Embed {
        /// The table.
        table: MatrixId,
    },
    /// `x` and the row of a table for each position.
    AddPositions {
        /// The table.
        table: MatrixId,
    },
    /// A vector before the first position.
    Prepend {
        /// The vector.
        vector: VectorId,
    },
    /// Squares of a picture.
    Patches {
        /// Height, width of the picture; side of a square.
        sizes: [usize; 3],
    },
    /// Rotary positions.
    Rotate {
        /// For each position the cosines of all pairs, then their sines.
        angles: VectorId,
        /// Heads.
        heads: usize,
        /// Pairs of a head.
        pairs: usize,
        /// Whether neighbours form a pair.
        interleaved: bool,
    },
    /// One row from a sequence.
    Pool(Pool),
}

/// Bytes of the pages of one head of one sequence.
pub(super) fn unit_bytes(positions: Positions, head_dim: usize) -> usize {
    let page = KvType::F32.k_page_bytes(head_dim) + KvType::F32.v_page_bytes(head_dim);
    positions.most().div_ceil(PAGE).saturating_mul(page)
}

impl<'f> Writer<'f> {
    /// A node whose operation knows positions.
    pub(super) fn sequence_node(&mut self, node: &'f Node) -> Result<(), Error> {
        let op = match &node.op {
            Op::Embed { table } => SequenceOp::Embed { table: self.s.matrix(table)? },
            Op::AddPositions { table } => SequenceOp::AddPositions { table: self.s.matrix(table)? },
            Op::Prepend { vector } => SequenceOp::Prepend { vector: self.s.vector(vector)? },
            Op::Patches { height, width, size, .. } => SequenceOp::Patches { sizes: [*height, *width, *size] },
            Op::Pool { kind } => SequenceOp::Pool(*kind),
            Op::Rotate { heads, pairs, interleaved, angles } => SequenceOp::Rotate {
                angles: self.s.vector(angles)?,
                heads: *heads,
                pairs: *pairs,
                interleaved: *interleaved,
            },
            Op::Attention { heads, causal } => return self.attention(node, *heads, *causal),
            other => return Err(Error::NoPlan(other.name())),
        };
        let x = self.read(&node.inputs[0]);
        let out = self.value(&node.output)?;
        self.push(Step::Sequence { op, x, out });
        Ok(())
    }

    fn attention(&mut self, node: &'f Node, heads: usize, causal: bool) -> Result<(), Error> {
        let x = self.read(&node.inputs[0]);
        let out = self.value(&node.output)?;
        let units = self.n_rows.saturating_mul(heads).clamp(1, MAX_UNITS);
        let bytes = unit_bytes(x.positions, out.width / heads.max(1));
        let pages = self.s.slot(format!("{} keys and values", node.output), Some(units), bytes, false);
        self.s.uses([pages]);
        self.push(Step::Attention { heads, causal, x, pages, units, out });
        Ok(())
    }

    /// A copy of a sequence with zeros where positions do not count.
    pub(super) fn unpacked(&mut self, name: &str, x: Value) -> SlotId {
        self.s.uses_act(&x.act);
        self.s.rows = self.n_rows.saturating_mul(x.positions.most());
        let out = self.s.scratch(format!("output {name} f32"), x.width, 4);
        self.s.uses([out]);
        self.push(Step::Unpack { x, out });
        out
    }
}

impl Machine<'_> {
    pub(super) fn sequence(&mut self, spans: &Spans, op: &SequenceOp, x: &Value, out: &Value) -> Result<(), Error> {
        let (rows, width, stride) = (spans.rows(out.positions), out.width, x.act.cols);
        let source = self.range(x.act.x, spans.rows(x.positions) * stride * 4);
        let (kernels, weights) = (self.kernels, self.weights);
        let vector = match *op {
            SequenceOp::Prepend { vector } | SequenceOp::Rotate { angles: vector, .. } => weights.values(vector)?,
            _ => &[],
        };
        self.write(rows, out, [source, 0..0], rows * width, |at, to, [xs, _]| match *op {
            SequenceOp::Embed { table } => {
                #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "ids were checked")]
                let id = xs[at * stride] as usize;
                weights.row(table, id, to);
            }
            SequenceOp::AddPositions { table } => {
                let (_, position) = spans.place(out.positions, at);
                weights.row(table, position, to);
                for (to, x) in to.iter_mut().zip(&xs[at * stride..]) {
                    *to = canonical(x + *to);
                }
            }
            SequenceOp::Prepend { .. } => {
                let (row, position) = spans.place(out.positions, at);
                match position.checked_sub(1) {
                    Some(before) => {
                        let from = spans.start(x.positions, row) + before;
                        to.copy_from_slice(&xs[from * stride..][..width]);
                    }
                    None => to.copy_from_slice(vector),
                }
            }
            SequenceOp::Rotate { heads, pairs, interleaved, .. } => {
                let (_, position) = spans.place(out.positions, at);
                to.copy_from_slice(&xs[at * stride..][..width]);
                let head = width / (3 * heads).max(1);
                let (cos, sin) = vector[position * 2 * pairs..][..2 * pairs].split_at(pairs);
                kernels.rope.run(&mut to[..2 * heads * head], cos, sin, head, interleaved);
            }
            SequenceOp::Patches { sizes: [height, picture, size] } => {
                let (row, position) = spans.place(out.positions, at);
                let across = picture / size;
                let (top, left) = (position / across * size, position % across * size);
                for (i, to) in to.chunks_exact_mut(size).enumerate() {
                    let (channel, line) = (i / size, top + i % size);
                    let from = row * stride + (channel * height + line) * picture + left;
                    to.copy_from_slice(&xs[from..][..size]);
                }
            }
            SequenceOp::Pool(kind) => {
                let span = spans.start(x.positions, at)..spans.start(x.positions, at + 1);
                to.copy_from_slice(&xs[span.start * stride..][..width]);
                if kind == Pool::Mean {
                    // One after the other, so that neither threads nor rows beside it change the order.
                    for position in span.start + 1..span.end {
                        to.iter_mut().zip(&xs[position * stride..]).for_each(|(to, x)| *to += x);
                    }
                    let n = span.len() as f32;
                    for to in to {
                        *to = canonical(*to / n);
                    }
                }
            }
        })
    }

    pub(super) fn unpack(&mut self, spans: &Spans, x: &Value, out: SlotId) -> Result<(), Error> {
        let (width, stride) = (x.width, x.act.cols);
        let padded = spans.padded_positions(x.positions) * width;
        let ranges =
            [self.range(x.act.x, spans.rows(x.positions) * stride * 4), self.range(out, spans.count() * padded * 4)];
        let [x_bytes, out] = self.arena.slices_mut(ranges)?;
        let xs = cast::<f32>(x_bytes)?;
        for (row, to) in cast_mut::<f32>(out)?.chunks_exact_mut(padded.max(1)).enumerate() {
            let span = spans.start(x.positions, row)..spans.start(x.positions, row + 1);
            let (counted, rest) = to.split_at_mut(span.len() * width);
            for (to, at) in counted.chunks_exact_mut(width).zip(span) {
                to.copy_from_slice(&xs[at * stride..][..width]);
            }
            rest.fill(0.0);
        }
        Ok(())
    }
}
