//! Constants of an ONNX file.

use super::wire::Field;
use super::{ExternalFiles, MAX_DIMS, MAX_NAME, SECTION};
use crate::error::{Error, fault, fault_at};

/// A constant: its place in the file, and what it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensor<'a> {
    /// Name, empty in parameters.
    pub name: &'a str,
    /// Sizes, slowest first.
    pub dims: Vec<u64>,
    /// Number of the element type in `TensorProto.DataType`.
    pub element: i32,
    /// The numbers.
    pub data: TensorData<'a>,
}

/// Where the numbers of a constant lie.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum TensorData<'a> {
    /// Nowhere: a constant without elements.
    #[default]
    None,
    /// Little-endian, one after the other.
    Raw(&'a [u8]),
    /// In fields of 32-bit floats, as bytes.
    Floats(Vec<u8>),
    /// In fields of 64-bit floats, as bytes.
    Doubles(Vec<u8>),
    /// In fields of integers, whatever their width.
    Integers(Vec<i64>),
    /// Texts.
    Strings(usize),
    /// In a file beside the model.
    External {
        /// Path, relative to the model's folder.
        location: &'a str,
        /// First byte.
        offset: u64,
        /// Bytes; none: up to the end of the file.
        length: Option<u64>,
    },
}

/// Numbers of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// Of a float type, as f32: halves exactly, doubles rounded.
    Floats(Vec<f32>),
    /// Of an integer type or truth values; the unsigned 64-bit ones as the same bits.
    Integers(Vec<i64>),
}

impl Elements {
    /// Their number.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Declares the element types once: number in files, name, bytes in raw data (0: none is read).
macro_rules! elements {
    ($($number:literal $name:literal $bytes:literal;)+) => {
        const ELEMENTS: &[(i32, &str, usize)] = &[$(($number, $name, $bytes)),+];
    };
}

elements! {
    1 "float" 4;
    2 "uint8" 1;
    3 "int8" 1;
    4 "uint16" 2;
    5 "int16" 2;
    6 "int32" 4;
    7 "int64" 8;
    8 "string" 0;
    9 "bool" 1;
    10 "float16" 2;
    11 "double" 8;
    12 "uint32" 4;
    13 "uint64" 8;
    14 "complex64" 0;
    15 "complex128" 0;
    16 "bfloat16" 2;
    17 "float8e4m3fn" 0;
    18 "float8e4m3fnuz" 0;
    19 "float8e5m2" 0;
    20 "float8e5m2fnuz" 0;
    21 "uint4" 0;
    22 "int4" 0;
    23 "float4e2m1" 0;
    24 "float8e8m0" 0;
    25 "uint2" 0;
    26 "int2" 0;
}

/// The name of an element type by its number in files.
pub fn element_name(number: i32) -> &'static str {
    ELEMENTS.iter().find(|(known, ..)| *known == number).map_or("unknown", |(_, name, _)| name)
}

impl<'a> Tensor<'a> {
    pub(super) fn read(field: &Field<'a>) -> Result<Self, Error> {
        let mut tensor = Self::default();
        let mut message = field.message("tensor")?;
        let (mut floats, mut doubles, mut integers, mut strings) = (Vec::new(), Vec::new(), Vec::new(), 0_usize);
        let (mut raw, mut external, mut entries) = (None, false, Vec::new());
        while let Some(field) = message.next()? {
            match field.number {
                1 => {
                    let mut dims = Vec::new();
                    field.push_integers(&mut dims)?;
                    for n in dims {
                        let size = u64::try_from(n).map_err(|_| {
                            Error::BadShape(fault_at(SECTION, "dims", field.at, "sizes of 0 or more", n))
                        })?;
                        if tensor.dims.len() >= MAX_DIMS {
                            let expected = format!("at most {MAX_DIMS} dimensions");
                            return Err(Error::BadShape(fault_at(SECTION, "dims", field.at, expected, "more")));
                        }
                        tensor.dims.push(size);
                    }
                }
                2 => tensor.element = i32::try_from(field.i64()?).unwrap_or(0),
                4 => field.push_fixed::<4>(&mut floats)?,
                5 | 7 | 11 => field.push_integers(&mut integers)?,
                6 => strings = strings.saturating_add(1),
                8 => tensor.name = super::name(&field)?,
                9 => raw = Some(field.bytes()?),
                10 => field.push_fixed::<8>(&mut doubles)?,
                13 if entries.len() < 16 => entries.push(entry(&field)?),
                14 => external = field.u64()? == 1,
                _ => {}
            }
        }
        tensor.data = match raw {
            _ if external => tensor.external(&entries)?,
            Some(raw) => TensorData::Raw(raw),
            None if !floats.is_empty() => TensorData::Floats(floats),
            None if !doubles.is_empty() => TensorData::Doubles(doubles),
            None if !integers.is_empty() => TensorData::Integers(integers),
            None if strings > 0 => TensorData::Strings(strings),
            None => TensorData::None,
        };
        Ok(tensor)
    }

    fn external(&self, entries: &[(&'a str, &'a str)]) -> Result<TensorData<'a>, Error> {
        let get = |key: &str| entries.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        let number = |key: &str| {
            let parse = |text: &str| {
                let bad = || Error::BadHeader(fault(SECTION, self.name, format!("`{key}` as a number of bytes"), text));
                text.parse::<u64>().map_err(|_| bad())
            };
            get(key).map(parse).transpose()
        };
        let missing = || {
            let expected = "the `location` of a constant that lies in another file";
            Error::MissingKey(fault(SECTION, self.name, expected, "none"))
        };
        let location = get("location").filter(|path| path.len() <= MAX_NAME).ok_or_else(missing)?;
        Ok(TensorData::External { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }

    /// Elements that the shape asks for.
    ///
    /// # Errors
    /// `ShapeOverflow` where they are beyond all memory.
    pub fn count(&self) -> Result<usize, Error> {
        let count = self.dims.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
        // What is made of them has up to eight bytes an element.
        let count = count.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= usize::MAX >> 8);
        count.ok_or_else(|| {
            let found = format!("shape {:?}", self.dims);
            Error::ShapeOverflow(fault(SECTION, self.name, "a constant that fits memory", found))
        })
    }

    /// The numbers, as many as the shape asks for. `files` opens what lies beside the model.
    ///
    /// # Errors
    /// `Unsupported` for an element type that RIN does not read, `BadShape` for a number of values that is not that of
    /// the shape, and whatever `files` finds.
    pub fn elements(&self, files: &mut ExternalFiles) -> Result<Elements, Error> {
        let count = self.count()?;
        let element = element_name(self.element);
        let bytes = ELEMENTS.iter().find(|(known, ..)| *known == self.element).map_or(0, |(.., bytes)| *bytes);
        if bytes == 0 {
            return Err(Error::Unsupported(fault(
                SECTION,
                self.name,
                "a constant of numbers of 8 to 64 bits",
                element,
            )));
        }
        let size = count.checked_mul(bytes).ok_or_else(|| self.misfit(count, "more than memory can have"))?;
        let raw = |raw: &[u8]| {
            if raw.len() == size {
                return Ok(decode(self.element, raw));
            }
            Err(self.misfit(count, &format!("{} bytes of {element}", raw.len())))
        };
        let found = match &self.data {
            TensorData::Raw(bytes) => return raw(bytes),
            TensorData::External { location, offset, length } => {
                let length = length.or_else(|| u64::try_from(size).ok()).unwrap_or(u64::MAX);
                return raw(files.read(self.name, location, *offset, length, size)?);
            }
            TensorData::Floats(bytes) if self.element == 1 => decode(1, bytes),
            TensorData::Doubles(bytes) if self.element == 11 => decode(11, bytes),
            TensorData::Integers(values) => self.of_integers(values)?,
            TensorData::None if count == 0 => decode(self.element, &[]),
            TensorData::None => return Err(self.misfit(count, "none")),
            _ => {
                let expected = format!("values as fields of {element}");
                return Err(Error::BadType(fault(SECTION, self.name, expected, "another field")));
            }
        };
        if found.len() == count { Ok(found) } else { Err(self.misfit(count, &format!("{} values", found.len()))) }
    }

    fn misfit(&self, count: usize, found: &str) -> Error {
        let expected = format!("the {count} values of the shape {:?}", self.dims);
        Error::BadShape(fault(SECTION, self.name, expected, found))
    }

    /// Integers of a field as what they stand for; those of a narrow type that do not fit it are refused.
    fn of_integers(&self, values: &[i64]) -> Result<Elements, Error> {
        let range = match self.element {
            2 => 0..=0xff,
            3 => -0x80..=0x7f,
            4 | 10 | 16 => 0..=0xffff,
            5 => -0x8000..=0x7fff,
            9 => 0..=1,
            6 => i64::from(i32::MIN)..=i64::from(i32::MAX),
            12 => 0..=i64::from(u32::MAX),
            _ => i64::MIN..=i64::MAX,
        };
        if let Some(found) = values.iter().find(|value| !range.contains(value)) {
            let expected = format!("values of {}", element_name(self.element));
            return Err(Error::BadType(fault(SECTION, self.name, expected, found)));
        }
        // The bits of halves come as integers of 16 bits.
        let halves = || values.iter().map(|&v| u16::try_from(v).unwrap_or(0)).collect::<Vec<_>>();
        Ok(match self.element {
            10 => Elements::Floats(halves().into_iter().map(half).collect()),
            16 => Elements::Floats(halves().into_iter().map(bfloat16).collect()),
            1 | 11 => return Err(Error::BadType(fault(SECTION, self.name, "floats", "integers"))),
            _ => Elements::Integers(values.to_vec()),
        })
    }
}

fn entry<'a>(field: &Field<'a>) -> Result<(&'a str, &'a str), Error> {
    let (mut key, mut value) = ("", "");
    let mut message = field.message("entry")?;
    while let Some(field) = message.next()? {
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// Whole elements of raw data.
fn decode(element: i32, raw: &[u8]) -> Elements {
    fn each<const N: usize, T>(raw: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|&bytes| of(bytes)).collect()
    }
    #[expect(clippy::cast_possible_truncation, reason = "doubles are computed with as f32")]
    match element {
        1 => Elements::Floats(each(raw, f32::from_le_bytes)),
        10 => Elements::Floats(each(raw, |b| half(u16::from_le_bytes(b)))),
        11 => Elements::Floats(each(raw, |b| f64::from_le_bytes(b) as f32)),
        16 => Elements::Floats(each(raw, |b| bfloat16(u16::from_le_bytes(b)))),
        3 => Elements::Integers(each(raw, |b| i64::from(i8::from_le_bytes(b)))),
        4 => Elements::Integers(each(raw, |b| i64::from(u16::from_le_bytes(b)))),
        5 => Elements::Integers(each(raw, |b| i64::from(i16::from_le_bytes(b)))),
        6 => Elements::Integers(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        7 | 13 => Elements::Integers(each(raw, i64::from_le_bytes)),
        9 => Elements::Integers(each(raw, |[b]: [u8; 1]| i64::from(b != 0))),
        12 => Elements::Integers(each(raw, |b| i64::from(u32::from_le_bytes(b)))),
        _ => Elements::Integers(each(raw, |[b]: [u8; 1]| i64::from(b))),
    }
}

fn bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE binary16, exactly.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = match exponent {
        // Subnormal: the fraction times 2^-24, which is exact.
        0 => (f32::from(bits & 0x3ff) * f32::from_bits(0x3380_0000)).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => exponent.saturating_add(112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        for (bits, want) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_5e-8), (0x0400, 6.103_515_6e-5)]
        {
            assert_eq!(half(bits).to_bits(), f32::to_bits(want));
        }
        assert_eq!(half(0xfc00).to_bits(), f32::NEG_INFINITY.to_bits());
        assert!(half(0x7e00).is_nan());
        assert_eq!(half(0x8000).to_bits(), 0x8000_0000);
    }
}
