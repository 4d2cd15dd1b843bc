//! Flags about energy: `rin energy`, and those that other commands share with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::measure::WorkloadArgs;
use super::{MachineArgs, ModelArgs, OutputArgs, SOURCES};
use crate::values::{Positive, Power};

#[derive(Debug, Args)]
#[command(next_help_heading = "Energy")]
pub(crate) struct SensorArgs {
    /// Where the /sys and /proc of the machine are mounted, in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) sys_root: PathBuf,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Energy")]
pub(crate) struct EnergyArgs {
    /// Fail with exit code 5 where energy cannot be measured
    #[arg(long)]
    pub(crate) require_energy: bool,
    /// Where nothing is measured, estimate a range from what the machine takes: a field of its own, never a figure
    #[arg(long, value_name = "idle=W,max=W")]
    pub(crate) estimate_power: Option<Power>,
    #[command(flatten)]
    pub(crate) sensors: SensorArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES, args_conflicts_with_subcommands = true)]
pub(crate) struct EnergyCommandArgs {
    #[command(subcommand)]
    pub(crate) what: Option<EnergyCommand>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Least seconds of a window; below 2 the edges of the sensor's updates count
    #[arg(long, value_name = "SECONDS", default_value = "2", allow_negative_numbers = true)]
    pub(crate) window: Positive,
    /// Also attribute the energy to kinds of operations
    #[arg(long)]
    pub(crate) by_op: bool,
    /// Also tell the carbon of a token, at so many gCO2e per kWh
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub(crate) carbon_intensity: Option<Positive>,
    /// Carbon of making the machine, in gCO2e per hour of its life, added to that of its energy
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    pub(crate) embodied_carbon: Option<Positive>,
    /// Draw power over time and the energy of a token or an inference
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) energy: EnergyArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

impl EnergyCommandArgs {
    /// How the result is wanted.
    pub(crate) fn output(&self) -> OutputArgs {
        match &self.what {
            Some(EnergyCommand::Sensors(args)) => args.output,
            None => self.output,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnergyCommand {
    /// List the sensors of this machine, and why others are not to be had
    Sensors(SensorsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SensorsArgs {
    #[command(flatten)]
    pub(crate) sensors: SensorArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
