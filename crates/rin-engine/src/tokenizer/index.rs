//! Numbered entries found by their keys: an open-addressing table of numbers, the keys stay where they are.

use std::hash::{BuildHasher, Hash, RandomState};

/// Most entries: a slot holds a number and a few bits of the hash.
pub(super) const MAX_ENTRIES: usize = 1 << ENTRY_BITS;

const ENTRY_BITS: u32 = 24;
/// No entry; its upper bits are those of no hash.
const EMPTY: u32 = u32::MAX;

/// Finds numbers below [`MAX_ENTRIES`].
#[derive(Debug)]
pub(super) struct Index {
    slots: Box<[u32]>,
    /// Keyed afresh in every process, so that no file can make its own keys collide.
    state: RandomState,
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
        Self { slots: vec![EMPTY; n_slots(n)].into(), state: RandomState::new() }
    }

    /// Bytes of an index with room for `n` entries.
    pub(super) const fn bytes(n: usize) -> usize {
        n_slots(n) * size_of::<u32>()
    }

    /// Where a key is looked for.
    pub(super) fn place(&self, key: &(impl Hash + ?Sized)) -> Place {
        let hash = self.state.hash_one(key);
        let upper = u128::from(hash) * self.slots.len() as u128 >> 64;
        // 0 to 254.
        let tag = ((hash & 0xFF) * 255 >> 8) as u32;
        Place { slot: usize::try_from(upper).unwrap_or_default(), tag: tag << ENTRY_BITS }
    }

    /// The entry at a place whose key is the one looked for.
    pub(super) fn find(&self, place: Place, has_key: impl Fn(u32) -> bool) -> Option<u32> {
        let (before, from) = self.slots.split_at(place.slot);
        for &slot in from.iter().chain(before) {
            if slot == EMPTY {
                return None;
            }
            let entry = slot & (MAX_ENTRIES as u32 - 1);
            if slot ^ entry == place.tag && has_key(entry) {
                return Some(entry);
            }
        }
        None
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
            index.insert(index.place(key), entry, |other| keys[other as usize] == *key);
        }
        for key in 0..2000_u32 {
            let found = index.find(index.place(&key), |entry| keys[entry as usize] == key);
            let expected = keys.iter().position(|other| *other == key);
            assert_eq!(found.map(|entry| entry as usize), expected, "{key}");
        }
    }

    #[test]
    fn an_index_without_room_finds_nothing() {
        let index = Index::with_room(0);
        assert_eq!(index.find(index.place("a"), |_| true), None);
    }

    #[test]
    fn the_largest_entry_is_no_empty_slot() {
        let mut index = Index::with_room(1);
        let largest = MAX_ENTRIES as u32 - 1;
        for key in 0..1000 {
            index.slots.fill(EMPTY);
            index.insert(index.place(&key), largest, |_| true);
            assert_eq!(index.find(index.place(&key), |entry| entry == largest), Some(largest));
        }
    }
}
