//! Two panels against a tile of tokens: each activation is loaded once for both.
//!
//! With one panel and eight tokens every product takes its activation from memory, and loads bound the loop as much as
//! products do. Two panels and six tokens need two loads for three products. The offsets of the codes depend on the
//! activations alone, so both panels begin with the same sums.

use super::simd::{Avx512, Simd, number};
use super::tile::{self, ask_ahead, code_line, i16_of, minima, minima_pairs, rows, scales};
use super::{Epilogue, QuantRows};
use crate::ops::prefetch::Ahead;
use crate::pack::{LANES, LINE, Record, scale_place};
use crate::{Format, MatMut};

/// Tokens that two panels meet at once.
const TOKENS: usize = 6;

/// Whole pairs of panels, where that is faster; returns the number of panels that are done, which may be none. Inlined into
/// the entry point of the tier.
#[inline(always)]
pub(super) fn quant<const F: usize>(y: &mut MatMut<'_, f32>, w: &[u8], x: QuantRows<'_>, e: Epilogue<'_>) -> usize {
    // Where the codes take many steps to unpack, one panel and more tokens are as fast: less code for those.
    let worth = const { matches!(Format::ALL[F].code_bits(), 4 | 8) || Format::ALL[F].block_len() == 32 };
    let mut p = 0;
    if worth && x.rows() >= TOKENS {
        for pair in w.chunks_exact(2 * tile::panel_bytes(y, w)) {
            let mut t = 0;
            while t < x.rows() {
                t += match x.rows() - t {
                    TOKENS.. => two_panels::<F, TOKENS>(y, p, pair, x, t, e),
                    4.. => two_panels::<F, 4>(y, p, pair, x, t, e),
                    2.. => two_panels::<F, 2>(y, p, pair, x, t, e),
                    _ => two_panels::<F, 1>(y, p, pair, x, t, e),
                };
            }
            p += 2;
        }
    }
    p
}

/// Two panels, of which `p` is the first, against `T` tokens from `t0`; returns `T`.
#[inline(always)]
fn two_panels<const F: usize, const T: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panels: &[u8],
    x: QuantRows<'_>,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    // The first tokens that meet these panels ask for those that come after.
    let ahead = Ahead::by(if t0 == 0 { panels.len() } else { 0 });
    let acc = if const { Format::ALL[F].block_len() == 32 } {
        blocks_of_32::<F, T>(tile::each(panels), x, t0, ahead)
    } else {
        blocks_of_256::<F, T>(tile::each(panels), x, t0, ahead)
    };
    let mut out = [[[0.0; LANES]; T]; 2];
    for (out, acc) in out.iter_mut().zip(acc) {
        for (out, acc) in out.iter_mut().zip(acc) {
            Avx512::store(acc, out);
        }
    }
    tile::finish::<Avx512, T, 2>(&out, y, p, t0, e);
    T
}

/// A register for each panel and token.
type Registers<R, const T: usize> = [[R; T]; 2];

/// Adds the products of 4 columns: line `i` of both blocks, and bytes `4 i..` of each of `q`.
#[inline(always)]
fn add_line<const F: usize, const T: usize>(
    sums: &mut Registers<<Avx512 as Simd>::Int, T>,
    blocks: [&[u8]; 2],
    record: Record,
    group: usize,
    i: usize,
    q: &[&[[i8; 4]]; T],
    column: usize,
) {
    let [first, second] = blocks;
    let first = code_line::<Avx512, F>(first, record, group, 0, i);
    let second = code_line::<Avx512, F>(second, record, group, 0, i);
    for t in 0..T {
        let x = Avx512::splat32(number(q[t][column + i]));
        sums[0][t] = Avx512::dot4(sums[0][t], first, x);
        sums[1][t] = Avx512::dot4(sums[1][t], second, x);
    }
}

/// Formats with one scale per 32 columns.
#[inline(always)]
fn blocks_of_32<const F: usize, const T: usize>(
    panels: [&[u8]; 2],
    x: QuantRows<'_>,
    t0: usize,
    ahead: Ahead,
) -> Registers<<Avx512 as Simd>::Float, T> {
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 32;
    let q: [&[[i8; 32]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 2]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let offset = Avx512::splat16(-const { i16_of(Format::ALL[F].code_offset()) });
    let mut acc = [[Avx512::zero_float(); T]; 2];
    for b in 0..blocks {
        let records = [&panels[0][b * record.bytes..][..record.bytes], &panels[1][b * record.bytes..][..record.bytes]];
        let at = scale_place(const { Format::ALL[F] }, blocks, b, 0);
        let d = [&panels[0][at..][..2 * LANES], &panels[1][at..][..2 * LANES]];
        for n in 0..2 {
            ask_ahead(records[n], 0, record.bytes / LINE, ahead);
            if b.is_multiple_of(2) {
                // Two blocks share a line of scales.
                ask_ahead(d[n], 0, 1, ahead);
            }
        }
        let mut products = [[Avx512::zero(); T]; 2];
        let mut columns: [&[[i8; 4]]; T] = [&[]; T];
        for t in 0..T {
            products[0][t] = Avx512::dot_pairs(Avx512::zero(), offset, sums[t][b]);
            products[1][t] = products[0][t];
            columns[t] = q[t][b].as_chunks().0;
        }
        for i in 0..8 {
            add_line::<F, T>(&mut products, records, record, 0, i, &columns, 0);
        }
        let d = [Avx512::load_f16(d[0]), Avx512::load_f16(d[1])];
        for t in 0..T {
            let dx = Avx512::splat(dx[t][b]);
            acc[0][t] = Avx512::mul_add(Avx512::to_float(products[0][t]), Avx512::mul(d[0], dx), acc[0][t]);
            acc[1][t] = Avx512::mul_add(Avx512::to_float(products[1][t]), Avx512::mul(d[1], dx), acc[1][t]);
        }
    }
    acc
}

/// Formats with blocks of 256 columns and an integer scale for each 32 of them.
#[inline(always)]
fn blocks_of_256<const F: usize, const T: usize>(
    panels: [&[u8]; 2],
    x: QuantRows<'_>,
    t0: usize,
    ahead: Ahead,
) -> Registers<<Avx512 as Simd>::Float, T> {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 256;
    let q: [&[[i8; 256]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 16]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let mut acc = [[Avx512::zero_float(); T]; 2];
    for b in 0..blocks {
        let records = [&panels[0][b * record.bytes..][..record.bytes], &panels[1][b * record.bytes..][..record.bytes]];
        let mut columns: [&[[i8; 4]]; T] = [&[]; T];
        for t in 0..T {
            columns[t] = q[t][b].as_chunks().0;
        }
        let mut products = [[Avx512::zero(); T]; 2];
        for group in 0..8 {
            // An eighth of the record each time, rounded up: asking for a line twice costs little.
            let eighth = const { Format::ALL[F].record().bytes.div_ceil(8 * LINE) };
            ask_ahead(records[0], group * eighth, eighth, ahead);
            ask_ahead(records[1], group * eighth, eighth, ahead);
            add_group::<F, T>(&mut products, records, record, group, &columns);
        }
        for n in 0..2 {
            let (record_of, products, acc) = (records[n], &mut products[n], &mut acc[n]);
            let mut of_block = [&sums[0][b]; T];
            for t in 0..T {
                of_block[t] = &sums[t][b];
            }
            let d = Avx512::load_f16(&record_of[record.d..]);
            for t in 0..T {
                acc[t] =
                    Avx512::mul_add(Avx512::to_float(products[t]), Avx512::mul(d, Avx512::splat(dx[t][b])), acc[t]);
            }
            if format.has_minima() {
                let m = minima_pairs::<Avx512>(&record_of[record.m..][..2 * LINE], 0);
                let dmin = Avx512::load_f16(&record_of[record.dmin..]);
                for t in 0..T {
                    let minima = minima::<Avx512>(&m, of_block[t]);
                    acc[t] = Avx512::neg_mul_add(
                        Avx512::to_float(minima),
                        Avx512::mul(dmin, Avx512::splat(dx[t][b])),
                        acc[t],
                    );
                }
            }
        }
    }
    acc
}

/// Adds the products of 32 columns, times their integer scales.
#[inline(always)]
fn add_group<const F: usize, const T: usize>(
    products: &mut Registers<<Avx512 as Simd>::Int, T>,
    blocks: [&[u8]; 2],
    record: Record,
    group: usize,
    q: &[&[[i8; 4]]; T],
) {
    let mut sums = [[Avx512::zero(); T]; 2];
    for i in 0..8 {
        add_line::<F, T>(&mut sums, blocks, record, group, i, q, group * 8);
    }
    for n in 0..2 {
        let sc = Avx512::unsigned(&blocks[n][record.sc + group * LANES..]);
        for t in 0..T {
            products[n][t] = Avx512::add32(products[n][t], Avx512::mul32(sums[n][t], sc));
        }
    }
}
