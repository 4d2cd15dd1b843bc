//! A tensor's place, shape and type, and the list of all of them.

use crate::dtype::DType;
use crate::error::{Error, fault};

/// Where a tensor lies and what its bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Canonical name, that of GGUF: `blk.0.attn_q.weight`. The file's own name where RIN knows no other.
    pub name: String,
    /// Name in the file.
    pub source_name: String,
    /// Row-major: `[rows, cols]` for a matrix, `[n]` for a vector.
    pub shape: Vec<u64>,
    /// Element type.
    pub dtype: DType,
    /// Offset in its file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub n_bytes: u64,
    /// Number of its file, from 0.
    pub shard: usize,
    /// Whether the bytes are in the packed panel layout of `.rin`.
    pub packed: bool,
    /// Order of the rows.
    pub rows: RowOrder,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, &n| product.saturating_mul(n))
    }
}

/// Order of the rows of a matrix, or of the elements of a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As the network wants them.
    AsStored,
    /// In each head the rows are in the order of rotated halves (x₀ … x₍d/2₋₁₎, y₀ …) and have to be interleaved
    /// (x₀, y₀, x₁, …) when they are packed.
    HalfToInterleaved {
        /// Number of heads: rows ÷ heads is the head's width.
        heads: usize,
    },
    /// In groups, each with its rows of all parts one after the other; the network wants all rows of a part together.
    Grouped {
        /// Number of groups.
        groups: usize,
        /// Rows of each part in a group; 0 for parts that are not there.
        parts: [usize; 4],
    },
    /// As the network wants them, but for 1 that is to be added to each value.
    PlusOne,
    /// As the network wants them, but as the logarithm of the negative value.
    LogOfNegative,
    /// The file has the columns as its rows; the shape is that of the network.
    Transposed,
}

/// Tensors in file order, found by name.
#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    tensors: Vec<TensorInfo>,
    by_name: Vec<u32>,
}

impl TensorTable {
    /// `Duplicate` where two tensors have one name.
    pub(crate) fn new(tensors: Vec<TensorInfo>) -> Result<Self, Error> {
        let name = |&i: &u32| tensor_at(&tensors, i).map(|tensor| tensor.name.as_str());
        let mut by_name: Vec<u32> = (0..u32::try_from(tensors.len()).unwrap_or(u32::MAX)).collect();
        by_name.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        for pair in by_name.windows(2) {
            if let [a, b] = pair
                && name(a) == name(b)
            {
                let again = name(a).unwrap_or_default();
                return Err(Error::Duplicate(fault("tensor", again, "each tensor once", "the name twice")));
            }
        }
        Ok(Self { tensors, by_name })
    }

    pub(crate) fn all(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub(crate) fn into_all(self) -> Vec<TensorInfo> {
        self.tensors
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut TensorInfo> {
        self.tensors.iter_mut()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TensorInfo> {
        let found = self
            .by_name
            .binary_search_by(|&i| tensor_at(&self.tensors, i).map(|tensor| tensor.name.as_str()).cmp(&Some(name)));
        tensor_at(&self.tensors, *self.by_name.get(found.ok()?)?)
    }
}

fn tensor_at(tensors: &[TensorInfo], index: u32) -> Option<&TensorInfo> {
    tensors.get(usize::try_from(index).ok()?)
}

/// Bytes of a tensor: `BadShape` where rows are no whole number of blocks, `ShapeOverflow` where the product overflows.
///
/// `shape` is row-major.
pub(crate) fn byte_length(name: &str, shape: &[u64], dtype: DType) -> Result<u64, Error> {
    let (cols, rows) = shape.split_last().map_or((1, &[][..]), |(&cols, rows)| (cols, rows));
    let overflow = || {
        let found = format!("shape {shape:?} of {dtype}");
        Error::ShapeOverflow(fault("tensor", name, "fewer than 2^63 elements in fewer than 2^64 bytes", found))
    };
    let elements = rows.iter().try_fold(cols, |product, &n| product.checked_mul(n)).ok_or_else(overflow)?;
    if i64::try_from(elements).is_err() {
        return Err(overflow());
    }
    if !cols.is_multiple_of(dtype.block_len()) {
        let expected = format!("rows of a multiple of {} elements for {dtype}", dtype.block_len());
        return Err(Error::BadShape(fault("tensor", name, expected, format!("{cols}"))));
    }
    dtype.row_bytes(elements).ok_or_else(overflow)
}

/// Looks for a tensor of this type and shape.
pub(crate) fn check_tensor(tensors: &TensorTable, name: &str, dtype: DType, shape: &[usize]) -> Result<(), Error> {
    let expected = format!("{dtype} of shape {shape:?}");
    let Some(found) = tensors.get(name) else {
        return Err(Error::MissingTensor(fault("tensor", name, expected, "none")));
    };
    if found.dtype != dtype || found.packed {
        return Err(Error::BadType(fault("tensor", name, expected, found.dtype)));
    }
    let same = found.shape.len() == shape.len()
        && found.shape.iter().zip(shape).all(|(&found, &want)| usize::try_from(found).ok() == Some(want));
    if same { Ok(()) } else { Err(Error::BadShape(fault("tensor", name, expected, format!("{:?}", found.shape)))) }
}
