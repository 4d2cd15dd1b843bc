//! A mutable block of a row-major matrix, splittable among threads.

use std::fmt;
use std::marker::PhantomData;

/// `rows × cols` elements of a row-major matrix whose rows lie `stride` elements apart.
///
/// Splitting by columns gives blocks that interleave in memory and still never overlap, so several threads may write
/// different outputs of the same tokens without `unsafe` on their side.
pub struct MatMut<'a, T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a view owns its block exclusively, as `&mut [T]` does.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: through `&MatMut` only `&T` can be reached.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<T> fmt::Debug for MatMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatMut({} x {}, stride {})", self.rows, self.cols, self.stride)
    }
}

impl<'a, T> MatMut<'a, T> {
    /// All of `data` as `rows` rows of `cols` elements.
    ///
    /// # Panics
    ///
    /// When `data` is shorter than `rows * cols`.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        let needed = rows.checked_mul(cols);
        assert!(needed.is_some_and(|n| n <= data.len()), "{rows} x {cols} does not fit {} elements", data.len());
        Self { ptr: data.as_mut_ptr(), rows, cols, stride: cols, owner: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `r` as a slice of `cols` elements.
    ///
    /// # Panics
    ///
    /// When `r` is not below `rows`.
    #[inline]
    pub fn row(&self, r: usize) -> &[T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the block lies within the slice it was made from and `r` is one of its rows.
        let start = unsafe { self.ptr.add(r * self.stride) };
        // SAFETY: `cols` elements from there belong to this view alone.
        unsafe { std::slice::from_raw_parts(start, self.cols) }
    }

    /// Row `r` as a mutable slice of `cols` elements.
    ///
    /// # Panics
    ///
    /// When `r` is not below `rows`.
    #[inline]
    pub fn row_mut(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the block lies within the slice it was made from and `r` is one of its rows.
        let start = unsafe { self.ptr.add(r * self.stride) };
        // SAFETY: `cols` elements from there belong to this view alone, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start, self.cols) }
    }

    /// The same block for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { owner: PhantomData, ..*self }
    }

    /// Columns `0..at` and `at..`.
    ///
    /// # Panics
    ///
    /// When `at` exceeds the columns.
    pub fn split_cols(self, at: usize) -> (Self, Self) {
        assert!(at <= self.cols, "column {at} of {}", self.cols);
        let left = Self { cols: at, ..self };
        // `wrapping_add`: a block without rows or columns has no element to point at.
        let right = Self { ptr: self.ptr.wrapping_add(at), cols: self.cols - at, ..self };
        (left, right)
    }

    /// Rows `0..at` and `at..`.
    ///
    /// # Panics
    ///
    /// When `at` exceeds the rows.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows, "row {at} of {}", self.rows);
        let upper = Self { rows: at, ..self };
        let lower = Self { ptr: self.ptr.wrapping_add(at * self.stride), rows: self.rows - at, ..self };
        (upper, lower)
    }
}

#[cfg(test)]
mod tests {
    use super::MatMut;

    #[test]
    fn split_blocks_write_where_they_should() {
        let mut data = vec![0; 12];
        let (mut a, b) = MatMut::new(&mut data, 3, 4).split_cols(1);
        let (mut b0, mut b1) = b.split_rows(2);
        for r in 0..3 {
            a.row_mut(r).fill(1);
        }
        for r in 0..2 {
            b0.row_mut(r).fill(2);
        }
        b1.row_mut(0).fill(3);
        assert_eq!((a.cols(), b0.cols(), b1.rows()), (1, 3, 1));
        assert_eq!(data, [1, 2, 2, 2, 1, 2, 2, 2, 1, 3, 3, 3]);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_block_larger_than_its_data_is_refused() {
        MatMut::new(&mut [0_u8; 5], 2, 3);
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn a_row_past_the_end_is_refused() {
        MatMut::new(&mut [0_u8; 6], 2, 3).row_mut(2);
    }
}
