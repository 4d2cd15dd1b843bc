//! Files and folders that exist under a temporary name until they are whole.

use crate::Error;
use crate::staged::{Temporary, check_place};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// A file while it grows. Dropped before it is published, it removes itself.
pub(super) struct NewFile {
    file: BufWriter<File>,
    temporary: Option<Temporary>,
    dst: PathBuf,
    needed: u64,
}

impl NewFile {
    /// A file beside its destination.
    pub(super) fn beside(dst: &Path, needed: u64) -> Result<Self, Error> {
        let temporary = Temporary::beside(dst).map_err(|error| Error::writing(dst, needed, error))?;
        let mut file = Self::at(temporary.path(), dst, needed)?;
        file.temporary = Some(temporary);
        Ok(file)
    }

    /// A file in a folder that is temporary itself; `dst` is what messages name.
    pub(super) fn at(path: &Path, dst: &Path, needed: u64) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| Error::writing(dst, needed, error))?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), temporary: None, dst: dst.to_path_buf(), needed })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::writing(&self.dst, self.needed, error))
    }

    /// Brings all bytes to the disk.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.map_err(|error| Error::writing(&self.dst, self.needed, error))
    }

    /// Finishes the file, has it checked, and gives it its name.
    pub(super) fn publish(
        mut self,
        overwrite: bool,
        check: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.finish()?;
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        check(temporary.path())?;
        if !overwrite && self.dst.exists() {
            return Err(Error::Exists(self.dst.clone()));
        }
        temporary.publish(&self.dst).map_err(|error| Error::writing(&self.dst, self.needed, error))
    }
}

/// All names that an export to a folder writes.
pub(super) const NAMES: [&str; 5] =
    ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

/// Refuses a destination that is no place for a folder.
pub(super) fn check_folder(dst: &Path, sources: &[PathBuf], overwrite: bool) -> Result<(), Error> {
    check_place(dst, sources)?;
    let inside = |source: &PathBuf| {
        let (source, dst) = (source.canonicalize().ok()?, dst.canonicalize().ok()?);
        Some(source.starts_with(dst))
    };
    if sources.iter().any(|source| inside(source) == Some(true)) {
        return Err(Error::DestinationIsSource(dst.to_owned()));
    }
    match std::fs::metadata(dst) {
        Ok(found) if !found.is_dir() => Err(Error::DestinationIsNoFolder(dst.to_owned())),
        Ok(_) => check_contents(dst, overwrite),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::writing(dst, 0, error)),
    }
}

/// A folder may be replaced if it is empty, or holds what an export writes and nothing else.
fn check_contents(dst: &Path, overwrite: bool) -> Result<(), Error> {
    let refused = |error| Error::writing(dst, 0, error);
    let mut is_empty = true;
    for entry in std::fs::read_dir(dst).map_err(refused)? {
        let name = entry.map_err(refused)?.file_name();
        is_empty = false;
        if !NAMES.iter().any(|known| name == *known) {
            let found = name.to_string_lossy().into_owned();
            return Err(Error::FolderHoldsMore { path: dst.to_owned(), found });
        }
    }
    if is_empty || overwrite { Ok(()) } else { Err(Error::Exists(dst.to_owned())) }
}

/// A folder while it is filled. Dropped before it is published, it removes itself.
pub(super) struct NewFolder {
    temporary: Temporary,
    dst: PathBuf,
    needed: u64,
}

impl NewFolder {
    /// A folder beside its destination; `needed` bytes will be written.
    pub(super) fn beside(dst: &Path, needed: u64) -> Result<Self, Error> {
        let refused = |error| Error::writing(dst, needed, error);
        let temporary = Temporary::beside(dst).map_err(refused)?;
        std::fs::create_dir(temporary.path()).map_err(refused)?;
        Ok(Self { temporary, dst: dst.to_path_buf(), needed })
    }

    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// A new file of the folder.
    pub(super) fn file(&self, name: &str) -> Result<NewFile, Error> {
        NewFile::at(&self.path().join(name), &self.dst, self.needed)
    }

    /// Writes a whole file.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.file(name)?;
        file.write(bytes)?;
        file.finish()
    }

    /// Gives the folder its name. What was there goes away only after it is in place, and comes back if it is not.
    pub(super) fn publish(self, overwrite: bool) -> Result<(), Error> {
        let Self { temporary, dst, needed } = self;
        let refused = |error| Error::writing(&dst, needed, error);
        // The files are on the disk; so should be their names, on file systems that can be asked for it.
        File::open(temporary.path()).and_then(|folder| folder.sync_all()).ok();
        if !dst.exists() {
            return temporary.publish(&dst).map_err(refused);
        }
        check_contents(&dst, overwrite)?;
        let mut old = Temporary::beside(&dst).map_err(refused)?;
        std::fs::rename(&dst, old.path()).map_err(refused)?;
        if let Err(error) = temporary.publish(&dst) {
            if std::fs::rename(old.path(), &dst).is_err() {
                // Better under another name than not at all.
                old.keep();
            }
            return Err(refused(error));
        }
        Ok(())
    }
}
