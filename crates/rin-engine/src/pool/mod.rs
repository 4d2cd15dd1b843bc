//! Threads for one engine: a fixed number of workers, each with a static share of every job.
//!
//! In goes a closure, which runs once on every worker; the caller is worker 0. There is no stealing of work and no
//! allocation after construction, so a step costs the same whenever it runs, and about a microsecond to hand out.

#![expect(unsafe_code, reason = "jobs borrow from the caller's stack, which scoped threads would allow only per spawn")]

mod job;
mod partition;
mod sync;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use partition::partition;

use crate::topology::{Affinity, CpuId};
use job::PartCells;
use sync::{Epoch, Payload, Shared, lock};

/// Most threads that a pool can have; arrays of parts on the stack can be of this size.
pub const MAX_THREADS: usize = 512;

/// How long a worker waits with its processor at hand before it parks, unless [`PoolOptions::spin`] says otherwise.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Workers, the caller among them: 1 to [`MAX_THREADS`].
    pub threads: usize,
    /// A processor for each worker, as [`crate::topology::Topology::placement`] gives; missing entries count as `None`,
    /// which leaves the worker to the operating system.
    pub cpus: Vec<Option<CpuId>>,
    /// Whether the constructing thread is confined to the first processor too, until the pool is dropped on that thread.
    pub pin_caller: bool,
    /// Called once on every worker before its first job, and again on the calling thread when that is another than
    /// before: for the state of the thread, such as its rounding mode. It must be harmless to repeat.
    pub worker_setup: fn(),
    /// How long a worker spins before it parks. A pool of more threads than processors parks at once.
    pub spin: Duration,
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        PoolOptions { threads: 1, cpus: Vec::new(), pin_caller: false, worker_setup: || {}, spin: DEFAULT_SPIN }
    }
}

/// Failures to make a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A number of threads that no pool can have.
    #[error("a pool has 1 to {maximum} threads, not {threads}")]
    ThreadCount {
        /// What was asked for.
        threads: usize,
        /// [`MAX_THREADS`].
        maximum: usize,
    },
    /// The operating system refuses a thread.
    #[error("worker thread {index} cannot be started")]
    Spawn {
        /// Worker, from 1.
        index: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// [`PoolOptions::worker_setup`] panicked.
    #[error("the set-up of a worker thread failed: {message}")]
    Setup {
        /// What the panic said.
        message: String,
    },
}

/// Worker threads that wait for jobs. Dropping the pool ends and joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Workers that take part in jobs, the caller among them.
    active: usize,
    /// Set while a job runs: a second one, from inside the first or from another thread, then runs on its own caller.
    busy: AtomicBool,
    worker_setup: fn(),
    /// Token of the thread that is worker 0.
    caller: AtomicU64,
    /// Thread that was pinned by the pool.
    pinned_caller: Option<u64>,
    notes: Vec<String>,
}

impl Pool {
    /// Starts the workers, pins them and runs their set-up; the calling thread becomes worker 0.
    ///
    /// # Errors
    /// What [`PoolError`] lists. A refusal to pin is no error but a note, see [`Pool::notes`].
    pub fn new(options: PoolOptions) -> Result<Pool, PoolError> {
        let PoolOptions { threads, cpus, pin_caller, worker_setup, spin } = options;
        if threads == 0 || threads > MAX_THREADS {
            return Err(PoolError::ThreadCount { threads, maximum: MAX_THREADS });
        }
        let spin = if threads > usable_cpus(threads, &cpus) { Duration::ZERO } else { spin };
        let shared = Arc::new(Shared::new(threads - 1, spin));
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(threads - 1),
            active: threads,
            busy: AtomicBool::new(false),
            worker_setup,
            caller: AtomicU64::new(0),
            pinned_caller: None,
            notes: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("rin-worker-{index}"));
            // On failure the drop of `pool` ends the workers that were started.
            let worker = builder.spawn(move || work(&shared, index));
            pool.workers.push(worker.map_err(|source| PoolError::Spawn { index, source })?);
        }
        // Only now, for spawned threads inherit the mask of their parent.
        let pinned = cpus.first().copied().flatten().filter(|_| pin_caller);
        // Workers inherit the mask of a caller that another pool has pinned.
        let own = Affinity::own();
        let notes = Mutex::new(Vec::new());
        let set_up = |index: usize| {
            let cpu = if index == 0 { pinned } else { cpus.get(index).copied().flatten() };
            let placed = match cpu {
                Some(cpu) if index == 0 => Affinity::pin(cpu),
                Some(cpu) => Affinity::new([cpu]).apply(),
                None if index > 0 && Affinity::current() != own => own.apply(),
                None => Ok(()),
            };
            if let (Err(error), Some(cpu)) = (placed, cpu) {
                lock(&notes).push((index, format!("worker {index} cannot be pinned to {cpu}: {error}")));
            }
            if index > 0 {
                worker_setup();
            }
        };
        // The caller's set-up comes with its adoption. The job also waits until all threads have started.
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(set_up)));
        outcome.map_err(|payload| PoolError::Setup { message: panic_message(payload.as_ref()) })?;
        let mut notes = notes.into_inner().unwrap_or_default();
        notes.sort_unstable();
        let refused = notes.first().is_some_and(|(index, _)| *index == 0);
        pool.pinned_caller = pinned.filter(|_| !refused).map(|_| thread_token());
        pool.notes = notes.into_iter().map(|(_, note)| note).collect();
        Ok(pool)
    }

    /// Workers, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Workers that take part in jobs, the caller among them: all of them, unless [`Pool::set_active`] said otherwise.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Has only the first `active` workers take part in jobs from now on, 1 to [`threads`](Pool::threads); numbers beyond
    /// count as the next of these. The others park. Allocates nothing.
    pub fn set_active(&mut self, active: usize) {
        self.active = active.clamp(1, self.threads());
    }

    /// Spawned workers that are parked at this moment: at most `threads() − 1`.
    pub fn parked(&self) -> usize {
        self.shared.parked.0.load(Ordering::SeqCst)
    }

    /// What the system did not grant, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Runs `f(worker)` once for every worker `0..active()` and returns when all are done.
    ///
    /// While another job runs on this pool (`run` inside a job, or on two threads at once), the job runs for all worker
    /// indices, in order, on the thread that asks.
    ///
    /// # Panics
    /// When `f` panics: the other workers finish, then the panic of the lowest worker goes on in the caller. The pool
    /// stays usable.
    pub fn run<F: Fn(usize) + Sync>(&self, f: F) {
        if self.busy.swap(true, Ordering::Acquire) {
            (self.worker_setup)();
            return self.run_serially(&f);
        }
        let panic = catch_unwind(AssertUnwindSafe(|| self.adopt_caller())).err().or_else(|| self.run_on_workers(&f));
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Moves every part out to one worker, which calls `f(part index, part)`: worker `i` takes the parts `i`,
    /// `i + active()` and so on, in this order. Parts that are `None` are left out.
    ///
    /// # Panics
    /// As for [`Pool::run`]. The parts that the panicking worker had not begun stay in `parts`.
    pub fn run_parts<P: Send>(&mut self, parts: &mut [Option<P>], f: impl Fn(usize, P) + Sync) {
        let active = self.active;
        let parts = PartCells::new(parts);
        self.run(|worker| {
            for index in (worker..parts.len()).step_by(active) {
                // SAFETY: `run` calls this once per worker, and an index belongs to the one worker that it leaves as the
                // remainder of a division by `active`, which does not change meanwhile.
                if let Some(part) = unsafe { parts.take(index) } {
                    f(index, part);
                }
            }
        });
    }

    fn run_serially<F: Fn(usize)>(&self, f: &F) {
        let mut first = None;
        for index in 0..self.active {
            let panic = catch_unwind(AssertUnwindSafe(|| f(index))).err();
            first = first.or(panic);
        }
        if let Some(payload) = first {
            resume_unwind(payload);
        }
    }

    /// The job on all workers; returns the panic of the lowest one. Only the thread that set `busy` may be here.
    fn run_on_workers<F: Fn(usize) + Sync>(&self, f: &F) -> Option<Payload> {
        let shared = &*self.shared;
        // SAFETY: `busy` admits one publisher. No worker executes now: each one that takes part counts itself out of
        // `remaining` after its `execute`, the others do not execute, and every earlier job waited for zero. The workers
        // of this job begin after `start` and are waited for below, on every path, while the caller still holds `f`.
        unsafe { shared.job.publish(f) };
        shared.remaining.0.store(self.active - 1, Ordering::SeqCst);
        shared.start(self.active, self.workers.iter().map(JoinHandle::thread));
        let mut first = catch_unwind(AssertUnwindSafe(|| f(0))).err();
        shared.wait_for_workers();
        for slot in &shared.slots {
            let panic = lock(&slot.0.panic).take();
            first = first.or(panic);
        }
        first
    }

    /// Makes the calling thread worker 0, if it is not.
    fn adopt_caller(&self) {
        let token = thread_token();
        if self.caller.load(Ordering::Relaxed) != token {
            (self.worker_setup)();
            *lock(&self.shared.caller) = Some(std::thread::current());
            self.caller.store(token, Ordering::Relaxed);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.start(self.threads(), self.workers.iter().map(JoinHandle::thread));
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so there is no outcome to look at.
            drop(worker.join());
        }
        if self.pinned_caller.take() == Some(thread_token()) {
            Affinity::unpin();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pool { active, notes, .. } = self;
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .field("active", active)
            .field("notes", notes)
            .finish_non_exhaustive()
    }
}

/// The life of a spawned worker.
fn work(shared: &Shared, index: usize) {
    let Some(slot) = shared.slots.get(index - 1) else { return };
    let mut epoch = Epoch::NONE;
    loop {
        epoch = shared.wait_for_job(&slot.0, index, epoch);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch is stepped after `publish`, and the publisher, which counts on this worker in that epoch, keeps
        // the closure alive until `finish_share`.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { shared.job.execute(index) }));
        if let Err(payload) = outcome {
            *lock(&slot.0.panic) = Some(payload);
        }
        shared.finish_share();
    }
}

/// Processors that the workers can use at once.
fn usable_cpus(threads: usize, cpus: &[Option<CpuId>]) -> usize {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let pinned: Option<BTreeSet<CpuId>> = cpus.iter().take(threads).copied().collect();
    match pinned {
        Some(distinct) if cpus.len() >= threads => available.min(distinct.len()),
        _ => available,
    }
}

/// A number that no other thread of this process ever has; not zero.
fn thread_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static TOKEN: Cell<u64> = const { Cell::new(0) };
    }
    TOKEN.with(|token| {
        if token.get() == 0 {
            token.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        token.get()
    })
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests;
