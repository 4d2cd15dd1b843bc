//! Windows over images of one to three dimensions, all as three: depth, height, width.

use rin_kernels::pack::LANES;
use rin_model::graph::{PoolKind, Window};

/// A window with what it moves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Sizes of the image.
    pub(crate) size: [usize; 3],
    kernel: [usize; 3],
    strides: [usize; 3],
    dilations: [usize; 3],
    before: [usize; 3],
    after: [usize; 3],
    /// Places of the window.
    pub(crate) places: [usize; 3],
}

/// What windows at 16 places see of one of their elements.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a, T> {
    /// Side by side, at all of them.
    All(&'a [T; LANES]),
    /// At one of them.
    One(usize, T),
}

impl Geometry {
    /// Of a window that was checked, over an image of these sizes.
    pub(crate) fn new(window: &Window, size: &[usize]) -> Self {
        let three = |list: &[usize], filler: usize| {
            let missing = 3_usize.saturating_sub(list.len());
            std::array::from_fn(|d| d.checked_sub(missing).and_then(|d| list.get(d)).copied().unwrap_or(filler))
        };
        Self {
            size: three(size, 1),
            kernel: three(&window.kernel, 1),
            strides: three(&window.strides, 1),
            dilations: three(&window.dilations, 1),
            before: three(&window.before, 0),
            after: three(&window.after, 0),
            places: three(&window.places, 1),
        }
    }

    /// Elements of the image.
    pub(crate) fn pixels(&self) -> usize {
        self.size.iter().product()
    }

    /// Places of the window.
    pub(crate) fn n_places(&self) -> usize {
        self.places.iter().product()
    }

    /// Elements of the window.
    pub(crate) fn n_kernel(&self) -> usize {
        self.kernel.iter().product()
    }

    fn place(&self, at: usize) -> [usize; 3] {
        let [_, h, w] = self.places;
        [at / (h * w), at / w % h, at % w]
    }

    /// Where in the image an element of the window lies; none in the padding.
    fn source(&self, place: [usize; 3], element: [usize; 3]) -> Option<usize> {
        let mut at = 0;
        for d in 0..3 {
            let reached = place[d] * self.strides[d] + element[d] * self.dilations[d];
            let i = reached.checked_sub(self.before[d]).filter(|&i| i < self.size[d])?;
            at = at * self.size[d] + i;
        }
        Some(at)
    }

    fn each_element(&self, mut f: impl FnMut(usize, [usize; 3])) {
        let mut number = 0;
        for d in 0..self.kernel[0] {
            for h in 0..self.kernel[1] {
                for w in 0..self.kernel[2] {
                    f(number, [d, h, w]);
                    number += 1;
                }
            }
        }
    }

    /// Calls `f(k, values)` for the 16 places from `first` on and each number `k` of the window over the images of
    /// `channels`; what lies in the padding is left out.
    pub(crate) fn columns<T: Copy>(&self, channels: &[T], first: usize, mut f: impl FnMut(usize, Seen<'_, T>)) {
        let lanes = LANES.min(self.n_places().saturating_sub(first));
        let mut places = [[0; 3]; LANES];
        places[..lanes].iter_mut().enumerate().for_each(|(lane, place)| *place = self.place(first + lane));
        let (pixels, n_kernel) = (self.pixels(), self.n_kernel());
        self.each_element(|number, element| {
            let mut sources = [None; LANES];
            for (source, place) in sources[..lanes].iter_mut().zip(&places) {
                *source = self.source(*place, element);
            }
            let start = sources[0].unwrap_or(usize::MAX - LANES);
            let even = sources.iter().enumerate().all(|(lane, &source)| source == Some(start + lane));
            for (c, image) in channels.chunks_exact(pixels).enumerate() {
                let k = c * n_kernel + number;
                if even && let Some(values) = image[start..].first_chunk() {
                    f(k, Seen::All(values));
                    continue;
                }
                for (lane, source) in sources[..lanes].iter().enumerate() {
                    if let Some(at) = *source {
                        f(k, Seen::One(lane, image[at]));
                    }
                }
            }
        });
    }

    /// Calls `f(element of the image)` for what of the window at a place lies in the image.
    fn under(&self, at: usize, mut f: impl FnMut(usize)) {
        let place = self.place(at);
        self.each_element(|_, element| {
            if let Some(source) = self.source(place, element) {
                f(source);
            }
        });
    }

    /// Elements of the window at a place that lie in the image or its padding.
    fn padded_count(&self, at: usize) -> usize {
        let place = self.place(at);
        let inside = |d: usize| {
            let end = self.before[d] + self.size[d] + self.after[d];
            (0..self.kernel[d]).filter(|&k| place[d] * self.strides[d] + k * self.dilations[d] < end).count()
        };
        inside(0) * inside(1) * inside(2)
    }

    /// The largest of the window at each place from `first` on; NaN where one is.
    pub(crate) fn largest<T: Copy + PartialOrd>(&self, image: &[T], first: usize, least: T, out: &mut [T]) {
        for (i, out) in out.iter_mut().enumerate() {
            let mut best = least;
            #[expect(clippy::eq_op, reason = "a NaN is not itself")]
            self.under(first + i, |at| {
                let x = image[at];
                if x > best || x != x {
                    best = x;
                }
            });
            *out = best;
        }
    }

    /// Where the largest of the window at each place lies: the first of them, counted from `base`.
    pub(crate) fn place_of_largest<T: Copy + PartialOrd>(&self, image: &[T], base: usize, out: &mut [[u8; 8]]) {
        for (i, out) in out.iter_mut().enumerate() {
            let mut best: Option<usize> = None;
            self.under(i, |at| {
                if best.is_none_or(|best| image[at] > image[best]) {
                    best = Some(at);
                }
            });
            *out = best.map_or(0, |at| (base + at) as u64).to_ne_bytes();
        }
    }

    /// The mean of the window at each place from `first` on: a sum in the order of the window, and one division.
    pub(crate) fn mean(&self, kind: PoolKind, image: &[f32], first: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let (mut sum, mut count) = (0.0_f32, 0_usize);
            self.under(first + i, |at| {
                sum += image[at];
                count += 1;
            });
            if kind == PoolKind::AverageWithPadding {
                count = self.padded_count(first + i);
            }
            *out = rin_kernels::math::canonical(sum / count as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_what_the_window_sees() {
        let window = Window {
            kernel: vec![3, 2],
            strides: vec![1, 1],
            dilations: vec![1, 2],
            before: vec![1, 0],
            after: vec![0, 1],
            places: vec![4, 40],
        };
        let geometry = Geometry::new(&window, &[5, 41]);
        let image: Vec<i32> = (1..=2 * 5 * 41).collect();
        for first in [0, 16, 48, 144] {
            let mut found = vec![[0; LANES]; 2 * 6];
            let mut runs = 0;
            let mut seen = found.clone();
            geometry.columns(&image, first, |k, values| match values {
                Seen::One(lane, x) => found[k][lane] = x,
                Seen::All(xs) => {
                    seen[k] = *xs;
                    runs += 1;
                }
            });
            for (k, (found, seen)) in found.iter().zip(&seen).enumerate() {
                for lane in 0..LANES {
                    let (place, c, e) = (first + lane, k / 6, k % 6);
                    let (y, x) = (place / 40 + e / 2, place % 40 + e % 2 * 2);
                    let inside = y >= 1 && y - 1 < 5 && x < 41;
                    let want = if inside { image[c * 205 + (y - 1) * 41 + x] } else { 0 };
                    assert_eq!(found[lane].max(seen[lane]), want, "place {place}, number {k}");
                }
            }
            assert!(first == 144 || runs > 0);
        }
    }
}
