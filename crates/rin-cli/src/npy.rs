//! NumPy array files of f32 rows, written as the rows come, and archives of several.
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
    row_shape: Vec<usize>,
}

impl NpyWriter {
    /// An array of rows of `row_len` values.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn create(path: &Path, row_len: usize) -> io::Result<Self> {
        Self::shaped(path, &[row_len])
    }

    /// An array of rows of a shape.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn shaped(path: &Path, row_shape: &[usize]) -> io::Result<Self> {
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
        let mut writer = Self { out, path: path.to_path_buf(), temporary, n_rows: 0, row_shape: row_shape.to_vec() };
        writer.out.write_all(&header(0, row_shape))?;
        Ok(writer)
    }

    /// Adds a row. Allocates nothing.
    ///
    /// # Errors
    /// `InvalidInput` for a row of another length; what the system answers.
    pub(crate) fn row(&mut self, values: &[f32]) -> io::Result<()> {
        if values.len() != self.row_shape.iter().product::<usize>() {
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
        file.write_all(&header(self.n_rows, &self.row_shape))?;
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

/// The header of `n_rows` rows of a shape; the product of all sizes is one of memory, so that they fit.
fn header(n_rows: usize, row_shape: &[usize]) -> [u8; HEADER] {
    let mut header = [b' '; HEADER];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..PREAMBLE].copy_from_slice(&DICTIONARY.to_le_bytes());
    let row: String = row_shape.iter().map(|n| format!(", {n}")).collect();
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}{row}), }}");
    header[PREAMBLE..PREAMBLE + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}

/// Writes named arrays as a `.npz`: a zip archive of `.npy` files, stored as they are.
///
/// Format: PKWARE's APPNOTE.TXT, sections 4.3.7 and 4.3.12; no archive of more than 4 GiB, which would need its later
/// version.
///
/// # Errors
/// `InvalidInput` for more than 4 GiB; what the system answers.
pub(crate) fn write_npz(path: &Path, arrays: &[(&str, usize, &[usize], &[f32])]) -> io::Result<()> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    let word = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    for (name, rows, row_shape, values) in arrays {
        let name = format!("{name}.npy");
        let mut data = header(*rows, row_shape).to_vec();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let (size, start) = (word(data.len())?, word(archive.len())?);
        // Version 2.0, names in UTF-8, stored, the first day of the zip calendar.
        let mut entry = [20, 0, 0, 8, 0, 0, 0, 0, 0x21, 0].to_vec();
        entry.extend([crc32(&data), size, size].iter().flat_map(|n| n.to_le_bytes()));
        entry.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        entry.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&entry);
        archive.extend(name.as_bytes());
        archive.extend(&data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&entry);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(arrays.len()).unwrap_or(u16::MAX).to_le_bytes();
    let (length, start) = (word(directory.len())?, word(archive.len())?);
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend([count, count].concat());
    archive.extend([length, start].iter().flat_map(|n| n.to_le_bytes()));
    archive.extend([0, 0]);
    let temporary = beside(path)?;
    interrupt::set_half_written(Some(&temporary));
    let written = std::fs::write(&temporary, &archive).and_then(|()| std::fs::rename(&temporary, path));
    interrupt::set_half_written(None);
    if written.is_err() {
        // The failure that led here is the one to report.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// The check sum of zip archives: CRC-32 of ISO 3309, bit by bit, which is fast enough beside the disk.
fn crc32(data: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xedb8_8320 })
    };
    !data.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as `numpy.save` writes them for `numpy.zeros((2, 3), "<f4")`, where the dictionary is the same.
    #[test]
    fn the_header_is_that_of_numpy() {
        let header = header(2, &[3]);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(header[10..].trim_ascii_end(), b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        assert_eq!((header.len(), header[127]), (128, b'\n'));
    }

    #[test]
    fn check_sums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn the_largest_shape_fits_the_header() {
        assert_eq!(header(usize::MAX, &[usize::MAX])[HEADER - 1], b'\n');
        assert_eq!(header(1 << 31, &[1 << 31, 1 << 31])[HEADER - 1], b'\n');
    }
}
