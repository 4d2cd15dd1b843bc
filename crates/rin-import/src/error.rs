//! What can go wrong between a foreign model and a `.rin` file.

use crate::export::DTYPES;
use crate::foreign::ForeignError;
use crate::quantize::TARGETS;
use rin_kernels::Format;
use std::io;
use std::path::{Path, PathBuf};

/// Failures of an import or an export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source cannot be read, or is damaged.
    #[error(transparent)]
    Model(#[from] rin_model::Error),
    /// The source is no network that RIN runs, or holds a weight that is no number.
    #[error(transparent)]
    Engine(#[from] rin_engine::Error),
    /// A PyTorch, safetensors or legacy file that cannot be imported.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// The source has been imported before.
    #[error("{} is a .rin file already; import the model that it was made from", .0.display())]
    AlreadyRin(PathBuf),
    /// A type that matrices cannot be converted to.
    #[error("cannot convert weights to {found}; the targets are {}", names(&TARGETS))]
    QuantTarget {
        /// The type that was asked for.
        found: Format,
    },
    /// A weight that is finite in the source and infinite in the target type.
    #[error(
        "tensor '{tensor}' has a weight in row {row}, near column {col}, that is too large for {format}; choose another type"
    )]
    OutOfRange {
        /// Name of the tensor.
        tensor: String,
        /// Row, in the order in which the network wants them.
        row: usize,
        /// First column of the block.
        col: usize,
        /// The target type.
        format: Format,
    },
    /// There is a file at the destination.
    #[error("{} exists already; choose another name, or --overwrite to replace it", .0.display())]
    Exists(PathBuf),
    /// The destination cannot be replaced by a file.
    #[error("{} is no file but a folder or a device; name the file to write", .0.display())]
    DestinationIsNoFile(PathBuf),
    /// The destination is part of the source.
    #[error("{} belongs to the source; choose another name for the result", .0.display())]
    DestinationIsSource(PathBuf),
    /// The destination's folder does not exist.
    #[error("there is no folder {}; make it first, or choose another place for the result", .0.display())]
    NoFolder(PathBuf),
    /// The destination's file system, quota or file size limit is exhausted.
    #[error("no room for {}: the file takes {needed} bytes ({source}); free some space, or choose another place", path.display())]
    DiskFull {
        /// The destination.
        path: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The destination's folder must not be written to.
    #[error("{} may not be written ({source}); choose a folder that is yours, or ask its owner", path.display())]
    PermissionDenied {
        /// The destination.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Any other refusal of the operating system.
    #[error("{}: {source}; check the path and the device that it is on", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// More tensors than a safetensors header can describe.
    #[error(
        "the header would take {0} bytes, and safetensors allows 100000000; the model has too many tensors for one file"
    )]
    HeaderTooLong(usize),
    /// Two tensors of one name: the source has one with the name of the tokenizer.
    #[error("the source has a tensor '{tensor}', a name that .rin keeps for itself; rename it in the source")]
    NameTaken {
        /// The name.
        tensor: String,
    },
    /// The header could not be put into words.
    #[error("the header cannot be written as JSON: {0}; the model's configuration is damaged")]
    Header(#[from] serde_json::Error),
    /// A tensor in memory whose bytes are not those of its shape.
    #[error("tensor '{tensor}' of shape {shape:?} in {format} comes with {found} bytes, which is not what that takes")]
    BytesDoNotFit {
        /// Name of the tensor.
        tensor: String,
        /// The shape that it was given.
        shape: Vec<usize>,
        /// The type that it was given.
        format: Format,
        /// Bytes that came.
        found: usize,
    },
    /// A size that no file can have.
    #[error("tensor '{tensor}' is larger than any file can be; the source is damaged")]
    TooLarge {
        /// Name of the tensor.
        tensor: String,
    },
    /// The name of an export's destination asks for another format.
    #[error("{} is no place for an export: name a .gguf file or a folder; rin import writes .rin", .0.display())]
    DestinationKind(PathBuf),
    /// There is a file where a folder is to be written.
    #[error("{} is no folder; choose another name, or one that ends in .gguf", .0.display())]
    DestinationIsNoFolder(PathBuf),
    /// The folder that would be replaced holds more than an export writes.
    #[error("{} holds `{found}`, which an export would remove with the folder; choose another folder", path.display())]
    FolderHoldsMore {
        /// The folder.
        path: PathBuf,
        /// The first such file.
        found: String,
    },
    /// A type was asked for where all types are kept.
    #[error("a GGUF file keeps the types of all matrices; --dtype is for Hugging Face folders")]
    DtypeForGguf,
    /// A type that folders do not hold.
    #[error("cannot write {found} to a Hugging Face folder; it holds {}", names(&DTYPES))]
    ExportType {
        /// The type that was asked for.
        found: Format,
    },
    /// The target has no way to say what the network computes.
    #[error("{target} cannot hold this model: {what}")]
    Inexpressible {
        /// The target.
        target: &'static str,
        /// What it cannot hold.
        what: String,
    },
    /// The target has no way to say how the tokenizer splits texts.
    #[error("the tokenizer cannot be written as {target}: {what}; --without-tokenizer writes the model alone")]
    Tokenizer {
        /// The target.
        target: &'static str,
        /// What it cannot say.
        what: String,
    },
    /// `cancel` of the options was set.
    #[error("interrupted; nothing was written")]
    Cancelled,
}

fn names(formats: &[Format]) -> String {
    formats.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// What happened to the destination, of `needed` bytes.
    pub(crate) fn writing(path: &Path, needed: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { path, needed, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::PermissionDenied { path, source }
            }
            io::ErrorKind::IsADirectory => Self::DestinationIsNoFile(path),
            _ => Self::Io { path, source },
        }
    }

    /// What a target has no words for, of a configuration that is sound.
    pub(crate) fn inexpressible(target: &'static str, error: rin_model::Error) -> Self {
        match error {
            rin_model::Error::Unsupported(fault) => Self::Inexpressible { target, what: fault.to_string() },
            other => other.into(),
        }
    }

    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;
    use std::io;
    use std::path::Path;

    #[test]
    fn refusals_of_the_system_get_their_advice() {
        let of = |kind: io::ErrorKind| Error::writing(Path::new("/x/y.rin"), 640, kind.into());
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            assert!(matches!(of(kind), Error::DiskFull { needed: 640, .. }));
            assert!(of(kind).to_string().contains("takes 640 bytes"));
        }
        assert!(matches!(of(io::ErrorKind::PermissionDenied), Error::PermissionDenied { .. }));
        assert!(matches!(of(io::ErrorKind::ReadOnlyFilesystem), Error::PermissionDenied { .. }));
        assert!(matches!(of(io::ErrorKind::BrokenPipe), Error::Io { .. }));
    }
}
