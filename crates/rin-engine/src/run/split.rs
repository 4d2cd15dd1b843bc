//! Static splits of rows among workers.

use crate::pool::{MAX_THREADS, Pool, partition};
use rin_kernels::MatMut;

/// Something that can be cut between two rows.
pub(crate) trait Rows: Sized {
    /// Rows `0..at` and `at..`.
    fn split_rows(self, at: usize) -> (Self, Self);
}

impl<T> Rows for MatMut<'_, T> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        MatMut::split_rows(self, at)
    }
}

/// Rows that follow each other without gaps.
#[derive(Debug)]
pub(crate) struct Dense<'a, T> {
    pub(crate) data: &'a mut [T],
    pub(crate) cols: usize,
}

impl<T> Rows for Dense<'_, T> {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let Self { data, cols } = self;
        let (a, b) = data.split_at_mut(at * cols);
        (Self { data: a, cols }, Self { data: b, cols })
    }
}

impl<A: Rows, B: Rows> Rows for (A, B) {
    fn split_rows(self, at: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.split_rows(at), self.1.split_rows(at));
        ((a, b), (c, d))
    }
}

/// Below this many elements a step runs on its caller: handing it out would cost more.
const WORTH_SHARING: usize = 8192;

/// `data` as `rows × cols`; the plan has made it large enough.
pub(crate) fn rows_of<T>(data: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::new(data, rows, cols)
}

/// Rows to be dealt out.
#[derive(Debug)]
pub(crate) struct Split<R> {
    whole: R,
    rows: usize,
    threads: usize,
}

/// `rows` rows for `threads` workers.
pub(crate) fn split<R: Rows + Send>(whole: R, rows: usize, threads: usize) -> Split<R> {
    Split { whole, rows, threads }
}

impl<R: Rows + Send> Split<R> {
    /// Calls `f(first row, rows)` for each worker's share; `work` says how much there is to do in all.
    pub(crate) fn run(self, pool: &mut Pool, work: usize, f: impl Fn(usize, R) + Sync) {
        let parts = self.threads.min(self.rows);
        if parts <= 1 || work < WORTH_SHARING {
            return f(0, self.whole);
        }
        let mut rest = Some(self.whole);
        let mut at = 0;
        let rows = self.rows;
        deal(
            pool,
            parts,
            |i| {
                let range = partition(rows, parts, i, 1);
                let (share, after) = rest.take()?.split_rows(range.end - at);
                rest = Some(after);
                at = range.end;
                Some((range.start, share))
            },
            |(first, share)| f(first, share),
        );
    }
}

/// Makes one part per worker on the stack and runs them.
pub(crate) fn deal<P: Send>(pool: &mut Pool, parts: usize, make: impl FnMut(usize) -> Option<P>, f: impl Fn(P) + Sync) {
    // The array is as long as it has to be: clearing one for the largest machine would cost more than the step.
    match parts {
        0..=4 => deal_array::<4, P>(pool, parts, make, f),
        5..=32 => deal_array::<32, P>(pool, parts, make, f),
        _ => deal_array::<MAX_THREADS, P>(pool, parts, make, f),
    }
}

fn deal_array<const N: usize, P: Send>(
    pool: &mut Pool,
    parts: usize,
    mut make: impl FnMut(usize) -> Option<P>,
    f: impl Fn(P) + Sync,
) {
    let mut array: [Option<P>; N] = [const { None }; N];
    let parts = parts.min(N);
    for (i, part) in array[..parts].iter_mut().enumerate() {
        *part = make(i);
    }
    pool.run_parts(&mut array[..parts], |_, part| f(part));
}
