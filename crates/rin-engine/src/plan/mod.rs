//! The plan: every step of a forward pass and every byte that it needs, known before anything is loaded.
//!
//! An architecture writes its network down with a [`Builder`]; the result is a list of [`Step`]s over [`Slot`]s. The
//! planner packs the slots into one arena by lifetime: two slots whose lifetimes do not meet may share bytes. The
//! same plan runs prefill (up to `n_batch` tokens) and decode (one token per sequence).

mod builder;
mod layout;
mod memory;
mod memory_builder;
mod slots;
mod stage;

pub use builder::{Act, Builder, QuantAct};
pub use memory::{Columns, CorrectionOf, DecayOf, Held, HeldId, MemoryStep, RecurOf, SlotsOf};
pub(crate) use memory_builder::column_block;
pub(crate) use slots::{Placed, Slots, kernel_of};
pub use stage::{Cut, LayerBytes, Stage, Width};

use crate::Error;
use crate::cache::CacheShape;
use crate::weights::{MatrixId, VectorId, WeightTable};
use rin_kernels::ops::activation::Function;
use rin_kernels::ops::attention::{KvType, PAGE};
use rin_model::{Config, ModelFile};
use serde::Serialize;

/// Sizes that the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Positions that each sequence can hold.
    pub ctx: usize,
    /// Most tokens in one step.
    pub n_batch: usize,
    /// Sequences that live at once.
    pub n_sequences: usize,
    /// Most rows of logits in one step.
    pub n_logits: usize,
    /// Positions of the KV cache that all sequences share; none: enough for every sequence to fill its context.
    pub kv_positions: Option<usize>,
    /// How keys and values are stored; none: f32 beside F32 weights, f16 otherwise.
    pub kv_type: Option<KvType>,
    /// What of the network this process has; none: all of it.
    pub stage: Option<Stage>,
}

/// A slot of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(pub(crate) usize);

/// A piece of the arena with a lifetime.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// What it holds, with its shape.
    pub name: String,
    /// Start within the arena, in bytes, a multiple of 64.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// First step that writes it; 0 for state.
    pub first_step: usize,
    /// Last step that reads it; the last step for state.
    pub last_step: usize,
    /// Whether it outlives a step of the engine: KV cache, tables.
    #[serde(skip)]
    pub state: bool,
}

/// One matrix of a linear step.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Weights.
    pub matrix: MatrixId,
    /// Bias.
    pub bias: Option<VectorId>,
    /// Applied to each output after the bias.
    pub function: Function,
    /// f32 `(tokens, stride)`, of which the columns from `first` on are the outputs.
    pub out: SlotId,
    /// The first column.
    pub first: usize,
    /// Values from one row of `out` to the next, at least the outputs.
    pub stride: usize,
}

/// Most matrices that share their input in one step: q, k and v.
pub const MAX_PARTS: usize = 3;

/// One operation over slots. All activations are row-major, one row per token.
#[derive(Clone, Debug)]
pub enum Step {
    /// Rows of the embedding: `x (tokens, dim)`.
    Embed {
        /// Embedding matrix.
        table: MatrixId,
        /// Output.
        x: SlotId,
    },
    /// `out = x` + the learned rows of the tokens' positions, `(tokens, dim)`.
    Positions {
        /// Rows by position.
        table: MatrixId,
        /// Input.
        x: SlotId,
        /// Output.
        out: SlotId,
    },
    /// Cosines and sines of the tokens' positions: `(tokens, rope dims / 2)` each.
    RopeTable {
        /// Output.
        cos: SlotId,
        /// Output.
        sin: SlotId,
    },
    /// Root-mean-square norm, then quantised as the next products ask.
    Norm {
        /// Input.
        x: SlotId,
        /// Norm weights.
        weight: VectorId,
        /// Output.
        out: Act,
    },
    /// `y (+)= x · wᵀ + bias` for up to three matrices at once.
    Linear {
        /// Input.
        x: Act,
        /// The matrices.
        parts: Vec<Part>,
        /// Whether the outputs are added to.
        add: bool,
    },
    /// Rotates q and k, and stores k and v in the cache.
    RopeStore {
        /// Queries, rotated in place.
        q: SlotId,
        /// Keys, rotated in place.
        k: SlotId,
        /// Values.
        v: SlotId,
        /// Cosines and sines; none: nothing rotates.
        angles: Option<(SlotId, SlotId)>,
        /// The layer's cache.
        kv: SlotId,
    },
    /// Attention over the cache: `out (tokens, heads × head_dim)`, then quantised.
    Attend {
        /// Queries.
        q: SlotId,
        /// The layer's cache.
        kv: SlotId,
        /// Output; its f32 slot holds the result.
        out: Act,
    },
    /// `gate = silu(gate) * up`, then quantised.
    SwiGlu {
        /// Output; its f32 slot holds the gate and takes the result.
        gate: Act,
        /// The other factor.
        up: SlotId,
    },
    /// The rows of `x` whose logits are wanted.
    Select {
        /// Input.
        x: SlotId,
        /// Output `(rows, dim)`.
        out: SlotId,
    },
    /// Columns that several processes have become whole rows. The [`chain`](crate::chain) does it.
    Gather(Gather),
    /// What layers with memories do beside products and norms.
    Memory(MemoryStep),
}

/// Columns of several processes that become whole rows.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// The columns of this process.
    pub x: Columns,
    /// Who has which.
    pub width: Width,
    /// All of them, f32 `(tokens, width.all)`; may be the slot of `x`.
    pub out: SlotId,
    /// Room for the columns that are sent and those that come, f32 `(tokens, width.most())` each.
    pub buffers: [SlotId; 2],
    /// Whether the first process alone gets them.
    pub to_first: bool,
}

impl Step {
    /// What it computes.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embedding",
            Self::Positions { .. } => "positions",
            Self::RopeTable { .. } => "rope table",
            Self::Norm { .. } => "norm",
            Self::Linear { add: false, .. } => "linear",
            Self::Linear { add: true, .. } => "linear + residual",
            Self::RopeStore { angles: Some(_), .. } => "rope and store",
            Self::RopeStore { angles: None, .. } => "store",
            Self::Attend { .. } => "attention",
            Self::SwiGlu { .. } => "swiglu",
            Self::Select { .. } => "select",
            Self::Gather { .. } => "gather",
            Self::Memory(step) => step.name(),
        }
    }

    /// The f32 slots that it writes, each with the number of values per token.
    pub fn outputs(&self, plan: &Plan) -> [Option<(SlotId, usize)>; MAX_PARTS] {
        let c = &plan.config;
        let one = |slot: SlotId, cols: usize| [Some((slot, cols)), None, None];
        match self {
            Self::Embed { x, .. } | Self::Positions { out: x, .. } | Self::Select { out: x, .. } => one(*x, c.dim),
            Self::RopeTable { cos, sin } => [Some((*cos, c.rope.dims / 2)), Some((*sin, c.rope.dims / 2)), None],
            Self::Norm { out, .. } | Self::Attend { out, .. } => one(out.x, out.cols),
            Self::SwiGlu { gate, .. } => one(gate.x, gate.cols),
            Self::Memory(step) => step.outputs(),
            Self::Gather(gather) => one(gather.out, gather.width.all),
            Self::RopeStore { q, k, .. } => {
                [Some((*q, c.n_heads * c.head_dim)), Some((*k, c.n_kv_heads * c.head_dim)), None]
            }
            Self::Linear { parts, .. } => {
                let mut outs = [None; MAX_PARTS];
                for (out, part) in outs.iter_mut().zip(parts) {
                    *out = Some((part.out, part.stride));
                }
                outs
            }
        }
    }

    /// The matrices that it multiplies with.
    pub fn matrices(&self) -> &[Part] {
        match self {
            Self::Linear { parts, .. } => parts,
            _ => &[],
        }
    }
}

/// Where a stage takes rows in and hands them on. Rows are f32 `(tokens, dim)`.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Rows from the stage before.
    pub entry: SlotId,
    /// Rows for the next stage.
    pub exit: SlotId,
    /// Steps after which the rows go on.
    pub after: usize,
    /// Messages between stages: what is to be done, and rows.
    pub message: SlotId,
}

/// A forward pass with all its bytes.
#[derive(Debug)]
pub struct Plan {
    /// The network; where ranks share its rows, with the heads and the width of the feed-forward network that this one has.
    pub config: Config,
    /// Sizes, with the KV type decided.
    pub options: PlanOptions,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Operations, in order.
    pub steps: Vec<Step>,
    /// The layer of each step; none for those before and after the layers.
    pub layers: Vec<Option<usize>>,
    /// The steps from here on run over the selected rows.
    pub head: usize,
    /// Where rows come from the stage before and go to the next one; none: the whole network is here.
    pub ports: Option<Ports>,
    /// Slots of the arena.
    pub slots: Vec<Slot>,
    /// Rotation frequencies `(rope dims / 2)`, filled at load.
    pub inv_freq: SlotId,
    /// Ids of the tokens in the cache, u32 `(pages, 64)`.
    pub page_tokens: SlotId,
    /// What each sequence holds beside pages, of the same size however long it is.
    pub held: Vec<Held>,
    /// Where the last step leaves its logits, f32 `(n_logits, vocab)`.
    pub logits: SlotId,
    /// Bytes of state: from the start of the arena.
    pub state_bytes: usize,
    /// Bytes of scratch: the rest of the arena.
    pub scratch_bytes: usize,
    /// Weights that the steps name.
    pub weights: WeightTable,
    /// Bytes that turn tokens into text and choose them, which lie on the heap; 0 where nobody makes text.
    pub vocabulary_bytes: usize,
}

impl Plan {
    /// Plans `file` from its header alone.
    ///
    /// # Errors
    ///
    /// When the network is unknown or inconsistent, an option is out of range, or a size leaves the address space.
    pub fn new(file: &ModelFile, options: PlanOptions) -> Result<Self, Error> {
        let config = file.config()?.clone();
        check_options(&config, &options)?;
        check_memory(&config, &options)?;
        options.stage.map_or(Ok(()), |stage| stage.check(&config))?;
        check_positions(&config, &options)?;
        crate::arch::plan(file, config, options)
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.state_bytes + self.scratch_bytes
    }

    /// Bytes of everything: weights, state, scratch and vocabulary.
    pub fn total_bytes(&self) -> usize {
        self.weights.bytes() + self.arena_bytes() + self.vocabulary_bytes
    }

    /// Bytes that each sequence holds in memories of a fixed size, however long it is.
    pub fn held_bytes(&self) -> usize {
        self.held.iter().map(|held| held.parts * held.bytes).sum()
    }

    /// Sizes of the KV cache.
    pub fn cache_shape(&self) -> CacheShape {
        cache_shape(&self.config, &self.options)
    }
}

/// Sizes of the KV cache: from the options, less what a sliding window never looks at.
pub(crate) fn cache_shape(config: &Config, options: &PlanOptions) -> CacheShape {
    let row_pages = if config.attends() { options.ctx.div_ceil(PAGE) } else { 0 };
    // One page more, since windows and steps do not begin where pages do.
    let of_window = |w: usize| w.saturating_add(options.n_batch).div_ceil(PAGE).saturating_add(1);
    let window_pages = config.window.map_or(row_pages, of_window).min(row_pages);
    let most = options.n_sequences.saturating_mul(window_pages);
    let pages = if row_pages == 0 { 0 } else { options.kv_positions.map_or(most, |n| n.div_ceil(PAGE)) };
    CacheShape { pages, rows: options.n_sequences, row_pages, window: config.window, window_pages }
}

/// The longest context that positions are counted for.
pub const MAX_CTX: usize = 1 << 31;

/// Whether the sums of whole numbers fit the longest text.
fn check_memory(config: &Config, options: &PlanOptions) -> Result<(), Error> {
    let longest = config.memory.iter().flatten().filter_map(rin_model::Memory::longest_text).min();
    match longest {
        Some(longest) if options.ctx > longest => Err(Error::BadOption {
            field: "ctx",
            expected: format!("at most {longest}, so that no sum leaves the whole numbers of the memory's slots"),
            found: options.ctx.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Whether each position has been learned.
fn check_positions(config: &Config, options: &PlanOptions) -> Result<(), Error> {
    if !config.learned_positions() || options.ctx <= config.ctx {
        return Ok(());
    }
    let expected = format!("at most {}, the positions that the network has learned", config.ctx);
    Err(Error::BadOption { field: "ctx", expected, found: options.ctx.to_string() })
}

fn check_options(config: &Config, o: &PlanOptions) -> Result<(), Error> {
    let check = |field: &'static str, found: usize, max: usize| {
        if (1..=max).contains(&found) {
            return Ok(());
        }
        Err(Error::BadOption { field, expected: format!("1 to {max}"), found: found.to_string() })
    };
    check("ctx", o.ctx, MAX_CTX)?;
    check("batch", o.n_batch, 1 << 20)?;
    check("sequences", o.n_sequences, 1 << 20)?;
    check("positions of the cache", o.kv_positions.unwrap_or(1), MAX_CTX)?;
    check("rows of logits", o.n_logits, 1 << 20)?;
    check("vocabulary", config.vocab, 1 << 31)
}
