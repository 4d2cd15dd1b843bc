//! Dense layers in integers from input to output: 8-bit products, 32-bit sums, fixed-point scales. No float operation.
//!
//! ```text
//! acc[r] = bias[r] + sum over c of (w[r, c] - 128) * x[c]
//! y[r]   = clamp((acc[r] * multiplier[r] + 2^(shift[r] - 1)) >> shift[r], low, high)
//! ```
//!
//! in exact arithmetic: `acc` in 32 bits, the product with the multiplier in 64, `>>` rounding down, so that the whole
//! rounds to nearest, halves up. That is the fixed-point scale of gemmlowp (Jacob et al., 2018, section 2.2) with one
//! rounding in place of two. What the numbers must be for the sums not to wrap is said by [`is_sound`].
//!
//! Weights lie as everywhere: a line of 64 bytes is 16 outputs × 4 inputs, the lines of a panel of 16 outputs follow each
//! other. They are stored plus 128, as the unsigned operand of VNNI.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod boundary;
#[cfg(test)]
mod tests;

pub use boundary::QuantizeStatic;

use crate::MatMut;
use crate::pack::{LANES, LINE};
use std::ops::RangeInclusive;

/// Shifts that are possible.
pub const SHIFTS: RangeInclusive<i32> = 31..=62;
/// The largest magnitude of a bias.
pub const MAX_BIAS: i32 = 1 << 29;
/// Most inputs of a layer: their products and the bias fit into 32 bits.
pub const MAX_INPUTS: usize = 1 << 16;
/// The largest magnitude of a wide output: what an f32 holds exactly.
pub const MAX_WIDE: i32 = 1 << 24;
const _: () = assert!(MAX_INPUTS * 127 * 127 + (MAX_BIAS as usize) < i32::MAX as usize);

/// Panels of a layer, and a number per output of each kind.
#[derive(Clone, Copy, Debug)]
pub struct IntegerLayer<'a> {
    /// Weights plus 128, `outputs × inputs` in lines.
    pub w: &'a [u8],
    /// Added to the sums.
    pub bias: &'a [i32],
    /// Factors, not negative.
    pub multiplier: &'a [i32],
    /// How far the products are shifted, within [`SHIFTS`].
    pub shift: &'a [i32],
    /// The least output.
    pub low: i32,
    /// The largest output.
    pub high: i32,
}

/// Whether the numbers of a layer are such that no sum wraps; the tiers agree on sound layers.
pub fn is_sound(layer: &IntegerLayer<'_>) -> bool {
    // A weight of -128 has no magnitude in 8 bits.
    layer.w.iter().all(|&w| w != 0)
        && layer.bias.iter().all(|b| (-MAX_BIAS..=MAX_BIAS).contains(b))
        && layer.multiplier.iter().all(|&m| m >= 0)
        && layer.shift.iter().all(|s| SHIFTS.contains(s))
        && layer.low <= 0
        && layer.high >= 0
}

kernel! {
    /// A layer whose outputs are the inputs of another: 8 bits.
    ///
    /// `y` is `(rows, outputs)`, `x` is `(rows, inputs)` within −127..=127. Outputs are a multiple of 16, inputs a positive
    /// multiple of 4; `low` and `high` lie within −127..=127.
    pub struct DenseNarrow(y: &mut MatMut<'_, i8>, x: &[i8], layer: IntegerLayer<'_>);
    check: |y: &&mut MatMut<'_, i8>, x: &&[i8], layer: &IntegerLayer<'_>| {
        check(y.rows(), y.cols(), x, layer);
        assert!(layer.low >= -127 && layer.high <= 127, "{}..={} does not fit 8 bits", layer.low, layer.high);
    };
    cases: tests::for_each_case;
    conformance: narrow;
    variants {
        Scalar => dense::<i8>,
        Avx2 if target_arch = "x86_64" => avx2::dense::<i8>,
        Avx512Vnni if target_arch = "x86_64" => avx512::dense::<i8>,
    }
}

kernel! {
    /// A last layer: as [`DenseNarrow`], with outputs of 32 bits.
    pub struct DenseWide(y: &mut MatMut<'_, i32>, x: &[i8], layer: IntegerLayer<'_>);
    check: |y: &&mut MatMut<'_, i32>, x: &&[i8], layer: &IntegerLayer<'_>| check(y.rows(), y.cols(), x, layer);
    cases: tests::for_each_case;
    conformance: wide;
    variants {
        Scalar => dense::<i32>,
        Avx2 if target_arch = "x86_64" => avx2::dense::<i32>,
        Avx512Vnni if target_arch = "x86_64" => avx512::dense::<i32>,
    }
}

fn check(rows: usize, outputs: usize, x: &[i8], layer: &IntegerLayer<'_>) {
    assert!(outputs.is_multiple_of(LANES), "{outputs} outputs are no multiple of {LANES}");
    let cols = x.len().checked_div(rows).unwrap_or(4);
    assert!(rows * cols == x.len() || rows == 0, "{} inputs in {rows} rows", x.len());
    assert!(cols > 0 && cols.is_multiple_of(4), "{cols} inputs are no positive multiple of 4");
    assert!(rows == 0 || Some(layer.w.len()) == outputs.checked_mul(cols), "weights for {outputs} × {cols}");
    for n in [layer.bias.len(), layer.multiplier.len(), layer.shift.len()] {
        assert!(n == outputs, "{n} numbers for {outputs} outputs");
    }
    assert!(layer.low <= layer.high, "{}..={} is empty", layer.low, layer.high);
}

/// A whole number as a layer puts it out, from one that fits.
trait Output: Copy {
    fn of(x: i32) -> Self;
    #[cfg(target_arch = "x86_64")]
    fn store(x: std::arch::x86_64::__m512i, to: &mut [Self; LANES]);
}

impl Output for i8 {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 8 bits")]
    fn of(x: i32) -> Self {
        x as Self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn store(x: std::arch::x86_64::__m512i, to: &mut [Self; LANES]) {
        avx512::store_narrow(x, to);
    }
}

impl Output for i32 {
    #[inline(always)]
    fn of(x: i32) -> Self {
        x
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn store(x: std::arch::x86_64::__m512i, to: &mut [Self; LANES]) {
        avx512::store_wide(x, to);
    }
}

/// `acc` in the steps of the output.
#[inline(always)]
fn requantize(acc: i32, multiplier: i32, shift: i32) -> i32 {
    // Sound shifts lie below 63; the mask keeps others from being undefined.
    let half = 1_i64 << ((shift - 1) & 63);
    let scaled = (i64::from(acc) * i64::from(multiplier) + half) >> (shift & 63);
    #[expect(clippy::cast_possible_truncation, reason = "below 2^31 where the layer is sound")]
    let scaled = scaled as i32;
    scaled
}

/// The outputs of 16 sums of panel `p`.
#[inline(always)]
fn finish<O: Output>(acc: &[i32; LANES], layer: &IntegerLayer<'_>, p: usize, to: &mut [O]) {
    let of_panel = |numbers: &[i32]| -> [i32; LANES] { *numbers[p * LANES..].first_chunk().expect("whole panels") };
    let (multiplier, shift) = (of_panel(layer.multiplier), of_panel(layer.shift));
    for (i, to) in to[p * LANES..][..LANES].iter_mut().enumerate() {
        *to = O::of(requantize(acc[i], multiplier[i], shift[i]).clamp(layer.low, layer.high));
    }
}

/// The definition.
fn dense<O: Output>(y: &mut MatMut<'_, O>, x: &[i8], layer: IntegerLayer<'_>) {
    let cols = x.len().checked_div(y.rows()).unwrap_or(0);
    let (lines, _) = layer.w.as_chunks::<LINE>();
    for t in 0..y.rows() {
        let (quads, _) = x[t * cols..][..cols].as_chunks::<4>();
        for p in 0..y.cols() / LANES {
            let mut acc: [i32; LANES] = *layer.bias[p * LANES..].first_chunk().expect("whole panels");
            for (line, x) in lines[p * quads.len()..].iter().zip(quads) {
                for (acc, w) in acc.iter_mut().zip(line.as_chunks::<4>().0) {
                    let sum: i32 = w.iter().zip(x).map(|(&w, &x)| (i32::from(w) - 128) * i32::from(x)).sum();
                    *acc = acc.wrapping_add(sum);
                }
            }
            finish(&acc, &layer, p, y.row_mut(t));
        }
    }
}

/// Puts what a table has for each number in its place: an activation function over 8 bits.
pub fn look_up(y: &mut [i8], table: &[i8; 256]) {
    for y in y {
        *y = table[usize::from(y.cast_unsigned() ^ 0x80)];
    }
}

/// Bytes that the lines of `outputs × inputs` weights take; none where that overflows.
pub fn integer_bytes(outputs: usize, inputs: usize) -> Option<usize> {
    outputs.checked_next_multiple_of(LANES)?.checked_mul(inputs.checked_next_multiple_of(LANES)?)
}

/// Row-major weights `outputs × inputs` as lines, plus 128; outputs and inputs are filled up to multiples of 16 with zeros.
///
/// # Panics
///
/// Unless `w` holds whole rows of `inputs` and `out` holds [`integer_bytes`].
pub fn pack_integer(w: &[i8], inputs: usize, out: &mut [u8]) {
    assert!(inputs > 0 && w.len().is_multiple_of(inputs), "{} weights in rows of {inputs}", w.len());
    let outputs = w.len() / inputs;
    assert_eq!(Some(out.len()), integer_bytes(outputs, inputs), "room for {outputs} × {inputs}");
    let quads = inputs.next_multiple_of(LANES) / 4;
    for (i, line) in out.as_chunks_mut::<LINE>().0.iter_mut().enumerate() {
        for (at, out) in line.iter_mut().enumerate() {
            let (output, input) = (i / quads * LANES + at / 4, i % quads * 4 + at % 4);
            let inside = output < outputs && input < inputs;
            *out = if inside { w[output * inputs + input].cast_unsigned() ^ 0x80 } else { 0x80 };
        }
    }
}
