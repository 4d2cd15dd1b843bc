//! A session that several threads use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Failure, RinStatus, Session};

/// A session, and the thread that works on it now. Calls wait for each other; a call from within a call, such as from a
/// callback, is refused; after [`close`](Self::close) every call is.
#[derive(Debug)]
pub struct Shared {
    /// Token of the thread; 0 for none.
    owner: AtomicU64,
    closed: AtomicBool,
    session: Mutex<Session>,
}

fn closed() -> Failure {
    Failure::new(RinStatus::Closed, "Closed", "the context was closed")
}

impl Shared {
    /// For the threads of a program.
    pub fn new(session: Session) -> Self {
        Self { owner: AtomicU64::new(0), closed: AtomicBool::new(false), session: Mutex::new(session) }
    }

    /// Runs `body` on the session, alone.
    ///
    /// # Errors
    ///
    /// What `body` fails with; [`RinStatus::Panic`] where it panics, and the session then has no model;
    /// [`RinStatus::Busy`] within another call of the same thread; [`RinStatus::Closed`] after [`close`](Self::close).
    pub fn with<T>(&self, body: impl FnOnce(&mut Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut session = self.lock()?;
        let _owner = Owner::new(&self.owner, thread_token());
        Failure::guard(|| body(&mut session)).inspect_err(|failure| {
            if failure.status == RinStatus::Panic {
                // It may be half done.
                session.unload();
            }
        })
    }

    /// Lets the model go when the call that is under way has ended, without waiting for it where `wait` is false: then the
    /// model goes with the last reference to this.
    pub fn close(&self, wait: bool) {
        self.closed.store(true, Ordering::Release);
        let mine = self.owner.load(Ordering::Relaxed) == thread_token();
        if wait && !mine {
            self.session.lock().unwrap_or_else(PoisonError::into_inner).unload();
        } else if let Ok(mut session) = self.session.try_lock() {
            session.unload();
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> Result<MutexGuard<'_, Session>, Failure> {
        if self.owner.load(Ordering::Relaxed) == thread_token() {
            let message = "a callback called back into the context that called it";
            return Err(Failure::new(RinStatus::Busy, "Busy", message));
        }
        // A panic is caught before it leaves a lock, so that none is poisoned.
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            session.unload();
            return Err(closed());
        }
        Ok(session)
    }
}

/// Says who works on a session, until it goes.
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
    use crate::default_load_options;

    #[test]
    fn a_panic_takes_the_model_with_it_and_nothing_else() {
        let shared = Shared::new(Session::new());
        let path = rin_testkit::data::conformance("models/tiny-llama");
        let load = || shared.with(|session| session.load(&path, &default_load_options()));
        load().unwrap();
        let fault = shared.with(|_| -> Result<(), Failure> { panic!("a fault") }).unwrap_err();
        assert_eq!(fault.status, RinStatus::Panic);
        let gone = shared.with(|session| session.info().map(drop)).unwrap_err();
        assert_eq!(gone.status, RinStatus::NotInitialized);
        load().unwrap();
    }

    #[test]
    fn calls_within_calls_and_after_the_end_are_refused() {
        let shared = Shared::new(Session::new());
        let inner = shared.with(|_| Ok(shared.with(|_| Ok(())).unwrap_err().status)).unwrap();
        assert_eq!(inner, RinStatus::Busy);
        // Closing from within a call is no deadlock.
        let from_within = shared.with(|_| {
            shared.close(true);
            Ok(())
        });
        from_within.unwrap();
        assert_eq!(shared.with(|_| Ok(())).unwrap_err().status, RinStatus::Closed);
        shared.close(true);
        assert!(shared.is_closed());
    }
}
