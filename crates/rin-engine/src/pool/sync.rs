//! The state that the caller and the workers share, and how they wait for each other.
//!
//! One job is one step of the epoch counter: the caller publishes the job, steps the epoch, does its own share and waits
//! until `remaining` is zero; a worker waits for the step, does its share and counts `remaining` down. Who waits spins for
//! a bounded time and then parks. A flag tells the other side that somebody is parked; the flag is set before the last
//! look at the counter, and the counter is changed before the look at the flag, all sequentially consistent, so that at
//! least one side sees the other and no wake-up is lost.
//!
//! The epoch also says how many workers take part. A worker learns in one load whether there is a new job and whether it
//! is one of its own; of jobs that are not it sees nothing, and stays parked.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::job::JobCell;

/// What a panic carries.
pub(super) type Payload = Box<dyn Any + Send>;

/// A value alone on its cache lines: two, because processors fetch lines in pairs.
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// What one spawned worker tells the caller.
pub(super) struct WorkerSlot {
    pub(super) parked: AtomicBool,
    pub(super) panic: Mutex<Option<Payload>>,
}

/// A number of jobs, and how many workers take part in the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// Bits that hold the workers: [`super::MAX_THREADS`] fits.
    const BITS: u32 = 10;

    /// Before the first job.
    pub(super) const NONE: Self = Self(0);

    /// Whether worker `index` takes part.
    fn has(self, index: usize) -> bool {
        (index as u64) < self.0 & ((1 << Self::BITS) - 1)
    }

    /// The next job, for the workers before `active`.
    fn next(self, active: usize) -> Self {
        Self(((self.0 >> Self::BITS).wrapping_add(1) << Self::BITS) | active as u64)
    }
}

pub(super) struct Shared {
    /// An [`Epoch`], new with every job. Only the caller writes it.
    epoch: Padded<AtomicU64>,
    /// Spawned workers that take part in the present job and have not finished it.
    pub(super) remaining: Padded<AtomicUsize>,
    /// Spawned workers that are parked, or about to be.
    pub(super) parked: Padded<AtomicUsize>,
    /// Whether the caller is parked, or about to be.
    caller_parked: Padded<AtomicBool>,
    pub(super) job: JobCell,
    pub(super) stop: AtomicBool,
    pub(super) spin: Duration,
    /// The thread to wake when a job is done.
    pub(super) caller: Mutex<Option<Thread>>,
    /// Of the spawned workers: worker `i` has slot `i − 1`.
    pub(super) slots: Box<[Padded<WorkerSlot>]>,
}

/// Tries of the condition between two looks at the clock: about a microsecond.
const SPINS_PER_LOOK: u32 = 32;

/// The lock's content, whether or not a panic happened under it: nothing here is ever left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `done` with the processor at hand, for about `limit`; says whether it came.
fn spin_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    if limit.is_zero() {
        return done();
    }
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= limit {
            return done();
        }
    }
}

impl Shared {
    pub(super) fn new(spawned: usize, spin: Duration) -> Shared {
        let slot = || Padded(WorkerSlot { parked: AtomicBool::new(false), panic: Mutex::new(None) });
        Shared {
            epoch: Padded(AtomicU64::new(Epoch::NONE.0)),
            remaining: Padded(AtomicUsize::new(0)),
            parked: Padded(AtomicUsize::new(0)),
            caller_parked: Padded(AtomicBool::new(false)),
            job: JobCell::new(),
            stop: AtomicBool::new(false),
            spin,
            caller: Mutex::new(None),
            slots: std::iter::repeat_with(slot).take(spawned).collect(),
        }
    }

    fn now(&self) -> Epoch {
        Epoch(self.epoch.0.load(Ordering::SeqCst))
    }

    /// Worker: waits for a job that is not `seen` and in which worker `index` takes part, and returns its epoch.
    pub(super) fn wait_for_job(&self, slot: &WorkerSlot, index: usize, seen: Epoch) -> Epoch {
        let own = || {
            let now = self.now();
            now != seen && now.has(index)
        };
        if !spin_until(self.spin, own) {
            slot.parked.store(true, Ordering::SeqCst);
            self.parked.0.fetch_add(1, Ordering::SeqCst);
            while !own() {
                std::thread::park();
            }
            self.parked.0.fetch_sub(1, Ordering::SeqCst);
            slot.parked.store(false, Ordering::SeqCst);
        }
        // The job that was seen above: it does not end without this worker.
        self.now()
    }

    /// Worker: its share of the job is done, nothing of the job is used any more.
    pub(super) fn finish_share(&self) {
        if self.remaining.0.fetch_sub(1, Ordering::SeqCst) == 1
            && self.caller_parked.0.load(Ordering::SeqCst)
            && let Some(caller) = lock(&self.caller).as_ref()
        {
            caller.unpark();
        }
    }

    /// Caller: steps the epoch and wakes those of the first `active` workers that are parked. `threads` yields the handles
    /// of the spawned ones in order.
    pub(super) fn start<'a>(&self, active: usize, threads: impl Iterator<Item = &'a Thread>) {
        // A swap for the reason given in `wait_for_workers`.
        self.epoch.0.swap(self.now().next(active).0, Ordering::SeqCst);
        if self.parked.0.load(Ordering::SeqCst) > 0 {
            for (slot, thread) in self.slots.iter().zip(threads).take(active.saturating_sub(1)) {
                if slot.0.parked.load(Ordering::SeqCst) {
                    thread.unpark();
                }
            }
        }
    }

    /// Caller: waits until every spawned worker that takes part has done its share.
    pub(super) fn wait_for_workers(&self) {
        let done = || self.remaining.0.load(Ordering::SeqCst) == 0;
        if !spin_until(self.spin, done) {
            // A swap and no store: emulators of Arm on x86 let the load that follows overtake a mere store (`stlr`, `ldar`),
            // which Arm itself does not, and the wake-up would be lost.
            self.caller_parked.0.swap(true, Ordering::SeqCst);
            while !done() {
                std::thread::park();
            }
            self.caller_parked.0.store(false, Ordering::SeqCst);
        }
    }

    /// Whether the caller waits in [`Shared::wait_for_workers`] without its processor.
    #[cfg(test)]
    pub(super) fn caller_is_parked(&self) -> bool {
        self.caller_parked.0.load(Ordering::SeqCst)
    }
}
