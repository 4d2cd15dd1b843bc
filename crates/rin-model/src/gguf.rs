//! GGUF, versions 2 and 3: a header of keys and tensors, and the tensors' bytes.
//!
//! Source: the GGUF specification in ggml's documentation. Stricter than most readers: keys and tensors are unique,
//! alignment is a power of two from 8 up, tensors are aligned, within the file and apart from each other.

use crate::cursor::{Cursor, MAX_STRING};
use crate::dtype::DType;
use crate::error::{Error, fault, fault_at};
use crate::tensor::{RowOrder, TensorInfo, TensorTable, byte_length};
use crate::value::{Array, Value, ValueType};

/// First bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Versions that this reader takes.
pub const VERSIONS: [u32; 2] = [2, 3];

/// Bytes that keys, values and tensor descriptions may take together.
const MAX_HEADER: usize = 64 << 20;
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;
const MAX_NAME: u64 = u16::MAX as u64;
const MAX_DIMS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;
/// The length of a key's name alone, so that a name of a lying length gets an error of its own.
const SMALLEST_KEY: u64 = 8;
/// A tensor with a name of one byte and one dimension.
const SMALLEST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// A sum of sizes beyond this is no file's.
const MAX_TOTAL: u64 = i64::MAX.unsigned_abs();

/// The keys and values of a file, in file order.
#[derive(Debug, Default)]
pub struct Metadata<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
    by_key: Vec<u32>,
}

impl<'a> Metadata<'a> {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a, '_> {
        self.entries.iter().copied()
    }

    pub(crate) fn into_entries(self) -> Vec<(&'a str, Value<'a>)> {
        self.entries
    }

    fn entry(&self, index: u32) -> Option<&(&'a str, Value<'a>)> {
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let found = self.by_key.binary_search_by(|&i| self.entry(i).map(|entry| entry.0).cmp(&Some(key)));
        self.entry(*self.by_key.get(found.ok()?)?).map(|entry| entry.1)
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(Error::BadType(fault("metadata", key, expected, describe(value)))),
        }
    }

    /// A number that is not negative; `BadType` where the value is none.
    pub(crate) fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "an integer that is not negative", |value| value.as_u64())
    }

    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a float", |value| value.as_f32())
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "a string", |value| value.as_str())
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", |value| if let Value::Bool(b) = value { Some(b) } else { None })
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<Array<'a>>, Error> {
        self.typed(key, "an array", |value| if let Value::Array(array) = value { Some(array) } else { None })
    }

    /// Sorts the keys; `Duplicate` where one occurs twice.
    fn index(entries: Vec<(&'a str, Value<'a>)>) -> Result<Self, Error> {
        let by_key = (0..u32::try_from(entries.len()).unwrap_or(u32::MAX)).collect();
        let mut metadata = Self { entries, by_key };
        let mut by_key = std::mem::take(&mut metadata.by_key);
        let key = |&i: &u32| metadata.entry(i).map(|entry| entry.0);
        by_key.sort_unstable_by_key(key);
        for pair in by_key.windows(2) {
            if let [a, b] = pair
                && key(a) == key(b)
            {
                let again = key(a).unwrap_or_default();
                return Err(Error::Duplicate(fault("metadata", again, "each key once", "the key twice")));
            }
        }
        metadata.by_key = by_key;
        Ok(metadata)
    }
}

/// A value in a message: its kind, and itself where it is short.
fn describe(value: Value<'_>) -> String {
    match value {
        Value::Str(_) | Value::Bytes(_) => value.kind().to_owned(),
        Value::Array(array) => format!("array {array}"),
        scalar => format!("{} {scalar}", scalar.kind()),
    }
}

/// A checked header.
#[derive(Debug)]
pub struct Gguf<'a> {
    version: u32,
    metadata: Metadata<'a>,
    tensors: TensorTable,
    data_start: u64,
}

impl<'a> Gguf<'a> {
    /// Reads and checks the whole header, and that every tensor lies within `bytes`, apart from the others.
    ///
    /// # Errors
    /// Each of rows 1 to 12 and 14 of the hostile inputs, by the names of [`Error`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes, "GGUF header");
        let (version, n_tensors, n_keys) = prelude(&mut cursor)?;
        let metadata = keys(&mut cursor, n_keys)?;
        let alignment = alignment(&metadata)?;
        cursor.enter("tensor");
        let mut tensors = Vec::with_capacity(n_tensors);
        for _ in 0..n_tensors {
            tensors.push(tensor(&mut cursor)?);
            check_budget(&cursor)?;
        }
        let mut tensors = TensorTable::new(tensors)?;
        let header_end = u64::try_from(cursor.at()).unwrap_or(u64::MAX);
        let data_start = padded(header_end, alignment).unwrap_or(u64::MAX);
        place(&mut tensors, data_start, alignment, u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        Ok(Self { version, metadata, tensors, data_start })
    }

    /// Reads keys and values alone: a second look at a file that was checked before.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), for the part up to the tensors.
    pub fn parse_metadata(bytes: &'a [u8]) -> Result<Metadata<'a>, Error> {
        let mut cursor = Cursor::new(bytes, "GGUF header");
        let (_, _, n_keys) = prelude(&mut cursor)?;
        keys(&mut cursor, n_keys)
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata<'a> {
        &self.metadata
    }

    /// Tensors in file order, with offsets from the start of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.all()
    }

    pub(crate) fn into_tensors(self) -> TensorTable {
        self.tensors
    }

    /// Where the tensors' bytes begin.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }
}

/// Magic, version and counts.
fn prelude(cursor: &mut Cursor<'_>) -> Result<(u32, usize, usize), Error> {
    let magic = cursor.take(4, "magic")?;
    if magic == [b'F', b'U', b'G', b'G'] {
        return Err(Error::WrongEndian(fault_at("GGUF header", "magic", 0, "`GGUF`", "`FUGG`")));
    }
    if magic != MAGIC {
        return Err(Error::BadMagic(fault_at("GGUF header", "magic", 0, "`GGUF`", format!("{magic:02x?}"))));
    }
    let version = cursor.u32("version")?;
    if !VERSIONS.contains(&version) {
        let swapped = version.swap_bytes();
        if version > 0xFFFF && (1..=0xFFFF).contains(&swapped) {
            let found = format!("version {swapped} with its bytes swapped");
            return Err(Error::WrongEndian(fault_at("GGUF header", "version", 4, "a little-endian file", found)));
        }
        return Err(Error::UnsupportedVersion(fault_at("GGUF header", "version", 4, "version 2 or 3", version)));
    }
    let at = cursor.at();
    let n_tensors = cursor.count("tensor count", 1, u64::MAX)?;
    let n_keys = cursor.count("key count", SMALLEST_KEY, MAX_KEYS)?;
    let count = u64::try_from(n_tensors).unwrap_or(u64::MAX);
    cursor.check_count(count, "tensor count", at, SMALLEST_TENSOR)?;
    if count > MAX_TENSORS {
        let expected = format!("at most {MAX_TENSORS} tensors");
        return Err(Error::BudgetExceeded(fault_at("GGUF header", "tensor count", at, expected, count)));
    }
    Ok((version, n_tensors, n_keys))
}

fn check_budget(cursor: &Cursor<'_>) -> Result<(), Error> {
    if cursor.at() > MAX_HEADER {
        let expected = format!("a header of at most {MAX_HEADER} bytes");
        return Err(Error::BudgetExceeded(fault_at(cursor.section(), "", cursor.at(), expected, "a longer one")));
    }
    Ok(())
}

/// A name: not empty, UTF-8, of bounded length.
fn name<'a>(cursor: &mut Cursor<'a>, what: &str) -> Result<&'a str, Error> {
    let at = cursor.at();
    let bytes = cursor.string(what, MAX_NAME)?;
    if bytes.is_empty() {
        return Err(Error::EmptyKey(fault_at(cursor.section(), what, at, "at least one byte", "none")));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        Error::BadUtf8(fault_at(cursor.section(), shown, at, "UTF-8", error))
    })
}

fn keys<'a>(cursor: &mut Cursor<'a>, n_keys: usize) -> Result<Metadata<'a>, Error> {
    cursor.enter("metadata");
    let mut entries = Vec::with_capacity(n_keys);
    for _ in 0..n_keys {
        let key = name(cursor, "key")?;
        entries.push((key, value(cursor, key)?));
        check_budget(cursor)?;
    }
    Metadata::index(entries)
}

fn value_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, Error> {
    let at = cursor.at();
    let id = cursor.u32(key)?;
    ValueType::from_id(id)
        .ok_or_else(|| Error::BadType(fault_at(cursor.section(), key, at, "a value type from 0 to 12", id)))
}

fn value<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, Error> {
    let value_type = value_type(cursor, key)?;
    Ok(match value_type {
        ValueType::U8 => Value::Uint(cursor.u8(key)?.into()),
        ValueType::U16 => Value::Uint(cursor.u16(key)?.into()),
        ValueType::U32 => Value::Uint(cursor.u32(key)?.into()),
        ValueType::U64 => Value::Uint(cursor.u64(key)?),
        ValueType::I8 => Value::Int(cursor.u8(key)?.cast_signed().into()),
        ValueType::I16 => Value::Int(cursor.u16(key)?.cast_signed().into()),
        ValueType::I32 => Value::Int(cursor.u32(key)?.cast_signed().into()),
        ValueType::I64 => Value::Int(cursor.u64(key)?.cast_signed()),
        ValueType::F32 => Value::F32(f32::from_bits(cursor.u32(key)?)),
        ValueType::F64 => Value::F64(f64::from_bits(cursor.u64(key)?)),
        ValueType::Bool => {
            let at = cursor.at();
            match cursor.u8(key)? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                byte => return Err(Error::BadType(fault_at(cursor.section(), key, at, "0 or 1 for a bool", byte))),
            }
        }
        ValueType::Str => {
            let bytes = cursor.string(key, MAX_STRING)?;
            std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str)
        }
        ValueType::Array => Value::Array(array(cursor, key)?),
    })
}

fn array<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Array<'a>, Error> {
    let at = cursor.at();
    let elem = value_type(cursor, key)?;
    if elem == ValueType::Array {
        let expected = "an array of scalars or strings";
        return Err(Error::DepthLimit(fault_at(cursor.section(), key, at, expected, "an array of arrays")));
    }
    let len = cursor.count(key, u64::try_from(elem.smallest()).unwrap_or(u64::MAX), u64::MAX)?;
    let mut ahead = cursor.clone();
    let start = cursor.at();
    if elem == ValueType::Str {
        for _ in 0..len {
            ahead.string(key, MAX_STRING)?;
            check_budget(&ahead)?;
        }
    } else {
        // The count was held against the bytes that are left, so the product is below them.
        ahead.take(len.saturating_mul(elem.smallest()), key)?;
        check_budget(&ahead)?;
    }
    let bytes = cursor.take(ahead.at().saturating_sub(start), key)?;
    Ok(Array { elem, len, bytes })
}

fn alignment(metadata: &Metadata<'_>) -> Result<u64, Error> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Uint(n)) if n.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&n) => Ok(n),
        Some(value) => {
            let expected = format!("a u32 that is a power of two from 8 to {MAX_ALIGNMENT}");
            Err(Error::BadAlignment(fault("metadata", KEY, expected, describe(value))))
        }
    }
}

/// A tensor's description; its offset is still that within the data.
fn tensor(cursor: &mut Cursor<'_>) -> Result<TensorInfo, Error> {
    let name = name(cursor, "name")?;
    let at = cursor.at();
    let bad_shape =
        |expected: &str, found: String| Error::BadShape(fault_at("tensor", name, at, expected.to_owned(), found));
    let n_dims = cursor.u32(name)?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(bad_shape("1 to 4 dimensions", n_dims.to_string()));
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..n_dims {
        let n = cursor.u64(name)?;
        if n == 0 || i64::try_from(n).is_err() {
            return Err(bad_shape("dimensions from 1 to 2^63-1", n.cast_signed().to_string()));
        }
        shape.push(n);
    }
    shape.reverse();
    let at = cursor.at();
    let id = cursor.u32(name)?;
    let dtype = DType::from_ggml(id)
        .ok_or_else(|| Error::BadType(fault_at("tensor", name, at, "a tensor type that ggml has", id)))?;
    let n_bytes = byte_length(name, &shape, dtype)?;
    let offset = cursor.u64(name)?;
    Ok(TensorInfo {
        name: name.to_owned(),
        source_name: name.to_owned(),
        shape,
        dtype,
        offset,
        n_bytes,
        shard: 0,
        packed: false,
        rows: RowOrder::AsStored,
    })
}

/// `n` rounded up to a multiple of `alignment`, a power of two.
fn padded(n: u64, alignment: u64) -> Option<u64> {
    n.checked_next_multiple_of(alignment)
}

/// Turns offsets within the data into offsets within the file, and checks sizes, bounds, alignment and overlap.
fn place(tensors: &mut TensorTable, data_start: u64, alignment: u64, length: u64) -> Result<(), Error> {
    let mut total = 0_u64;
    for tensor in tensors.all() {
        let sum = padded(tensor.n_bytes, alignment).and_then(|size| total.checked_add(size));
        total = sum.filter(|&sum| sum <= MAX_TOTAL).ok_or_else(|| {
            let expected = "sizes whose padded sum is below 2^63 bytes";
            Error::SizeOverflow(fault("tensor", &tensor.name, expected, format!("{} more", tensor.n_bytes)))
        })?;
    }
    for tensor in tensors.all_mut() {
        let within = tensor.offset;
        let start = data_start.checked_add(within);
        let end = start.and_then(|start| start.checked_add(tensor.n_bytes)).filter(|&end| end <= length);
        let (Some(start), Some(_)) = (start, end) else {
            let found = format!("{} bytes from offset {within} of the data at {data_start}", tensor.n_bytes);
            let expected = format!("an end within the {length} bytes of the file");
            return Err(Error::OutOfBounds(fault("tensor", &tensor.name, expected, found)));
        };
        if !within.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(Error::Misaligned(fault_at("tensor", &tensor.name, start, expected, within)));
        }
        tensor.offset = start;
    }
    check_apart(tensors.all())
}

/// `Overlap` where two tensors of one file share bytes.
pub(crate) fn check_apart(tensors: &[TensorInfo]) -> Result<(), Error> {
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_unstable_by_key(|tensor| (tensor.offset, tensor.n_bytes));
    for pair in in_order.windows(2) {
        if let [a, b] = pair {
            let end = a.offset.saturating_add(a.n_bytes);
            if end > b.offset {
                let expected = format!("a start at or after {end}, where `{}` ends", crate::error::shorten(&a.name));
                return Err(Error::Overlap(fault_at("tensor", &b.name, b.offset, expected, b.offset)));
            }
        }
    }
    Ok(())
}
