//! A cursor over bytes that nobody vouches for.

use super::ForeignError;

/// Takes fields off the front, and knows where it is.
#[derive(Clone, Debug)]
pub(super) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
    section: &'static str,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(all: &'a [u8], section: &'static str) -> Self {
        Self { all, at: 0, section }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.all.len().saturating_sub(self.at)
    }

    pub(super) fn fault(&self, reason: impl Into<String>) -> ForeignError {
        ForeignError::damaged(self.section, self.at, reason)
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], ForeignError> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.all.get(self.at..end));
        let taken = taken.ok_or_else(|| self.fault(format!("{n} bytes are wanted, {} are left", self.remaining())))?;
        self.at = self.at.saturating_add(n);
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ForeignError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.fault("a field is cut short"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, ForeignError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ForeignError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ForeignError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ForeignError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length that is then taken.
    pub(super) fn length(&mut self, n: impl TryInto<usize>) -> Result<&'a [u8], ForeignError> {
        let n = n.try_into().map_err(|_| self.fault("a length beyond the address space"))?;
        self.take(n)
    }

    /// Numbers, four bytes each.
    pub(super) fn f32s(&mut self, n: usize) -> Result<Vec<f32>, ForeignError> {
        let bytes = n.checked_mul(4).ok_or_else(|| self.fault("a length beyond the address space"))?;
        Ok(self.take(bytes)?.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    /// The bytes up to a line end, which is skipped.
    pub(super) fn line(&mut self) -> Result<&'a [u8], ForeignError> {
        let rest = self.all.get(self.at..).unwrap_or_default();
        let n = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.fault("a line without an end"))?;
        let line = self.take(n)?;
        self.take(1)?;
        Ok(line)
    }
}
