//! Ctrl-C: once ends a generation, otherwise the program.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Nothing runs that could end by itself.
const IDLE: u8 = 0;
/// A generation runs.
const RUNNING: u8 = 1;
/// A generation runs and shall end.
const ASKED: u8 = 2;

/// Exit code of a program that an interrupt ended.
const INTERRUPTED: i32 = 130;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// A file that is half written, to be removed when the program ends at once.
static HALF_WRITTEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Installs the handler of interrupt and termination.
///
/// # Errors
/// What the system answers.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if STATE.compare_exchange(RUNNING, ASKED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
        let half_written = HALF_WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = half_written.as_deref() {
            // The program ends: what cannot be removed stays.
            drop(std::fs::remove_file(path));
        }
        std::process::exit(INTERRUPTED);
    })
    .context("interrupts cannot be handled")
}

/// From now on one interrupt only asks.
pub(crate) fn begin() {
    STATE.store(RUNNING, Ordering::Relaxed);
}

/// Whether the generation shall end.
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
