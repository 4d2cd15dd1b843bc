//! Rotation, the KV cache, and attention over its pages.
//!
//! A layer's cache is `(kv heads, pages, K page | V page)`. A page holds 64 positions and is the block of the online
//! softmax, so the result of a token depends on its position alone, not on how its sequence was cut into steps.

use super::split::{deal, rows_of};
use super::{ActRows, BatchToken, QuantizeAct, Runner};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::cache::PageCache;
use crate::plan::{Act, SlotId};
use crate::pool::partition;
use rin_kernels::MatMut;
use rin_kernels::ops::attention::{PAGE, RowState};
use rin_model::Pairing;

/// Query heads that one call attends with; larger groups take several calls.
const GROUP: usize = 32;

/// Sizes of a layer's cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    head_dim: usize,
    pub(super) n_kv_heads: usize,
    /// Query heads per key head.
    group: usize,
    k_bytes: usize,
    pub(super) page_bytes: usize,
    /// Bytes of all pages of a head.
    pub(super) head_bytes: usize,
}

impl Runner {
    pub(super) fn cache_sizes(&self) -> Cache {
        let c = &self.plan.config;
        let k_bytes = self.plan.kv_type.k_page_bytes(c.head_dim);
        let page_bytes = k_bytes + self.plan.kv_type.v_page_bytes(c.head_dim);
        Cache {
            head_dim: c.head_dim,
            n_kv_heads: c.n_kv_heads,
            group: c.n_heads / c.n_kv_heads.max(1),
            k_bytes,
            page_bytes,
            head_bytes: page_bytes * self.plan.cache_shape().pages,
        }
    }

    pub(super) fn rope_store(
        &mut self,
        batch: &[BatchToken],
        [q, k, v]: [SlotId; 3],
        angles: Option<(SlotId, SlotId)>,
        kv: SlotId,
    ) -> Result<(), Error> {
        let cache = self.cache_sizes();
        let (hd, heads, rows) = (cache.head_dim, cache.n_kv_heads, batch.len());
        let pairs = if angles.is_some() { self.plan.config.rope.dims / 2 } else { 0 };
        let of_angles = |slot: Option<SlotId>| slot.map_or(0..0, |slot| self.range(slot, rows * pairs * 4));
        let interleaved = self.plan.config.rope.pairing == Pairing::Interleaved;
        let ranges = [
            self.range(q, rows * heads * cache.group * hd * 4),
            self.range(k, rows * heads * hd * 4),
            self.range(v, rows * heads * hd * 4),
            of_angles(angles.map(|(cos, _)| cos)),
            of_angles(angles.map(|(_, sin)| sin)),
            self.range(kv, heads * cache.head_bytes),
        ];
        let [q, k, v, cos, sin, kv] = self.arena.slices_mut(ranges)?;
        let (v, cos, sin) = (cast::<f32>(v)?, cast::<f32>(cos)?, cast::<f32>(sin)?);
        let mut rest =
            Some((rows_of(cast_mut(q)?, rows, heads * cache.group * hd), rows_of(cast_mut(k)?, rows, heads * hd), kv));
        let (kernels, pages) = (&self.kernels, &self.cache);
        let run = |(first, mut q, mut k, kv): Heads<'_>| {
            for (r, token) in batch.iter().enumerate() {
                if pairs > 0 {
                    let (cos, sin) = (&cos[r * pairs..][..pairs], &sin[r * pairs..][..pairs]);
                    kernels.rope.run(q.row_mut(r), cos, sin, hd, interleaved);
                    kernels.rope.run(k.row_mut(r), cos, sin, hd, interleaved);
                }
                let position = token.position as usize;
                let page = pages.row(token.sequence as usize)[position / PAGE] as usize;
                let values = &v[(r * heads + first) * hd..];
                let keys = k.row(r).chunks_exact(hd);
                for ((head, key), value) in kv.chunks_exact_mut(cache.head_bytes).zip(keys).zip(values.chunks_exact(hd))
                {
                    let page = &mut head[page * cache.page_bytes..][..cache.page_bytes];
                    let (k_page, v_page) = page.split_at_mut(cache.k_bytes);
                    kernels.attention.store.run(k_page, v_page, position % PAGE, key, value);
                }
            }
        };
        // One token is quicker done than handed out.
        let workers = if rows * heads * hd < 4096 { 1 } else { self.pool.active().min(heads) };
        let make = |i: usize| {
            let range = partition(heads, workers, i, 1);
            let (q, k, kv) = rest.take()?;
            let (q0, q1) = q.split_cols(range.len() * cache.group * hd);
            let (k0, k1) = k.split_cols(range.len() * hd);
            let (kv0, kv1) = kv.split_at_mut(range.len() * cache.head_bytes);
            rest = Some((q1, k1, kv1));
            Some((range.start, q0, k0, kv0))
        };
        deal(&mut self.pool, workers, make, run);
        Ok(())
    }

    pub(super) fn attend(&mut self, batch: &[BatchToken], q: SlotId, kv: SlotId, out: &Act) -> Result<(), Error> {
        let cache = self.cache_sizes();
        let rows = batch.len();
        let act = self.machine().act_ranges(rows, out);
        let [a, b, c, d, e, f, g, _] = act;
        let kv_range = self.range(kv, cache.n_kv_heads * cache.head_bytes);
        let ranges = [a, b, c, d, e, f, g, self.range(q, rows * out.cols * 4), kv_range];
        let [a, b, c, d, e, f, g, q, kv] = self.arena.slices_mut(ranges)?;
        let (q, kv): (&[f32], &[u8]) = (cast(q)?, kv);
        let window = self.plan.config.window;
        let attend = Attend { runner: &self.kernels, cache, batch, q, kv, pages: &self.cache, window };
        let mut whole = ActRows::new([a, b, c, d, e, f, g], rows, out)?;
        let threads = self.pool.active();
        let quantize = QuantizeAct::new(out);
        if rows >= 2 * threads {
            let mut rest = Some(whole);
            let mut at = 0;
            let make = |i: usize| {
                let end = if i + 1 == threads { rows } else { balanced(batch, threads, i + 1) };
                let (share, after) = super::split::Rows::split_rows(rest.take()?, end - at);
                rest = Some(after);
                let first = std::mem::replace(&mut at, end);
                Some((first, share))
            };
            deal(&mut self.pool, threads, make, |(first, mut a): (usize, ActRows<'_>)| {
                let mut block = Block::new();
                let mut r = 0;
                while r < a.x.rows() {
                    let tokens = attend.block_len(first + r, a.x.rows() - r);
                    if tokens == 1 {
                        attend.token(first + r, 0, a.x.row_mut(r));
                    } else {
                        attend.block(first + r, tokens, &mut block, |t, at, found| {
                            a.x.row_mut(r + t)[at].copy_from_slice(found);
                        });
                    }
                    for r in r..r + tokens {
                        quantize.run(attend.runner, &mut a, r);
                    }
                    r += tokens;
                }
            });
            return Ok(());
        }
        let heads = cache.n_kv_heads;
        let work: usize = batch.iter().map(|t| (t.position as usize + 1) * out.cols).sum();
        let workers = if work < 1 << 14 { 1 } else { threads.min(heads) };
        let mut rest = Some(whole.x.reborrow());
        let make = |i: usize| {
            let range = partition(heads, workers, i, 1);
            let (share, after) = rest.take()?.split_cols(range.len() * cache.group * cache.head_dim);
            rest = Some(after);
            Some((range.start, share))
        };
        deal(&mut self.pool, workers, make, |(head, mut x): (usize, MatMut<'_, f32>)| {
            for r in 0..x.rows() {
                attend.token(r, head, x.row_mut(r));
            }
        });
        for r in 0..rows {
            quantize.run(&self.kernels, &mut whole, r);
        }
        Ok(())
    }
}

/// A worker's heads: the first one, its columns of q and k, its part of the cache.
type Heads<'a> = (usize, MatMut<'a, f32>, MatMut<'a, f32>, &'a mut [u8]);

/// First token of share `i` of `n`, such that all shares read about as many positions.
fn balanced(batch: &[BatchToken], n: usize, i: usize) -> usize {
    let total: u64 = batch.iter().map(|t| u64::from(t.position) + 16).sum();
    let goal = total * i as u64 / n as u64;
    let mut sum = 0;
    batch
        .iter()
        .position(|t| {
            sum += u64::from(t.position) + 16;
            sum > goal
        })
        .unwrap_or(batch.len())
}

/// Numbers of a [`Block`]: 32 rows of a head of 128.
const BLOCK: usize = GROUP * 128;

/// Queries of several tokens for one key head, and what comes of them, row by row.
struct Block {
    q: [f32; BLOCK],
    out: [f32; BLOCK],
}

impl Block {
    const fn new() -> Self {
        Self { q: [0.0; BLOCK], out: [0.0; BLOCK] }
    }
}

/// What all workers read.
#[derive(Clone, Copy, Debug)]
struct Attend<'a> {
    runner: &'a super::Kernels,
    cache: Cache,
    batch: &'a [BatchToken],
    q: &'a [f32],
    kv: &'a [u8],
    pages: &'a PageCache,
    window: Option<usize>,
}

impl Attend<'_> {
    /// Attention of token `r` for the heads that `out` holds, from key head `first` on.
    fn token(&self, r: usize, first: usize, out: &mut [f32]) {
        let Cache { head_dim: hd, group, .. } = self.cache;
        let q_cols = self.cache.n_kv_heads * group * hd;
        let q = &self.q[r * q_cols + first * group * hd..][..out.len()];
        out.fill(0.0);
        let head_cols = group * hd;
        for (head, (q, out)) in q.chunks_exact(head_cols).zip(out.chunks_exact_mut(head_cols)).enumerate() {
            for (q, out) in q.chunks(GROUP * hd).zip(out.chunks_mut(GROUP * hd)) {
                self.head(&self.batch[r..=r], first + head, q, out);
            }
        }
    }

    /// Tokens from `r` on, at most `most`, that can share each page they read: consecutive ones of one sequence, of
    /// which a head's queries fit a [`Block`].
    fn block_len(&self, r: usize, most: usize) -> usize {
        let Cache { head_dim: hd, group, .. } = self.cache;
        let fits = (GROUP / group).min(BLOCK / (group * hd)).min(most);
        let first = self.batch[r];
        let follows = |t: &usize| {
            let token = self.batch[r + t];
            token.sequence == first.sequence && token.position as usize == first.position as usize + t
        };
        (1..fits).take_while(follows).count() + 1
    }

    /// Attention of `tokens` tokens from `r` on for all heads; `put` takes columns of the output of one of them.
    fn block(
        &self,
        r: usize,
        tokens: usize,
        block: &mut Block,
        mut put: impl FnMut(usize, std::ops::Range<usize>, &[f32]),
    ) {
        let head_cols = self.cache.group * self.cache.head_dim;
        let heads = self.cache.n_kv_heads;
        for head in 0..heads {
            let columns = head * head_cols..(head + 1) * head_cols;
            for (t, q) in block.q.chunks_exact_mut(head_cols).take(tokens).enumerate() {
                q.copy_from_slice(&self.q[(r + t) * heads * head_cols..][columns.clone()]);
            }
            let n = tokens * head_cols;
            self.head(&self.batch[r..r + tokens], head, &block.q[..n], &mut block.out[..n]);
            for (t, found) in block.out[..n].chunks_exact(head_cols).enumerate() {
                put(t, columns.clone(), found);
            }
        }
    }

    /// Up to [`GROUP`] queries over one key head: as many of each of `tokens`, which are consecutive ones of a sequence.
    fn head(&self, tokens: &[BatchToken], kv_head: usize, q: &[f32], out: &mut [f32]) {
        let Cache { head_dim: hd, k_bytes, page_bytes, head_bytes, .. } = self.cache;
        let rows = out.len() / hd;
        let mut state = [RowState::EMPTY; GROUP];
        let mut valid = [(0, 0); GROUP];
        let Some((first, last)) = tokens.first().zip(tokens.last()) else { return };
        let start_of = |end: usize| self.window.map_or(0, |w| end.saturating_sub(w));
        let (start, end) = (start_of(first.position as usize + 1), last.position as usize + 1);
        let table = self.pages.row(first.sequence as usize);
        let cache = &self.kv[kv_head * head_bytes..][..head_bytes];
        let scale = 1.0 / (hd as f32).sqrt();
        let page = |logical: usize| &cache[table[logical] as usize * page_bytes..][..page_bytes];
        let pages = start / PAGE..end.div_ceil(PAGE);
        for logical in pages.clone() {
            let next = if logical + 1 < pages.end { page(logical + 1) } else { &[] };
            let page = page(logical);
            let (k_page, v_page) = page.split_at(k_bytes);
            // At most 64.
            let within = |p: usize| u32::try_from(p.saturating_sub(logical * PAGE).min(PAGE)).unwrap_or(0);
            for (valid, token) in valid[..rows].chunks_exact_mut(rows / tokens.len()).zip(tokens) {
                let end = token.position as usize + 1;
                valid.fill((within(start_of(end)), within(end)));
            }
            self.runner.attention.page.run(out, &mut state[..rows], q, k_page, v_page, next, &valid[..rows], scale);
        }
        self.runner.attention.finish.run(out, &state[..rows], hd);
    }
}
