//! Flags of the commands that measure and prove: `rin bench`, `rin verify`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rin_bench::Workload;
use rin_bench::report::Form;
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;

use super::{EnergyArgs, MODEL_HELP, MachineArgs, ModelArgs, OutputArgs, PlaceArgs, SOURCES, ShareArgs};
use crate::values::{self, Ids};

#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// Tokens of the prompt; 0 leaves it out
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub(crate) n_prompt: usize,
    /// Steps of generation; 0 leaves it out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, allow_negative_numbers = true)]
    pub(crate) n_gen: usize,
    /// Repetitions, interleaved over all configurations
    #[arg(short = 'r', long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    pub(crate) repetitions: usize,
}

impl WorkloadArgs {
    /// What is measured.
    pub(crate) fn workload(&self) -> Workload {
        let Self { n_prompt, n_gen, repetitions } = *self;
        Workload { n_prompt, n_gen, repetitions, ..Workload::default() }
    }
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES, args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Option<BenchCommand>,
    #[arg(value_name = "MODEL", help = MODEL_HELP)]
    pub(crate) models: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Sequences that generate at once, as 1,4,16
    #[arg(short = 'b', long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) parallel: Vec<usize>,
    /// Tokens that each sequence holds before it is measured, as 0,8192
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) depth: Vec<usize>,
    /// Threads, as 1,2 [default: physical cores within the processor quota and the affinity mask]
    #[arg(short = 't', long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) threads: Vec<NonZeroUsize>,
    /// Instruction tiers, as scalar,avx2 [default: the best there is]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::tier())]
    pub(crate) tier: Vec<Tier>,
    /// How keys and values are stored, as f32,q8 [default: f32 beside F32 weights, f16 otherwise]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::kv_type())]
    pub(crate) kv_type: Vec<KvType>,
    /// Only the rates: no further steps for percentiles, and not what the machine can do
    #[arg(long)]
    pub(crate) rates_only: bool,
    /// How the rows are written
    #[arg(short = 'o', long, value_name = "FORM", value_parser = values::form(), default_value = Form::Markdown.name())]
    pub(crate) output_format: Form,
    #[command(flatten)]
    pub(crate) energy: EnergyArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) share: ShareArgs,
}

impl BenchArgs {
    /// How the result is wanted.
    pub(crate) fn output(&self) -> OutputArgs {
        match &self.what {
            Some(BenchCommand::Compare(args)) => args.output,
            Some(BenchCommand::Profile(args)) => args.output,
            None => self.output,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Test whether two measurements differ
    Compare(CompareArgs),
    /// Attribute the time of a step to the operations of the network
    Profile(ProfileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// What `rin bench -o json` wrote before
    #[arg(value_name = "A.json")]
    pub(crate) a: PathBuf,
    /// What it wrote afterwards
    #[arg(value_name = "B.json")]
    pub(crate) b: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Also write the steps of one pass in the Trace Event Format, for Perfetto and the like
    #[arg(long, value_name = "FILE.json")]
    pub(crate) trace: Option<PathBuf>,
    /// Also draw where the time goes
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to begin with [default: 100 ids spread over the vocabulary]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Token ids in place of the prompt, as 1,2,3
    #[arg(long, value_name = "IDS", allow_negative_numbers = true)]
    pub(crate) tokens: Option<Ids>,
    /// Tokens to generate after it
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, allow_negative_numbers = true)]
    pub(crate) max_tokens: usize,
    /// Run every combination; otherwise a quarter of them, in which every pair of values occurs
    #[arg(long)]
    pub(crate) full: bool,
    /// Also show a digest of what each step of the network computes, to compare machines layer by layer
    #[arg(long)]
    pub(crate) trace: bool,
    /// Also in so many stages, each with some of the layers, as processes share a network; as 2,3
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) ranks: Vec<usize>,
    /// Also in so many shares, each with some rows of every matrix of every layer, as 2,4; over several processes the
    /// number of them, where they share rows
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) tp: Vec<NonZeroUsize>,
    /// Fail where one of these tiers is missing, as avx2,amx-int8
    #[arg(long, value_name = "TIERS", value_delimiter = ',', value_parser = values::tier())]
    pub(crate) require_tiers: Vec<Tier>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}
