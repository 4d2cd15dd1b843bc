//! The products of x86, written once over [`Simd`]: a panel against a tile of tokens.
//!
//! A tile's accumulators stay in registers while the panel streams by, 32 columns of codes at a time. Lengths are cut to
//! what the panel has before the loops, so that the loops themselves carry no checks.

use super::simd::Simd;
use super::{Epilogue, QuantRows};
use crate::ops::prefetch::Ahead;
use crate::pack::{LANES, LINE, QUARTERS, Record, scale_place};
use crate::{Format, MatMut};

/// Up to this many tokens memory limits a product, not arithmetic.
const FEW: usize = 4;

/// Asks for what lies ahead of `lines` lines of `panel`, from `line` on.
///
/// Asking for a few with each group of columns keeps the queue of the memory even; a whole record at once stalls it.
#[inline(always)]
pub(super) fn ask_ahead(panel: &[u8], line: usize, lines: usize, ahead: Ahead) {
    for i in line..line + lines {
        ahead.ask(panel, i * LINE);
    }
}

/// Bytes of a panel of the matrix whose products `y` takes.
#[inline(always)]
pub(super) fn panel_bytes(y: &MatMut<'_, f32>, w: &[u8]) -> usize {
    (w.len() / y.cols().div_ceil(LANES).max(1)).max(1)
}

/// Quantised weights, from panel `first` on. Inlined into the entry point of each tier.
#[inline(always)]
pub(super) fn quant<S: Simd, const F: usize>(
    y: &mut MatMut<'_, f32>,
    w: &[u8],
    first: usize,
    x: QuantRows<'_>,
    e: Epilogue<'_>,
) {
    let panel_bytes = panel_bytes(y, w);
    let mut p = first;
    if x.rows() <= FEW {
        // Several panels are as many streams, which memory serves faster than one.
        for group in w[p * panel_bytes..].chunks_exact(4 * panel_bytes) {
            match x.rows() {
                // Two of the larger K panels: what is asked for then fits the first cache until it is read.
                1 if const { Format::ALL[F].scales_at_end() } => tile::<S, F, 1, 4>(y, p, group, x, 0, e),
                1 => {
                    let (first, second) = group.split_at(2 * panel_bytes);
                    tile::<S, F, 1, 2>(y, p, first, x, 0, e);
                    tile::<S, F, 1, 2>(y, p + 2, second, x, 0, e)
                }
                2 => {
                    let (first, second) = group.split_at(2 * panel_bytes);
                    tile::<S, F, 2, 2>(y, p, first, x, 0, e);
                    tile::<S, F, 2, 2>(y, p + 2, second, x, 0, e)
                }
                _ => break,
            };
            p += 4;
        }
    }
    for panel in w[p * panel_bytes..].chunks_exact(panel_bytes) {
        let mut t = 0;
        while t < x.rows() {
            t += match x.rows() - t {
                8.. if S::TOKENS >= 8 => tile::<S, F, 8, 1>(y, p, panel, x, t, e),
                6.. if S::TOKENS >= 8 => tile::<S, F, 6, 1>(y, p, panel, x, t, e),
                4.. => tile::<S, F, 4, 1>(y, p, panel, x, t, e),
                3 => tile::<S, F, 3, 1>(y, p, panel, x, t, e),
                2 => tile::<S, F, 2, 1>(y, p, panel, x, t, e),
                _ => tile::<S, F, 1, 1>(y, p, panel, x, t, e),
            };
        }
        p += 1;
    }
}

/// `N` panels, of which `p` is the first, against `T` tokens from `t0`; returns `T`.
#[inline(always)]
fn tile<S: Simd, const F: usize, const T: usize, const N: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panels: &[u8],
    x: QuantRows<'_>,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    let mut out = [[[0.0; LANES]; T]; N];
    if S::PARTS == 2 && T == 1 {
        // One token leaves registers for both halves of a line, which is then read from memory at once.
        sums::<S, F, T, 2, N>(&mut out, panels, x, t0, 0);
    } else {
        for part in 0..S::PARTS {
            sums::<S, F, T, 1, N>(&mut out, panels, x, t0, part);
        }
    }
    finish::<S, T, N>(&out, y, p, t0, e);
    T
}

/// Hands the sums of `N` panels and `T` tokens on: [`Epilogue::finish`], in whole registers where a panel is whole. Left to
/// the compiler that loop takes one number at a time.
#[inline(always)]
pub(super) fn finish<S: Simd, const T: usize, const N: usize>(
    sums: &[[[f32; LANES]; T]; N],
    y: &mut MatMut<'_, f32>,
    p: usize,
    t0: usize,
    e: Epilogue<'_>,
) {
    for (n, sums) in sums.iter().enumerate() {
        let at = (p + n) * LANES;
        let bias = e.bias.and_then(|bias| bias.get(at..at + LANES));
        for (t, sums) in sums.iter().enumerate() {
            let Some(out) = y.row_mut(t0 + t).get_mut(at..at + LANES) else {
                e.finish(sums, y, t0 + t, p + n);
                continue;
            };
            for lanes in (0..LANES).step_by(S::ROWS) {
                let mut sum = S::load_lanes(&sums[lanes..]);
                if let Some(bias) = bias {
                    sum = S::add(sum, S::load_lanes(&bias[lanes..]));
                }
                if e.add {
                    sum = S::add(S::load_lanes(&out[lanes..]), sum);
                }
                S::store(S::canonical(sum), &mut out[lanes..]);
            }
        }
    }
}

/// `N` panels of equal length that lie one after another.
#[inline(always)]
pub(super) fn each<const N: usize>(panels: &[u8]) -> [&[u8]; N] {
    let bytes = panels.len() / N;
    let mut each = [panels; N];
    for (n, panel) in each.iter_mut().enumerate() {
        *panel = &panels[n * bytes..][..bytes];
    }
    each
}

/// The sums of `P` registers to a line, from the one called `first`.
#[inline(always)]
fn sums<S: Simd, const F: usize, const T: usize, const P: usize, const N: usize>(
    out: &mut [[[f32; LANES]; T]; N],
    panels: &[u8],
    x: QuantRows<'_>,
    t0: usize,
    first: usize,
) {
    // The first tokens that meet these panels ask for those that come after.
    let ahead = Ahead::by(if t0 == 0 && first == 0 { panels.len() } else { 0 });
    let panels = each::<N>(panels);
    let acc = if const { Format::ALL[F].block_len() == 32 } {
        blocks_of_32::<S, F, T, P, N>(panels, x, t0, first, ahead)
    } else {
        blocks_of_256::<S, F, T, P, N>(panels, x, t0, first, ahead)
    };
    for (out, acc) in out.iter_mut().zip(acc) {
        for (i, acc) in acc.into_iter().enumerate() {
            for (out, acc) in out.iter_mut().zip(acc) {
                S::store(acc, &mut out[(first + i) * S::ROWS..]);
            }
        }
    }
}

/// A register for each panel, part of a line and token.
type Registers<R, const T: usize, const P: usize, const N: usize> = [[[R; T]; P]; N];

/// Row `t0 + t` of `values`, of which each row has `n` chunks of `N`.
#[inline(always)]
pub(super) fn rows<V, const N: usize, const T: usize>(values: &[V], t0: usize, n: usize) -> [&[[V; N]]; T] {
    let (chunks, _) = values.as_chunks::<N>();
    let mut rows = [chunks; T];
    for (t, row) in rows.iter_mut().enumerate() {
        *row = &chunks[(t0 + t) * n..][..n];
    }
    rows
}

/// Row `t0 + t` of `n` scales each.
#[inline(always)]
pub(super) fn scales<const T: usize>(values: &[f32], t0: usize, n: usize) -> [&[f32]; T] {
    let mut scales = [values; T];
    for (t, row) in scales.iter_mut().enumerate() {
        *row = &values[(t0 + t) * n..][..n];
    }
    scales
}

/// [`sums`] for formats with one scale per 32 columns.
#[inline(always)]
fn blocks_of_32<S: Simd, const F: usize, const T: usize, const P: usize, const N: usize>(
    panels: [&[u8]; N],
    x: QuantRows<'_>,
    t0: usize,
    first: usize,
    ahead: Ahead,
) -> Registers<S::Float, T, P, N> {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 32;
    let q: [&[[i8; 32]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 2]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let weights = format.code_bits() == 8 && S::DOT_OF_WEIGHTS;
    let offset = S::splat16(-const { i16_of(Format::ALL[F].code_offset()) });
    let mut acc = [[[S::zero_float(); T]; P]; N];
    for b in 0..blocks {
        for (panel, acc) in panels.iter().zip(&mut acc) {
            let block = &panel[b * record.bytes..][..record.bytes];
            let d = &panel[scale_place(format, blocks, b, 0)..][..2 * LANES];
            ask_ahead(block, 0, record.bytes / LINE, ahead);
            if b.is_multiple_of(2) {
                // Two blocks share a line of scales.
                ask_ahead(d, 0, 1, ahead);
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let part = first + i;
                let mut products = [S::zero(); T];
                if !weights {
                    for t in 0..T {
                        products[t] = S::dot_pairs(S::zero(), offset, sums[t][b]);
                    }
                }
                if S::PARTS > 1 && format.code_bits() == 8 {
                    // Two registers a line do not leave room for eight lines and what is made of them.
                    for half in 0..2 {
                        let lines: [S::Int; 4] = lines::<S, F, 4>(&block[half * 4 * LINE..], record, 0, part);
                        for t in 0..T {
                            products[t] = S::dot::<F, 4>(products[t], &lines, &q[t][b][half * 16..]);
                        }
                    }
                } else {
                    let lines: [S::Int; 8] = lines::<S, F, 8>(block, record, 0, part);
                    for t in 0..T {
                        products[t] = S::dot::<F, 8>(products[t], &lines, &q[t][b]);
                    }
                }
                let d = S::load_f16(&d[part * S::ROWS * 2..]);
                for t in 0..T {
                    acc[t] = S::mul_add(S::to_float(products[t]), S::mul(d, S::splat(dx[t][b])), acc[t]);
                }
            }
        }
    }
    acc
}

/// [`sums`] for formats with blocks of 256 columns and integer scales in them.
#[inline(always)]
fn blocks_of_256<S: Simd, const F: usize, const T: usize, const P: usize, const N: usize>(
    panels: [&[u8]; N],
    x: QuantRows<'_>,
    t0: usize,
    first: usize,
    ahead: Ahead,
) -> Registers<S::Float, T, P, N> {
    let format = const { Format::ALL[F] };
    let record = const { Format::ALL[F].record() };
    let blocks = x.cols / 256;
    let q: [&[[i8; 256]]; T] = rows(x.q, t0, blocks);
    let sums: [&[[i16; 16]]; T] = rows(x.sums, t0, blocks);
    let dx = scales::<T>(x.d, t0, blocks);
    let mut acc = [[[S::zero_float(); T]; P]; N];
    for b in 0..blocks {
        let mut products = [[[S::zero(); T]; P]; N];
        if format.scales_at_end() {
            // One scale a block: the offset of all its codes is taken off at once. The sum of 256 bytes fits 16 bits.
            let offset = S::splat16(-const { i16_of(Format::ALL[F].code_offset()) });
            for t in 0..T {
                let start = S::dot_pairs(S::zero(), offset, [sums[t][b].iter().sum(), 0]);
                for products in products.as_flattened_mut() {
                    products[t] = start;
                }
            }
        }
        for group in 0..8 {
            for (panel, products) in panels.iter().zip(&mut products) {
                let block = &panel[b * record.bytes..][..record.bytes];
                // An eighth of the record each time, rounded up: asking for a line twice costs little.
                let eighth = const { Format::ALL[F].record().bytes.div_ceil(8 * LINE) };
                ask_ahead(block, group * eighth, eighth, ahead);
                for (i, products) in products.iter_mut().enumerate() {
                    add_group::<S, F, T>(products, block, record, group, first + i, q.map(|q| &q[b]));
                }
            }
        }
        for ((panel, products), acc) in panels.iter().zip(&mut products).zip(&mut acc) {
            let block = &panel[b * record.bytes..][..record.bytes];
            let d = &panel[scale_place(format, blocks, b, 0)..][..2 * LANES];
            for ((i, products), acc) in products.iter_mut().enumerate().zip(acc) {
                let part = first + i;
                if format.sub_block_len() == 16 {
                    subtract_offsets::<S, T>(products, &block[record.sc..], part, sums.map(|sums| &sums[b]));
                }
                let d = S::load_f16(&d[part * S::ROWS * 2..]);
                for t in 0..T {
                    acc[t] = S::mul_add(S::to_float(products[t]), S::mul(d, S::splat(dx[t][b])), acc[t]);
                }
                if format.has_minima() {
                    let m = minima_pairs::<S>(&block[record.m..][..2 * LINE], part);
                    let dmin = S::load_f16(&block[record.dmin + part * S::ROWS * 2..]);
                    for t in 0..T {
                        let minima = minima::<S>(&m, &sums[t][b]);
                        acc[t] = S::neg_mul_add(S::to_float(minima), S::mul(dmin, S::splat(dx[t][b])), acc[t]);
                    }
                }
            }
        }
    }
    acc
}

/// Adds the products of 32 columns, times their integer scales.
#[inline(always)]
fn add_group<S: Simd, const F: usize, const T: usize>(
    products: &mut [S::Int; T],
    block: &[u8],
    record: Record,
    group: usize,
    part: usize,
    q: [&[i8; 256]; T],
) {
    let lines: [S::Int; 8] = lines::<S, F, 8>(block, record, group, part);
    let columns = group * 32;
    if const { Format::ALL[F].scales_at_end() } {
        for t in 0..T {
            products[t] = S::dot::<F, 8>(products[t], &lines, &q[t][columns..][..32]);
        }
        return;
    }
    if const { Format::ALL[F].sub_block_len() == 32 } {
        let sc = S::unsigned(&block[record.sc + group * LANES + part * S::ROWS..]);
        for t in 0..T {
            let sum = S::dot::<F, 8>(S::zero(), &lines, &q[t][columns..][..32]);
            products[t] = S::add32(products[t], S::mul32(sum, sc));
        }
        return;
    }
    let [l0, l1, l2, l3, l4, l5, l6, l7] = lines;
    let at = record.sc + group * 2 * LANES + part * S::ROWS;
    let (sc0, sc1) = (S::signed(&block[at..]), S::signed(&block[at + LANES..]));
    for t in 0..T {
        let q = &q[t][columns..][..32];
        let first = S::mul32(S::dot::<F, 4>(S::zero(), &[l0, l1, l2, l3], q), sc0);
        let second = S::mul32(S::dot::<F, 4>(S::zero(), &[l4, l5, l6, l7], &q[16..]), sc1);
        products[t] = S::add32(products[t], S::add32(first, second));
    }
}

/// The codes stand 32 above the weights: the sum of scales times activations, times 32, is taken off at once.
#[inline(always)]
fn subtract_offsets<S: Simd, const T: usize>(
    products: &mut [S::Int; T],
    sc: &[u8],
    part: usize,
    sums: [&[i16; 16]; T],
) {
    let mut pairs = [S::zero(); 8];
    for (j, pair) in pairs.iter_mut().enumerate() {
        let sc = &sc[2 * j * LANES..][..2 * LANES];
        *pair = S::signed_pairs(&sc[..LANES], &sc[LANES..], part);
    }
    for t in 0..T {
        let (sums, _) = sums[t].as_chunks::<2>();
        let mut total = S::zero();
        for j in 0..8 {
            total = S::dot_pairs(total, pairs[j], sums[j]);
        }
        products[t] = S::sub32(products[t], S::shift_left32::<5>(total));
    }
}

/// The minima of 8 sub-blocks as pairs of 16 bits: 0 and 2, 1 and 3, 4 and 6, 5 and 7.
#[inline(always)]
pub(super) fn minima_pairs<S: Simd>(m: &[u8], part: usize) -> [S::Int; 4] {
    let low_byte = S::splat16(0xff);
    let lines = [S::load(&m[part * S::ROWS * 4..]), S::load(&m[LINE + part * S::ROWS * 4..])];
    let [first, second] = lines;
    let (odd, odd2) = (S::shift_right16::<8>(first), S::shift_right16::<8>(second));
    [S::and(first, low_byte), odd, S::and(second, low_byte), odd2]
}

/// `sum over 8 sub-blocks of m * (sum of x)` for a register's rows.
#[inline(always)]
pub(super) fn minima<S: Simd>(m: &[S::Int; 4], sums: &[i16; 16]) -> S::Int {
    // Sums of 32 bytes fit 16 bits.
    let mut x = [0; 8];
    for (j, x) in x.iter_mut().enumerate() {
        *x = sums[2 * j] + sums[2 * j + 1];
    }
    let mut total = S::zero();
    for (m, x) in m.iter().zip([[x[0], x[2]], [x[1], x[3]], [x[4], x[6]], [x[5], x[7]]]) {
        total = S::dot_pairs(total, *m, x);
    }
    total
}

/// The first `N` lines of codes of 32 columns (`group` of the block): all 8, or 4 of a format without nibbles.
#[inline(always)]
pub(super) fn lines<S: Simd, const F: usize, const N: usize>(
    block: &[u8],
    record: Record,
    group: usize,
    part: usize,
) -> [S::Int; N] {
    let mut lines = [S::zero(); N];
    for (i, line) in lines.iter_mut().enumerate() {
        *line = code_line::<S, F>(block, record, group, part, i);
    }
    lines
}

/// Line `i` of the codes of 32 columns (`group` of the block), of which there are 8.
#[inline(always)]
pub(super) fn code_line<S: Simd, const F: usize>(
    block: &[u8],
    record: Record,
    group: usize,
    part: usize,
    i: usize,
) -> S::Int {
    if record.nibble_group == QUARTERS {
        let all = line_part::<S>(block, group * 2 + i / 4, part);
        let code = match i % 4 {
            0 => all,
            1 => S::shift_right16::<2>(all),
            2 => S::shift_right16::<4>(all),
            _ => S::shift_right16::<6>(all),
        };
        return S::and(code, S::splat8(3));
    }
    // Which line, and whether its high nibbles are meant.
    let (line, high) = match record.nibble_group {
        0 => (i, false),
        32 => (group * 4 + i % 4, i >= 4),
        _ => (group / 2 * 8 + i, group % 2 == 1),
    };
    let both = line_part::<S>(block, line, part);
    let low_nibble = S::splat8(0xf);
    let code = match (record.nibble_group, high) {
        (0, _) => both,
        (_, false) => S::and(both, low_nibble),
        (_, true) => S::and(S::shift_right16::<4>(both), low_nibble),
    };
    // Bits above the nibble: moved to their place, all but them cleared.
    match const { Format::ALL[F].code_bits() } {
        5 => {
            let high = line_part::<S>(&block[record.high..], group, part);
            let high = match i {
                0 => S::shift_left16::<4>(high),
                1 => S::shift_left16::<3>(high),
                2 => S::shift_left16::<2>(high),
                3 => S::shift_left16::<1>(high),
                4 => high,
                5 => S::shift_right16::<1>(high),
                6 => S::shift_right16::<2>(high),
                _ => S::shift_right16::<3>(high),
            };
            S::or(code, S::and(high, S::splat8(0x10)))
        }
        6 => {
            let high = line_part::<S>(&block[record.high..], group * 2 + i / 4, part);
            let high = match i % 4 {
                0 => S::shift_left16::<4>(high),
                1 => S::shift_left16::<2>(high),
                2 => high,
                _ => S::shift_right16::<2>(high),
            };
            S::or(code, S::and(high, S::splat8(0x30)))
        }
        _ => code,
    }
}

/// A register's part of a line.
#[inline(always)]
fn line_part<S: Simd>(lines: &[u8], line: usize, part: usize) -> S::Int {
    S::load(&lines[line * LINE + part * S::ROWS * 4..])
}

/// A number known to fit.
pub(super) const fn i16_of(x: i32) -> i16 {
    assert!(x >= 0 && x <= 0x7fff, "an offset of 16 bits");
    #[expect(clippy::cast_possible_truncation, reason = "just checked")]
    let x = x as i16;
    x
}
