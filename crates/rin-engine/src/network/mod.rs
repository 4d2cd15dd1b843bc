//! Networks from rows of numbers to rows of numbers: the modes that continue no text.
//!
//! A file that describes a [`rin_model::Network`] is loaded into a [`NetworkEngine`]. Rows of its named inputs go in, rows
//! of its named outputs come out; nothing allocates after [`NetworkEngine::load`], and a row's bits are the same on every
//! tier, for any number of threads and whatever rows stand beside it. [`plan`] turns the description into steps over
//! slots, with the plan, weights, arena, workers and kernels that the decoders have too.
//!
//! A row may hold sequences. Their positions lie one after the other, without padding between: what does not count costs
//! nothing.

mod attention;
mod inputs;
pub mod integer;
pub mod plan;
mod run;
pub mod sequence;
pub mod spiking;
pub mod verify;
pub mod whole;
mod whole_run;

pub use inputs::{Domain, rows_at_once};
pub use plan::NetworkPlan;

use crate::arena::Arena;
use crate::digest::LogitDigest;
use crate::engine::make_pool;
use crate::pool::Pool;
use crate::run::Kernels;
use crate::snn::{Activity, Counts, SnnError};
use crate::topology::Policy;
use crate::weights::Weights;
use crate::{Error, LoadOptions};
use inputs::Spans;
use rin_kernels::ops::attention::KvType;
use rin_kernels::{Cpu, Tier};
use rin_model::{ModelFile, Output, Port};

/// Rows that are not those that a network takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The file's network continues text.
    #[error("the model takes text, not rows of numbers; give a prompt: `rin run MODEL -p TEXT`")]
    TakesText,
    /// A spiking network that contradicts itself.
    #[error(transparent)]
    Spiking(Box<SnnError>),
    /// Another number of inputs than the network has.
    #[error("{found} inputs were given, the network takes {expected}")]
    InputCount {
        /// Inputs that were given.
        found: usize,
        /// Inputs of the network.
        expected: usize,
    },
    /// An input of sequences with another number of positions than those before it, or with too many.
    #[error(
        "input '{name}' has {found} values in {rows} rows, which are not {}{} positions of {unit} values",
        if *.exact { "" } else { "1 to " },
        positions
    )]
    SequenceSize {
        /// Name of the input.
        name: String,
        /// Values that were given.
        found: usize,
        /// Rows.
        rows: usize,
        /// Positions that are possible.
        positions: usize,
        /// Whether an input before it had as many.
        exact: bool,
        /// Values at a position.
        unit: usize,
    },
    /// A length that is no number of positions.
    #[error("the length of row {row} is {found}; it is a whole number from 0 (all positions) to {most}")]
    Length {
        /// Which row.
        row: usize,
        /// Its length.
        found: String,
        /// Positions in the row.
        most: usize,
    },
    /// A node in integers whose numbers could make a sum wrap.
    #[error("`{tensor}` holds numbers that no network in integers has; the file is damaged: import the network again")]
    UnsoundTensor {
        /// Name of the tensor.
        tensor: String,
    },
    /// A layer in integers whose sums could wrap.
    #[error("layer {layer} has numbers that no integer layer has; the file is damaged: import the network again")]
    UnsoundLayer {
        /// Which layer.
        layer: usize,
    },
    /// An id without a row in its table.
    #[error("input '{name}' has {found} in row {row}; the ids are whole numbers from 0 to {}", ids - 1)]
    Id {
        /// Name of the input.
        name: String,
        /// Which row.
        row: usize,
        /// The number.
        found: String,
        /// Rows of the table.
        ids: usize,
    },
    /// An input whose values are no whole rows.
    #[error("input '{name}' has {found} values, but {rows} rows of {width} are {}", rows.saturating_mul(*width))]
    InputSize {
        /// Name of the input.
        name: String,
        /// Values that were given.
        found: usize,
        /// Rows.
        rows: usize,
        /// Values in a row.
        width: usize,
    },
    /// An index that a row of inputs asks for, and that the array it is looked up in does not have.
    #[error("a row asks for element {found} of {size}: give indices from {} to {}", -size.cast_signed(), size.saturating_sub(1))]
    Index {
        /// The index.
        found: i64,
        /// Elements along the axis.
        size: usize,
    },
}

/// A network in memory, ready to run. Nothing allocates after [`NetworkEngine::load`].
#[derive(Debug)]
pub struct NetworkEngine {
    plan: NetworkPlan,
    weights: Weights,
    arena: Arena,
    pool: Pool,
    kernels: Kernels,
    tier: Tier,
    /// Rows and positions of the last run.
    spans: Spans,
    /// What the last run of a spiking network took, worker by worker.
    counts: Vec<Counts>,
}

impl NetworkEngine {
    /// Plans for up to [`LoadOptions::n_batch`] rows at once, of sequences of at most [`LoadOptions::ctx`] positions,
    /// checks that the plan fits, and loads; `progress` hears, tensor by tensor, how many more bytes of weights are ready.
    ///
    /// # Errors
    ///
    /// When the file holds no such network or is damaged, an option is out of range, or the plan does not fit.
    pub fn load(file: ModelFile, options: &LoadOptions, progress: impl FnMut(usize)) -> Result<Self, Error> {
        let mut plan = NetworkPlan::limited(&file, options.n_batch, options.ctx)?;
        options.admit_bytes(plan.total_bytes() as u64)?;
        let cpu = options.tier.map_or_else(Cpu::detect, |tier| Cpu::detect().up_to(tier));
        let mut pool = make_pool(options.threads, options.affinity)?;
        let arena_bytes = plan.arena_bytes();
        let (weights, mut arena) =
            Weights::load_with_arena(file, &mut plan.weights, arena_bytes, options.arena, &mut pool, progress)?;
        integer::check_sound(&plan, &weights)?;
        crate::graph::make_ready(&plan, &weights, &mut arena)?;
        spiking::make_ready(&plan, &weights, &mut arena)?;
        whole::check_sound(&plan, &weights)?;
        let kernels = Kernels::select(KvType::F32, &cpu);
        let spans = Spans::new(&plan);
        let counts = vec![Counts::ZERO; spiking::spiking_step(&plan).map_or(0, spiking::SpikingStep::units)];
        Ok(Self { plan, weights, arena, pool, kernels, tier: cpu.best(), spans, counts })
    }

    /// The plan that is held.
    pub fn plan(&self) -> &NetworkPlan {
        &self.plan
    }

    /// The file that the weights came from.
    pub fn file(&self) -> &ModelFile {
        self.weights.file()
    }

    /// The inputs, in the order in which [`run`](Self::run) takes them.
    pub fn inputs(&self) -> &[Port] {
        &self.plan.network.inputs
    }

    /// The outputs, in the order in which [`output`](Self::output) counts them.
    pub fn outputs(&self) -> &[Output] {
        &self.plan.network.outputs
    }

    /// Which numbers an input takes.
    ///
    /// # Panics
    ///
    /// When there is no such input.
    pub fn domain(&self, input: usize) -> Domain {
        self.plan.domains[input]
    }

    /// Positions and values at each, of a row of an output of the last [`run`](Self::run); the most before one.
    ///
    /// # Panics
    ///
    /// When there is no such output.
    pub fn output_shape(&self, output: usize) -> [usize; 2] {
        let plan::OutputSlot { width, positions, .. } = self.plan.outputs[output];
        [self.spans.padded_positions(positions), width]
    }

    /// Values in a row of an output, as [`output_shape`](Self::output_shape) has them.
    ///
    /// # Panics
    ///
    /// When there is no such output.
    pub fn output_width(&self, output: usize) -> usize {
        let [positions, width] = self.output_shape(output);
        positions * width
    }

    /// Most rows of one [`run`](Self::run).
    pub fn max_rows(&self) -> usize {
        self.plan.n_rows
    }

    /// The highest tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Workers, the caller among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// How many of the workers take part from now on, at least one; the bits stay.
    pub fn set_active_threads(&mut self, threads: usize) {
        self.pool.set_active(threads);
    }

    /// What the system did not grant: pins, huge pages.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.pool.notes().iter().chain(self.arena.notes()).chain(self.weights.notes()).map(String::as_str)
    }

    /// Runs on other threads or another tier from now on: the bits stay.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] for a number of threads out of range; when threads cannot be started.
    pub fn reconfigure(&mut self, tier: Tier, threads: usize, affinity: Policy) -> Result<(), Error> {
        let cpu = Cpu::detect().up_to(tier);
        if threads != self.threads() {
            crate::engine::check_threads(threads)?;
            self.pool = make_pool(Some(threads), affinity)?;
        }
        self.kernels = Kernels::select(KvType::F32, &cpu);
        self.tier = cpu.best();
        Ok(())
    }

    /// Computes the outputs of `rows` rows; `inputs` has the values of each input, `(rows, width)`, in the order of
    /// [`inputs`](Self::inputs). Sequences may have fewer positions than their most, all as many; an empty slice leaves
    /// an optional input out. Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] for inputs that are not those of the network; [`Error::StepTooLarge`] for more rows than were
    /// planned for. Nothing is computed then.
    pub fn run(&mut self, inputs: &[&[f32]], rows: usize) -> Result<(), Error> {
        self.run_from(0, inputs, rows)
    }

    /// As [`run`](Self::run) for rows of which the first is number `first` of all: a spiking network whose inputs are
    /// rates draws for (seed, number of the row, step, input). For all other networks a row's bits do not depend on it.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_from(&mut self, first: usize, inputs: &[&[f32]], rows: usize) -> Result<(), Error> {
        self.spans.clear();
        if rows > self.plan.n_rows {
            return Err(Error::StepTooLarge { what: "rows", found: rows, most: self.plan.n_rows });
        }
        self.spans.read(&self.plan, inputs, rows)?;
        let done = if rows > 0 { self.forward(first, inputs) } else { Ok(()) };
        if done.is_err() {
            self.spans.clear();
        }
        done
    }

    /// The values of an output of the last [`run`](Self::run), `(rows, positions, width)`; empty after one that failed.
    /// Positions that do not count are zeros.
    ///
    /// # Panics
    ///
    /// When there is no such output.
    pub fn output(&self, output: usize) -> &[f32] {
        let slot = &self.plan.slots[self.plan.outputs[output].slot.0];
        let bytes = self.spans.count() * self.output_width(output) * 4;
        let bytes = self.arena.bytes().get(slot.offset..slot.offset + bytes).unwrap_or_default();
        // Slots begin at multiples of 64 bytes.
        crate::arena::cast(bytes).unwrap_or_default()
    }

    /// What the last [`run`](Self::run) of a spiking network took; none for other networks.
    pub fn activity(&self) -> Option<Activity> {
        spiking::spiking_step(&self.plan).map(|step| Activity::of(&self.counts, step.network().layers.len()))
    }

    /// Adds the outputs of the last [`run`](Self::run) to a digest, row by row, so that it does not depend on how rows
    /// were cut into runs. Allocates nothing.
    pub fn digest(&self, digest: &mut LogitDigest) {
        for row in 0..self.spans.count() {
            for output in 0..self.plan.outputs.len() {
                let width = self.output_width(output);
                digest.update(&self.output(output)[row * width..][..width]);
            }
        }
    }
}
