//! Work dealt out in whole units of a result, on the workers of a pool or, at import, on the caller alone.

use crate::pool::{Pool, partition};
use crate::run::split::deal;

/// Below this many elementary steps work runs on its caller: handing it out would cost more.
const WORTH_SHARING: usize = 1 << 14;

/// Who does the work.
#[derive(Debug)]
pub(crate) struct Workers<'a>(pub(crate) Option<&'a mut Pool>);

impl Workers<'_> {
    /// Workers that `work` steps in `units` parts are worth.
    pub(crate) fn count(&self, units: usize, work: usize) -> usize {
        match &self.0 {
            Some(pool) if work >= WORTH_SHARING => pool.active().min(units).max(1),
            _ => 1,
        }
    }

    /// Calls `f(first, elements)` with consecutive stretches of `out` that begin at multiples of `unit` elements and cover it;
    /// `first` is the number of the first unit.
    pub(crate) fn spread<T: Send>(
        &mut self,
        out: &mut [T],
        unit: usize,
        work: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if unit == 0 || out.is_empty() {
            return;
        }
        let units = out.len().div_ceil(unit);
        let parts = self.count(units, work);
        let (Some(pool), 2..) = (self.0.as_deref_mut(), parts) else { return f(0, out) };
        let mut rest = Some(out);
        deal(
            pool,
            parts,
            |i| {
                let range = partition(units, parts, i, 1);
                let left = rest.take()?;
                let n = (range.len() * unit).min(left.len());
                let (own, after) = left.split_at_mut(n);
                rest = Some(after);
                Some((range.start, own))
            },
            |(first, own)| f(first, own),
        );
    }

    /// As [`spread`](Self::spread), each part with an equal share of `scratch` beside it.
    pub(crate) fn spread_with<T: Send, S: Send>(
        &mut self,
        out: &mut [T],
        unit: usize,
        work: usize,
        scratch: &mut [S],
        smallest: usize,
        f: impl Fn(usize, &mut [T], &mut [S]) + Sync,
    ) {
        if unit == 0 || out.is_empty() {
            return;
        }
        let units = out.len().div_ceil(unit);
        let most = scratch.len().checked_div(smallest).unwrap_or(usize::MAX);
        let parts = self.count(units, work).min(most.max(1));
        let (Some(pool), 2..) = (self.0.as_deref_mut(), parts) else { return f(0, out, scratch) };
        let share = scratch.len() / parts;
        let mut rest = Some((out, scratch));
        deal(
            pool,
            parts,
            |i| {
                let range = partition(units, parts, i, 1);
                let (left, scratch) = rest.take()?;
                let n = (range.len() * unit).min(left.len());
                let (own, after) = left.split_at_mut(n);
                let (own_scratch, scratch) = scratch.split_at_mut(share);
                rest = Some((after, scratch));
                Some((range.start, own, own_scratch))
            },
            |(first, own, scratch)| f(first, own, scratch),
        );
    }
}
