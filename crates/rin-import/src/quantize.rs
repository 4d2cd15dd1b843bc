//! Floats become the types of weight files, with the bits of the `gguf` Python package.
//!
//! Source: ggml's reference quantisers (`quantize_row_q8_0_ref` and its sisters), which `gguf.quants` repeats. Codes
//! are taken with the scale before it is rounded to f16.

use rin_kernels::Format;
use rin_kernels::half::f32_to_f16;

/// Types that floats can be converted to.
pub const TARGETS: [Format; 6] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q5_0];

/// Values in a block of the quantised targets.
const BLOCK: usize = 32;

/// Appends the blocks of a row to `out`; the values that are left after whole blocks are not written.
///
/// A weight beyond the range of the target becomes infinite, or gives its block an infinite scale. Formats that are no
/// [`TARGETS`] append nothing.
pub fn quantize_row(target: Format, row: &[f32], out: &mut Vec<u8>) {
    let blocks = row.as_chunks::<BLOCK>().0;
    match target {
        Format::F32 => row.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Format::F16 => row.iter().for_each(|&x| out.extend(f32_to_f16(x).to_le_bytes())),
        Format::BF16 => row.iter().for_each(|&x| out.extend(f32_to_bf16(x).to_le_bytes())),
        Format::Q8_0 => blocks.iter().for_each(|block| q8_0(block, out)),
        Format::Q4_0 => blocks.iter().for_each(|block| q4_0(block, out)),
        Format::Q5_0 => blocks.iter().for_each(|block| q5_0(block, out)),
        _ => {}
    }
}

/// f32 to bfloat16, round to nearest, ties to even; NaN stays NaN and becomes quiet.
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) };
    let [_, _, low, high] = rounded.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The reciprocal of a scale; 0 for the scale 0.
fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let d = block.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
    let id = reciprocal(d);
    out.extend(f32_to_f16(d).to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "within -127 to 127, but for a scale that rounds to 0")]
    out.extend(block.map(|x| ((x * id).round() as i8).cast_unsigned()));
}

/// The scale that gives the value of largest magnitude (the first of them) the code 0, and the codes.
fn signed_codes(block: &[f32; BLOCK], zero: u8) -> (f32, [u8; BLOCK]) {
    let largest = block.iter().copied().reduce(|max, x| if x.abs() > max.abs() { x } else { max }).unwrap_or(0.0);
    let zero_point = f32::from(zero);
    let d = largest / -zero_point;
    let id = reciprocal(d);
    let top = zero.saturating_mul(2).saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncation is the rounding; clamped")]
    let codes = block.map(|x| ((x * id + (zero_point + 0.5)) as u8).min(top));
    (d, codes)
}

/// The low four bits of the codes: values 0 to 15 in the low nibbles, 16 to 31 in the high ones.
fn nibbles(codes: &[u8; BLOCK]) -> impl Iterator<Item = u8> + '_ {
    let (low, high) = codes.split_at(BLOCK / 2);
    low.iter().zip(high).map(|(low, high)| low & 0xf | high << 4)
}

fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let (d, codes) = signed_codes(block, 8);
    out.extend(f32_to_f16(d).to_le_bytes());
    out.extend(nibbles(&codes));
}

fn q5_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let (d, codes) = signed_codes(block, 16);
    let fifth_bits = codes.iter().rev().fold(0_u32, |bits, code| bits << 1 | u32::from(code >> 4));
    out.extend(f32_to_f16(d).to_le_bytes());
    out.extend(fifth_bits.to_le_bytes());
    out.extend(nibbles(&codes));
}
