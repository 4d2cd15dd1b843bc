//! A loaded model: sequences of tokens in, logits out.

use crate::Error;
use crate::arch::rope;
use crate::arena::{Arena, ArenaOptions, cast_mut};
use crate::limits::MemoryLimit;
use crate::plan::{Plan, PlanOptions};
use crate::pool::{MAX_THREADS, Pool, PoolOptions};
use crate::run::{BatchToken, Kernels, Runner};
use crate::topology::{Policy, Topology};
use crate::weights::Weights;
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Cpu, FloatEnv, Tier};
use rin_model::ModelFile;

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Workers; none: physical cores within the quota and the affinity mask.
    pub threads: Option<usize>,
    /// Where the workers are pinned.
    pub affinity: Policy,
    /// The highest instruction tier to use; none: the best there is.
    pub tier: Option<Tier>,
    /// Positions per sequence; none: what the model was trained for, at most [`DEFAULT_CTX`].
    pub ctx: Option<usize>,
    /// Most tokens in one step.
    pub n_batch: usize,
    /// Sequences that live at once.
    pub n_sequences: usize,
    /// Most rows of logits in one step.
    pub n_logits: usize,
    /// How keys and values are stored.
    pub kv_type: Option<KvType>,
    /// A limit in bytes beside those of the machine.
    pub memory_limit: Option<u64>,
    /// Huge pages and locked memory.
    pub arena: ArenaOptions,
}

/// The context where the user names none.
pub const DEFAULT_CTX: usize = 4096;

/// The batch where the user names none.
pub const DEFAULT_BATCH: usize = 512;

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            threads: None,
            affinity: Policy::Compact,
            tier: None,
            ctx: None,
            n_batch: DEFAULT_BATCH,
            n_sequences: 1,
            n_logits: 1,
            kv_type: None,
            memory_limit: None,
            arena: ArenaOptions { prefault: true, ..ArenaOptions::default() },
        }
    }
}

impl LoadOptions {
    /// The plan that these options make of a file, without loading anything.
    ///
    /// # Errors
    ///
    /// As for [`Plan::new`].
    pub fn plan(&self, file: &ModelFile) -> Result<Plan, Error> {
        if let Some(threads) = self.threads.filter(|n| !(1..=MAX_THREADS).contains(n)) {
            let expected = format!("1 to {MAX_THREADS}");
            return Err(Error::BadOption { field: "threads", expected, found: threads.to_string() });
        }
        let ctx = match self.ctx {
            Some(ctx) => ctx,
            None => file.config()?.ctx.min(DEFAULT_CTX),
        };
        let options = PlanOptions {
            ctx,
            n_batch: self.n_batch.min(ctx.saturating_mul(self.n_sequences)),
            n_sequences: self.n_sequences,
            n_logits: self.n_logits.max(self.n_sequences),
            kv_type: self.kv_type,
        };
        Plan::new(file, options)
    }

    /// The memory that a plan may take on this machine.
    pub fn limit(&self) -> Option<MemoryLimit> {
        MemoryLimit::of_this_machine(self.memory_limit)
    }
}

/// Tokens that share a KV cache. Made by [`Engine::sequence`], given back to [`Engine::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Sequence {
    index: usize,
    position: usize,
}

impl Sequence {
    /// Tokens fed so far: the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }
}

/// A model in memory, ready to run. Nothing allocates after [`Engine::load`].
#[derive(Debug)]
pub struct Engine {
    runner: Runner,
    tier: Tier,
    in_use: Vec<bool>,
    batch: Vec<BatchToken>,
}

impl Engine {
    /// Plans, checks that the plan fits, and loads; `progress` hears, tensor by tensor, how many more
    /// bytes of weights are ready.
    ///
    /// # Errors
    ///
    /// When the model is unsupported or damaged, an option is out of range, or the plan does not fit.
    pub fn load(file: ModelFile, options: &LoadOptions, progress: impl FnMut(usize)) -> Result<Self, Error> {
        let mut plan = options.plan(&file)?;
        if let Some(limit) = options.limit() {
            limit.admit(plan.total_bytes() as u64)?;
        }
        let mut cpu = Cpu::detect();
        if let Some(tier) = options.tier {
            cpu = cpu.up_to(tier);
        }
        let mut pool = make_pool(options)?;
        let mut arena = Arena::new(plan.arena_bytes() as u64, options.arena)?;
        let weights = Weights::load(file, std::mem::take(&mut plan.weights), options.arena, &mut pool, progress)?;
        plan.weights = weights.table().clone();
        let rope_factor = fill_frequencies(&plan, &weights, &mut arena)?;
        let (n, pages) = (plan.options.n_sequences, plan.pages_per_sequence());
        let page_tables = (0..n * pages).map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect();
        let kernels = Kernels::select(&plan, &cpu);
        let batch = Vec::with_capacity(plan.options.n_batch);
        let runner = Runner { plan, weights, arena, pool, kernels, page_tables, rope_factor };
        Ok(Self { runner, tier: cpu.best(), in_use: vec![false; n], batch })
    }

    /// The plan that is held.
    pub fn plan(&self) -> &Plan {
        &self.runner.plan
    }

    /// Bytes of the arena: those of the plan.
    pub fn arena_len(&self) -> usize {
        self.runner.arena.len()
    }

    /// The file that the weights came from.
    pub fn file(&self) -> &ModelFile {
        self.runner.weights.file()
    }

    /// The highest tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Workers, the caller among them.
    pub fn threads(&self) -> usize {
        self.runner.pool.threads()
    }

    /// What the system did not grant: pins, huge pages.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.runner.pool.notes().iter().chain(self.runner.arena.notes()).map(String::as_str)
    }

    /// A new, empty sequence; its cache was reserved by the plan.
    ///
    /// # Errors
    ///
    /// [`Error::NoSequenceLeft`] when all are in use.
    pub fn sequence(&mut self) -> Result<Sequence, Error> {
        let free = self.in_use.iter().position(|used| !used);
        let index = free.ok_or(Error::NoSequenceLeft(self.in_use.len()))?;
        self.in_use[index] = true;
        Ok(Sequence { index, position: 0 })
    }

    /// Gives a sequence's cache back.
    #[expect(clippy::needless_pass_by_value, reason = "a released sequence must not be fed again")]
    pub fn release(&mut self, sequence: Sequence) {
        if let Some(used) = self.in_use.get_mut(sequence.index) {
            *used = false;
        }
    }

    /// Feeds tokens to one sequence in steps of up to `n_batch`; returns the logits of the last one, `(vocab)`.
    ///
    /// # Errors
    ///
    /// When there is no token, an id is not in the vocabulary, or the context is too small; nothing is fed then.
    pub fn feed(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check(sequence, tokens)?;
        for chunk in tokens.chunks(self.runner.plan.options.n_batch) {
            let last = sequence.position + chunk.len();
            self.step(sequence, chunk, |position| position + 1 == last)?;
        }
        self.runner.logits(1)
    }

    /// Feeds tokens to one sequence; `each` gets the logits of every one, in order.
    ///
    /// # Errors
    ///
    /// As for [`Engine::feed`].
    pub fn feed_all(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), Error> {
        self.check(sequence, tokens)?;
        let options = self.runner.plan.options;
        for chunk in tokens.chunks(options.n_batch.min(options.n_logits)) {
            self.step(sequence, chunk, |_| true)?;
            let logits = self.runner.logits(chunk.len())?;
            logits.chunks_exact(self.runner.plan.config.vocab).for_each(&mut each);
        }
        Ok(())
    }

    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        let Plan { config, options, .. } = &self.runner.plan;
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if tokens.len() > options.ctx - sequence.position.min(options.ctx) {
            return Err(Error::PromptTooLong { tokens: sequence.position + tokens.len(), ctx: options.ctx });
        }
        match tokens.iter().find(|&&id| id as usize >= config.vocab) {
            Some(&id) => Err(Error::UnknownToken { id, n_vocab: config.vocab }),
            None => Ok(()),
        }
    }

    fn step(&mut self, sequence: &mut Sequence, ids: &[u32], logits: impl Fn(usize) -> bool) -> Result<(), Error> {
        self.batch.clear();
        for &id in ids {
            let position = sequence.position;
            self.batch.push(BatchToken {
                id,
                // The plan holds both below 2^31.
                position: u32::try_from(position).unwrap_or(u32::MAX),
                sequence: u32::try_from(sequence.index).unwrap_or(u32::MAX),
                logits: logits(position),
            });
            sequence.position += 1;
        }
        self.runner.forward(&self.batch)
    }
}

fn make_pool(options: &LoadOptions) -> Result<Pool, Error> {
    let topology = Topology::of_this_machine();
    let threads = options.threads.unwrap_or_else(|| topology.default_threads());
    let cpus = topology.placement(threads, options.affinity);
    let pin_caller = options.affinity != Policy::None;
    Ok(Pool::new(PoolOptions { threads, cpus, pin_caller, worker_setup: set_up_worker, ..PoolOptions::default() })?)
}

/// Every worker computes in the float environment of the bit contract.
fn set_up_worker() {
    FloatEnv::set();
    assert!(FloatEnv::is_set(), "the float environment of the bit contract cannot be set");
}

/// Fills the frequency slot; returns the factor on cosines and sines.
fn fill_frequencies(plan: &Plan, weights: &Weights, arena: &mut Arena) -> Result<f32, Error> {
    let slot = &plan.slots[plan.inv_freq.0];
    let place = slot.offset..slot.offset + slot.bytes;
    let out = arena.bytes_mut().get_mut(place).unwrap_or_default();
    let factors = match weights.file().tensor("rope_freqs.weight") {
        Some(t) => Some(crate::weights::vector_values(t, weights.file().bytes(t))?),
        None => None,
    };
    Ok(rope::frequencies(&plan.config.rope, factors.as_deref(), cast_mut(out)?))
}
