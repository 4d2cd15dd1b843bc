//! Byte-pair merging of one word: a linked list of symbols and a heap of candidate pairs, O(n log n).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No token, no neighbour.
pub(super) const NONE: u32 = u32::MAX;

/// A run of bytes of the word, at first one character or byte, later a merged token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Byte offset in the word.
    start: u32,
    /// Length in bytes; 0 once the symbol was merged into its left neighbour.
    len: u32,
    /// Token id, or [`NONE`] where the vocabulary has no such text.
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    /// The bytes of the symbol in its word.
    pub(super) fn text<'w>(&self, word: &'w [u8]) -> &'w [u8] {
        slice(word, self.start, self.len)
    }
}

/// A pair that the vocabulary can merge. The order of the fields is the order of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    key: u32,
    left: u32,
    right: u32,
    /// Bytes of both symbols when the pair was seen; other lengths mean that it is out of date.
    len: u32,
    id: u32,
}

/// What two neighbours merge into.
pub(super) trait Pairs {
    /// The priority (lowest first) and id of the merged token; `joined` is the text of both.
    fn join(&self, left: u32, right: u32, joined: &[u8]) -> Option<(u32, u32)>;
}

/// Buffers of the merge, kept between words.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the symbols of the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends the next symbol, `len` bytes long. A word has at most 2³¹−1 bytes.
    pub(super) fn push(&mut self, len: usize, id: u32) {
        let index = index_u32(self.symbols.len());
        let start = self.symbols.last().map_or(0, |last| last.start + last.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let prev = index.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start, len: index_u32(len), id, prev, next: NONE });
    }

    /// Merges until no pair is left and returns the symbols that remain, in order.
    pub(super) fn merge(&mut self, word: &[u8], pairs: &impl Pairs) -> impl Iterator<Item = &Symbol> {
        for left in 1..self.symbols.len() {
            self.offer(word, pairs, index_u32(left - 1));
        }
        while let Some(Reverse(pair)) = self.heap.pop() {
            let (Some(&left), Some(&right)) = (self.get(pair.left), self.get(pair.right)) else { continue };
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            self.absorb(pair);
            self.offer(word, pairs, pair.left);
            self.offer(word, pairs, left.prev);
        }
        self.symbols.iter().filter(|symbol| symbol.len != 0)
    }

    fn get(&self, index: u32) -> Option<&Symbol> {
        self.symbols.get(index as usize)
    }

    /// Gives the bytes of the right symbol to the left one and unlinks it.
    fn absorb(&mut self, pair: Candidate) {
        let Some(right) = self.symbols.get_mut(pair.right as usize) else { return };
        right.len = 0;
        let next = right.next;
        if let Some(left) = self.symbols.get_mut(pair.left as usize) {
            left.len = pair.len;
            left.id = pair.id;
            left.next = next;
        }
        if let Some(after) = self.symbols.get_mut(next as usize) {
            after.prev = pair.left;
        }
    }

    /// Queues the pair that starts at symbol `left`, where there is one and it can merge.
    fn offer(&mut self, word: &[u8], pairs: &impl Pairs, left: u32) {
        let Some(first) = self.get(left) else { return };
        let Some(second) = self.get(first.next) else { return };
        let len = first.len + second.len;
        let joined = slice(word, first.start, len);
        if let Some((key, id)) = pairs.join(first.id, second.id, joined) {
            let right = first.next;
            self.heap.push(Reverse(Candidate { key, left, right, len, id }));
        }
    }
}

/// An index of a word or a vocabulary; both are held under 2³² before they get here.
pub(super) fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

fn slice(word: &[u8], start: u32, len: u32) -> &[u8] {
    word.get(start as usize..).and_then(|rest| rest.get(..len as usize)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    struct Table(HashMap<(u32, u32), (u32, u32)>);
    impl Pairs for Table {
        fn join(&self, left: u32, right: u32, _: &[u8]) -> Option<(u32, u32)> {
            self.0.get(&(left, right)).copied()
        }
    }

    /// The definition: merge the leftmost pair of the lowest rank, again and again.
    fn naive(mut ids: Vec<u32>, table: &Table) -> Vec<u32> {
        loop {
            let best = ids
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| table.join(pair[0], pair[1], &[]).map(|(rank, id)| (rank, at, id)))
                .min();
            let Some((_, at, id)) = best else { return ids };
            ids.splice(at..at + 2, [id]);
        }
    }

    proptest! {
        #[test]
        fn heap_merge_equals_the_definition(
            word in prop::collection::vec(0_u32..3, 0..40),
            pairs in prop::collection::vec((0_u32..12, 0_u32..12), 0..24),
        ) {
            let table = Table(
                pairs.iter().enumerate().rev()
                    .map(|(rank, &pair)| (pair, (index_u32(rank), 3 + index_u32(rank) % 9)))
                    .collect(),
            );
            let mut merger = Merger::default();
            for &id in &word {
                merger.push(1, id);
            }
            let bytes = vec![0; word.len()];
            let merged: Vec<u32> = merger.merge(&bytes, &table).map(|symbol| symbol.id).collect();
            prop_assert_eq!(merged, naive(word, &table));
        }
    }
}
