//! Numbered entries found by their keys: an open-addressing table of numbers, the keys stay where they are.

use std::hash::{BuildHasher, RandomState};

/// Most entries: a slot holds a number and a few bits of the hash.
pub(super) const MAX_ENTRIES: usize = 1 << ENTRY_BITS;

const ENTRY_BITS: u32 = 24;
const ENTRY_MASK: u32 = (1 << ENTRY_BITS) - 1;
/// No entry; its upper bits are those of no hash.
const EMPTY: u32 = u32::MAX;

/// Finds numbers below [`MAX_ENTRIES`].
#[derive(Debug)]
pub(super) struct Index {
    slots: Box<[u32]>,
    seeds: [u64; 2],
}

/// A key's place in one index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    slot: usize,
    /// Upper bits of the slot that holds the key.
    tag: u32,
}

impl Index {
    /// An empty index with room for `n` entries.
    pub(super) fn with_room(n: usize) -> Self {
        // Drawn afresh in every process, so that no file can make its own keys collide.
        let random = RandomState::new();
        Self { slots: vec![EMPTY; n_slots(n)].into(), seeds: [random.hash_one(0), random.hash_one(1)] }
    }

    /// Bytes of an index with room for `n` entries.
    pub(super) const fn bytes(n: usize) -> usize {
        n_slots(n) * size_of::<u32>()
    }

    /// Where a text is looked for.
    pub(super) fn place_of_text(&self, text: &[u8]) -> Place {
        let [mut sum, seed] = self.seeds;
        let (chunks, rest) = text.as_chunks::<16>();
        for chunk in chunks {
            let (low, high) = two_words(chunk);
            sum = folded_product(low ^ sum, high ^ seed);
        }
        let (low, high) = two_words(rest);
        let length = (text.len() as u64).rotate_left(32);
        self.place(folded_product(low ^ sum, high ^ seed ^ length))
    }

    /// Where a pair of numbers is looked for.
    pub(super) fn place_of_pair(&self, left: u32, right: u32) -> Place {
        let [a, b] = self.seeds;
        self.place(folded_product(u64::from(left) ^ a, u64::from(right) ^ b))
    }

    fn place(&self, hash: u64) -> Place {
        let upper = (u128::from(hash) * self.slots.len() as u128) >> 64;
        // 0 to 254: no tag has the upper bits of an empty slot.
        let tag = (u32::from(hash.to_le_bytes()[0]) * 255) >> 8;
        Place { slot: usize::try_from(upper).unwrap_or_default(), tag: tag << ENTRY_BITS }
    }

    /// The entry at a place whose key is the one looked for.
    pub(super) fn find(&self, place: Place, has_key: impl Fn(u32) -> bool) -> Option<u32> {
        let (before, from) = self.slots.split_at(place.slot);
        let looked_at = |&slot: &u32| {
            let entry = slot & ENTRY_MASK;
            let found = slot ^ entry == place.tag && has_key(entry);
            (found || slot == EMPTY).then_some(found.then_some(entry))
        };
        from.iter().chain(before).find_map(looked_at).flatten()
    }

    /// Adds an entry unless there is one of its key. Entries beyond the room are left out.
    pub(super) fn insert(&mut self, place: Place, entry: u32, has_key: impl Fn(u32) -> bool) {
        if self.find(place, has_key).is_some() {
            return;
        }
        let (before, from) = self.slots.split_at_mut(place.slot);
        if let Some(slot) = from.iter_mut().chain(before).find(|slot| **slot == EMPTY) {
            *slot = place.tag | entry;
        }
    }
}

/// Both halves of the product, folded.
fn folded_product(a: u64, b: u64) -> u64 {
    let product = (u128::from(a) * u128::from(b)).to_le_bytes();
    let (halves, _) = product.as_chunks::<8>();
    halves.iter().fold(0, |sum, half| sum ^ u64::from_le_bytes(*half))
}

/// Up to 16 bytes as two numbers, other ones for every other text of the same length.
fn two_words(text: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into());
    }
    (text.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 0)
}

/// Two slots in three hold an entry, and one never does: it ends every search.
const fn n_slots(n: usize) -> usize {
    n + n / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_keys_is_found_and_no_other_key_is() {
        let keys: Vec<u32> = (0..1000).map(|i| i * 7 % 900).collect();
        let mut index = Index::with_room(keys.len());
        assert_eq!(index.slots.len() * 4, Index::bytes(keys.len()));
        for (entry, key) in (0..).zip(&keys) {
            index.insert(index.place_of_pair(1, *key), entry, |other| keys[other as usize] == *key);
        }
        for key in 0..2000_u32 {
            let found = index.find(index.place_of_pair(1, key), |entry| keys[entry as usize] == key);
            let expected = keys.iter().position(|other| *other == key);
            assert_eq!(found.map(|entry| entry as usize), expected, "{key}");
        }
    }

    #[test]
    fn texts_of_all_lengths_spread() {
        // Beginnings of one text, and texts that differ in one byte at any place.
        let long: Vec<u8> = (0..100).collect();
        let mut texts: Vec<Vec<u8>> = (0..=100).map(|end| long[..end].to_vec()).collect();
        for length in [1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33] {
            for at in 0..length {
                let mut text = long[..length].to_vec();
                text[at] = 200;
                texts.push(text);
            }
        }
        let mut index = Index::with_room(texts.len());
        let mut collisions = 0;
        for (entry, text) in (0..).zip(&texts) {
            let place = index.place_of_text(text);
            let same_tag = std::cell::Cell::new(0);
            index.insert(place, entry, |_| {
                same_tag.set(same_tag.get() + 1);
                false
            });
            collisions += same_tag.get();
            assert_eq!(index.find(place, |other| other == entry), Some(entry));
        }
        // A few by chance; all of one length if a byte were left out.
        assert!(collisions < 20, "{collisions} of {} texts share a slot's run and a tag", texts.len());
    }

    #[test]
    fn an_index_without_room_finds_nothing() {
        let index = Index::with_room(0);
        assert_eq!(index.find(index.place_of_text(b"a"), |_| true), None);
    }

    #[test]
    fn the_largest_entry_is_no_empty_slot() {
        let mut index = Index::with_room(1);
        let largest = ENTRY_MASK;
        for key in 0..1000 {
            index.slots.fill(EMPTY);
            index.insert(index.place_of_pair(key, 0), largest, |_| true);
            assert_eq!(index.find(index.place_of_pair(key, 0), |entry| entry == largest), Some(largest));
        }
    }
}
