//! Products of token rows with a packed weight matrix: the one operation that takes nearly all the time.
//!
//! `y[t, r] (+)= sum over k of w[r, k] * x[t, k] (+ bias[r])`, for a block of tokens at once, so that prefill streams
//! each panel once and decode is the case of one token.
//!
//! The result is defined as follows, whatever the tier, the tile or the number of tokens:
//!
//! - **Quantised weights.** Per block, the product of codes and activation bytes is an exact integer, sub-block scales
//!   folded in; then `acc = fma(integer as f32, d_w * d_x, acc)`, blocks ascending, and for formats with minima
//!   `acc = fma(-(sum of m * sum of x) as f32, dmin_w * d_x, acc)` after it.
//! - **Float weights.** Four partial sums over the columns `k mod 4`, each ascending with one `fma` per column, folded
//!   as `(s0 + s1) + (s2 + s3)`.
//! - **Epilogue.** `v = acc`, or `acc + bias`; then `y = v` or `y = y + v`. A NaN is stored as [`f32::NAN`].

#[cfg(target_arch = "x86_64")]
mod amx_int8;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;

use crate::format::Activation;
use crate::math::canonical;
use crate::pack::LANES;
use crate::{Cpu, Format, MatMut, Tier};

/// Rows of quantised activations: what [`quantize`](super::quantize) writes.
#[derive(Clone, Copy, Debug)]
pub struct QuantRows<'a> {
    /// Values in −127..=127, `rows × cols`.
    pub q: &'a [i8],
    /// Scale of each block, `rows × cols / block`.
    pub d: &'a [f32],
    /// Sum of each 16 consecutive values, `rows × cols / 16`.
    pub sums: &'a [i16],
    /// Values in a row, a multiple of `block`.
    pub cols: usize,
    /// Values that share a scale: 32 or 256.
    pub block: usize,
}

impl QuantRows<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.q.len().checked_div(self.cols).unwrap_or(0)
    }
}

/// What happens to a finished sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to each row of the result; one value per output.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what `y` holds (a residual) instead of replacing it.
    pub add: bool,
}

impl Epilogue<'_> {
    /// Applies to 16 sums of panel `p`, of which `y` has room for the first `y.cols() - 16 p`.
    #[inline(always)]
    fn finish(&self, sums: &[f32; LANES], y: &mut MatMut<'_, f32>, t: usize, p: usize) {
        let out = &mut y.row_mut(t)[p * LANES..];
        let mut sums = *sums;
        if let Some(bias) = self.bias {
            // All but the last panel take this loop with its length known, which the compiler turns into one addition.
            match bias[p * LANES..].first_chunk::<LANES>() {
                Some(bias) => sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias),
                None => sums.iter_mut().zip(&bias[p * LANES..]).for_each(|(sum, bias)| *sum += bias),
            }
        }
        match (out.first_chunk_mut::<LANES>(), self.add) {
            (Some(out), true) => out.iter_mut().zip(&sums).for_each(|(y, v)| *y = canonical(*y + v)),
            // A loop and no `map`: that would not be inlined into a function with target features.
            (Some(out), false) => out.iter_mut().zip(&sums).for_each(|(y, v)| *y = canonical(*v)),
            (None, true) => out.iter_mut().zip(&sums).for_each(|(y, v)| *y = canonical(*y + v)),
            (None, false) => out.iter_mut().zip(&sums).for_each(|(y, v)| *y = canonical(*v)),
        }
    }
}

/// Panics unless the lengths fit: the soundness of every variant rests on this.
fn check_common(format: Format, y: &MatMut<'_, f32>, w: &[u8], rows: usize, cols: usize, e: &Epilogue<'_>) {
    assert_eq!(Some(w.len()), format.packed_bytes(y.cols(), cols), "{format} panels for {} x {cols}", y.cols());
    assert_eq!(y.rows(), rows, "one output row per token");
    assert!(e.bias.is_none_or(|b| b.len() == y.cols()), "one bias per output");
}

fn check_quant(format: Format, y: &MatMut<'_, f32>, w: &[u8], x: &QuantRows<'_>, e: &Epilogue<'_>) {
    check_common(format, y, w, x.rows(), x.cols, e);
    assert_eq!(x.block, format.block_len(), "activation blocks of {format}");
    assert!(x.cols.is_multiple_of(x.block) && x.cols > 0, "{} columns in blocks of {}", x.cols, x.block);
    assert_eq!(x.q.len(), x.rows() * x.cols, "whole rows");
    assert_eq!(x.d.len(), x.rows() * (x.cols / x.block), "one scale a block");
    assert_eq!(x.sums.len(), x.rows() * (x.cols / 16), "one sum per 16 values");
}

fn check_float(format: Format, y: &MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: &Epilogue<'_>) {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values in rows of {cols}", x.len());
    check_common(format, y, w, x.len() / cols, cols, e);
}

/// Position of a format in [`Format::ALL`], to name it in a const parameter.
const fn id(format: Format) -> usize {
    let mut i = 0;
    while Format::ALL[i] as usize != format as usize {
        i += 1;
    }
    i
}

macro_rules! quant_products {
    ($( $Op:ident, $Format:ident, $conformance:ident; )*) => { $(
        kernel! {
            #[doc = concat!("Product with `", stringify!($Format), "` weights; see the module for its exact result.")]
            pub struct $Op(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>);
            check: |y: &&mut MatMut<'_, f32>, w: &&[u8], x: &QuantRows<'_>, e: &Epilogue<'_>|
                check_quant(Format::$Format, y, w, x, e);
            cases: tests::$conformance;
            conformance: $conformance;
            variants {
                Scalar => scalar::quant::<{ id(Format::$Format) }>,
                Avx2 if target_arch = "x86_64" => avx2::quant::<{ id(Format::$Format) }>,
                Avx512Vnni if target_arch = "x86_64" => avx512_vnni::quant::<{ id(Format::$Format) }>,
                AmxInt8 if target_arch = "x86_64" => amx_int8::quant::<{ id(Format::$Format) }>,
                NeonDot if target_arch = "aarch64" => neon::quant::<{ id(Format::$Format) }>,
                NeonI8mm if target_arch = "aarch64" => neon_i8mm::quant::<{ id(Format::$Format) }>,
            }
        }
    )* };
}

macro_rules! float_products {
    ($( $Op:ident, $Format:ident, $conformance:ident; )*) => { $(
        kernel! {
            #[doc = concat!("Product with `", stringify!($Format), "` weights; see the module for its exact result.")]
            pub struct $Op(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>);
            check: |y: &&mut MatMut<'_, f32>, w: &&[u8], x: &&[f32], cols: &usize, e: &Epilogue<'_>|
                check_float(Format::$Format, y, w, x, *cols, e);
            cases: tests::$conformance;
            conformance: $conformance;
            variants {
                Scalar => scalar::float::<{ id(Format::$Format) }>,
                Avx2 if target_arch = "x86_64" => avx2::float::<{ id(Format::$Format) }>,
                Avx512Vnni if target_arch = "x86_64" => avx512_vnni::float::<{ id(Format::$Format) }>,
                NeonDot if target_arch = "aarch64" => neon::float::<{ id(Format::$Format) }>,
            }
        }
    )* };
}

quant_products! {
    LinearQ8_0, Q8_0, q8_0;
    LinearQ4_0, Q4_0, q4_0;
    LinearQ5_0, Q5_0, q5_0;
    LinearQ4K, Q4_K, q4_k;
    LinearQ5K, Q5_K, q5_k;
    LinearQ6K, Q6_K, q6_k;
    LinearTQ1, TQ1_0, tq1_0;
    LinearTQ2, TQ2_0, tq2_0;
}

float_products! {
    LinearF32, F32, f32;
    LinearF16, F16, f16;
    LinearBF16, BF16, bf16;
}

/// The activations of a product.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// f32 rows, for float weights.
    Float {
        /// `rows × cols` values.
        x: &'a [f32],
        /// Values in a row.
        cols: usize,
    },
    /// Quantised rows whose block is that of the weights.
    Quant(QuantRows<'a>),
}

/// The product with weights of one format, on the best tier of a processor.
#[derive(Clone, Copy, Debug)]
pub struct Linear(Handle);

macro_rules! handles {
    (quant { $($quant:ident: $Quant:ident),* $(,)? } float { $($float:ident: $Float:ident),* $(,)? }) => {
        #[derive(Clone, Copy, Debug)]
        #[expect(non_camel_case_types, reason = "the names of the formats")]
        enum Handle { $( $quant($Quant), )* $( $float($Float), )* }

        impl Linear {
            /// Picks the highest variant for `format` that `cpu` can run.
            #[must_use]
            pub fn select(format: Format, cpu: &Cpu) -> Self {
                Self(match format {
                    $( Format::$quant => Handle::$quant($Quant::select(cpu)), )*
                    $( Format::$float => Handle::$float($Float::select(cpu)), )*
                })
            }

            /// The tier this handle runs on.
            #[must_use]
            pub fn tier(&self) -> Tier {
                match &self.0 { $( Handle::$quant(op) => op.tier(), )* $( Handle::$float(op) => op.tier(), )* }
            }

            /// The format of the weights.
            #[must_use]
            pub fn format(&self) -> Format {
                match &self.0 { $( Handle::$quant(_) => Format::$quant, )* $( Handle::$float(_) => Format::$float, )* }
            }

            /// `y (tokens, outputs)` from panels `w` and activations `x (tokens, cols)`.
            ///
            /// # Panics
            ///
            /// When the lengths do not fit each other, or `x` is not the [`Activation`] that the format takes.
            #[inline]
            pub fn run(&self, y: &mut MatMut<'_, f32>, w: &[u8], x: Input<'_>, e: Epilogue<'_>) {
                match (&self.0, x) {
                    $( (Handle::$quant(op), Input::Quant(x)) => op.run(y, w, x, e), )*
                    $( (Handle::$float(op), Input::Float { x, cols }) => op.run(y, w, x, cols, e), )*
                    _ => panic!("{} weights take {:?} activations", self.format(), self.activation()),
                }
            }
        }
    };
}

handles! {
    quant {
        Q8_0: LinearQ8_0, Q4_0: LinearQ4_0, Q5_0: LinearQ5_0, Q4_K: LinearQ4K, Q5_K: LinearQ5K, Q6_K: LinearQ6K,
        TQ1_0: LinearTQ1, TQ2_0: LinearTQ2,
    }
    float { F32: LinearF32, F16: LinearF16, BF16: LinearBF16 }
}

impl Linear {
    /// What the activations must look like.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.format().activation()
    }
}
