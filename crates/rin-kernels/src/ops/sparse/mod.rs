//! Products of sparse 8-bit matrices with one row of 8-bit inputs: blocks that are left out, and two of four.
//!
//! `y[r] = sum over k of w[r, k] * x[k]`, exact while it fits 32 bits and wrapping beyond: the integers that the dense
//! product of the expanded matrix gives. Every weight and input from −128 to 127 is allowed.
//!
//! | form | stored | bytes for each kept weight |
//! |---|---|---|
//! | [`Blocks4x4`] | blocks of 4 outputs × 4 inputs that are not all zero | 1 + 4/16 |
//! | [`Blocks1x16`] | blocks of 1 output × 16 inputs that are not all zero | 1 + 4/16 |
//! | [`TwoOfFour`] | of four neighbours in a row two, and 4 bits that say which | 1 + 1/4 |
//!
//! Both kinds of block are block compressed rows (BSR) with columns of 32 bits. `vpdpbusd` wants one operand without a
//! sign: the inputs are taken plus 128, and what that adds, 128 times the sum of a row's weights, is stored with the
//! matrix. Two of four on x86 saves bytes, not multiplications: a line is expanded (`vpexpandb`) and multiplied whole.
//! The 2:4 form: Mishra et al., arXiv 2104.08378.

mod blocks;
#[cfg(test)]
mod tests;
mod two_of_four;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use blocks::{Blocks1x16, Blocks1x16Product, Blocks4x4, Blocks4x4Product};
pub use two_of_four::{TwoOfFour, TwoOfFourProduct};

/// What a row of weights adds to a sum over inputs plus 128, to be taken off.
fn offsets(w: &[i8], cols: usize) -> Vec<i32> {
    let sum = |row: &[i8]| row.iter().fold(0_i32, |sum, &w| sum.wrapping_add(i32::from(w)));
    w.chunks_exact(cols).map(|row| sum(row).wrapping_mul(-128)).collect()
}

/// Whether `w` is whole rows of `cols`, in whole bands of `band` rows and whole blocks of `width` columns.
fn fits(w: &[i8], cols: usize, band: usize, width: usize) -> bool {
    cols > 0
        && cols.is_multiple_of(width)
        && u32::try_from(cols).is_ok()
        && w.len().is_multiple_of(cols)
        && (w.len() / cols).is_multiple_of(band)
}
