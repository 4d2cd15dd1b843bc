//! What can be wrong with a model file, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a fault lies, what was expected there and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, where it is known.
    pub file: Option<PathBuf>,
    /// Part of the file: `"GGUF header"`, `"tensor"`, `"config"`, …
    pub section: &'static str,
    /// Name of the key, tensor or field; empty where it has none.
    pub name: String,
    /// Byte offset in the file, where there is one.
    pub offset: Option<u64>,
    /// What a valid file has here.
    pub expected: String,
    /// What this file has here.
    pub found: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        write!(f, "{}", self.section)?;
        if !self.name.is_empty() {
            write!(f, " `{}`", shorten(&self.name))?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

/// At most 80 characters of a name that the file chose, with control characters escaped.
pub(crate) fn shorten(text: &str) -> String {
    let head: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() { format!("{head}…") } else { head }
}

/// Longest finding in a message, in characters: the file chose it.
const MAX_FOUND: usize = 300;

/// A fault without a file and an offset.
#[expect(clippy::unnecessary_box_returns, reason = "errors hold their fault boxed, which keeps results small")]
pub(crate) fn fault(
    section: &'static str,
    name: impl Into<String>,
    expected: impl Into<String>,
    found: impl fmt::Display,
) -> Box<Fault> {
    let (name, expected, mut found) = (name.into(), expected.into(), found.to_string());
    if let Some((end, _)) = found.char_indices().nth(MAX_FOUND) {
        found.truncate(end);
        found.push('…');
    }
    Box::new(Fault { file: None, section, name, offset: None, expected, found })
}

/// A fault at a byte offset.
#[expect(clippy::unnecessary_box_returns, reason = "errors hold their fault boxed, which keeps results small")]
pub(crate) fn fault_at(
    section: &'static str,
    name: impl Into<String>,
    offset: impl TryInto<u64>,
    expected: impl Into<String>,
    found: impl fmt::Display,
) -> Box<Fault> {
    let mut fault = fault(section, name, expected, found);
    fault.offset = offset.try_into().ok();
    fault
}

/// Declares the kinds of fault once: the variant, what it means, and the advice that ends its message.
macro_rules! error_kinds {
    ($($(#[$doc:meta])+ $kind:ident => $advice:literal),+ $(,)?) => {
        /// What is wrong with a model file.
        #[derive(Debug, Clone, thiserror::Error)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])+
            #[error("{0}; {advice}", advice = $advice)]
            $kind(Box<Fault>),)+
            /// The network is of a family that RIN does not run.
            #[error("unknown architecture `{found}`: RIN runs {}; convert a model of one of these", known.join(", "))]
            UnknownArchitecture {
                /// The name in the file.
                found: String,
                /// The names that would be understood.
                known: Vec<&'static str>,
            },
            /// The operating system refused a file.
            #[error("{}: {source}; check that the path is right and that the file can be read", path.display())]
            Io {
                /// The file.
                path: PathBuf,
                /// What the operating system said.
                source: Arc<io::Error>,
            },
        }

        impl Error {
            /// Name of the variant, as tests and JSON use it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => stringify!($kind),)+
                    Self::UnknownArchitecture { .. } => "UnknownArchitecture",
                    Self::Io { .. } => "Io",
                }
            }

            /// Place, expectation and finding; none for an unknown architecture and for a file that cannot be read.
            pub fn fault(&self) -> Option<&Fault> {
                match self {
                    $(Self::$kind(fault) => Some(fault),)+
                    Self::UnknownArchitecture { .. } | Self::Io { .. } => None,
                }
            }

            fn fault_mut(&mut self) -> Option<&mut Fault> {
                match self {
                    $(Self::$kind(fault) => Some(fault),)+
                    Self::UnknownArchitecture { .. } | Self::Io { .. } => None,
                }
            }
        }
    };
}

error_kinds! {
    /// The bytes are none of the formats that RIN reads.
    NotAModel => "give a .gguf, .rin or .safetensors file, or a Hugging Face folder",
    /// The first four bytes are not `GGUF`.
    BadMagic => "this is no GGUF file, or its start is damaged: download it again",
    /// A version that RIN does not read.
    UnsupportedVersion => "convert the model again with a current tool",
    /// The file was written on a machine of the other byte order.
    WrongEndian => "convert the model for a little-endian machine",
    /// A count of items that cannot fit into the bytes that are left.
    CountExceedsFile => "the file is damaged or cut short: download it again",
    /// A length that goes past the end of the file.
    LengthExceedsFile => "the file is damaged or cut short: download it again",
    /// More metadata than RIN is willing to hold.
    BudgetExceeded => "the file asks for more memory than a header may take: it is damaged or hostile",
    /// A value or tensor of an unknown or unfitting type.
    BadType => "convert the model again with a current tool",
    /// Nesting that is deeper than the format needs.
    DepthLimit => "the file is damaged or hostile: get it from a source that you trust",
    /// A name of length zero.
    EmptyKey => "the file is damaged: convert the model again",
    /// A name that is not UTF-8.
    BadUtf8 => "the file is damaged: download it again",
    /// A key or tensor that occurs twice.
    Duplicate => "the file is damaged: convert the model again",
    /// A tensor of the wrong shape.
    BadShape => "the tensor does not belong to this network, or the file is damaged: convert the model again",
    /// The number of elements or bytes of one tensor overflows.
    ShapeOverflow => "no such tensor exists: the file is damaged or hostile",
    /// The sizes of the tensors, padded and added, overflow.
    SizeOverflow => "no such file exists: the file is damaged or hostile",
    /// An alignment that is not a sensible power of two.
    BadAlignment => "convert the model again with a current tool",
    /// A tensor whose bytes go past the end of the file.
    OutOfBounds => "the file is cut short or damaged: download it again",
    /// Two tensors that share bytes.
    Overlap => "the file is damaged or hostile: convert the model again",
    /// A tensor that does not start at a multiple of the alignment.
    Misaligned => "convert the model again with a current tool",
    /// The file ends within a field.
    Truncated => "the file is cut short: download it again",
    /// Numbers of the configuration that contradict each other or the tensors.
    InconsistentConfig => "the model cannot be run as described: convert it again, or correct its configuration",
    /// A part of a split model that is absent or is not what it claims to be.
    BadShard => "put all parts of the model, from one conversion, into one folder under their original names",
    /// A vocabulary that contradicts itself.
    BadVocab => "convert the model and its tokenizer again",
    /// A tensor that the network needs and the file lacks.
    MissingTensor => "the model is incomplete: convert it again",
    /// A key that is needed and absent.
    MissingKey => "the model is incomplete: convert it again with a current tool",
    /// A file that belongs to the model and is absent.
    MissingFile => "put the file beside the model's other files",
    /// JSON that is not what the format says.
    BadHeader => "the file is damaged or of another format: download it again",
    /// A path in the model that leads out of its folder.
    PathEscape => "the model is hostile: get it from a source that you trust",
    /// A sound network of another kind than one that continues text.
    NoText => "run it on rows of numbers: `rin run MODEL --input FILE.npy`",
    /// Something that the model needs and RIN does not do.
    Unsupported => "RIN cannot run this model yet",
    /// The file changed since it was opened.
    FileChanged => "load the model again, and replace model files by renaming rather than by writing over them",
    /// The bytes of the weights do not give the recorded hash.
    BadChecksum => "the file is damaged: import the model again",
}

impl Error {
    /// Names the file in errors that do not name one yet.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        if let Some(fault) = self.fault_mut() {
            fault.file.get_or_insert_with(|| path.to_path_buf());
        }
        self
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source: Arc::new(source) }
    }
}
