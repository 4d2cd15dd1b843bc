//! The tier of AVX2 with FMA and F16C: the two halves of a line one after the other.

use super::simd::Avx2;
use super::{Epilogue, QuantRows, float, tile};
use crate::MatMut;

/// Quantised weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    tile::quant::<Avx2, F>(y, w, 0, x, e);
}

/// Float weights.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn float<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>) {
    float::float::<Avx2, F>(y, w, x, cols, e);
}
