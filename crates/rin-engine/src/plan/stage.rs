//! What of a network each of several processes has: some of its layers, or some of the rows of all matrices.
//!
//! By layers: the first stage has the embedding, its layers, and what follows the layers: the last norm and the output
//! projection. The rows go from stage to stage and come back to the first one, which is where logits are wanted. So only rows
//! of the network's width travel, never one of the vocabulary, and matrices that embedding and output share lie in one place.
//!
//! By rows: every process has all layers, and of each some heads and some outputs of each product, which are gathered. The
//! first one has the embedding too.

use crate::Error;
use crate::pool::partition;
use rin_kernels::pack::LANES;
use rin_model::{Arch, Config, ModelFile};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How a network is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Each process has some layers.
    #[default]
    Layers,
    /// Each process has some heads and some rows of every matrix of every layer, and of the output projection.
    Rows,
}

/// Some of a network: a stage of the pipeline, or a share of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its place among the stages; 0 has the embedding too, and leads.
    pub index: usize,
    /// How many stages there are.
    pub count: usize,
    /// First layer.
    pub first_layer: usize,
    /// One past the last layer.
    pub end_layer: usize,
    /// Whether the layers are its own, or rows of all of them.
    pub cut: Cut,
}

impl Stage {
    /// All shares of the rows of so many layers.
    pub fn by_rows(count: usize, n_layers: usize) -> Vec<Self> {
        (0..count).map(|index| Self { index, count, first_layer: 0, end_layer: n_layers, cut: Cut::Rows }).collect()
    }

    /// Whether it leads: the rows begin here, and the logits end here.
    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Whether what goes round comes back to the first stage from here.
    pub fn is_last(&self) -> bool {
        self.index + 1 == self.count
    }

    /// Whether it is one of several shares of the rows.
    pub fn has_rows(&self) -> bool {
        self.cut == Cut::Rows && self.count > 1
    }

    /// Holds the stage against a network.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] where the stage has layers that the network has not, or none though it is not the first; where
    /// the network cannot be cut so, or not into so many.
    pub(crate) fn check(&self, config: &Config) -> Result<(), Error> {
        let Self { index, count, first_layer, end_layer, cut } = *self;
        let n_layers = config.n_layers;
        let empty = first_layer == end_layer && index > 0;
        if first_layer > end_layer || end_layer > n_layers || index >= count || empty {
            return Err(Error::BadOption {
                field: "the stage of the pipeline",
                expected: format!("some of the {n_layers} layers"),
                found: format!("stage {index} of {count} with the layers {first_layer} to {end_layer}"),
            });
        }
        if count > 1 && config.memory.iter().any(Option::is_some) {
            let expected = "1: layers with memories of a fixed size run in one process".to_owned();
            return Err(Error::BadOption { field: "ranks", expected, found: count.to_string() });
        }
        if cut == Cut::Layers || count == 1 {
            return Ok(());
        }
        let bad = |expected: String| Err(Error::BadOption { field: "--tp", expected, found: count.to_string() });
        if !matches!(config.arch, Arch::Llama | Arch::Qwen2) {
            return bad(format!("1: networks of the family {} are cut by layers alone", config.arch.name()));
        }
        if count > config.n_kv_heads {
            let heads = config.n_kv_heads;
            return bad(format!("at most {heads}: each rank has key heads of its own, and the network has {heads}"));
        }
        let narrowest = config.dim.min(config.ffn_dim).min(config.vocab);
        if count > narrowest {
            return bad(format!("at most {narrowest}, the rows of its smallest matrix"));
        }
        Ok(())
    }
}

/// Columns of an activation, and rows of the matrix that makes them, which ranks share between multiples of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Columns of all.
    pub all: usize,
    unit: usize,
    index: usize,
    count: usize,
}

impl Width {
    /// `all` columns that are cut between multiples of `unit`, as the process has them whose stage this is; one process has
    /// them all.
    pub fn new(all: usize, unit: usize, stage: Option<Stage>) -> Self {
        let (index, count) = stage.filter(Stage::has_rows).map_or((0, 1), |stage| (stage.index, stage.count));
        Self { all, unit, index, count }
    }

    /// Columns that are cut between panels of 16 rows, or finer where there would be fewer panels than ranks.
    pub fn of_panels(all: usize, stage: Option<Stage>) -> Self {
        let width = Self::new(all, LANES, stage);
        let fits = |unit: &usize| all.div_ceil(*unit) >= width.count;
        Self { unit: [LANES, 8, 4, 2].into_iter().find(fits).unwrap_or(1), ..width }
    }

    /// The columns of this process.
    pub fn own(&self) -> Range<usize> {
        self.of(self.index)
    }

    /// The columns of a process.
    pub fn of(&self, index: usize) -> Range<usize> {
        partition(self.all, self.count, index, self.unit)
    }

    /// The most columns that a process has.
    pub fn most(&self) -> usize {
        self.of(0).len()
    }

    /// Processes that share them.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether other processes have some of them.
    pub fn is_cut(&self) -> bool {
        self.count > 1
    }
}

/// Bytes of a network's tensors as the file has them, layer by layer, and what no layer owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerBytes {
    /// Of each layer.
    pub layers: Vec<u64>,
    /// Of embedding, last norm and output.
    pub ends: u64,
}

impl LayerBytes {
    /// From the header of a file.
    ///
    /// # Errors
    ///
    /// Where the file has no network that continues text.
    pub fn of(file: &ModelFile) -> Result<Self, Error> {
        let mut bytes = Self { layers: vec![0; file.config()?.n_layers], ends: 0 };
        for t in file.tensors() {
            let layer = t.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            let of = layer.and_then(|layer| bytes.layers.get_mut(layer)).unwrap_or(&mut bytes.ends);
            *of = of.saturating_add(t.n_bytes);
        }
        Ok(bytes)
    }

    /// The stages for processes of these speeds, in any unit, such that the largest quotient of bytes and speed is as small
    /// as it can be, found exactly. The first process has `ends` beside its layers; it may have no layer, the others have one
    /// at least.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] for no process, a speed that is not above zero, or more processes than have a layer each.
    pub fn share_out(&self, speeds: &[f64]) -> Result<Vec<Stage>, Error> {
        let (n, count) = (self.layers.len(), speeds.len());
        if count == 0 || count > n + 1 {
            let expected = format!("1 to {}, since each has a layer beside the first", n + 1);
            return Err(Error::BadOption { field: "ranks", expected, found: count.to_string() });
        }
        if let Some(bad) = speeds.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(Error::BadOption { field: "speed", expected: "above 0".to_owned(), found: bad.to_string() });
        }
        let mut before = vec![0_u64];
        for bytes in &self.layers {
            before.push(before[before.len() - 1].saturating_add(*bytes));
        }
        let time = |rank: usize, from: usize, to: usize| {
            let ends = if rank == 0 { self.ends } else { 0 };
            (before[to] - before[from]).saturating_add(ends) as f64 / speeds[rank]
        };
        // best[r][e]: the slowest of the ranks up to r, where they end before layer e; with where r begins.
        let mut best = vec![vec![(f64::INFINITY, 0); n + 1]; count];
        for (e, cell) in best[0].iter_mut().enumerate() {
            *cell = (time(0, 0, e), 0);
        }
        for rank in 1..count {
            for e in rank..=n {
                for from in rank - 1..e {
                    let slowest = best[rank - 1][from].0.max(time(rank, from, e));
                    if slowest < best[rank][e].0 {
                        best[rank][e] = (slowest, from);
                    }
                }
            }
        }
        let mut stages = Vec::with_capacity(count);
        let mut end_layer = n;
        for index in (0..count).rev() {
            let first_layer = best[index][end_layer].1;
            stages.push(Stage { index, count, first_layer, end_layer, cut: Cut::Layers });
            end_layer = first_layer;
        }
        stages.reverse();
        Ok(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, LayerBytes, Stage, Width};

    fn slowest(bytes: &LayerBytes, stages: &[Stage], speeds: &[f64]) -> f64 {
        let of = |p: &Stage| {
            let layers: u64 = bytes.layers[p.first_layer..p.end_layer].iter().sum();
            (layers + if p.is_first() { bytes.ends } else { 0 }) as f64 / speeds[p.index]
        };
        stages.iter().map(of).fold(0.0, f64::max)
    }

    /// Every way to cut `n` layers among the ranks from `rank` on.
    fn every_cut(n: usize, count: usize, cuts: &mut Vec<usize>, each: &mut impl FnMut(&[usize])) {
        if cuts.len() == count {
            if cuts[count - 1] == n {
                each(cuts);
            }
            return;
        }
        let from = cuts.last().map_or(0, |&last| last + 1);
        for cut in from..=n {
            cuts.push(cut);
            every_cut(n, count, cuts, each);
            cuts.pop();
        }
    }

    #[test]
    fn ranks_share_columns_between_units() {
        for (all, unit, count) in [(112, 16, 2), (96, 8, 4), (32, 16, 4), (288, 16, 3), (7, 16, 7)] {
            let stages = Stage::by_rows(count, 5);
            let width = |&stage: &Stage| match unit {
                16 => Width::of_panels(all, Some(stage)),
                unit => Width::new(all, unit, Some(stage)),
            };
            let mut end = 0;
            for stage in &stages {
                let width = width(stage);
                let own = width.own();
                assert_eq!((own.start, width.of(stage.index)), (end, own.clone()));
                assert!(!own.is_empty() && own.len() <= width.most() && width.is_cut(), "{all} over {count}");
                end = own.end;
            }
            assert_eq!(end, all);
        }
        assert_eq!(Width::of_panels(112, Some(Stage::by_rows(2, 1)[1])).own(), 64..112, "whole panels");
        assert_eq!(Width::of_panels(112, None).own(), 0..112);
        assert!(!Width::new(112, 16, Some(Stage::by_rows(1, 1)[0])).is_cut());
    }

    #[test]
    fn no_other_cut_is_better() {
        let bytes = LayerBytes { layers: vec![5, 1, 9, 2, 2, 7, 3], ends: 11 };
        for speeds in [&[1.0][..], &[1.0, 1.0], &[1.0, 3.0], &[2.0, 1.0, 1.0], &[1.0; 8], &[0.5, 2.0, 1.0, 4.0]] {
            let stages = bytes.share_out(speeds).unwrap();
            assert_eq!((stages[0].first_layer, stages[stages.len() - 1].end_layer), (0, 7));
            for pair in stages.windows(2) {
                assert_eq!(pair[0].end_layer, pair[1].first_layer, "every layer once");
                let Stage { index, count, first_layer, end_layer, .. } = pair[1];
                assert!(first_layer < end_layer && end_layer <= 7 && index < count);
            }
            let found = slowest(&bytes, &stages, speeds);
            let mut ways = 0;
            every_cut(7, speeds.len(), &mut Vec::new(), &mut |cuts| {
                ways += 1;
                let stage = |(index, &end_layer): (usize, &usize)| {
                    let first_layer = if index == 0 { 0 } else { cuts[index - 1] };
                    Stage { index, count: cuts.len(), first_layer, end_layer, cut: Cut::Layers }
                };
                let stages: Vec<Stage> = cuts.iter().enumerate().map(stage).collect();
                assert!(found <= slowest(&bytes, &stages, speeds), "{speeds:?}: {cuts:?} is better");
            });
            assert!(ways > 0);
        }
        assert!(bytes.share_out(&[1.0; 9]).is_err(), "a rank without a layer");
        assert!(bytes.share_out(&[]).is_err() && bytes.share_out(&[1.0, 0.0]).is_err());
    }
}
