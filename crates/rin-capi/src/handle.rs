//! From handles to sessions.
//!
//! A handle looks like a pointer and is a number that is never used again, so a handle that was destroyed, or is no handle,
//! is told from others and nothing is ever read through it. Calls on one context wait for each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rin_session::{Failure, RinStatus, Session, Shared, invalid};

use crate::types::RinContext;

static CONTEXTS: RwLock<BTreeMap<usize, Arc<Shared>>> = RwLock::new(BTreeMap::new());
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

/// Takes a session in and gives its handle.
pub(crate) fn open(session: Session) -> *mut RinContext {
    let number = NEXT.fetch_add(1, Ordering::Relaxed) * STEP;
    CONTEXTS.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(Shared::new(session)));
    std::ptr::without_provenance_mut(number)
}

/// Forgets a context. It goes when the call that is under way has ended.
pub(crate) fn close(handle: *const RinContext) -> Result<(), Failure> {
    let number = number(handle)?;
    let shared = CONTEXTS.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    let shared = shared.ok_or_else(closed)?;
    // Without the lock of all contexts: a model takes its time.
    shared.close(false);
    Ok(())
}

/// Runs `body` on a context, alone.
pub(crate) fn with<T>(
    handle: *const RinContext,
    body: impl FnOnce(&mut Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let number = number(handle)?;
    let shared = CONTEXTS.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
    shared.ok_or_else(closed)?.with(body)
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
        let handle = open(Session::new());
        let path = rin_testkit::data::conformance("models/tiny-llama");
        let load = || with(handle, |session| session.load(&path, &rin_session::default_load_options()));
        assert_eq!(status(load), RinStatus::Ok);
        let fault = status(|| with(handle, |_| -> Result<(), Failure> { panic!("a fault in \0 {}", 7) }));
        assert_eq!(fault, RinStatus::Panic);
        assert_eq!(last_text(Part::Message), "a fault in RIN, please report it: a fault in \u{fffd} 7");
        assert_eq!((last_text(Part::Kind).as_str(), last_text(Part::Place).as_str()), ("Panic", ""));
        // The context can be used, and says what is missing.
        let found = status(|| with(handle, |session| session.info().map(drop)));
        assert_eq!((found, last_text(Part::Kind).as_str()), (RinStatus::NotInitialized, "NotLoaded"));
        assert_eq!(status(load), RinStatus::Ok);
        assert_eq!(last_text(Part::Message), "");
        assert_eq!(status(|| close(handle)), RinStatus::Ok);
        assert_eq!(status(|| close(handle)), RinStatus::Closed);
    }

    #[test]
    fn handles_are_never_used_again() {
        let first = open(Session::new());
        assert_eq!(status(|| close(first)), RinStatus::Ok);
        let second = open(Session::new());
        assert!(first != second && status(|| with(first, |_| Ok(()))) == RinStatus::Closed);
        // A pointer into something else is no handle either.
        assert_eq!(status(|| with((&raw const second).cast(), |_| Ok(()))), RinStatus::Closed);
        assert_eq!(status(|| close(second)), RinStatus::Ok);
    }
}
