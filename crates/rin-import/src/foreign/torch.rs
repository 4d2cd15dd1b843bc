//! State dictionaries that `torch.save` wrote, in both of its containers.
//!
//! Since version 1.6 a zip archive: `data.pkl` with names and places, `data/KEY` with the bytes of each storage. Before,
//! a row of pickles (a magic number, the protocol, the system, the object, the keys of the storages) and then each
//! storage with its number of elements in front. Sources: `torch/serialization.py`; the pickle is only read as data.

use super::bytes::Bytes;
use super::pickle::{Id, Pickle, Value};
use super::{ForeignError, Tensor, zip};
use rin_kernels::Format;
use rin_kernels::half::{bf16_to_f32, f16_to_f32};
use std::collections::HashMap;

/// The first pickle of a legacy file: LONG1 with ten bytes.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Names under which training scripts keep a state dictionary beside other things.
const NESTED: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "module"];
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// The tensors of a file, in its order.
pub(super) fn read(all: &[u8]) -> Result<Vec<Tensor>, ForeignError> {
    if all.starts_with(b"PK") {
        return read_zip(all);
    }
    read_legacy(all)
}

fn read_zip(all: &[u8]) -> Result<Vec<Tensor>, ForeignError> {
    let entries = zip::entries(all)?;
    let data = entries.iter().find(|(name, _)| name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some((name, bytes)) = data else {
        return Err(ForeignError::unsupported(
            "the zip archive holds no data.pkl: it is no file of torch.save; TorchScript and ONNX archives are not read here",
        ));
    };
    let prefix = name.strip_suffix("data.pkl").unwrap_or_default();
    if entries.iter().any(|(entry, bytes)| entry.strip_prefix(prefix) == Some("byteorder") && *bytes == b"big") {
        return Err(ForeignError::unsupported("the file was written on a big-endian machine; save it on another one"));
    }
    let pickle = Pickle::read(&mut Bytes::new(bytes, "data.pkl"))?;
    let storages: HashMap<&str, &[u8]> = entries
        .iter()
        .filter_map(|(entry, bytes)| Some((entry.strip_prefix(prefix)?.strip_prefix("data/")?, *bytes)))
        .collect();
    tensors(&pickle, &storages)
}

fn read_legacy(all: &[u8]) -> Result<Vec<Tensor>, ForeignError> {
    let mut bytes = Bytes::new(all, "legacy PyTorch file");
    let magic = Pickle::read(&mut bytes)
        .ok()
        .is_some_and(|pickle| matches!(pickle.get(pickle.root), Value::Long(digits) if *digits == LEGACY_MAGIC));
    if !magic {
        return Err(ForeignError::unsupported(
            "the file is neither a zip archive nor begins with the number of legacy PyTorch files; \
             save the weights with torch.save(model.state_dict(), FILE)",
        ));
    }
    for _ in 0..2 {
        Pickle::read(&mut bytes)?;
    }
    let pickle = Pickle::read(&mut bytes)?;
    let keys = Pickle::read(&mut bytes)?;
    let Value::List(order) = keys.get(keys.root) else { return Err(bytes.fault("the storages are no list of keys")) };
    let kinds: HashMap<&str, &str> = pickle
        .all()
        .filter_map(|value| match value {
            Value::Storage { kind, key, .. } => Some((key.as_str(), kind.as_str())),
            _ => None,
        })
        .collect();
    let mut storages = HashMap::new();
    for &key in order {
        let key = keys.text(key).ok_or_else(|| bytes.fault("the key of a storage is no text"))?;
        let kind = kinds.get(key).ok_or_else(|| bytes.fault("a storage that no tensor uses"))?;
        let numel = usize::try_from(bytes.u64()?).ok();
        let size = numel.and_then(|n| n.checked_mul(Element::of(kind)?.bytes()));
        let size = size.ok_or_else(|| bytes.fault(format!("a storage of {kind} of an impossible size")))?;
        storages.insert(key, bytes.take(size)?);
    }
    tensors(&pickle, &storages)
}

/// Element types of storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
}

impl Element {
    fn of(kind: &str) -> Option<Self> {
        Some(match kind.strip_prefix("torch.")?.trim_start_matches("cuda.").strip_suffix("Storage")? {
            "Double" => Self::F64,
            "Float" => Self::F32,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Long" => Self::I64,
            "Int" => Self::I32,
            "Short" => Self::I16,
            "Char" => Self::I8,
            "Byte" | "Bool" => Self::U8,
            _ => return None,
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// Element `i` of a storage.
    #[expect(clippy::cast_possible_truncation, reason = "weights are brought to f32")]
    fn read(self, bytes: &[u8], i: usize) -> Option<f32> {
        fn at<const N: usize>(bytes: &[u8], i: usize) -> Option<[u8; N]> {
            bytes.as_chunks::<N>().0.get(i).copied()
        }
        Some(match self {
            Self::F64 => f64::from_le_bytes(at(bytes, i)?) as f32,
            Self::F32 => f32::from_le_bytes(at(bytes, i)?),
            Self::F16 => f16_to_f32(u16::from_le_bytes(at(bytes, i)?)),
            Self::BF16 => bf16_to_f32(u16::from_le_bytes(at(bytes, i)?)),
            Self::I64 => i64::from_le_bytes(at(bytes, i)?) as f32,
            Self::I32 => i32::from_le_bytes(at(bytes, i)?) as f32,
            Self::I16 => f32::from(i16::from_le_bytes(at(bytes, i)?)),
            Self::I8 => f32::from(i8::from_le_bytes(at(bytes, i)?)),
            Self::U8 => f32::from(u8::from_le_bytes(at(bytes, i)?)),
        })
    }
}

/// The tensors of the dictionary at the root, or of the one that it holds under a usual name.
fn tensors(pickle: &Pickle, storages: &HashMap<&str, &[u8]>) -> Result<Vec<Tensor>, ForeignError> {
    let none = || {
        ForeignError::unsupported(
            "the file holds no dictionary of named tensors; save one: torch.save(model.state_dict(), FILE)",
        )
    };
    let Value::Dict(root) = pickle.get(pickle.root) else { return Err(none()) };
    let is_tensor = |(_, value): &&(Id, Id)| matches!(pickle.get(*value), Value::Tensor { .. });
    let entries = if root.iter().any(|entry| is_tensor(&entry)) {
        root
    } else {
        let nested = root.iter().find_map(|(key, value)| match (pickle.text(*key), pickle.get(*value)) {
            (Some(key), Value::Dict(dict)) if NESTED.contains(&key) => Some(dict),
            _ => None,
        });
        nested.ok_or_else(none)?
    };
    let mut found: Vec<Tensor> = Vec::new();
    for (key, value) in entries.iter().filter(is_tensor) {
        let Some(name) = pickle.text(*key) else { continue };
        if found.iter().any(|tensor| tensor.name == name) {
            return Err(ForeignError::damaged("state dictionary", 0, format!("the tensor `{name}` occurs twice")));
        }
        found.push(tensor(pickle, name, pickle.get(*value), storages)?);
    }
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn tensor(pickle: &Pickle, name: &str, value: &Value, storages: &HashMap<&str, &[u8]>) -> Result<Tensor, ForeignError> {
    let wrong = |reason: &str| ForeignError::damaged("state dictionary", 0, format!("tensor `{name}`: {reason}"));
    let Value::Tensor { storage, offset, shape, stride } = value else { return Err(wrong("it is none")) };
    let Value::Storage { kind, key, .. } = pickle.get(*storage) else { return Err(wrong("it has no storage")) };
    let element = Element::of(kind).ok_or_else(|| wrong(&format!("its numbers are of the type {kind}")))?;
    let bytes = storages.get(key.as_str()).ok_or_else(|| wrong("its storage is not in the file"))?;
    let whole = |n: &i64| usize::try_from(*n).ok();
    let sizes = shape.iter().map(whole).collect::<Option<Vec<usize>>>();
    let strides = stride.iter().map(whole).collect::<Option<Vec<usize>>>();
    let (Some(sizes), Some(strides), Some(offset)) = (sizes, strides, whole(offset)) else {
        return Err(wrong("a size below 0"));
    };
    if sizes.len() != strides.len() || sizes.len() > MAX_DIMS {
        return Err(wrong("its shape and its strides do not belong together"));
    }
    let n = sizes.iter().try_fold(1_usize, |n, &m| n.checked_mul(m)).ok_or_else(|| wrong("it is too large"))?;
    let held = bytes.len().checked_div(element.bytes()).unwrap_or(0);
    // A view that repeats elements could be of any size.
    if n > held {
        return Err(wrong(&format!("{n} elements over a storage of {held}")));
    }
    let mut values = Vec::with_capacity(n);
    let mut index = vec![0_usize; sizes.len()];
    for _ in 0..n {
        let steps =
            index.iter().zip(&strides).try_fold(offset, |at, (i, stride)| at.checked_add(i.checked_mul(*stride)?));
        let value = steps.and_then(|at| element.read(bytes, at));
        values.push(value.ok_or_else(|| wrong("an element lies beyond its storage"))?);
        for (i, size) in index.iter_mut().zip(&sizes).rev() {
            *i = i.saturating_add(1);
            if *i < *size {
                break;
            }
            *i = 0;
        }
    }
    let format = match element {
        Element::F16 => Format::F16,
        Element::BF16 => Format::BF16,
        _ => Format::F32,
    };
    Ok(Tensor { name: name.to_owned(), shape: sizes, values, format })
}
