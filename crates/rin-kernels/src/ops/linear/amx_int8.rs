//! 16 tokens × 16 outputs per tile product; fewer tokens take the AVX-512 path, whose bits are the same.
//!
//! The activations are the signed left operand straight from their rows, the expanded codes the unsigned right one:
//! eight lines of 64 bytes are a tile of 8 rows, 32 columns deep. Inline assembly, as the intrinsics are not stable.
//! [`Tiles`] names the one step that needs the instructions, so its surroundings are tested on every machine with
//! tiles in plain Rust.

use super::{Epilogue, QuantRows, avx512_vnni};
use crate::pack::{LANES, LINE, Record, scale_place};
use crate::{Format, MatMut};

/// Tokens in a tile.
const TOKENS: usize = 16;

/// The product of a tile: tokens × outputs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Products(pub(super) [[i32; LANES]; TOKENS]);

/// Expanded codes: up to 8 lines.
#[repr(C, align(64))]
struct Lines([[u8; LINE]; 8]);

/// The tile product.
pub(super) trait Tiles {
    /// Prepares the processor for tiles of `lines` lines.
    fn configure(lines: usize);
    /// `c[t][r] = sum over 4 * lines columns of x[t * stride + column] * w[line][4 r + column % 4]`.
    fn product(c: &mut Products, x: &[i8], stride: usize, w: &[[u8; LINE]]);
    /// Gives the tiles back.
    fn release();
}

/// The tiles of the processor.
pub(super) struct Hardware;

#[repr(C, align(64))]
struct TileConfig([u8; 64]);

/// tmm0: products, tmm1: activations, tmm2: codes.
const fn config(lines: u8) -> TileConfig {
    let mut c = [0_u8; 64];
    c[0] = 1; // palette
    c[16] = 64; // tmm0: 16 products of 4 bytes per token
    c[18] = 4 * lines; // tmm1: the columns of a token
    c[20] = 64; // tmm2: a line
    c[48] = 16;
    c[49] = 16;
    c[50] = lines;
    TileConfig(c)
}

static EIGHT_LINES: TileConfig = config(8);
static FOUR_LINES: TileConfig = config(4);

impl Tiles for Hardware {
    #[inline]
    fn configure(lines: usize) {
        let config = if lines == 8 { &EIGHT_LINES } else { &FOUR_LINES };
        // SAFETY: this type is used only by the AMX variant, which runs where AMX is permitted; 64 bytes are read.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config.0, options(nostack, readonly)) };
    }

    #[inline]
    fn product(c: &mut Products, x: &[i8], stride: usize, w: &[[u8; LINE]]) {
        assert!(x.len() >= (TOKENS - 1) * stride + 4 * w.len(), "16 rows of activations");
        // SAFETY: the tiles are configured for `w.len()` lines; 16 rows of `4 * w.len()` bytes lie within `x` (just
        // checked), the lines within `w`, and `c` takes 16 rows of 64 bytes.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0", "tileloadd tmm1, [{x} + {xs}*1]", "tileloadd tmm2, [{w} + {ws}*1]",
                "tdpbsud tmm0, tmm1, tmm2", "tilestored [{c} + {ws}*1], tmm0",
                x = in(reg) x.as_ptr(), xs = in(reg) stride, w = in(reg) w.as_ptr(), ws = in(reg) LINE,
                c = in(reg) c.0.as_mut_ptr(), options(nostack));
        }
    }

    #[inline]
    fn release() {
        // SAFETY: releases the tiles configured above.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Quantised weights.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) {
    with_tiles::<F, Hardware>(y, w, x, e);
}

/// The variant over any tiles.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn with_tiles<const F: usize, H: Tiles>(
    y: &mut MatMut<'_, f32>,
    w: &[u8],
    x: QuantRows<'_>,
    e: Epilogue<'_>,
) {
    let tiled = x.rows() / TOKENS * TOKENS;
    if tiled > 0 {
        let panel_bytes = w.len() / y.cols().div_ceil(LANES).max(1);
        H::configure(Format::ALL[F].sub_block_len().min(32) / 4);
        for (p, panel) in w.chunks_exact(panel_bytes.max(1)).enumerate() {
            for t in (0..tiled).step_by(TOKENS) {
                tile::<F, H>(y, p, panel, x, t, e);
            }
        }
        H::release();
    }
    if tiled < x.rows() {
        let blocks = x.cols / x.block;
        let rest = QuantRows {
            q: &x.q[tiled * x.cols..],
            d: &x.d[tiled * blocks..],
            sums: &x.sums[tiled * x.cols / 16..],
            ..x
        };
        let (_, mut below) = y.reborrow().split_rows(tiled);
        avx512_vnni::quant::<F>(&mut below, w, rest, e);
    }
}

/// One panel against 16 tokens from `t0`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tile<const F: usize, H: Tiles>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panel: &[u8],
    x: QuantRows<'_>,
    t0: usize,
    e: Epilogue<'_>,
) {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / x.block;
    let mut acc = [[0.0_f32; LANES]; TOKENS];
    let mut c = Products([[0; LANES]; TOKENS]);
    let mut lines = Lines([[0; LINE]; 8]);
    for b in 0..blocks {
        let block = &panel[b * record.bytes..][..record.bytes];
        let d = avx512_vnni::halves(&panel[scale_place(format, blocks, b, 0)..]);
        if format.block_len() == 32 {
            avx512_vnni::expand::<F>(block, record, 0, &mut lines.0);
            H::product(&mut c, &x.q[t0 * x.cols + b * 32..], x.cols, &lines.0);
            for t in 0..TOKENS {
                let row = t0 + t;
                let sums = &x.sums[row * x.cols / 16 + b * 2..][..2];
                let offset = format.code_offset() * (i32::from(sums[0]) + i32::from(sums[1]));
                let dx = x.d[row * blocks + b];
                for r in 0..LANES {
                    acc[t][r] = ((c.0[t][r] - offset) as f32).mul_add(d[r] * dx, acc[t][r]);
                }
            }
        } else {
            super_block::<F, H>(&mut acc, block, &d, record, x, t0, b, &mut c, &mut lines);
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        e.finish(acc, y, t0 + t, p);
    }
}

/// One block of 256 columns with integer scales per sub-block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn super_block<const F: usize, H: Tiles>(
    acc: &mut [[f32; LANES]; TOKENS],
    block: &[u8],
    d: &[f32; LANES],
    record: Record,
    x: QuantRows<'_>,
    t0: usize,
    b: usize,
    c: &mut Products,
    lines: &mut Lines,
) {
    let format = const { Format::ALL[F] };
    let blocks = x.cols / x.block;
    let sub = format.sub_block_len();
    let mut products = [[0_i32; LANES]; TOKENS];
    let step = sub.min(32);
    for j in 0..256 / step {
        let column = j * step;
        if column % 32 == 0 {
            avx512_vnni::expand::<F>(block, record, column / 32, &mut lines.0);
        }
        let w = &lines.0[column % 32 / 4..][..step / 4];
        H::product(c, &x.q[t0 * x.cols + b * 256 + column..], x.cols, w);
        // Codes that share one scale need no other.
        let sc = if sub > 32 { &[1; LANES] } else { &block[record.sc + j * LANES..][..LANES] };
        for t in 0..TOKENS {
            let sums = &x.sums[(t0 + t) * x.cols / 16 + b * 16 + column / 16..][..step / 16];
            let offset = format.code_offset() * sums.iter().map(|sum| i32::from(*sum)).sum::<i32>();
            for r in 0..LANES {
                products[t][r] += (c.0[t][r] - offset) * i32::from(sc[r].cast_signed());
            }
        }
    }
    for t in 0..TOKENS {
        let dx = x.d[(t0 + t) * blocks + b];
        for r in 0..LANES {
            acc[t][r] = (products[t][r] as f32).mul_add(d[r] * dx, acc[t][r]);
        }
        if format.has_minima() {
            let dmin = avx512_vnni::halves(&block[record.dmin..]);
            let (sums, _) = x.sums.as_chunks::<16>();
            let minima = avx512_vnni::minima_of(&block[record.m..], &sums[(t0 + t) * blocks + b]);
            for r in 0..LANES {
                acc[t][r] = (-(minima[r] as f32)).mul_add(dmin[r] * dx, acc[t][r]);
            }
        }
    }
}
