//! Exact products of integers: rows of 16-bit numbers with panels of 16-bit numbers.
//!
//! `y[t, r] = sum over k of w[r, k] * x[t, k]`, wrapping at 32 bits. Operands of 8 bits, less a zero of 8 bits, have 9, and
//! the sum of 33,000 of their products fits. Lanes are outputs, as in [`linear`](super::linear): a panel holds 16
//! outputs, and of each of them two columns side by side, which is what `pmaddwd` and `vpdpwssd` take.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::MatMut;
use crate::pack::LANES;

/// Numbers of a panel for two columns.
pub const PAIR: usize = 2 * LANES;

/// Columns of a row as the product takes it: an even number.
pub const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(2)
}

/// Numbers that the panels of `rows × cols` take; none where that overflows.
pub fn panel_len(rows: usize, cols: usize) -> Option<usize> {
    rows.checked_next_multiple_of(LANES)?.checked_mul(cols.checked_next_multiple_of(2)?)
}

kernel! {
    /// `y (tokens, outputs)` from panels `w` and rows `x (tokens, cols)`; `cols` is even. A panel has for each two columns
    /// the pairs of its 16 outputs, and the outputs beyond the last are there too.
    pub struct IntegerProduct(y: &mut MatMut<'_, i32>, w: &[i16], x: &[i16], cols: usize);
    check: |y: &&mut MatMut<'_, i32>, w: &&[i16], x: &&[i16], cols: &usize| check(y, w, x, *cols);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => scalar,
        Avx2 if target_arch = "x86_64" => avx2::product,
        Avx512Vnni if target_arch = "x86_64" => avx512::product,
    }
}

fn check(y: &MatMut<'_, i32>, w: &[i16], x: &[i16], cols: usize) {
    assert!(cols.is_multiple_of(2) && cols > 0, "{cols} columns");
    assert_eq!(Some(w.len()), panel_len(y.cols(), cols), "panels for {} x {cols}", y.cols());
    assert_eq!(Some(x.len()), y.rows().checked_mul(cols), "rows of {cols}");
}

fn scalar(y: &mut MatMut<'_, i32>, w: &[i16], x: &[i16], cols: usize) {
    for (p, panel) in w.chunks_exact(cols * LANES).enumerate() {
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let mut sums = [0_i32; LANES];
            for (w, x) in panel.as_chunks::<PAIR>().0.iter().zip(x.as_chunks::<2>().0) {
                for (sum, w) in sums.iter_mut().zip(w.as_chunks::<2>().0) {
                    let pair = i32::from(w[0])
                        .wrapping_mul(x[0].into())
                        .wrapping_add(i32::from(w[1]).wrapping_mul(x[1].into()));
                    *sum = sum.wrapping_add(pair);
                }
            }
            store(y, t, p, &sums);
        }
    }
}

/// Puts the sums of panel `p` where `y` has room for them.
#[inline(always)]
fn store(y: &mut MatMut<'_, i32>, t: usize, p: usize, sums: &[i32; LANES]) {
    let out = &mut y.row_mut(t)[p * LANES..];
    match out.first_chunk_mut::<LANES>() {
        Some(out) => *out = *sums,
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::{IntegerProduct, padded, panel_len};
    use crate::ops::cases::Random;
    use crate::pack::LANES;
    use crate::{Cpu, MatMut};

    pub(super) struct Case {
        rows: usize,
        cols: usize,
        tokens: usize,
        w: Vec<i16>,
        x: Vec<i16>,
    }

    impl Case {
        fn run(&self, op: &IntegerProduct) -> Vec<i32> {
            let mut y = vec![-1; self.rows * self.tokens];
            op.run(&mut MatMut::new(&mut y, self.tokens, self.rows), &self.w, &self.x, self.cols);
            y
        }

        pub(super) fn check(&self, reference: &IntegerProduct, candidate: &IntegerProduct) {
            let (want, got) = (self.run(reference), self.run(candidate));
            assert_eq!(want, got, "{} {} x {} at {}", candidate.tier(), self.rows, self.cols, self.tokens);
        }
    }

    fn numbers(random: &mut Random, n: usize, most: i16) -> Vec<i16> {
        let span = usize::from(most.unsigned_abs()) * 2 + 1;
        // Extremes often: what overflows shows there.
        (0..n)
            .map(|_| if random.below(3) == 0 { -most } else { i16::try_from(random.below(span)).unwrap() - most })
            .collect()
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(41);
        for most in [255, 16_000] {
            for (rows, cols, tokens) in
                [(1, 2, 1), (16, 4, 2), (17, 30, 3), (40, 64, 5), (33, 6, 9), (64, 576, 4), (5, 2, 0)]
            {
                let w = numbers(&mut random, panel_len(rows, cols).unwrap(), most);
                f(Case { rows, cols, tokens, w, x: numbers(&mut random, tokens * cols, most) });
            }
        }
    }

    #[test]
    fn sums_are_exact() {
        let (rows, cols, tokens) = (19, 7, 3);
        let mut random = Random::new(43);
        let a = numbers(&mut random, rows * cols, 255);
        let x = numbers(&mut random, tokens * cols, 255);
        let wide = padded(cols);
        let mut w = vec![0; panel_len(rows, cols).unwrap()];
        let mut padded_x = vec![0; tokens * wide];
        for r in 0..rows {
            for k in 0..cols {
                w[(r / LANES * wide + k / 2 * 2) * LANES + r % LANES * 2 + k % 2] = a[r * cols + k];
            }
        }
        for t in 0..tokens {
            padded_x[t * wide..][..cols].copy_from_slice(&x[t * cols..][..cols]);
        }
        let mut y = vec![0; tokens * rows];
        IntegerProduct::select(&Cpu::detect()).run(&mut MatMut::new(&mut y, tokens, rows), &w, &padded_x, wide);
        for t in 0..tokens {
            for r in 0..rows {
                let want: i64 = (0..cols).map(|k| i64::from(a[r * cols + k]) * i64::from(x[t * cols + k])).sum();
                assert_eq!(i64::from(y[t * rows + r]), want);
            }
        }
    }
}
