//! The last failure of a thread, and no panic across the boundary.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use rin_session::{Failure, RinStatus};

thread_local! {
    /// Message, kind and place of the last failure of this thread.
    static LAST: RefCell<Option<[CString; 3]>> = const { RefCell::new(None) };
}

/// What is asked of the last failure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Message,
    Kind,
    Place,
}

/// A part of the failure of the last call on this thread; empty where that succeeded.
pub(crate) fn last(part: Part) -> *const c_char {
    let of = |last: &RefCell<Option<[CString; 3]>>| {
        let last = last.borrow();
        last.as_ref().map_or(c"".as_ptr(), |[message, kind, place]| match part {
            Part::Message => message.as_ptr(),
            Part::Kind => kind.as_ptr(),
            Part::Place => place.as_ptr(),
        })
    };
    // A thread that is ending has no last call any more.
    LAST.try_with(of).unwrap_or(c"".as_ptr())
}

fn remember(failure: Option<&Failure>) {
    let line = |text: &str| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let last = failure.map(|failure| [line(&failure.message), line(failure.kind), line(&failure.place)]);
    // As above: then nobody can ask.
    let _: Result<(), _> = LAST.try_with(|place| *place.borrow_mut() = last);
}

/// Runs the body of a function of the C surface: its failure is remembered, and a panic is one.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, RinStatus> {
    let outcome = Failure::guard(body);
    remember(outcome.as_ref().err());
    outcome.map_err(|failure| failure.status)
}

/// As [`guarded`], for functions that return a status.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Failure>) -> RinStatus {
    guarded(body).err().unwrap_or(RinStatus::Ok)
}

/// As [`guarded`], for functions that return a number or a status below 0.
pub(crate) fn count(body: impl FnOnce() -> Result<usize, Failure>) -> i64 {
    let n = guarded(|| {
        i64::try_from(body()?).map_err(|_| Failure::new(RinStatus::Inference, "Failed", "the number is out of range"))
    });
    n.unwrap_or_else(|status| i64::from(status as i32))
}
