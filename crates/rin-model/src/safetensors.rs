//! safetensors: eight bytes of length, a JSON header, and the tensors' bytes without a gap.
//!
//! Source: the safetensors format description; every rule in it is held here.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::dtype::DType;
use crate::error::{Error, fault, fault_at};
use crate::gguf::check_apart;
use crate::json::{self, Entries};
use crate::tensor::{RowOrder, TensorInfo};

/// Longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes in front of the header.
const PREFIX: u64 = 8;

/// A checked header.
#[derive(Debug)]
pub struct Safetensors {
    metadata: Vec<(String, String)>,
    tensors: Vec<TensorInfo>,
    data_start: u64,
}

/// One tensor as the header describes it; other keys are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    #[serde(deserialize_with = "json::shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Debug, Default)]
struct RawHeader {
    metadata: Option<Entries<String>>,
    metadata_again: bool,
    tensors: Vec<(String, RawTensor)>,
}

const METADATA: &str = "__metadata__";

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawHeader, M::Error> {
                let mut header = RawHeader::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        header.metadata_again |= header.metadata.is_some();
                        header.metadata = Some(map.next_value()?);
                    } else {
                        let tensor = map.next_value()?;
                        json::push_entry(&mut header.tensors, (key, tensor))?;
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl Safetensors {
    /// Whether the bytes could be a safetensors file: a plausible length, and a brace after it.
    pub(crate) fn looks_like(bytes: &[u8]) -> bool {
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
        u64::from_le_bytes(*length) <= MAX_HEADER && rest.first() == Some(&b'{')
    }

    /// Reads and checks the header, and that the tensors cover the rest of `bytes` exactly.
    ///
    /// # Errors
    /// `BadHeader`, `LengthExceedsFile`, `DepthLimit`, `Duplicate`, `BadType`, `BadShape`, `ShapeOverflow`,
    /// `OutOfBounds`, `Overlap`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (json, data_start) = split(bytes)?;
        let raw: RawHeader = json::parse(json, "safetensors header")?;
        if raw.metadata_again {
            return Err(Error::Duplicate(fault("safetensors header", METADATA, "each key once", "the key twice")));
        }
        let raw_tensors = Entries(raw.tensors).unique("safetensors header")?;
        let metadata = raw.metadata.map_or(Ok(Vec::new()), |entries| entries.unique("safetensors metadata"))?;
        let data_length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_sub(data_start);
        let mut tensors = Vec::with_capacity(raw_tensors.len());
        for (name, raw) in raw_tensors {
            tensors.push(tensor(name, raw, data_start, data_length)?);
        }
        check_apart(&tensors)?;
        check_covered(&tensors, data_start, data_length)?;
        Ok(Self { metadata, tensors, data_start })
    }

    /// The strings of `__metadata__`, in file order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// One of them.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|entry| entry.0 == key).map(|entry| entry.1.as_str())
    }

    /// Tensors in the order of the header, with offsets from the start of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub(crate) fn into_parts(self) -> (Vec<(String, String)>, Vec<TensorInfo>) {
        (self.metadata, self.tensors)
    }

    /// Where the tensors' bytes begin.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }
}

/// The JSON, and where the data begins.
fn split(bytes: &[u8]) -> Result<(&[u8], u64), Error> {
    let section = "safetensors header";
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("{length} bytes");
        return Err(Error::Truncated(fault_at(section, "length", 0, "at least 8 bytes", found)));
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER {
        let expected = format!("at most {MAX_HEADER} bytes");
        return Err(Error::BadHeader(fault_at(section, "length", 0, expected, header)));
    }
    let json = usize::try_from(header).ok().and_then(|header| rest.get(..header)).ok_or_else(|| {
        let expected = format!("at most {} bytes, which follow", length.saturating_sub(PREFIX));
        Error::LengthExceedsFile(fault_at(section, "length", 0, expected, header))
    })?;
    if json.first() != Some(&b'{') {
        return Err(Error::BadHeader(fault_at(section, "", PREFIX, "an opening brace", "another byte")));
    }
    Ok((json, header.saturating_add(PREFIX)))
}

fn tensor(name: String, raw: RawTensor, data_start: u64, data_length: u64) -> Result<TensorInfo, Error> {
    if name.is_empty() {
        return Err(Error::EmptyKey(fault("tensor", "", "a name", "none")));
    }
    let Some(dtype) = DType::from_safetensors(&raw.dtype) else {
        let found = crate::error::shorten(&raw.dtype);
        return Err(Error::BadType(fault("tensor", name, "a type that safetensors has", found)));
    };
    let (begin, end) = raw.data_offsets;
    let place = format!("{begin}..{end}");
    if begin > end || end > data_length {
        let expected = format!("a range within the {data_length} bytes of data");
        return Err(Error::OutOfBounds(fault("tensor", name, expected, place)));
    }
    let n_bytes = crate::tensor::byte_length(&name, &raw.shape, dtype)?;
    if end.checked_sub(begin) != Some(n_bytes) {
        let expected = format!("{n_bytes} bytes for shape {:?} of {dtype}", raw.shape);
        return Err(Error::BadShape(fault("tensor", name, expected, place)));
    }
    Ok(TensorInfo {
        source_name: name.clone(),
        name,
        shape: raw.shape,
        dtype,
        offset: data_start.saturating_add(begin),
        n_bytes,
        shard: 0,
        packed: false,
        rows: RowOrder::AsStored,
    })
}

/// Tensors that share no bytes leave no hole if and only if their lengths add up to the data.
fn check_covered(tensors: &[TensorInfo], data_start: u64, data_length: u64) -> Result<(), Error> {
    let covered = tensors.iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.n_bytes));
    if covered == data_length {
        return Ok(());
    }
    let expected = format!("tensors that cover the {data_length} bytes of data without a hole");
    Err(Error::BadHeader(fault_at("safetensors data", "", data_start, expected, format!("{covered} bytes covered"))))
}
