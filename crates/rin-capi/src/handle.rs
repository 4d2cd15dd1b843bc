//! From handles to contexts.
//!
//! A handle looks like a pointer and is a number that is never used again, so a handle that was destroyed, or is no handle,
//! is told from others and nothing is ever read through it. Calls on one context wait for each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::context::Context;
use crate::failure::{Failure, invalid};
use crate::types::{RinContext, RinStatus};

/// A context, and the thread that works on it now.
#[derive(Debug)]
struct Entry {
    /// Token of the thread; 0 for none.
    owner: AtomicU64,
    context: Mutex<Context>,
}

static CONTEXTS: RwLock<BTreeMap<usize, Arc<Entry>>> = RwLock::new(BTreeMap::new());
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// Handles are this far apart, as addresses of objects would be.
const STEP: usize = 16;

fn number(handle: *const RinContext) -> Result<usize, Failure> {
    if handle.is_null() {
        return Err(invalid("context is a null pointer"));
    }
    Ok(handle.addr())
}

fn closed() -> Failure {
    Failure::new(RinStatus::Closed, "Closed", "the context was destroyed, or never existed")
}

/// Takes a context in and gives its handle.
pub(crate) fn open(context: Context) -> *mut RinContext {
    let number = NEXT.fetch_add(1, Ordering::Relaxed) * STEP;
    let entry = Entry { owner: AtomicU64::new(0), context: Mutex::new(context) };
    CONTEXTS.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(entry));
    std::ptr::without_provenance_mut(number)
}

/// Forgets a context. It goes when the calls that are under way have ended.
pub(crate) fn close(handle: *const RinContext) -> Result<(), Failure> {
    let number = number(handle)?;
    let entry = CONTEXTS.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    // Dropped here, without the lock: a model takes its time.
    entry.map(drop).ok_or_else(closed)
}

/// Runs `body` on a context, alone.
pub(crate) fn with<T>(
    handle: *const RinContext,
    body: impl FnOnce(&mut Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let number = number(handle)?;
    let entry = CONTEXTS.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
    let entry = entry.ok_or_else(closed)?;
    let me = thread_token();
    if entry.owner.load(Ordering::Relaxed) == me {
        let message = "a callback called back into the context that called it";
        return Err(Failure::new(RinStatus::Busy, "Busy", message));
    }
    let mut context = entry.context.lock().unwrap_or_else(|poisoned| {
        // The call that held it panicked, and may have left a model half done.
        let mut context = poisoned.into_inner();
        context.unload();
        entry.context.clear_poison();
        context
    });
    let _owner = Owner::new(&entry.owner, me);
    body(&mut context)
}

/// Says who works on a context, until it goes.
struct Owner<'a>(&'a AtomicU64);

impl<'a> Owner<'a> {
    fn new(owner: &'a AtomicU64, thread: u64) -> Self {
        owner.store(thread, Ordering::Relaxed);
        Self(owner)
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A number that no other thread of this process ever has; not zero.
fn thread_token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static TOKEN: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    TOKEN.with(|token| *token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Part, last, status};
    use std::ffi::CStr;

    fn last_text(part: Part) -> String {
        // SAFETY: zero-terminated, and read before the next call.
        unsafe { CStr::from_ptr(last(part)) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status_and_takes_the_model_with_it() {
        let handle = open(Context::new());
        let path = rin_testkit::data::conformance("models/tiny-llama");
        let path = path.to_str().unwrap();
        let load = || with(handle, |context| context.load(path, &crate::context::default_load_options()));
        assert_eq!(status(load), RinStatus::Ok);
        let fault = status(|| with(handle, |_| -> Result<(), Failure> { panic!("a fault in \0 {}", 7) }));
        assert_eq!(fault, RinStatus::Panic);
        assert_eq!(last_text(Part::Message), "a fault in RIN, please report it: a fault in \u{fffd} 7");
        assert_eq!(last_text(Part::Kind), "Panic");
        // The context can be used, and says what is missing.
        let found = status(|| with(handle, |context| context.engine().map(drop)));
        assert_eq!((found, last_text(Part::Kind).as_str()), (RinStatus::NotInitialized, "NotLoaded"));
        assert_eq!(status(load), RinStatus::Ok);
        assert_eq!(last_text(Part::Message), "");
        assert_eq!(status(|| close(handle)), RinStatus::Ok);
        assert_eq!(status(|| close(handle)), RinStatus::Closed);
    }

    #[test]
    fn handles_are_never_used_again() {
        let first = open(Context::new());
        assert_eq!(status(|| close(first)), RinStatus::Ok);
        let second = open(Context::new());
        assert!(first != second && status(|| with(first, |_| Ok(()))) == RinStatus::Closed);
        // A pointer into something else is no handle either.
        assert_eq!(status(|| with((&raw const second).cast(), |_| Ok(()))), RinStatus::Closed);
        assert_eq!(status(|| close(second)), RinStatus::Ok);
    }
}
