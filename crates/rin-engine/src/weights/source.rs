//! Tensors of a file as the network wants them: their rows in its order, packed or as numbers.

use crate::Error;
use rin_kernels::pack::{LANES, pack_panel, unpack_row};
use rin_kernels::{Format, format::dequantize};
use rin_model::{DType, RowOrder, TensorInfo};
use std::ops::Range;

/// The kernel format of a file type.
pub fn format_of(dtype: DType) -> Option<Format> {
    Format::ALL.into_iter().find(|f| f.name() == dtype.name())
}

pub(super) fn unsupported(t: &TensorInfo) -> Error {
    let known = Format::ALL.map(Format::name).join(", ");
    Error::UnsupportedType { tensor: t.name.clone(), found: t.dtype.name().to_owned(), known }
}

pub(super) fn to_usize(n: u64) -> Result<usize, Error> {
    usize::try_from(n).map_err(|_| Error::PlanOverflow { what: "tensor dimension" })
}

pub(super) fn bad_shape(t: &TensorInfo, format: Format, reason: &str) -> Error {
    let dim = |i: usize| t.shape.get(i).copied().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    Error::BadShape {
        tensor: t.name.clone(),
        rows: dim(0),
        cols: dim(1),
        format: format.name().to_owned(),
        reason: reason.to_owned(),
    }
}

/// The source row of packed row `r` of `rows`; a transposed matrix has none, [`Rows`] gathers its values.
pub fn source_row(order: RowOrder, rows: usize, r: usize) -> usize {
    match order {
        RowOrder::AsStored | RowOrder::PlusOne | RowOrder::LogOfNegative | RowOrder::Transposed => r,
        RowOrder::Grouped { groups, parts } => {
            let (width, mut first, mut r) = (parts.iter().sum::<usize>(), 0, r);
            for part in parts {
                let all = part * groups;
                if r < all {
                    return r / part.max(1) * width + first + r % part.max(1);
                }
                r -= all;
                first += part;
            }
            // Beyond the parts: a tensor whose rows are not those that its family has.
            rows
        }
        RowOrder::HalfToInterleaved { heads } => {
            let width = rows / heads.max(1);
            let (head, i) = (r / width.max(1), r % width.max(1));
            head * width + i % 2 * (width / 2) + i / 2
        }
    }
}

/// Rows of a matrix of a file, as the file's type has them, in the order that the network wants.
#[derive(Debug)]
pub struct Rows<'a> {
    t: &'a TensorInfo,
    bytes: &'a [u8],
    n: usize,
    /// Bytes of a row.
    size: usize,
    /// Bytes of a value of a transposed matrix, whose rows lie apart.
    apart: Option<usize>,
    /// Some rows of a transposed matrix, from this one on.
    first: usize,
    gathered: Vec<u8>,
}

impl<'a> Rows<'a> {
    /// The rows of `t`, whose bytes are `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::BadShape`] where it is no matrix of whole blocks, or a quantised one that lies transposed.
    pub fn new(t: &'a TensorInfo, bytes: &'a [u8], format: Format) -> Result<Self, Error> {
        let [rows, cols] = t.shape[..] else { return Err(bad_shape(t, format, "it is no matrix")) };
        let (rows, cols) = (to_usize(rows)?, to_usize(cols)?);
        let size = format.row_bytes(cols).ok_or_else(|| bad_shape(t, format, "a row does not hold whole blocks"))?;
        let apart = (t.rows == RowOrder::Transposed).then(|| format.block_bytes());
        if apart.is_some() && format.block_len() > 1 {
            return Err(bad_shape(t, format, "blocks of a transposed matrix span its rows"));
        }
        Ok(Self { t, bytes, n: rows, size, apart, first: 0, gathered: Vec::new() })
    }

    /// Row `r`; none beyond the last, or where the tensor is cut short.
    pub fn get(&mut self, r: usize) -> Option<&[u8]> {
        self.ready(r / LANES * LANES);
        self.row(r)
    }

    /// Readies the rows of a panel that begins with `first` for [`Rows::row`].
    fn ready(&mut self, first: usize) {
        let Some(value) = self.apart.filter(|_| self.gathered.is_empty() || self.first != first) else { return };
        self.first = first;
        let n = LANES.min(self.n.saturating_sub(self.first));
        self.gathered.resize(n * self.size, 0);
        let columns = self.bytes.chunks_exact((self.n * value).max(1)).take(self.size / value);
        for (c, column) in columns.enumerate() {
            let values = column[self.first * value..][..n * value].chunks_exact(value);
            for (row, x) in self.gathered.chunks_exact_mut(self.size).zip(values) {
                row[c * value..][..value].copy_from_slice(x);
            }
        }
    }

    /// A row that is ready: any one, but of a transposed matrix.
    fn row(&self, r: usize) -> Option<&[u8]> {
        if r >= self.n {
            return None;
        }
        if self.apart.is_some() {
            return self.gathered.chunks_exact(self.size.max(1)).nth(r.checked_sub(self.first)?);
        }
        let at = source_row(self.t.rows, self.n, r) * self.size;
        self.bytes.get(at..at + self.size)
    }
}

/// Packs panel `p` of a tensor of `rows × cols`.
///
/// # Errors
///
/// [`Error::NonFiniteWeight`] when a weight is no number.
pub fn pack_tensor_panel(
    t: &TensorInfo,
    bytes: &[u8],
    format: Format,
    p: usize,
    panel: &mut [u8],
) -> Result<(), Error> {
    pack_panel_of(t, bytes, format, p.saturating_mul(LANES)..usize::MAX, panel)
}

/// Packs the panel that begins with the first of `rows` of a tensor; lanes without one of them are zero.
pub(super) fn pack_panel_of(
    t: &TensorInfo,
    bytes: &[u8],
    format: Format,
    rows: Range<usize>,
    panel: &mut [u8],
) -> Result<(), Error> {
    let mut source = Rows::new(t, bytes, format)?;
    let cols = to_usize(t.shape.last().copied().unwrap_or(0))?;
    source.ready(rows.start);
    let row = |lane: usize| Some(rows.start + lane).filter(|r| *r < rows.end).and_then(|r| source.row(r));
    pack_panel(format, cols, row, panel).map_err(|e| Error::NonFiniteWeight {
        tensor: t.name.clone(),
        row: rows.start + e.lane,
        col: e.col,
    })
}

/// A matrix's numbers as f32, `(rows, cols)`, in the order that the network wants.
///
/// # Errors
///
/// When it is no matrix of a type that is read, or cut short.
pub fn matrix_values(t: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let format = format_of(t.dtype).ok_or_else(|| unsupported(t))?;
    let [rows, cols] = t.shape[..] else { return Err(bad_shape(t, format, "it is no matrix")) };
    let (rows, cols) = (to_usize(rows)?, to_usize(cols)?);
    let blocks = || bad_shape(t, format, "a row does not hold whole blocks");
    let panel_bytes = format.panel_bytes(cols).ok_or_else(blocks)?;
    let mut source = Rows::new(t, bytes, format)?;
    let cut = || bad_shape(t, format, "it is cut short");
    let mut values = vec![0.0; rows.checked_mul(cols).ok_or_else(blocks)?];
    for (r, row) in values.chunks_exact_mut(cols.max(1)).enumerate() {
        if t.packed {
            let panel = bytes.get(r / LANES * panel_bytes..).and_then(|rest| rest.get(..panel_bytes));
            unpack_row(format, panel.ok_or_else(cut)?, r % LANES, row);
        } else {
            dequantize(format, source.get(r).ok_or_else(cut)?, row);
        }
    }
    Ok(values)
}

/// A tensor's numbers as f32, in the order and the form that the network wants.
///
/// # Errors
///
/// When they are no floats, or holds a value that is no number.
pub fn vector_values(t: &TensorInfo, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let format = format_of(t.dtype).filter(|f| f.block_len() == 1).ok_or_else(|| unsupported(t))?;
    let len = to_usize(t.n_elements())?;
    let bytes = bytes.get(..len * format.block_bytes()).ok_or_else(|| bad_shape(t, format, "it is cut short"))?;
    let mut read = vec![0.0; len];
    dequantize(format, bytes, &mut read);
    let value = |i: usize| {
        let value = read[source_row(t.rows, len, i)];
        match t.rows {
            RowOrder::PlusOne => value + 1.0,
            RowOrder::LogOfNegative => -rin_kernels::math::exp(value),
            RowOrder::AsStored
            | RowOrder::HalfToInterleaved { .. }
            | RowOrder::Grouped { .. }
            | RowOrder::Transposed => value,
        }
    };
    let values: Vec<f32> = (0..len).map(value).collect();
    match values.iter().position(|v| !v.is_finite()) {
        Some(row) => Err(Error::NonFiniteWeight { tensor: t.name.clone(), row, col: 0 }),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::{matrix_values, pack_tensor_panel, source_row};
    use rin_kernels::Format;
    use rin_model::{DType, RowOrder, TensorInfo};

    #[test]
    fn halves_become_interleaved_pairs_head_by_head() {
        let groups = RowOrder::Grouped { groups: 2, parts: [1, 2, 1, 0] };
        let rows: Vec<_> = (0..9).map(|r| source_row(groups, 9, r)).collect();
        assert_eq!(rows, [0, 4, 1, 2, 5, 6, 3, 7, 9], "part by part, and beyond them");
        let order = RowOrder::HalfToInterleaved { heads: 2 };
        let rows: Vec<_> = (0..8).map(|r| source_row(order, 8, r)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(source_row(RowOrder::AsStored, 8, 5), 5);
    }

    #[test]
    fn a_transposed_matrix_is_read_by_its_rows() {
        let (rows, cols) = (37_u8, 3_u8);
        let value = |row: u8, col: u8| f32::from(row) * 10.0 + f32::from(col);
        let bytes: Vec<u8> =
            (0..cols).flat_map(|col| (0..rows).flat_map(move |row| value(row, col).to_le_bytes())).collect();
        let t = TensorInfo {
            name: "w".to_owned(),
            source_name: "w".to_owned(),
            shape: vec![rows.into(), cols.into()],
            dtype: DType::F32,
            offset: 0,
            n_bytes: bytes.len() as u64,
            shard: 0,
            packed: false,
            rows: RowOrder::Transposed,
        };
        let want: Vec<f32> = (0..rows).flat_map(|row| (0..cols).map(move |col| value(row, col))).collect();
        assert_eq!(matrix_values(&t, &bytes).unwrap(), want);
        let mut panel = vec![0; Format::F32.panel_bytes(3).unwrap()];
        for (p, lane, row) in [(2, 4, Some(36)), (0, 15, Some(15)), (1, 0, Some(16)), (2, 5, None)] {
            pack_tensor_panel(&t, &bytes, Format::F32, p, &mut panel).unwrap();
            let mut found = vec![9.0; 3];
            rin_kernels::pack::unpack_row(Format::F32, &panel, lane, &mut found);
            let want = row.map_or(vec![0.0; 3], |row| (0..3).map(|col| value(row, col)).collect());
            assert_eq!(found, want, "{p} {lane}");
        }
        assert!(super::Rows::new(&t, &bytes, Format::F32).unwrap().get(37).is_none());
        let blocks = TensorInfo { shape: vec![32, 32], dtype: DType::Q8_0, ..t };
        assert!(super::Rows::new(&blocks, &bytes, Format::Q8_0).is_err());
    }
}
