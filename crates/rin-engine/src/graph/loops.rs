//! Walks over arrays of several dimensions with the steps that each operand takes.

use rin_model::graph::MAX_RANK;

/// Nested loops over the elements of a result in order, with the place of `N` operands at each. Dimensions over which all
/// operands go on evenly are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loops<const N: usize> {
    /// Sizes, slowest first; at least one.
    shape: Vec<usize>,
    /// Steps of the operands in elements.
    strides: Vec<[isize; N]>,
}

/// Steps of a row-major array.
pub(crate) fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut step = 1_isize;
    for (stride, &n) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.saturating_mul(n.try_into().unwrap_or(isize::MAX));
    }
    strides
}

impl<const N: usize> Loops<N> {
    /// Loops over `shape` with these steps for each dimension.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; N]) -> Self {
        let mut loops = Self { shape: Vec::new(), strides: Vec::new() };
        for (d, &n) in shape.iter().enumerate() {
            if n == 1 {
                continue;
            }
            let own: [isize; N] = std::array::from_fn(|i| strides[i][d]);
            // One dimension with that before, where every operand goes on evenly from one to the other.
            let size: isize = n.try_into().unwrap_or(isize::MAX);
            match (loops.shape.last_mut(), loops.strides.last_mut()) {
                (Some(last), Some(steps)) if steps.iter().zip(&own).all(|(a, b)| *a == b.saturating_mul(size)) => {
                    *last = last.saturating_mul(n);
                    *steps = own;
                }
                _ => {
                    loops.shape.push(n);
                    loops.strides.push(own);
                }
            }
        }
        if loops.shape.is_empty() {
            loops.shape.push(1);
            loops.strides.push([1; N]);
        }
        loops
    }

    /// Loops over `shape` with operands that are repeated along the dimensions in which they have size 1.
    pub(crate) fn broadcast(shape: &[usize], operands: [&[usize]; N]) -> Self {
        let strides: [Vec<isize>; N] = operands.map(|operand| {
            let own = row_major(operand);
            let missing = shape.len().saturating_sub(operand.len());
            let step = |d: usize| match d.checked_sub(missing).and_then(|d| Some((*operand.get(d)?, *own.get(d)?))) {
                Some((n, stride)) if n != 1 => stride,
                _ => 0,
            };
            (0..shape.len()).map(step).collect()
        });
        Self::new(shape, std::array::from_fn(|i| strides[i].as_slice()))
    }

    /// Elements in all.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Steps of the fastest dimension.
    pub(crate) fn inner(&self) -> (usize, [isize; N]) {
        (self.shape.last().copied().unwrap_or(1), self.strides.last().copied().unwrap_or([1; N]))
    }

    /// Calls `f` for each even stretch of the elements `first..first + len`: where it begins, counted from `first`, how long
    /// it is, where each operand is then, and by how much it goes on. Allocates nothing.
    pub(crate) fn stretches(&self, first: usize, len: usize, mut f: impl FnMut(usize, usize, [usize; N], [isize; N])) {
        let (inner, steps) = self.inner();
        if len == 0 || inner == 0 {
            return;
        }
        let outer = self.shape.len() - 1;
        let mut index = [0_usize; MAX_RANK];
        let mut rest = first / inner;
        let mut places = [0_isize; N];
        for d in (0..outer).rev() {
            let n = self.shape[d].max(1);
            index[d] = rest % n;
            rest /= n;
            for (place, stride) in places.iter_mut().zip(self.strides[d]) {
                *place += index[d].cast_signed() * stride;
            }
        }
        let (mut at, mut within) = (0, first % inner);
        while at < len {
            let n = (inner - within).min(len - at);
            let offsets = std::array::from_fn(|i| (places[i] + within.cast_signed() * steps[i]).cast_unsigned());
            f(at, n, offsets, steps);
            at += n;
            within = 0;
            for d in (0..outer).rev() {
                index[d] += 1;
                let stride = self.strides[d];
                for (place, stride) in places.iter_mut().zip(stride) {
                    *place += stride;
                }
                if index[d] < self.shape[d] {
                    break;
                }
                for (place, stride) in places.iter_mut().zip(stride) {
                    *place -= index[d].cast_signed() * stride;
                }
                index[d] = 0;
            }
        }
    }

    /// Where each operand is at element `at`.
    pub(crate) fn places(&self, at: usize) -> [usize; N] {
        let mut found = [0; N];
        self.stretches(at, 1, |_, _, places, _| found = places);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<const N: usize>(loops: &Loops<N>, first: usize, len: usize) -> Vec<[usize; N]> {
        let mut found = Vec::new();
        loops.stretches(first, len, |at, n, places, steps| {
            assert_eq!(at, found.len());
            for i in 0..n {
                found.push(std::array::from_fn(|o| {
                    (places[o].cast_signed() + i.cast_signed() * steps[o]).cast_unsigned()
                }));
            }
        });
        found
    }

    #[test]
    fn operands_are_repeated_where_they_have_size_1() {
        let loops = Loops::broadcast(&[2, 3, 4], [&[3, 1], &[2, 1, 4]]);
        let want: Vec<[usize; 2]> = (0..24).map(|i| [i / 4 % 3, i / 12 * 4 + i % 4]).collect();
        assert_eq!(all(&loops, 0, 24), want);
        for first in 0..24 {
            for len in 0..=24 - first {
                assert_eq!(all(&loops, first, len), want[first..first + len]);
            }
            assert_eq!(loops.places(first), want[first]);
        }
    }

    #[test]
    fn even_dimensions_become_one() {
        assert_eq!(Loops::broadcast(&[2, 3, 4], [&[2, 3, 4], &[]]).shape, [24]);
        assert_eq!(Loops::broadcast(&[2, 3, 4], [&[3, 4]]).shape, [2, 12]);
        assert_eq!(Loops::broadcast(&[1, 1], [&[1, 1]]).shape, [1]);
        assert_eq!(Loops::broadcast(&[2, 0, 3], [&[2, 0, 3]]).count(), 0);
        // Backwards, as a slice with negative steps goes.
        let loops = Loops::new(&[2, 3], [&[-3, -1]]);
        assert_eq!(loops.shape, [6]);
    }
}
