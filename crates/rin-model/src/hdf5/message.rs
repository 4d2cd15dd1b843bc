//! The messages of an object header that say what a dataset is.

use super::{File, UNDEFINED};
use crate::cursor::Cursor;
use crate::error::Error;

/// Dimensions that a dataset may have.
const MAX_RANK: u8 = 8;

/// How an element is stored.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// An integer.
    Integer { signed: bool },
    /// An IEEE float.
    Float,
    /// A string of fixed length, ended early by a zero or padded with spaces.
    String,
    /// A string elsewhere: length, collection, index.
    VariableString,
}

/// The type of a dataset's elements.
#[derive(Clone, Debug)]
pub(super) struct Datatype {
    pub(super) kind: Kind,
    /// Bytes of a stored element.
    pub(super) size: usize,
    pub(super) big_endian: bool,
}

/// Where a dataset's bytes lie.
#[derive(Clone, Debug)]
pub(super) enum Layout<'a> {
    /// In the header.
    Compact(&'a [u8]),
    /// In one piece; none was ever written at the undefined address.
    Contiguous { address: u64, size: u64 },
    /// In chunks, under a B-tree of version 1.
    Chunked { tree: u64, chunk: Vec<u64> },
    /// In a single chunk.
    Single { address: u64, chunk: Vec<u64>, stored: Option<u64> },
}

/// A step of the filter pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Deflate,
    Shuffle,
}

impl<'a> File<'a> {
    /// The sizes of the dimensions.
    pub(super) fn dataspace(&self, cursor: &mut Cursor<'a>, at: u64) -> Result<Vec<usize>, Error> {
        let version = cursor.u8("dataspace version")?;
        let (rank, flags) = (cursor.u8("rank")?, cursor.u8("dataspace flags")?);
        match version {
            1 => drop(cursor.take(5, "reserved bytes")?),
            2 => {
                if cursor.u8("dataspace type")? == 2 {
                    return Err(Error::Unsupported(self.fault("dataspace", at, "a dataset with data", "a null space")));
                }
            }
            _ => return Err(Error::UnsupportedVersion(self.fault("dataspace", at, "version 1 or 2", version))),
        }
        if rank > MAX_RANK || flags > 3 {
            return Err(Error::BadShape(self.fault("dataspace", at, format!("at most {MAX_RANK} dimensions"), rank)));
        }
        (0..rank)
            .map(|_| {
                let size = cursor.u64("dimension")?;
                usize::try_from(size).map_err(|_| Error::ShapeOverflow(self.fault("dimension", at, "a size", size)))
            })
            .collect()
    }

    /// The type of the elements.
    pub(super) fn datatype(&self, cursor: &mut Cursor<'a>, at: u64) -> Result<Datatype, Error> {
        let head = cursor.u8("datatype")?;
        let (version, class) = (head >> 4, head & 15);
        let bits = [cursor.u8("datatype bits")?, cursor.u8("datatype bits")?, cursor.u8("datatype bits")?];
        let size = usize::try_from(cursor.u32("datatype size")?).unwrap_or(usize::MAX);
        if !(1..=5).contains(&version) {
            return Err(Error::UnsupportedVersion(self.fault("datatype", at, "version 1 to 5", version)));
        }
        let big_endian = bits[0] & 1 == 1;
        let unfit = |what: &str| {
            Err(Error::BadType(self.fault("datatype", at, what, format!("class {class} of {size} bytes"))))
        };
        match class {
            0 if matches!(size, 1 | 2 | 4 | 8) => {
                let (offset, precision) = (cursor.u16("bit offset")?, cursor.u16("bit precision")?);
                if offset != 0 || usize::from(precision) != size.saturating_mul(8) {
                    return unfit("an integer without padding");
                }
                Ok(Datatype { kind: Kind::Integer { signed: bits[0] & 8 != 0 }, size, big_endian })
            }
            1 if matches!(size, 4 | 8) && bits[0] & 0x40 == 0 => {
                let (offset, precision) = (cursor.u16("bit offset")?, cursor.u16("bit precision")?);
                // Where the exponent begins and how long it is, then the same of the mantissa.
                let mut byte = || cursor.u8("float layout");
                let parts = [byte()?, byte()?, byte()?, byte()?];
                let ieee = if size == 4 { (32, [23, 8, 0, 23]) } else { (64, [52, 11, 0, 52]) };
                if offset != 0 || (precision, parts) != ieee {
                    return unfit("an IEEE float of 32 or 64 bits");
                }
                Ok(Datatype { kind: Kind::Float, size, big_endian })
            }
            3 if size > 0 => Ok(Datatype { kind: Kind::String, size, big_endian: false }),
            // An enumeration, as h5py stores booleans: the integer behind it comes first.
            8 => self.datatype(cursor, at).and_then(|base| match base.kind {
                Kind::Integer { .. } if base.size == size => Ok(base),
                _ => unfit("an enumeration of integers"),
            }),
            9 if bits[0] & 15 == 1 && size == 16 => {
                Ok(Datatype { kind: Kind::VariableString, size, big_endian: false })
            }
            _ => unfit("integers, floats of 32 or 64 bits, or strings"),
        }
    }

    /// Where the bytes lie.
    pub(super) fn layout(&self, cursor: &mut Cursor<'a>, at: u64) -> Result<Layout<'a>, Error> {
        let version = cursor.u8("layout version")?;
        if !(3..=5).contains(&version) {
            return Err(Error::UnsupportedVersion(self.fault("layout", at, "version 3 to 5", version)));
        }
        match (cursor.u8("layout class")?, version) {
            (0, _) => {
                let size = cursor.u16("compact size")?;
                Ok(Layout::Compact(cursor.take(size.into(), "compact data")?))
            }
            (1, _) => Ok(Layout::Contiguous { address: cursor.u64("data address")?, size: cursor.u64("data size")? }),
            (2, 3) => {
                let rank = self.chunk_rank(cursor.u8("chunk rank")?, at)?;
                let tree = cursor.u64("chunk tree")?;
                let chunk = (0..rank).map(|_| cursor.u32("chunk size").map(u64::from)).collect::<Result<_, _>>()?;
                Ok(Layout::Chunked { tree, chunk })
            }
            (2, _) => {
                let flags = cursor.u8("chunk flags")?;
                let rank = self.chunk_rank(cursor.u8("chunk rank")?, at)?;
                let width = cursor.u8("chunk size width")?;
                if !(1..=8).contains(&width) {
                    return Err(Error::BadShape(self.fault("layout", at, "chunk sizes of 1 to 8 bytes", width)));
                }
                let chunk = (0..rank)
                    .map(|_| {
                        let bytes = cursor.take(width.into(), "chunk size")?;
                        Ok(bytes.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte)))
                    })
                    .collect::<Result<_, Error>>()?;
                let index = cursor.u8("chunk index")?;
                if index != 1 {
                    let expected = "one chunk, or chunks under a B-tree of version 1 (libver='earliest')";
                    return Err(Error::Unsupported(self.fault("layout", at, expected, format!("index type {index}"))));
                }
                let stored = if flags & 2 == 0 {
                    None
                } else {
                    let stored = cursor.u64("stored size")?;
                    cursor.u32("filter mask")?;
                    Some(stored)
                };
                Ok(Layout::Single { address: cursor.u64("chunk address")?, chunk, stored })
            }
            (class, _) => {
                Err(Error::Unsupported(self.fault("layout", at, "compact, contiguous or chunked data", class)))
            }
        }
    }

    /// The dimensions of a chunk, of which the last is the size of an element.
    fn chunk_rank(&self, rank: u8, at: u64) -> Result<u8, Error> {
        if !(2..=MAX_RANK.saturating_add(1)).contains(&rank) {
            return Err(Error::BadShape(self.fault(
                "layout",
                at,
                format!("chunks of at most {MAX_RANK} dimensions"),
                rank,
            )));
        }
        Ok(rank)
    }

    /// The filters, in the order in which a writer applies them.
    pub(super) fn filters(&self, cursor: &mut Cursor<'a>, at: u64) -> Result<Vec<Filter>, Error> {
        let version = cursor.u8("filter version")?;
        let count = cursor.u8("number of filters")?;
        match version {
            1 => drop(cursor.take(6, "reserved bytes")?),
            2 => {}
            _ => return Err(Error::UnsupportedVersion(self.fault("filters", at, "version 1 or 2", version))),
        }
        let mut filters = Vec::new();
        for _ in 0..count.min(8) {
            let id = cursor.u16("filter")?;
            let name = if version == 1 || id >= 256 { cursor.u16("filter name length")? } else { 0 };
            cursor.u16("filter flags")?;
            let values = cursor.u16("number of filter values")?;
            let padded = if version == 1 { name.checked_next_multiple_of(8).unwrap_or(u16::MAX) } else { name };
            cursor.take(padded.into(), "filter name")?;
            let padding = u16::from(version == 1 && values % 2 == 1);
            cursor.take(usize::from(values.saturating_add(padding)).saturating_mul(4), "filter values")?;
            filters.push(match id {
                1 => Filter::Deflate,
                2 => Filter::Shuffle,
                _ => {
                    let expected = "the filters deflate (1) and shuffle (2)";
                    return Err(Error::Unsupported(self.fault("filters", at, expected, format!("filter {id}"))));
                }
            });
        }
        Ok(filters)
    }

    /// Whether a group keeps its links in a heap, given its link information message.
    pub(super) fn dense_links(cursor: &mut Cursor<'a>) -> Result<bool, Error> {
        cursor.u8("link info version")?;
        if cursor.u8("link info flags")? & 1 != 0 {
            cursor.u64("largest creation index")?;
        }
        Ok(cursor.u64("link heap")? != UNDEFINED)
    }
}
