//! Two panels against a tile of tokens: each activation is loaded once for both.
//!
//! With one panel and eight tokens every product takes its activation from memory, and loads bound the loop as much as
//! products do. Two panels and six tokens need two loads for three products. The offsets of the codes depend on the
//! activations alone, so both panels begin with the same sums.

use super::QuantRows;
use super::simd::Simd;
use super::tile::{ask_ahead, code_line, i16_of, minima, minima_pairs, rows, scales};
use crate::Format;
use crate::pack::{LANES, LINE, Record};

/// A register for each panel and token.
type Registers<R, const T: usize> = [[R; T]; 2];

/// Adds the products of 4 columns: line `i` of both blocks, and bytes `4 i..` of each of `q`.
#[inline(always)]
fn add_line<S: Simd, const F: usize, const T: usize>(
    sums: &mut Registers<S::Int, T>,
    blocks: [&[u8]; 2],
    record: Record,
    group: usize,
    i: usize,
    q: &[&[[i8; 4]]; T],
    column: usize,
) {
    let [first, second] = blocks;
    let first = code_line::<S, F>(first, record, group, 0, i);
    let second = code_line::<S, F>(second, record, group, 0, i);
    for t in 0..T {
        let x = S::splat32(q[t][column + i]);
        sums[0][t] = S::dot4(sums[0][t], first, x);
        sums[1][t] = S::dot4(sums[1][t], second, x);
    }
}

/// Formats with one scale per 32 columns.
#[inline(always)]
pub(super) fn blocks_of_32<S: Simd, const F: usize, const T: usize>(
    panels: [&[u8]; 2],
    x: QuantRows<'_>,
    t0: usize,
    ahead: usize,
) -> Registers<S::Float, T> {
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 32;
    let q: [&[[i8; 32]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 2]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let offset = S::splat16(-const { i16_of(Format::ALL[F].code_offset()) });
    let mut acc = [[S::zero_float(); T]; 2];
    for b in 0..blocks {
        let records = [&panels[0][b * record.bytes..][..record.bytes], &panels[1][b * record.bytes..][..record.bytes]];
        let at = blocks * record.bytes + b * 2 * LANES;
        let d = [&panels[0][at..][..2 * LANES], &panels[1][at..][..2 * LANES]];
        for n in 0..2 {
            ask_ahead(records[n], 0, record.bytes / LINE, ahead);
            if b.is_multiple_of(2) {
                // Two blocks share a line of scales.
                ask_ahead(d[n], 0, 1, ahead);
            }
        }
        let mut products = [[S::zero(); T]; 2];
        let mut columns: [&[[i8; 4]]; T] = [&[]; T];
        for t in 0..T {
            products[0][t] = S::dot_pairs(S::zero(), offset, sums[t][b]);
            products[1][t] = products[0][t];
            columns[t] = q[t][b].as_chunks::<4>().0;
        }
        for i in 0..8 {
            add_line::<S, F, T>(&mut products, records, record, 0, i, &columns, 0);
        }
        let d = [S::load_f16(d[0]), S::load_f16(d[1])];
        for t in 0..T {
            let dx = S::splat(dx[t][b]);
            acc[0][t] = S::mul_add(S::to_float(products[0][t]), S::mul(d[0], dx), acc[0][t]);
            acc[1][t] = S::mul_add(S::to_float(products[1][t]), S::mul(d[1], dx), acc[1][t]);
        }
    }
    acc
}

/// Formats with blocks of 256 columns and an integer scale for each 32 of them.
#[inline(always)]
pub(super) fn blocks_of_256<S: Simd, const F: usize, const T: usize>(
    panels: [&[u8]; 2],
    x: QuantRows<'_>,
    t0: usize,
    ahead: usize,
) -> Registers<S::Float, T> {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 256;
    let q: [&[[i8; 256]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 16]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let mut acc = [[S::zero_float(); T]; 2];
    for b in 0..blocks {
        let records = [&panels[0][b * record.bytes..][..record.bytes], &panels[1][b * record.bytes..][..record.bytes]];
        let mut columns: [&[[i8; 4]]; T] = [&[]; T];
        for t in 0..T {
            columns[t] = q[t][b].as_chunks::<4>().0;
        }
        let mut products = [[S::zero(); T]; 2];
        for group in 0..8 {
            // An eighth of the record each time, rounded up: asking for a line twice costs little.
            let eighth = const { Format::ALL[F].record().bytes.div_ceil(8 * LINE) };
            ask_ahead(records[0], group * eighth, eighth, ahead);
            ask_ahead(records[1], group * eighth, eighth, ahead);
            add_group::<S, F, T>(&mut products, records, record, group, &columns);
        }
        for n in 0..2 {
            let (record_of, products, acc) = (records[n], &mut products[n], &mut acc[n]);
            let mut of_block = [&sums[0][b]; T];
            for t in 0..T {
                of_block[t] = &sums[t][b];
            }
            let d = S::load_f16(&record_of[record.d..]);
            for t in 0..T {
                acc[t] = S::mul_add(S::to_float(products[t]), S::mul(d, S::splat(dx[t][b])), acc[t]);
            }
            if format.has_minima() {
                let m = minima_pairs::<S>(&record_of[record.m..][..2 * LINE], 0);
                let dmin = S::load_f16(&record_of[record.dmin..]);
                for t in 0..T {
                    let minima = minima::<S>(&m, of_block[t]);
                    acc[t] = S::neg_mul_add(S::to_float(minima), S::mul(dmin, S::splat(dx[t][b])), acc[t]);
                }
            }
        }
    }
    acc
}

/// Adds the products of 32 columns, times their integer scales.
#[inline(always)]
fn add_group<S: Simd, const F: usize, const T: usize>(
    products: &mut Registers<S::Int, T>,
    blocks: [&[u8]; 2],
    record: Record,
    group: usize,
    q: &[&[[i8; 4]]; T],
) {
    let mut sums = [[S::zero(); T]; 2];
    for i in 0..8 {
        add_line::<S, F, T>(&mut sums, blocks, record, group, i, q, group * 8);
    }
    for n in 0..2 {
        let sc = S::unsigned(&blocks[n][record.sc + group * LANES..]);
        for t in 0..T {
            products[n][t] = S::add32(products[n][t], S::mul32(sums[n][t], sc));
        }
    }
}
