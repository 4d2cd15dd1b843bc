//! One page of keys and values against a block of rows.

use super::element::{Element, view};
use super::lanes::{Lanes, Work, larger};
use super::{KvType, LANES, PAGE, PAGE_ALIGN, RowState, check_page};
use crate::cpu::prefetches_into;
use crate::math::exp;
use crate::ops::prefetch::prefetch;

/// Positions whose values are added between two loads of the output: the region read stays small and in order.
const STRIP: usize = 16;

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
pub(super) fn attend<E: Element, L: Lanes>(
    out: &mut [f32],
    state: &mut [RowState],
    q: &[f32],
    k_page: &[u8],
    v_page: &[u8],
    next: &[u8],
    valid: &[(u32, u32)],
    scale: f32,
) {
    let rows = state.len();
    if out.is_empty() {
        return;
    }
    let mut page = Page::<E>::new(k_page, v_page, next, out.len() / rows, scale);
    let mut first = 0;
    while first < rows {
        let many = L::ROWS == 8 && rows - first >= 8;
        let block = first..rows.min(first + if many { 8 } else { 4 });
        let values = block.start * page.head_dim..block.end * page.head_dim;
        let (out, state) = (&mut out[values.clone()], &mut state[block.clone()]);
        first = block.end;
        if many {
            page.attend::<L, 8>(out, state, &q[values], &valid[block]);
        } else {
            page.attend::<L, 4>(out, state, &q[values], &valid[block]);
        }
        // The other rows find what the first ones have asked for.
        (page.v_bytes, page.next) = (&[], &[]);
    }
}

/// The positions of a page that a row attends to.
#[derive(Clone, Copy)]
struct Range {
    lo: usize,
    hi: usize,
}

/// Dimensions of the scores between two requests: few enough that memory is asked evenly, and none in the inner loop.
const STRETCH: usize = 16;

/// Asks for the lines of `bytes` that begin in `range`: walks over K and V pages reach the same offsets.
#[inline(always)]
fn ask(bytes: &[u8], range: std::ops::Range<usize>) {
    if bytes.is_empty() {
        return;
    }
    let cache = prefetches_into();
    for offset in (range.start.next_multiple_of(PAGE_ALIGN)..range.end).step_by(PAGE_ALIGN) {
        prefetch(bytes, offset, cache);
    }
}

/// A position of a page, in 32 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a page has 64 positions")]
const fn small(position: usize) -> u32 {
    position as u32
}

type Line = [f32; LANES];
/// A value per position of the page.
type Positions = [Line; PAGE / LANES];

struct Page<'a, E> {
    k: &'a [[E; LANES]],
    k_scales: &'a [Line],
    v: &'a [E],
    v_scales: &'a [Line],
    /// What is read after the scores are known, and after the values are added; empty where it need not be asked for.
    v_bytes: &'a [u8],
    next: &'a [u8],
    head_dim: usize,
    scale: f32,
}

impl<'a, E: Element> Page<'a, E> {
    #[inline(always)]
    fn new(k_page: &'a [u8], v_page: &'a [u8], next: &'a [u8], head_dim: usize, scale: f32) -> Self {
        let (k, k_scales) = view::<E>(k_page, head_dim);
        let (v, v_scales) = view::<E>(v_page, head_dim);
        Self {
            k: k.as_chunks().0,
            k_scales: k_scales.as_chunks().0,
            v,
            v_scales: v_scales.as_chunks().0,
            v_bytes: v_page,
            next,
            head_dim,
            scale,
        }
    }

    /// A block of up to `B` rows: 8, or 1 to 4. What knows their number when it is compiled is kept small: each number is
    /// a copy of the code.
    #[inline(always)]
    fn attend<L: Lanes, const B: usize>(
        &self,
        out: &mut [f32],
        state: &mut [RowState],
        q: &[f32],
        valid: &[(u32, u32)],
    ) {
        let rows = state.len();
        let mut ranges = [Range { lo: 0, hi: 0 }; B];
        for (range, &(lo, hi)) in ranges.iter_mut().zip(valid) {
            *range = Range { lo: lo as usize, hi: hi as usize };
        }
        let ranges = &ranges[..rows];
        let busy = || ranges.iter().filter(|range| range.lo < range.hi);
        let lo = busy().map(|range| range.lo).min().unwrap_or(0);
        let hi = busy().map(|range| range.hi).max().unwrap_or(0);
        let blocks = lo / LANES..hi.div_ceil(LANES);
        let mut weights = [[[0.0; LANES]; PAGE / LANES]; B];
        match rows {
            _ if B == 8 => L::apart(Scores::<E, 8> { page: self, q, blocks, out: &mut weights }),
            4 => L::apart(Scores::<E, 4> { page: self, q, blocks, out: &mut weights }),
            3 => L::apart(Scores::<E, 3> { page: self, q, blocks, out: &mut weights }),
            2 => L::apart(Scores::<E, 2> { page: self, q, blocks, out: &mut weights }),
            _ => L::apart(Scores::<E, 1> { page: self, q, blocks, out: &mut weights }),
        }
        for (r, row) in out.chunks_exact_mut(self.head_dim).enumerate() {
            let (weights, state, range) = (&mut weights[r], &mut state[r], ranges[r]);
            if range.hi - range.lo == PAGE {
                L::apart(Softmax::<E, true> { page: self, weights, state, out: row, range });
            } else if range.lo < range.hi {
                L::apart(Softmax::<E, false> { page: self, weights, state, out: row, range });
            }
        }
        self.add_values::<L>(out, &weights, ranges);
    }

    /// `sum over d of q[d] * k[d][position]` for the positions of `blocks`.
    #[inline(always)]
    fn scores<L: Lanes, const R: usize>(&self, q: &[f32], blocks: std::ops::Range<usize>, scores: &mut [Positions]) {
        let mut block = blocks.start;
        // Few rows leave accumulators free: several blocks at once then hide the latency of the additions.
        while R == 1 && blocks.end - block >= 4 {
            self.scores_of::<L, R, 4>(q, block, scores);
            block += 4;
        }
        while R * 2 <= L::ACCUMULATORS && blocks.end - block >= 2 {
            self.scores_of::<L, R, 2>(q, block, scores);
            block += 2;
        }
        while block < blocks.end {
            self.scores_of::<L, R, 1>(q, block, scores);
            block += 1;
        }
    }

    /// [`Self::scores`] for `N` blocks from `block`.
    #[inline(always)]
    fn scores_of<L: Lanes, const R: usize, const N: usize>(&self, q: &[f32], block: usize, scores: &mut [Positions]) {
        let n = self.head_dim;
        let q: [&[f32]; R] = std::array::from_fn(|r| &q[r * n..][..n]);
        let k: [&[[E; LANES]]; N] = std::array::from_fn(|b| &self.k[(block + b) * n..][..n]);
        let mut sums = [[L::splat(0.0); N]; R];
        let mut start = 0;
        while start < n {
            let end = n.min(start + STRETCH);
            for b in 0..N {
                let at = |d| ((block + b) * n + d) * size_of::<[E; LANES]>();
                ask(self.v_bytes, at(start)..at(end));
            }
            for d in start..end {
                for b in 0..N {
                    let line: L = E::load(&k[b][d]);
                    for r in 0..R {
                        sums[r][b] = L::splat(q[r][d]).mul_add(line, sums[r][b]);
                    }
                }
            }
            start = end;
        }
        for r in 0..R {
            for b in 0..N {
                sums[r][b].store(&mut scores[r][block + b]);
            }
        }
    }

    /// Turns scores into the weights of the values, and brings `state` and the output so far to the new maximum. `WHOLE`
    /// says that the row attends to all positions.
    #[inline(always)]
    fn softmax<L: Lanes, const WHOLE: bool>(
        &self,
        scores: &mut Positions,
        state: &mut RowState,
        out: &mut [f32],
        range: Range,
    ) {
        // Positions in 32 bits: as many to a register as scores.
        let (lo, hi) = (small(range.lo), small(range.hi));
        let inside = |block: usize, i: usize| WHOLE || (lo..hi).contains(&small(block * LANES + i));
        let mut largest = [f32::NEG_INFINITY; LANES];
        for (block, scores) in scores.iter_mut().enumerate() {
            let k_scales = if E::SCALED { &self.k_scales[block] } else { &[1.0; LANES] };
            for i in 0..LANES {
                let score = scores[i] * k_scales[i] * self.scale;
                scores[i] = if inside(block, i) { score } else { f32::NEG_INFINITY };
                largest[i] = larger(largest[i], scores[i]);
            }
        }
        let m = larger(state.m, L::load(&largest).largest());
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
        let sum = L::load(&sum).sum();
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
    fn add_values<L: Lanes>(&self, out: &mut [f32], weights: &[Positions], ranges: &[Range]) {
        let lo = ranges.iter().map(|range| range.lo).max().unwrap_or(0);
        let hi = ranges.iter().map(|range| range.hi).min().unwrap_or(0);
        let together = ranges.len() > 1 && lo < hi;
        // What only some rows attend to comes before and after what all do.
        for after in [false, true] {
            for (r, row) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let range = match (together, after) {
                    (true, false) => Range { lo: ranges[r].lo, hi: lo },
                    (true, true) => Range { lo: hi, hi: ranges[r].hi },
                    (false, false) => ranges[r],
                    (false, true) => continue,
                };
                L::apart(Values::<E, 1> { page: self, out: row, weights: &weights[r..], range });
            }
            if together && !after {
                let range = Range { lo, hi };
                match ranges.len() {
                    8 if L::ROWS == 8 => L::apart(Values::<E, 8> { page: self, out, weights, range }),
                    4 => L::apart(Values::<E, 4> { page: self, out, weights, range }),
                    3 => L::apart(Values::<E, 3> { page: self, out, weights, range }),
                    _ => L::apart(Values::<E, 2> { page: self, out, weights, range }),
                }
            }
        }
    }

    /// [`Self::add_values`] for positions that the first `R` rows attend to.
    #[inline(always)]
    fn add_range<L: Lanes, const R: usize>(&self, out: &mut [f32], weights: &[Positions], range: Range) {
        let mut lo = range.lo;
        while lo < range.hi {
            let strip = Range { lo, hi: range.hi.min(lo + STRIP) };
            let mut d = 0;
            while R == 1 && d + 4 * LANES <= self.head_dim {
                self.add_strip::<L, R, 4>(out, weights, strip, d);
                d += 4 * LANES;
            }
            while R * 2 <= L::ACCUMULATORS && d + 2 * LANES <= self.head_dim {
                self.add_strip::<L, R, 2>(out, weights, strip, d);
                d += 2 * LANES;
            }
            while d + LANES <= self.head_dim {
                self.add_strip::<L, R, 1>(out, weights, strip, d);
                d += LANES;
            }
            if d < self.head_dim {
                self.add_tail::<L, R>(out, weights, strip, d);
            }
            lo = strip.hi;
        }
    }

    /// `N` times 16 dimensions from `d`, a few positions.
    #[inline(always)]
    fn add_strip<L: Lanes, const R: usize, const N: usize>(
        &self,
        out: &mut [f32],
        weights: &[Positions],
        strip: Range,
        d: usize,
    ) {
        let mut sums = [[L::splat(0.0); N]; R];
        for r in 0..R {
            let (lines, _) = out[r * self.head_dim + d..].as_chunks();
            for c in 0..N {
                sums[r][c] = L::load(&lines[c]);
            }
        }
        if !self.next.is_empty() {
            for j in strip.lo..strip.hi {
                let at = (j * self.head_dim + d) * size_of::<E>();
                ask(self.next, at..at + N * size_of::<[E; LANES]>());
            }
        }
        for j in strip.lo..strip.hi {
            let (lines, _) = self.v[j * self.head_dim + d..][..N * LANES].as_chunks();
            for c in 0..N {
                let line: L = E::load(&lines[c]);
                for r in 0..R {
                    sums[r][c] = L::splat(weights[r].as_flattened()[j]).mul_add(line, sums[r][c]);
                }
            }
        }
        for r in 0..R {
            let (lines, _) = out[r * self.head_dim + d..].as_chunks_mut();
            for c in 0..N {
                sums[r][c].store(&mut lines[c]);
            }
        }
    }

    /// The dimensions from `d` on, fewer than 16, padded to a line.
    #[inline(always)]
    fn add_tail<L: Lanes, const R: usize>(&self, out: &mut [f32], weights: &[Positions], strip: Range, d: usize) {
        let width = self.head_dim - d;
        for r in 0..R {
            let out = &mut out[r * self.head_dim + d..][..width];
            let mut padded = [0.0; LANES];
            padded[..width].copy_from_slice(out);
            let mut sum = L::load(&padded);
            for j in strip.lo..strip.hi {
                let mut line = [E::default(); LANES];
                line[..width].copy_from_slice(&self.v[j * self.head_dim + d..][..width]);
                sum = L::splat(weights[r].as_flattened()[j]).mul_add(E::load(&line), sum);
            }
            sum.store(&mut padded);
            out.copy_from_slice(&padded[..width]);
        }
    }
}

/// [`Page::scores`], apart.
struct Scores<'a, E, const R: usize> {
    page: &'a Page<'a, E>,
    q: &'a [f32],
    blocks: std::ops::Range<usize>,
    out: &'a mut [Positions],
}

impl<E: Element, L: Lanes, const R: usize> Work<L> for Scores<'_, E, R> {
    #[inline(always)]
    fn run(self) {
        self.page.scores::<L, R>(self.q, self.blocks, self.out);
    }
}

/// [`Page::softmax`], apart.
struct Softmax<'a, E, const WHOLE: bool> {
    page: &'a Page<'a, E>,
    weights: &'a mut Positions,
    state: &'a mut RowState,
    out: &'a mut [f32],
    range: Range,
}

impl<E: Element, L: Lanes, const WHOLE: bool> Work<L> for Softmax<'_, E, WHOLE> {
    #[inline(always)]
    fn run(self) {
        self.page.softmax::<L, WHOLE>(self.weights, self.state, self.out, self.range);
    }
}

/// [`Page::add_range`], apart.
struct Values<'a, E, const R: usize> {
    page: &'a Page<'a, E>,
    out: &'a mut [f32],
    weights: &'a [Positions],
    range: Range,
}

impl<E: Element, L: Lanes, const R: usize> Work<L> for Values<'_, E, R> {
    #[inline(always)]
    fn run(self) {
        self.page.add_range::<L, R>(self.out, self.weights, self.range);
    }
}
