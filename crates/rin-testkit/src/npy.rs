//! Reading `.npy` arrays that a golden script or a simulator wrote.

use std::path::Path;

/// A two-dimensional array.
#[derive(Debug, Clone)]
pub struct Array2 {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Row-major values.
    pub values: Vec<f32>,
}

impl Array2 {
    /// Reads a C-order array of two dimensions, of f32, or of f64, i64 or i8 whose values an f32 holds.
    ///
    /// # Panics
    ///
    /// When the file is absent or of another kind: a test cannot go on without it.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(&bytes[..6], b"\x93NUMPY", "{}", path.display());
        let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = String::from_utf8_lossy(&bytes[10..10 + header_len]);
        assert!(header.contains("'fortran_order': False"), "{header}");
        let shape = header.split("'shape': (").nth(1).and_then(|s| s.split(')').next()).unwrap_or_default();
        let dims: Vec<usize> = shape.split(',').filter_map(|s| s.trim().parse().ok()).collect();
        let [rows, cols] = dims[..] else { panic!("{header}: not two dimensions") };
        let data = &bytes[10 + header_len..];
        #[expect(clippy::cast_possible_truncation, reason = "the caller knows the values")]
        let values: Vec<f32> = match header.split('\'').nth(3) {
            Some("<f4") => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Some("<f8") => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Some("<i8") => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            Some("|i1") => data.iter().map(|b| f32::from(b.cast_signed())).collect(),
            other => panic!("{}: elements of type {other:?}", path.display()),
        };
        assert_eq!(values.len(), rows * cols, "{}", path.display());
        Self { rows, cols, values }
    }

    /// One row.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.values[r * self.cols..][..self.cols]
    }
}
