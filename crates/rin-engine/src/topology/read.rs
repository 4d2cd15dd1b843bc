//! Reading the small files by which Linux describes the machine.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::cpu_list::{CpuId, parse_cpu_list};

/// No file that is read here is longer; what is beyond is left out.
const MAX_BYTES: u64 = 64 << 10;

/// A machine that answers every question wrongly still gets a readable report.
const MAX_NOTES: usize = 32;

/// What could not be read as expected, in words, for `rin doctor`.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<String>);

impl Notes {
    pub(crate) fn add(&mut self, note: String) {
        if self.0.len() < MAX_NOTES {
            self.0.push(note);
        } else if self.0.len() == MAX_NOTES {
            self.0.push("further notes are left out".to_owned());
        }
    }

    pub(crate) fn into_inner(self) -> Vec<String> {
        self.0
    }
}

/// The text of a file; `None` when it is not there (no note) or cannot be read (a note).
pub(crate) fn read_small(path: &Path, notes: &mut Notes) -> Option<String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
                notes.add(format!("{}: {error}", path.display()));
            }
            None
        }
    }
}

/// The processor list in a file; `None` when there is none, or a malformed one (a note).
pub(crate) fn read_cpu_list(path: &Path, notes: &mut Notes) -> Option<Vec<CpuId>> {
    let text = read_small(path, notes)?;
    parse_cpu_list(&text).map_err(|error| notes.add(format!("{}: {error}", path.display()))).ok()
}

/// The integer in a file; `None` when there is none, or something else (a note).
pub(crate) fn read_number(path: &Path, notes: &mut Notes) -> Option<i64> {
    let text = read_small(path, notes)?;
    let number = text.trim().parse().ok();
    if number.is_none() {
        notes.add(format!("{}: not a whole number", path.display()));
    }
    number
}
