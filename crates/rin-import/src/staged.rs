//! A file that exists under a temporary name until it is whole.

use crate::Error;
use crate::layout::Header;
use rin_model::ModelFile;
use rin_model::rin_format::{ALIGNMENT, hex};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;
/// Longest name, in bytes, that a temporary name can be made of within the 255 that file systems allow.
const MAX_NAME: usize = 200;

/// Refuses a destination that is no place for the result.
pub(crate) fn check_destination(dst: &Path, sources: &[PathBuf], overwrite: bool) -> Result<(), Error> {
    check_place(dst, sources)?;
    match std::fs::metadata(dst) {
        Ok(found) if !found.is_file() => Err(Error::DestinationIsNoFile(dst.to_owned())),
        Ok(_) if !overwrite => Err(Error::Exists(dst.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::writing(dst, 0, error)),
    }
}

/// Refuses a destination without a name, without a folder around it, or in the source's place.
pub(crate) fn check_place(dst: &Path, sources: &[PathBuf]) -> Result<(), Error> {
    if dst.file_name().is_none() {
        return Err(Error::DestinationIsNoFile(dst.to_owned()));
    }
    let folder = folder(dst);
    if !folder.is_dir() {
        return Err(Error::NoFolder(folder.to_owned()));
    }
    // A source may be reached by a link: neither the link nor what it leads to may be replaced.
    let target = dst.canonicalize().ok();
    let is_target = |source: &PathBuf| source.canonicalize().ok().is_some_and(|source| Some(source) == target);
    if sources.iter().any(|source| is_target(source) || (place(source).is_some() && place(source) == place(dst))) {
        return Err(Error::DestinationIsSource(dst.to_owned()));
    }
    Ok(())
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A path whose folder is free of links.
fn place(path: &Path) -> Option<PathBuf> {
    Some(folder(path).canonicalize().ok()?.join(path.file_name()?))
}

/// A name beside the destination that nobody else uses: of this process, and of this import within it.
fn temporary_name(dst: &Path) -> PathBuf {
    static IMPORTS: AtomicU64 = AtomicU64::new(0);
    let name = dst.file_name().unwrap_or_default().to_string_lossy();
    let name = if name.len() > MAX_NAME { "rin" } else { &name };
    let import = IMPORTS.fetch_add(1, Ordering::Relaxed);
    folder(dst).join(format!(".{name}.tmp-{}-{import}", std::process::id()))
}

/// A name beside a destination. Dropped before it is published, what has it by then is removed.
pub(crate) struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    /// A name that nothing has.
    pub(crate) fn beside(dst: &Path) -> io::Result<Self> {
        let path = temporary_name(dst);
        // Whatever has this name is left from a process that was killed and had this one's number.
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { path, keep: false }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves what has the name where it is.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Gives it its name.
    pub(crate) fn publish(mut self, dst: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, dst)?;
        self.keep();
        // The file is whole whichever name a power failure leaves it under, and not all file systems sync folders.
        File::open(folder(dst)).and_then(|folder| folder.sync_all()).ok();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing more can be done about what cannot be removed.
            let removed = if self.path.is_dir() { std::fs::remove_dir_all } else { std::fs::remove_file };
            removed(&self.path).ok();
        }
    }
}

/// The file while it grows. Dropped before it is published, it removes itself.
pub(crate) struct Staged {
    file: BufWriter<File>,
    temporary: Temporary,
    dst: PathBuf,
    hash: Sha256,
    header_bytes: u64,
    needed: u64,
}

impl Staged {
    /// Creates the temporary file and leaves room for the header.
    pub(crate) fn create(dst: &Path, header: &Header, data_bytes: u64) -> Result<Self, Error> {
        let room = vec![0; header.bytes()?.len()];
        let header_bytes = u64::try_from(room.len()).unwrap_or(u64::MAX);
        let needed = data_bytes.saturating_add(header_bytes);
        let refused = |error| Error::writing(dst, needed, error);
        let temporary = Temporary::beside(dst).map_err(refused)?;
        let file = OpenOptions::new().write(true).create_new(true).open(temporary.path()).map_err(refused)?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let (dst, hash) = (dst.to_path_buf(), Sha256::new());
        let mut staged = Self { file, temporary, dst, hash, header_bytes, needed };
        staged.file.write_all(&room).map_err(|error| staged.refused(error))?;
        Ok(staged)
    }

    fn refused(&self, error: io::Error) -> Error {
        Error::writing(&self.dst, self.needed, error)
    }

    /// Adds data.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|error| self.refused(error))
    }

    /// Adds data, and `padding` up to the alignment; returns how many bytes both are.
    pub(crate) fn write_padded(&mut self, bytes: &[u8], padding: u8) -> Result<usize, Error> {
        let alignment = usize::try_from(ALIGNMENT).unwrap_or(1);
        let padded = bytes.len().next_multiple_of(alignment);
        self.write(bytes)?;
        self.write(&vec![padding; padded.saturating_sub(bytes.len())])?;
        Ok(padded)
    }

    /// Writes the header with the hash, makes sure that the file is on the disk and can be read, and renames it.
    /// Returns its length and the hash.
    pub(crate) fn publish(mut self, mut header: Header, overwrite: bool) -> Result<(u64, String), Error> {
        let sha256 = hex(&std::mem::take(&mut self.hash).finalize());
        header.record(&sha256);
        self.finish(&header.bytes()?).map_err(|error| self.refused(error))?;
        let written = ModelFile::open(self.temporary.path())?;
        if written.network().is_none() {
            written.config()?;
        }
        if !overwrite && self.dst.exists() {
            return Err(Error::Exists(self.dst.clone()));
        }
        let Self { temporary, dst, needed, .. } = self;
        temporary.publish(&dst).map_err(|error| Error::writing(&dst, needed, error))?;
        Ok((needed, sha256))
    }

    fn finish(&mut self, header: &[u8]) -> io::Result<()> {
        self.file.flush()?;
        let end = self.file.stream_position()?;
        if (end, header.len() as u64) != (self.needed, self.header_bytes) {
            return Err(io::Error::other(format!("{end} bytes were written where {} were planned", self.needed)));
        }
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(header)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}
