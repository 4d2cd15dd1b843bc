//! `rin energy sensors`.

use std::fmt::Write;

use anyhow::Result;
use rin_energy::{Sensors, SourceState};
use serde::Serialize;

use crate::args::SensorsArgs;
use crate::output;

/// What became of looking for a source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceInfo {
    source: &'static str,
    state: &'static str,
    looked_for: String,
    domains: Vec<String>,
    reason: Option<String>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SensorsJson {
    /// The source that is read.
    used: Option<&'static str>,
    reason: Option<String>,
    sources: Vec<SourceInfo>,
}

/// Every source, in the order in which they are tried.
pub(crate) fn sources(sensors: &Sensors) -> Vec<SourceInfo> {
    let info = |report: &rin_energy::SourceReport| {
        let (state, domains, reason) = match &report.state {
            SourceState::Available(domains) => {
                ("available", domains.iter().map(|domain| domain.name.clone()).collect(), None)
            }
            SourceState::Failed(error) => ("failed", Vec::new(), Some(error.to_string())),
            other => ("absent", Vec::new(), Some(other.to_string())),
        };
        SourceInfo {
            source: report.source.name(),
            state,
            looked_for: report.looked_for.display().to_string(),
            domains,
            reason,
            notes: report.notes.clone(),
        }
    };
    sensors.sources().iter().map(info).collect()
}

/// Lists the sensors of the machine.
///
/// # Errors
/// Where standard output cannot be written; a machine without sensors is no failure.
pub(crate) fn list(args: &SensorsArgs) -> Result<()> {
    let sensors = Sensors::discover(&args.sensors.sys_root);
    let chosen = sensors.chosen();
    let found = SensorsJson {
        used: chosen.as_ref().ok().map(|source| source.name()),
        reason: chosen.err().map(|error| error.to_string()),
        sources: sources(&sensors),
    };
    if args.output.json {
        return output::json(&found);
    }
    let mut text = String::new();
    for source in &found.sources {
        let what = source.reason.clone().unwrap_or_else(|| source.domains.join(", "));
        writeln!(text, "{:<9} {:<10} {what}", source.source, source.state)?;
        for note in &source.notes {
            writeln!(text, "          note       {note}")?;
        }
    }
    match found.used {
        Some(source) => writeln!(text, "energy is read from {source}")?,
        None => writeln!(text, "energy is not measured on this machine: results say `unmeasured`, and why")?,
    }
    output::text(&text)
}
