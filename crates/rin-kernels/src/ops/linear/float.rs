//! Float weights on x86, written once over [`Simd`]: a panel against a tile of tokens.
//!
//! An output is four sums, by the column modulo 4. One token takes all four at once, as it reads each weight once. A tile
//! of many tokens takes them one after the other, a block of columns at a time that stays in the first cache: so its
//! registers hold four times the outputs, and a weight that has been widened meets four times the tokens.

use super::Epilogue;
use super::simd::Simd;
use super::tile::{ask_ahead, each, finish, panel_bytes};
use crate::ops::prefetch::Ahead;
use crate::pack::{LANES, LINE};
use crate::{Format, MatMut};

/// Columns, in fours, that a tile of many tokens takes at a time.
const QUADS: usize = 64;

/// Float weights. Inlined into the entry point of each tier.
#[inline(always)]
pub(super) fn float<S: Simd, const F: usize>(
    y: &mut MatMut<'_, f32>,
    w: &[u8],
    x: &[f32],
    cols: usize,
    e: Epilogue<'_>,
) {
    let panel_bytes = panel_bytes(y, w);
    let rows = x.len() / cols;
    let mut p = 0;
    if S::PARTS == 1 {
        let several = if rows == 1 { 4 } else { 2 };
        for group in w.chunks_exact(several * panel_bytes) {
            if rows == 1 {
                one_token::<S, F, 4>(y, p, group, x, cols, 0, e);
            } else {
                all_tokens::<S, F, 2>(y, p, group, x, cols, e);
            }
            p += several;
        }
    }
    for panel in w[p * panel_bytes..].chunks_exact(panel_bytes) {
        all_tokens::<S, F, 1>(y, p, panel, x, cols, e);
        p += 1;
    }
}

/// `N` panels against all tokens, in tiles.
#[inline(always)]
fn all_tokens<S: Simd, const F: usize, const N: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panels: &[u8],
    x: &[f32],
    cols: usize,
    e: Epilogue<'_>,
) {
    let rows = x.len() / cols;
    let mut t = 0;
    while t < rows {
        t += match rows - t {
            12.. if S::PARTS == 1 => striped::<S, F, 12, N>(y, p, panels, x, cols, t, e),
            8.. if S::PARTS == 1 => striped::<S, F, 8, N>(y, p, panels, x, cols, t, e),
            6 | 7 | 10.. if S::PARTS == 2 => striped::<S, F, 6, N>(y, p, panels, x, cols, t, e),
            4.. => striped::<S, F, 4, N>(y, p, panels, x, cols, t, e),
            3 => striped::<S, F, 3, N>(y, p, panels, x, cols, t, e),
            2 => striped::<S, F, 2, N>(y, p, panels, x, cols, t, e),
            _ => one_token::<S, F, N>(y, p, panels, x, cols, t, e),
        };
    }
}

/// `N` panels, of which `p` is the first, against `T` tokens from `t0`, one of the four sums of each output after the
/// other; returns `T`.
#[inline(always)]
fn striped<S: Simd, const F: usize, const T: usize, const N: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panels: &[u8],
    x: &[f32],
    cols: usize,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    let column = const { Format::ALL[F].block_bytes() } * LANES;
    let ahead = Ahead::by(if t0 == 0 { panels.len() } else { 0 });
    let panels = each::<N>(panels);
    let mut sums = [[[[0.0; LANES]; T]; N]; 4];
    let x = &x[t0 * cols..][..T * cols];
    let whole = cols / 4 * 4;
    for start in (0..whole).step_by(4 * QUADS) {
        let quads = (whole - start).min(4 * QUADS) / 4;
        let mut fours: [&[[f32; 4]]; T] = [&[]; T];
        for (t, row) in fours.iter_mut().enumerate() {
            *row = &x[t * cols + start..].as_chunks::<4>().0[..quads];
        }
        let mut weights = panels;
        for panel in &mut weights {
            *panel = &panel[start * column..][..quads * 4 * column];
        }
        for (j, sums) in sums.iter_mut().enumerate() {
            let ahead = if j == 0 { ahead } else { Ahead::by(0) };
            match S::PARTS {
                1 => stripe::<S, F, T, 1, N>(sums, weights, fours, j, ahead),
                _ => stripe::<S, F, T, 2, N>(sums, weights, fours, j, ahead),
            }
        }
    }
    for k in whole..cols {
        for (sums, panel) in sums[k % 4].iter_mut().zip(panels) {
            for part in 0..S::PARTS {
                let w = load_column::<S, F>(&panel[k * column + part * (column / S::PARTS)..]);
                for (t, sums) in sums.iter_mut().enumerate() {
                    let sums = &mut sums[part * S::ROWS..];
                    S::store(S::mul_add(w, S::splat(x[t * cols + k]), S::load_lanes(sums)), sums);
                }
            }
        }
    }
    let mut out = [[[0.0; LANES]; T]; N];
    let [s0, s1, s2, s3] = &sums;
    for n in 0..N {
        for t in 0..T {
            for at in (0..LANES).step_by(S::ROWS) {
                let even = S::add(S::load_lanes(&s0[n][t][at..]), S::load_lanes(&s1[n][t][at..]));
                let odd = S::add(S::load_lanes(&s2[n][t][at..]), S::load_lanes(&s3[n][t][at..]));
                S::store(S::add(even, odd), &mut out[n][t][at..]);
            }
        }
    }
    finish::<S, T, N>(&out, y, p, t0, e);
    T
}

/// Adds the columns `j`, `j + 4`, … of a block of `N` panels to the sums that are theirs.
#[inline(always)]
fn stripe<S: Simd, const F: usize, const T: usize, const P: usize, const N: usize>(
    sums: &mut [[[f32; LANES]; T]; N],
    panels: [&[u8]; N],
    x: [&[[f32; 4]]; T],
    j: usize,
    ahead: Ahead,
) {
    let column = const { Format::ALL[F].block_bytes() } * LANES;
    let quads = x[0].len();
    let mut acc = [[[S::zero_float(); T]; P]; N];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        for (part, acc) in acc.iter_mut().enumerate() {
            for (acc, sums) in acc.iter_mut().zip(sums) {
                *acc = S::load_lanes(&sums[part * S::ROWS..]);
            }
        }
    }
    for i in 0..quads {
        let mut w = [[S::zero_float(); P]; N];
        for (w, panel) in w.iter_mut().zip(panels) {
            let four = &panel[i * 4 * column..][..4 * column];
            ask_ahead(four, 0, 4 * column / LINE, ahead);
            for (part, w) in w.iter_mut().enumerate() {
                *w = load_column::<S, F>(&four[j * column + part * (column / P)..]);
            }
        }
        for t in 0..T {
            let x = S::splat(x[t][i][j]);
            for n in 0..N {
                for part in 0..P {
                    acc[n][part][t] = S::mul_add(w[n][part], x, acc[n][part][t]);
                }
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        for (part, acc) in acc.iter().enumerate() {
            for (acc, sums) in acc.iter().zip(&mut *sums) {
                S::store(*acc, &mut sums[part * S::ROWS..]);
            }
        }
    }
}

/// `N` panels, of which `p` is the first, against token `t0`, all four sums of each output at once; returns 1.
#[inline(always)]
fn one_token<S: Simd, const F: usize, const N: usize>(
    y: &mut MatMut<'_, f32>,
    p: usize,
    panels: &[u8],
    x: &[f32],
    cols: usize,
    t0: usize,
    e: Epilogue<'_>,
) -> usize {
    let mut out = [[[0.0; LANES]; 1]; N];
    let ahead = Ahead::by(if t0 == 0 { panels.len() } else { 0 });
    let (panels, x) = (each::<N>(panels), &x[t0 * cols..][..cols]);
    match S::PARTS {
        1 => four_sums::<S, F, 1, N>(&mut out, panels, x, ahead),
        _ => four_sums::<S, F, 2, N>(&mut out, panels, x, ahead),
    }
    finish::<S, 1, N>(&out, y, p, t0, e);
    1
}

/// Four sums for each output of a token, by the column modulo 4.
#[inline(always)]
fn four_sums<S: Simd, const F: usize, const P: usize, const N: usize>(
    out: &mut [[[f32; LANES]; 1]; N],
    panels: [&[u8]; N],
    x: &[f32],
    ahead: Ahead,
) {
    let size = const { Format::ALL[F].block_bytes() };
    let column = size * LANES;
    let (fours, rest) = x.as_chunks::<4>();
    let mut sums = [[[S::zero_float(); 4]; P]; N];
    for (i, x) in fours.iter().enumerate() {
        for (panel, sums) in panels.iter().zip(&mut sums) {
            let w = &panel[i * 4 * column..][..4 * column];
            ask_ahead(w, 0, 4 * column / LINE, ahead);
            for (part, sums) in sums.iter_mut().enumerate() {
                for j in 0..4 {
                    let w = load_column::<S, F>(&w[j * column + part * S::ROWS * size..]);
                    sums[j] = S::mul_add(w, S::splat(x[j]), sums[j]);
                }
            }
        }
    }
    for ((panel, sums), [out]) in panels.iter().zip(&mut sums).zip(out) {
        for (part, s) in sums.iter_mut().enumerate() {
            for (j, &x) in rest.iter().enumerate() {
                let k = fours.len() * 4 + j;
                let w = load_column::<S, F>(&panel[k * column + part * S::ROWS * size..]);
                s[j] = S::mul_add(w, S::splat(x), s[j]);
            }
            S::store(S::add(S::add(s[0], s[1]), S::add(s[2], s[3])), &mut out[part * S::ROWS..]);
        }
    }
}

/// A register's rows of one column of weights as f32.
#[inline(always)]
fn load_column<S: Simd, const F: usize>(bytes: &[u8]) -> S::Float {
    match const { Format::ALL[F] } {
        Format::F16 => S::load_f16(bytes),
        Format::BF16 => S::load_bf16(bytes),
        _ => S::load_f32(bytes),
    }
}
