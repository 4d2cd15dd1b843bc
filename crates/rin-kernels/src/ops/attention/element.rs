//! What a page is made of.

use super::lanes::Lanes;
use super::{LANES, PAGE};
use crate::half::f32_to_f16;
use crate::ops::quantize::Scale;

/// An element of a page. Every bit pattern is a value and the size divides the alignment of a page.
pub(super) trait Element: Copy + Default + 'static {
    /// Whether each position has a scale.
    const SCALED: bool;

    fn load<L: Lanes>(line: &[Self; LANES]) -> L;

    /// Writes `row`, element by element, through `put`, and returns its scale (1 where elements have none).
    fn narrow(row: &[f32], put: impl FnMut(usize, Self)) -> f32;
}

impl Element for f32 {
    const SCALED: bool = false;

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LANES]) -> L {
        L::load(line)
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        row.iter().enumerate().for_each(|(d, &x)| put(d, x));
        1.0
    }
}

/// Half-precision bits.
impl Element for u16 {
    const SCALED: bool = false;

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LANES]) -> L {
        L::load_f16(line)
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        row.iter().enumerate().for_each(|(d, &x)| put(d, f32_to_f16(x)));
        1.0
    }
}

/// Steps of the scale of the position.
impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<L: Lanes>(line: &[Self; LANES]) -> L {
        L::load_i8(line)
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        let scale = Scale::of(row);
        row.iter().enumerate().for_each(|(d, &x)| put(d, scale.quantize(x)));
        scale.d
    }
}

/// Where element `d` of position `slot` lies in a K page.
#[inline(always)]
pub(super) fn k_index(slot: usize, d: usize, head_dim: usize) -> usize {
    ((slot / LANES) * head_dim + d) * LANES + slot % LANES
}

/// The elements of a page, and its scales (none, or one per position).
#[inline(always)]
pub(super) fn view<E: Element>(page: &[u8], head_dim: usize) -> (&[E], &[f32]) {
    let (elements, scales) = page.split_at(PAGE * head_dim * size_of::<E>());
    // SAFETY: every bit pattern is an `Element`.
    let (_, elements, _) = unsafe { elements.align_to::<E>() };
    // SAFETY: every bit pattern is an `f32`.
    let (_, scales, _) = unsafe { scales.align_to::<f32>() };
    // The page is aligned and each part a whole number of elements, so nothing was cut off.
    (&elements[..PAGE * head_dim], scales)
}

/// [`view`], to write.
#[inline(always)]
pub(super) fn view_mut<E: Element>(page: &mut [u8], head_dim: usize) -> (&mut [E], &mut [f32]) {
    let (elements, scales) = page.split_at_mut(PAGE * head_dim * size_of::<E>());
    // SAFETY: every bit pattern is an `Element`, and an `Element` has no padding.
    let (_, elements, _) = unsafe { elements.align_to_mut::<E>() };
    // SAFETY: every bit pattern is an `f32`.
    let (_, scales, _) = unsafe { scales.align_to_mut::<f32>() };
    (&mut elements[..PAGE * head_dim], scales)
}
