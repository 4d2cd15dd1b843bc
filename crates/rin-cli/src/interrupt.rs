//! Signals. Ctrl-C: once ends a generation or an import, otherwise the program.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Code;

/// Nothing runs that could end by itself.
const IDLE: u8 = 0;
/// Something runs that ends when it is asked to.
const RUNNING: u8 = 1;
/// It was asked to end.
const ASKED: u8 = 2;

/// Exit code of a program that an interrupt ended.
const INTERRUPTED: i32 = Code::Interrupted as i32;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Set beside the state, for work that looks at a flag of its own.
static CANCEL: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A file that is half written, to be removed when the program ends at once.
static HALF_WRITTEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Installs the handlers of interrupt and termination, and of pages that a model file lost while it is mapped.
///
/// # Errors
/// What the system answers.
pub(crate) fn install() -> Result<()> {
    #[cfg(unix)]
    rin_model::exit_on_lost_page(Code::Model as i32).context("lost pages cannot be handled")?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("interrupts cannot be handled")?;
    let (ready, started) = mpsc::sync_channel(0);
    let watch = move || {
        // Whatever a thread allocates when it starts, it has allocated now: none of it falls into a generation.
        ready.send(()).ok();
        signals.forever().for_each(|_| interrupt());
    };
    std::thread::Builder::new().name("rin-signals".to_owned()).spawn(watch).context("interrupts cannot be handled")?;
    started.recv().context("interrupts cannot be handled")
}

fn interrupt() {
    if STATE.compare_exchange(RUNNING, ASKED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        if let Some(cancel) = CANCEL.get() {
            cancel.store(true, Ordering::Relaxed);
        }
        return;
    }
    remove_half_written();
    std::process::exit(INTERRUPTED);
}

fn remove_half_written() {
    let half_written = HALF_WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = half_written.as_deref() {
        // The program ends: what cannot be removed stays.
        drop(std::fs::remove_file(path));
    }
}

/// From now on one interrupt only asks.
pub(crate) fn begin() {
    STATE.store(RUNNING, Ordering::Relaxed);
}

/// From now on one interrupt only asks, and sets `cancel`.
pub(crate) fn begin_with(cancel: Arc<AtomicBool>) {
    // Set once per process: a command does one thing.
    drop(CANCEL.set(cancel));
    begin();
}

/// Whether the work shall end.
pub(crate) fn asked() -> bool {
    STATE.load(Ordering::Relaxed) == ASKED
}

/// From now on an interrupt ends the program.
pub(crate) fn end() {
    STATE.store(IDLE, Ordering::Relaxed);
}

/// Names the file to remove when the program ends at once.
pub(crate) fn set_half_written(path: Option<&Path>) {
    *HALF_WRITTEN.lock().unwrap_or_else(PoisonError::into_inner) = path.map(Path::to_path_buf);
}
