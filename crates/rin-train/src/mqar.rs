//! Multi-query associative recall (Arora et al., 2023, "Zoology"): the task that tells memories apart.
//!
//! A sequence begins with pairs of a key and its value. Later every key comes once more, and the value is asked for. Gaps
//! between a pair and its query follow a power law; places without a query hold token 0. Keys are the lower half of the
//! vocabulary, values the upper one, so that nothing but the pairs says what a value is.

use crate::Error;
use crate::config::{LoopConfig, MemoryConfig, ModelConfig, TokenizerKind};
use crate::kernels::Kernels;
use crate::network::{Batch, Decoder, Network, Pass, initialize};
use crate::ops::{Straight, cross_entropy, host};
use crate::optimizer::{AdamW, global_norm};
use crate::parameters::{Parameter, Role};
use crate::random::{index, stream, uniform};
use crate::weights::{Arithmetic, Weights};
use candle_core::{Device, Tensor};
use serde::Serialize;

/// How steeply small gaps are preferred.
const POWER: f64 = 0.01;

/// The task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Pairs of a sequence; twice as many tokens, and at most a quarter of the sequence.
    pub pairs: usize,
}

/// Sequences with the places that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examples {
    /// `(sequences, seq)`.
    pub ids: Vec<u32>,
    /// Rows of the queries.
    pub rows: Vec<u32>,
    /// The value of each.
    pub values: Vec<u32>,
}

impl Task {
    /// Holds the numbers against each other.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] names what does not fit.
    pub fn check(&self) -> Result<(), Error> {
        if self.pairs == 0 || self.pairs * 4 > self.seq {
            return Err(Error::value("pairs", self.pairs, format!("from 1 to a quarter of {} tokens", self.seq)));
        }
        if self.vocab / 2 <= self.pairs {
            return Err(Error::value("vocab", self.vocab, format!("above {}", 2 * self.pairs + 1)));
        }
        Ok(())
    }

    /// `n` sequences, a function of the seed.
    #[expect(clippy::cast_possible_truncation, reason = "a vocabulary has fewer than 2^32 tokens")]
    pub fn examples(&self, n: usize, seed: u64) -> Examples {
        let half = self.vocab / 2;
        let spaces = (self.seq - 2 * self.pairs) / 2;
        let mut all = Examples { ids: Vec::with_capacity(n * self.seq), rows: Vec::new(), values: Vec::new() };
        for i in 0..n {
            let keys = choose(stream(seed, &[i as u64, 0]), half - 1, self.pairs, |_| 1.0);
            let values = choose(stream(seed, &[i as u64, 1]), self.vocab - half, self.pairs, |_| 1.0);
            let gaps = choose(stream(seed, &[i as u64, 2]), spaces, self.pairs, |gap| {
                libm::pow(gap as f64 + 1.0, POWER - 1.0)
            });
            let first = all.ids.len();
            all.ids.resize(first + self.seq, 0);
            for (j, ((key, value), gap)) in keys.iter().zip(&values).zip(&gaps).enumerate() {
                let (key, value) = (*key as u32 + 1, (half + value) as u32);
                all.ids[first + 2 * j] = key;
                all.ids[first + 2 * j + 1] = value;
                let at = first + 2 * self.pairs + 2 * gap;
                all.ids[at] = key;
                all.rows.push(at as u32);
                all.values.push(value);
            }
        }
        all
    }
}

/// `k` of `n` without repetition, each with a weight.
fn choose(state: u64, n: usize, k: usize, weight: impl Fn(usize) -> f64) -> Vec<usize> {
    // The largest keys of u^(1 / weight) (Efraimidis and Spirakis, 2006), in logarithms.
    let key = |i: usize| libm::log(uniform(state, i as u64).max(1e-300)) / weight(i);
    let mut keys: Vec<(f64, usize)> = (0..n).map(|i| (key(i), i)).collect();
    keys.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut chosen: Vec<usize> = keys.into_iter().take(k).map(|(_, i)| i).collect();
    // In no order that the weights gave.
    for i in (1..chosen.len()).rev() {
        chosen.swap(i, index(state ^ 0x5bd1, i as u64, i + 1));
    }
    chosen
}

/// A network and how it is trained on the task.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The task.
    pub task: Task,
    /// Width.
    pub dim: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// The memories; none: softmax attention.
    pub memory: Option<MemoryConfig>,
    /// Tokens that softmax attention reaches back; none: all.
    pub window: Option<usize>,
    /// Steps.
    pub steps: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Largest learning rate.
    pub lr: f64,
    /// Whether the rate warms up over a tenth of the steps, and gradients longer than 1 are shortened to it.
    pub gentle: bool,
    /// How gradients pass the signs of memories.
    pub straight: Straight,
    /// Seed of the weights and of the examples.
    pub seed: u64,
}

/// What came of a trial.
#[derive(Clone, Debug, Serialize)]
pub struct Recall {
    /// Share of the queries whose value is the most probable token, over sequences that were not trained on.
    pub accuracy: f64,
    /// 95 % interval of it (Wilson), queries taken as independent.
    pub interval: [f64; 2],
    /// Loss of the last step, in nats.
    pub loss: f64,
    /// Numbers of the network.
    pub parameters: usize,
    /// Share of the queries whose most probable token is the same with 8-bit weights and activations (Q8_0); none where a
    /// matrix has rows that hold no whole blocks.
    pub same_in_q8_0: Option<f64>,
    /// Bytes of all memories of a sequence, in f32; those of the keys and values that softmax sees.
    pub state_bytes: usize,
    /// The first step whose loss was no number, where there was one.
    pub diverged: Option<usize>,
    /// Largest norm of a gradient.
    pub gradient: f64,
}

impl Trial {
    fn network(&self) -> Result<Decoder, Error> {
        let model = ModelConfig {
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            window: self.window,
            ffn: 2 * self.dim,
            ctx: self.task.seq,
            memory: self.memory.clone(),
            ..ModelConfig::plain(TokenizerKind::Byte)
        };
        Ok(Decoder::new(&model, self.task.vocab, "mqar")?.with_straight(self.straight))
    }

    fn state_bytes(&self, network: &Decoder) -> usize {
        let c = network.config();
        (0..c.n_layers)
            .map(|layer| {
                let seen = self.window.map_or(self.task.seq, |window| window.min(self.task.seq));
                4 * c.memory_of(layer).map_or(2 * c.kv_dim() * seen, rin_model::Memory::state_numbers)
            })
            .sum()
    }

    /// Trains and measures.
    ///
    /// # Errors
    /// When the numbers do not fit each other, or the tensor library refuses.
    pub fn run(&self, n_test: usize) -> Result<Recall, Error> {
        self.task.check()?;
        let network = self.network()?;
        let kernels = Kernels::select(&rin_kernels::Cpu::detect());
        let mut parameters = initialize(&network, self.seed);
        let mut optimizer = AdamW::new(&parameters, false);
        let warmup = Some(if self.gentle { self.steps / 10 } else { 0 });
        let train = LoopConfig { warmup, ..LoopConfig::plain(self.steps, self.lr, self.lr / 10.0) };
        let seq = self.task.seq;
        let (mut last, mut largest, mut diverged) = (f64::NAN, 0.0_f64, None);
        for step in 0..self.steps {
            let examples = self.task.examples(self.batch, stream(self.seed, &[3, step as u64]));
            let (weights, vars) = Weights::variable(&parameters, Arithmetic::Float, kernels)?;
            let logits = network.forward(&weights, Batch { ids: &examples.ids, seq }, Pass::Evaluate)?;
            let rows = Tensor::from_slice(&examples.rows, examples.rows.len(), &Device::Cpu)?;
            let loss = cross_entropy(&logits.index_select(&rows, 0)?, &examples.values, kernels)?;
            last = f64::from(loss.to_scalar::<f32>()?);
            if !last.is_finite() {
                diverged = Some(step + 1);
                break;
            }
            let found = loss.backward()?;
            let mut gradients = Vec::with_capacity(vars.len());
            for var in &vars {
                gradients.push(match found.get(var.as_tensor()) {
                    Some(gradient) => host(&gradient.contiguous()?)?.to_vec(),
                    None => vec![0.0; var.elem_count()],
                });
            }
            let norm = global_norm(&gradients);
            largest = largest.max(norm);
            let shortened = if self.gentle { (1.0 / norm).min(1.0) } else { 1.0 };
            optimizer.update(&mut parameters, &gradients, shortened, &train);
        }
        let (mut right, mut asked, mut same) = (0_usize, 0_usize, 0_usize);
        let weights = Weights::constant(&parameters, Arithmetic::Float, kernels)?;
        let whole_blocks = |p: &Parameter| !matches!(p.role, Role::Matrix { .. }) || p.shape[1].is_multiple_of(32);
        let narrow = if parameters.0.iter().all(whole_blocks) {
            Some(Weights::constant(&parameters, Arithmetic::Quant(rin_kernels::Format::Q8_0), kernels)?)
        } else {
            None
        };
        for part in 0..n_test.div_ceil(self.batch) {
            // Seeds that no step has.
            let examples = self.task.examples(self.batch, stream(self.seed, &[4, part as u64]));
            let answers = |weights: &Weights| -> Result<Vec<Option<usize>>, Error> {
                let logits = network.forward(weights, Batch { ids: &examples.ids, seq }, Pass::Evaluate)?;
                let logits = host(&logits)?;
                Ok(examples
                    .rows
                    .iter()
                    .map(|row| best(&logits[*row as usize * self.task.vocab..][..self.task.vocab]))
                    .collect())
            };
            let found = answers(&weights)?;
            asked += found.len();
            right += found.iter().zip(&examples.values).filter(|(a, b)| **a == Some(**b as usize)).count();
            if let Some(narrow) = &narrow {
                same += found.iter().zip(answers(narrow)?).filter(|(a, b)| **a == *b).count();
            }
        }
        Ok(Recall {
            accuracy: right as f64 / asked.max(1) as f64,
            interval: wilson(right, asked),
            same_in_q8_0: narrow.map(|_| same as f64 / asked.max(1) as f64),
            loss: last,
            parameters: parameters.count(),
            state_bytes: self.state_bytes(&network),
            diverged,
            gradient: largest,
        })
    }
}

/// The largest of the logits, the first of equal ones.
fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

/// The 95 % interval of a share (Wilson, 1927).
fn wilson(right: usize, n: usize) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    let (n, p) = (n.max(1) as f64, right as f64 / n.max(1) as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::{Straight, Task, Trial, wilson};
    use crate::config::MemoryConfig;
    use std::collections::HashSet;

    const TASK: Task = Task { vocab: 32, seq: 32, pairs: 4 };

    #[test]
    fn every_query_has_been_told_and_nothing_else_tells_it() {
        let examples = TASK.examples(50, 9);
        assert_eq!(examples, TASK.examples(50, 9));
        assert_ne!(examples.ids, TASK.examples(50, 10).ids);
        assert_eq!((examples.ids.len(), examples.rows.len()), (50 * 32, 200));
        for (i, row) in examples.rows.iter().enumerate() {
            let (sequence, at) = (i / 4, *row as usize % 32);
            assert_eq!(*row as usize / 32, sequence);
            let ids = &examples.ids[sequence * 32..][..32];
            assert!(at >= 8 && (1..16).contains(&ids[at]), "a key behind the pairs");
            let told = (0..4).position(|j| ids[2 * j] == ids[at]).unwrap();
            assert_eq!(ids[2 * told + 1], examples.values[i]);
            assert!((16..32).contains(&examples.values[i]));
            assert!(ids[8..].iter().all(|&id| id < 16), "values are told once");
        }
        let keys: HashSet<u32> = examples.ids[..8].iter().step_by(2).copied().collect();
        assert_eq!(keys.len(), 4, "no key twice");
        assert!(Task { pairs: 9, ..TASK }.check().is_err() && Task { vocab: 8, ..TASK }.check().is_err());
    }

    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        // Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
        let [low, high] = wilson(81, 263);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
    }

    #[test]
    fn memories_learn_to_recall_two_pairs() {
        let task = Task { vocab: 16, seq: 16, pairs: 2 };
        for kind in ["delta", "mamba2", "rwkv7"] {
            let memory = Some(MemoryConfig::of(kind));
            let (dim, layers, heads, window, steps, batch, lr, gentle, seed) = (32, 2, 2, None, 150, 32, 5e-3, true, 1);
            let straight = Straight::Masked;
            let trial = Trial { task, dim, layers, heads, memory, window, steps, batch, lr, gentle, straight, seed };
            let recall = trial.run(64).unwrap();
            eprintln!("{kind}: {}", recall.accuracy);
            // Chance is one of eight values, and one of two for those that know which values the sequence has.
            assert!(recall.accuracy > 0.55 && recall.diverged.is_none(), "{kind}: {recall:?}");
            // Two layers of two heads of 16 × 16.
            assert_eq!(recall.state_bytes, 2 * 2 * 16 * 16 * 4);
        }
    }
}
