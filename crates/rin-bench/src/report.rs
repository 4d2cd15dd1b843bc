//! Results written down: a table for people, and comma-separated values, JSON and JSON lines for programs.

use std::fmt::Write;

use rin_energy::PowerRange;
use serde::Serialize;
use serde_json::Value;

use crate::jitter::Jitter;
use crate::peak::Peaks;
use crate::quiet::{Disturbance, Verdict};
use crate::subject::count;
use crate::{Error, Row};

/// What a bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One row per test and configuration.
    pub rows: Vec<Row>,
    /// The machine meanwhile.
    pub machine: Machine,
}

/// The machine during a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu_info: String,
    /// What else took its time.
    pub disturbance: Disturbance,
    /// How a fixed loop's time varies.
    pub jitter: Option<Jitter>,
    /// What it can do, for each number of workers and tier that was measured.
    pub peaks: Vec<Peaks>,
    /// What stands in the way of good figures, in words.
    pub notes: Vec<String>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A Markdown table, and lines about the machine.
    #[default]
    Markdown,
    /// Comma-separated values with a header (RFC 4180), one row each.
    Csv,
    /// One JSON array of rows.
    Json,
    /// One JSON object per line and row.
    JsonLines,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Markdown, Self::Csv, Self::Json, Self::JsonLines];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Markdown => "md",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::JsonLines => "jsonl",
        }
    }
}

impl Report {
    /// Puts a range from what the machine takes into the rows whose energy was not measured.
    pub fn estimate_energy(&mut self, range: Option<PowerRange>) {
        for row in &mut self.rows {
            let seconds = row.samples_ns.iter().map(|ns| *ns as f64 / 1e9).sum();
            let tokens = (row.n_prompt + row.n_gen * row.n_parallel) * row.samples_ns.len() as u64;
            if let Some(energy) = row.energy.take() {
                let energy = energy.or_estimate(range, seconds, tokens);
                energy.status.name().clone_into(&mut row.energy_status);
                row.energy = Some(energy);
            }
        }
    }

    /// The report in a form, with a line end.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] and [`Error::Write`], which valid rows never give.
    pub fn write(&self, form: Form) -> Result<String, Error> {
        match form {
            Form::Markdown => self.markdown(),
            Form::Csv => csv(&self.rows),
            Form::Json => Ok(serde_json::to_string_pretty(&self.rows).map_err(Error::Json)? + "\n"),
            Form::JsonLines => {
                let lines = self.rows.iter().map(|row| serde_json::to_string(row).map(|line| line + "\n"));
                lines.collect::<Result<String, _>>().map_err(Error::Json)
            }
        }
    }

    fn markdown(&self) -> Result<String, Error> {
        let mut text = table(&self.rows)?;
        text.push('\n');
        self.machine.lines(&mut text)?;
        let mut told = Vec::new();
        for row in &self.rows {
            let memory = memory(row);
            if !told.contains(&memory) {
                writeln!(text, "- memory: {memory}")?;
                told.push(memory);
            }
        }
        for row in &self.rows {
            for outlier in &row.outliers {
                let label = format!("{} {}", row.model_name(), row.test_name());
                let ms = outlier.value / 1e6;
                writeln!(
                    text,
                    "- outlier: repetition {} of {label} took {ms:.3} ms; it is counted",
                    outlier.index + 1
                )?;
            }
        }
        for note in &self.machine.notes {
            writeln!(text, "- note: {note}")?;
        }
        Ok(text)
    }
}

impl Machine {
    pub(crate) fn lines(&self, text: &mut String) -> Result<(), Error> {
        match self.disturbance.verdict {
            Verdict::Quiet => writeln!(text, "- quiet: nothing else took the machine's time")?,
            Verdict::Disturbed => {
                writeln!(text, "- **DISTURBED**: {}; measure again", self.disturbance.reasons.join("; "))?;
            }
            Verdict::Unknown => {
                writeln!(text, "- quiet or not: unknown, for {}", self.disturbance.reasons.join("; "))?;
            }
        }
        writeln!(text, "- machine: {}", self.cpu_info)?;
        for peaks in &self.peaks {
            write!(text, "- peak with {} threads:", peaks.threads)?;
            if let Some(peak) = &peaks.gb_per_s {
                write!(text, " memory is read at {:.1} GB/s;", peak.best)?;
            }
            if let Some(peak) = &peaks.tops {
                write!(text, " 8-bit products at {:.3} TOPS ({})", peak.best, peaks.tier)?;
            }
            writeln!(text)?;
        }
        if let Some(jitter) = &self.jitter {
            let ratio = |of: Option<f64>| of.map_or_else(|| "-".to_owned(), |of| format!("{of:.2}"));
            writeln!(
                text,
                "- jitter: a loop of {:.1} µs takes {} times as long at p99, {} at p99.9, {:.1} at most (of {})",
                jitter.median_us,
                ratio(jitter.p99),
                ratio(jitter.p999),
                jitter.max,
                jitter.n,
            )?;
        }
        Ok(())
    }
}

/// What a row says about memory.
fn memory(row: &Row) -> String {
    let plan = format!("{} with {} sequences: plan {}", row.model_name(), row.n_parallel, bytes(row.plan_bytes));
    let peak = row.peak_rss.map(|peak| format!(", peak {}", bytes(peak))).unwrap_or_default();
    let allocs = row.allocs.map(|n| format!(", {n} allocations while it ran")).unwrap_or_default();
    plan + &peak + &allocs
}

/// A column: its head, and what it shows of a row.
type Column = (&'static str, fn(&Row) -> String);

/// Columns of the table; numbers stand to the right.
const COLUMNS: [Column; 15] = [
    ("model", |row| row.model_type.clone()),
    ("size", |row| bytes(row.model_size)),
    ("params", |row| count(row.model_n_params)),
    ("threads", |row| row.n_threads.to_string()),
    ("tier", |row| row.tier.clone()),
    ("kv", |row| row.type_k.clone()),
    ("seq", |row| row.n_parallel.to_string()),
    ("test", Row::test_name),
    ("t/s", |row| format!("{} ± {}", figure(row.avg_ts), figure(row.stddev_ts))),
    ("95 % of the mean", |row| row.ci95_ts.map_or_else(none, |[a, b]| format!("{} … {}", figure(a), figure(b)))),
    ("GB/s or TOPS", |row| match (row.gb_per_s, row.tops) {
        (Some(rate), _) => format!("{rate:.2} GB/s"),
        (None, Some(rate)) => format!("{rate:.3} TOPS"),
        (None, None) => none(),
    }),
    ("of peak", |row| row.share_of_peak.map_or_else(none, |share| format!("{:.0} %", 100.0 * share))),
    ("p50 µs", |row| row.p50_us.map_or_else(none, figure)),
    ("p99 µs", |row| row.p99_us.map_or_else(none, figure)),
    ("p99.9 µs", |row| row.p999_us.map_or_else(none, figure)),
];

/// Columns of words, which stand to the left.
const WORDS: [&str; 4] = ["model", "tier", "kv", "test"];

fn none() -> String {
    "-".to_owned()
}

fn table(rows: &[Row]) -> Result<String, Error> {
    let heads = COLUMNS.iter().map(|column| column.0.to_owned()).collect::<Vec<_>>();
    let cells = rows.iter().map(|row| COLUMNS.iter().map(|column| column.1(row)).collect::<Vec<_>>());
    aligned(&std::iter::once(heads).chain(cells).collect::<Vec<_>>(), &WORDS)
}

/// A Markdown table of lines of cells, the first of which are the heads; those of `words` stand to the left.
pub(crate) fn aligned(lines: &[Vec<String>], words: &[&str]) -> Result<String, Error> {
    let heads: &[String] = lines.first().map_or(&[], Vec::as_slice);
    let width = |i: usize| lines.iter().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|i| width(i).unwrap_or(0).max(3)).collect();
    let left: Vec<bool> = heads.iter().map(|head| words.contains(&head.as_str())).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        for ((cell, width), left) in line.iter().zip(&widths).zip(&left) {
            if *left { write!(text, "| {cell:<width$} ")? } else { write!(text, "| {cell:>width$} ")? }
        }
        text.push_str("|\n");
        if n == 0 {
            for (width, left) in widths.iter().zip(&left) {
                let dashes = "-".repeat(width - 1);
                if *left { write!(text, "| {dashes}- ")? } else { write!(text, "| {dashes}: ")? }
            }
            text.push_str("|\n");
        }
    }
    Ok(text)
}

/// A number with at least three digits and at most two decimals.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Bytes with a binary unit.
fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1_073_741_824.0 => format!("{:.2} GiB", n / 1_073_741_824.0),
        n if n >= 1_048_576.0 => format!("{:.2} MiB", n / 1_048_576.0),
        n => format!("{:.2} KiB", n / 1024.0),
    }
}

/// Lists stand in their cell as JSON; what is none is empty.
fn csv(rows: &[Row]) -> Result<String, Error> {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let Value::Object(fields) = serde_json::to_value(row).map_err(Error::Json)? else { continue };
        if i == 0 {
            text.push_str(&fields.keys().map(String::as_str).collect::<Vec<_>>().join(","));
            text.push_str("\r\n");
        }
        let cells = fields.values().map(|value| match value {
            Value::Null => String::new(),
            Value::String(text) => quoted(text),
            other => quoted(&other.to_string()),
        });
        text.push_str(&cells.collect::<Vec<_>>().join(","));
        text.push_str("\r\n");
    }
    Ok(text)
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Test;
    use crate::row::tests::{cell, machine, no_meter};

    fn report() -> Report {
        let machine = machine();
        let rows = vec![
            Row::of(&cell(Test::Prompt(100), 1, &[50, 50, 50, 50, 50, 90]), &machine, &no_meter()),
            Row::of(&cell(Test::Generate(4), 2, &[10, 20, 10, 20, 40]), &machine, &no_meter()),
        ];
        Report { rows, machine }
    }

    #[test]
    fn a_table_for_people() {
        let text = report().write(Form::Markdown).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines[..4].iter().all(|line| line.chars().count() == width), "{text}");
        assert!(lines[2].contains("pp100") && lines[2].contains("TOPS") && lines[3].contains("GB/s"), "{text}");
        assert!(text.contains("- **DISTURBED**: other processes took 20.0 %"), "{text}");
        assert!(text.contains("- peak with 2 threads: memory is read at 10.0 GB/s; 8-bit products at 0.500 TOPS"));
        assert!(text.contains("- outlier: repetition 6 of tiny.gguf pp100 took 0.090 ms; it is counted"), "{text}");
        assert!(text.contains("- note: huge pages"));
        assert!(text.contains("- memory: tiny.gguf with 2 sequences: plan 9.76 KiB"), "{text}");
        assert!(text.contains("takes 1.10 times as long at p99, 1.50 at p99.9, 9.0 at most (of 20000)"));
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let report = report();
        let rows: Vec<Row> = serde_json::from_str(&report.write(Form::Json).unwrap()).unwrap();
        assert_eq!(rows, report.rows);
        let lines = report.write(Form::JsonLines).unwrap();
        assert_eq!(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Row>>(), report.rows);
        let value: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        for name in ["avg_ts", "ci95_ts", "peak_gb_per_s", "joules_per_token", "energy_status", "digest", "p999_us"] {
            assert!(value.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn csv_has_a_header_and_quotes_lists() {
        let text = report().write(Form::Csv).unwrap();
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("version,cpu_info,model_filename,"));
        assert!(lines[1].contains(",\"[50000,50000,50000,50000,50000,90000]\","), "{}", lines[1]);
        assert!(lines[1].contains(",,unmeasured,"), "{}", lines[1]);
        assert_eq!(quoted("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }
}
