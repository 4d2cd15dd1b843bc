//! Products: the panels of all matrices of a step are dealt out together.

use super::Kernels;
use super::machine::{ACT_SLOTS, ActInput, Machine};
use super::split::{deal, rows_of};
use crate::Error;
use crate::arena::cast_mut;
use crate::plan::{Act, MAX_PARTS, Part};
use crate::pool::partition;
use crate::weights::{Matrix, Weights};
use rin_kernels::MatMut;
use rin_kernels::ops::activation::{Activate, Function};
use rin_kernels::ops::linear::{Epilogue, Linear};
use rin_kernels::pack::LANES;
use std::ops::Range;

/// Below this many multiplications a step runs on its caller.
const WORTH_SHARING: usize = 1 << 15;

/// One matrix with all that its product needs.
#[derive(Clone, Copy, Debug)]
struct Product<'a> {
    op: Linear,
    matrix: &'a Matrix,
    panels: &'a [u8],
    bias: Option<&'a [f32]>,
    function: Function,
    activate: &'a Activate,
    first: usize,
    stride: usize,
    add: bool,
}

impl Product<'_> {
    fn n_panels(&self) -> usize {
        self.matrix.rows.div_ceil(LANES)
    }

    /// Runs panels `range` into their columns `y`.
    fn run(&self, range: Range<usize>, y: &mut MatMut<'_, f32>, x: &ActInput<'_>) {
        let first = range.start * LANES;
        let bias = self.bias.map(|b| &b[first..first + y.cols()]);
        let size = self.matrix.panel_bytes;
        let w = &self.panels[range.start * size..range.end * size];
        self.op.run(y, w, x.of(self.op.activation()), Epilogue { bias, add: self.add });
        if self.function != Function::Identity {
            // The columns were just written and are still in the nearest cache.
            for row in 0..y.rows() {
                self.activate.run(y.row_mut(row), self.function);
            }
        }
    }
}

/// A worker's share: some panels of each matrix.
type Share<'a> = [Option<(usize, Range<usize>, MatMut<'a, f32>)>; MAX_PARTS];

impl Machine<'_> {
    /// Products of one input with the matrices of `parts`.
    pub(crate) fn linear(&mut self, rows: usize, x: &Act, parts: &[Part], add: bool) -> Result<(), Error> {
        let (weights, kernels) = (self.weights, self.kernels);
        let mut ranges: [Range<usize>; ACT_SLOTS + MAX_PARTS] = [const { 0..0 }; ACT_SLOTS + MAX_PARTS];
        ranges[..ACT_SLOTS].clone_from_slice(&self.act_ranges(rows, x)[..ACT_SLOTS]);
        for (range, part) in ranges[ACT_SLOTS..].iter_mut().zip(parts) {
            *range = self.range(part.out, rows * part.stride * 4);
        }
        let mut products: [Option<Product<'_>>; MAX_PARTS] = [None; MAX_PARTS];
        for (product, part) in products.iter_mut().zip(parts) {
            *product = Some(product_of(part, add, weights, kernels)?);
        }
        let slices = self.arena.slices_mut(ranges)?;
        let (input, outs) = inputs_and_outputs(slices, x)?;
        let mut outs = outs.map(Some);
        let mut rest: [Option<MatMut<'_, f32>>; MAX_PARTS] = [const { None }; MAX_PARTS];
        for ((rest, out), product) in rest.iter_mut().zip(&mut outs).zip(products.iter().flatten()) {
            let columns = |out| rows_of(out, rows, product.stride).split_cols(product.first).1;
            *rest = out.take().map(|out| columns(out).split_cols(product.matrix.rows).0);
        }
        let panels: usize = products.iter().flatten().map(Product::n_panels).sum();
        let work: usize = products.iter().flatten().map(|p| p.matrix.rows * p.matrix.cols * rows).sum();
        let workers = if work < WORTH_SHARING { 1 } else { self.pool.active().min(panels) };
        let run = |share: Share<'_>| {
            for (i, range, mut y) in share.into_iter().flatten() {
                if let Some(product) = &products[i] {
                    product.run(range, &mut y, &input);
                }
            }
        };
        let mut make = |worker: usize| {
            let range = partition(panels, workers, worker, 1);
            Some(cut(&products, &mut rest, range))
        };
        if workers <= 1 {
            if let Some(share) = make(0) {
                run(share);
            }
        } else {
            deal(self.pool, workers, make, run);
        }
        Ok(())
    }
}

fn product_of<'a>(part: &Part, add: bool, weights: &'a Weights, kernels: &'a Kernels) -> Result<Product<'a>, Error> {
    let matrix = weights.table().get(part.matrix);
    let bias = part.bias.map(|b| weights.values(b)).transpose()?;
    let (op, panels) = (*kernels.linear(matrix.format), weights.panels(part.matrix));
    let Part { function, first, stride, .. } = *part;
    Ok(Product { op, matrix, panels, bias, function, activate: &kernels.activate, first, stride, add })
}

/// Takes the columns of `range`, counted over the panels of all products, off the front of what is left.
fn cut<'a>(
    products: &[Option<Product<'_>>; MAX_PARTS],
    rest: &mut [Option<MatMut<'a, f32>>; MAX_PARTS],
    range: Range<usize>,
) -> Share<'a> {
    let mut share: Share<'a> = [const { None }; MAX_PARTS];
    let mut first = 0;
    for (i, product) in products.iter().enumerate() {
        let Some(product) = product else { continue };
        let n = product.n_panels();
        let own = range.start.clamp(first, first + n) - first..range.end.clamp(first, first + n) - first;
        first += n;
        if own.is_empty() {
            continue;
        }
        if let Some(whole) = rest[i].take() {
            let cols = (own.end * LANES).min(product.matrix.rows) - own.start * LANES;
            let (mine, after) = whole.split_cols(cols);
            rest[i] = Some(after);
            share[i] = Some((i, own, mine));
        }
    }
    share
}

/// The slices of a step as its input and its outputs.
fn inputs_and_outputs<'a>(
    slices: [&'a mut [u8]; ACT_SLOTS + MAX_PARTS],
    x: &Act,
) -> Result<(ActInput<'a>, [&'a mut [f32]; MAX_PARTS]), Error> {
    let [a, b, c, d, e, f, g, o0, o1, o2] = slices;
    let input = ActInput::new([a, b, c, d, e, f, g], x)?;
    Ok((input, [cast_mut(o0)?, cast_mut(o1)?, cast_mut(o2)?]))
}
