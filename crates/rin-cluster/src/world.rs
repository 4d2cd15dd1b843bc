//! Numbered processes that send each other bytes.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use rin_engine::Error;
use rin_engine::chain::ChainError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a message is for. Messages of one sender and tag arrive in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Rank 0 asks.
    Order,
    /// Rank 0 is answered.
    Answer,
    /// From each stage to the next.
    Ring,
    /// Something went wrong, for rank 0.
    Failure,
    /// What a span of work took, for rank 0.
    Energy,
}

/// Processes with the numbers 0 to [`size`](Self::size) − 1, each of which can send to each.
///
/// Failures come in words: the other process is gone, and there is nothing to be done but to end.
pub trait World: Debug + Send + Sync {
    /// The number of this one.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The machine that this one runs on.
    fn host(&self) -> String;

    /// Sends a message; the bytes may be reused when it returns. It may wait until the other process takes it.
    ///
    /// # Errors
    ///
    /// Where the message cannot be sent.
    fn send(&self, to: usize, tag: Tag, message: &[u8]) -> Result<(), String>;

    /// Sends a message, and does `meanwhile` before it waits for the other process to take it.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    fn send_while(&self, to: usize, tag: Tag, message: &[u8], meanwhile: &mut dyn FnMut()) -> Result<(), String>;

    /// The sender and length of the first message that has arrived from `from` (none: from anyone), if there is one.
    ///
    /// # Errors
    ///
    /// Where this cannot be told.
    fn arrived(&self, from: Option<usize>, tag: Tag) -> Result<Option<(usize, usize)>, String>;

    /// Takes the first message from `from`, which has [`arrived`](Self::arrived) and has the length of `into`.
    ///
    /// # Errors
    ///
    /// Where it is not to be had.
    fn take(&self, from: usize, tag: Tag, into: &mut [u8]) -> Result<(), String>;
}

/// The rank whose messages come round to this one.
pub(crate) fn before(world: &dyn World) -> usize {
    (world.rank() + world.size() - 1) % world.size()
}

/// A message that waits to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) from: usize,
    pub(crate) tag: Tag,
    pub(crate) len: usize,
}

/// How long a wait only yields the processor to others: Linux sleeps for 50 µs at least beside what it is asked for, which is
/// the share below of this.
const YIELDS: Duration = Duration::from_millis(2);

/// After that it sleeps for a share of what it has waited already: late by 3 to 6 %, and next to no work.
const SHARE: u32 = 32;

/// The longest sleep.
const LONGEST: Duration = Duration::from_millis(2);

/// Waits for a message of one of these kinds. MPI libraries keep a processor busy while they wait; this does not.
pub(crate) fn wait(world: &dyn World, wanted: &[(Option<usize>, Tag)]) -> Result<Arrived, String> {
    let start = Instant::now();
    loop {
        for &(from, tag) in wanted {
            if let Some((from, len)) = world.arrived(from, tag)? {
                return Ok(Arrived { from, tag, len });
            }
        }
        match start.elapsed() {
            waited if waited < YIELDS => thread::yield_now(),
            waited => thread::sleep((waited / SHARE).min(LONGEST)),
        }
    }
}

/// Takes a message that has arrived, whatever its length.
pub(crate) fn take(world: &dyn World, arrived: Arrived) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; arrived.len];
    world.take(arrived.from, arrived.tag, &mut bytes)?;
    Ok(bytes)
}

/// What a world says, as a failure of the engine's stages.
pub(crate) fn lost(world: &dyn World, reason: String) -> Error {
    ChainError::Lost { stage: world.rank(), reason }.into()
}

/// Sends what becomes JSON.
pub(crate) fn tell(world: &dyn World, to: usize, tag: Tag, what: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(what).map_err(|error| lost(world, error.to_string()))?;
    world.send(to, tag, &bytes).map_err(|reason| lost(world, reason))
}

/// Waits for JSON of one rank.
pub(crate) fn hear<T: DeserializeOwned>(world: &dyn World, from: usize, tag: Tag) -> Result<T, Error> {
    let arrived = wait(world, &[(Some(from), tag)]).map_err(|reason| lost(world, reason))?;
    let bytes = take(world, arrived).map_err(|reason| lost(world, reason))?;
    let unknown = || format!("rank {from} says what this version does not know; start one version everywhere");
    serde_json::from_slice(&bytes).map_err(|_| lost(world, unknown()))
}

/// Variables in which launchers of MPI programs say how many processes they start: Open MPI; MPICH and its kin.
pub(crate) const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// How many processes a launcher of MPI programs says that it has started, as Open MPI and MPICH do; none where it does not
/// say, or there is none.
pub fn launched_size() -> Option<usize> {
    let size = |name: &str| std::env::var(name).ok()?.parse().ok();
    SIZES.into_iter().find_map(size)
}
