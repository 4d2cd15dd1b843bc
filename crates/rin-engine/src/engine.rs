//! A loaded model: sequences of tokens in, logits out.

use crate::Error;
use crate::arch::rope;
use crate::arena::{Arena, ArenaOptions, cast_mut};
use crate::cache::PageCache;
use crate::chain::Chain;
use crate::feed::{Feed, Rows, Sequence, Trace};
use crate::limits::MemoryLimit;
use crate::plan::{Plan, PlanOptions, Stage, Step};
use crate::pool::{MAX_THREADS, Pool, PoolOptions};
use crate::run::{BatchToken, Kernels, Runner};
use crate::sampler::{Sampler, SamplingParams};
use crate::tokenizer::Tokenizer;
use crate::topology::{Policy, Topology};
use crate::weights::Weights;
use rin_kernels::ops::attention::{KvType, PAGE};
use rin_kernels::{Cpu, FloatEnv, Tier};
use rin_model::ModelFile;
use std::time::{Duration, Instant};

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
    /// Positions of the KV cache that all sequences share; none: enough for every sequence to fill its context.
    pub kv_positions: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: Option<KvType>,
    /// The stage of a pipeline that this process is; none: the whole network. See [`Engine::join`].
    pub stage: Option<Stage>,
    /// How tokens are drawn where text is made beside the engine: the plan then counts the tokenizer and one sampler.
    pub text: Option<SamplingParams>,
    /// A limit in bytes beside those of the machine.
    pub memory_limit: Option<u64>,
    /// Huge pages and locked memory.
    pub arena: ArenaOptions,
}

/// The context where the user names none.
pub const DEFAULT_CTX: usize = 4096;

/// The same for networks whose memory does not grow with it: a larger one costs nothing, but a text should end.
pub const DEFAULT_CTX_OF_MEMORIES: usize = 1 << 16;

/// What a network was trained for, at most [`DEFAULT_CTX`]; where no layer attends, as far as its memories are sure to hold.
fn default_ctx(config: &rin_model::Config) -> usize {
    if config.attends() {
        return config.ctx.min(DEFAULT_CTX);
    }
    let longest = config.memory.iter().flatten().filter_map(rin_model::Memory::longest_text).min();
    longest.unwrap_or(DEFAULT_CTX_OF_MEMORIES).min(DEFAULT_CTX_OF_MEMORIES)
}

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
            kv_positions: None,
            kv_type: None,
            stage: None,
            text: None,
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
        self.threads.map_or(Ok(()), check_threads)?;
        let ctx = match self.ctx {
            Some(ctx) => ctx,
            None => default_ctx(file.config()?),
        };
        let options = PlanOptions {
            ctx,
            n_batch: self.n_batch.min(ctx.saturating_mul(self.n_sequences)),
            n_sequences: self.n_sequences,
            n_logits: self.n_logits.max(self.n_sequences),
            kv_positions: self.kv_positions,
            kv_type: self.kv_type,
            stage: self.stage,
        };
        let mut plan = Plan::new(file, options)?;
        if let Some(sampling) = &self.text {
            plan.vocabulary_bytes = vocabulary_bytes(file, sampling, plan.config.vocab);
        }
        Ok(plan)
    }

    /// The memory that a plan may take on this machine.
    pub fn limit(&self) -> Option<MemoryLimit> {
        MemoryLimit::of_this_machine(self.memory_limit)
    }

    /// Whether plans fit this machine together.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotFit`] says how much they take and how much there is.
    pub fn admit(&self, plans: &[&Plan]) -> Result<(), Error> {
        self.admit_bytes(plans.iter().fold(0_u64, |sum, plan| sum.saturating_add(plan.total_bytes() as u64)))
    }

    /// Whether so many bytes fit this machine.
    ///
    /// # Errors
    ///
    /// As for [`admit`](Self::admit).
    pub fn admit_bytes(&self, bytes: u64) -> Result<(), Error> {
        self.limit().map_or(Ok(()), |limit| Ok(limit.admit(bytes)?))
    }
}

/// Bytes of the tokenizer and of the sampler. A file whose tokenizer is missing or damaged can run on ids alone.
fn vocabulary_bytes(file: &ModelFile, sampling: &SamplingParams, n_vocab: usize) -> usize {
    let tokenizer = file.tokenizer().ok().and_then(|source| Tokenizer::planned_bytes(&source).ok());
    tokenizer.unwrap_or(0).saturating_add(Sampler::bytes(sampling, n_vocab))
}

/// A model in memory, ready to run. Nothing allocates after [`Engine::load`].
#[derive(Debug)]
pub struct Engine {
    pub(crate) runner: Runner,
    tier: Tier,
    /// The highest tier that whoever loaded it permits.
    pub(crate) ceiling: Option<Tier>,
    pub(crate) batch: Vec<BatchToken>,
    /// The other stages, where this is one of several.
    pub(crate) chain: Option<Chain>,
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
        options.admit(&[&plan])?;
        let mut cpu = Cpu::detect();
        if let Some(tier) = options.tier {
            cpu = cpu.up_to(tier);
        }
        let mut pool = make_pool(options.threads, options.affinity)?;
        let arena_bytes = plan.arena_bytes();
        let (weights, mut arena) =
            Weights::load_with_arena(file, &mut plan.weights, arena_bytes, options.arena, &mut pool, progress)?;
        let rope_factor = fill_frequencies(&plan, &weights, &mut arena)?;
        let kernels = Kernels::select(plan.kv_type, &cpu);
        let batch = Vec::with_capacity(plan.options.n_batch);
        let cache = PageCache::new(plan.cache_shape());
        let runner = Runner {
            plan,
            weights,
            arena,
            pool,
            kernels,
            cache,
            rope_factor,
            #[cfg(test)]
            fault: None,
        };
        Ok(Self { runner, tier: cpu.best(), ceiling: options.tier, batch, chain: None })
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

    /// Computes on the first `threads` workers only from now on, at least 1 and at most [`threads`](Self::threads); the
    /// others sleep. Allocates nothing, and the bits stay.
    pub fn set_active_threads(&mut self, threads: usize) {
        self.runner.pool.set_active(threads);
        self.tell_active(threads);
    }

    /// Workers that compute, the caller among them.
    pub fn active_threads(&self) -> usize {
        self.runner.pool.active()
    }

    /// What the system did not grant: pins, huge pages.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        let Runner { pool, arena, weights, .. } = &self.runner;
        pool.notes().iter().chain(arena.notes()).chain(weights.notes()).map(String::as_str)
    }

    /// A new, empty sequence with room for a whole context.
    ///
    /// # Errors
    ///
    /// [`Error::NoSequenceLeft`] when all are in use, [`Error::CacheFull`] when they share a cache and it has no room.
    pub fn sequence(&mut self) -> Result<Sequence, Error> {
        self.admit(&[], self.runner.plan.options.ctx)
    }

    /// A new sequence with room for `limit` positions. Of `prompt`, it holds the tokens that the cache has already:
    /// [`position`](Self::position) says how many; they are whole pages of 64 and never all of it. The rest is to be fed.
    ///
    /// # Errors
    ///
    /// [`Error::NoSequenceLeft`], [`Error::CacheFull`]; [`Error::PromptTooLong`] when `limit` is larger than the context.
    pub fn admit(&mut self, prompt: &[u32], limit: usize) -> Result<Sequence, Error> {
        let row = self.runner.admit(prompt, limit)?;
        self.tell_admitted(prompt, limit, row)?;
        Ok(Sequence { row })
    }

    /// Tokens that a sequence holds: the position of the next one.
    pub fn position(&self, sequence: &Sequence) -> usize {
        self.runner.cache.position(sequence.row)
    }

    /// Positions of the cache that could be promised to new sequences now.
    pub fn available_positions(&self) -> usize {
        self.runner.cache.available() * PAGE
    }

    /// Gives a sequence's place back. Its full pages stay for sequences that begin alike, until their room is needed.
    #[expect(clippy::needless_pass_by_value, reason = "a released sequence must not be fed again")]
    pub fn release(&mut self, sequence: Sequence) {
        self.runner.cache.release(sequence.row);
        self.tell_released(sequence.row);
    }

    /// Gives a sequence's place back and begins another one in it; see [`admit`](Self::admit).
    ///
    /// # Errors
    ///
    /// As for [`admit`](Self::admit); the sequence is empty then.
    pub fn restart(&mut self, sequence: &mut Sequence, prompt: &[u32], limit: usize) -> Result<(), Error> {
        self.runner.cache.release(sequence.row);
        self.tell_released(sequence.row);
        sequence.row = match self.admit(prompt, limit) {
            Ok(Sequence { row }) => row,
            Err(error) => {
                // The place that was given back a moment ago; without room in it, nothing can be fed.
                sequence.row = self.admit(&[], 0)?.row;
                return Err(error);
            }
        };
        Ok(())
    }

    /// The weights that are held.
    pub fn weights(&self) -> &Weights {
        &self.runner.weights
    }

    #[cfg(test)]
    pub(crate) fn break_step(&mut self, step: Option<usize>) {
        self.runner.fault = step;
    }

    /// Runs on other threads or another tier from now on: the bits stay.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] for a number of threads out of range; when threads cannot be started.
    pub fn reconfigure(&mut self, tier: Tier, threads: usize, affinity: Policy) -> Result<(), Error> {
        self.reconfigure_own(tier, threads, affinity)?;
        self.tell_reconfigured(tier, threads, affinity)
    }

    /// [`reconfigure`](Self::reconfigure) of this stage alone.
    pub(crate) fn reconfigure_own(&mut self, tier: Tier, threads: usize, affinity: Policy) -> Result<(), Error> {
        let cpu = Cpu::detect().up_to(tier);
        if threads != self.threads() {
            check_threads(threads)?;
            self.runner.pool = make_pool(Some(threads), affinity)?;
        }
        self.runner.kernels = Kernels::select(self.runner.plan.kv_type, &cpu);
        self.tier = cpu.best();
        Ok(())
    }

    /// Forgets the pages that no sequence uses: prompts begin from nothing again.
    pub fn forget_prefixes(&mut self) {
        self.runner.cache.clear();
        self.tell_forgotten();
    }

    /// Goes back to the first `n` tokens of a sequence.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfWindow`] where a sliding window has left the position behind; [`Error::CacheFull`] where pages are
    /// shared and there is no room for own ones; [`Error::NotRewindable`] where layers have memories of a fixed size, which
    /// go back to nothing or not at all. Nothing changes then.
    pub fn truncate(&mut self, sequence: &Sequence, n: usize) -> Result<(), Error> {
        self.runner.truncate(sequence.row, n)?;
        self.tell_truncated(sequence.row, n)
    }

    /// A new sequence that holds the tokens of another one, to go on with otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::NoSequenceLeft`], [`Error::CacheFull`].
    pub fn fork(&mut self, sequence: &Sequence) -> Result<Sequence, Error> {
        let row = self.runner.fork(sequence.row)?;
        self.tell_forked(sequence.row, row)?;
        Ok(Sequence { row })
    }

    /// Runs one step over several sequences, each with its own tokens at its own positions; returns the rows of logits
    /// that are wanted, `(rows, vocab)`, in the order of `feeds`. What is computed beside a sequence changes none of its
    /// bits, nor does the cut of its tokens into steps.
    ///
    /// # Errors
    ///
    /// When there are more tokens or rows than were planned for, an id is not in the vocabulary, a sequence is named
    /// twice or has no room; nothing is fed then.
    pub fn step(&mut self, feeds: &[Feed<'_>]) -> Result<&[f32], Error> {
        let rows = self.take_batch(feeds)?;
        let Self { runner, batch, chain, .. } = self;
        forward(runner, chain.as_mut(), batch, |_, _| {})?;
        self.commit(feeds, rows)
    }

    /// As [`step`](Self::step); `trace` gets every f32 row that a step of the plan writes, token by token.
    ///
    /// # Errors
    ///
    /// As for [`step`](Self::step).
    pub fn step_traced(&mut self, feeds: &[Feed<'_>], mut trace: impl FnMut(&Trace<'_>)) -> Result<&[f32], Error> {
        let rows = self.take_batch(feeds)?;
        let Self { runner, batch, chain, .. } = self;
        let batch = &*batch;
        forward(runner, chain.as_mut(), batch, |runner, step| {
            let of = &runner.plan.steps[step];
            let selected = step >= runner.plan.head || matches!(of, Step::Select { .. });
            let written = || batch.iter().filter(|token| token.logits || !selected);
            let (layer, operation) = (runner.plan.layers[step], of.name());
            for (part, (slot, cols)) in of.outputs(&runner.plan).into_iter().flatten().enumerate() {
                let Ok(values) = runner.values(slot, written().count() * cols) else { continue };
                for (values, token) in values.chunks_exact(cols.max(1)).zip(written()) {
                    let of_token = |feed: &Feed<'_>| feed.sequence.row == token.sequence as usize;
                    let Some(feed) = feeds.iter().position(of_token) else { continue };
                    let position = token.position as usize;
                    trace(&Trace { feed, position, step, layer, operation, part, values });
                }
            }
        })?;
        self.commit(feeds, rows)
    }

    /// As [`step`](Self::step); after each step of the plan `heard` gets its place in [`Plan::steps`] and the time that it
    /// took, handing work to the threads and waiting for them included. The time of `heard` itself is not counted.
    ///
    /// # Errors
    ///
    /// As for [`step`](Self::step).
    pub fn step_timed(&mut self, feeds: &[Feed<'_>], mut heard: impl FnMut(usize, Duration)) -> Result<&[f32], Error> {
        let rows = self.take_batch(feeds)?;
        let mut start = Instant::now();
        let Self { runner, batch, chain, .. } = self;
        forward(runner, chain.as_mut(), batch, |_, step| {
            heard(step, start.elapsed());
            start = Instant::now();
        })?;
        self.commit(feeds, rows)
    }

    /// Checks a step, takes its pages of the cache and lays out its batch; returns its rows of logits.
    fn take_batch(&mut self, feeds: &[Feed<'_>]) -> Result<usize, Error> {
        self.check_leads()?;
        let rows = self.check_step(feeds)?;
        self.batch.clear();
        for feed in feeds {
            let first = self.position(feed.sequence);
            self.runner.take_pages(feed.sequence.row, feed.tokens)?;
            let last = feed.tokens.len().saturating_sub(1);
            for (i, &id) in feed.tokens.iter().enumerate() {
                let wanted = match feed.rows {
                    Rows::None => false,
                    Rows::Last => i == last,
                    Rows::All => true,
                };
                self.batch.push(BatchToken {
                    id,
                    // The plan holds both below 2^31.
                    position: u32::try_from(first + i).unwrap_or(u32::MAX),
                    sequence: u32::try_from(feed.sequence.row).unwrap_or(u32::MAX),
                    logits: wanted,
                });
            }
        }
        Ok(rows)
    }

    /// Ends a step that has run: its tokens are part of their sequences.
    fn commit(&mut self, feeds: &[Feed<'_>], rows: usize) -> Result<&[f32], Error> {
        for feed in feeds {
            self.runner.commit(feed.sequence.row, feed.tokens.len())?;
        }
        self.runner.logits(rows)
    }

    /// Checks a step before anything is fed; returns its rows of logits.
    fn check_step(&self, feeds: &[Feed<'_>]) -> Result<usize, Error> {
        let PlanOptions { n_batch, n_logits, .. } = self.runner.plan.options;
        let too_large = |what, found, most| Err(Error::StepTooLarge { what, found, most });
        let n_tokens: usize = feeds.iter().map(|feed| feed.tokens.len()).sum();
        if n_tokens > n_batch {
            return too_large("tokens", n_tokens, n_batch);
        }
        let rows: usize = feeds.iter().map(Feed::n_rows).sum();
        if rows > n_logits {
            return too_large("rows of logits", rows, n_logits);
        }
        for (i, feed) in feeds.iter().enumerate() {
            self.check(feed.sequence, feed.tokens)?;
            let turns = feeds.iter().filter(|other| other.sequence.row == feed.sequence.row).count();
            if turns > 1 && i > 0 {
                return too_large("turns of one sequence", turns, 1);
            }
        }
        Ok(rows)
    }

    /// Feeds tokens to one sequence in steps of up to `n_batch`; returns the logits of the last one, `(vocab)`.
    ///
    /// # Errors
    ///
    /// When there is no token, an id is not in the vocabulary, or the context is too small; nothing is fed then.
    pub fn feed(&mut self, sequence: &Sequence, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check(sequence, tokens)?;
        let n_batch = self.runner.plan.options.n_batch;
        let (before, last) = tokens.split_at((tokens.len() - 1) / n_batch * n_batch);
        for tokens in before.chunks(n_batch) {
            self.step(&[Feed { sequence, tokens, rows: Rows::None }])?;
        }
        self.step(&[Feed { sequence, tokens: last, rows: Rows::Last }])
    }

    /// Feeds tokens to one sequence; `each` gets the logits of every one, in order.
    ///
    /// # Errors
    ///
    /// As for [`Engine::feed`].
    pub fn feed_all(&mut self, sequence: &Sequence, tokens: &[u32], mut each: impl FnMut(&[f32])) -> Result<(), Error> {
        self.check(sequence, tokens)?;
        let (options, vocab) = (self.runner.plan.options, self.runner.plan.config.vocab);
        for tokens in tokens.chunks(options.n_batch.min(options.n_logits)) {
            let logits = self.step(&[Feed { sequence, tokens, rows: Rows::All }])?;
            logits.chunks_exact(vocab).for_each(&mut each);
        }
        Ok(())
    }

    fn check(&self, sequence: &Sequence, tokens: &[u32]) -> Result<(), Error> {
        let Plan { config, .. } = &self.runner.plan;
        let (position, limit) = (self.position(sequence), self.runner.cache.limit(sequence.row));
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if tokens.len() > limit.saturating_sub(position) {
            return Err(Error::PromptTooLong { tokens: position + tokens.len(), ctx: limit });
        }
        match tokens.iter().find(|&&id| id as usize >= config.vocab) {
            Some(&id) => Err(Error::UnknownToken { id, n_vocab: config.vocab }),
            None => Ok(()),
        }
    }
}

/// Runs a step over the stages that there are; `watch` hears after each step of this one which it was.
fn forward(
    runner: &mut Runner,
    chain: Option<&mut Chain>,
    batch: &[BatchToken],
    watch: impl FnMut(&Runner, usize),
) -> Result<(), Error> {
    match chain {
        None => runner.run_all(batch, watch),
        Some(chain) => chain.lead(runner, batch, watch),
    }
}

pub(crate) fn check_threads(threads: usize) -> Result<(), Error> {
    if (1..=MAX_THREADS).contains(&threads) {
        return Ok(());
    }
    Err(Error::BadOption { field: "threads", expected: format!("1 to {MAX_THREADS}"), found: threads.to_string() })
}

pub(crate) fn make_pool(threads: Option<usize>, affinity: Policy) -> Result<Pool, Error> {
    let topology = Topology::of_this_machine();
    let threads = threads.unwrap_or_else(|| topology.default_threads());
    let cpus = topology.placement(threads, affinity);
    let pin_caller = affinity != Policy::None;
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
