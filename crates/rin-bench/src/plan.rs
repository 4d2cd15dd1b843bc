//! What is measured: tests over configurations.

use std::fmt;
use std::time::Duration;

use rin_engine::sampler::philox::philox4x32_10;
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;
use serde::Serialize;

use crate::Error;

/// Most tokens of a prompt and most steps of a generation.
pub const MAX_TOKENS: usize = 1 << 24;

/// Most repetitions.
pub const MAX_REPETITIONS: usize = 100_000;

/// Most sequences that are stepped together.
pub const MAX_PARALLEL: usize = 256;

/// A thing to be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Test {
    /// A prompt of so many tokens, in steps of the batch, up to the logits of its last token.
    Prompt(usize),
    /// So many steps of one token in each sequence, after a prompt of one token.
    Generate(usize),
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt(tokens) => write!(f, "pp{tokens}"),
            Self::Generate(steps) => write!(f, "tg{steps}"),
        }
    }
}

impl Test {
    /// Tokens that one repetition counts.
    pub fn tokens(self, n_parallel: usize) -> usize {
        match self {
            Self::Prompt(tokens) => tokens,
            Self::Generate(steps) => steps.saturating_mul(n_parallel),
        }
    }

    /// Positions that a sequence needs.
    pub fn positions(self) -> usize {
        match self {
            Self::Prompt(tokens) => tokens,
            Self::Generate(steps) => steps.saturating_add(1),
        }
    }
}

/// How much is measured in each configuration.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Tokens of the prompt; 0 leaves it out.
    pub n_prompt: usize,
    /// Steps of the generation; 0 leaves it out.
    pub n_gen: usize,
    /// Repetitions that count, beside one to warm up.
    pub repetitions: usize,
    /// Single steps whose durations the percentiles shall rest on. Further repetitions, whose rates do not count, are
    /// run where the counted ones have fewer.
    pub latency_steps: usize,
    /// Longest time for such further repetitions, in each configuration.
    pub latency_budget: Duration,
    /// Also measure what the machine's memory and cores can do.
    pub machine: bool,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            n_prompt: 512,
            n_gen: 128,
            repetitions: 10,
            latency_steps: 10_000,
            latency_budget: Duration::from_secs(5),
            machine: true,
        }
    }
}

impl Workload {
    /// Whether the numbers are in their ranges.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToMeasure`] and [`Error::BadOption`].
    pub fn check(&self) -> Result<(), Error> {
        if self.n_prompt == 0 && self.n_gen == 0 {
            return Err(Error::NothingToMeasure);
        }
        within("n_prompt", self.n_prompt, 0, MAX_TOKENS)?;
        within("n_gen", self.n_gen, 0, MAX_TOKENS)?;
        within("repetitions", self.repetitions, 1, MAX_REPETITIONS)
    }

    /// Positions that each sequence needs.
    pub fn positions(&self) -> usize {
        self.tests().into_iter().map(Test::positions).max().unwrap_or(0)
    }

    pub(crate) fn tests(&self) -> Vec<Test> {
        let prompt = (self.n_prompt > 0).then_some(Test::Prompt(self.n_prompt));
        let generate = (self.n_gen > 0).then_some(Test::Generate(self.n_gen));
        prompt.into_iter().chain(generate).collect()
    }
}

fn within(field: &'static str, found: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(Error::BadOption { field, expected: format!("{least} to {most}"), found: found.to_string() })
}

/// One configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which of the models.
    pub model: usize,
    /// Workers; none: as many as fit the machine.
    pub threads: Option<usize>,
    /// The highest tier to use; none: the best there is.
    pub tier: Option<Tier>,
    /// How keys and values are stored; none: as the model's weights suggest.
    pub kv_type: Option<KvType>,
    /// Sequences that are stepped together.
    pub n_parallel: usize,
    /// Tokens that each sequence holds before a test.
    pub depth: usize,
    /// Positions of each sequence.
    pub positions: usize,
    /// What is timed.
    pub tests: Vec<Test>,
}

/// Lists whose every combination is a configuration; an empty list leaves the choice to the engine.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    /// Number of models.
    pub models: usize,
    /// Numbers of workers.
    pub threads: Vec<usize>,
    /// Tiers.
    pub tiers: Vec<Tier>,
    /// Types of the KV cache.
    pub kv_types: Vec<KvType>,
    /// Numbers of sequences that are stepped together; empty: one.
    pub parallel: Vec<usize>,
    /// Numbers of tokens that sequences hold before a test; empty: none.
    pub depths: Vec<usize>,
}

impl Grid {
    /// All combinations, models outermost. A prompt is one sequence's matter: it is timed only beside the first number of
    /// sequences. Entries that occur twice count once.
    ///
    /// # Errors
    ///
    /// As [`Workload::check`]; and for a number of sequences out of its range.
    pub fn settings(&self, workload: &Workload) -> Result<Vec<Setting>, Error> {
        workload.check()?;
        let parallel = if self.parallel.is_empty() { vec![1] } else { distinct(&self.parallel) };
        for n in &parallel {
            within("parallel", *n, 1, MAX_PARALLEL)?;
        }
        let depths = if self.depths.is_empty() { vec![0] } else { distinct(&self.depths) };
        for depth in &depths {
            within("depth", *depth, 0, MAX_TOKENS)?;
        }
        let mut settings = Vec::new();
        for model in 0..self.models {
            for threads in choices(&self.threads) {
                for tier in choices(&self.tiers) {
                    for kv_type in choices(&self.kv_types) {
                        for (i, &n_parallel) in parallel.iter().enumerate() {
                            let mut tests = workload.tests();
                            tests.retain(|test| i == 0 || matches!(test, Test::Generate(_)));
                            settings.extend(depths.iter().map(|&depth| Setting {
                                model,
                                threads,
                                tier,
                                kv_type,
                                n_parallel,
                                depth,
                                positions: depth + workload.positions(),
                                tests: tests.clone(),
                            }));
                        }
                    }
                }
            }
        }
        settings.retain(|setting| !setting.tests.is_empty());
        Ok(settings)
    }
}

fn distinct<T: PartialEq + Copy>(values: &[T]) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(value) {
            kept.push(*value);
        }
    }
    kept
}

fn choices<T: PartialEq + Copy>(values: &[T]) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { distinct(values).into_iter().map(Some).collect() }
}

/// The key of the token ids.
const TOKEN_KEY: [u32; 2] = [0x7269_6e00, 0x746f_6b73];

/// The id at `index` of a sequence: ⌊w · vocab / 2³²⌋ of the word w of Philox4x32-10 at (index, sequence, 0, 0).
pub fn token(index: usize, sequence: usize, vocab: usize) -> u32 {
    let counter = [index, sequence].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let [word, ..] = philox4x32_10([counter[0], counter[1], 0, 0], TOKEN_KEY);
    let scaled = (u128::from(word) * vocab as u128) >> 32;
    u32::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(n_prompt: usize, n_gen: usize) -> Workload {
        Workload { n_prompt, n_gen, ..Workload::default() }
    }

    #[test]
    fn every_combination_is_a_configuration() {
        let grid = Grid {
            models: 2,
            threads: vec![1, 2, 1],
            tiers: vec![Tier::Scalar],
            kv_types: vec![KvType::F32, KvType::Q8],
            parallel: vec![1, 4],
            depths: Vec::new(),
        };
        let settings = grid.settings(&workload(512, 128)).unwrap();
        assert_eq!(settings.len(), 2 * 2 * 2 * 2);
        assert!(settings.iter().all(|setting| setting.positions == 512 && setting.tier == Some(Tier::Scalar)));
        let names = |setting: &Setting| setting.tests.iter().map(Test::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!((names(&settings[0]), names(&settings[1])), ("pp512 tg128".to_owned(), "tg128".to_owned()));
        assert_eq!(settings[1].n_parallel, 4);
        assert_eq!((settings[15].model, settings[15].threads), (1, Some(2)));
    }

    #[test]
    fn a_depth_comes_before_the_positions_of_a_test() {
        let grid = Grid { models: 1, depths: vec![0, 100, 0], ..Grid::default() };
        let found: Vec<_> = grid.settings(&workload(0, 8)).unwrap().iter().map(|s| (s.depth, s.positions)).collect();
        assert_eq!(found, [(0, 9), (100, 109)]);
        let grid = Grid { depths: vec![MAX_TOKENS + 1], ..grid };
        let error = grid.settings(&workload(0, 8)).unwrap_err().to_string();
        assert!(error.starts_with("depth is 16777217, but must be 0 to"), "{error}");
    }

    #[test]
    fn a_zero_leaves_a_test_out() {
        let tests = |p, n| Grid { models: 1, ..Grid::default() }.settings(&workload(p, n)).map(|s| s[0].clone());
        assert_eq!(tests(0, 5).unwrap().tests, [Test::Generate(5)]);
        assert_eq!(tests(0, 5).unwrap().positions, 6);
        assert_eq!(tests(7, 0).unwrap().tests, [Test::Prompt(7)]);
        assert!(matches!(tests(0, 0), Err(Error::NothingToMeasure)));
        let only_prompts = Grid { models: 1, parallel: vec![2, 4], ..Grid::default() };
        assert_eq!(only_prompts.settings(&workload(7, 0)).unwrap().len(), 1, "the prompt is timed once");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let grid = |parallel: &[usize]| Grid { models: 1, parallel: parallel.to_vec(), ..Grid::default() };
        let none = Workload { repetitions: 0, ..Workload::default() };
        for (found, words) in [
            (grid(&[1]).settings(&none), "repetitions is 0, but must be 1 to 100000"),
            (grid(&[0]).settings(&workload(1, 1)), "parallel is 0, but must be 1 to 256"),
            (grid(&[1]).settings(&workload(usize::MAX, 1)), "n_prompt is 18446744073709551615"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn tokens_cover_the_vocabulary_and_repeat_themselves() {
        let ids: Vec<u32> = (0..4000).map(|i| token(i, 0, 100)).collect();
        assert!((0..100).all(|id| ids.contains(&id)) && ids.iter().all(|id| *id < 100));
        assert_eq!(ids[7], token(7, 0, 100));
        assert_ne!(ids, (0..4000).map(|i| token(i, 1, 100)).collect::<Vec<_>>());
        assert_eq!(token(3, 3, 1), 0);
    }
}
