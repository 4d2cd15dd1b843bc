//! What a page is made of.

use super::{LANES, PAGE};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::ops::quantize::Scale;

/// Floats that a tile holds: what is widened at a time.
pub(super) const TILE: usize = 1024;

/// Rows of `f32` that start `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Widened<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Widened<'a> {
    /// 16 values of row `row`, from `at`.
    #[inline(always)]
    pub(super) fn line(self, row: usize, at: usize) -> &'a [f32] {
        &self.data[row * self.stride + at..][..LANES]
    }
}

/// An element of a page. Every bit pattern is a value and the size divides the alignment of a page.
pub(super) trait Element: Copy + 'static {
    /// Whether each position has a scale.
    const SCALED: bool;

    /// `rows` rows of `width` elements that start `stride` apart in `source`, as `f32`: in `tile`, or where they are.
    ///
    /// A line of [`Widened`] that reaches past `width` holds anything there. `rows * width.next_multiple_of(16)` is at
    /// most [`TILE`].
    #[inline(always)]
    fn widen<'a>(
        source: &'a [Self],
        stride: usize,
        rows: usize,
        width: usize,
        tile: &'a mut [f32; TILE],
    ) -> Widened<'a> {
        let tile_stride = width.next_multiple_of(LANES);
        for row in 0..rows {
            let wide = &mut tile[row * tile_stride..][..width];
            let source = &source[row * stride..][..width];
            Self::widen_row(source, wide);
        }
        Widened { data: tile, stride: tile_stride }
    }

    /// Widens one row into `wide`, of the same length.
    fn widen_row(source: &[Self], wide: &mut [f32]);

    /// Writes `row`, element by element, through `put`, and returns its scale (1 where elements have none).
    fn narrow(row: &[f32], put: impl FnMut(usize, Self)) -> f32;
}

impl Element for f32 {
    const SCALED: bool = false;

    #[inline(always)]
    fn widen<'a>(
        source: &'a [Self],
        stride: usize,
        rows: usize,
        width: usize,
        tile: &'a mut [f32; TILE],
    ) -> Widened<'a> {
        if width.is_multiple_of(LANES) {
            return Widened { data: source, stride };
        }
        // A last line would reach past the page.
        let tile_stride = width.next_multiple_of(LANES);
        for row in 0..rows {
            Self::widen_row(&source[row * stride..][..width], &mut tile[row * tile_stride..][..width]);
        }
        Widened { data: tile, stride: tile_stride }
    }

    #[inline(always)]
    fn widen_row(source: &[Self], wide: &mut [f32]) {
        wide.copy_from_slice(source);
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        row.iter().enumerate().for_each(|(d, &x)| put(d, x));
        1.0
    }
}

/// Half-precision bits, widened in portable arithmetic.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct F16(u16);

impl Element for F16 {
    const SCALED: bool = false;

    #[inline(always)]
    fn widen_row(source: &[Self], wide: &mut [f32]) {
        for (wide, h) in wide.iter_mut().zip(source) {
            *wide = f16_to_f32(h.0);
        }
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        row.iter().enumerate().for_each(|(d, &x)| put(d, Self(f32_to_f16(x))));
        1.0
    }
}

/// Half-precision bits, widened by the processor; only for the tiers that have F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct HardwareF16(F16);

#[cfg(target_arch = "x86_64")]
impl Element for HardwareF16 {
    const SCALED: bool = false;

    #[inline(always)]
    fn widen_row(source: &[Self], wide: &mut [f32]) {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let (source, source_tail) = source.as_chunks::<8>();
        let (wide, wide_tail) = wide.as_chunks_mut::<8>();
        for (source, wide) in source.iter().zip(wide) {
            // SAFETY: 8 halves are 16 bytes; this type is only used by tiers with F16C and AVX.
            let h = unsafe { _mm_loadu_si128(source.as_ptr().cast()) };
            // SAFETY: F16C as above.
            let x = unsafe { _mm256_cvtph_ps(h) };
            // SAFETY: 8 floats fit the chunk; AVX as above.
            unsafe { _mm256_storeu_ps(wide.as_mut_ptr(), x) };
        }
        for (h, wide) in source_tail.iter().zip(wide_tail) {
            *wide = f16_to_f32(h.0.0);
        }
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        F16::narrow(row, |d, h| put(d, Self(h)))
    }
}

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn widen_row(source: &[Self], wide: &mut [f32]) {
        for (wide, q) in wide.iter_mut().zip(source) {
            *wide = f32::from(*q);
        }
    }

    #[inline(always)]
    fn narrow(row: &[f32], mut put: impl FnMut(usize, Self)) -> f32 {
        let scale = Scale::of_row(row);
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
