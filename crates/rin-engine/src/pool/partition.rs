//! Even static splits of work.

use std::ops::Range;

/// The share of part `index` when `n_items` are split into `n_parts` in multiples of `granularity`.
///
/// The shares of all parts cover `0..n_items` exactly once and in order. Whole granules are dealt out so that shares
/// differ by at most one; the last granule may be cut short by `n_items`. Parts beyond the last granule, and an `index`
/// beyond the last part, get an empty range at `n_items`. A zero for `n_parts` or `granularity` counts as one.
pub fn partition(n_items: usize, n_parts: usize, index: usize, granularity: usize) -> Range<usize> {
    let (n_parts, granularity) = (n_parts.max(1), granularity.max(1));
    let granules = n_items.div_ceil(granularity);
    let (each, one_more) = (granules / n_parts, granules % n_parts);
    // The first `one_more` parts get a granule more than the others.
    let begin = |part: usize| {
        if part >= n_parts {
            return n_items;
        }
        (part * each + part.min(one_more)).saturating_mul(granularity).min(n_items)
    };
    begin(index)..begin(index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_in_order_and_evenly() {
        for n_items in (0..70).chain([1000, 4096, 4097]) {
            for n_parts in 1..12 {
                for granularity in [1, 2, 3, 8, 16, 5000] {
                    let shares: Vec<_> = (0..n_parts).map(|i| partition(n_items, n_parts, i, granularity)).collect();
                    assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..n_items).collect::<Vec<_>>());
                    let sizes: Vec<usize> = shares.iter().map(|share| share.len().div_ceil(granularity)).collect();
                    assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
                    assert!(shares.iter().all(|share| share.start % granularity == 0 || share.start == n_items));
                    assert!(shares.iter().all(|share| share.end % granularity == 0 || share.end == n_items));
                }
            }
        }
    }

    #[test]
    fn edges_have_a_meaning() {
        assert_eq!(partition(10, 3, 0, 4), 0..4);
        assert_eq!(partition(10, 3, 2, 4), 8..10);
        assert_eq!(partition(10, 3, 3, 4), 10..10);
        assert_eq!(partition(10, 0, 0, 0), 0..10);
        assert_eq!(partition(usize::MAX, 2, 1, 64).end, usize::MAX);
        assert_eq!(partition(usize::MAX, 1, 0, 1 << 40), 0..usize::MAX);
        assert_eq!(partition(3, 2, usize::MAX, 1), 3..3);
    }
}
