//! Products with ternary weights by looking sums up: no multiplication of a weight with an activation.
//!
//! Two codes of two bits are an index into 16 sums of two activations, `(c0 − 1) x0 + (c1 − 1) x1`, that additions have
//! made beforehand; a product adds up what it finds. The integers are those of the products of
//! [`linear`](super::linear) with `TQ1_0` and `TQ2_0` weights, and so are the bits of the result:
//! `acc = fma(integer as f32, d_w * d_x, acc)`, blocks of 256 ascending.
//!
//! A byte of a line holds four columns of one row, so that a register looks up in one table for all rows of a line: 64
//! rows make a panel, a block of 256 columns 64 lines, behind which all scales lie. `vpshufb` (AVX2) looks the two
//! bytes of a sum up one after the other; `vpermw` (AVX-512) takes 16 bits at once and reads the index where it
//! stands: of the five bits that it looks at, the fifth belongs to the next index and chooses between equal halves.
//!
//! The idea: bitnet.cpp's TL1 (Wang et al., arXiv 2410.16144) and T-MAC (Wei et al., arXiv 2407.00088), which round their
//! tables to 8 bits; these are exact.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Format;
use crate::format::Codes;
use crate::half::f16_to_f32;
use crate::math::canonical;

/// Rows of a panel.
pub const ROWS: usize = 64;

/// Columns that share a scale.
pub const BLOCK: usize = 256;

/// Columns of a line.
const COLUMNS: usize = 4;

/// Bytes of the codes of a block.
const CODES: usize = BLOCK / COLUMNS * ROWS;

/// Bytes of a table: 16 sums of 16 bits.
const TABLE: usize = 32;

/// Lines whose sums 16 bits hold: 64 look-ups of at most 4 · 127.
#[cfg(target_arch = "x86_64")]
const LINES: usize = 32;

/// Bytes of packed weights; `None` where `cols` is no multiple of [`BLOCK`] or the size overflows.
pub fn packed_bytes(rows: usize, cols: usize) -> Option<usize> {
    if !cols.is_multiple_of(BLOCK) {
        return None;
    }
    let panel = (cols / BLOCK).checked_mul(CODES + 2 * ROWS)?;
    panel.checked_mul(rows.div_ceil(ROWS))
}

/// Bytes of the tables for one row of activations.
pub const fn table_bytes(cols: usize) -> usize {
    cols / 2 * TABLE
}

/// The place of a row among the scales and sums of its panel: rows of even number first, as the halves of 16-bit words
/// come out.
const fn place(row: usize) -> usize {
    row % 2 * (ROWS / 2) + row / 2
}

/// Packs rows of a file. `row(r)` gives the file bytes of a row of `format`, `TQ1_0` or `TQ2_0`.
///
/// # Panics
///
/// When `format` is another one, or `out` is not [`packed_bytes`] long, or a row not `format.row_bytes(cols)`.
pub fn pack<'a>(format: Format, rows: usize, cols: usize, row: impl Fn(usize) -> &'a [u8], out: &mut [u8]) {
    assert_eq!(format.code_bits(), 2, "{format} weights are not ternary");
    assert_eq!(packed_bytes(rows, cols), Some(out.len()), "{rows} x {cols} weights");
    out.fill(0);
    let blocks = cols / BLOCK;
    for (p, panel) in out.chunks_exact_mut(blocks * (CODES + 2 * ROWS)).enumerate() {
        let (lines, scales) = panel.split_at_mut(blocks * CODES);
        for lane in 0..ROWS.min(rows - p * ROWS) {
            let bytes = row(p * ROWS + lane);
            assert_eq!(format.row_bytes(cols), Some(bytes.len()), "one {format} row of {cols} columns");
            for (b, block) in bytes.chunks_exact(format.block_bytes()).enumerate() {
                let codes = Codes::read(format, block);
                for (l, four) in codes.q.as_chunks::<COLUMNS>().0.iter().enumerate() {
                    let byte = four.iter().rev().fold(0, |byte, code| byte << 2 | code);
                    lines[b * CODES + l * ROWS + lane] = byte;
                }
                scales[(b * ROWS + place(lane)) * 2..][..2].copy_from_slice(&codes.d.to_le_bytes());
            }
        }
    }
}

kernel! {
    /// `y[r] = sum over k of w[r, k] * x[k]` for one row of activations: `q` in −127..=127 with a scale `d` per
    /// [`BLOCK`], as [`quantize`](super::quantize) writes them; `w` from [`pack`]. `tables` is room for
    /// [`table_bytes`], whose contents afterwards mean nothing.
    pub struct TernaryLookup(y: &mut [f32], w: &[u8], q: &[i8], d: &[f32], tables: &mut [u8]);
    check: |y: &&mut [f32], w: &&[u8], q: &&[i8], d: &&[f32], tables: &&mut [u8]| {
        assert!(!q.is_empty() && q.len() == d.len() * BLOCK, "one scale per {BLOCK} activations");
        assert_eq!(packed_bytes(y.len(), q.len()), Some(w.len()), "weights of {} x {}", y.len(), q.len());
        assert_eq!(tables.len(), table_bytes(q.len()), "room for tables");
    };
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => scalar,
        Avx2 if target_arch = "x86_64" => x86::avx2,
        Avx512Vnni if target_arch = "x86_64" => x86::avx512,
    }
}

/// The definition.
fn scalar(y: &mut [f32], w: &[u8], q: &[i8], d: &[f32], _tables: &mut [u8]) {
    let blocks = d.len();
    for (r, y) in y.iter_mut().enumerate() {
        let panel = &w[r / ROWS * blocks * (CODES + 2 * ROWS)..];
        let lane = r % ROWS;
        let mut acc = 0.0_f32;
        for (b, (dx, q)) in d.iter().zip(q.as_chunks::<BLOCK>().0).enumerate() {
            let mut sum = 0;
            for (l, four) in q.as_chunks::<COLUMNS>().0.iter().enumerate() {
                let byte = panel[b * CODES + l * ROWS + lane];
                for (i, q) in four.iter().enumerate() {
                    sum += (i32::from(byte >> (2 * i) & 3) - 1) * i32::from(*q);
                }
            }
            let at = blocks * CODES + (b * ROWS + place(lane)) * 2;
            let dw = f16_to_f32(u16::from_le_bytes([panel[at], panel[at + 1]]));
            acc = (sum as f32).mul_add(dw * dx, acc);
        }
        *y = canonical(acc);
    }
}

/// The sums of two activations, by the index that two codes make. Additions alone.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn table(x0: i8, x1: i8) -> [i16; 16] {
    let (x0, x1) = (i16::from(x0), i16::from(x1));
    let first = [-x0, 0, x0, x0 + x0];
    let second = [-x1, 0, x1, x1 + x1];
    let mut table = [0; 16];
    for (i, sum) in table.iter_mut().enumerate() {
        *sum = first[i % 4] + second[i / 4];
    }
    table
}

/// Hands the sums of panel `p` on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn finish(y: &mut [f32], p: usize, acc: &[f32; ROWS]) {
    for (lane, y) in y[p * ROWS..].iter_mut().take(ROWS).enumerate() {
        *y = canonical(acc[place(lane)]);
    }
}
