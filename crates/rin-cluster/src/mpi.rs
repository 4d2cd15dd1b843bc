//! Ranks that Open MPI or another MPI has started.

use std::fmt;
use std::sync::Arc;
use std::thread;

use mpi::environment::{Universe, processor_name};
use mpi::request::scope;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};
use mpi::{Threading, initialize_with_threading};

use crate::world::{SIZES, Tag, World};

/// What Slurm with PMIx sets, which says no size.
const PMIX: &str = "PMIX_RANK";

/// Exit code of the job where a rank panics.
const PANICKED: i32 = 101;

/// Whether a launcher of MPI programs has started this process.
pub fn is_launched() -> bool {
    SIZES.iter().chain([&PMIX]).any(|name| std::env::var_os(name).is_some())
}

/// This process among the others, for as long as it lives. Its end waits for the others; where it panics, it ends them.
pub struct Process {
    world: Arc<dyn World>,
    _universe: Universe,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("world", &self.world).finish_non_exhaustive()
    }
}

/// Joins the other processes that the launcher has started; none where there is no launcher.
///
/// # Errors
///
/// In words, where MPI cannot be used from more than one thread in turn.
pub fn join() -> Result<Option<Process>, String> {
    if !is_launched() {
        return Ok(None);
    }
    let (universe, level) = initialize_with_threading(Threading::Serialized).ok_or("MPI has been started before")?;
    if level < Threading::Serialized {
        return Err("this MPI is made for one thread; take one with MPI_THREAD_SERIALIZED".to_owned());
    }
    let host = processor_name().unwrap_or_else(|_| "a host without a name".to_owned());
    let communicator = universe.world();
    let number = |n: i32| usize::try_from(n).unwrap_or(0);
    let world = Mpi { rank: number(communicator.rank()), size: number(communicator.size()), host };
    Ok(Some(Process { world: Arc::new(world), _universe: universe }))
}

impl Process {
    /// The others.
    pub fn world(&self) -> Arc<dyn World> {
        self.world.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // The others would wait for this one.
            SimpleCommunicator::world().abort(PANICKED);
        }
    }
}

#[derive(Debug)]
struct Mpi {
    rank: usize,
    size: usize,
    host: String,
}

fn tag_number(tag: Tag) -> i32 {
    match tag {
        Tag::Order => 1,
        Tag::Answer => 2,
        Tag::Ring => 3,
        Tag::Failure => 4,
        Tag::Energy => 5,
    }
}

fn rank_number(rank: usize) -> Result<i32, String> {
    i32::try_from(rank).map_err(|_| format!("there is no rank {rank}"))
}

fn check_length(message: &[u8]) -> Result<(), String> {
    match i32::try_from(message.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("MPI carries no message of {} bytes", message.len())),
    }
}

/// MPI's own error handler ends the job where a call fails, so that these return or do not return at all.
impl World for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> String {
        self.host.clone()
    }

    fn send(&self, to: usize, tag: Tag, message: &[u8]) -> Result<(), String> {
        check_length(message)?;
        SimpleCommunicator::world().process_at_rank(rank_number(to)?).send_with_tag(message, tag_number(tag));
        Ok(())
    }

    fn send_while(&self, to: usize, tag: Tag, message: &[u8], meanwhile: &mut dyn FnMut()) -> Result<(), String> {
        check_length(message)?;
        let world = SimpleCommunicator::world();
        let to = world.process_at_rank(rank_number(to)?);
        scope(|scope| {
            let mut sending = to.immediate_send_with_tag(scope, message, tag_number(tag));
            meanwhile();
            while let Err(still) = sending.test() {
                sending = still;
                thread::yield_now();
            }
        });
        Ok(())
    }

    fn arrived(&self, from: Option<usize>, tag: Tag) -> Result<Option<(usize, usize)>, String> {
        let world = SimpleCommunicator::world();
        let status = match from {
            Some(from) => world.process_at_rank(rank_number(from)?).immediate_probe_with_tag(tag_number(tag)),
            None => world.any_process().immediate_probe_with_tag(tag_number(tag)),
        };
        let Some(status) = status else { return Ok(None) };
        let len = usize::try_from(status.count(<u8 as mpi::traits::Equivalence>::equivalent_datatype()));
        match (usize::try_from(status.source_rank()), len) {
            (Ok(from), Ok(len)) => Ok(Some((from, len))),
            _ => Err("a message of no length came".to_owned()),
        }
    }

    fn take(&self, from: usize, tag: Tag, into: &mut [u8]) -> Result<(), String> {
        SimpleCommunicator::world().process_at_rank(rank_number(from)?).receive_into_with_tag(into, tag_number(tag));
        Ok(())
    }
}
