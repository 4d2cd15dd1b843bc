//! One command line over several processes, which a launcher of MPI programs starts (feature `mpi`).
//!
//! The first process leads: it does the command as if it were alone, and prints. The others read the same command line for
//! what each decides for itself (the file, threads, tier, limits) and do what the first one says, in silence. All end with
//! one exit code.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Result;
use rin_cluster::Ranks;

use crate::args::{self, BenchCommand, Command};
use crate::exit::{self, Usage};

/// Does what a command line says; returns the exit code.
#[cfg(not(feature = "mpi"))]
pub(crate) fn run(arguments: Vec<OsString>) -> u8 {
    alone(arguments)
}

/// Does what a command line says, as one of several processes where a launcher has started them; returns the exit code.
#[cfg(feature = "mpi")]
pub(crate) fn run(arguments: Vec<OsString>) -> u8 {
    match rin_cluster::mpi::join() {
        Ok(Some(process)) if process.world().size() > 1 => several::run(arguments, &process),
        // Without others it is alone, and still ends as the launcher expects.
        Ok(_process) => alone(arguments),
        Err(reason) => exit::report(&anyhow::Error::msg(reason), args::wants_json(&arguments)),
    }
}

fn alone(arguments: Vec<OsString>) -> u8 {
    lead(arguments, |command| Ok(Ranks::alone().sharing_rows(tp(command, false)))).0
}

/// How many processes share the rows of each layer.
fn tp(command: Option<&Command>, several: bool) -> usize {
    let asked = match command {
        Some(Command::Run(args)) => args.share.tp,
        Some(Command::Eval(args)) => args.share.tp,
        Some(Command::Bench(args)) => args.share.tp,
        // One process goes through all numbers by itself.
        Some(Command::Verify(args)) if several => args.tp.first().copied(),
        _ => None,
    };
    asked.map_or(1, NonZeroUsize::get)
}

/// Does a command line as the first process. `gather` hears whether it can be done, and gives the others.
fn lead(
    arguments: Vec<OsString>,
    gather: impl FnOnce(Option<&Command>) -> Result<Ranks>,
) -> (u8, Option<Arc<Ranks>>, bool) {
    let wants_json = args::wants_json(&arguments);
    let parsed = args::parse(arguments);
    let wants_json = parsed.as_ref().map_or(wants_json, |command| command.output().json);
    let ranks = match gather(parsed.as_ref().ok()) {
        Ok(ranks) => Arc::new(ranks),
        Err(error) => return (exit::report(&error, wants_json), None, wants_json),
    };
    let code = match parsed {
        Err(error) => exit::report_parse(&error, wants_json),
        Ok(command) => match crate::command(&command, &ranks) {
            Ok(()) => 0,
            Err(error) => exit::report(&error, wants_json),
        },
    };
    (code, Some(ranks), wants_json)
}

/// Refuses commands that are of one process where there are several, and several where this build knows of none.
///
/// # Errors
/// [`Usage`].
pub(crate) fn check_command(command: &Command, ranks: &Ranks) -> Result<()> {
    let runs = matches!(command, Command::Run(_) | Command::Eval(_) | Command::Bench(_) | Command::Verify(_));
    if runs && !cfg!(feature = "mpi") && rin_cluster::launched_size().is_some_and(|n| n > 1) {
        let text = "a launcher of MPI programs has started several processes, and this build of rin cannot reach the \
                    others: build it with --features mpi";
        return Err(Usage(text.to_owned()).into());
    }
    let compares = matches!(command, Command::Bench(args) if matches!(args.what, Some(BenchCommand::Compare(_))));
    if ranks.several() && (!runs || compares) {
        return Err(Usage("over several ranks there are rin run, bench, verify and eval".to_owned()).into());
    }
    ranks.check()?;
    Ok(())
}

/// Refuses what is computed in one process.
///
/// # Errors
/// [`Usage`] where there are several.
pub(crate) fn refuse_ranks(ranks: &Ranks) -> Result<(), Usage> {
    if !ranks.several() {
        return Ok(());
    }
    Err(Usage("only text that a network continues is computed over several ranks: start one process".to_owned()))
}

#[cfg(feature = "mpi")]
mod several {
    use std::path::PathBuf;
    use std::sync::Arc;

    use rin_cluster::energy::{self, HostEnergy};
    use rin_cluster::mpi::Process;
    use rin_cluster::{Failure, Follower, Hello, LoadOrder, Program, Ranks, World};
    use rin_energy::Reading;
    use rin_engine::LoadOptions;
    use rin_kernels::Tier;
    use rin_model::ModelFile;

    use super::{Command, OsString, Result, Usage, args, exit, lead, tp};
    use crate::args::{MachineArgs, ModelArgs};
    use crate::energy::Gauge;
    use crate::model_path;

    /// Does a command line as one of several processes.
    pub(super) fn run(arguments: Vec<OsString>, process: &Process) -> u8 {
        let world = process.world();
        if world.rank() > 0 {
            return match follow(arguments, &world) {
                Ok(code) => code,
                // There is nobody to tell it.
                Err(error) => exit::report(&error, false),
            };
        }
        let hello = |command: Option<&Command>| hello(world.as_ref(), command.and_then(speed), None);
        let gather = |command: Option<&Command>| {
            Ok(Ranks::gather(Arc::clone(&world), hello(command))?.sharing_rows(tp(command, true)))
        };
        let (code, ranks, wants_json) = lead(arguments, gather);
        let Some(ranks) = ranks else { return code };
        match ranks.end(code) {
            Ok((code, None)) => code,
            Ok((_, Some(failure))) => exit::report(
                &rin_engine::Error::from(rin_engine::chain::ChainError::Failed(failure)).into(),
                wants_json,
            ),
            Err(error) => exit::report(&error.into(), wants_json),
        }
    }

    fn follow(arguments: Vec<OsString>, world: &Arc<dyn World>) -> Result<u8> {
        let parsed = args::parse(arguments);
        let mut failure =
            parsed.as_ref().err().and_then(|error| exit::parse_failure(error, world.rank(), world.host()));
        // Before an engine is made, as in the first process.
        let gauge = match &parsed {
            Ok(Command::Run(args)) => match Gauge::open(&args.energy) {
                Ok(gauge) => Some(gauge),
                Err(error) => {
                    failure = Some(exit::failure(&error, world.rank(), world.host()));
                    None
                }
            },
            _ => None,
        };
        let speed = parsed.as_ref().ok().and_then(speed);
        #[cfg(unix)]
        rin_model::exit_on_lost_page(i32::from(exit::Code::Model as u8))?;
        let follower = Follower::greet(Arc::clone(world), &hello(world.as_ref(), speed, failure))?;
        let mut rank = Rank { world: Arc::clone(world), command: parsed.ok(), gauge, began: None };
        Ok(follower.serve(&mut rank)?)
    }

    fn hello(world: &dyn World, speed: Option<f64>, failure: Option<Failure>) -> Hello {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Hello { rank: world.rank(), host: world.host(), pid: std::process::id(), version, speed, failure }
    }

    /// How fast this process says it is.
    fn speed(command: &Command) -> Option<f64> {
        match command {
            Command::Run(args) => args.machine.rank_speed(),
            Command::Eval(args) => args.machine.rank_speed(),
            Command::Verify(args) => args.machine.rank_speed(),
            Command::Bench(args) => args.place.rank_speed,
            _ => None,
        }
    }

    /// A process that is not the first.
    struct Rank {
        world: Arc<dyn World>,
        command: Option<Command>,
        gauge: Option<Gauge>,
        began: Option<Reading>,
    }

    impl Rank {
        fn tells(&self, error: &anyhow::Error) -> Failure {
            exit::failure(error, self.world.rank(), self.world.host())
        }

        /// The model and the options of this process.
        fn own(&self, order: &LoadOrder) -> Result<(Option<PathBuf>, LoadOptions)> {
            let of = |model: &ModelArgs, machine: &MachineArgs| Ok((model.model.clone(), machine.load_options()));
            match &self.command {
                Some(Command::Run(args)) => of(&args.model, &args.machine),
                Some(Command::Eval(args)) => of(&args.model, &args.machine),
                Some(Command::Verify(args)) => of(&args.model, &args.machine),
                Some(Command::Bench(args)) => {
                    // It goes through lists of threads and tiers: those of the first process, but for one that is said
                    // to this process alone.
                    let mut options = args.place.load_options();
                    options.threads = match args.threads[..] {
                        [one] => Some(one.get()),
                        _ => order.threads,
                    };
                    options.tier = match args.tier[..] {
                        [one] => Some(one),
                        _ => order.tier.as_deref().and_then(|name| name.parse::<Tier>().ok()),
                    };
                    Ok((args.models.get(order.model).cloned(), options))
                }
                _ => Err(Usage("it was started with another command than rank 0".to_owned()).into()),
            }
        }
    }

    impl Program for Rank {
        fn open(&mut self, order: &LoadOrder) -> Result<(ModelFile, LoadOptions), Failure> {
            let opened =
                self.own(order).and_then(|(model, options)| Ok((model_path::open(&ModelArgs { model })?, options)));
            opened.map_err(|error| self.tells(&error))
        }

        fn failure(&self, error: rin_engine::Error) -> Failure {
            self.tells(&error.into())
        }

        fn hear(&mut self, noted: u32) -> Result<(), rin_engine::Error> {
            let Some(gauge) = &self.gauge else { return Ok(()) };
            if noted == energy::BEGIN {
                self.began = gauge.edge();
            } else if noted == energy::END {
                let found = gauge.between(self.began.as_ref(), gauge.edge().as_ref());
                let figure = HostEnergy::of(self.world.rank(), self.world.host(), &found);
                energy::send(self.world.as_ref(), &figure)?;
            }
            Ok(())
        }
    }
}
