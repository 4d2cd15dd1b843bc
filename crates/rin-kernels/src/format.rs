//! Weight formats: what a block of the file means, as codes and scales, and as numbers.
//!
//! A quantised weight is `d * sc * (code - OFFSET) - dmin * m` with an unsigned code, an f16 scale `d` per block,
//! and in the K formats small integers `sc` (and `m`) per sub-block. One [`Codes`] describes a block of any format:
//! the file reader fills it, the packer spreads it over a panel, the panel reader gathers it back, and the
//! dequantiser turns it into numbers, so the meaning of a format is written down once.
//!
//! Layouts of the file blocks: ggml's `block_q8_0` … `block_q6_K`, `block_tq1_0` and `block_tq2_0`, as described by the
//! GGUF specification and the `gguf` Python package.

use crate::half::f16_to_f32;
use std::fmt;

/// A weight format that the kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names that the field uses")]
#[non_exhaustive]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit codes, 32 a block.
    Q8_0,
    /// 4-bit codes, 32 a block.
    Q4_0,
    /// 5-bit codes, 32 a block.
    Q5_0,
    /// 4-bit codes, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q4_K,
    /// 5-bit codes, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q5_K,
    /// 6-bit codes, 16 sub-blocks of 16 with 8-bit scales.
    Q6_K,
    /// −1, 0 or 1, 256 a block, five to a byte.
    TQ1_0,
    /// −1, 0 or 1, 256 a block, four to a byte.
    TQ2_0,
}

/// How the activations must come for a product with a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// f32 rows.
    F32,
    /// Signed bytes with one f32 scale per 32.
    Block32,
    /// Signed bytes with one f32 scale per 256.
    Block256,
}

impl Activation {
    /// Columns that share a scale; 1 for floats.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Block32 => 32,
            Self::Block256 => 256,
        }
    }
}

/// The longest block of any format.
pub const MAX_BLOCK: usize = 256;

impl Format {
    /// All formats.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q5_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::TQ1_0,
        Self::TQ2_0,
    ];

    /// The field's name of the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q5_0 => "Q5_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
        }
    }

    /// Weights in a block; a row holds whole blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::TQ1_0 | Self::TQ2_0 => 256,
        }
    }

    /// Bytes of a block in a file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q5_0 => 22,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::TQ1_0 => 54,
            Self::TQ2_0 => 66,
        }
    }

    /// Bytes of a file row of `cols` weights; `None` when `cols` is no multiple of the block.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// What the activations of a product must look like.
    pub const fn activation(self) -> Activation {
        match self.block_len() {
            1 => Activation::F32,
            32 => Activation::Block32,
            _ => Activation::Block256,
        }
    }

    /// Bits of a code, as panels have it; 0 for floats.
    pub const fn code_bits(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 0,
            Self::Q8_0 => 8,
            Self::Q4_0 | Self::Q4_K => 4,
            Self::Q5_0 | Self::Q5_K => 5,
            Self::Q6_K => 6,
            Self::TQ1_0 | Self::TQ2_0 => 2,
        }
    }

    /// The code that means zero (formats with minima: 0).
    pub const fn code_offset(self) -> i32 {
        match self {
            Self::Q8_0 => 128,
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6_K => 32,
            Self::TQ1_0 | Self::TQ2_0 => 1,
            _ => 0,
        }
    }

    /// Columns that share an integer scale `sc`; the block where there is none.
    pub const fn sub_block_len(self) -> usize {
        match self {
            Self::Q4_K | Self::Q5_K => 32,
            Self::Q6_K => 16,
            _ => self.block_len(),
        }
    }

    /// Whether sub-blocks have minima.
    pub const fn has_minima(self) -> bool {
        matches!(self, Self::Q4_K | Self::Q5_K)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a TQ1_0 block keeps its weights: the bytes of a run, the first of its weights, and how many a byte has. A byte
/// holds weights that lie as far apart as the run is long.
const FIFTHS: [(std::ops::Range<usize>, usize, usize); 3] = [(0..32, 0, 5), (32..48, 160, 5), (48..52, 240, 4)];

/// One block of a quantised row, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Unsigned codes; the first `block_len` count.
    pub q: [u8; MAX_BLOCK],
    /// Bits of the f16 scale of the block.
    pub d: u16,
    /// Bits of the f16 scale of the minima.
    pub dmin: u16,
    /// Integer scale of each sub-block: 6 unsigned bits (Q4_K, Q5_K), or a signed byte (Q6_K).
    pub sc: [i8; 16],
    /// Integer minimum of each sub-block.
    pub m: [u8; 8],
}

impl Codes {
    /// A block of zeros.
    pub const ZERO: Self = Self { q: [0; MAX_BLOCK], d: 0, dmin: 0, sc: [0; 16], m: [0; 8] };

    /// Takes a file block apart.
    ///
    /// # Panics
    ///
    /// When `block` is not `format.block_bytes()` long, or the format is a float.
    pub fn read(format: Format, block: &[u8]) -> Self {
        let mut c = Self::ZERO;
        c.refill(format, block);
        c
    }

    /// [`Codes::read`] over the codes of another block of the same format: no more bytes are touched than it has codes.
    ///
    /// # Panics
    ///
    /// As for [`Codes::read`].
    pub(crate) fn refill(&mut self, format: Format, block: &[u8]) {
        assert_eq!(block.len(), format.block_bytes(), "one {format} block");
        let c = self;
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        match format {
            Format::Q8_0 => {
                c.d = half(0);
                for (q, b) in c.q.iter_mut().zip(&block[2..]) {
                    *q = b ^ 0x80;
                }
            }
            Format::Q4_0 => {
                c.d = half(0);
                c.read_nibbles(&block[2..], 16);
            }
            Format::Q5_0 => {
                c.d = half(0);
                c.read_nibbles(&block[6..], 16);
                for (i, q) in c.q[..32].iter_mut().enumerate() {
                    *q |= (block[2 + i / 8] >> (i % 8) & 1) << 4;
                }
            }
            Format::Q4_K => {
                (c.d, c.dmin) = (half(0), half(2));
                c.read_six_bit_scales(&block[4..16]);
                c.read_nibbles(&block[16..], 32);
            }
            Format::Q5_K => {
                (c.d, c.dmin) = (half(0), half(2));
                c.read_six_bit_scales(&block[4..16]);
                c.read_nibbles(&block[48..], 32);
                for (i, q) in c.q.iter_mut().enumerate() {
                    *q |= (block[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            Format::Q6_K => {
                c.d = half(208);
                for (sc, b) in c.sc.iter_mut().zip(&block[192..208]) {
                    *sc = b.cast_signed();
                }
                for (i, q) in c.q.iter_mut().enumerate() {
                    let (n, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                    let low = block[n * 64 + (quarter % 2) * 32 + l] >> (quarter / 2 * 4) & 0xf;
                    let high = block[128 + n * 32 + l] >> (quarter * 2) & 3;
                    *q = low | high << 4;
                }
            }
            Format::TQ1_0 => {
                c.d = half(52);
                for (bytes, first, each) in FIFTHS {
                    for (i, byte) in block[bytes.clone()].iter().enumerate() {
                        let mut power = *byte;
                        for n in 0..each {
                            // The byte is a fraction of 256; its digits to the base of 3 come out at the top.
                            c.q[first + n * bytes.len() + i] = ((u16::from(power) * 3) >> 8).to_le_bytes()[0];
                            power = power.wrapping_mul(3);
                        }
                    }
                }
            }
            Format::TQ2_0 => {
                c.d = half(64);
                for (run, q) in block[..64].as_chunks::<32>().0.iter().zip(c.q.as_chunks_mut::<128>().0) {
                    for (i, q) in q.iter_mut().enumerate() {
                        *q = run[i % 32] >> (i / 32 * 2) & 3;
                    }
                }
            }
            Format::F32 | Format::F16 | Format::BF16 => panic!("{format} has no codes"),
        }
    }

    /// Low nibbles of each run of `half` bytes first, then its high nibbles.
    fn read_nibbles(&mut self, bytes: &[u8], half: usize) {
        for (run, q) in bytes.chunks_exact(half).zip(self.q.chunks_exact_mut(2 * half)) {
            for (i, b) in run.iter().enumerate() {
                q[i] = b & 0xf;
                q[half + i] = b >> 4;
            }
        }
    }

    /// Eight 6-bit scales and eight 6-bit minima in 12 bytes (`get_scale_min_k4` of ggml).
    fn read_six_bit_scales(&mut self, s: &[u8]) {
        for j in 0..4 {
            self.sc[j] = (s[j] & 63).cast_signed();
            self.m[j] = s[j + 4] & 63;
            self.sc[j + 4] = (s[j + 8] & 0xf | s[j] >> 6 << 4).cast_signed();
            self.m[j + 4] = s[j + 8] >> 4 | s[j + 4] >> 6 << 4;
        }
    }

    /// Puts a file block together: the inverse of [`Codes::read`], to the bit. Of the bytes that mean the same five
    /// weights in TQ1_0 it writes the one that ggml writes.
    ///
    /// # Panics
    ///
    /// When `block` is not `format.block_bytes()` long, or the format is a float.
    pub fn write(&self, format: Format, block: &mut [u8]) {
        assert_eq!(block.len(), format.block_bytes(), "one {format} block");
        let mut put_half = |at: usize, bits: u16| block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        match format {
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => put_half(0, self.d),
            Format::Q4_K | Format::Q5_K => {
                put_half(0, self.d);
                put_half(2, self.dmin);
                self.write_six_bit_scales(&mut block[4..16]);
            }
            Format::Q6_K => put_half(208, self.d),
            Format::TQ1_0 => put_half(52, self.d),
            Format::TQ2_0 => put_half(64, self.d),
            Format::F32 | Format::F16 | Format::BF16 => panic!("{format} has no codes"),
        }
        match format {
            Format::Q8_0 => {
                for (b, q) in block[2..].iter_mut().zip(&self.q) {
                    *b = q ^ 0x80;
                }
            }
            Format::Q4_0 => self.write_nibbles(&mut block[2..], 16),
            Format::Q5_0 => {
                self.write_nibbles(&mut block[6..], 16);
                for (i, b) in block[2..6].iter_mut().enumerate() {
                    *b = (0..8).fold(0, |bits, bit| bits | (self.q[i * 8 + bit] >> 4 & 1) << bit);
                }
            }
            Format::Q4_K => self.write_nibbles(&mut block[16..], 32),
            Format::Q5_K => {
                self.write_nibbles(&mut block[48..], 32);
                for (i, b) in block[16..48].iter_mut().enumerate() {
                    *b = (0..8).fold(0, |bits, bit| bits | (self.q[bit * 32 + i] >> 4 & 1) << bit);
                }
            }
            Format::TQ1_0 => self.write_fifths(block),
            Format::TQ2_0 => {
                for (run, q) in block[..64].as_chunks_mut::<32>().0.iter_mut().zip(self.q.as_chunks::<128>().0) {
                    for (i, byte) in run.iter_mut().enumerate() {
                        *byte = (0..4).fold(0, |bits, n| bits | (q[n * 32 + i] & 3) << (2 * n));
                    }
                }
            }
            _ => self.write_six_bit_codes(block),
        }
    }

    /// The codes of a TQ1_0 block: digits to the base of 3 as a fraction of 256, rounded up.
    fn write_fifths(&self, block: &mut [u8]) {
        for (bytes, first, each) in FIFTHS {
            let run = bytes.len();
            for (i, byte) in block[bytes].iter_mut().enumerate() {
                // Where a byte has four weights, a fifth of 0 stands behind them.
                let digit = |n: usize| if n < each { u16::from(self.q[first + n * run + i].min(2)) } else { 0 };
                let number = (0..5).fold(0, |number, n| number * 3 + digit(n));
                *byte = (number * 256).div_ceil(243).to_le_bytes()[0];
            }
        }
    }

    /// The codes and scales of a Q6_K block.
    fn write_six_bit_codes(&self, block: &mut [u8]) {
        for (b, sc) in block[192..208].iter_mut().zip(&self.sc) {
            *b = sc.cast_unsigned();
        }
        for (n, half) in self.q.chunks_exact(128).enumerate() {
            for l in 0..32 {
                let quarter = |k: usize| half[k * 32 + l];
                for k in 0..2 {
                    block[n * 64 + k * 32 + l] = quarter(k) & 0xf | quarter(k + 2) << 4;
                }
                block[128 + n * 32 + l] = (0..4).fold(0, |bits, k| bits | (quarter(k) >> 4 & 3) << (2 * k));
            }
        }
    }

    /// The inverse of [`Codes::read_nibbles`].
    fn write_nibbles(&self, bytes: &mut [u8], half: usize) {
        for (run, q) in bytes.chunks_exact_mut(half).zip(self.q.chunks_exact(2 * half)) {
            for (i, b) in run.iter_mut().enumerate() {
                *b = q[i] & 0xf | q[half + i] << 4;
            }
        }
    }

    /// The inverse of [`Codes::read_six_bit_scales`].
    fn write_six_bit_scales(&self, s: &mut [u8]) {
        let sc = |j: usize| self.sc[j].cast_unsigned();
        for j in 0..4 {
            s[j] = sc(j) & 63 | sc(j + 4) >> 4 << 6;
            s[j + 4] = self.m[j] & 63 | self.m[j + 4] >> 4 << 6;
            s[j + 8] = sc(j + 4) & 0xf | self.m[j + 4] << 4;
        }
    }

    /// The numbers of the block, in the order of operations of the `gguf` Python package, so the bits agree with it.
    ///
    /// # Panics
    ///
    /// When `out` is not `format.block_len()` long.
    pub fn dequantize(&self, format: Format, out: &mut [f32]) {
        assert_eq!(out.len(), format.block_len(), "one {format} block");
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        let sub = format.sub_block_len();
        for (j, out) in out.chunks_exact_mut(sub).enumerate() {
            let scale = if sub == format.block_len() { d } else { d * f32::from(self.sc[j]) };
            let min = if format.has_minima() { dmin * f32::from(self.m[j]) } else { 0.0 };
            for (y, q) in out.iter_mut().zip(&self.q[j * sub..]) {
                let code = f32::from(*q) - format.code_offset() as f32;
                *y = if format.has_minima() { scale * code - min } else { scale * code };
            }
        }
    }

    /// Whether the block's scales are numbers.
    pub fn is_finite(&self) -> bool {
        // Infinities and what is no number have all bits of the exponent.
        const EXPONENT: u16 = 0x7c00;
        self.d & EXPONENT != EXPONENT && self.dmin & EXPONENT != EXPONENT
    }
}

/// Dequantises file rows of any format.
///
/// # Panics
///
/// When `bytes` does not hold exactly `out.len()` weights of `format`.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "{} weights of {format}", out.len());
    let blocks = bytes.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(format.block_len())) {
        match *block {
            [a, b, c, d] => out[0] = f32::from_le_bytes([a, b, c, d]),
            [a, b] if format == Format::F16 => out[0] = f16_to_f32(u16::from_le_bytes([a, b])),
            [a, b] => out[0] = crate::half::bf16_to_f32(u16::from_le_bytes([a, b])),
            _ => Codes::read(format, block).dequantize(format, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Codes, Format};
    use crate::pack::tests::Noise;

    /// Any bytes at all are a block: what is read from them is written back as they were.
    #[test]
    fn written_blocks_are_those_that_were_read() {
        let mut noise = Noise(11);
        for format in Format::ALL.into_iter().filter(|format| format.block_len() > 1) {
            for round in 0..200 {
                let byte = |noise: &mut Noise| match round {
                    0 => 0,
                    1 => 0xff,
                    _ => noise.next().to_le_bytes()[0],
                };
                let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| byte(&mut noise)).collect();
                if format == Format::TQ1_0 {
                    // Not every byte is one that ggml writes.
                    Codes::read(format, &block.clone()).write(format, &mut block);
                }
                let mut written = vec![0x5a; block.len()];
                Codes::read(format, &block).write(format, &mut written);
                assert_eq!(written, block, "{format}");
            }
        }
    }
}
