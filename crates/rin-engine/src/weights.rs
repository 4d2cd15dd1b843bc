//! Weights: which tensors a plan uses, how many bytes they take, and where they lie once loaded.
//!
//! Planning names matrices and vectors and learns their sizes from the file's header alone. Loading packs them into
//! one mapping, or, for `.rin`, leaves them where they are in the file's mapping.

use crate::Error;
use crate::arena::{Arena, ArenaOptions, cast, lock_note};
use crate::pool::Pool;
use rin_kernels::pack::{LANES, pack_panel, unpack_row};
use rin_kernels::{Format, format::dequantize};
use rin_model::{DType, Fault, ModelFile, RowOrder, TensorInfo};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A matrix of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixId(usize);

/// A vector of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorId(usize);

/// An array of the plan: bytes as the file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayId(usize);

/// A weight matrix `rows × cols` in panels.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Name of the tensor.
    pub name: String,
    /// Format of the weights.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bytes of a panel of 16 rows.
    pub panel_bytes: usize,
    tensor: usize,
    place: Range<usize>,
}

/// A vector of f32: norm weights, biases.
#[derive(Clone, Debug)]
struct Vector {
    name: String,
    len: usize,
    tensor: usize,
    place: Range<usize>,
}

/// The weights of a plan, before they are loaded.
#[derive(Clone, Debug, Default)]
pub struct WeightTable {
    matrices: Vec<Matrix>,
    vectors: Vec<Vector>,
    /// Tensors of the file.
    arrays: Vec<usize>,
    bytes: usize,
    /// Whether they are some of the file's only.
    partial: bool,
}

/// The kernel format of a file type.
pub fn format_of(dtype: DType) -> Option<Format> {
    Format::ALL.into_iter().find(|f| f.name() == dtype.name())
}

fn unsupported(t: &TensorInfo) -> Error {
    let known = Format::ALL.map(Format::name).join(", ");
    Error::UnsupportedType { tensor: t.name.clone(), found: t.dtype.name().to_owned(), known }
}

impl WeightTable {
    /// Adds the matrix called `name`; the same name gives the same id.
    ///
    /// # Errors
    ///
    /// When the file has no such matrix, or no kernel runs its type.
    pub fn matrix(&mut self, file: &ModelFile, name: &str) -> Result<MatrixId, Error> {
        if let Some(i) = self.matrices.iter().position(|m| m.name == name) {
            return Ok(MatrixId(i));
        }
        let (tensor, t) = find(file, name)?;
        let format = format_of(t.dtype).ok_or_else(|| unsupported(t))?;
        let [rows, cols] = t.shape[..] else { return Err(bad_shape(t, format, "it is no matrix")) };
        let (rows, cols) = (to_usize(rows)?, to_usize(cols)?);
        let panel_bytes =
            format.panel_bytes(cols).ok_or_else(|| bad_shape(t, format, "a row does not hold whole blocks"))?;
        let bytes = format.packed_bytes(rows, cols).ok_or(Error::PlanOverflow { what: "weight matrix" })?;
        if t.packed && t.n_bytes != bytes as u64 {
            return Err(Error::PackedSize { tensor: name.to_owned(), expected: bytes as u64, found: t.n_bytes });
        }
        let place = self.reserve(bytes)?;
        self.matrices.push(Matrix { name: name.to_owned(), format, rows, cols, panel_bytes, tensor, place });
        Ok(MatrixId(self.matrices.len() - 1))
    }

    /// Adds the vector called `name`.
    ///
    /// # Errors
    ///
    /// When the file has no such vector, or it is of a quantised type.
    pub fn vector(&mut self, file: &ModelFile, name: &str) -> Result<VectorId, Error> {
        let (tensor, t) = find(file, name)?;
        let format = format_of(t.dtype).filter(|f| f.block_len() == 1).ok_or_else(|| unsupported(t))?;
        let [len] = t.shape[..] else { return Err(bad_shape(t, format, "it is no vector")) };
        let len = to_usize(len)?;
        let place = self.reserve(len.checked_mul(4).ok_or(Error::PlanOverflow { what: "weight vector" })?)?;
        self.vectors.push(Vector { name: name.to_owned(), len, tensor, place });
        Ok(VectorId(self.vectors.len() - 1))
    }

    /// Adds the array called `name`, which is read where it lies in the file.
    ///
    /// # Errors
    ///
    /// When the file has no such tensor.
    pub fn array(&mut self, file: &ModelFile, name: &str) -> Result<ArrayId, Error> {
        let (tensor, t) = find(file, name)?;
        self.reserve(to_usize(t.n_bytes)?)?;
        self.arrays.push(tensor);
        Ok(ArrayId(self.arrays.len() - 1))
    }

    /// The tensors of the file that are used.
    fn tensors(&self) -> impl Iterator<Item = usize> {
        let of_matrices = self.matrices.iter().map(|m| m.tensor);
        of_matrices.chain(self.vectors.iter().map(|v| v.tensor)).chain(self.arrays.iter().copied())
    }

    /// The number of an array's tensor in the file.
    pub(crate) fn tensor_of(&self, id: ArrayId) -> usize {
        self.arrays[id.0]
    }

    /// Adds the numbers of the tensor called `name` as a vector, whatever its dimensions.
    ///
    /// # Errors
    ///
    /// When the file has no such tensor, or it is of a quantised type.
    pub fn numbers(&mut self, file: &ModelFile, name: &str) -> Result<VectorId, Error> {
        let (tensor, t) = find(file, name)?;
        format_of(t.dtype).filter(|f| f.block_len() == 1 && !t.packed).ok_or_else(|| unsupported(t))?;
        let len = to_usize(t.n_elements())?;
        let place = self.reserve(len.checked_mul(4).ok_or(Error::PlanOverflow { what: "weight vector" })?)?;
        self.vectors.push(Vector { name: name.to_owned(), len, tensor, place });
        Ok(VectorId(self.vectors.len() - 1))
    }

    /// They are some of the file's: no other is touched.
    pub(crate) fn set_partial(&mut self) {
        self.partial = true;
    }

    fn reserve(&mut self, bytes: usize) -> Result<Range<usize>, Error> {
        let start = self.bytes;
        let overflow = Error::PlanOverflow { what: "sum of the weights" };
        let end = start.checked_add(bytes).filter(|&e| isize::try_from(e).is_ok_and(|e| e <= isize::MAX - 64));
        self.bytes = end.ok_or(overflow)?.next_multiple_of(64);
        Ok(start..start + bytes)
    }

    /// The matrix behind an id.
    pub fn get(&self, id: MatrixId) -> &Matrix {
        &self.matrices[id.0]
    }

    /// All matrices, in the order of the plan.
    pub fn matrices(&self) -> &[Matrix] {
        &self.matrices
    }

    /// Length of a vector.
    pub fn vector_len(&self, id: VectorId) -> usize {
        self.vectors[id.0].len
    }

    /// Bytes of all weights as they are run.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn find<'f>(file: &'f ModelFile, name: &str) -> Result<(usize, &'f TensorInfo), Error> {
    let found = file.tensors().iter().enumerate().find(|(_, t)| t.name == name);
    found.ok_or_else(|| {
        let fault = Fault {
            file: Some(file.path().to_owned()),
            section: "tensor",
            name: name.to_owned(),
            offset: None,
            expected: "a tensor of this name".to_owned(),
            found: "none".to_owned(),
        };
        rin_model::Error::MissingTensor(Box::new(fault)).into()
    })
}

fn to_usize(n: u64) -> Result<usize, Error> {
    usize::try_from(n).map_err(|_| Error::PlanOverflow { what: "tensor dimension" })
}

fn bad_shape(t: &TensorInfo, format: Format, reason: &str) -> Error {
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
        self.ready(r / LANES);
        self.row(r)
    }

    /// Readies the rows of panel `p` for [`Rows::row`].
    fn ready(&mut self, p: usize) {
        let Some(value) = self.apart.filter(|_| self.gathered.is_empty() || self.first != p * LANES) else { return };
        self.first = p * LANES;
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
    let mut rows = Rows::new(t, bytes, format)?;
    let cols = to_usize(t.shape.last().copied().unwrap_or(0))?;
    rows.ready(p);
    pack_panel(format, cols, |lane| rows.row(p * LANES + lane), panel).map_err(|e| Error::NonFiniteWeight {
        tensor: t.name.clone(),
        row: p * LANES + e.lane,
        col: e.col,
    })
}

/// Bytes of a source that are packed between two releases of its pages.
const BAND: usize = 2 << 20;

/// One fault can map what lies around the missing page, released pages too: up to a large page of the file cache.
const MAPPED_AROUND: usize = 2 << 20;

/// Packs a whole matrix in bands of rows, the panels of a band dealt out to the workers.
fn pack_matrix(file: &ModelFile, m: &Matrix, store: &mut [u8], pool: &mut Pool) -> Result<(), Error> {
    let t = &file.tensors()[m.tensor];
    let bytes = file.bytes(t);
    let panel_bytes = m.panel_bytes.max(1);
    let panel_source = (bytes.len() / m.rows.max(1)).saturating_mul(LANES).max(1);
    let band_panels = match t.rows {
        // Every panel reads from all pages.
        RowOrder::Transposed => m.rows.div_ceil(LANES).max(1),
        _ => (BAND / panel_source).max(pool.threads()),
    };
    for (band, store) in store.chunks_mut(band_panels.saturating_mul(panel_bytes)).enumerate() {
        let first = band * band_panels;
        let failure = Mutex::new(None);
        let share = (store.len() / panel_bytes).div_ceil(pool.threads()).max(1);
        let mut parts: Vec<_> = store.chunks_mut(share * panel_bytes).map(Some).collect();
        pool.run_parts(&mut parts, |i, part| {
            for (p, panel) in part.chunks_exact_mut(panel_bytes).enumerate() {
                if let Err(error) = pack_tensor_panel(t, bytes, m.format, first + i * share + p, panel) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        // The packed copy is what runs: the pages of the source would only count twice.
        let packed = first * panel_source;
        file.release(t, packed.saturating_sub(MAPPED_AROUND)..packed + band_panels * panel_source);
    }
    Ok(())
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

/// Loaded weights.
#[derive(Debug)]
pub struct Weights {
    table: WeightTable,
    file: ModelFile,
    /// Packed copies; none where the file's own mapping is run.
    packed: Option<Arena>,
    notes: Vec<String>,
}

impl Weights {
    /// Packs the weights of `table` on the workers of `pool`, or takes them from the mapping of a `.rin` file, beside an
    /// arena of `arena_bytes`. `table` becomes that of the loaded ones; `progress` hears, matrix by matrix, how many more
    /// bytes are ready.
    ///
    /// The arena is touched last, when the pages that packing reads from, and the code that only loading runs, are gone:
    /// the peak of the process is then that of running.
    ///
    /// # Errors
    ///
    /// When memory is refused or a weight is no number.
    pub fn load_with_arena(
        file: ModelFile,
        table: &mut WeightTable,
        arena_bytes: usize,
        options: ArenaOptions,
        pool: &mut Pool,
        progress: impl FnMut(usize),
    ) -> Result<(Self, Arena), Error> {
        let mut arena = Arena::new(arena_bytes as u64, ArenaOptions { prefault: false, ..options })?;
        let weights = Self::load(file, std::mem::take(table), options, pool, progress)?;
        *table = weights.table.clone();
        if options.prefault {
            rin_model::release_code();
            arena.prefault();
        }
        Ok((weights, arena))
    }

    /// [`load_with_arena`](Self::load_with_arena) without the arena.
    fn load(
        file: ModelFile,
        table: WeightTable,
        options: ArenaOptions,
        pool: &mut Pool,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, Error> {
        // What was looked at so far: the header, and the vocabulary of a tokenizer that was built from it; and what looked.
        file.release_all();
        rin_model::release_code();
        let mapped = table.matrices.iter().all(|m| file.tensors()[m.tensor].packed);
        if mapped {
            let mut notes = Vec::new();
            if table.partial {
                if options.mlock {
                    notes.push("a stage of a .rin file is not locked: a lock takes the whole file".to_owned());
                }
                if options.prefault {
                    table.tensors().for_each(|i| file.populate_tensor(&file.tensors()[i]));
                }
                return Ok(Self { table, file, packed: None, notes });
            }
            if options.mlock
                && let Err(answer) = file.lock()
            {
                notes.push(lock_note(table.bytes as u64, &answer));
            }
            if options.prefault {
                file.populate();
            }
            return Ok(Self { table, file, packed: None, notes });
        }
        let mut arena = Arena::new(table.bytes as u64, options)?;
        let store = arena.bytes_mut();
        for m in &table.matrices {
            pack_matrix(&file, m, &mut store[m.place.clone()], pool)?;
            progress(m.place.len());
        }
        for v in &table.vectors {
            let t = &file.tensors()[v.tensor];
            let values = vector_values(t, file.bytes(t))?;
            for (to, from) in store[v.place.clone()].chunks_exact_mut(4).zip(values.iter()) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
        }
        // What was mapped around tensors, and the vectors.
        file.release_all();
        let notes = arena.notes().to_vec();
        Ok(Self { table, file, packed: Some(arena), notes })
    }

    /// Wishes that the system did not grant, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What is loaded.
    pub fn table(&self) -> &WeightTable {
        &self.table
    }

    /// The file that the weights came from.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The panels of a matrix.
    pub fn panels(&self, id: MatrixId) -> &[u8] {
        let m = &self.table.matrices[id.0];
        match &self.packed {
            Some(arena) => &arena.bytes()[m.place.clone()],
            None => self.file.bytes(&self.file.tensors()[m.tensor]),
        }
    }

    /// The elements of an array.
    ///
    /// # Errors
    ///
    /// When they are not aligned for `T`, which the reader of `.rin` has excluded.
    pub fn array<T: bytemuck::AnyBitPattern>(&self, id: ArrayId) -> Result<&[T], Error> {
        Ok(cast(self.bytes_of(id))?)
    }

    /// The values of a vector.
    ///
    /// # Errors
    ///
    /// When a mapped vector is not aligned for f32, which the reader of `.rin` has excluded.
    pub fn values(&self, id: VectorId) -> Result<&[f32], Error> {
        let v = &self.table.vectors[id.0];
        if let Some(arena) = &self.packed {
            return Ok(cast(&arena.bytes()[v.place.clone()])?);
        }
        let found = self.file.bytes(&self.file.tensors()[v.tensor]);
        let (expected, found_bytes) = (v.len * 4, found.len() as u64);
        // Made only where it is needed: the name would be a copy on the heap.
        let short = || Error::PackedSize { tensor: v.name.clone(), expected: expected as u64, found: found_bytes };
        let bytes = found.get(..expected).ok_or_else(short)?;
        Ok(cast(bytes)?)
    }

    /// The bytes of an array.
    pub(crate) fn bytes_of(&self, id: ArrayId) -> &[u8] {
        self.file.bytes(&self.file.tensors()[self.table.arrays[id.0]])
    }

    /// What tells these weights from others: SHA-256, in hexadecimal, over names and shapes, both ends of every packed
    /// matrix (1 KiB each) and all vectors. One model has one fingerprint, in whichever file it lies.
    pub fn fingerprint(&self) -> String {
        const END: usize = 1024;
        let mut hash = Sha256::new();
        for (i, m) in self.table.matrices.iter().enumerate() {
            let panels = self.panels(MatrixId(i));
            hash.update(format!("{} {} {} {}\n", m.name, m.format, m.rows, m.cols));
            hash.update(&panels[..panels.len().min(END)]);
            hash.update(&panels[panels.len().saturating_sub(END)..]);
        }
        for (i, v) in self.table.vectors.iter().enumerate() {
            hash.update(format!("{} {}\n", v.name, v.len));
            for value in self.values(VectorId(i)).unwrap_or_default() {
                hash.update(value.to_le_bytes());
            }
        }
        rin_model::rin_format::hex(&hash.finalize())
    }

    /// Row `row` of a matrix as numbers: the embedding look-up.
    pub fn row(&self, id: MatrixId, row: usize, out: &mut [f32]) {
        let m = &self.table.matrices[id.0];
        let panel = &self.panels(id)[row / LANES * m.panel_bytes..][..m.panel_bytes];
        unpack_row(m.format, panel, row % LANES, out);
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
