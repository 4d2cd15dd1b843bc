//! One page of keys and values against a block of rows.

use super::element::{Element, TILE, view};
use super::{KvType, LANES, PAGE, RowState, check_page};
use crate::math::{exp, fold16};

/// Rows that share one pass over a page: with 16 lanes each, 8 accumulators of AVX2.
const BLOCK: usize = 4;

/// Positions whose values are added between two loads of the output: the region read stays small and in order.
const STRIP: usize = 16;

/// Dimensions widened at a time, of values and of keys.
const V_DIMS: usize = TILE / STRIP;
const K_DIMS: usize = TILE / LANES;

pub(super) fn check(
    kv: KvType,
    out: &[f32],
    state: &[RowState],
    q: &[f32],
    k_page: &[u8],
    v_page: &[u8],
    valid: &[(u32, u32)],
) {
    let rows = state.len();
    assert!(valid.len() == rows, "{} ranges for {rows} rows", valid.len());
    assert!(q.len() == out.len(), "one length: q {}, out {}", q.len(), out.len());
    if rows == 0 {
        assert!(out.is_empty(), "{} outputs for no row", out.len());
        return;
    }
    assert!(out.len().is_multiple_of(rows), "{} outputs for {rows} rows", out.len());
    let head_dim = out.len() / rows;
    check_page("K", k_page, kv.k_page_bytes(head_dim));
    check_page("V", v_page, kv.v_page_bytes(head_dim));
    for &(lo, hi) in valid {
        assert!(lo <= hi && hi as usize <= PAGE, "positions {lo}..{hi} of a page of {PAGE}");
    }
}

#[inline(always)]
pub(super) fn attend<E: Element>(
    out: &mut [f32],
    state: &mut [RowState],
    q: &[f32],
    k_page: &[u8],
    v_page: &[u8],
    valid: &[(u32, u32)],
    scale: f32,
) {
    let rows = state.len();
    if out.is_empty() {
        return;
    }
    let page = Page::<E>::new(k_page, v_page, out.len() / rows, scale);
    let mut first = 0;
    while rows - first >= BLOCK {
        page.attend::<BLOCK>(first, out, state, q, valid);
        first += BLOCK;
    }
    match rows - first {
        3 => page.attend::<3>(first, out, state, q, valid),
        2 => page.attend::<2>(first, out, state, q, valid),
        1 => page.attend::<1>(first, out, state, q, valid),
        _ => {}
    }
}

/// The positions of a page that a row attends to.
#[derive(Clone, Copy)]
struct Range {
    lo: usize,
    hi: usize,
}

type Line = [f32; LANES];
/// A value per position of the page.
type Positions = [Line; PAGE / LANES];

struct Page<'a, E> {
    k: &'a [E],
    k_scales: &'a [Line],
    v: &'a [E],
    v_scales: &'a [Line],
    head_dim: usize,
    scale: f32,
}

impl<'a, E: Element> Page<'a, E> {
    #[inline(always)]
    fn new(k_page: &'a [u8], v_page: &'a [u8], head_dim: usize, scale: f32) -> Self {
        let (k, k_scales) = view::<E>(k_page, head_dim);
        let (v, v_scales) = view::<E>(v_page, head_dim);
        Self { k, k_scales: k_scales.as_chunks().0, v, v_scales: v_scales.as_chunks().0, head_dim, scale }
    }

    /// Rows `first..first + R`.
    #[inline(always)]
    fn attend<const R: usize>(
        &self,
        first: usize,
        out: &mut [f32],
        state: &mut [RowState],
        q: &[f32],
        valid: &[(u32, u32)],
    ) {
        let out = &mut out[first * self.head_dim..][..R * self.head_dim];
        let q = &q[first * self.head_dim..][..R * self.head_dim];
        let ranges: [Range; R] =
            std::array::from_fn(|r| Range { lo: valid[first + r].0 as usize, hi: valid[first + r].1 as usize });
        let busy = || ranges.iter().filter(|range| range.lo < range.hi);
        let lo = busy().map(|range| range.lo).min().unwrap_or(0);
        let hi = busy().map(|range| range.hi).max().unwrap_or(0);
        let mut weights = [[[0.0; LANES]; PAGE / LANES]; R];
        self.scores(q, lo / LANES..hi.div_ceil(LANES), &mut weights);
        for r in 0..R {
            if ranges[r].lo < ranges[r].hi {
                let row = &mut out[r * self.head_dim..][..self.head_dim];
                self.softmax(&mut weights[r], &mut state[first + r], row, ranges[r]);
            }
        }
        self.add_values(out, &weights, &ranges);
    }

    /// `sum over d of q[d] * k[d][position]` for the positions of `blocks`.
    #[inline(always)]
    fn scores<const R: usize>(&self, q: &[f32], blocks: std::ops::Range<usize>, scores: &mut [Positions; R]) {
        let mut block = blocks.start;
        // Few rows leave accumulators free: several blocks at once then hide the latency of the additions.
        if R == 1 && block == 0 && blocks.end == 4 {
            self.scores_of::<R, 4>(q, 0, scores);
            return;
        }
        if R <= 2 {
            while blocks.end - block >= 2 {
                self.scores_of::<R, 2>(q, block, scores);
                block += 2;
            }
        }
        while block < blocks.end {
            self.scores_of::<R, 1>(q, block, scores);
            block += 1;
        }
    }

    /// [`Self::scores`] for `N` blocks from `block`.
    #[inline(always)]
    fn scores_of<const R: usize, const N: usize>(&self, q: &[f32], block: usize, scores: &mut [Positions; R]) {
        let n = self.head_dim;
        let q: [&[f32]; R] = std::array::from_fn(|r| &q[r * n..][..n]);
        let mut tiles = [[0.0; TILE]; N];
        let mut sums = [[[0.0_f32; LANES]; N]; R];
        for first in (0..n).step_by(K_DIMS) {
            let dims = K_DIMS.min(n - first);
            let mut k = tiles.each_mut().map(|tile| E::widen(&[], 0, 0, 0, tile));
            for (b, tile) in tiles.iter_mut().enumerate() {
                let source = &self.k[((block + b) * n + first) * LANES..][..dims * LANES];
                k[b] = E::widen(source, LANES, dims, LANES, tile);
            }
            for d in 0..dims {
                for b in 0..N {
                    let line = k[b].line(d, 0);
                    for r in 0..R {
                        multiply_add(&mut sums[r][b], q[r][first + d], line);
                    }
                }
            }
        }
        for r in 0..R {
            scores[r][block..block + N].copy_from_slice(&sums[r]);
        }
    }

    /// Turns scores into the weights of the values, and brings `state` and the output so far to the new maximum.
    #[inline(always)]
    fn softmax(&self, scores: &mut Positions, state: &mut RowState, out: &mut [f32], range: Range) {
        let inside = |block: usize, i: usize| (range.lo..range.hi).contains(&(block * LANES + i));
        let mut largest = [f32::NEG_INFINITY; LANES];
        for (block, scores) in scores.iter_mut().enumerate() {
            let k_scales = if E::SCALED { &self.k_scales[block] } else { &[1.0; LANES] };
            for i in 0..LANES {
                let score = scores[i] * k_scales[i] * self.scale;
                scores[i] = if inside(block, i) { score } else { f32::NEG_INFINITY };
                largest[i] = if scores[i] > largest[i] { scores[i] } else { largest[i] };
            }
        }
        let larger = |a, b| if b > a { b } else { a };
        let m = larger(state.m, fold16(&largest, larger));
        let mut sum = [0.0; LANES];
        for (block, scores) in scores.iter_mut().enumerate() {
            let v_scales = if E::SCALED { &self.v_scales[block] } else { &[1.0; LANES] };
            for i in 0..LANES {
                let p = exp(scores[i] - m);
                let p = if inside(block, i) { p } else { 0.0 };
                sum[i] += p;
                scores[i] = p * v_scales[i];
            }
        }
        let sum = fold16(&sum, |a, b| a + b);
        if state.l == 0.0 {
            *state = RowState { m, l: sum };
            out.fill(0.0);
            return;
        }
        let alpha = exp(state.m - m);
        *state = RowState { m, l: state.l * alpha + sum };
        for o in out {
            *o *= alpha;
        }
    }

    /// `out[d] += weight[position] * v[position][d]`, position after position.
    #[inline(always)]
    fn add_values<const R: usize>(&self, out: &mut [f32], weights: &[Positions; R], ranges: &[Range; R]) {
        let shared = Range {
            lo: ranges.iter().map(|range| range.lo).max().unwrap_or(0),
            hi: ranges.iter().map(|range| range.hi).min().unwrap_or(0),
        };
        let mut rows = out.chunks_exact_mut(self.head_dim);
        let mut rows: [&mut [f32]; R] = std::array::from_fn(|_| rows.next().unwrap_or_default());
        if R == 1 || shared.lo >= shared.hi {
            for r in 0..R {
                self.add_range([&mut *rows[r]], [&weights[r]], ranges[r]);
            }
            return;
        }
        // What only some rows attend to, before and after what all do.
        for r in 0..R {
            self.add_range([&mut *rows[r]], [&weights[r]], Range { lo: ranges[r].lo, hi: shared.lo });
        }
        self.add_range(rows.each_mut().map(|row| &mut **row), weights.each_ref(), shared);
        for r in 0..R {
            self.add_range([&mut *rows[r]], [&weights[r]], Range { lo: shared.hi, hi: ranges[r].hi });
        }
    }

    /// [`Self::add_values`] for positions that all rows attend to.
    #[inline(always)]
    fn add_range<const R: usize>(&self, mut out: [&mut [f32]; R], weights: [&Positions; R], range: Range) {
        let weights = weights.map(|w| w.as_flattened());
        let mut tile = [0.0; TILE];
        for lo in (range.lo..range.hi).step_by(STRIP) {
            let strip = lo..range.hi.min(lo + STRIP);
            for first in (0..self.head_dim).step_by(V_DIMS) {
                let dims = V_DIMS.min(self.head_dim - first);
                let source = &self.v[lo * self.head_dim + first..];
                let v = E::widen(source, self.head_dim, strip.len(), dims, &mut tile);
                for at in (0..dims).step_by(LANES) {
                    let width = LANES.min(dims - at);
                    let mut sums = [[0.0; LANES]; R];
                    for r in 0..R {
                        load(&mut sums[r], &out[r][first + at..][..width]);
                    }
                    for (row, j) in strip.clone().enumerate() {
                        let line = v.line(row, at);
                        for r in 0..R {
                            multiply_add(&mut sums[r], weights[r][j], line);
                        }
                    }
                    for r in 0..R {
                        out[r][first + at..][..width].copy_from_slice(&sums[r][..width]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn load(line: &mut Line, x: &[f32]) {
    if let Ok(x) = x.try_into() {
        *line = x;
    } else {
        line[..x.len()].copy_from_slice(x);
    }
}

/// `sums += factor * line`, lane by lane.
#[inline(always)]
fn multiply_add(sums: &mut Line, factor: f32, line: &[f32]) {
    let line = &line[..LANES];
    for i in 0..LANES {
        sums[i] = factor.mul_add(line[i], sums[i]);
    }
}
