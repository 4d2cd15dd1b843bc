//! Metadata values: scalars, and arrays that stay where they are in the file.

use std::fmt;
use std::marker::PhantomData;

use crate::error::{Error, fault};

/// One metadata value, borrowed from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Unsigned integer of any width.
    Uint(u64),
    /// Signed integer of any width.
    Int(i64),
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// Truth value.
    Bool(bool),
    /// Text.
    Str(&'a str),
    /// A string that is not UTF-8.
    Bytes(&'a [u8]),
    /// Array of scalars or strings.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// Kind of the value, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Uint(_) => "unsigned integer",
            Self::Int(_) => "signed integer",
            Self::F32(_) | Self::F64(_) => "float",
            Self::Bool(_) => "bool",
            Self::Str(_) => "string",
            Self::Bytes(_) => "string that is not UTF-8",
            Self::Array(_) => "array",
        }
    }

    /// The number, if the value is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Uint(n) => Some(n),
            Self::Int(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// The number, if the value is a float; doubles are rounded.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            #[expect(clippy::cast_possible_truncation, reason = "rounding to single precision is what is asked for")]
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }

    /// The text, if the value is one.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Self::Str(text) = *self { Some(text) } else { None }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uint(n) => n.fmt(f),
            Self::Int(n) => n.fmt(f),
            Self::F32(x) => x.fmt(f),
            Self::F64(x) => x.fmt(f),
            Self::Bool(b) => b.fmt(f),
            Self::Str(text) => f.write_str(text),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Array(array) => array.fmt(f),
        }
    }
}

/// Types of metadata values in GGUF files, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of their numbers; with the bytes of an element (for a string: of its length alone).
    const TABLE: [(Self, &'static str, usize); 13] = [
        (Self::U8, "u8", 1),
        (Self::I8, "i8", 1),
        (Self::U16, "u16", 2),
        (Self::I16, "i16", 2),
        (Self::U32, "u32", 4),
        (Self::I32, "i32", 4),
        (Self::F32, "f32", 4),
        (Self::Bool, "bool", 1),
        (Self::Str, "string", 8),
        (Self::Array, "array", 12),
        (Self::U64, "u64", 8),
        (Self::I64, "i64", 8),
        (Self::F64, "f64", 8),
    ];

    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Self::TABLE.get(usize::try_from(id).ok()?).map(|row| row.0)
    }

    fn row(self) -> (&'static str, usize) {
        Self::TABLE.iter().find(|row| row.0 == self).map_or(("", 0), |row| (row.1, row.2))
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of the smallest element.
    pub(crate) fn smallest(self) -> usize {
        self.row().1
    }
}

/// An array in a GGUF file: length and element type, and the bytes where they lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(crate) elem: ValueType,
    pub(crate) len: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element type in words: `"string"`, `"f32"`, …
    pub fn elem(&self) -> &'static str {
        self.elem.name()
    }

    /// The elements as a list that stays where it is; `BadType` where they are of another type.
    ///
    /// # Errors
    /// `BadType` names `key`.
    pub fn list<T: Element<'a>>(&self, key: &str) -> Result<List<'a, T>, Error> {
        self.expect(key, T::TYPES, T::EXPECTED)?;
        Ok(List { bytes: self.bytes, len: self.len, element: PhantomData })
    }

    /// The elements as bytes of text; `BadType` where they are not strings.
    ///
    /// # Errors
    /// `BadType` names `key`.
    pub fn strings(&self, key: &str) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, Error> {
        Ok(self.list(key)?.iter())
    }

    /// The elements as single-precision numbers; `BadType` where they are not.
    ///
    /// # Errors
    /// `BadType` names `key`.
    pub fn f32s(&self, key: &str) -> Result<impl Iterator<Item = f32> + use<'a>, Error> {
        Ok(self.list(key)?.iter())
    }

    /// The elements as 32-bit integers (u32 above 2³¹−1 become negative); `BadType` where they are not.
    ///
    /// # Errors
    /// `BadType` names `key`.
    pub fn i32s(&self, key: &str) -> Result<impl Iterator<Item = i32> + use<'a>, Error> {
        Ok(self.list(key)?.iter())
    }

    fn expect(&self, key: &str, types: &[&str], expected: &str) -> Result<(), Error> {
        if types.contains(&self.elem()) {
            return Ok(());
        }
        Err(Error::BadType(fault("metadata", key, expected, format!("an array of {}", self.elem.name()))))
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} × {}]", self.len, self.elem.name())
    }
}

/// A list in a file, read where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List<'a, T> {
    bytes: &'a [u8],
    len: usize,
    element: PhantomData<T>,
}

/// What a [`List`] can hold.
pub trait Element<'a>: Copy {
    /// Element types of the arrays that hold it, as [`Array::elem`] names them.
    const TYPES: &'static [&'static str];
    /// Such an array, in words.
    const EXPECTED: &'static str;

    /// Takes the next element off the front of `rest`; none where the bytes end.
    fn take(rest: &mut &'a [u8]) -> Option<Self>;
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self { bytes: &[], len: 0, element: PhantomData }
    }
}

impl<'a, T: Element<'a>> List<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut rest = self.bytes;
        (0..self.len).map_while(move |_| T::take(&mut rest))
    }
}

/// Takes `N` bytes off the front.
fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*taken)
}

impl<'a> Element<'a> for &'a [u8] {
    const TYPES: &'static [&'static str] = &["string"];
    const EXPECTED: &'static str = "an array of strings";

    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let length = u64::from_le_bytes(take_array(rest)?);
        let (text, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        *rest = tail;
        Some(text)
    }
}

impl Element<'_> for f32 {
    const TYPES: &'static [&'static str] = &["f32"];
    const EXPECTED: &'static str = "an array of f32";

    fn take(rest: &mut &[u8]) -> Option<Self> {
        take_array(rest).map(Self::from_le_bytes)
    }
}

impl Element<'_> for i32 {
    const TYPES: &'static [&'static str] = &["i32", "u32"];
    const EXPECTED: &'static str = "an array of i32";

    fn take(rest: &mut &[u8]) -> Option<Self> {
        take_array(rest).map(Self::from_le_bytes)
    }
}
