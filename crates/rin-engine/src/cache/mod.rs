//! Whose the pages of the KV cache are.
//!
//! A page holds [`PAGE`] positions of every layer. Each sequence has a row of a table from its own pages to those of the
//! cache. What a sequence may ever need is promised to it when it is admitted, so that nothing runs out in the middle.
//!
//! **Shared prefixes.** A full page is indexed by its tokens and the page before it, and by the contract holds the same bits
//! whoever computed it. A sequence that begins with the same tokens takes such pages into its own row: nothing is copied
//! and nothing computed. Pages that nobody uses stay indexed until their place is needed, those longest unused first.
//!
//! **Windows.** Where a network attends to the last `w` positions only, pages that fell out of the window go back, and a
//! sequence is promised no more than a window needs. There a page has one user at a time, so that giving it back always
//! frees one.
//!
//! Everything is sized by [`PageCache::new`]; nothing here allocates afterwards.

#[cfg(test)]
mod tests;

use crate::Error;
use rin_kernels::ops::attention::PAGE;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

/// Sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Pages of the cache.
    pub pages: usize,
    /// Sequences at once.
    pub rows: usize,
    /// Pages of the longest sequence.
    pub row_pages: usize,
    /// Positions that a token attends to; none: all.
    pub window: Option<usize>,
    /// Pages that a window and one step take.
    pub window_pages: usize,
}

impl CacheShape {
    /// Whether there are pages at all: a network whose layers all have memories of a fixed size has none, and counts
    /// positions only.
    fn is_paged(&self) -> bool {
        self.row_pages > 0
    }
}

/// A full page's place in the index: the page before it, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Parent {
    Start,
    Page { page: u32, generation: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Page {
    /// Sequences that have it in their rows.
    users: u32,
    /// How often its content was replaced.
    generation: u32,
    /// Its key in the index; none while it is not indexed.
    key: Option<u64>,
    parent: Parent,
    /// When it was last given back: larger is later.
    stamp: u64,
}

/// A sequence's place.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    in_use: bool,
    /// Positions filled.
    position: usize,
    /// Positions that it may fill.
    limit: usize,
    /// First page that it still has.
    first: usize,
    /// One past the last page that it has.
    end: usize,
    /// Pages that it may still take at once.
    promised: usize,
}

/// The pages of all sequences.
#[derive(Debug)]
pub struct PageCache {
    shape: CacheShape,
    pages: Vec<Page>,
    free: Vec<u32>,
    rows: Vec<Row>,
    /// `(rows, row_pages)`: pages of the cache.
    table: Vec<u32>,
    index: HashMap<u64, u32>,
    hasher: RandomState,
    clock: u64,
    /// Pages promised and not taken yet.
    promised: usize,
    /// Indexed pages that nobody uses.
    idle: usize,
}

/// What a page becomes before it can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The page to copy from.
    pub from: u32,
    /// The page to copy to.
    pub to: u32,
}

impl CacheShape {
    /// The first page that the token at `position` can attend to.
    pub fn first_live(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window) / PAGE)
    }
}

impl PageCache {
    /// An empty cache.
    pub fn new(shape: CacheShape) -> Self {
        let page = Page { users: 0, generation: 0, key: None, parent: Parent::Start, stamp: 0 };
        // Twice as many as there can ever be, so that the map never grows.
        let index = HashMap::with_capacity(2 * shape.pages);
        Self {
            shape,
            pages: vec![page; shape.pages],
            free: (0..shape.pages).rev().map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect(),
            rows: vec![Row::default(); shape.rows],
            table: vec![0; shape.rows * shape.row_pages],
            index,
            hasher: RandomState::new(),
            clock: 0,
            promised: 0,
            idle: 0,
        }
    }

    /// The row of a sequence: its pages in the cache.
    pub fn row(&self, row: usize) -> &[u32] {
        self.table.get(row * self.shape.row_pages..).unwrap_or_default().get(..self.shape.row_pages).unwrap_or_default()
    }

    /// Positions that a sequence has filled.
    pub fn position(&self, row: usize) -> usize {
        self.rows[row].position
    }

    /// Positions that a sequence may fill.
    pub fn limit(&self, row: usize) -> usize {
        self.rows[row].limit
    }

    /// The pages that a sequence has, as a range of its row.
    pub fn held(&self, row: usize) -> std::ops::Range<usize> {
        self.rows[row].first..self.rows[row].end
    }

    /// Pages that could be promised now.
    pub fn available(&self) -> usize {
        (self.free.len() + self.idle).saturating_sub(self.promised)
    }

    /// Whether pages fall out of a window.
    fn is_windowed(&self) -> bool {
        self.shape.window.is_some()
    }

    /// Admits a sequence of up to `limit` positions that begins with `prompt`, of which it has [`position`](Self::position)
    /// tokens at once: those of whole pages that are there already, and never all. `tokens` holds the tokens of all pages.
    ///
    /// # Errors
    ///
    /// [`Error::NoSequenceLeft`], [`Error::CacheFull`].
    pub fn admit(&mut self, prompt: &[u32], limit: usize, tokens: &[u32]) -> Result<usize, Error> {
        let row = self.rows.iter().position(|row| !row.in_use).ok_or(Error::NoSequenceLeft(self.rows.len()))?;
        let base = row * self.shape.row_pages;
        let n_pages = limit.div_ceil(PAGE);
        let most = (prompt.len().saturating_sub(1) / PAGE).min(n_pages);
        let (mut shared, mut unused) = (0, 0);
        let mut parent = Parent::Start;
        for chunk in prompt.chunks_exact(PAGE).take(most) {
            let Some(page) = self.find(parent, chunk, tokens) else { break };
            let of = &self.pages[page as usize];
            if self.is_windowed() && of.users > 0 {
                break;
            }
            unused += usize::from(of.users == 0);
            parent = Parent::Page { page, generation: of.generation };
            self.table[base + shared] = page;
            shared += 1;
        }
        let first = self.shape.first_live(shared * PAGE);
        if self.is_windowed() {
            // Only the pages within the window are taken.
            unused = shared - first;
        }
        let mut state = Row { in_use: true, position: shared * PAGE, limit, first, end: shared, promised: 0 };
        state.promised = self.may_take(&state);
        let (needed, available) = (state.promised + unused, self.available());
        if needed > available {
            return Err(Error::CacheFull { needed: needed * PAGE, available: available * PAGE });
        }
        for i in first..shared {
            let page = self.table[base + i] as usize;
            self.idle -= usize::from(self.pages[page].users == 0);
            self.pages[page].users += 1;
        }
        self.promised += state.promised;
        self.rows[row] = state;
        Ok(row)
    }

    /// Pages that a sequence may take beside those that it has.
    fn may_take(&self, row: &Row) -> usize {
        if !self.shape.is_paged() {
            return 0;
        }
        let ahead = row.limit.div_ceil(PAGE).saturating_sub(row.end);
        if self.is_windowed() { ahead.min(self.shape.window_pages.saturating_sub(row.end - row.first)) } else { ahead }
    }

    fn renew_promise(&mut self, row: usize) {
        let promised = self.may_take(&self.rows[row]);
        let before = std::mem::replace(&mut self.rows[row].promised, promised);
        self.promised = self.promised + promised - before;
    }

    /// Takes the pages for `n` more positions.
    ///
    /// # Errors
    ///
    /// [`Error::CacheFull`] beyond what was promised.
    pub fn extend(&mut self, row: usize, n: usize) -> Result<(), Error> {
        let state = self.rows[row];
        let end = (state.position + n).div_ceil(PAGE);
        let missing = if self.shape.is_paged() { end.saturating_sub(state.end) } else { 0 };
        if state.position + n > state.limit || missing > state.promised {
            let room = state.limit.saturating_sub(state.position);
            let available = if self.shape.is_paged() { room.min(state.promised * PAGE) } else { room };
            return Err(Error::CacheFull { needed: n, available });
        }
        for i in state.end..state.end + missing {
            let page = self.take().ok_or(Error::CacheFull { needed: n, available: 0 })?;
            self.table[row * self.shape.row_pages + i] = page;
            self.rows[row].end = i + 1;
            self.rows[row].promised -= 1;
            self.promised -= 1;
        }
        Ok(())
    }

    /// Takes the pages of a sequence that was at `position` when it was saved; their content follows.
    ///
    /// # Errors
    ///
    /// [`Error::CacheFull`] beyond what was promised.
    pub fn restore(&mut self, row: usize, position: usize) -> Result<(), Error> {
        if !self.shape.is_paged() {
            self.rows[row].position = 0;
            self.extend(row, position)?;
            self.rows[row].position = position;
            return Ok(());
        }
        let first = self.shape.first_live(position);
        (self.rows[row].first, self.rows[row].end) = (first, first);
        self.renew_promise(row);
        self.rows[row].position = first * PAGE;
        self.extend(row, position - first * PAGE)?;
        self.rows[row].position = position;
        Ok(())
    }

    /// A page for one user: a free one, else the one that is longest unused.
    fn take(&mut self) -> Option<u32> {
        let page = if let Some(page) = self.free.pop() {
            page
        } else {
            let idle = |(_, p): &(usize, &Page)| p.users == 0 && p.key.is_some();
            let (oldest, _) = self.pages.iter().enumerate().filter(idle).min_by_key(|(_, p)| p.stamp)?;
            self.forget(oldest);
            self.idle -= 1;
            u32::try_from(oldest).ok()?
        };
        self.pages[page as usize].users = 1;
        Some(page)
    }

    /// Takes a page out of the index.
    fn forget(&mut self, page: usize) {
        if let Some(key) = self.pages[page].key.take() {
            self.index.remove(&key);
            self.pages[page].generation = self.pages[page].generation.wrapping_add(1);
        }
    }

    /// Counts `n` positions as filled, whose tokens lie in `tokens` already; indexes the pages that became full and gives
    /// back those that fell out of the window.
    pub fn commit(&mut self, row: usize, n: usize, tokens: &[u32]) {
        let before = self.rows[row].position;
        self.rows[row].position += n;
        if !self.shape.is_paged() {
            return;
        }
        // A restored sequence has full pages that are not indexed yet.
        let first = if n == 0 { self.rows[row].first } else { before / PAGE };
        for i in first..(before + n) / PAGE {
            self.index(row, i, tokens);
        }
        let first = self.shape.first_live(self.rows[row].position).min(self.rows[row].end);
        if first > self.rows[row].first {
            for i in self.rows[row].first..first {
                self.give_back(self.table[row * self.shape.row_pages + i]);
            }
            self.rows[row].first = first;
            self.renew_promise(row);
        }
    }

    /// Indexes a full page of a row, or takes the one that is indexed for the same tokens in its place.
    fn index(&mut self, row: usize, i: usize, tokens: &[u32]) {
        let base = row * self.shape.row_pages;
        let parent = match i.checked_sub(1) {
            None => Parent::Start,
            Some(before) => {
                let page = self.table[base + before];
                let of = &self.pages[page as usize];
                if before < self.rows[row].first || of.key.is_none() {
                    return;
                }
                Parent::Page { page, generation: of.generation }
            }
        };
        let page = self.table[base + i];
        let Some(own) = of_page(tokens, page) else { return };
        if let Some(twin) = self.find(parent, own, tokens) {
            let users = self.pages[twin as usize].users;
            if self.is_windowed() && users > 0 {
                return;
            }
            self.idle -= usize::from(users == 0);
            self.pages[twin as usize].users += 1;
            self.table[base + i] = twin;
            self.give_back(page);
            return;
        }
        let key = self.hasher.hash_one((parent, own));
        // Another chain with the same hash keeps its place; this page is not shared then.
        if let Entry::Vacant(entry) = self.index.entry(key) {
            entry.insert(page);
            let of = &mut self.pages[page as usize];
            (of.key, of.parent) = (Some(key), parent);
        }
    }

    /// The indexed page that holds `chunk` after `parent`. The tokens themselves are compared, not their hash alone.
    fn find(&self, parent: Parent, chunk: &[u32], tokens: &[u32]) -> Option<u32> {
        let page = *self.index.get(&self.hasher.hash_one((parent, chunk)))?;
        let same = self.pages[page as usize].parent == parent && of_page(tokens, page)? == chunk;
        same.then_some(page)
    }

    fn give_back(&mut self, page: u32) {
        self.clock += 1;
        let of = &mut self.pages[page as usize];
        of.users -= 1;
        of.stamp = self.clock;
        if of.users == 0 {
            if of.key.is_some() { self.idle += 1 } else { self.free.push(page) }
        }
    }

    /// Forgets all but the first `n` positions. Where the page that holds the last of them is shared, another takes its
    /// place, and its content has to be copied.
    ///
    /// # Errors
    ///
    /// [`Error::CacheFull`] where pages are shared that would have to be promised anew; [`Error::OutOfWindow`] where a
    /// position is wanted that has fallen out of the window. Nothing changes then.
    pub fn truncate(&mut self, row: usize, n: usize) -> Result<Option<Copied>, Error> {
        let base = row * self.shape.row_pages;
        let state = self.rows[row];
        if n >= state.position {
            return Ok(None);
        }
        if !self.shape.is_paged() {
            self.rows[row].position = n;
            return Ok(None);
        }
        let keep = n.div_ceil(PAGE);
        if self.shape.first_live(n) < state.first {
            return Err(Error::OutOfWindow { position: n });
        }
        let users = |i: usize| self.pages[self.table[base + i] as usize].users;
        let partial = (!n.is_multiple_of(PAGE)).then(|| keep - 1);
        let copies = partial.is_some_and(|i| users(i) > 1);
        let still_used = (keep..state.end).filter(|&i| users(i) > 1).count();
        let needed = still_used + usize::from(copies);
        if needed > self.available() {
            return Err(Error::CacheFull { needed: needed * PAGE, available: self.available() * PAGE });
        }
        for i in (keep..state.end).rev() {
            self.give_back(self.table[base + i]);
        }
        self.rows[row].end = keep;
        self.rows[row].position = n;
        let mut copied = None;
        if let Some(i) = partial {
            let from = self.table[base + i];
            if copies {
                let to = self.take().ok_or(Error::CacheFull { needed: PAGE, available: 0 })?;
                self.pages[from as usize].users -= 1;
                self.table[base + i] = to;
                copied = Some(Copied { from, to });
            } else {
                self.forget(from as usize);
            }
        }
        self.renew_promise(row);
        Ok(copied)
    }

    /// Gives a row back; its indexed pages stay until their place is needed, the first ones longest.
    pub fn release(&mut self, row: usize) {
        let Some(state) = self.rows.get(row).copied().filter(|state| state.in_use) else { return };
        for i in (state.first..state.end).rev() {
            self.give_back(self.table[row * self.shape.row_pages + i]);
        }
        self.promised -= state.promised;
        self.rows[row] = Row::default();
    }

    /// Forgets all pages that nobody uses.
    pub fn clear(&mut self) {
        for page in 0..self.pages.len() {
            if self.pages[page].users == 0 && self.pages[page].key.is_some() {
                self.forget(page);
                self.free.push(u32::try_from(page).unwrap_or(u32::MAX));
            }
        }
        self.idle = 0;
    }
}

/// The tokens of a page.
fn of_page(tokens: &[u32], page: u32) -> Option<&[u32]> {
    tokens.get(page as usize * PAGE..)?.get(..PAGE)
}
