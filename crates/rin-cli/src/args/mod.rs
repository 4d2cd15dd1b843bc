//! The list of all commands and flags; help, completions, variables and configuration keys derive from it.

mod energy;
mod generation;
mod lab;
mod machine;
mod measure;
mod spiking;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use rin_kernels::Format;
use rin_model::Mode;

pub(crate) use energy::{EnergyArgs, EnergyCommand, EnergyCommandArgs, SensorArgs, SensorsArgs};
pub(crate) use generation::{ContextArgs, GuessArgs, SamplingArgs};
pub(crate) use lab::LabArgs;
#[cfg(feature = "lab")]
pub(crate) use lab::{LabCommand, LabReportArgs, LabRunArgs, LabValidateArgs};
pub(crate) use machine::{MachineArgs, PlaceArgs, ShareArgs};
pub(crate) use measure::{BenchArgs, BenchCommand, CompareArgs, ProfileArgs, VerifyArgs};

pub(crate) use spiking::SpikingArgs;

use crate::config_file::ConfigFiles;
use crate::values::{self, Ids, NamedFile, NamedSize};

const SOURCES: &str = "\
Every flag --some-name can also be given as the variable RIN_SOME_NAME, as `some-name = …` in ./rin.toml or in \
the user's rin/config.toml, at the top or in a table named after the command. A flag counts before a variable, a \
variable before ./rin.toml, that before the user's file.";

/// What MODEL may be.
const MODEL_HELP: &str = if cfg!(feature = "embedded") {
    "A .gguf, .rin or .safetensors file, a Hugging Face folder, or a name in the local cache (org/name[/FILE]) \
     [default: the model inside the binary]"
} else {
    "A .gguf, .rin or .safetensors file, a Hugging Face folder, or a name in the local cache (org/name[/FILE])"
};

/// Runs language models on the processor: same bits on every machine, every byte planned.
#[derive(Debug, Parser)]
#[command(name = "rin", version, arg_required_else_help = true, after_help = SOURCES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate text
    Run(Box<RunArgs>),
    /// Show the token ids of a text, or the text of ids
    Tokens(TokensArgs),
    /// Show what a model file holds
    Inspect(InspectArgs),
    /// Write a model as .rin
    Import(ImportArgs),
    /// Write a model as a GGUF file or a Hugging Face folder
    Export(ExportArgs),
    /// Measure how well a model predicts a text, and how far it is from a reference
    Eval(EvalArgs),
    /// Predict what a network takes over hosts that share it
    PlanCluster(PlanClusterArgs),
    /// Train a network that rin runs
    Train(TrainArgs),
    /// Measure speed and memory, or compare two measurements
    Bench(Box<BenchArgs>),
    /// Measure the energy of a token or an inference, or list the sensors of this machine
    Energy(Box<EnergyCommandArgs>),
    /// Prove that the logits are the same bits in every way to compute them
    Verify(VerifyArgs),
    /// List the research experiments, run one, write their pages
    Lab(Box<LabArgs>),
    /// Show what this machine offers and what stands in the way
    Doctor(DoctorArgs),
    /// Write the completions of a shell
    Completions(CompletionsArgs),
}

impl Command {
    /// How the result is wanted.
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Run(args) => args.output,
            Self::Tokens(args) => args.output,
            Self::Inspect(args) => args.output,
            Self::Import(args) => args.output,
            Self::Export(args) => args.output,
            Self::Eval(args) => args.output,
            Self::Bench(args) => args.output(),
            Self::Energy(args) => args.output(),
            Self::Verify(args) => args.output,
            Self::PlanCluster(args) => args.output,
            Self::Train(args) => args.output,
            Self::Lab(args) => args.output(),
            Self::Doctor(args) => args.output,
            Self::Completions(args) => args.output,
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Write one JSON object to standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress and no summary on standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    #[arg(value_name = "MODEL", help = MODEL_HELP)]
    pub(crate) model: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to continue; without it, standard input less its last line end. '' begins a text
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Token ids in place of the prompt, as 1,2,3
    #[arg(long, value_name = "IDS", allow_negative_numbers = true)]
    pub(crate) tokens: Option<Ids>,
    /// No beginning-of-text token before the prompt
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Write the logits of every generated token, f32 (n_tokens, n_vocab)
    #[arg(long, value_name = "FILE.npy")]
    pub(crate) logits: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) spiking: SpikingArgs,
    /// Keep the mean power at so many watts, with rests between the tokens, or between batches of rows
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub(crate) power_budget: Option<f64>,
    #[command(flatten)]
    pub(crate) energy: EnergyArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) guess: GuessArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) share: ShareArgs,
}

/// The flags of networks from rows of numbers to rows of numbers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Networks on rows of numbers")]
pub(crate) struct NetworkArgs {
    /// Rows of an input, as .npy, .csv or bytes (.bin, .raw), or spike trains (rows, steps, inputs); NAME where the network has several. May be repeated
    #[arg(long, value_name = "[NAME=]FILE")]
    pub(crate) input: Vec<NamedFile>,
    /// Write an output as f32 (rows, width), NAME where the network has several; all of them to a .npz. May be repeated
    #[arg(id = "rows_output", long = "output", value_name = "[NAME=]FILE.npy|FILE.npz")]
    pub(crate) to: Vec<NamedFile>,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct TokensArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to encode; without it, standard input less its last line end
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Encode each line of a file
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// Decode token ids, as 1,2,3
    #[arg(long, value_name = "IDS")]
    pub(crate) decode: Option<Ids>,
    /// No beginning- and end-of-text tokens around the text
    #[arg(long)]
    pub(crate) no_special: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Show every byte that a run would take, without loading the model
    #[arg(long)]
    pub(crate) plan: bool,
    /// Show the plan of each of N processes that share the layers out among them
    #[arg(long, value_name = "N", requires = "plan")]
    pub(crate) ranks: Option<u16>,
    /// Show the plan of each of N processes that share the rows of every layer
    #[arg(long, value_name = "N", requires = "plan")]
    pub(crate) tp: Option<u16>,
    /// List the tensors
    #[arg(long)]
    pub(crate) tensors: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct ImportArgs {
    /// A .gguf file, a Hugging Face folder, a PyTorch or safetensors file of weights, an .onnx file, a file of RIN's
    /// first generation, a .nir file, or a name in the local cache (org/name[/FILE])
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The .rin file to write
    #[arg(short = 'o', long = "output", value_name = "FILE", required = true)]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) spiking: SpikingArgs,
    /// Convert the matrices that are stored as floats [default: keep all types]
    #[arg(long, value_name = "TYPE", value_parser = values::quant(), ignore_case = true)]
    pub(crate) quant: Option<Format>,
    /// What the network becomes: `rin` one in integers, from input to output [default: the mode of the source]
    #[arg(long, value_name = "MODE", value_parser = values::import_mode(), ignore_case = true, requires = "calibrate")]
    pub(crate) mode: Option<Mode>,
    /// Rows of the network's input, as .npy or .csv: integers find their scales with them, and the report tells what the
    /// conversion cost
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate: Option<PathBuf>,
    /// What the tensors of a PyTorch or safetensors file make: layers, activation functions, outputs (see
    /// docs/network.md)
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) network: Option<PathBuf>,
    /// A size that an .onnx file leaves open; can be repeated
    #[arg(long, value_name = "NAME=SIZE")]
    pub(crate) dim: Vec<NamedSize>,
    /// Replace the file if there is one
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct ExportArgs {
    /// A .rin or .gguf file, a Hugging Face folder, or a name in the local cache (org/name[/FILE])
    #[arg(value_name = "FILE")]
    pub(crate) source: PathBuf,
    /// The .gguf file to write, or the folder; the .nir file of a spiking network
    #[arg(short = 'o', long = "output", value_name = "X.gguf|X.nir|DIR", required = true)]
    pub(crate) to: PathBuf,
    /// The time step of a .nir file, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1e-4, allow_negative_numbers = true)]
    pub(crate) dt: f64,
    /// Type in a folder of the matrices that are stored quantised [default: F32]
    #[arg(long, value_name = "TYPE", value_parser = values::export_dtype(), ignore_case = true)]
    pub(crate) dtype: Option<Format>,
    /// Write the model without its tokenizer
    #[arg(long)]
    pub(crate) without_tokenizer: bool,
    /// Replace the file, or the folder of an earlier export
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The text to predict, UTF-8
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) text: PathBuf,
    /// Compare the distributions with those of this model, which has to have the same tokenizer
    #[arg(long, value_name = "MODEL2")]
    pub(crate) reference: Option<PathBuf>,
    /// Read no more than N tokens of the text
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) max_tokens: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) share: ShareArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct PlanClusterArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The hosts, with what was measured on one of each kind, and the link between them: a TOML file (see docs/cluster.md)
    #[arg(long, value_name = "FILE.toml", required = true)]
    pub(crate) hosts: PathBuf,
    /// Sequences that generate at once
    #[arg(short = 'b', long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) parallel: usize,
    /// Tokens of the prompt
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub(crate) n_prompt: usize,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct TrainArgs {
    /// What to train, on what, and how: a TOML file (see docs/train.md)
    #[arg(value_name = "CONFIG.toml")]
    pub(crate) config: PathBuf,
    /// Go on from the last checkpoint
    #[arg(long)]
    pub(crate) resume: bool,
    /// Draw the losses as SVG when the training ends
    #[arg(long)]
    pub(crate) plot: bool,
    /// Replace the results of an earlier training
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) sensors: SensorArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = SOURCES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The variable of a flag.
pub(crate) fn variable(long: &str) -> String {
    format!("RIN_{}", long.to_uppercase().replace('-', "_"))
}

/// Options that flags have other words for than the libraries.
const FLAGS: &[(&str, &str)] = &[("sequences", "parallel")];

/// The long name of the flag that sets an option of the libraries, if one does.
pub(crate) fn flag_of(field: &str) -> Option<String> {
    let renamed = FLAGS.iter().find(|(option, _)| *option == field).map(|(_, flag)| (*flag).to_owned());
    let name = renamed.unwrap_or_else(|| field.replace('_', "-"));
    let mut flags = bare_command();
    let known = flags.get_subcommands_mut().any(|sub| sub.get_arguments().any(|arg| arg.get_long() == Some(&name)));
    known.then_some(name)
}

/// All commands and flags, without variables and configuration.
pub(crate) fn bare_command() -> clap::Command {
    Cli::command()
}

/// All commands and flags, each flag with its variable and the value that configuration files give it.
fn command(config: &ConfigFiles) -> clap::Command {
    bare_command().mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        with_sources(sub, &name, config)
    })
}

/// Gives the flags of a command, and of those below it, their variables and configured values.
fn with_sources(command: clap::Command, name: &str, config: &ConfigFiles) -> clap::Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        let arg = match config.values(name, &long) {
            Some(values) => arg.required(false).default_values(values.to_vec()),
            None => arg,
        };
        let switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let arg = if switch { arg.value_parser(BoolishValueParser::new()) } else { arg };
        arg.env(variable(&long)).hide_env(true)
    });
    command.mut_subcommands(|sub| with_sources(sub, name, config))
}

/// What is wrong with a command line, or help in its place.
#[derive(Debug)]
pub(crate) enum ParseError {
    /// A configuration file is damaged.
    Config(anyhow::Error),
    /// The flags cannot be done; or they ask for help, or for the version.
    Usage(Box<clap::Error>),
}

/// Whether a command line asks for JSON, as far as that can be told before it is read.
pub(crate) fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// Reads configuration files, variables and flags.
///
/// # Errors
/// What [`exit`](crate::exit) reports.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Command, ParseError> {
    let config = ConfigFiles::read(&bare_command()).map_err(ParseError::Config)?;
    command(&config)
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches)?.command.settle(&matches))
        .map_err(|error| ParseError::Usage(Box::new(error)))
}

impl Command {
    /// Of flags that exclude each other, keeps the one with the strongest source.
    fn settle(mut self, matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Some((_, matches)) = matches.subcommand() else { return Ok(self) };
        match &mut self {
            Self::Run(args) => {
                match strongest(matches, &["prompt", "tokens"])? {
                    Some("tokens") => args.prompt = None,
                    _ => args.tokens = None,
                }
                let kept = strongest(matches, &["lookup", "draft"])?;
                args.guess.lookup &= kept == Some("lookup");
                args.guess.draft = args.guess.draft.take().filter(|_| kept == Some("draft"));
            }
            Self::Verify(args) => match strongest(matches, &["prompt", "tokens"])? {
                Some("tokens") => args.prompt = None,
                _ => args.tokens = None,
            },
            Self::Tokens(args) => {
                let kept = strongest(matches, &["prompt", "file", "decode"])?;
                args.prompt = args.prompt.take().filter(|_| kept == Some("prompt"));
                args.file = args.file.take().filter(|_| kept == Some("file"));
                args.decode = args.decode.take().filter(|_| kept == Some("decode"));
            }
            _ => {}
        }
        Ok(self)
    }
}

/// The one of some flags that comes from the strongest source; two from the same source are an error.
fn strongest<'a>(matches: &ArgMatches, flags: &[&'a str]) -> Result<Option<&'a str>, clap::Error> {
    let source = |flag: &str| -> Option<ValueSource> { matches.value_source(flag) };
    let best = flags.iter().filter_map(|flag| source(flag)).max();
    let mut found = flags.iter().filter(|flag| best.is_some() && source(flag) == best);
    let first = found.next().copied();
    if let (Some(a), Some(b)) = (first, found.next()) {
        let message = format!("--{a} and --{b} exclude each other: give one of them");
        return Err(bare_command().error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_flags_is_consistent() {
        bare_command().debug_assert();
    }

    #[test]
    fn every_command_takes_json_and_quiet() {
        for sub in bare_command().get_subcommands() {
            for long in ["json", "quiet"] {
                assert!(sub.get_arguments().any(|arg| arg.get_long() == Some(long)), "{} --{long}", sub.get_name());
            }
        }
    }
}
