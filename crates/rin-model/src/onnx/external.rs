//! Constants that lie in files beside an ONNX model.
//!
//! The path is written by whoever wrote the model, and several readers of ONNX have let it lead out of the folder
//! (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447). Here a path is a list of plain names
//! under the model's folder, none of which is a link, and the file has no second name.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, fault};

const SECTION: &str = "ONNX external data";

/// Reads from the files of one model's folder.
#[derive(Debug, Default)]
pub struct ExternalFiles {
    folder: Option<PathBuf>,
    bytes: Vec<u8>,
}

impl ExternalFiles {
    /// Files under `folder`.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: Some(folder.to_path_buf()), bytes: Vec::new() }
    }

    /// None: the model is in memory alone.
    pub fn none() -> Self {
        Self::default()
    }

    /// `length` bytes of a file from `offset` on; `wanted` is what the constant takes.
    ///
    /// # Errors
    /// `PathEscape` for a path that leads out of the folder, over a link, or to a file with a second name; `MissingFile`;
    /// `BadShape` where `length` is not `wanted`; `OutOfBounds` past the end of the file; `Io`.
    pub(super) fn read(
        &mut self,
        name: &str,
        location: &str,
        offset: u64,
        length: u64,
        wanted: usize,
    ) -> Result<&[u8], Error> {
        if u64::try_from(wanted).ok() != Some(length) {
            let found = format!("{length} bytes in `{location}`");
            return Err(Error::BadShape(fault(SECTION, name, format!("{wanted} bytes, as the shape says"), found)));
        }
        let (path, seen) = self.resolve(name, location)?;
        let io = |source| Error::io(&path, source);
        let mut file = File::open(&path).map_err(io)?;
        let opened = file.metadata().map_err(io)?;
        // What was looked at is what was opened: nobody has put a link there in between.
        if !same_file(&seen, &opened) {
            return Err(Error::PathEscape(fault(SECTION, name, "a file that stays where it is", location)));
        }
        let size = opened.len();
        if offset.checked_add(length).is_none_or(|end| end > size) {
            let found = format!("{length} bytes from {offset} in a file of {size}");
            return Err(Error::OutOfBounds(fault(SECTION, name, "bytes within the file", found)));
        }
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        self.bytes.clear();
        // The size was held against the file before so much is reserved.
        file.take(length).read_to_end(&mut self.bytes).map_err(io)?;
        if self.bytes.len() == wanted {
            return Ok(&self.bytes);
        }
        let found = format!("{} bytes", self.bytes.len());
        Err(Error::OutOfBounds(fault(SECTION, name, format!("{wanted} bytes"), found)))
    }

    fn resolve(&self, name: &str, location: &str) -> Result<(PathBuf, Metadata), Error> {
        let escape = |found: &str| {
            let expected = "the path of a file of its own under the model's folder";
            Error::PathEscape(fault(SECTION, name, expected, format!("`{location}`, {found}")))
        };
        let Some(folder) = &self.folder else {
            let found = format!("`{location}`, and the model is in memory");
            return Err(Error::MissingFile(fault(SECTION, name, "a model in a folder", found)));
        };
        let relative = Path::new(location);
        // A backslash is a name's own character here and a separator elsewhere: no exporter needs it.
        if location.is_empty() || location.contains(['\\', '\0', ':']) {
            return Err(escape("which is no plain path"));
        }
        if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(escape("which leads elsewhere"));
        }
        let mut path = folder.clone();
        let mut last = None;
        for part in relative.components() {
            path.push(part);
            let metadata = std::fs::symlink_metadata(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    let found = format!("no `{location}`");
                    Error::MissingFile(fault(SECTION, name, "the file that holds this constant", found))
                }
                _ => Error::io(&path, error),
            })?;
            if metadata.is_symlink() {
                return Err(escape("which leads over a link"));
            }
            last = Some(metadata);
        }
        let metadata = last.filter(Metadata::is_file).ok_or_else(|| escape("which is no file"))?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&metadata) != 1 {
            return Err(escape("which has a second name, so that it may be another's"));
        }
        Ok((path, metadata))
    }
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len()
}
