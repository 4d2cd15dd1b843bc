//! Copied blocks, and slices by index.

use super::elements::{load_integers, size_of};
use super::loops::Loops;
use super::reduce::Axis;
use crate::Error;
use crate::network::NetworkError;
use rin_model::DType;
use rin_model::graph::Region;

/// A block that is copied.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Which input.
    pub(crate) input: usize,
    from: usize,
    to: usize,
    /// Steps in the result, then in the input.
    loops: Loops<2>,
}

impl Block {
    /// Of a region that was checked.
    pub(crate) fn new(region: &Region) -> Self {
        let step = |n: i64| isize::try_from(n).unwrap_or(0);
        let strides: Vec<isize> = region.strides.iter().map(|&n| step(n)).collect();
        let to_strides: Vec<isize> = region.to_strides.iter().map(|&n| n.cast_signed()).collect();
        let loops = Loops::new(&region.shape, [&to_strides, &strides]);
        Self { input: region.input, from: region.from, to: region.to, loops }
    }

    /// Elements of the block.
    pub(crate) fn count(&self) -> usize {
        self.loops.count()
    }

    /// Copies elements of `size` bytes.
    pub(crate) fn run(&self, size: usize, x: &[u8], out: &mut [u8]) {
        let place = |base: usize, offset: usize| (base.cast_signed() + offset.cast_signed()).cast_unsigned();
        // Offsets may be below zero where the steps are; the sums are not.
        self.loops.stretches(0, self.count(), |_, n, [to, from], [to_step, step]| {
            let (to, from) = (place(self.to, to), place(self.from, from));
            if to_step == 1 && step == 1 {
                out[to * size..][..n * size].copy_from_slice(&x[from * size..][..n * size]);
                return;
            }
            match size {
                1 => strided::<1>(x, out, [from, to], [step, to_step], n),
                2 => strided::<2>(x, out, [from, to], [step, to_step], n),
                4 => strided::<4>(x, out, [from, to], [step, to_step], n),
                _ => strided::<8>(x, out, [from, to], [step, to_step], n),
            }
        });
    }
}

fn strided<const N: usize>(x: &[u8], out: &mut [u8], [from, to]: [usize; 2], [step, to_step]: [isize; 2], n: usize) {
    let (x, out) = (x.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    let (mut from, mut to) = (from.cast_signed(), to.cast_signed());
    for _ in 0..n {
        out[to.cast_unsigned()] = x[from.cast_unsigned()];
        from += step;
        to += to_step;
    }
}

/// Fills an array with one element.
pub(crate) fn fill(size: usize, element: &[u8], out: &mut [u8]) {
    out.chunks_exact_mut(size).for_each(|out| out.copy_from_slice(&element[..size]));
}

fn index(dtype: DType, indices: &[u8], at: usize, n: usize) -> Result<usize, Error> {
    let mut found = [0];
    load_integers(dtype, indices, at, 1, &mut found);
    let [found] = found;
    let size = i64::try_from(n).unwrap_or(i64::MAX);
    let from_start = if found < 0 { found + size } else { found };
    let within = usize::try_from(from_start).ok().filter(|&i| i < n);
    within.ok_or_else(|| NetworkError::Index { found, size: n }.into())
}

/// Slices along an axis.
pub(crate) fn gather(
    size: usize,
    axis: Axis,
    dtype: DType,
    [x, indices]: [&[u8]; 2],
    out: &mut [u8],
) -> Result<(), Error> {
    let (n_indices, slice) = (indices.len() / size_of(dtype), axis.inner * size);
    if slice == 0 {
        return Ok(());
    }
    for (i, out) in out.chunks_exact_mut(slice).enumerate() {
        let (o, i) = (i / n_indices, i % n_indices);
        let at = index(dtype, indices, i, axis.n)?;
        out.copy_from_slice(&x[(o * axis.n + at) * slice..][..slice]);
    }
    Ok(())
}

/// Elements along an axis: `strides` are those of the input, over the shape of the indices, with 0 for the axis.
pub(crate) fn gather_elements(
    size: usize,
    axis: Axis,
    loops: &Loops<1>,
    dtype: DType,
    [x, indices]: [&[u8]; 2],
    out: &mut [u8],
) -> Result<(), Error> {
    for (i, out) in out.chunks_exact_mut(size).enumerate() {
        let [base] = loops.places(i);
        let at = index(dtype, indices, i, axis.n)?;
        out.copy_from_slice(&x[(base + at * axis.inner) * size..][..size]);
    }
    Ok(())
}
