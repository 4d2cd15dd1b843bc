//! The tier of AVX-512 with VNNI: a line at a time, 64 products per instruction.

use super::simd::{Avx512, Simd};
use super::{Epilogue, QuantRows, float, pairs, tile};
use crate::MatMut;
use crate::pack::{LANES, LINE, Record};
use std::arch::x86_64::_mm512_storeu_si512;

/// Quantised weights.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    let done = pairs::quant::<F>(y, w, x, e);
    tile::quant::<Avx512, F>(y, w, done, x, e);
}

/// Float weights.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn float<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: &[f32], cols: usize, e: Epilogue<'_>) {
    float::float::<Avx512, F>(y, w, x, cols, e);
}

/// The codes of 32 columns (`group` of the block) written out as 8 lines, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn expand<const F: usize>(block: &[u8], record: Record, group: usize, out: &mut [[u8; LINE]; 8]) {
    for (line, out) in tile::lines::<Avx512, F, 8>(block, record, group, 0).into_iter().zip(out) {
        // SAFETY: `out` is 64 bytes and the store is unaligned.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) };
    }
}

/// Sixteen f16 scales as f32, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn halves(bytes: &[u8]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    Avx512::store(Avx512::load_f16(bytes), &mut out);
    out
}

/// `sum over 8 sub-blocks of m * (sum of x)` for 16 rows, for the AMX variant.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn minima_of(m: &[u8], sums: &[i16; 16]) -> [i32; LANES] {
    let minima = tile::minima::<Avx512>(&tile::minima_pairs::<Avx512>(&m[..2 * LINE], 0), sums);
    let mut out = [0; LANES];
    // SAFETY: `out` is 64 bytes and the store is unaligned.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), minima) };
    out
}
