//! The end of a process whose mapped file was cut short.
//!
//! The operating system raises SIGBUS in the thread that touches a page that is gone. There is nothing to go on with, so a
//! program that maps model files asks for a word and an exit code in place of a silent death.

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

const MESSAGE: &str = "error: the model file was cut short or replaced in place while it was read; load it again, and \
                       replace model files by renaming rather than by writing over them\n";

static CODE: AtomicI32 = AtomicI32::new(1);

/// From now on a touch of a lost page ends the process with a message on standard error and exit code `code`.
///
/// It takes the place of a handler of SIGBUS that was there before. Call it once, from a program, not from a library.
///
/// # Errors
/// What the system answers.
pub fn exit_on_lost_page(code: i32) -> io::Result<()> {
    CODE.store(code, Ordering::Relaxed);
    install()
}

#[expect(unsafe_code, reason = "a signal handler cannot be installed in safe Rust")]
fn install() -> io::Result<()> {
    // SAFETY: a sigaction of zeros is valid: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ended as *const () as libc::sighandler_t;
    // SAFETY: `action` is initialised, the handler has the signature that goes without SA_SIGINFO and calls nothing but
    // what may be called in a handler, and the old action is not asked for.
    let outcome = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "only the bare system calls may be made in a signal handler")]
extern "C" fn ended(_signal: c_int) {
    // SAFETY: the bytes are those of a static string. `write` may be called in a handler; what it could not write is lost.
    unsafe { libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
    // SAFETY: `_exit` may be called in a handler.
    unsafe { libc::_exit(CODE.load(Ordering::Relaxed)) };
}
