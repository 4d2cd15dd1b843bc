//! What a conversion cost: a network beside the same one in f32, on rows.

use crate::Error;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_model::ModelFile;
use rin_model::array::Array;
use std::path::Path;

/// The distance of a converted network from what it was made from, over its first output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Rows that were compared; of sequences, positions.
    pub rows: usize,
    /// Share of the rows whose largest output is the same one.
    pub same_class: f64,
    /// Root of the mean square of the differences, by the range of the outputs.
    pub rms: f64,
}

/// Rows that are computed at once.
const ROWS: usize = 8;

/// Compares the network of one file with that of another; both take rows of one input.
pub(crate) fn cost(reference: &Path, converted: &Path, rows: &Array) -> Result<Cost, Error> {
    let (want, width) = outputs(reference, rows)?;
    let (found, _) = outputs(converted, rows)?;
    let best = |row: &[f32]| {
        let better = |best: (usize, f32), (at, &x): (usize, &f32)| if x > best.1 { (at, x) } else { best };
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
    };
    let pairs = want.chunks_exact(width).zip(found.chunks_exact(width));
    let same = pairs.filter(|(a, b)| best(a) == best(b)).count();
    let n = want.len().checked_div(width).unwrap_or(0);
    let squares: f64 = want.iter().zip(&found).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let (low, high) = want.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let range = f64::from(high) - f64::from(low);
    let count = |n: usize| n.max(1) as f64;
    let rms = (squares / count(want.len())).sqrt() / if range > 0.0 { range } else { 1.0 };
    Ok(Cost { rows: n, same_class: count_share(same, n), rms })
}

fn count_share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// The first output of all rows, and its width.
fn outputs(path: &Path, rows: &Array) -> Result<(Vec<f32>, usize), Error> {
    let options = LoadOptions { n_batch: ROWS, ..LoadOptions::default() };
    let mut engine = NetworkEngine::load(ModelFile::open(path)?, &options, |_| ())?;
    // A row of a sequence may have fewer positions than the most.
    let most = engine.inputs().first().map_or(1, rin_model::Port::width).max(1);
    let count = rows.rows(most).or_else(|| rows.shape.first().copied()).unwrap_or(0);
    let width = rows.values.len().checked_div(count).unwrap_or(most).max(1);
    let mut inputs: Vec<&[f32]> = vec![&[]; engine.inputs().len()];
    let mut all = Vec::new();
    for rows in rows.values.chunks(width.saturating_mul(ROWS)) {
        if let Some(first) = inputs.first_mut() {
            *first = rows;
        }
        engine.run(&inputs, rows.len().checked_div(width).unwrap_or(0))?;
        all.extend_from_slice(engine.output(0));
    }
    let [_, width] = engine.output_shape(0);
    Ok((all, width.max(1)))
}
