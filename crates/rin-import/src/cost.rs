//! What a conversion cost: a network beside the same one in f32, on rows.

use crate::Error;
use rin_engine::eval::LogSoftmax;
use rin_engine::network::Domain;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_model::array::Array;
use rin_model::{Body, ModelFile, Op};
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
    /// Of a decoder the mean loss of the ids that follow, in nats: of the network in f32, and of the converted one.
    pub loss: Option<[f64; 2]>,
}

/// Rows that are computed at once.
const ROWS: usize = 8;

/// Compares the network of one file with that of another; both take rows of one input.
pub(crate) fn cost(reference: &Path, converted: &Path, rows: &Array) -> Result<Cost, Error> {
    let Outputs { values: want, width, positions, continues } = outputs(reference, rows)?;
    let Outputs { values: found, .. } = outputs(converted, rows)?;
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
    let loss = continues.then(|| [&want, &found].map(|logits| loss(&rows.values, logits, positions, width)));
    Ok(Cost { rows: n, same_class: count_share(same, n), rms, loss })
}

fn count_share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// The mean of −ln p of each id that stands behind another, in nats; `logits` has a row of `width` for each id.
fn loss(ids: &[f32], logits: &[f32], positions: usize, width: usize) -> f64 {
    let (mut sum, mut n, mut weights) = (0.0, 0_usize, Vec::new());
    let sequences = ids.chunks_exact(positions.max(1)).zip(logits.chunks_exact(positions.saturating_mul(width).max(1)));
    for (ids, logits) in sequences {
        for (next, row) in ids.iter().skip(1).zip(logits.chunks_exact(width.max(1))) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the engine has checked the ids"
            )]
            let own = row.get(*next as usize);
            sum -= LogSoftmax::of(row, &mut weights).zip(own).map_or(f64::NAN, |(softmax, own)| softmax.log_p(*own));
            n = n.saturating_add(1);
        }
    }
    sum / n.max(1) as f64
}

struct Outputs {
    /// The first output of all rows.
    values: Vec<f32>,
    /// Values of a row, or at a position.
    width: usize,
    /// Positions of a row of the input.
    positions: usize,
    /// Whether the logits at a position are of the id behind it.
    continues: bool,
}

/// The first output of all rows.
fn outputs(path: &Path, rows: &Array) -> Result<Outputs, Error> {
    let file = ModelFile::open(path)?;
    // A row of a sequence may have fewer positions than the most.
    let first = file.network().and_then(|network| network.inputs.first());
    let most = first.map_or(1, rin_model::Port::width).max(1);
    let count = rows.rows(most).or_else(|| rows.shape.first().copied()).unwrap_or(0);
    let width = rows.values.len().checked_div(count).unwrap_or(most).max(1);
    let options = LoadOptions { n_batch: ROWS, ctx: Some(width), ..LoadOptions::default() };
    let mut engine = NetworkEngine::load(file, &options, |_| ())?;
    let mut inputs: Vec<&[f32]> = vec![&[]; engine.inputs().len()];
    let mut all = Vec::new();
    for rows in rows.values.chunks(width.saturating_mul(ROWS)) {
        if let Some(first) = inputs.first_mut() {
            *first = rows;
        }
        engine.run(&inputs, rows.len().checked_div(width).unwrap_or(0))?;
        all.extend_from_slice(engine.output(0));
    }
    let [_, of_position] = engine.output_shape(0);
    let nodes = match &engine.plan().network.body {
        Body::Nodes(nodes) => &nodes[..],
        Body::Whole(whole) => &whole.nodes,
        _ => &[],
    };
    let causal = nodes.iter().any(|node| matches!(node.op, Op::Attention { causal: true, .. }));
    let of_ids = matches!(engine.domain(0), Domain::Ids(ids) if ids <= of_position);
    Ok(Outputs { values: all, width: of_position.max(1), positions: width, continues: causal && of_ids })
}
