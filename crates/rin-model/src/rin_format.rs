//! `.rin`, version 2: a safetensors file that runs from the mapping.
//!
//! `__metadata__` holds the strings declared here. The data begins at a multiple of 64 bytes and so does every tensor;
//! each is stored as `U8`, padded with zeros (JSON: with spaces) to a multiple of 64, and `rin.tensors` says what it
//! really is. The writer uses the same declarations.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::dtype::DType;
use crate::error::{Error, fault, fault_at};
use crate::family::check_tensors;
use crate::json::{self, Entries};
use crate::network::Network;
use crate::safetensors::Safetensors;
use crate::tensor::{TensorInfo, TensorTable, byte_length};

/// Version of the layout, the value of [`KEY_VERSION`].
pub const VERSION: &str = "2";
/// Version of the numerics contract that the packed weights obey, the value of [`KEY_NUMERICS`].
pub const NUMERICS: &str = "1";
/// Alignment of the data and of every tensor, in bytes.
pub const ALIGNMENT: u64 = 64;

/// Key of [`VERSION`]; a safetensors file is a `.rin` file if it has this key.
pub const KEY_VERSION: &str = "rin.version";
/// Key of [`NUMERICS`].
pub const KEY_NUMERICS: &str = "rin.numerics";
/// Key of the [`Config`], as JSON.
pub const KEY_CONFIG: &str = "rin.config";
/// Key of the [`Network`], as JSON, in files of networks that continue no text; they have no [`KEY_CONFIG`].
pub const KEY_NETWORK: &str = "rin.network";
/// Key of the tensors' descriptions: a JSON object from name to [`TensorEntry`].
pub const KEY_TENSORS: &str = "rin.tensors";
/// Key of the SHA-256 of all bytes after the header, in hexadecimal digits.
pub const KEY_SHA256: &str = "rin.sha256";
/// Key of the [`Provenance`], as JSON.
pub const KEY_PROVENANCE: &str = "rin.provenance";

/// Tensor that holds a `tokenizer.json` or a GGUF file of a vocabulary alone.
pub const TOKENIZER: &str = "tokenizer";
/// Tensor that holds a `tokenizer_config.json`; optional.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config";

/// What a tensor is, behind its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Element type.
    pub dtype: DType,
    /// Row-major shape, of at most 8 dimensions.
    #[serde(deserialize_with = "json::shape")]
    pub shape: Vec<u64>,
    /// Whether the bytes are in the packed panel layout.
    pub packed: bool,
}

/// Where a `.rin` file came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the source, without its folder.
    pub source: String,
    /// Format of the source.
    pub format: String,
    /// SHA-256 of the source's tensors, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
    /// Version of RIN that wrote the file.
    pub writer: String,
    /// Target of the quantisation, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quant: Option<String>,
}

/// A checked `.rin` header.
#[derive(Debug)]
pub struct RinHeader {
    pub(crate) tensors: TensorTable,
    pub(crate) kind: Kind,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) data_start: u64,
    pub(crate) tokenizer: Option<TensorInfo>,
    pub(crate) tokenizer_config: Option<TensorInfo>,
}

/// Which network a `.rin` file holds.
#[derive(Debug)]
pub(crate) enum Kind {
    /// One that continues text.
    Decoder(Config),
    /// One from rows of numbers to rows of numbers.
    Network(Network),
}

impl Kind {
    fn read(header: &Safetensors) -> Result<Self, Error> {
        let key = if header.get(KEY_NETWORK).is_some() { KEY_NETWORK } else { KEY_CONFIG };
        let text = needed(header, key)?.as_bytes();
        json::check_size(text, key)?;
        if key == KEY_NETWORK {
            if header.get(KEY_CONFIG).is_some() {
                let found = format!("`{KEY_CONFIG}` beside `{KEY_NETWORK}`");
                return Err(Error::Duplicate(fault("rin header", key, "one description of the network", found)));
            }
            return json::parse(text, key).map(Self::Network);
        }
        let config: Config = json::parse(text, key)?;
        config.validate()?;
        Ok(Self::Decoder(config))
    }

    fn check(&self, tensors: &TensorTable) -> Result<(), Error> {
        match self {
            Self::Decoder(config) => check_tensors(config, tensors),
            Self::Network(network) => network.check(tensors),
        }
    }
}

/// Hexadecimal digits of a hash.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

impl RinHeader {
    /// Whether a safetensors file is a `.rin` file.
    pub fn is_rin(header: &Safetensors) -> bool {
        header.get(KEY_VERSION).is_some()
    }

    /// Checks versions, alignment, descriptions, configuration and the tensors against it.
    ///
    /// # Errors
    /// `UnsupportedVersion`, `MissingKey`, `BadHeader`, `Misaligned`, `BadType`, `BadShape`, `MissingTensor`,
    /// `InconsistentConfig`.
    pub fn check(header: Safetensors) -> Result<Self, Error> {
        for (key, version) in [(KEY_VERSION, VERSION), (KEY_NUMERICS, NUMERICS)] {
            let found = needed(&header, key)?;
            if found != version {
                return Err(Error::UnsupportedVersion(fault("rin header", key, version, found)));
            }
        }
        needed(&header, KEY_SHA256)?;
        let kind = Kind::read(&header)?;
        let entries: Entries<TensorEntry> = json::parse(needed(&header, KEY_TENSORS)?.as_bytes(), KEY_TENSORS)?;
        let mut entries: std::collections::HashMap<_, _> = entries.unique(KEY_TENSORS)?.into_iter().collect();
        let data_start = header.data_start();
        if !data_start.is_multiple_of(ALIGNMENT) {
            let expected = format!("a start at a multiple of {ALIGNMENT}");
            return Err(Error::Misaligned(fault_at("rin data", "", data_start, expected, data_start)));
        }
        let (metadata, stored) = header.into_parts();
        let (mut tensors, mut tokenizer, mut tokenizer_config) = (Vec::new(), None, None);
        for tensor in stored {
            let entry = entries.remove(&tensor.name);
            let described = describe(tensor, entry)?;
            match described.name.as_str() {
                TOKENIZER => tokenizer = Some(described),
                TOKENIZER_CONFIG => tokenizer_config = Some(described),
                _ => tensors.push(described),
            }
        }
        if let Some(name) = entries.into_keys().min() {
            return Err(Error::MissingTensor(fault("tensor", name, "the tensor that rin.tensors lists", "none")));
        }
        let tensors = TensorTable::new(tensors)?;
        kind.check(&tensors)?;
        Ok(Self { tensors, kind, metadata, data_start, tokenizer, tokenizer_config })
    }
}

fn needed<'h>(header: &'h Safetensors, key: &str) -> Result<&'h str, Error> {
    header.get(key).ok_or_else(|| Error::MissingKey(fault("rin header", key, "a .rin header", "no such key")))
}

/// Puts what a tensor really is in place of its stored bytes.
fn describe(mut tensor: TensorInfo, entry: Option<TensorEntry>) -> Result<TensorInfo, Error> {
    if tensor.dtype != DType::U8 {
        return Err(Error::BadType(fault("tensor", tensor.name, "U8", tensor.dtype)));
    }
    if !tensor.offset.is_multiple_of(ALIGNMENT) {
        let expected = format!("a start at a multiple of {ALIGNMENT}");
        return Err(Error::Misaligned(fault_at("tensor", tensor.name, tensor.offset, expected, tensor.offset)));
    }
    let Some(entry) = entry else {
        // Byte tensors describe themselves.
        if [TOKENIZER, TOKENIZER_CONFIG].contains(&tensor.name.as_str()) {
            return Ok(tensor);
        }
        return Err(Error::MissingKey(fault("rin.tensors", tensor.name, "an entry for each tensor", "none")));
    };
    let logical = byte_length(&tensor.name, &entry.shape, entry.dtype)?;
    let stored = tensor.n_bytes;
    let fits = if entry.packed {
        stored > 0 && stored.is_multiple_of(ALIGNMENT)
    } else {
        stored == logical || logical.checked_next_multiple_of(ALIGNMENT) == Some(stored)
    };
    if !fits {
        let expected = if entry.packed {
            format!("a multiple of {ALIGNMENT} bytes")
        } else {
            format!("{logical} bytes, or the next multiple of {ALIGNMENT}")
        };
        return Err(Error::BadShape(fault("tensor", tensor.name, expected, format!("{stored} bytes"))));
    }
    if !entry.packed {
        tensor.n_bytes = logical;
    }
    (tensor.dtype, tensor.shape, tensor.packed) = (entry.dtype, entry.shape, entry.packed);
    Ok(tensor)
}
