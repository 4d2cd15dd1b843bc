//! The one reader of binary fields: little-endian, checked arithmetic only.

use crate::error::{Error, fault_at};

/// Longest string that a file may hold, in bytes.
pub(crate) const MAX_STRING: u64 = 16 << 20;

/// A position in borrowed bytes.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    section: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], section: &'static str) -> Self {
        Self { bytes, at: 0, section }
    }

    /// From offset `at` on, which errors count from the start of `bytes`.
    pub(crate) fn starting_at(bytes: &'a [u8], at: usize, section: &'static str) -> Self {
        Self { bytes, at, section }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Names the part of the file that is read from here on.
    pub(crate) fn enter(&mut self, section: &'static str) {
        self.section = section;
    }

    pub(crate) fn section(&self) -> &'static str {
        self.section
    }

    /// Bytes that are left.
    pub(crate) fn remaining(&self) -> u64 {
        u64::try_from(self.bytes.len().saturating_sub(self.at)).unwrap_or(u64::MAX)
    }

    /// The next `n` bytes; `Truncated` where there are fewer.
    pub(crate) fn take(&mut self, n: usize, name: &str) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(n);
        match end.and_then(|end| self.bytes.get(self.at..end).map(|taken| (taken, end))) {
            Some((taken, end)) => {
                self.at = end;
                Ok(taken)
            }
            None => Err(Error::Truncated(fault_at(
                self.section,
                name,
                self.at,
                format!("{n} more bytes"),
                format!("{} before the end of the file", self.remaining()),
            ))),
        }
    }

    fn array<const N: usize>(&mut self, name: &str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, name)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, name: &str) -> Result<u8, Error> {
        self.array(name).map(u8::from_le_bytes)
    }
    pub(crate) fn u16(&mut self, name: &str) -> Result<u16, Error> {
        self.array(name).map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self, name: &str) -> Result<u32, Error> {
        self.array(name).map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self, name: &str) -> Result<u64, Error> {
        self.array(name).map(u64::from_le_bytes)
    }

    /// A count of items of at least `smallest` bytes each; `CountExceedsFile` where so many cannot follow,
    /// `BudgetExceeded` where there are more than `limit`.
    pub(crate) fn count(&mut self, name: &str, smallest: u64, limit: u64) -> Result<usize, Error> {
        let at = self.at;
        let count = self.u64(name)?;
        self.check_count(count, name, at, smallest)?;
        if count > limit {
            let expected = format!("at most {limit} items");
            return Err(Error::BudgetExceeded(fault_at(self.section, name, at, expected, count)));
        }
        usize::try_from(count).map_err(|_| {
            Error::CountExceedsFile(fault_at(self.section, name, at, "a count that fits the machine", count))
        })
    }

    /// Holds a count that was read at `at` against the bytes that are left.
    pub(crate) fn check_count(&self, count: u64, name: &str, at: usize, smallest: u64) -> Result<(), Error> {
        let most = self.remaining().checked_div(smallest).unwrap_or(u64::MAX);
        if count > most {
            let expected = format!("at most {most} items in the {} bytes that are left", self.remaining());
            return Err(Error::CountExceedsFile(fault_at(self.section, name, at, expected, count)));
        }
        Ok(())
    }

    /// A string with its length in front, as bytes; `LengthExceedsFile` past the end, `BudgetExceeded` above `limit`.
    pub(crate) fn string(&mut self, name: &str, limit: u64) -> Result<&'a [u8], Error> {
        let at = self.at;
        let length = self.u64(name)?;
        if length > self.remaining() {
            let expected = format!("a string of at most {} bytes, which are left", self.remaining());
            return Err(Error::LengthExceedsFile(fault_at(self.section, name, at, expected, length)));
        }
        if length > limit {
            let expected = format!("a string of at most {limit} bytes");
            return Err(Error::BudgetExceeded(fault_at(self.section, name, at, expected, length)));
        }
        self.take(usize::try_from(length).unwrap_or(usize::MAX), name)
    }
}
