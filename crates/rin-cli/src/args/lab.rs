//! Flags of `rin lab`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{OutputArgs, SOURCES};

#[derive(Debug, Args)]
#[command(after_help = SOURCES, args_conflicts_with_subcommands = true)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    pub(crate) what: Option<LabCommand>,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl LabArgs {
    /// How the result is wanted.
    pub(crate) fn output(&self) -> OutputArgs {
        match &self.what {
            Some(LabCommand::Run(args)) => args.output,
            Some(LabCommand::Report(args)) => args.output,
            Some(LabCommand::Validate(args)) => args.output,
            None => self.output,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Where raw results are stored, one file per experiment
    #[arg(long, value_name = "DIR", default_value = "docs/research/results")]
    pub(crate) results: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Run an experiment, or go on with it
    Run(LabRunArgs),
    /// Write the pages of all experiments from their results
    Report(LabReportArgs),
    /// Run the eight tests of the validation suite
    Validate(LabValidateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LabRunArgs {
    /// The experiments, as `rin lab` lists them
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// The version of minutes, which gives no verdict
    #[arg(long)]
    pub(crate) quick: bool,
    /// Begin anew instead of going on with stored results
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Only the cases whose names contain this, so that an experiment can be run in parts
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) only: String,
    /// Texts, clouds of points and other data that are no part of the repository
    #[arg(long, value_name = "DIR", default_value = "../shared/data")]
    pub(crate) data: PathBuf,
    /// A Python interpreter with the packages of conformance/requirements-lab.txt, to compare with others' programs
    #[arg(long, value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LabReportArgs {
    /// Where the pages are written
    #[arg(long, value_name = "DIR", default_value = "docs/research")]
    pub(crate) docs: PathBuf,
    /// Also put the summary table between its marks in this file, which lies beside the folder `docs`
    #[arg(long, value_name = "FILE.md")]
    pub(crate) readme: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) results: ResultsArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LabValidateArgs {
    /// Fewer steps, ways to compute and windows of energy, and a shorter text
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seconds over which heat is watched, at least 10
    #[arg(long, value_name = "SECONDS", default_value_t = 60, allow_negative_numbers = true)]
    pub(crate) heat_seconds: u64,
    /// Where the /sys and /proc of the machine are mounted, in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) sys_root: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
