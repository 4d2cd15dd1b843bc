//! The `rin` command: text from model files, on the processor.
//!
//! One list of flags (`args`) with its variables and configuration files (`config_file`); one module per command.
//! Results go to standard output, everything else to standard error; `exit` turns failures into exit codes. A library, so
//! that the Python package can be the same command.

mod args;
mod bench;
mod completions;
mod config_file;
mod doctor;
mod energy;
mod eval;
mod exit;
mod export;
mod import;
mod inspect;
mod interrupt;
mod json;
mod lab;
mod model_path;
mod network;
mod npy;
mod output;
mod plan_cluster;
mod progress;
mod ranks;
mod report;
mod rows;
mod run;
mod snn;
mod tokens;
mod train;
mod values;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use rin_cluster::Ranks;

/// Does what a command line says; its first word is the name of the program. Handles interrupts of the process where it
/// runs something that takes time; joins the other processes where a launcher of MPI programs has started several.
pub fn run_command(arguments: Vec<OsString>) -> ExitCode {
    ranks::run(arguments).into()
}

/// Does a command as the only process, or as the first of several.
fn command(command: &args::Command, ranks: &Arc<Ranks>) -> anyhow::Result<()> {
    ranks::check_command(command, ranks)?;
    match command {
        args::Command::Run(args) => run::run(args, ranks),
        args::Command::Tokens(args) => tokens::tokens(args),
        args::Command::Inspect(args) => inspect::inspect(args),
        args::Command::Import(args) => import::import(args),
        args::Command::Export(args) => export::export(args),
        args::Command::Eval(args) => eval::eval(args, ranks),
        args::Command::Bench(args) => bench::bench(args, ranks),
        args::Command::Energy(args) => energy::energy(args),
        args::Command::Verify(args) => verify::verify(args, ranks),
        args::Command::PlanCluster(args) => plan_cluster::plan_cluster(args),
        args::Command::Train(args) => train::train(args),
        args::Command::Lab(args) => lab::lab(args),
        args::Command::Doctor(args) => doctor::doctor(args),
        args::Command::Completions(args) => completions::completions(args),
    }
}
