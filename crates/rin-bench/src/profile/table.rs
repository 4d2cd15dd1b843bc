//! A profile as Markdown: a table for each phase, and lines about the machine.

use std::fmt::Write;

use super::{Measured, Operation, Phase, Profile, duration, percent};
use crate::Error;
use crate::report::{aligned, figure};

/// A column: its head, and what it shows of a name, its figures and the number of passes.
type Column = (&'static str, fn(&str, &Measured, f64) -> String);

const OPERATION: &str = "operation";

/// Columns; amounts are per pass.
const COLUMNS: [Column; 10] = [
    (OPERATION, |name, _, _| name.to_owned()),
    ("calls", |_, of, passes| format!("{:.0}", of.calls as f64 / passes)),
    ("mean µs", |_, of, passes| figure(of.total_ns as f64 / passes / 1e3)),
    ("median µs", |_, of, _| figure(of.median_ns / 1e3)),
    ("share", |_, of, _| percent(of.share)),
    ("MB", |_, of, passes| some(of.bytes, || format!("{:.3}", of.bytes as f64 / passes / 1e6))),
    ("GB/s", |_, of, _| of.gb_per_s.map_or_else(none, figure)),
    ("Mop", |_, of, passes| some(of.ops, || figure(of.ops as f64 / passes / 1e6))),
    ("TOPS", |_, of, _| of.tops.map_or_else(none, |tops| format!("{tops:.3}"))),
    ("of roofline", |_, of, _| of.roofline.map_or_else(none, percent)),
];

fn none() -> String {
    "-".to_owned()
}

fn some(amount: u64, text: impl FnOnce() -> String) -> String {
    if amount == 0 { none() } else { text() }
}

impl Profile {
    /// The profile as Markdown with a line end: for each phase the operations sorted by time and the whole; then the
    /// machine. Times, bytes and operations are means per pass.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], which a profile never gives.
    pub fn table(&self) -> Result<String, Error> {
        let mut text = format!("{}\n", self.title());
        for phase in &self.phases {
            let time = duration(phase.total.median_ns);
            writeln!(text, "\n{} ({}), median {time} of {} passes:\n", phase.test, phase.pass(), phase.n_passes)?;
            text.push_str(&table(phase)?);
        }
        text.push('\n');
        self.machine.lines(&mut text)?;
        for note in &self.machine.notes {
            writeln!(text, "- note: {note}")?;
        }
        Ok(text)
    }
}

fn table(phase: &Phase) -> Result<String, Error> {
    let passes = (phase.n_passes as f64).max(1.0);
    let line = |name: &str, of: &Measured| COLUMNS.iter().map(|column| column.1(name, of, passes)).collect();
    let mut lines: Vec<Vec<String>> = vec![COLUMNS.iter().map(|column| column.0.to_owned()).collect()];
    lines.extend(phase.operations.iter().map(|Operation { name, measured }| line(name, measured)));
    lines.push(line("**total**", &phase.total));
    aligned(&lines, &[OPERATION])
}
