//! The pages of the cache and the arena that they lie in.

use super::Runner;
use crate::Error;
use crate::arena::{Arena, cast, cast_mut};
use crate::cache::Copied;
use crate::plan::{Plan, Step};
use rin_kernels::ops::attention::PAGE;
use std::ops::Range;

/// The ids of all pages, `(pages, 64)`.
fn page_tokens<'a>(plan: &Plan, arena: &'a Arena) -> Result<&'a [u32], Error> {
    let slot = &plan.slots[plan.page_tokens.0];
    Ok(cast(arena.bytes().get(slot.offset..slot.offset + slot.bytes).unwrap_or_default())?)
}

impl Runner {
    /// Admits a sequence of at most a context; see [`PageCache::admit`](crate::cache::PageCache::admit).
    pub(crate) fn admit(&mut self, prompt: &[u32], limit: usize) -> Result<usize, Error> {
        let ctx = self.plan.options.ctx;
        if limit > ctx {
            return Err(Error::PromptTooLong { tokens: limit, ctx });
        }
        // Pages alone do not hold what a memory of a fixed size held at their end.
        let shared = if self.plan.held.is_empty() { prompt } else { &[] };
        let row = self.cache.admit(shared, limit, page_tokens(&self.plan, &self.arena)?)?;
        self.clear_held(row);
        Ok(row)
    }

    /// Goes back to the first `n` tokens of a sequence; see [`PageCache::truncate`](crate::cache::PageCache::truncate).
    pub(crate) fn truncate(&mut self, row: usize, n: usize) -> Result<(), Error> {
        if n < self.cache.position(row) && !self.plan.held.is_empty() {
            if n > 0 {
                return Err(Error::NotRewindable { position: n });
            }
            self.clear_held(row);
        }
        self.truncate_pages(row, n)
    }

    /// Goes back to the first `n` tokens in the pages alone; memories of a fixed size stay as they are.
    pub(crate) fn truncate_pages(&mut self, row: usize, n: usize) -> Result<(), Error> {
        if let Some(Copied { from, to }) = self.cache.truncate(row, n)? {
            self.copy_page(from, to);
        }
        Ok(())
    }

    /// A new sequence that holds what `row` holds, in pages and memories of its own.
    pub(crate) fn fork(&mut self, row: usize) -> Result<usize, Error> {
        let (position, limit) = (self.cache.position(row), self.cache.limit(row));
        let copy = self.cache.admit(&[], limit, page_tokens(&self.plan, &self.arena)?)?;
        if let Err(error) = self.cache.restore(copy, position) {
            self.cache.release(copy);
            return Err(error);
        }
        for i in self.cache.held(copy) {
            let (from, to) = (self.cache.row(row)[i], self.cache.row(copy)[i]);
            self.copy_page(from, to);
        }
        self.copy_held(row, copy);
        self.commit(copy, 0)?;
        Ok(copy)
    }

    /// Takes the pages for the next tokens of a sequence and writes their ids down.
    pub(crate) fn take_pages(&mut self, row: usize, ids: &[u32]) -> Result<(), Error> {
        let first = self.cache.position(row);
        let held = self.cache.held(row).end;
        self.cache.extend(row, ids.len())?;
        // What an earlier sequence left behind is nobody's any more.
        for i in held..self.cache.held(row).end {
            let page = self.cache.row(row)[i];
            self.each_page_part(page, |bytes, part| bytes[part].fill(0));
        }
        self.write_tokens(row, first, ids)
    }

    /// Writes down the ids at positions `first..` of a sequence.
    pub(crate) fn write_tokens(&mut self, row: usize, first: usize, ids: &[u32]) -> Result<(), Error> {
        let range = self.range(self.plan.page_tokens, usize::MAX);
        let tokens: &mut [u32] = cast_mut(self.arena.bytes_mut().get_mut(range).unwrap_or_default())?;
        let pages = self.cache.row(row);
        if pages.is_empty() {
            return Ok(());
        }
        for (i, &id) in ids.iter().enumerate() {
            let at = first + i;
            tokens[pages[at / PAGE] as usize * PAGE + at % PAGE] = id;
        }
        Ok(())
    }

    /// Counts the next `n` tokens of a sequence as stored.
    pub(crate) fn commit(&mut self, row: usize, n: usize) -> Result<(), Error> {
        self.cache.commit(row, n, page_tokens(&self.plan, &self.arena)?);
        Ok(())
    }

    /// Copies a page, its tokens included.
    pub(crate) fn copy_page(&mut self, from: u32, to: u32) {
        self.each_page_part(from, |bytes, part| {
            // Parts of all pages are as long as this one and follow each other.
            let of_first = part.start - from as usize * part.len();
            bytes.copy_within(part.clone(), of_first + to as usize * part.len());
        });
    }

    /// Calls `f` with the arena and each place in it that belongs to a page: its tokens, then its keys and values, head by
    /// head and layer by layer.
    pub(crate) fn each_page_part(&mut self, page: u32, mut f: impl FnMut(&mut [u8], Range<usize>)) {
        let sizes = self.cache_sizes();
        let at = |start: usize, bytes: usize| start + page as usize * bytes..start + (page as usize + 1) * bytes;
        let tokens = self.plan.slots[self.plan.page_tokens.0].offset;
        f(self.arena.bytes_mut(), at(tokens, PAGE * 4));
        for step in &self.plan.steps {
            let Step::Attend { kv, .. } = step else { continue };
            let start = self.plan.slots[kv.0].offset;
            for head in 0..sizes.n_kv_heads {
                f(self.arena.bytes_mut(), at(start + head * sizes.head_bytes, sizes.page_bytes));
            }
        }
    }
}
