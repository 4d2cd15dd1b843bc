//! Candidate tokens, sorted only as far as they are read.

/// A token with its logit, as one integer whose ascending order is the order of candidates: logit descending, id ascending.
///
/// The upper word is the complement of the order-preserving integer image of the logit, the lower word is the id.
/// The logit must not be NaN, and −0 must have been turned into +0 so that equal logits have one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(id: u32, logit: f32) -> Self {
        let bits = logit.to_bits();
        let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Self(u64::from(!ascending) << 32 | u64::from(id))
    }

    pub(super) fn id(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    pub(super) fn logit(self) -> f32 {
        let ascending = !((self.0 >> 32) as u32);
        f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
    }
}

/// How many ranks the first read sorts.
const FIRST_RANKS: usize = 256;
/// How many times more ranks each further sort covers.
const GROWTH: usize = 4;

/// A set whose items are read by rank (0 is the smallest), sorted in growing prefixes.
///
/// Between filters a set is in one of two orders, and sums run over it in that order: the order in which it was filled
/// (token ids ascending), or, once a filter has cut it by rank, the order of ranks. Where the items are distinct, which
/// sorting algorithm is used cannot be seen in any result. Nothing allocates after `with_capacity`.
#[derive(Debug)]
pub(super) struct Ranked<T> {
    items: Vec<T>,
    /// The first `n_sorted` items have ranks `0..n_sorted`.
    n_sorted: usize,
}

impl<T: Ord + Copy> Ranked<T> {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { items: Vec::with_capacity(capacity), n_sorted: 0 }
    }

    /// Replaces the contents; the caller stays within the capacity.
    pub(super) fn fill(&mut self, items: impl Iterator<Item = T>) {
        self.items.clear();
        self.items.extend(items);
        self.n_sorted = 0;
    }

    /// All items in their present order.
    pub(super) fn items(&self) -> &[T] {
        &self.items
    }

    /// The item of rank 0, found without sorting.
    pub(super) fn first(&self) -> Option<T> {
        if self.n_sorted > 0 { self.items.first().copied() } else { self.items.iter().min().copied() }
    }

    /// The item of a rank, or `None` at the end.
    pub(super) fn at(&mut self, rank: usize) -> Option<T> {
        if rank >= self.n_sorted && rank < self.items.len() {
            self.sort_to((rank + 1).max(FIRST_RANKS).max(self.n_sorted.saturating_mul(GROWTH)));
        }
        self.items.get(rank).copied()
    }

    /// Keeps the first `n` ranks, in order.
    pub(super) fn truncate(&mut self, n: usize) {
        self.sort_to(n);
        self.items.truncate(n);
        self.n_sorted = self.items.len();
    }

    /// Keeps the items that satisfy the condition, in their present order.
    pub(super) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let in_order = self.n_sorted == self.items.len();
        self.items.retain(keep);
        self.n_sorted = if in_order { self.items.len() } else { 0 };
    }

    /// Sorts at least the first `n` ranks into place.
    fn sort_to(&mut self, n: usize) {
        let n = n.min(self.items.len());
        let Some(n_more @ 1..) = n.checked_sub(self.n_sorted) else { return };
        let rest = &mut self.items[self.n_sorted..];
        if n_more < rest.len() {
            rest.select_nth_unstable(n_more - 1);
        }
        rest[..n_more].sort_unstable();
        self.n_sorted = n;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn candidates_keep_their_logit_bits_and_id() {
        for logit in [0.0, 1.5, -1.5, f32::MAX, f32::MIN, f32::from_bits(1), -f32::from_bits(1), f32::NEG_INFINITY] {
            for id in [0, 1, u32::MAX] {
                let candidate = Candidate::new(id, logit);
                assert_eq!((candidate.id(), candidate.logit().to_bits()), (id, logit.to_bits()));
            }
        }
    }

    proptest! {
        #[test]
        fn candidates_order_by_logit_descending_then_id(a in any::<f32>(), b in any::<f32>(), i in 0u32..4, j in 0u32..4) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let (a, b) = (a + 0.0, b + 0.0);
            let expected = b.partial_cmp(&a).unwrap().then(i.cmp(&j));
            prop_assert_eq!(Candidate::new(i, a).cmp(&Candidate::new(j, b)), expected);
            prop_assert_eq!(Candidate::new(i, a).cmp(&Candidate::new(j, a)), i.cmp(&j));
        }

        #[test]
        fn ranks_equal_those_of_a_full_sort(items in prop::collection::vec(0u16..5000, 0..3000), n in 0usize..3000) {
            let mut sorted = items.clone();
            sorted.sort_unstable();
            let mut ranked = Ranked::with_capacity(items.len());
            ranked.fill(items.iter().copied());
            prop_assert_eq!(ranked.first(), sorted.first().copied());
            for rank in 0..=n {
                prop_assert_eq!(ranked.at(rank), sorted.get(rank).copied());
            }
            prop_assert_eq!(ranked.first(), sorted.first().copied());
            ranked.truncate(n);
            sorted.truncate(n);
            prop_assert_eq!(ranked.items(), &sorted[..]);
            ranked.retain(|item| item % 3 == 0);
            sorted.retain(|item| item % 3 == 0);
            prop_assert_eq!(ranked.items(), &sorted[..]);
        }
    }

    #[test]
    fn the_order_of_filling_stays_until_a_rank_is_read() {
        let mut ranked = Ranked::with_capacity(4);
        ranked.fill([3, 1, 4, 2].into_iter());
        assert_eq!(ranked.first(), Some(1));
        ranked.retain(|&item| item != 1);
        assert_eq!(ranked.items(), [3, 4, 2]);
        assert_eq!(ranked.at(0), Some(2));
        assert_eq!(ranked.at(3), None);
        assert_eq!(ranked.items(), [2, 3, 4]);
    }
}
