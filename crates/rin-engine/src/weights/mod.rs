//! Weights: which tensors a plan uses, how many bytes they take, and where they lie once loaded.
//!
//! Planning names matrices and vectors and learns their sizes from the file's header alone. Loading packs them into
//! one mapping, or, for `.rin`, leaves them where they are in the file's mapping.

mod source;

pub use source::{Rows, format_of, matrix_values, pack_tensor_panel, source_row, vector_values};

use crate::Error;
use crate::arena::{Arena, ArenaOptions, cast, lock_note};
use crate::pool::Pool;
use rin_kernels::Format;
use rin_kernels::pack::{LANES, unpack_row};
use rin_model::{Fault, ModelFile, RowOrder, TensorInfo};
use sha2::{Digest, Sha256};
use source::{bad_shape, pack_panel_of, to_usize, unsupported};
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

/// A weight matrix `rows × cols` in panels: all rows of a tensor, or some.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Name of the tensor.
    pub name: String,
    /// Format of the weights.
    pub format: Format,
    /// Its first row within the tensor.
    pub first_row: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bytes of a panel of 16 rows.
    pub panel_bytes: usize,
    tensor: usize,
    place: Range<usize>,
    /// Whether its panels are some of a matrix that is loaded whole.
    shared: bool,
}

/// A vector of f32: norm weights, biases.
#[derive(Clone, Debug)]
struct Vector {
    name: String,
    /// Its first element within the tensor.
    first: usize,
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

impl Matrix {
    /// Its bytes within the tensor of a packed file.
    fn panels(&self) -> Range<usize> {
        let start = self.first_row / LANES * self.panel_bytes;
        start..start + self.place.len()
    }
}

impl WeightTable {
    /// Adds the matrix called `name`; the same name gives the same id.
    ///
    /// # Errors
    ///
    /// When the file has no such matrix, or no kernel runs its type.
    pub fn matrix(&mut self, file: &ModelFile, name: &str) -> Result<MatrixId, Error> {
        self.matrix_rows(file, name, 0..usize::MAX)
    }

    /// Adds `rows` of the matrix called `name`, those that it has. The same rows give the same id, and rows of a matrix that is
    /// there whole lie in it.
    ///
    /// # Errors
    ///
    /// As for [`matrix`](Self::matrix); where the file holds panels, and the rows do not begin with one.
    pub fn matrix_rows(&mut self, file: &ModelFile, name: &str, rows: Range<usize>) -> Result<MatrixId, Error> {
        let (tensor, t) = find(file, name)?;
        let format = format_of(t.dtype).ok_or_else(|| unsupported(t))?;
        let [all, cols] = t.shape[..] else { return Err(bad_shape(t, format, "it is no matrix")) };
        let (all, cols) = (to_usize(all)?, to_usize(cols)?);
        let (first_row, end) = (rows.start.min(all), rows.end.min(all));
        let rows = end.saturating_sub(first_row);
        let same = |m: &Matrix| m.name == name && (m.first_row, m.rows) == (first_row, rows);
        if let Some(i) = self.matrices.iter().position(same) {
            return Ok(MatrixId(i));
        }
        let panel_bytes =
            format.panel_bytes(cols).ok_or_else(|| bad_shape(t, format, "a row does not hold whole blocks"))?;
        let packed = |rows| format.packed_bytes(rows, cols).ok_or(Error::PlanOverflow { what: "weight matrix" });
        let (bytes, of_all) = (packed(rows)?, packed(all)?);
        if t.packed && t.n_bytes != of_all as u64 {
            return Err(Error::PackedSize { tensor: name.to_owned(), expected: of_all as u64, found: t.n_bytes });
        }
        let on_panel = first_row.is_multiple_of(LANES);
        if t.packed && !on_panel {
            return Err(bad_shape(t, format, "its panels are no others, and these rows begin within one"));
        }
        let whole = self.matrices.iter().find(|m| m.name == name && (m.first_row, m.rows) == (0, all) && on_panel);
        let (place, shared) = match whole {
            Some(whole) => {
                let start = whole.place.start + first_row / LANES * panel_bytes;
                (start..start + bytes, true)
            }
            None => (self.reserve(bytes)?, false),
        };
        let name = name.to_owned();
        self.matrices.push(Matrix { name, format, first_row, rows, cols, panel_bytes, tensor, place, shared });
        Ok(MatrixId(self.matrices.len() - 1))
    }

    /// Adds the vector called `name`.
    ///
    /// # Errors
    ///
    /// When the file has no such vector, or it is of a quantised type.
    pub fn vector(&mut self, file: &ModelFile, name: &str) -> Result<VectorId, Error> {
        self.vector_part(file, name, 0..usize::MAX)
    }

    /// Adds the elements `part` of the vector called `name`, those that it has.
    ///
    /// # Errors
    ///
    /// As for [`vector`](Self::vector).
    pub fn vector_part(&mut self, file: &ModelFile, name: &str, part: Range<usize>) -> Result<VectorId, Error> {
        let (tensor, t) = find(file, name)?;
        let format = format_of(t.dtype).filter(|f| f.block_len() == 1).ok_or_else(|| unsupported(t))?;
        let [all] = t.shape[..] else { return Err(bad_shape(t, format, "it is no vector")) };
        let all = to_usize(all)?;
        let (first, end) = (part.start.min(all), part.end.min(all));
        let len = end.saturating_sub(first);
        let place = self.reserve(len.checked_mul(4).ok_or(Error::PlanOverflow { what: "weight vector" })?)?;
        self.vectors.push(Vector { name: name.to_owned(), first, len, tensor, place });
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

    /// The tensors of a packed file that are used, each with the bytes of it.
    fn pieces(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let of_matrices = self.matrices.iter().map(|m| (m.tensor, m.panels()));
        let of_vectors = self.vectors.iter().map(|v| (v.tensor, v.first * 4..(v.first + v.len) * 4));
        of_matrices.chain(of_vectors).chain(self.arrays.iter().map(|&tensor| (tensor, 0..usize::MAX)))
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
        self.vectors.push(Vector { name: name.to_owned(), first: 0, len, tensor, place });
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

/// Bytes of a source that are packed between two releases of its pages.
const BAND: usize = 2 << 20;

/// One fault can map what lies around the missing page, released pages too: up to a large page of the file cache.
const MAPPED_AROUND: usize = 2 << 20;

/// Packs a whole matrix in bands of rows, the panels of a band dealt out to the workers.
fn pack_matrix(file: &ModelFile, m: &Matrix, store: &mut [u8], pool: &mut Pool) -> Result<(), Error> {
    let t = &file.tensors()[m.tensor];
    let bytes = file.bytes(t);
    let panel_bytes = m.panel_bytes.max(1);
    let row_source = m.format.row_bytes(m.cols).unwrap_or(0);
    let panel_source = row_source.saturating_mul(LANES).max(1);
    let end_row = m.first_row + m.rows;
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
                let rows = m.first_row + (first + i * share + p) * LANES..end_row;
                if let Err(error) = pack_panel_of(t, bytes, m.format, rows, panel) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        // The packed copy is what runs: the pages of the source would only count twice.
        let packed = m.first_row * row_source + first * panel_source;
        file.release(t, packed.saturating_sub(MAPPED_AROUND)..packed + band_panels * panel_source);
    }
    Ok(())
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
                    table.pieces().for_each(|(i, bytes)| file.populate_part(&file.tensors()[i], bytes));
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
        for m in table.matrices.iter().filter(|m| !m.shared) {
            pack_matrix(&file, m, &mut store[m.place.clone()], pool)?;
            progress(m.place.len());
        }
        for v in &table.vectors {
            let t = &file.tensors()[v.tensor];
            let values = vector_values(t, file.bytes(t))?;
            for (to, from) in store[v.place.clone()].chunks_exact_mut(4).zip(values.iter().skip(v.first)) {
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

    /// Bytes that lie in the mapping of the file; none where they were packed into memory of their own.
    pub fn mapped_bytes(&self) -> usize {
        if self.packed.is_some() { 0 } else { self.table.bytes }
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
            None => self.file.bytes(&self.file.tensors()[m.tensor]).get(m.panels()).unwrap_or_default(),
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
        let (start, expected, found_bytes) = (v.first * 4, (v.first + v.len) * 4, found.len() as u64);
        // Made only where it is needed: the name would be a copy on the heap.
        let short = || Error::PackedSize { tensor: v.name.clone(), expected: expected as u64, found: found_bytes };
        let bytes = found.get(start..expected).ok_or_else(short)?;
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
