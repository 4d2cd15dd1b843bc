//! Writing to the two streams.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::exit::ReaderGone;

/// Writes a line to standard error. Where that is closed, nobody can be told.
pub(crate) fn tell(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// Writes text to standard output.
///
/// # Errors
/// [`ReaderGone`] where the reader closed it; else what the system answers.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes text of a result whose bytes matter: ends the line on a terminal only.
pub(crate) fn exact(result: &str) -> Result<()> {
    text(result)?;
    end_of_exact()
}

/// Ends the line of a result whose bytes matter, on a terminal. What launchers of MPI programs give is one in name only.
pub(crate) fn end_of_exact() -> Result<()> {
    if io::stdout().is_terminal() && rin_cluster::launched_size().is_none() { text("\n") } else { Ok(()) }
}

/// Writes one JSON object and a line end to standard output.
pub(crate) fn json(object: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(object).context("the result cannot be written as JSON")?;
    line.push('\n');
    text(&line)
}

/// Names a failure of standard output.
pub(crate) fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => other.context("standard output cannot be written"),
    }
}

/// A number of bytes with a binary unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let power = (self.0.max(1).ilog2() / 10).min(5);
        let Some(unit) = (power as usize).checked_sub(1).and_then(|i| UNITS.get(i)) else {
            return write!(f, "{} B", self.0);
        };
        // Tenths in integers: no rounding up to 1024.0.
        let tenths = (u128::from(self.0) * 10) >> (10 * power);
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// Text that a file chose, on one line of a terminal: control characters are escaped, the end is cut off.
pub(crate) fn shown(text: &str, most: usize) -> String {
    let escape = |c: char| if c.is_control() { c.escape_debug().collect() } else { c.to_string() };
    let head: String = text.chars().take(most).map(escape).collect();
    if text.chars().nth(most).is_some() { format!("{head}…") } else { head }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), ((1 << 20) - 1, "1023.9 KiB")];
        for (bytes, expected) in cases {
            assert_eq!(Size(bytes).to_string(), expected);
        }
        assert_eq!(Size(u64::MAX).to_string(), "16383.9 PiB");
    }

    #[test]
    fn control_characters_of_a_file_do_not_reach_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jé\n", 80), "a\\u{1b}[2Jé\\n");
        assert_eq!(shown("abc", 2), "ab…");
    }
}
