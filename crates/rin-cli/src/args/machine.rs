//! Flags about the machine: threads, tiers, memory.

use std::num::NonZeroUsize;

use clap::Args;
use rin_engine::LoadOptions;
use rin_engine::engine::DEFAULT_CTX;
use rin_engine::topology::Policy;
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;
use rin_model::{Mode, ModelFile};

use crate::exit::Usage;
use crate::values::{self, Bytes};

#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// Threads [default: physical cores within the processor quota and the affinity mask]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<NonZeroUsize>,
    /// The highest instruction tier to use [default: the best there is]
    #[arg(long, value_name = "TIER", value_parser = values::tier())]
    tier: Option<Tier>,
    /// How keys and values are stored [default: f32 beside F32 weights, f16 otherwise]
    #[arg(long, value_name = "TYPE", value_parser = values::kv_type())]
    kv_type: Option<KvType>,
    /// What the model computes [default: what the file says]
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    mode: Option<Mode>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// The flags of the machine that take one value even where several configurations are compared.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct PlaceArgs {
    /// Where threads are pinned
    #[arg(long, value_name = "POLICY", value_parser = values::affinity(),
        default_value = values::policy_name(LoadOptions::default().affinity))]
    affinity: Policy,
    #[arg(long, value_name = "N", allow_negative_numbers = true, help = format!("Positions of the context [default: the model's, at most {DEFAULT_CTX}]"))]
    ctx: Option<NonZeroUsize>,
    /// Most tokens of a prompt in one step
    #[arg(long, value_name = "N", default_value_t = LoadOptions::default().n_batch, allow_negative_numbers = true)]
    batch: usize,
    /// Keep the model in memory, out of reach of swapping, where the system permits it
    #[arg(long)]
    mlock: bool,
    /// Use huge pages, where the system has them
    #[arg(long)]
    huge_pages: bool,
    /// How fast this process is, among several that share a network: its share of the layers; in any unit, as the
    /// tokens/s of `rin bench` [default: all alike]
    #[arg(long, value_name = "SPEED", value_parser = values::speed())]
    pub(crate) rank_speed: Option<f64>,
    /// A memory limit beside those of the system, as 1500000000, 1500MB or 2GiB
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_limit: Option<Bytes>,
}

/// How several processes share a network.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct ShareArgs {
    /// Each of N processes has some rows of every matrix of every layer [default: each has layers of its own]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) tp: Option<NonZeroUsize>,
}

impl PlaceArgs {
    /// The engine's options, so far as these flags say them.
    pub(crate) fn load_options(&self) -> LoadOptions {
        let mut options = LoadOptions {
            affinity: self.affinity,
            ctx: self.ctx.map(NonZeroUsize::get),
            n_batch: self.batch,
            memory_limit: self.memory_limit.map(|limit| limit.0),
            ..LoadOptions::default()
        };
        options.arena.mlock = self.mlock;
        options.arena.huge_pages = self.huge_pages;
        options
    }
}

impl MachineArgs {
    /// The engine's options.
    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions {
            threads: self.threads.map(NonZeroUsize::get),
            tier: self.tier,
            kv_type: self.kv_type,
            ..self.place.load_options()
        }
    }

    /// The mode of a file's network; none where RIN does not run it.
    ///
    /// # Errors
    /// [`Usage`] where `--mode` asks for another one.
    pub(crate) fn mode(&self, file: &ModelFile) -> Result<Option<Mode>, Usage> {
        match (self.mode, file.mode()) {
            (Some(asked), Some(found)) if asked != found => {
                Err(Usage(format!("--mode {asked}: the model is of the mode {found}; leave the flag out")))
            }
            (_, found) => Ok(found),
        }
    }

    /// How fast this process is among several.
    #[cfg(feature = "mpi")]
    pub(crate) fn rank_speed(&self) -> Option<f64> {
        self.place.rank_speed
    }

    /// The mode that was asked for.
    pub(crate) fn asked_mode(&self) -> Option<Mode> {
        self.mode
    }
}
