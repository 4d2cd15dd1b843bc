//! Attention of every position of a sequence to all of them, or to those up to its own.
//!
//! Keys and values of a head go into pages, as those of decoders do, and the same kernels attend to them page by page. A
//! position's result depends on its own sequence alone.

use super::inputs::Spans;
use super::plan::Value;
use super::sequence::unit_bytes;
use crate::Error;
use crate::arena::cast;
use crate::plan::SlotId;
use crate::pool::partition;
use crate::run::{Kernels, Machine, deal, rows_of};
use rin_kernels::MatMut;
use rin_kernels::ops::attention::{KvType, PAGE, RowState};
use std::ops::Range;

/// Positions that attend together, and the values that they hold at most: those of a head of 128.
const GROUP: usize = 32;
const BLOCK: usize = GROUP * 128;

/// Below this many multiplications a worker does it alone.
const WORTH_SHARING: usize = 1 << 15;

impl Machine<'_> {
    /// Attention over the queries, keys and values of `x`; `pages` has room for the pages of some heads.
    pub(super) fn encode(
        &mut self,
        spans: &Spans,
        (heads, causal): (usize, bool),
        x: &Value,
        (pages, units): (SlotId, usize),
        out: &Value,
    ) -> Result<(), Error> {
        let (rows, samples) = (spans.rows(out.positions), spans.count());
        let (cols, stride) = (out.act.cols, x.act.cols);
        let head_dim = out.width / heads.max(1);
        let unit = unit_bytes(x.positions, head_dim);
        let ranges = [
            self.range(out.act.x, rows * cols * 4),
            self.range(x.act.x, rows * stride * 4),
            self.range(pages, units * unit),
        ];
        let [o, qkv, pages] = self.arena.slices_mut(ranges)?;
        let encode = Encode { kernels: self.kernels, heads, head_dim, stride, causal, qkv: cast(qkv)? };
        let whole = rows_of(crate::arena::cast_mut::<f32>(o)?, rows, cols).split_cols(out.width).0;
        let longest = |sample: usize| spans.start(out.positions, sample + 1) - spans.start(out.positions, sample);
        let work: usize = (0..samples).map(|s| longest(s) * longest(s) * out.width).sum();
        let threads = if work < WORTH_SHARING { 1 } else { self.pool.active().min(units) };
        // Where there are heads for all workers every one of them takes some heads of all sequences.
        let by_heads = heads >= threads || samples <= heads;
        let workers = threads.min(if by_heads { heads } else { samples });
        let mut rest = Some((whole, pages));
        let mut done = 0;
        let make = |i: usize| {
            let (out_rows, pages) = rest.take()?;
            let (own, pages) = pages.split_at_mut(unit);
            let range = partition(if by_heads { heads } else { samples }, workers, i, 1);
            let (share, after, heads, samples) = if by_heads {
                let (share, after) = out_rows.split_cols(range.len() * head_dim);
                (share, after, range, 0..samples)
            } else {
                let end = spans.start(out.positions, range.end);
                let (share, after) = out_rows.split_rows(end - done);
                done = end;
                (share, after, 0..heads, range)
            };
            rest = Some((after, pages));
            Some(Share { out: share, pages: own, heads, samples })
        };
        deal(self.pool, workers, make, |mut share: Share<'_>| {
            let first = spans.start(out.positions, share.samples.start);
            for sample in share.samples.clone() {
                let span = spans.start(out.positions, sample)..spans.start(out.positions, sample + 1);
                for (column, head) in share.heads.clone().enumerate() {
                    encode.head(head, span.clone(), share.pages, |position, found| {
                        let row = share.out.row_mut(position - first);
                        row[column * head_dim..][..head_dim].copy_from_slice(found);
                    });
                }
            }
        });
        self.finish(rows, out)
    }
}

/// What a worker does: some heads of all sequences, or all heads of some.
struct Share<'a> {
    out: MatMut<'a, f32>,
    pages: &'a mut [u8],
    heads: Range<usize>,
    samples: Range<usize>,
}

/// What all workers read.
#[derive(Clone, Copy)]
struct Encode<'a> {
    kernels: &'a Kernels,
    heads: usize,
    head_dim: usize,
    /// From one position to the next.
    stride: usize,
    causal: bool,
    qkv: &'a [f32],
}

impl Encode<'_> {
    /// The values of a head at a position: its queries (0), keys (1) or values (2).
    fn part(&self, position: usize, part: usize, head: usize) -> &[f32] {
        let column = (part * self.heads + head) * self.head_dim;
        &self.qkv[position * self.stride + column..][..self.head_dim]
    }

    /// Attention of the positions `span` to their sequence in one head; `put` takes what comes of each.
    fn head(&self, head: usize, span: Range<usize>, pages: &mut [u8], mut put: impl FnMut(usize, &[f32])) {
        let hd = self.head_dim;
        let (k_bytes, v_bytes) = (KvType::F32.k_page_bytes(hd), KvType::F32.v_page_bytes(hd));
        let attention = &self.kernels.attention;
        for (i, position) in span.clone().enumerate() {
            let page = &mut pages[i / PAGE * (k_bytes + v_bytes)..][..k_bytes + v_bytes];
            let (k_page, v_page) = page.split_at_mut(k_bytes);
            let (key, value) = (self.part(position, 1, head), self.part(position, 2, head));
            attention.store.run(k_page, v_page, i % PAGE, key, value);
        }
        let pages = &*pages;
        let scale = 1.0 / (hd as f32).sqrt();
        let group = GROUP.min(BLOCK / hd);
        let (mut q, mut out) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut at = span.start;
        while at < span.end {
            let n = group.min(span.end - at);
            for (i, q) in q.chunks_exact_mut(hd).take(n).enumerate() {
                q.copy_from_slice(self.part(at + i, 0, head));
            }
            let (q, out) = (&q[..n * hd], &mut out[..n * hd]);
            let mut state = [RowState::EMPTY; GROUP];
            let first = at - span.start;
            let seen = |i: usize| if self.causal { first + i + 1 } else { span.len() };
            for (p, page) in pages.chunks_exact(k_bytes + v_bytes).take(seen(n - 1).div_ceil(PAGE)).enumerate() {
                let (k_page, v_page) = page.split_at(k_bytes);
                let mut valid = [(0, 0); GROUP];
                for (i, valid) in valid[..n].iter_mut().enumerate() {
                    // At most 64.
                    *valid = (0, u32::try_from(seen(i).saturating_sub(p * PAGE).min(PAGE)).unwrap_or(0));
                }
                attention.page.run(out, &mut state[..n], q, k_page, v_page, &[], &valid[..n], scale);
            }
            attention.finish.run(out, &state[..n], hd);
            for (i, found) in out.chunks_exact(hd).enumerate() {
                put(at + i, found);
            }
            at += n;
        }
    }
}
