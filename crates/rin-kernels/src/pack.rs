//! Packed weights: output rows are lanes.
//!
//! A matrix of `rows × cols` becomes `ceil(rows / 16)` panels of equal size, each a multiple of 64 bytes. A panel
//! holds 16 rows; missing rows of the last panel are zero. Inside, 16 rows × 4 columns lie together in one 64-byte
//! line (byte `4 * row + column`): a VNNI operand as it stands, sixteen lines are an AMX tile, halves serve AVX2 and
//! quarters NEON. One layout for all tiers, so a mapped file is ready to run.
//!
//! | format | panel |
//! |---|---|
//! | F32, F16, BF16 | for each column 16 numbers |
//! | Q8_0 | per block 8 lines of codes; at the end per block 16 f16 scales |
//! | Q4_0 | per block 4 lines, low nibble columns 0–15, high nibble 16–31; scales as above |
//! | Q5_0 | as Q4_0, and after each block's 4 lines one line whose bit `e` is the fifth bit of line `e` of 8 |
//! | Q4_K | per block 32 lines (per 64 columns 8: low nibble the first 32), `sc` `[8][16]`, `m` `[2][16][4]`, `d` `[16]`, `dmin` `[16]` |
//! | Q5_K | as Q4_K with 8 fifth-bit lines after the nibbles, one per 32 columns |
//! | TQ1_0, TQ2_0 | per block 16 lines, one per 16 columns, bits 0–1 the first 4 of them, bits 6–7 the last; scales as Q8_0 |
//! | Q6_K | per block 32 lines (per 32 columns 4, as Q4_0), 16 lines with bits 4–5 (one per 16 columns, 2 bits a line), `sc` `[16][16]`, `d` `[16]`, 32 bytes of zeros |

use crate::format::{Codes, Format};
use crate::half::{bf16_to_f32, f16_to_f32};

/// Output rows in a panel.
pub const LANES: usize = 16;

/// Bytes of a line: 16 rows × 4 columns.
pub const LINE: usize = 64;

/// The group of columns of a format with codes of two bits.
pub(crate) const QUARTERS: usize = 16;

/// Where the parts of a block lie in its record within a panel. Offsets and sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Size of the record, a multiple of 64.
    pub(crate) bytes: usize,
    /// Columns whose codes share lines: the low nibbles hold the first half. 0: whole bytes. [`QUARTERS`]: a line for the
    /// group, of which each two bits hold the next quarter.
    pub(crate) nibble_group: usize,
    /// Start of the lines with the bits above the nibble.
    pub(crate) high: usize,
    /// Columns that share one high-bit line.
    pub(crate) high_group: usize,
    /// Start of the integer scales `[sub-block][16]`.
    pub(crate) sc: usize,
    /// Start of the minima `[2][16][4]`.
    pub(crate) m: usize,
    /// Start of the f16 scales `[16]`; unused where they lie at the end of the panel.
    pub(crate) d: usize,
    /// Start of the f16 scales of the minima `[16]`.
    pub(crate) dmin: usize,
}

impl Format {
    /// The layout of a block's record.
    pub(crate) const fn record(self) -> Record {
        let none = Record { bytes: 0, nibble_group: 0, high: 0, high_group: 32, sc: 0, m: 0, d: 0, dmin: 0 };
        match self {
            Self::F32 | Self::F16 | Self::BF16 => none,
            Self::Q8_0 => Record { bytes: 512, ..none },
            Self::Q4_0 => Record { bytes: 256, nibble_group: 32, ..none },
            Self::Q5_0 => Record { bytes: 320, nibble_group: 32, high: 256, ..none },
            Self::TQ1_0 | Self::TQ2_0 => Record { bytes: 1024, nibble_group: QUARTERS, ..none },
            Self::Q4_K => Record { bytes: 2368, nibble_group: 64, sc: 2048, m: 2176, d: 2304, dmin: 2336, ..none },
            Self::Q5_K => {
                Record { bytes: 2880, nibble_group: 64, high: 2048, sc: 2560, m: 2688, d: 2816, dmin: 2848, ..none }
            }
            Self::Q6_K => {
                Record { bytes: 3392, nibble_group: 32, high: 2048, high_group: 16, sc: 3072, d: 3328, ..none }
            }
        }
    }

    /// Whether the f16 scales lie together at the end of the panel.
    pub(crate) const fn scales_at_end(self) -> bool {
        self.sub_block_len() == self.block_len()
    }

    /// Bytes of a panel of 16 rows of `cols` weights; `None` when `cols` is no multiple of the block or is too large.
    pub fn panel_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        let blocks = cols / self.block_len();
        let bytes = match self {
            Self::F32 | Self::F16 | Self::BF16 => blocks.checked_mul(LANES * self.block_bytes())?,
            _ => {
                let end = if self.scales_at_end() { blocks.checked_mul(2 * LANES)? } else { 0 };
                blocks.checked_mul(self.record().bytes)?.checked_add(end)?
            }
        };
        bytes.checked_next_multiple_of(LINE)
    }

    /// Bytes of a packed matrix.
    pub fn packed_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        self.panel_bytes(cols)?.checked_mul(rows.div_ceil(LANES))
    }
}

/// Byte of column `col` (within its block) of row `lane`, and how far its low bits are shifted up.
#[expect(clippy::cast_possible_truncation, reason = "a shift within a byte")]
const fn code_place(group: usize, lane: usize, col: usize) -> (usize, u32) {
    if group == 0 {
        return (col / 4 * LINE + lane * 4 + col % 4, 0);
    }
    if group == QUARTERS {
        return (col / QUARTERS * LINE + lane * 4 + col % 4, (col % QUARTERS / 4 * 2) as u32);
    }
    let lines = group / 8;
    let (start, quad) = (col / group * lines, col % group / 4);
    ((start + quad % lines) * LINE + lane * 4 + col % 4, if quad < lines { 0 } else { 4 })
}

/// Byte of the high bits of a column relative to the high lines, and their shift.
#[expect(clippy::cast_possible_truncation, reason = "a shift within a byte")]
const fn high_place(high_group: usize, lane: usize, col: usize) -> (usize, u32) {
    let bits = 32 / high_group;
    (col / high_group * LINE + lane * 4 + col % 4, (col % high_group / 4 * bits) as u32)
}

/// Where block `b` of row `lane` keeps its f16 scale.
#[inline(always)]
pub(crate) const fn scale_place(format: Format, blocks: usize, b: usize, lane: usize) -> usize {
    let r = format.record();
    if format.scales_at_end() { blocks * r.bytes + (b * LANES + lane) * 2 } else { b * r.bytes + r.d + lane * 2 }
}

/// Writes block `b` of 16 rows into a zeroed panel, line by line.
fn write_block(format: Format, panel: &mut [u8], blocks: usize, b: usize, rows: &[Codes; LANES]) {
    let r = format.record();
    for (lane, c) in rows.iter().enumerate() {
        let at = scale_place(format, blocks, b, lane);
        panel[at..at + 2].copy_from_slice(&c.d.to_le_bytes());
    }
    let record = &mut panel[b * r.bytes..][..r.bytes];
    let quads = format.block_len() / 4;
    for quad in 0..quads {
        // All lanes share the line and the shift of a group of four columns.
        let (at, shift) = code_place(r.nibble_group, 0, quad * 4);
        let high = format.code_bits() > 4 && r.nibble_group != 0;
        let low_bits = if r.nibble_group == 0 { u32::MAX } else { LOW_BITS };
        merge(&mut record[at..][..LINE], rows, quad, |codes| (codes & low_bits) << shift);
        if high {
            let (at, shift) = high_place(r.high_group, 0, quad * 4);
            merge(&mut record[r.high + at..][..LINE], rows, quad, |codes| (codes >> 4 & LOW_BITS) << shift);
        }
    }
    for (lane, c) in rows.iter().enumerate() {
        if format.sub_block_len() < format.block_len() {
            for j in 0..format.block_len() / format.sub_block_len() {
                record[r.sc + j * LANES + lane] = c.sc[j].cast_unsigned();
            }
        }
        if format.has_minima() {
            record[r.dmin + lane * 2..][..2].copy_from_slice(&c.dmin.to_le_bytes());
            for (j, m) in c.m.iter().enumerate() {
                record[r.m + j / 4 * LINE + lane * 4 + j % 4] = *m;
            }
        }
    }
}

/// The low four bits of each of four codes.
const LOW_BITS: u32 = 0x0f0f_0f0f;

/// Sets bits of a line: columns `4 quad..4 quad + 4` of 16 rows, four codes at a time.
#[inline(always)]
fn merge(line: &mut [u8], rows: &[Codes; LANES], quad: usize, bits: impl Fn(u32) -> u32) {
    for (to, c) in line.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
        let codes = u32::from_le_bytes(c.q.as_chunks::<4>().0[quad]);
        *to = (u32::from_le_bytes(*to) | bits(codes)).to_le_bytes();
    }
}

/// Gathers block `b` of row `lane` from a panel.
pub(crate) fn read_codes(format: Format, panel: &[u8], blocks: usize, b: usize, lane: usize) -> Codes {
    let r = format.record();
    let half = |at: usize| u16::from_le_bytes([panel[at], panel[at + 1]]);
    let record = &panel[b * r.bytes..][..r.bytes];
    let mut c = Codes { d: half(scale_place(format, blocks, b, lane)), ..Codes::ZERO };
    for col in 0..format.block_len() {
        let (at, shift) = code_place(r.nibble_group, lane, col);
        c.q[col] = match r.nibble_group {
            0 => record[at],
            QUARTERS => record[at] >> shift & 3,
            _ => record[at] >> shift & 0xf,
        };
        if format.code_bits() > 4 && r.nibble_group != 0 {
            let (at, shift) = high_place(r.high_group, lane, col);
            let mask = (1_u8 << (format.code_bits() - 4)) - 1;
            c.q[col] |= (record[r.high + at] >> shift & mask) << 4;
        }
    }
    if format.sub_block_len() < format.block_len() {
        for j in 0..format.block_len() / format.sub_block_len() {
            c.sc[j] = record[r.sc + j * LANES + lane].cast_signed();
        }
    }
    if format.has_minima() {
        c.dmin = half(b * r.bytes + r.dmin + lane * 2);
        for (j, m) in c.m.iter_mut().enumerate() {
            *m = record[r.m + j / 4 * LINE + lane * 4 + j % 4];
        }
    }
    c
}

/// A weight that is no number, found while packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// Row within the panel.
    pub lane: usize,
    /// First column of the block, or the column of a float.
    pub col: usize,
}

/// Packs up to 16 file rows into one panel.
///
/// `row(lane)` gives the file bytes of a row, `None` for a row that the matrix does not have.
///
/// # Errors
///
/// [`NonFinite`] when a weight or scale is infinite or not a number: the place of the first one.
///
/// # Panics
///
/// When a row is not `format.row_bytes(cols)` long or `panel` not `format.panel_bytes(cols)`.
pub fn pack_panel<'a>(
    format: Format,
    cols: usize,
    row: impl Fn(usize) -> Option<&'a [u8]>,
    panel: &mut [u8],
) -> Result<(), NonFinite> {
    assert_eq!(format.panel_bytes(cols), Some(panel.len()), "one {format} panel of {cols} columns");
    panel.fill(0);
    let (size, blocks) = (format.block_bytes(), cols / format.block_len());
    let rows: [Option<&[u8]>; LANES] = std::array::from_fn(row);
    for bytes in rows.iter().flatten() {
        assert_eq!(format.row_bytes(cols), Some(bytes.len()), "one {format} row of {cols} columns");
    }
    match format {
        Format::F32 => return pack_floats::<4>(format, &rows, panel),
        Format::F16 | Format::BF16 => return pack_floats::<2>(format, &rows, panel),
        _ => {}
    }
    let mut codes = [const { Codes::ZERO }; LANES];
    for b in 0..blocks {
        for (lane, bytes) in rows.iter().enumerate() {
            let Some(block) = bytes.map(|bytes| &bytes[b * size..][..size]) else { continue };
            codes[lane].refill(format, block);
            if !codes[lane].is_finite() {
                return Err(NonFinite { lane, col: b * format.block_len() });
            }
        }
        write_block(format, panel, blocks, b, &codes);
    }
    Ok(())
}

/// Float rows of `N` bytes a number, column by column.
fn pack_floats<const N: usize>(
    format: Format,
    rows: &[Option<&[u8]>; LANES],
    panel: &mut [u8],
) -> Result<(), NonFinite> {
    // The exponent bits, all of them set, say infinity or not a number in every one of the three formats.
    let exponent: u32 = match format {
        Format::F32 => 0x7f80_0000,
        Format::F16 => 0x7c00,
        _ => 0x7f80,
    };
    let (columns, _) = panel.as_chunks_mut::<N>();
    for (lane, bytes) in rows.iter().enumerate() {
        let (numbers, _) = bytes.unwrap_or_default().as_chunks::<N>();
        for (col, (number, column)) in numbers.iter().zip(columns.chunks_exact_mut(LANES)).enumerate() {
            let bits = number.iter().rev().fold(0_u32, |bits, &b| bits << 8 | u32::from(b));
            if bits & exponent == exponent {
                return Err(NonFinite { lane, col });
            }
            column[lane] = *number;
        }
    }
    Ok(())
}

/// Reads one row of a panel back as numbers: the embedding look-up.
///
/// # Panics
///
/// When `panel` is not `format.panel_bytes(out.len())` long or `lane` is 16 or more.
pub fn unpack_row(format: Format, panel: &[u8], lane: usize, out: &mut [f32]) {
    assert_eq!(format.panel_bytes(out.len()), Some(panel.len()), "one {format} panel of {} columns", out.len());
    assert!(lane < LANES, "lane {lane}");
    let (size, blocks) = (format.block_bytes(), out.len() / format.block_len());
    for (b, out) in out.chunks_exact_mut(format.block_len()).enumerate() {
        if format.block_len() == 1 {
            out[0] = float(format, &panel[(b * LANES + lane) * size..][..size]);
        } else {
            read_codes(format, panel, blocks, b, lane).dequantize(format, out);
        }
    }
}

/// Reads one row of a panel back as its file has it, to the bit: the inverse of [`pack_panel`].
///
/// # Panics
///
/// When `panel` is not `format.panel_bytes(cols)` long, `out` not `format.row_bytes(cols)`, or `lane` is 16 or more.
pub fn unpack_row_bytes(format: Format, cols: usize, panel: &[u8], lane: usize, out: &mut [u8]) {
    assert_eq!(format.panel_bytes(cols), Some(panel.len()), "one {format} panel of {cols} columns");
    assert_eq!(format.row_bytes(cols), Some(out.len()), "one {format} row of {cols} columns");
    assert!(lane < LANES, "lane {lane}");
    let (size, blocks) = (format.block_bytes(), cols / format.block_len());
    for (b, out) in out.chunks_exact_mut(size).enumerate() {
        if format.block_len() == 1 {
            out.copy_from_slice(&panel[(b * LANES + lane) * size..][..size]);
        } else {
            read_codes(format, panel, blocks, b, lane).write(format, out);
        }
    }
}

/// One number of a float format.
fn float(format: Format, b: &[u8]) -> f32 {
    match (format, b) {
        (Format::F16, &[a, b]) => f16_to_f32(u16::from_le_bytes([a, b])),
        (Format::BF16, &[a, b]) => bf16_to_f32(u16::from_le_bytes([a, b])),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        _ => f32::NAN,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{LANES, LINE, NonFinite, pack_panel, unpack_row, unpack_row_bytes};
    use crate::Format;
    use crate::format::{Codes, dequantize};

    /// A repeatable stream of numbers for test data (xorshift32).
    #[derive(Debug)]
    pub(crate) struct Noise(pub(crate) u32);

    impl Noise {
        pub(crate) fn next(&mut self) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            self.0
        }

        /// Uniform in -1..1.
        pub(crate) fn unit(&mut self) -> f32 {
            self.next().cast_signed() as f32 / 2.0_f32.powi(31)
        }
    }

    /// A file row with random codes and sane finite scales.
    pub(crate) fn random_row(format: Format, cols: usize, noise: &mut Noise) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..format.row_bytes(cols).unwrap()).map(|_| noise.next().to_le_bytes()[0]).collect();
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            let mut scale = |at: usize, block: &mut [u8]| {
                let h = crate::half::f32_to_f16(noise.unit() * 0.1);
                block[at..at + 2].copy_from_slice(&h.to_le_bytes());
            };
            match format {
                Format::F32 => block.copy_from_slice(&noise.unit().to_le_bytes()),
                Format::BF16 => {
                    let bits = noise.unit().to_bits() >> 16;
                    block.copy_from_slice(&(bits as u16).to_le_bytes());
                }
                Format::F16 | Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => scale(0, block),
                Format::Q4_K | Format::Q5_K => {
                    scale(0, block);
                    scale(2, block);
                }
                Format::Q6_K => scale(208, block),
                Format::TQ2_0 => scale(64, block),
                Format::TQ1_0 => {
                    scale(52, block);
                    // Not every byte is one that ggml writes.
                    Codes::read(format, block).write(format, block);
                }
            }
        }
        bytes
    }

    #[test]
    fn rows_come_back_from_a_panel_as_the_file_has_them() {
        let mut noise = Noise(7);
        for format in Format::ALL {
            for blocks in [1, 2, 3] {
                let cols = format.block_len() * blocks * if format.block_len() == 1 { 5 } else { 1 };
                for rows in [1, 15, 16] {
                    let file: Vec<Vec<u8>> = (0..rows).map(|_| random_row(format, cols, &mut noise)).collect();
                    let mut panel = vec![0xaa; format.panel_bytes(cols).unwrap()];
                    assert_eq!(panel.len() % LINE, 0);
                    pack_panel(format, cols, |r| file.get(r).map(Vec::as_slice), &mut panel).unwrap();
                    for lane in 0..LANES {
                        let mut want = vec![0.0; cols];
                        if let Some(row) = file.get(lane) {
                            dequantize(format, row, &mut want);
                        }
                        let mut got = vec![1.0; cols];
                        unpack_row(format, &panel, lane, &mut got);
                        if file.get(lane).is_some() {
                            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                            assert_eq!(bits(&got), bits(&want), "{format} row {lane} of {rows} x {cols}");
                            let mut bytes = vec![0xaa; file[lane].len()];
                            unpack_row_bytes(format, cols, &panel, lane, &mut bytes);
                            assert_eq!(bytes, file[lane], "{format} row {lane} of {rows} x {cols}");
                        } else {
                            assert!(got.iter().all(|&x| x == 0.0), "a missing row is zero");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_scale_that_is_no_number_is_found() {
        for (format, at) in [(Format::Q8_0, 34), (Format::Q6_K, 210 + 208), (Format::Q4_K, 144 + 2), (Format::F16, 2)] {
            let cols = format.block_len() * 2;
            let mut row = random_row(format, cols, &mut Noise(3));
            row[at..at + 2].copy_from_slice(&0x7c00_u16.to_le_bytes());
            let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
            let found = pack_panel(format, cols, |r| (r == 0).then_some(&row[..]), &mut panel);
            assert_eq!(found, Err(NonFinite { lane: 0, col: format.block_len() }), "{format}");
        }
    }

    #[test]
    fn a_row_that_is_no_multiple_of_the_block_has_no_size() {
        assert_eq!(Format::Q8_0.panel_bytes(33), None);
        assert_eq!(Format::Q4_K.row_bytes(128), None);
        assert_eq!(Format::F32.packed_bytes(17, 3), Some(2 * 192));
        assert_eq!(Format::F32.packed_bytes(usize::MAX, usize::MAX), None);
    }
}
