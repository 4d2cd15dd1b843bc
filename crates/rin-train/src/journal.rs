//! The log of a training: one JSON object per line.

use crate::Error;
use crate::evaluate::Evaluation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Line {
    /// Steps.
    Train {
        step: usize,
        /// Mean loss per token since the line before, in nats.
        loss: f64,
        lr: f64,
        grad_norm: f64,
        tokens_per_second: f64,
    },
    /// An evaluation.
    Eval { step: usize, nats_per_char: f64, interval: [f64; 2], nats_per_token: f64, seconds: f64 },
}

impl Line {
    pub(crate) fn step(&self) -> usize {
        match self {
            Self::Train { step, .. } | Self::Eval { step, .. } => *step,
        }
    }

    pub(crate) fn eval(step: usize, e: &Evaluation, seconds: f64) -> Self {
        let Evaluation { nats_per_char, interval, nats_per_token, .. } = *e;
        Self::Eval { step, nats_per_char, interval, nats_per_token, seconds }
    }
}

/// The file, and its lines so far for the plot.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    pub(crate) lines: Vec<Line>,
}

impl Journal {
    /// Begins the log anew, or keeps its lines up to `resumed_at`.
    pub(crate) fn open(path: &Path, resumed_at: usize) -> Result<Self, Error> {
        let text = if resumed_at > 0 { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        // A line that a kill has cut short is no loss.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let lines: Vec<Line> = lines.filter(|line| line.step() <= resumed_at).collect();
        let open = OpenOptions::new().create(true).write(true).truncate(true).open(path);
        let file = open.map_err(|e| Error::writing(path, e))?;
        let mut journal = Self { file, path: path.to_owned(), lines: Vec::new() };
        for line in lines {
            journal.add(line)?;
        }
        Ok(journal)
    }

    pub(crate) fn add(&mut self, line: Line) -> Result<(), Error> {
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| Error::writing(&self.path, e))?;
        self.lines.push(line);
        Ok(())
    }
}
