//! The bytes of a dataset: in one piece, or put together out of chunks.

use super::message::{Filter, Layout};
use super::{File, UNDEFINED};
use crate::cursor::Cursor;
use crate::error::Error;
use std::borrow::Cow;

impl<'a> File<'a> {
    /// The `bytes` stored bytes of a dataset.
    pub(super) fn stored(
        &mut self,
        address: u64,
        shape: &[usize],
        element: usize,
        bytes: usize,
        layout: &Layout<'a>,
        filters: &[Filter],
    ) -> Result<Cow<'a, [u8]>, Error> {
        match layout {
            Layout::Compact(data) if data.len() >= bytes => Ok(Cow::Borrowed(data.get(..bytes).unwrap_or(data))),
            Layout::Compact(data) => {
                Err(Error::BadShape(self.fault("dataset", address, format!("{bytes} bytes of data"), data.len())))
            }
            // Nothing was ever written: the fill value, which is zero unless someone asks for another.
            Layout::Contiguous { address: UNDEFINED, .. } => Ok(Cow::Owned(vec![0; bytes])),
            Layout::Contiguous { address: at, size } => {
                if usize::try_from(*size).ok() != Some(bytes) {
                    return Err(Error::BadShape(self.fault(
                        "dataset",
                        address,
                        format!("{bytes} bytes of data"),
                        size,
                    )));
                }
                self.slice(*at, *size, "dataset").map(Cow::Borrowed)
            }
            Layout::Chunked { tree, chunk } => {
                let mut leaves = Vec::new();
                if *tree != UNDEFINED {
                    let key = chunk.len().saturating_mul(8).saturating_add(8);
                    self.tree_leaves(*tree, 1, key, &mut leaves)?;
                }
                let mut whole = Whole::new(self, address, shape, element, bytes, chunk)?;
                whole.check_count(leaves.len())?;
                for (key, at) in leaves {
                    let mut key = Cursor::new(key, "HDF5");
                    let (size, mask) = (key.u32("chunk size")?, key.u32("filter mask")?);
                    let offset = (0..shape.len()).map(|_| key.u64("chunk offset")).collect::<Result<Vec<_>, _>>()?;
                    whole.place(&offset, self.slice(at, size.into(), "chunk")?, filters, mask)?;
                }
                Ok(Cow::Owned(whole.out))
            }
            Layout::Single { address: at, chunk, stored } => {
                let mut whole = Whole::new(self, address, shape, element, bytes, chunk)?;
                if *at != UNDEFINED {
                    let size = stored.unwrap_or(u64::try_from(whole.chunk_bytes).unwrap_or(u64::MAX));
                    let filters = if stored.is_some() { filters } else { &[] };
                    whole.place(&vec![0; shape.len()], self.slice(*at, size, "chunk")?, filters, 0)?;
                }
                Ok(Cow::Owned(whole.out))
            }
        }
    }
}

/// A dataset that is being put together.
struct Whole<'f, 'a> {
    file: &'f File<'a>,
    address: u64,
    shape: &'f [usize],
    element: usize,
    /// Sizes of a chunk, without that of an element.
    chunk: Vec<usize>,
    chunk_bytes: usize,
    out: Vec<u8>,
}

impl<'f, 'a> Whole<'f, 'a> {
    fn new(
        file: &'f File<'a>,
        address: u64,
        shape: &'f [usize],
        element: usize,
        bytes: usize,
        chunk: &[u64],
    ) -> Result<Self, Error> {
        let sizes: Option<Vec<usize>> =
            chunk.iter().map(|&size| usize::try_from(size).ok().filter(|&s| s > 0)).collect();
        let parts = sizes.as_deref().and_then(|sizes| sizes.split_last());
        let Some((&last, sizes)) = parts.filter(|(last, sizes)| **last == element && sizes.len() == shape.len()) else {
            let expected = format!("chunks of {} dimensions and elements of {element} bytes", shape.len());
            return Err(Error::BadShape(file.fault("dataset", address, expected, format!("{chunk:?}"))));
        };
        // A chunk may be larger than the dataset, but no dimension of it sensibly is: h5py cuts it to the shape, so
        // a chunk with many times more elements than the dataset is a bomb.
        let chunk_bytes = sizes.iter().try_fold(last, |bytes, &size| bytes.checked_mul(size));
        let Some(chunk_bytes) = chunk_bytes.filter(|&size| size <= bytes.saturating_mul(4).saturating_add(1 << 20))
        else {
            let expected = format!("chunks about as large as the dataset of {bytes} bytes");
            return Err(Error::BudgetExceeded(file.fault("dataset", address, expected, format!("{chunk:?}"))));
        };
        Ok(Self { file, address, shape, element, chunk: sizes.to_vec(), chunk_bytes, out: vec![0; bytes] })
    }

    /// Refuses more chunks than cover the dataset: each costs a decompression.
    fn check_count(&self, found: usize) -> Result<(), Error> {
        let along = |(&size, &chunk): (&usize, &usize)| size.div_ceil(chunk.max(1));
        let most = self.shape.iter().zip(&self.chunk).map(along).fold(1, usize::saturating_mul);
        if found > most {
            let expected = format!("at most {most} chunks");
            return Err(Error::BadShape(self.file.fault("dataset", self.address, expected, found)));
        }
        Ok(())
    }

    /// Undoes the filters of a chunk and copies its rows to their places.
    fn place(&mut self, offset: &[u64], stored: &[u8], filters: &[Filter], mask: u32) -> Result<(), Error> {
        let bad = |file: &File<'_>, expected: &str, found: String| {
            Error::BadHeader(file.fault("chunk", self.address, expected, found))
        };
        let mut data = Cow::Borrowed(stored);
        for (at, filter) in filters.iter().enumerate().rev() {
            if u32::try_from(at).ok().and_then(|at| mask.checked_shr(at)).is_some_and(|mask| mask & 1 == 1) {
                continue;
            }
            data = match filter {
                Filter::Deflate => Cow::Owned(
                    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(&data, self.chunk_bytes)
                        .map_err(|e| bad(self.file, "a chunk that deflate can read", e.to_string()))?,
                ),
                Filter::Shuffle => Cow::Owned(unshuffle(&data, self.element)),
            };
        }
        if data.len() != self.chunk_bytes {
            return Err(bad(self.file, &format!("a chunk of {} bytes", self.chunk_bytes), data.len().to_string()));
        }
        let offset: Option<Vec<usize>> = offset.iter().map(|&at| usize::try_from(at).ok()).collect();
        let inside = |offset: &Vec<usize>| offset.iter().zip(self.shape).all(|(at, size)| at < size);
        let Some(offset) = offset.filter(inside) else {
            return Err(bad(self.file, "chunks within the dataset", "one outside".to_owned()));
        };
        self.copy(&offset, &data);
        Ok(())
    }

    /// Copies a chunk, cut to the dataset, row by row of the last dimension.
    fn copy(&mut self, offset: &[usize], data: &[u8]) {
        let last_chunk = self.chunk.last().copied().unwrap_or(1);
        let row_bytes = last_chunk.saturating_mul(self.element);
        let left = |d: usize| {
            let size = self.shape.get(d).copied().unwrap_or(1);
            size.saturating_sub(offset.get(d).copied().unwrap_or(0))
        };
        let last = self.shape.len().saturating_sub(1);
        let kept = left(last).min(last_chunk).saturating_mul(self.element);
        for (number, row) in data.chunks_exact(row_bytes.max(1)).enumerate() {
            // The row's place in the chunk, as digits of its number, and from it the place in the dataset.
            let (mut rest, mut place, mut stride, mut inside) = (number, 0_usize, self.element, true);
            for d in (0..=last).rev() {
                let size = self.shape.get(d).copied().unwrap_or(1);
                let chunk = self.chunk.get(d).copied().unwrap_or(1);
                let digit = if d == last { 0 } else { rest.checked_rem(chunk).unwrap_or(0) };
                if d != last {
                    rest = rest.checked_div(chunk).unwrap_or(0);
                }
                inside &= digit < left(d);
                let at = digit.saturating_add(offset.get(d).copied().unwrap_or(0));
                place = place.saturating_add(at.saturating_mul(stride));
                stride = stride.saturating_mul(size);
            }
            let end = place.saturating_add(kept);
            if let (true, Some(out), Some(row)) = (inside, self.out.get_mut(place..end), row.get(..kept)) {
                out.copy_from_slice(row);
            }
        }
    }
}

/// Puts the bytes of each element together again: a shuffled chunk holds all first bytes, then all second ones, ….
fn unshuffle(data: &[u8], element: usize) -> Vec<u8> {
    let count = data.len().checked_div(element).unwrap_or(0);
    let mut out = vec![0; data.len()];
    for (at, out) in out.iter_mut().enumerate() {
        let (item, byte) = (at.checked_div(element).unwrap_or(0), at.checked_rem(element).unwrap_or(0));
        // Bytes past the last whole element stay where they are.
        let from = if item < count { byte.saturating_mul(count).saturating_add(item) } else { at };
        *out = data.get(from).copied().unwrap_or(0);
    }
    out
}
