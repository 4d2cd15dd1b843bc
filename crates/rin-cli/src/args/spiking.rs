//! Flags of spiking networks: what a graph in continuous time leaves open.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use rin_engine::snn::Coding;
use rin_kernels::ops::lif::Reset;

#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Spiking networks (.nir)")]
pub(crate) struct SpikingArgs {
    /// Time step of a NIR graph, in its unit of time [default: what RIN noted in it, else 0.0001]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) time_step: Option<f64>,
    /// What a spike does to the membrane [default: what RIN noted in the graph, else zero]
    #[arg(long, value_name = "RESET", value_enum)]
    pub(crate) reset: Option<ResetName>,
    /// How rows become spikes [default: spikes, that is the rows are trains]
    #[arg(long, value_name = "CODING", value_enum)]
    pub(crate) coding: Option<CodingName>,
    /// Time steps per row, where the rows are no trains
    #[arg(long, value_name = "N")]
    pub(crate) time_steps: Option<NonZeroUsize>,
    /// Factor that brings the values of a row to at most 1
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) input_scale: f32,
    /// Seed of the rate code
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) spike_seed: u64,
}

/// `--reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResetName {
    /// To 0, which is what NIR means
    Zero,
    /// By the threshold: what lies above it stays
    Subtract,
}

/// `--coding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodingName {
    /// The rows are trains of 0 and 1
    Spikes,
    /// A constant current in proportion to the value
    Direct,
    /// A spike per step with the value as probability
    Rate,
    /// One spike, the earlier the larger the value
    Latency,
}

impl From<ResetName> for Reset {
    fn from(name: ResetName) -> Self {
        match name {
            ResetName::Zero => Self::Zero,
            ResetName::Subtract => Self::Subtract,
        }
    }
}

impl SpikingArgs {
    /// The coding that was asked for.
    pub(crate) fn coding(&self) -> Coding {
        let scale = self.input_scale;
        match self.coding.unwrap_or(CodingName::Spikes) {
            CodingName::Spikes => Coding::Spikes,
            CodingName::Direct => Coding::Direct { scale },
            CodingName::Rate => Coding::Rate { scale, seed: self.spike_seed },
            CodingName::Latency => Coding::Latency { scale },
        }
    }
}
