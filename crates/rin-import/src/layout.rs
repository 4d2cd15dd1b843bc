//! Which tensors a `.rin` file gets, where they lie, and the header that says so.

use crate::Error;
use crate::panels::matrix_shape;
use crate::source::Origin;
use rin_engine::weights::{WeightTable, format_of};
use rin_kernels::Format;
use rin_kernels::pack::LANES;
use rin_model::rin_format::{
    ALIGNMENT, KEY_CONFIG, KEY_NETWORK, KEY_NUMERICS, KEY_PROVENANCE, KEY_SHA256, KEY_TENSORS, KEY_VERSION, NUMERICS,
    TensorEntry, VERSION,
};
use rin_model::{Config, DType, FileFormat, ModelFile, Network, POSITIONS, TensorInfo};
use serde_json::{Map, Value, json};

/// Longest header that safetensors allows, in bytes.
const MAX_HEADER: usize = 100_000_000;
/// Bytes of the length in front of it.
const LENGTH_BYTES: usize = 8;
/// Key of the strings in the header.
const METADATA: &str = "__metadata__";
/// Hexadecimal digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// Where the bytes of a tensor come from.
#[derive(Debug)]
pub(crate) enum Content {
    /// A matrix of the source, packed in a type.
    Matrix { tensor: TensorInfo, to: Format },
    /// A vector of the source, as f32.
    Vector(TensorInfo),
    /// These bytes, and what follows them up to the alignment.
    Bytes { bytes: Vec<u8>, padding: u8 },
}

/// A tensor of the file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) content: Content,
    entry: TensorEntry,
    /// Shape of the stored bytes; their product is a multiple of the alignment.
    shape: Vec<u64>,
    /// Place in the data, in bytes.
    begin: u64,
    end: u64,
}

impl Stored {
    /// Whether the type is another than the source's.
    pub(crate) fn is_quantized(&self, file: &ModelFile) -> bool {
        matches!(self.content, Content::Matrix { .. })
            && file.tensor(&self.name).is_some_and(|tensor| tensor.dtype != self.entry.dtype)
    }
}

/// The network that the header describes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Described<'a> {
    /// One that continues text.
    Decoder(&'a Config),
    /// One from rows of numbers to rows of numbers.
    Network(&'a Network),
}

/// The tensors of the file in their order.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    tensors: Vec<Stored>,
}

impl Layout {
    /// The matrices of `weights` in the order in which the network reads them, then the vectors.
    pub(crate) fn new(file: &ModelFile, weights: &WeightTable, quant: Option<Format>) -> Result<Self, Error> {
        let mut layout = Self { tensors: Vec::new() };
        for matrix in weights.matrices() {
            if let Some(tensor) = file.tensor(&matrix.name) {
                layout.push_matrix(tensor, quant.filter(|_| tensor.name != POSITIONS))?;
            }
        }
        for tensor in file.tensors().iter().filter(|tensor| is_vector(file, tensor)) {
            let entry = TensorEntry { dtype: DType::F32, shape: tensor.shape.clone(), packed: false };
            let n_bytes = tensor.n_elements().checked_mul(4).ok_or_else(|| too_large(&tensor.name))?;
            layout.push(&tensor.name, entry, None, n_bytes, Content::Vector(tensor.clone()))?;
        }
        Ok(layout)
    }

    fn push_matrix(&mut self, tensor: &TensorInfo, quant: Option<Format>) -> Result<(), Error> {
        let overflow = || too_large(&tensor.name);
        let from = format_of(tensor.dtype).ok_or_else(overflow)?;
        let (rows, cols) = matrix_shape(tensor).ok_or_else(overflow)?;
        let convert = |to: &Format| from.block_len() == 1 && cols.is_multiple_of(to.block_len());
        let to = quant.filter(convert).unwrap_or(from);
        let dtype = to.name().parse::<DType>().map_err(|_| overflow())?;
        let panel_bytes = to.panel_bytes(cols).ok_or_else(overflow)?;
        let panels = rows.div_ceil(LANES);
        let stored = [panels, panel_bytes].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        let n_bytes = stored[0].checked_mul(stored[1]).ok_or_else(overflow)?;
        let entry = TensorEntry { dtype, shape: tensor.shape.clone(), packed: true };
        let content = Content::Matrix { tensor: tensor.clone(), to };
        self.push(&tensor.name, entry, Some(stored.to_vec()), n_bytes, content)
    }

    /// Adds a matrix whose panels are there already.
    pub(crate) fn push_packed(
        &mut self,
        name: &str,
        format: Format,
        shape: [usize; 2],
        panels: Vec<u8>,
    ) -> Result<(), Error> {
        let dtype = format.name().parse::<DType>().map_err(|_| too_large(name))?;
        let n_bytes = u64::try_from(panels.len()).map_err(|_| too_large(name))?;
        let entry = TensorEntry { dtype, shape: shape.map(|n| n as u64).to_vec(), packed: true };
        self.push(name, entry, None, n_bytes, Content::Bytes { bytes: panels, padding: 0 })
    }

    /// Adds a vector of `len` numbers in f32.
    pub(crate) fn push_vector(&mut self, name: &str, len: usize, bytes: Vec<u8>) -> Result<(), Error> {
        let n_bytes = u64::try_from(bytes.len()).map_err(|_| too_large(name))?;
        let entry = TensorEntry { dtype: DType::F32, shape: vec![len as u64], packed: false };
        self.push(name, entry, None, n_bytes, Content::Bytes { bytes, padding: 0 })
    }

    /// Adds an array of any element type, row-major.
    pub(crate) fn push_array(&mut self, name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Result<(), Error> {
        let n_bytes = u64::try_from(bytes.len()).map_err(|_| too_large(name))?;
        let entry = TensorEntry { dtype, shape: shape.to_vec(), packed: false };
        self.push(name, entry, None, n_bytes, Content::Bytes { bytes, padding: 0 })
    }

    /// Adds bytes as they are; `padding` follows them.
    pub(crate) fn push_bytes(&mut self, name: &str, bytes: Vec<u8>, padding: u8) -> Result<(), Error> {
        let n_bytes = u64::try_from(bytes.len()).map_err(|_| too_large(name))?;
        let entry = TensorEntry { dtype: DType::U8, shape: vec![n_bytes], packed: false };
        self.push(name, entry, None, n_bytes, Content::Bytes { bytes, padding })
    }

    fn push(
        &mut self,
        name: &str,
        entry: TensorEntry,
        shape: Option<Vec<u64>>,
        n_bytes: u64,
        content: Content,
    ) -> Result<(), Error> {
        let padded = n_bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(|| too_large(name))?;
        let begin = self.data_bytes();
        let end = begin.checked_add(padded).filter(|&end| i64::try_from(end).is_ok()).ok_or_else(|| too_large(name))?;
        let shape = shape.unwrap_or_else(|| vec![padded]);
        self.tensors.push(Stored { name: name.to_owned(), content, entry, shape, begin, end });
        Ok(())
    }

    pub(crate) fn tensors(&self) -> &[Stored] {
        &self.tensors
    }

    /// Bytes of all tensors.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.end)
    }

    /// The header but for the hash of the data.
    pub(crate) fn header(&self, described: Described<'_>, origin: &Origin) -> Result<Header, Error> {
        let (key, description) = match described {
            Described::Decoder(config) => (KEY_CONFIG, serde_json::to_string(config)?),
            Described::Network(network) => (KEY_NETWORK, serde_json::to_string(network)?),
        };
        let entries: Map<String, Value> =
            self.tensors.iter().map(|tensor| (tensor.name.clone(), json!(tensor.entry))).collect();
        let metadata = json!({
            KEY_VERSION: VERSION,
            KEY_NUMERICS: NUMERICS,
            KEY_SHA256: "0".repeat(HASH_DIGITS),
            key: description,
            KEY_TENSORS: serde_json::to_string(&entries)?,
            KEY_PROVENANCE: serde_json::to_string(origin)?,
        });
        let mut json = Map::from_iter([(METADATA.to_owned(), metadata)]);
        for tensor in &self.tensors {
            let offsets = [tensor.begin, tensor.end];
            let stored = json!({ "dtype": "U8", "shape": tensor.shape, "data_offsets": offsets });
            if json.insert(tensor.name.clone(), stored).is_some() {
                return Err(Error::NameTaken { tensor: tensor.name.clone() });
            }
        }
        Header { json }.checked()
    }
}

/// The header of a file whose data is still being written.
#[derive(Debug)]
pub(crate) struct Header {
    json: Map<String, Value>,
}

impl Header {
    fn checked(self) -> Result<Self, Error> {
        let length = self.bytes()?.len();
        if length > MAX_HEADER { Err(Error::HeaderTooLong(length)) } else { Ok(self) }
    }

    /// Puts the hash of the data in; the length of the header stays.
    pub(crate) fn record(&mut self, sha256: &str) {
        if let Some(Value::Object(metadata)) = self.json.get_mut(METADATA) {
            metadata.insert(KEY_SHA256.to_owned(), sha256.into());
        }
    }

    /// Everything before the data: the length, and the JSON with spaces up to the alignment.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_string(&self.json)?;
        let alignment = usize::try_from(ALIGNMENT).unwrap_or(1);
        while !json.len().saturating_add(LENGTH_BYTES).is_multiple_of(alignment) {
            json.push(' ');
        }
        let length = u64::try_from(json.len()).unwrap_or(u64::MAX);
        Ok([&length.to_le_bytes(), json.as_bytes()].concat())
    }
}

/// Whether a tensor is a vector of numbers that RIN knows by a name of its own.
fn is_vector(file: &ModelFile, tensor: &TensorInfo) -> bool {
    let known = file.format() == FileFormat::Gguf || tensor.name != tensor.source_name;
    let row = tensor.shape.len() == 1 || file.config().is_ok_and(|config| config.is_row(&tensor.name));
    known && row && format_of(tensor.dtype).is_some_and(|format| format.block_len() == 1)
}

fn too_large(tensor: &str) -> Error {
    Error::TooLarge { tensor: tensor.to_owned() }
}
