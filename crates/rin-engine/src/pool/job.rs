//! A borrowed closure handed to threads that outlive it, and parts moved out by index: all unsafe code of the pool.

use std::cell::UnsafeCell;
use std::marker::PhantomData;

/// A closure without its type and lifetime.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    /// # Safety
    /// The first argument points at a live closure of the type that the function was made for.
    call: unsafe fn(*const (), usize),
}

/// Calls the closure that `closure` points at.
///
/// # Safety
/// `closure` points at a live `F`.
unsafe fn call<F: Fn(usize) + Sync>(closure: *const (), index: usize) {
    // SAFETY: the caller guarantees that this is a live `F`, and a shared reference may be made on any thread: `F: Sync`.
    let f = unsafe { &*closure.cast::<F>() };
    f(index);
}

/// # Safety
/// None: it touches nothing.
unsafe fn call_nothing(_closure: *const (), _index: usize) {}

/// The job that the workers run at present.
pub(super) struct JobCell(UnsafeCell<Job>);

// SAFETY: the contracts of `publish` and `execute` keep writes apart from reads, and what is pointed at is `Sync`.
unsafe impl Sync for JobCell {}
// SAFETY: the pointer is only followed under the contract of `execute`, which holds on any thread.
unsafe impl Send for JobCell {}

impl JobCell {
    pub(super) fn new() -> JobCell {
        JobCell(UnsafeCell::new(Job { closure: std::ptr::null(), call: call_nothing }))
    }

    /// Makes `f` the present job.
    ///
    /// # Safety
    /// No thread is in `execute`, and each call of `execute` that follows happens after this and returns before `f`
    /// goes out of scope or is replaced.
    pub(super) unsafe fn publish<F: Fn(usize) + Sync>(&self, f: &F) {
        let job = Job { closure: std::ptr::from_ref(f).cast(), call: call::<F> };
        // SAFETY: by contract no thread reads the cell at this time.
        unsafe { *self.0.get() = job };
    }

    /// Runs the present job for one worker.
    ///
    /// # Safety
    /// `publish` happened before, and its closure lives until this returns.
    pub(super) unsafe fn execute(&self, index: usize) {
        // SAFETY: by contract no thread writes the cell at this time.
        let job = unsafe { *self.0.get() };
        // SAFETY: `publish` paired the pointer with the function for its type; by contract the closure is alive.
        unsafe { (job.call)(job.closure, index) };
    }
}

/// A slice whose elements are moved out by index, on any thread.
pub(super) struct PartCells<'a, P> {
    first: *mut Option<P>,
    len: usize,
    parts: PhantomData<&'a mut [Option<P>]>,
}

// SAFETY: through a shared reference the parts can only be moved out (`P: Send`), each index by one thread (`take`).
unsafe impl<P: Send> Sync for PartCells<'_, P> {}

impl<'a, P> PartCells<'a, P> {
    pub(super) fn new(parts: &'a mut [Option<P>]) -> PartCells<'a, P> {
        PartCells { first: parts.as_mut_ptr(), len: parts.len(), parts: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Moves the part at `index` out; `None` beyond the end or where there was none.
    ///
    /// # Safety
    /// No two threads use the same index during the life of `self`.
    pub(super) unsafe fn take(&self, index: usize) -> Option<P> {
        if index >= self.len {
            return None;
        }
        // SAFETY: the index lies in the slice, checked above.
        let part = unsafe { self.first.add(index) };
        // SAFETY: `self` borrows the slice mutably for its life, and by contract no other thread uses this element.
        let part = unsafe { &mut *part };
        part.take()
    }
}
