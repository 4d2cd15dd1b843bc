//! HDF5 files, the part of the format that NIR graphs use: groups, and datasets of numbers and strings.
//!
//! Read are superblocks of versions 0 to 3, object headers of versions 1 and 2, groups as symbol tables or as links in
//! their header, and datasets that are compact, contiguous, or in chunks under a B-tree of version 1 (or one chunk of
//! version 4), with the filters deflate and shuffle. That is what h5py writes, with `libver` earliest or latest, short
//! of groups with so many links that they move to a heap. Anything else is an `Unsupported` error that names it.
//! Attributes are passed over. Source: "HDF5 File Format Specification Version 3.0", The HDF Group.
//!
//! Everything is held against the file before memory is taken: what its datasets hold decoded takes at most
//! [`MAX_BYTES`] and at most as many times its size as deflate can shrink by; the steps that reading it takes are
//! counted up to [`MAX_STEPS`], so no circle of links and no table that is named again and again keeps the reader busy.

mod chunks;
mod message;
mod object;

#[cfg(test)]
mod tests;

use crate::cursor::Cursor;
use crate::error::{Error, Fault, fault_at};

/// Bytes that all datasets together may take, decoded, at 8 bytes per number.
pub const MAX_BYTES: usize = 1 << 30;
/// Headers, messages, entries of tables and objects of heaps that are looked at, each as often as it is.
pub const MAX_STEPS: usize = 1 << 23;
/// Groups within groups.
pub const MAX_DEPTH: usize = 16;

/// The elements of a dataset, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Integers of 8 to 64 bits, also those behind an enumeration such as h5py's booleans.
    Integers(Vec<i64>),
    /// Floats of 32 or 64 bits.
    Floats(Vec<f64>),
    /// Strings of fixed or of variable length.
    Strings(Vec<String>),
}

/// A dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Sizes of the dimensions, slowest first; none for a scalar.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub elements: Elements,
}

/// What a link leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A group.
    Group(Group),
    /// A dataset.
    Dataset(Dataset),
}

/// A group: names and what they lead to, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The links. No name occurs twice.
    pub links: Vec<(String, Object)>,
}

impl Group {
    /// What a name leads to.
    pub fn get(&self, name: &str) -> Option<&Object> {
        self.links.iter().find(|(link, _)| link == name).map(|(_, object)| object)
    }
}

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Whether a file starts as HDF5 files do.
pub fn is_hdf5(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
}

/// Reads a whole file.
///
/// # Errors
/// `BadMagic`, `UnsupportedVersion`, `Truncated`, `OutOfBounds`, `Unsupported`, `BadType`, `BadShape`, `ShapeOverflow`,
/// `BudgetExceeded`, `DepthLimit`, `BadUtf8`, `EmptyKey`, `Duplicate`, `BadHeader`.
pub fn read(bytes: &[u8]) -> Result<Group, Error> {
    // Deflate makes at most 1,032 bytes of one; a number of one byte takes 8.
    let room = bytes.len().saturating_mul(1032 * 8).min(MAX_BYTES);
    let mut file = File { bytes, room, steps: 0 };
    let root = file.superblock()?;
    match file.object(root, 0)? {
        Object::Group(group) => Ok(group),
        Object::Dataset(_) => Err(Error::BadHeader(file.fault("root", root, "a group", "a dataset"))),
    }
}

/// A file that is being read.
struct File<'a> {
    bytes: &'a [u8],
    /// Bytes that datasets may yet take.
    room: usize,
    /// Steps taken so far.
    steps: usize,
}

/// The address that stands for none.
const UNDEFINED: u64 = u64::MAX;

impl<'a> File<'a> {
    #[expect(clippy::unnecessary_box_returns, reason = "errors hold their fault boxed, which keeps results small")]
    #[expect(clippy::unused_self, reason = "whoever reads the file names its faults by it")]
    fn fault(&self, name: &str, at: u64, expected: impl Into<String>, found: impl std::fmt::Display) -> Box<Fault> {
        fault_at("HDF5", name, at, expected, found)
    }

    /// A cursor at an address.
    fn at(&self, address: u64, name: &'static str) -> Result<Cursor<'a>, Error> {
        let place = usize::try_from(address).ok().filter(|&at| address != UNDEFINED && at <= self.bytes.len());
        let Some(at) = place else {
            let expected = format!("an address within the {} bytes", self.bytes.len());
            return Err(Error::OutOfBounds(self.fault(name, 0, expected, address)));
        };
        Ok(Cursor::starting_at(self.bytes, at, "HDF5"))
    }

    /// `size` bytes at an address.
    fn slice(&self, address: u64, size: u64, name: &'static str) -> Result<&'a [u8], Error> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.at(address, name)?.take(size, name)
    }

    /// The address of the root group's header.
    fn superblock(&mut self) -> Result<u64, Error> {
        let mut cursor = self.at(0, "superblock")?;
        if cursor.take(8, "signature").ok() != Some(SIGNATURE) {
            return Err(Error::BadMagic(self.fault("signature", 0, "the signature of an HDF5 file", "other bytes")));
        }
        let version = cursor.u8("superblock version")?;
        if version > 3 {
            let expected = "a superblock of version 0 to 3";
            return Err(Error::UnsupportedVersion(self.fault("superblock", 8, expected, version)));
        }
        if version < 2 {
            cursor.take(4, "versions")?;
        }
        let sizes = (cursor.u8("size of offsets")?, cursor.u8("size of lengths")?);
        if sizes != (8, 8) {
            let found = format!("{} and {}", sizes.0, sizes.1);
            return Err(Error::Unsupported(self.fault("superblock", 0, "offsets and lengths of 8 bytes", found)));
        }
        let rest = match version {
            0 => 1 + 4 + 4,
            1 => 1 + 4 + 4 + 4,
            _ => 1,
        };
        cursor.take(rest, "constants")?;
        let base = cursor.u64("base address")?;
        if base != 0 {
            return Err(Error::Unsupported(self.fault("base address", 0, "0 (no user block)", base)));
        }
        // Free space or superblock extension, end of file, and in the old versions driver information.
        cursor.take(if version < 2 { 24 } else { 16 }, "addresses")?;
        if version < 2 {
            cursor.u64("link name offset")?;
        }
        cursor.u64("root group")
    }

    /// Takes bytes that a dataset needs out of the budget.
    fn reserve(&mut self, bytes: usize, at: u64) -> Result<(), Error> {
        let Some(room) = self.room.checked_sub(bytes) else {
            let expected = format!("data of at most {} more bytes from a file of this size", self.room);
            return Err(Error::BudgetExceeded(self.fault("dataset", at, expected, bytes)));
        };
        self.room = room;
        Ok(())
    }

    /// Counts a step.
    fn step(&mut self, at: u64) -> Result<(), Error> {
        self.steps = self.steps.saturating_add(1);
        if self.steps > MAX_STEPS {
            let expected = format!("at most {MAX_STEPS} entries to read");
            return Err(Error::BudgetExceeded(self.fault("file", at, expected, "more, or a circle")));
        }
        Ok(())
    }
}
