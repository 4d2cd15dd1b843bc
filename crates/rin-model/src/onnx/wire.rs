//! The wire format of protocol buffers: fields of a message, taken off its bytes one by one.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>. A message is a list of fields, each a key (field number
//! and kind) and a payload. Nothing is copied: a nested message is a slice, and the reader of messages calls itself to a
//! depth that its own code fixes.

use crate::error::{Error, fault_at};

/// Payload of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Payload<'a> {
    /// A variable-length integer.
    Varint(u64),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// Bytes with their length in front: a string, a message, packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32([u8; 4]),
}

/// A field with its place in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) payload: Payload<'a>,
    /// Byte offset of the payload.
    pub(super) at: usize,
}

/// The fields of a message.
#[derive(Debug, Clone)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Offset of `bytes` in the file.
    base: usize,
    name: &'static str,
}

const SECTION: &str = "ONNX model";
/// Bytes of the longest integer.
const MAX_VARINT: usize = 10;

impl<'a> Message<'a> {
    /// The message that is the whole file.
    pub(super) fn whole(bytes: &'a [u8], name: &'static str) -> Self {
        Self { bytes, at: 0, base: 0, name }
    }

    fn offset(&self) -> usize {
        self.base.saturating_add(self.at)
    }

    fn cut(&self, what: &str) -> Error {
        let left = self.bytes.len().saturating_sub(self.at);
        let found = format!("{left} bytes before the end of the {}", self.name);
        Error::Truncated(fault_at(SECTION, self.name, self.offset(), what, found))
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.cut(what))?;
        self.at = self.at.saturating_add(n);
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let start = self.offset();
        let mut value = 0_u64;
        for i in 0..MAX_VARINT {
            let byte = self.take(1, "an integer")?.first().copied().unwrap_or(0);
            let shift = u32::try_from(i.saturating_mul(7)).unwrap_or(u32::MAX);
            // Of the tenth byte one bit is left; what does not fit is dropped, as protobuf's own readers do.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        let found = format!("more than {MAX_VARINT} bytes");
        Err(Error::BadHeader(fault_at(SECTION, self.name, start, "an integer of at most 10 bytes", found)))
    }

    /// The next field; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, Error> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let start = self.offset();
        let key = self.varint()?;
        let bad = |expected: &str, found: String| {
            Error::BadHeader(fault_at(SECTION, self.name, start, expected.to_owned(), found))
        };
        let number = u32::try_from(key >> 3).ok().filter(|&number| number > 0 && number < 1 << 29);
        let number = number.ok_or_else(|| bad("a field number from 1 to 2^29 - 1", format!("{}", key >> 3)))?;
        let kind = key & 7;
        if ![0, 1, 2, 5].contains(&kind) {
            return Err(bad("a field of kind 0, 1, 2 or 5", format!("kind {kind} of field {number}")));
        }
        let at = self.offset();
        let payload = match kind {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(self.array()?),
            5 => Payload::Fixed32(self.array()?),
            _ => {
                let at = self.offset();
                let length = self.varint()?;
                let left = self.bytes.len().saturating_sub(self.at);
                let n = usize::try_from(length).ok().filter(|&n| n <= left);
                let n = n.ok_or_else(|| {
                    let expected = format!("at most the {left} bytes that are left");
                    Error::LengthExceedsFile(fault_at(SECTION, self.name, at, expected, length))
                })?;
                Payload::Bytes(self.take(n, "bytes")?)
            }
        };
        // The bytes end where the reader stands.
        let at = if let Payload::Bytes(bytes) = payload { self.offset().saturating_sub(bytes.len()) } else { at };
        Ok(Some(Field { number, payload, at }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = self.take(N, "a number")?;
        taken.try_into().map_err(|_| self.cut("a number"))
    }
}

impl<'a> Field<'a> {
    fn wrong(&self, expected: &str) -> Error {
        let found = match self.payload {
            Payload::Varint(_) => "an integer",
            Payload::Fixed64(_) => "eight bytes",
            Payload::Bytes(_) => "bytes with a length",
            Payload::Fixed32(_) => "four bytes",
        };
        Error::BadType(fault_at(SECTION, format!("field {}", self.number), self.at, expected, found))
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8], Error> {
        match self.payload {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong("bytes with a length")),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, Error> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|error| {
            let name = format!("field {}", self.number);
            Error::BadUtf8(fault_at(SECTION, name, self.at.saturating_add(error.valid_up_to()), "UTF-8", "other bytes"))
        })
    }

    /// A nested message.
    pub(super) fn message(&self, name: &'static str) -> Result<Message<'a>, Error> {
        Ok(Message { bytes: self.bytes()?, at: 0, base: self.at, name })
    }

    pub(super) fn u64(&self) -> Result<u64, Error> {
        match self.payload {
            Payload::Varint(value) => Ok(value),
            _ => Err(self.wrong("an integer")),
        }
    }

    pub(super) fn i64(&self) -> Result<i64, Error> {
        self.u64().map(u64::cast_signed)
    }

    pub(super) fn f32(&self) -> Result<f32, Error> {
        match self.payload {
            Payload::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.wrong("four bytes")),
        }
    }

    /// Integers of a repeated field, one of them or packed together.
    pub(super) fn push_integers(&self, to: &mut Vec<i64>) -> Result<(), Error> {
        let mut message = match self.payload {
            Payload::Varint(value) => {
                to.push(value.cast_signed());
                return Ok(());
            }
            _ => self.message("list of integers")?,
        };
        // An integer has at least one byte, so the list is no longer than eight times its bytes.
        while message.at < message.bytes.len() {
            to.push(message.varint()?.cast_signed());
        }
        Ok(())
    }

    /// Numbers of `N` bytes of a repeated field, one of them or packed together.
    pub(super) fn push_fixed<const N: usize>(&self, to: &mut Vec<u8>) -> Result<(), Error> {
        match self.payload {
            Payload::Fixed32(bytes) if N == 4 => to.extend(bytes),
            Payload::Fixed64(bytes) if N == 8 => to.extend(bytes),
            Payload::Bytes(bytes) if bytes.len().is_multiple_of(N) => to.extend(bytes),
            _ => return Err(self.wrong("numbers of a fixed size")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u32, Payload<'_>, usize)>, Error> {
        let mut message = Message::whole(bytes, "test");
        let mut found = Vec::new();
        while let Some(field) = message.next()? {
            found.push((field.number, field.payload, field.at));
        }
        Ok(found)
    }

    #[test]
    fn fields_of_all_kinds_are_read() {
        // The examples of the format's own page, and the two fixed kinds.
        assert_eq!(fields(&[0x08, 0x96, 0x01]).unwrap(), [(1, Payload::Varint(150), 1)]);
        let text = [0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g'];
        assert_eq!(fields(&text).unwrap(), [(2, Payload::Bytes(b"testing"), 2)]);
        let both = [0x0d, 1, 2, 3, 4, 0x11, 1, 2, 3, 4, 5, 6, 7, 8];
        let want = [(1, Payload::Fixed32([1, 2, 3, 4]), 1), (2, Payload::Fixed64([1, 2, 3, 4, 5, 6, 7, 8]), 6)];
        assert_eq!(fields(&both).unwrap(), want);
        let minus_one = [8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(fields(&minus_one).unwrap(), [(1, Payload::Varint(u64::MAX), 1)]);
    }

    #[test]
    fn packed_and_single_numbers_are_one_list() {
        let mut message = Message::whole(&[0x08, 3, 0x0a, 3, 0x8e, 0x02, 5], "test");
        let mut found = Vec::new();
        while let Some(field) = message.next().unwrap() {
            field.push_integers(&mut found).unwrap();
        }
        assert_eq!(found, [3, 270, 5]);
        let mut bytes = Vec::new();
        let field = Message::whole(&[0x0a, 4, 1, 2, 3, 4], "test").next().unwrap().unwrap();
        field.push_fixed::<4>(&mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!(field.push_fixed::<8>(&mut bytes).unwrap_err().kind(), "BadType");
    }

    #[test]
    fn damage_is_named() {
        let kind = |bytes: &[u8]| fields(bytes).unwrap_err().kind();
        assert_eq!(kind(&[0x08]), "Truncated");
        assert_eq!(kind(&[0x08, 0x80]), "Truncated");
        assert_eq!(kind(&[0x0d, 1, 2, 3]), "Truncated");
        assert_eq!(kind(&[0x12, 5, 1, 2, 3, 4]), "LengthExceedsFile");
        assert_eq!(kind(&[0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), "LengthExceedsFile");
        assert_eq!(kind(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), "BadHeader");
        assert_eq!(kind(&[0x00, 0]), "BadHeader");
        assert_eq!(kind(&[0x0b]), "BadHeader");
    }
}
