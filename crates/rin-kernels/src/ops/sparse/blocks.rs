//! Block compressed rows.

#[cfg(test)]
use super::tests;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{fits, offsets};

/// Weights of a block of either shape.
pub(super) const BLOCK: usize = 16;

/// Blocks of `ROWS × COLS` weights that are not all zero, band of rows by band of rows.
#[derive(Clone, Debug)]
pub(super) struct Blocks<const ROWS: usize, const COLS: usize> {
    cols: usize,
    /// Where the blocks of a band begin, and where the last ends.
    starts: Vec<usize>,
    /// The first column of each block; a block lies within `cols`.
    columns: Vec<u32>,
    /// The weights of each block, row-major.
    weights: Vec<[i8; BLOCK]>,
    offsets: Vec<i32>,
}

impl<const ROWS: usize, const COLS: usize> Blocks<ROWS, COLS> {
    const ARE_SIXTEEN: () = assert!(ROWS * COLS == BLOCK);

    fn pack(w: &[i8], cols: usize) -> Option<Self> {
        let () = Self::ARE_SIXTEEN;
        if !fits(w, cols, ROWS, COLS) {
            return None;
        }
        let (mut starts, mut columns, mut weights) = (vec![0], Vec::new(), Vec::new());
        for band in w.chunks_exact(ROWS * cols) {
            for column in (0..cols).step_by(COLS) {
                let mut block = [0; BLOCK];
                for (to, row) in block.chunks_exact_mut(COLS).zip(band.chunks_exact(cols)) {
                    to.copy_from_slice(&row[column..][..COLS]);
                }
                if block != [0; BLOCK] {
                    columns.push(u32::try_from(column).ok()?);
                    weights.push(block);
                }
            }
            starts.push(weights.len());
        }
        Some(Self { cols, starts, columns, weights, offsets: offsets(w, cols) })
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.starts)
            + size_of_val(&*self.columns)
            + size_of_val(&*self.weights)
            + size_of_val(&*self.offsets)
    }

    /// Columns and weights of the blocks of a band.
    #[inline(always)]
    pub(super) fn band(&self, band: usize) -> (&[u32], &[[i8; BLOCK]]) {
        let range = self.starts[band]..self.starts[band + 1];
        (&self.columns[range.clone()], &self.weights[range])
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the scalar tier has no offset"))]
    pub(super) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    fn check(&self, y: &[i32], x: &[i8]) {
        assert_eq!((y.len(), x.len()), (self.offsets.len(), self.cols), "outputs and inputs of the matrix");
    }
}

/// The definition.
fn product<const ROWS: usize, const COLS: usize>(y: &mut [i32], w: &Blocks<ROWS, COLS>, x: &[i8]) {
    for (band, y) in y.chunks_exact_mut(ROWS).enumerate() {
        y.fill(0);
        let (columns, weights) = w.band(band);
        for (&column, block) in columns.iter().zip(weights) {
            let x = &x[column as usize..][..COLS];
            for (y, row) in y.iter_mut().zip(block.chunks_exact(COLS)) {
                for (&w, &x) in row.iter().zip(x) {
                    *y = y.wrapping_add(i32::from(w) * i32::from(x));
                }
            }
        }
    }
}

macro_rules! blocks {
    ($Matrix:ident, $Product:ident, $rows:literal, $cols:literal, $module:ident, $body:ident) => {
        #[doc = concat!("A matrix as its blocks of ", $rows, " outputs × ", $cols, " inputs that are not all zero.")]
        #[derive(Clone, Debug)]
        pub struct $Matrix(pub(super) Blocks<$rows, $cols>);

        impl $Matrix {
            /// From row-major weights; none where they are not whole rows of `cols`, or not whole blocks.
            #[must_use]
            pub fn pack(w: &[i8], cols: usize) -> Option<Self> {
                Blocks::pack(w, cols).map(Self)
            }

            /// Bytes that the product reads of the matrix.
            #[must_use]
            pub fn bytes(&self) -> usize {
                self.0.bytes()
            }
        }

        kernel! {
            #[doc = concat!("`y (outputs)` from `w` and `x (inputs)`, in blocks of ", $rows, " × ", $cols, ".")]
            pub struct $Product(y: &mut [i32], w: &$Matrix, x: &[i8]);
            check: |y: &&mut [i32], w: &&$Matrix, x: &&[i8]| w.0.check(y, x);
            cases: tests::for_each_case;
            conformance: $module;
            variants {
                Scalar => $body,
                Avx2 if target_arch = "x86_64" => x86::$module::avx2,
                Avx512Vnni if target_arch = "x86_64" => x86::$module::avx512,
            }
        }

        fn $body(y: &mut [i32], w: &$Matrix, x: &[i8]) {
            product(y, &w.0, x);
        }
    };
}

blocks!(Blocks4x4, Blocks4x4Product, 4, 4, four_by_four, product_4x4);
blocks!(Blocks1x16, Blocks1x16Product, 1, 16, one_by_sixteen, product_1x16);
