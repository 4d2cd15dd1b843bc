//! What is measured: something that takes prompts and steps of tokens. The engine is one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rin_cluster::Ranks;
use rin_engine::state::Mark;
use rin_engine::{Engine, Feed, LoadOptions, Rows, Sequence};
use rin_kernels::{Cpu, Tier};
use rin_model::{DType, ModelFile};

use crate::cost::Cost;
use crate::plan::{MAX_PARALLEL, Setting, token};
use crate::{Error, peak};

/// A loaded model. Nothing in it may allocate between [`Subject::reset`] and the last step, if the figure of
/// allocations is to be zero.
pub trait Subject {
    /// Begins anew with so many sequences, each of which holds `depth` tokens: [`token`] of its number. Not timed.
    ///
    /// # Errors
    ///
    /// When there is no room for so many, or the tokens cannot be run.
    fn reset(&mut self, n_sequences: usize, depth: usize) -> Result<(), Error>;

    /// Feeds a prompt to one sequence; the logits of its last token.
    ///
    /// # Errors
    ///
    /// When the prompt cannot be run.
    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<&[f32], Error>;

    /// Feeds one token to each sequence in one step; the logits of each, one after another.
    ///
    /// # Errors
    ///
    /// When the tokens cannot be run; [`Error::NotSupported`] for another number than
    /// [`Subject::reset`] was told.
    fn decode(&mut self, tokens: &[u32]) -> Result<&[f32], Error>;

    /// What it is.
    fn facts(&self) -> Facts;
}

/// What does not change while a subject is measured.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Path or name of the model.
    pub model_filename: String,
    /// Family, size and type of the weights, in words.
    pub model_type: String,
    /// Bytes of all tensors in the file.
    pub model_size: u64,
    /// Weights of all tensors.
    pub model_n_params: u64,
    /// Most tokens in one step.
    pub n_batch: usize,
    /// Workers.
    pub n_threads: usize,
    /// The highest tier in use.
    pub tier: String,
    /// How keys and values are stored.
    pub kv_type: String,
    /// Bytes of the plan: weights, state and scratch.
    pub plan_bytes: u64,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// What steps have to read and multiply.
    pub cost: Cost,
    /// What the system did not grant, in words.
    pub notes: Vec<String>,
}

/// Makes subjects of configurations.
pub trait Loader: Sync {
    /// Loads one, on the calling thread, which then measures it.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be had.
    fn load(&self, setting: &Setting) -> Result<Box<dyn Subject>, Error>;

    /// Whether all configurations fit into memory at the same time.
    ///
    /// # Errors
    ///
    /// When one of them cannot even be planned.
    fn fit_together(&self, settings: &[Setting]) -> Result<bool, Error>;

    /// Measures the machine with so many workers on a tier; none where that says nothing about the subjects.
    ///
    /// # Errors
    ///
    /// When the workers or the memory are not to be had.
    fn peaks(&self, threads: usize, tier: &str) -> Result<Option<peak::Peaks>, Error>;
}

/// Opens a model's file, once for each configuration.
type Open = dyn Fn() -> Result<ModelFile, rin_model::Error> + Send + Sync;

/// A model to be measured.
pub struct Model {
    open: Box<Open>,
}

impl Model {
    /// The model of a file or folder.
    pub fn at(path: PathBuf) -> Self {
        Self::new(move || ModelFile::open(&path))
    }

    /// A model that `open` opens, as often as there are configurations of it.
    pub fn new(open: impl Fn() -> Result<ModelFile, rin_model::Error> + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open) }
    }

    /// Opens the file.
    ///
    /// # Errors
    ///
    /// What the opening gives.
    pub fn file(&self) -> Result<ModelFile, rin_model::Error> {
        (self.open)()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

/// Loads engines.
#[derive(Debug)]
pub struct EngineLoader {
    /// The models that [`Setting::model`] counts.
    pub models: Vec<Model>,
    /// What the settings do not say. A context that is none becomes the shortest that the tests need.
    pub options: LoadOptions,
    /// The processes that an engine is spread over.
    pub ranks: Arc<Ranks>,
}

impl EngineLoader {
    /// Loads engines in this process.
    pub fn alone(models: Vec<Model>, options: LoadOptions) -> Self {
        Self { models, options, ranks: Arc::new(Ranks::alone()) }
    }

    /// Refuses what no configuration could be measured with: tiers that cannot run here, a context that is too short.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchTier`] and [`Error::ContextTooShort`].
    pub fn check(&self, settings: &[Setting]) -> Result<(), Error> {
        let cpu = Cpu::detect();
        for setting in settings {
            if let Some(tier) = setting.tier.filter(|tier| !cpu.has(*tier)) {
                let missing = tier.missing().join(", ");
                let usable = cpu.tiers().map(Tier::name).collect::<Vec<_>>().join(", ");
                return Err(Error::NoSuchTier { tier: tier.name(), missing, usable });
            }
            if let Some(ctx) = self.options.ctx.filter(|ctx| *ctx < setting.positions) {
                return Err(Error::ContextTooShort { needed: setting.positions, ctx });
            }
        }
        Ok(())
    }

    /// An engine of a configuration.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be had.
    pub(crate) fn engine(&self, setting: &Setting) -> Result<Engine, Error> {
        let (file, options) = self.open(setting)?;
        Ok(self.ranks.load(setting.model, file, &options, 0, |_| {})?)
    }

    fn open(&self, setting: &Setting) -> Result<(ModelFile, LoadOptions), Error> {
        let model = self.models.get(setting.model).ok_or_else(|| Error::BadOption {
            field: "the model of a configuration",
            expected: format!("below {}", self.models.len()),
            found: setting.model.to_string(),
        })?;
        let defaults = &self.options;
        let options = LoadOptions {
            threads: setting.threads.or(defaults.threads),
            tier: setting.tier.or(defaults.tier),
            kv_type: setting.kv_type.or(defaults.kv_type),
            ctx: Some(defaults.ctx.unwrap_or(setting.positions)),
            n_batch: defaults.n_batch.max(setting.n_parallel),
            n_sequences: setting.n_parallel,
            ..defaults.clone()
        };
        Ok(((model.open)()?, options))
    }
}

impl Loader for EngineLoader {
    fn load(&self, setting: &Setting) -> Result<Box<dyn Subject>, Error> {
        let mut subject = EngineSubject::new(self.engine(setting)?);
        if self.ranks.several() {
            // Of all ranks, where this one has a part.
            let (file, options) = self.open(setting)?;
            subject.whole = Some(Cost::of(&options.plan(&file)?));
        }
        Ok(Box::new(subject))
    }

    fn fit_together(&self, settings: &[Setting]) -> Result<bool, Error> {
        if self.ranks.several() {
            return Ok(false);
        }
        let mut bytes = 0_u64;
        for setting in settings {
            let (file, options) = self.open(setting)?;
            bytes = bytes.saturating_add(options.plan(&file)?.total_bytes() as u64);
        }
        Ok(self.options.limit().is_none_or(|limit| limit.admit(bytes).is_ok()))
    }

    fn peaks(&self, threads: usize, tier: &str) -> Result<Option<peak::Peaks>, Error> {
        // What one machine can do says nothing about several.
        let Some(tier) = tier.parse::<Tier>().ok().filter(|_| !self.ranks.several()) else { return Ok(None) };
        peak::measure(threads, tier, self.options.affinity).map(Some)
    }
}

/// An engine with the sequences that are measured.
#[derive(Debug)]
pub struct EngineSubject {
    engine: Engine,
    sequences: Vec<Sequence>,
    /// Tokens that the sequences began with.
    depth: usize,
    /// Where each sequence was then.
    marks: Vec<Mark>,
    /// What the steps of the whole network have to read and multiply, where the engine has a part of it.
    whole: Option<Cost>,
}

impl EngineSubject {
    /// Measures an engine.
    pub fn new(engine: Engine) -> Self {
        let sequences = Vec::with_capacity(engine.plan().options.n_sequences);
        let marks = Vec::with_capacity(engine.plan().options.n_sequences);
        Self { engine, sequences, depth: 0, marks, whole: None }
    }
}

impl Subject for EngineSubject {
    fn reset(&mut self, n_sequences: usize, depth: usize) -> Result<(), Error> {
        // What is far back costs much to fill: it is kept, unless a sliding window has left it behind.
        if depth > 0 && (self.sequences.len(), self.depth) == (n_sequences, depth) {
            let Self { engine, sequences, marks, .. } = self;
            if sequences.iter().zip(&*marks).all(|(sequence, mark)| engine.rewind(sequence, mark).is_ok()) {
                return Ok(());
            }
        }
        for sequence in self.sequences.drain(..) {
            self.engine.release(sequence);
        }
        self.engine.forget_prefixes();
        for _ in 0..n_sequences {
            self.sequences.push(self.engine.sequence()?);
        }
        self.depth = depth;
        let vocab = self.engine.plan().config.vocab;
        for (i, sequence) in self.sequences.iter().enumerate().filter(|_| depth > 0) {
            let tokens: Vec<u32> = (0..depth).map(|at| token(at, i, vocab)).collect();
            self.engine.feed(sequence, &tokens)?;
        }
        self.marks.clear();
        for sequence in &self.sequences {
            self.marks.push(self.engine.mark(sequence));
        }
        Ok(())
    }

    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<&[f32], Error> {
        let n = self.sequences.len();
        let sequence = self.sequences.get(sequence).ok_or(rin_engine::Error::NoSequenceLeft(n))?;
        Ok(self.engine.feed(sequence, tokens)?)
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let Self { engine, sequences, .. } = self;
        match (sequences.len(), tokens.len()) {
            (n, m) if n != m => Err(Error::NotSupported(m)),
            (0..=1, _) => step::<1>(engine, sequences, tokens),
            (2..=16, _) => step::<16>(engine, sequences, tokens),
            (17..=MAX_PARALLEL, _) => step::<MAX_PARALLEL>(engine, sequences, tokens),
            (n, _) => Err(Error::NotSupported(n)),
        }
    }

    fn facts(&self) -> Facts {
        let facts = Facts::of(&self.engine);
        Facts { cost: self.whole.unwrap_or(facts.cost), ..facts }
    }
}

impl Facts {
    /// Of an engine.
    pub fn of(engine: &Engine) -> Self {
        let (file, plan) = (engine.file(), engine.plan());
        let model_n_params = file.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_elements()));
        Self {
            model_filename: file.path().display().to_string(),
            model_type: model_type(file, plan.config.arch.name(), model_n_params),
            model_size: file.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes)),
            model_n_params,
            n_batch: plan.options.n_batch,
            n_threads: engine.threads(),
            tier: engine.tier().name().to_owned(),
            kv_type: plan.kv_type.name().to_owned(),
            plan_bytes: plan.total_bytes() as u64,
            vocab: plan.config.vocab,
            cost: Cost::of(plan),
            notes: engine.notes().map(str::to_owned).collect(),
        }
    }
}

/// One step of up to `N` sequences with a token each. What the engine is fed lies on the stack: nothing is allocated.
fn step<'e, const N: usize>(
    engine: &'e mut Engine,
    sequences: &[Sequence],
    tokens: &[u32],
) -> Result<&'e [f32], Error> {
    let feed = |(sequence, tokens)| Feed { sequence, tokens, rows: Rows::Last };
    let mut pairs = sequences.iter().zip(tokens.chunks(1)).map(feed);
    let first = pairs.next().ok_or(Error::NotSupported(0))?;
    let mut feeds = [first; N];
    for (place, feed) in feeds.iter_mut().skip(1).zip(pairs) {
        *place = feed;
    }
    Ok(engine.step(feeds.get(..sequences.len()).unwrap_or_default())?)
}

/// `llama 134.5M Q8_0`: the family, the weights, and the type that most weights of the matrices have.
pub(crate) fn model_type(file: &ModelFile, arch: &str, n_params: u64) -> String {
    let mut weights: BTreeMap<DType, u64> = BTreeMap::new();
    for tensor in file.tensors().iter().filter(|tensor| tensor.shape.len() > 1) {
        let sum = weights.entry(tensor.dtype).or_default();
        *sum = sum.saturating_add(tensor.n_elements());
    }
    let dtype = weights.into_iter().max_by_key(|(_, weights)| *weights).map_or("", |(dtype, _)| dtype.name());
    format!("{arch} {} {dtype}", count(n_params)).trim_end().to_owned()
}

/// A count in thousands, millions or billions, with one decimal.
pub(crate) fn count(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}K", n / 1e3),
        n => format!("{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Grid, Workload};
    use rin_testkit::data::conformance;

    fn loader(options: LoadOptions) -> EngineLoader {
        EngineLoader::alone(vec![Model::at(conformance("models/tiny-llama"))], options)
    }

    fn settings(grid: Grid) -> Vec<Setting> {
        Grid { models: 1, ..grid }.settings(&Workload { n_prompt: 20, n_gen: 4, ..Workload::default() }).unwrap()
    }

    #[test]
    fn an_engine_is_what_its_file_says() {
        let loader = loader(LoadOptions { threads: Some(1), ..LoadOptions::default() });
        let setting = &settings(Grid { tiers: vec![Tier::Scalar], ..Grid::default() })[0];
        let mut subject = loader.load(setting).unwrap();
        let facts = subject.facts();
        assert_eq!((facts.n_threads, facts.tier.as_str()), (1, "scalar"));
        assert!(facts.model_type.starts_with("llama "), "{}", facts.model_type);
        assert!(facts.model_filename.ends_with("tiny-llama"), "{}", facts.model_filename);
        assert!(facts.plan_bytes > facts.model_size / 2 && facts.model_n_params > 1000);
        subject.reset(1, 0).unwrap();
        let whole = subject.prefill(0, &[1, 2, 3]).unwrap().to_vec();
        assert_eq!(whole.len(), facts.vocab);
        subject.reset(1, 0).unwrap();
        subject.prefill(0, &[1, 2]).unwrap();
        assert_eq!(subject.decode(&[3]).unwrap(), whole, "a reset begins anew, and a step goes on");
        assert!(loader.fit_together(&settings(Grid::default())).unwrap());
    }

    #[test]
    fn sequences_begin_at_a_depth_as_often_as_they_are_reset() {
        let loader = loader(LoadOptions { threads: Some(1), ..LoadOptions::default() });
        let grid = Grid { depths: vec![9], ..Grid::default() };
        let mut subject = loader.load(&settings(grid)[0]).unwrap();
        let vocab = subject.facts().vocab;
        let before: Vec<u32> = (0..9).map(|at| token(at, 0, vocab)).chain([5]).collect();
        subject.reset(1, 0).unwrap();
        let whole = subject.prefill(0, &before).unwrap().to_vec();
        for _ in 0..2 {
            subject.reset(1, 9).unwrap();
            assert_eq!(subject.prefill(0, &[5]).unwrap(), whole);
            subject.decode(&[6]).unwrap();
        }
    }

    #[test]
    fn sequences_in_one_step_have_the_logits_of_each_alone() {
        let loader = loader(LoadOptions { threads: Some(2), ..LoadOptions::default() });
        let alone = |prompt: u32, next: u32| {
            let mut subject = loader.load(&settings(Grid::default())[0]).unwrap();
            subject.reset(1, 0).unwrap();
            subject.prefill(0, &[prompt]).unwrap();
            subject.decode(&[next]).unwrap().to_vec()
        };
        for n in [2_u32, 3, 17] {
            let grid = Grid { parallel: vec![n as usize], ..Grid::default() };
            let mut subject = loader.load(&settings(grid)[0]).unwrap();
            for _ in 0..2 {
                subject.reset(n as usize, 0).unwrap();
                for i in 0..n {
                    subject.prefill(i as usize, &[i + 1]).unwrap();
                }
                let tokens: Vec<u32> = (0..n).map(|i| 30 + i).collect();
                let expected: Vec<f32> = (0..n).flat_map(|i| alone(i + 1, 30 + i)).collect();
                assert_eq!(subject.decode(&tokens).unwrap(), expected);
            }
            assert!(matches!(subject.decode(&[1]), Err(Error::NotSupported(1))));
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let absent = Tier::ALL.into_iter().find(|tier| !Cpu::detect().has(*tier)).unwrap();
        let found = loader(LoadOptions::default()).check(&settings(Grid { tiers: vec![absent], ..Grid::default() }));
        let words = found.unwrap_err().to_string();
        assert!(
            words.starts_with(&format!("the tier {absent} cannot run here")) && words.contains("scalar"),
            "{words}"
        );
        let short = loader(LoadOptions { ctx: Some(19), ..LoadOptions::default() });
        let found = short.check(&settings(Grid::default()));
        assert!(matches!(found, Err(Error::ContextTooShort { needed: 20, ctx: 19 })));
        let limited = loader(LoadOptions { memory_limit: Some(1000), ..LoadOptions::default() });
        assert!(!limited.fit_together(&settings(Grid::default())).unwrap());
    }

    #[test]
    fn counts_are_rounded() {
        assert_eq!([999, 1234, 134_515_008, 1_240_000_000].map(count), ["999", "1.2K", "134.5M", "1.24B"]);
    }
}
