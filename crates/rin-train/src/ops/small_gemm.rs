//! A product of small matrices within one thread, with limits for triangular ones.

use std::ops::Range;

/// Rows of a tile.
const ROWS: usize = 4;
/// Columns of a tile; every width is a multiple of it.
pub(crate) const COLS: usize = 16;

/// A matrix to read: element `(r, c)` lies at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Read<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> Read<'a> {
    /// Rows of `width`.
    #[inline(always)]
    pub(crate) fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row_stride: width, col_stride: 1 }
    }

    /// The transpose of rows of `width`.
    #[inline(always)]
    pub(crate) fn transposed(data: &'a [f32], width: usize) -> Self {
        Self { data, row_stride: 1, col_stride: width }
    }
}

/// `c[i, j] (+)= sum over p of a[i, p] * b[p, j]`, with `b` and `c` in rows of `b_width` and `c_width`.
///
/// `cols(end)` says how many columns of `c` (rounded up to whole tiles) the rows before `end` need, `inner(start, end)`
/// which `p` contribute to the rows of a tile.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
pub(crate) fn small_gemm(
    m: usize,
    a: Read<'_>,
    b: &[f32],
    b_width: usize,
    c: &mut [f32],
    c_width: usize,
    add: bool,
    cols: impl Fn(usize) -> usize,
    inner: impl Fn(usize, usize) -> Range<usize>,
) {
    let mut first = 0;
    while first < m {
        let rows = ROWS.min(m - first);
        let n = cols(first + rows).next_multiple_of(COLS).min(c_width);
        let range = inner(first, first + rows);
        for col in (0..n).step_by(COLS) {
            if rows == ROWS {
                tile::<ROWS>(first, col, a, b, b_width, c, c_width, add, range.clone());
            } else {
                for r in first..m {
                    tile::<1>(r, col, a, b, b_width, c, c_width, add, range.clone());
                }
            }
        }
        first += rows;
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the operands of a product")]
fn tile<const R: usize>(
    first: usize,
    col: usize,
    a: Read<'_>,
    b: &[f32],
    b_width: usize,
    c: &mut [f32],
    c_width: usize,
    add: bool,
    range: Range<usize>,
) {
    let mut sums = [[0.0_f32; COLS]; R];
    let starts: [&[f32]; R] = std::array::from_fn(|r| &a.data[(first + r) * a.row_stride..]);
    for p in range {
        let (lines, _) = b[p * b_width + col..].as_chunks::<COLS>();
        let line = &lines[0];
        for r in 0..R {
            let x = starts[r][p * a.col_stride];
            for i in 0..COLS {
                sums[r][i] = x.mul_add(line[i], sums[r][i]);
            }
        }
    }
    for r in 0..R {
        let out = &mut c[(first + r) * c_width + col..][..COLS];
        for i in 0..COLS {
            out[i] = if add { out[i] + sums[r][i] } else { sums[r][i] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Read, small_gemm};
    use crate::random::normal;

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn is_the_definition_in_f64() {
        let (m, n, k) = (7, 32, 9);
        let numbers = |n: usize, key| (0..n as u64).map(|i| normal(key, i) as f32).collect::<Vec<_>>();
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let transposed: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
        let mut c = vec![1.0; m * n];
        small_gemm(m, Read::rows(&a, k), &b, n, &mut c, n, false, |_| n, |_, _| 0..k);
        let mut d = c.clone();
        small_gemm(m, Read::transposed(&transposed, m), &b, n, &mut d, n, true, |_| n, |_, _| 0..k);
        for i in 0..m * n {
            let want: f64 = (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n])).sum();
            assert!((f64::from(c[i]) - want).abs() < 1e-5);
            assert!((f64::from(d[i]) - 2.0 * want).abs() < 2e-5);
        }
    }
}
