//! The tensors of an export: where their rows come from, in which order and type they are written.

use super::Source;
use super::rope::FACTORS;
use crate::panels::matrix_shape;
use crate::quantize::quantize_row;
use crate::{Error, Meter};
use rin_engine::weights::{Rows, format_of, source_row, vector_values};
use rin_kernels::Format;
use rin_kernels::format::dequantize;
use rin_kernels::pack::{LANES, unpack_row_bytes};
use rin_model::{Config, DType, ModelFile, Pairing, RowOrder, TensorInfo};

/// A tensor as it is written.
#[derive(Debug)]
pub(super) struct Exported<'a> {
    /// Name in the target.
    pub(super) name: String,
    pub(super) format: Format,
    /// Row-major.
    pub(super) shape: Vec<u64>,
    pub(super) n_bytes: u64,
    content: Content<'a>,
}

#[derive(Debug)]
enum Content<'a> {
    Matrix { matrix: Matrix<'a>, order: Order },
    Vector(Vec<u8>),
}

impl Exported<'_> {
    /// Type of the file formats.
    pub(super) fn dtype(&self) -> Result<DType, Error> {
        self.format.name().parse().map_err(|_| too_large(&self.name))
    }

    /// Whether a quantised matrix becomes numbers.
    pub(super) fn is_dequantized(&self) -> bool {
        matches!(&self.content, Content::Matrix { matrix, .. } if matrix.format != self.format)
    }

    /// Hands the bytes to `write`, up to 16 rows at a time.
    pub(super) fn write(
        &self,
        meter: &mut Meter<'_>,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (matrix, order) = match &self.content {
            Content::Vector(bytes) => {
                write(bytes)?;
                return meter.advance(&self.name, bytes.len());
            }
            Content::Matrix { matrix, order } => (matrix, order),
        };
        if matches!(order, Order::Transposed) {
            return self.write_transposed(matrix, meter, write);
        }
        let mut rows = ConvertedRows::new(matrix, self)?;
        let mut waiting = 0_usize;
        for r in 0..matrix.rows {
            let bytes = rows.get(order.network_row(matrix.rows, r))?;
            write(bytes)?;
            waiting = waiting.saturating_add(bytes.len());
            if r % LANES == LANES - 1 {
                meter.advance(&self.name, std::mem::take(&mut waiting))?;
            }
        }
        if waiting > 0 { meter.advance(&self.name, waiting) } else { Ok(()) }
    }

    /// The columns of the matrix as rows, as many at a time as fit [`BAND`] bytes.
    fn write_transposed(
        &self,
        matrix: &Matrix<'_>,
        meter: &mut Meter<'_>,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let value = self.format.block_bytes();
        let column = matrix.rows.checked_mul(value).ok_or_else(|| too_large(&self.name))?.max(1);
        let at_once = BAND.div_euclid(column).clamp(1, matrix.cols.max(1));
        let mut rows = ConvertedRows::new(matrix, self)?;
        let mut band = vec![0; at_once.checked_mul(column).ok_or_else(|| too_large(&self.name))?];
        let mut done = 0_usize;
        while done < matrix.cols {
            for r in 0..matrix.rows {
                let values = rows.get(r)?.chunks_exact(value).skip(done);
                for (column, from) in band.chunks_exact_mut(column).zip(values) {
                    if let Some(to) = column.chunks_exact_mut(value).nth(r) {
                        to.copy_from_slice(from);
                    }
                }
            }
            let n = at_once.min(matrix.cols.saturating_sub(done));
            let bytes = band.get(..n.saturating_mul(column)).unwrap_or_default();
            write(bytes)?;
            meter.advance(&self.name, bytes.len())?;
            done = done.saturating_add(n);
        }
        Ok(())
    }

    /// A weight beyond the range of the type became infinite.
    fn check_finite(&self, row: usize, converted: &[u8], numbers: &mut [f32]) -> Result<(), Error> {
        dequantize(self.format, converted, numbers);
        match numbers.iter().position(|x| !x.is_finite()) {
            Some(col) => Err(Error::OutOfRange { tensor: self.name.clone(), row, col, format: self.format }),
            None => Ok(()),
        }
    }
}

/// Bytes of a transposed matrix that are gathered at a time.
const BAND: usize = 8 << 20;

/// The rows of a matrix in the type of an export.
struct ConvertedRows<'m, 'a> {
    matrix: &'m Matrix<'a>,
    to: &'m Exported<'a>,
    source: Rows<'a>,
    row: Vec<u8>,
    numbers: Vec<f32>,
    converted: Vec<u8>,
}

impl<'m, 'a> ConvertedRows<'m, 'a> {
    fn new(matrix: &'m Matrix<'a>, to: &'m Exported<'a>) -> Result<Self, Error> {
        let (row, numbers) = (vec![0; matrix.row_bytes], vec![0.0; matrix.cols]);
        Ok(Self { matrix, to, source: matrix.source()?, row, numbers, converted: Vec::new() })
    }

    /// A row, counted in the order of the network.
    fn get(&mut self, r: usize) -> Result<&[u8], Error> {
        self.matrix.read(&mut self.source, r, &mut self.row)?;
        if self.matrix.format == self.to.format {
            return Ok(&self.row);
        }
        dequantize(self.matrix.format, &self.row, &mut self.numbers);
        self.converted.clear();
        quantize_row(self.to.format, &self.numbers, &mut self.converted);
        self.to.check_finite(r, &self.converted, &mut self.numbers)?;
        Ok(&self.converted)
    }
}

/// A matrix of the source.
#[derive(Debug)]
struct Matrix<'a> {
    tensor: &'a TensorInfo,
    bytes: &'a [u8],
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// Bytes of a panel, where the source is packed.
    panel_bytes: Option<usize>,
}

impl<'a> Matrix<'a> {
    fn new(file: &'a ModelFile, tensor: &'a TensorInfo) -> Result<Self, Error> {
        let overflow = || too_large(&tensor.name);
        let (rows, cols) = matrix_shape(tensor).ok_or_else(overflow)?;
        let format = format_of(tensor.dtype).ok_or_else(overflow)?;
        let row_bytes = format.row_bytes(cols).ok_or_else(overflow)?;
        let panel_bytes = format.panel_bytes(cols).ok_or_else(overflow)?;
        Ok(Self {
            tensor,
            bytes: file.bytes(tensor),
            format,
            rows,
            cols,
            row_bytes,
            panel_bytes: tensor.packed.then_some(panel_bytes),
        })
    }

    /// Its rows, where it is not packed.
    fn source(&self) -> Result<Rows<'a>, Error> {
        Ok(Rows::new(self.tensor, self.bytes, self.format)?)
    }

    /// Copies a row, counted in the order of the network.
    fn read(&self, source: &mut Rows<'_>, r: usize, out: &mut [u8]) -> Result<(), Error> {
        let slice = |index: usize, size: usize| {
            let start = index.checked_mul(size)?;
            self.bytes.get(start..start.checked_add(size)?)
        };
        let cut = || too_large(&self.tensor.name);
        if let Some(panel_bytes) = self.panel_bytes {
            let panel = slice(r.div_euclid(LANES), panel_bytes).ok_or_else(cut)?;
            unpack_row_bytes(self.format, self.cols, panel, r.rem_euclid(LANES), out);
        } else {
            out.copy_from_slice(source.get(r).ok_or_else(cut)?);
        }
        Ok(())
    }
}

/// How the target orders the rows of a tensor, against the network.
#[derive(Clone, Copy, Debug)]
enum Order {
    AsTheNetwork,
    /// Pairs that lie side by side come apart.
    ToHalves {
        heads: usize,
    },
    /// Halves are interleaved.
    ToPairs {
        heads: usize,
    },
    /// Columns become rows.
    Transposed,
}

impl Order {
    fn of(config: &Config, name: &str, target: Pairing) -> Self {
        match (config.rotated_heads(name), config.rope.pairing, target) {
            (Some(heads), Pairing::Interleaved, Pairing::Half) => Self::ToHalves { heads },
            (Some(heads), Pairing::Half, Pairing::Interleaved) => Self::ToPairs { heads },
            _ => Self::AsTheNetwork,
        }
    }

    /// Row of the network that is row `r` of the target.
    fn network_row(self, rows: usize, r: usize) -> usize {
        match self {
            Self::AsTheNetwork | Self::Transposed => r,
            Self::ToPairs { heads } => source_row(RowOrder::HalfToInterleaved { heads }, rows, r),
            Self::ToHalves { heads } => {
                let width = rows.checked_div(heads).unwrap_or(rows).max(2);
                let (head, i, half) = (r.div_euclid(width), r.rem_euclid(width), width.div_euclid(2));
                let pair = i.rem_euclid(half).saturating_mul(2).saturating_add(i.div_euclid(half));
                head.saturating_mul(width).saturating_add(pair)
            }
        }
    }
}

/// Types of what a target holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Types {
    /// Matrices as they are, vectors in F32.
    Gguf,
    /// Quantised matrices in this type. Vectors in the type of all matrices where that is one and loses nothing.
    Folder(Format),
}

/// The tensors that the network of `config` needs, in its order; `factors` is the tensor of rotary divisors where the
/// source has none.
pub(super) fn tensors<'a>(
    source: &Source<'a>,
    config: &Config,
    factors: Option<&[f32]>,
    types: Types,
) -> Result<Vec<Exported<'a>>, Error> {
    let target = match types {
        Types::Gguf => config.gguf_pairing(),
        Types::Folder(_) => Pairing::Half,
    };
    if target != config.rope.pairing && config.rope.dims != config.head_dim {
        let what = "only a part of each head rotates, and its rows cannot be reordered".to_owned();
        return Err(Error::Inexpressible { target: "the other order of rows", what });
    }
    let mut exported = Vec::new();
    let mut vectors = Vec::new();
    for names in config.tensors() {
        let name = match (types, names.hf) {
            (Types::Gguf, _) => names.name.clone(),
            (Types::Folder(_), Some(hf)) => hf,
            (Types::Folder(_), None) => continue,
        };
        let order = match types {
            Types::Folder(_) if config.is_transposed_in_folders(&names.name) => Order::Transposed,
            _ => Order::of(config, &names.name, target),
        };
        match source.file.tensor(&names.name) {
            Some(tensor) if tensor.shape.len() == 2 => exported.push(matrix(source.file, tensor, name, order, types)?),
            Some(tensor) => {
                let values = vector_values(tensor, source.file.bytes(tensor))?;
                let reordered = (0..values.len()).map(|r| order.network_row(values.len(), r));
                let values: Vec<f32> = reordered.filter_map(|r| values.get(r).copied()).collect();
                vectors.push((exported.len(), name, values));
            }
            None if names.name == FACTORS => {
                vectors.push((exported.len(), name, factors.unwrap_or_default().to_vec()));
            }
            None => {}
        }
    }
    let format = vector_format(&exported, &vectors, types);
    for (at, (index, name, values)) in vectors.into_iter().enumerate() {
        let mut bytes = Vec::new();
        quantize_row(format, &values, &mut bytes);
        let n_bytes = u64::try_from(bytes.len()).map_err(|_| too_large(&name))?;
        let shape = vec![u64::try_from(values.len()).unwrap_or(u64::MAX)];
        let vector = Exported { name, format, shape, n_bytes, content: Content::Vector(bytes) };
        exported.insert(index.saturating_add(at), vector);
    }
    Ok(exported)
}

fn matrix<'a>(
    file: &'a ModelFile,
    tensor: &'a TensorInfo,
    name: String,
    order: Order,
    types: Types,
) -> Result<Exported<'a>, Error> {
    let matrix = Matrix::new(file, tensor)?;
    let format = match types {
        Types::Folder(numbers) if matrix.format.block_len() > 1 => numbers,
        _ => matrix.format,
    };
    let n_bytes = format.row_bytes(matrix.cols).and_then(|row| row.checked_mul(matrix.rows));
    let n_bytes = n_bytes.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| too_large(&name))?;
    let mut shape = tensor.shape.clone();
    if matches!(order, Order::Transposed) {
        shape.reverse();
    }
    Ok(Exported { name, format, shape, n_bytes, content: Content::Matrix { matrix, order } })
}

/// The type of all vectors.
fn vector_format(matrices: &[Exported<'_>], vectors: &[(usize, String, Vec<f32>)], types: Types) -> Format {
    let Types::Folder(_) = types else { return Format::F32 };
    let Some(format) = matrices.first().map(|first| first.format) else { return Format::F32 };
    let is_exact = |values: &Vec<f32>| {
        let (mut bytes, mut read) = (Vec::new(), vec![0.0; values.len()]);
        quantize_row(format, values, &mut bytes);
        dequantize(format, &bytes, &mut read);
        values.iter().zip(&read).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    let fits = matrices.iter().all(|matrix| matrix.format == format) && vectors.iter().all(|(_, _, v)| is_exact(v));
    if fits { format } else { Format::F32 }
}

pub(super) fn too_large(tensor: &str) -> Error {
    Error::TooLarge { tensor: tensor.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn both_reorderings_undo_each_other() {
        for (heads, rows) in [(1, 2), (2, 8), (3, 18), (2, 12)] {
            let (apart, together) = (Order::ToHalves { heads }, Order::ToPairs { heads });
            for r in 0..rows {
                assert_eq!(apart.network_row(rows, together.network_row(rows, r)), r, "{heads} heads, row {r}");
            }
        }
        let apart: Vec<_> = (0..8).map(|r| Order::ToHalves { heads: 2 }.network_row(8, r)).collect();
        assert_eq!(apart, [0, 2, 1, 3, 4, 6, 5, 7]);
        let apart: Vec<_> = (0..6).map(|r| Order::ToHalves { heads: 1 }.network_row(6, r)).collect();
        assert_eq!(apart, [0, 2, 4, 1, 3, 5]);
    }
}
