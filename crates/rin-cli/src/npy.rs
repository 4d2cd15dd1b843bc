//! A NumPy array file of f32 rows, written as the rows come.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, version 1.0. The header has a fixed
//! size and gets the number of rows at the end; the file appears under its name only then.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::interrupt;

/// Bytes before the data.
const HEADER: usize = 128;
/// Magic, version and length of the dictionary.
const PREAMBLE: usize = 10;
/// Bytes of the dictionary, padded.
const DICTIONARY: u16 = 118;
const _: () = assert!(PREAMBLE + DICTIONARY as usize == HEADER);
/// Values that are turned into bytes at a time.
const CHUNK: usize = 256;

/// An array under way. Dropped without [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct NpyWriter {
    out: BufWriter<File>,
    path: PathBuf,
    /// The name until the end; none where the path is a device and is written itself.
    temporary: Option<PathBuf>,
    n_rows: usize,
    row_len: usize,
}

impl NpyWriter {
    /// An array of rows of `row_len` values.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn create(path: &Path, row_len: usize) -> io::Result<Self> {
        let found = std::fs::metadata(path).ok();
        if found.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let device = found.is_some_and(|found| !found.is_file());
        let temporary = if device { None } else { Some(beside(path)?) };
        let file = match &temporary {
            None => OpenOptions::new().write(true).open(path)?,
            Some(temporary) => OpenOptions::new().write(true).create_new(true).open(temporary)?,
        };
        if device {
            // The number of rows goes into the header at the end, so what cannot be sought cannot be written.
            (&file).stream_position()?;
        }
        interrupt::set_half_written(temporary.as_deref());
        let out = BufWriter::with_capacity(1 << 16, file);
        let mut writer = Self { out, path: path.to_path_buf(), temporary, n_rows: 0, row_len };
        writer.out.write_all(&header(0, row_len))?;
        Ok(writer)
    }

    /// Adds a row. Allocates nothing.
    ///
    /// # Errors
    /// `InvalidInput` for a row of another length; what the system answers.
    pub(crate) fn row(&mut self, values: &[f32]) -> io::Result<()> {
        if values.len() != self.row_len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = [0; 4 * CHUNK];
        for chunk in values.chunks(CHUNK) {
            for (to, value) in bytes.chunks_exact_mut(4).zip(chunk) {
                to.copy_from_slice(&value.to_le_bytes());
            }
            self.out.write_all(&bytes[..4 * chunk.len()])?;
        }
        self.n_rows += 1;
        Ok(())
    }

    /// Puts the number of rows into the header and gives the file its name.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        let file = self.out.get_mut();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header(self.n_rows, self.row_len))?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        file.sync_all()?;
        std::fs::rename(temporary, &self.path)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NpyWriter {
    fn drop(&mut self) {
        interrupt::set_half_written(None);
        if let Some(temporary) = &self.temporary {
            // The failure that led here is the one to report.
            drop(std::fs::remove_file(temporary));
        }
    }
}

/// A name in the same folder, so that the rename stays within one file system.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.tmp", std::process::id())))
}

fn header(n_rows: usize, row_len: usize) -> [u8; HEADER] {
    let mut header = [b' '; HEADER];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..PREAMBLE].copy_from_slice(&DICTIONARY.to_le_bytes());
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}, {row_len}), }}");
    header[PREAMBLE..PREAMBLE + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as `numpy.save` writes them for `numpy.zeros((2, 3), "<f4")`, where the dictionary is the same.
    #[test]
    fn the_header_is_that_of_numpy() {
        let header = header(2, 3);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(header[10..].trim_ascii_end(), b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        assert_eq!((header.len(), header[127]), (128, b'\n'));
    }

    #[test]
    fn the_largest_shape_fits_the_header() {
        assert_eq!(header(usize::MAX, usize::MAX)[HEADER - 1], b'\n');
    }
}
