//! A bar on standard error: one line, drawn anew at most ten times a second, and only on a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::output::Size;

/// Characters of the bar.
const WIDTH: usize = 40;
/// Shortest time between two drawings.
const PAUSE: Duration = Duration::from_millis(100);
/// Brings the cursor to the start of the line and clears it.
const CLEAR: &str = "\r\x1b[2K";

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Tokens, with their rate.
    Tokens,
    /// Cases.
    Cases,
    /// Steps of a training; what is left stands in the message.
    #[cfg(feature = "train")]
    Steps,
}

/// How far a job is. Hidden where standard error is no terminal.
#[derive(Debug)]
pub(crate) struct ProgressBar {
    unit: Unit,
    visible: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    message: String,
    done: u64,
    total: u64,
    began: Instant,
    drawn: Option<Instant>,
}

impl ProgressBar {
    /// A bar over `total` units; hidden where it shall be quiet.
    pub(crate) fn new(total: u64, unit: Unit, message: &str, quiet: bool) -> Self {
        let state = State { message: message.to_owned(), done: 0, total, began: Instant::now(), drawn: None };
        Self { unit, visible: !quiet && stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Changes what stands beside the bar.
    pub(crate) fn set_message(&self, message: impl Into<String>) {
        self.change(|state| state.message = message.into());
    }

    /// Changes the number of units.
    pub(crate) fn set_length(&self, total: u64) {
        self.change(|state| state.total = total);
    }

    /// So many units are done.
    pub(crate) fn set_position(&self, done: u64) {
        self.change(|state| state.done = done);
    }

    /// So many more units are done.
    pub(crate) fn inc(&self, more: u64) {
        self.change(|state| state.done = state.done.saturating_add(more));
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish_and_clear(&self) {
        if self.state().drawn.take().is_some() {
            tell(CLEAR);
        }
    }

    /// Takes the bar off the screen while `write` writes.
    #[cfg(feature = "train")]
    pub(crate) fn suspend(&self, write: impl FnOnce()) {
        self.finish_and_clear();
        write();
        self.change(|_| {});
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if self.visible && state.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE) {
            state.drawn = Some(Instant::now());
            tell(&format!("{CLEAR}{}", state.line(self.unit, state.began.elapsed())));
        }
    }
}

impl State {
    fn line(&self, unit: Unit, elapsed: Duration) -> String {
        let Self { message, done, total, .. } = self;
        let filled = u128::from(*done) * WIDTH as u128 / u128::from((*total).max(1));
        let filled = usize::try_from(filled).unwrap_or(WIDTH).min(WIDTH);
        let head = if filled < WIDTH { ">" } else { "" };
        let bar = format!("[{:<WIDTH$}]", "=".repeat(filled) + head);
        let left = match done {
            0 => "-".to_owned(),
            _ => clock(elapsed.as_secs_f64() * total.saturating_sub(*done) as f64 / *done as f64),
        };
        match unit {
            Unit::Bytes => format!("{message} {bar} {}/{} ({left})", Size(*done), Size(*total)),
            Unit::Tokens => {
                let rate = *done as f64 / elapsed.as_secs_f64().max(1e-9);
                format!("{message} {bar} {done}/{total} tokens ({rate:.1}/s, {left} left)")
            }
            Unit::Cases => format!("{message} {bar} {done}/{total} ({left} left)"),
            #[cfg(feature = "train")]
            Unit::Steps => format!("training {bar} {done}/{total} {message}"),
        }
    }
}

/// Seconds as a person reads them.
fn clock(seconds: f64) -> String {
    let (minutes, rest) = ((seconds / 60.0).floor(), seconds % 60.0);
    if minutes >= 1.0 { format!("{minutes:.0}m {:.0}s", rest.floor()) } else { format!("{:.0}s", rest.ceil()) }
}

/// A bar that cannot be drawn is no reason to end.
fn tell(text: &str) {
    let mut stderr = stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(done: u64, total: u64) -> State {
        State { message: "loading".to_owned(), done, total, began: Instant::now(), drawn: None }
    }

    #[test]
    fn a_line_says_how_far_it_is_and_what_is_left() {
        let half = state(50, 100).line(Unit::Cases, Duration::from_secs(90));
        assert_eq!(half, format!("loading [{}>{}] 50/100 (1m 30s left)", "=".repeat(20), " ".repeat(19)));
        let whole = state(2048, 2048).line(Unit::Bytes, Duration::from_secs(1));
        assert_eq!(whole, format!("loading [{}] 2.0 KiB/2.0 KiB (0s)", "=".repeat(40)));
        let tokens = state(30, 120).line(Unit::Tokens, Duration::from_secs(10));
        assert!(tokens.ends_with("30/120 tokens (3.0/s, 30s left)"), "{tokens}");
    }

    #[test]
    fn nothing_done_and_more_done_than_there_is_are_no_trouble() {
        assert!(state(0, 0).line(Unit::Cases, Duration::ZERO).ends_with("0/0 (- left)"));
        let more = state(u64::MAX, 3).line(Unit::Bytes, Duration::from_secs(1));
        assert!(more.contains(&"=".repeat(40)) && more.ends_with("(0s)"), "{more}");
    }
}
