//! Rows of 32-bit integers between the products of an encoder or a decoder in integers: to 8 bits for a product and back, sums,
//! norms, functions, rotary positions, attention. No float operation.
//!
//! A value is a row of integers in steps of a scale of its own, within ±[`MAX_ELEMENT`]. A factor between two scales is
//! `multiplier / 2^shift`:
//!
//! ```text
//! scaled(x, f) = (x * f.multiplier + 2^(f.shift - 1)) >> f.shift
//! ```
//!
//! in 64 bits, `>>` rounding down. Before a product each row is brought to 8 bits by its own largest magnitude, which is the
//! token's scale as an integer; [`Rescale`](rows::Rescale) multiplies by it afterwards. Every operation is a loop over
//! whole numbers, compiled once per tier: sums of integers have no order, so the tiers agree by construction.

pub mod attention;
pub mod norm;
pub mod rotate;
pub mod rows;
pub mod softmax;

/// The largest magnitude of an element; what would be larger stays there.
pub const MAX_ELEMENT: i32 = 1 << 20;
/// Shifts that a factor may have.
pub const SHIFTS: std::ops::RangeInclusive<i32> = 1..=62;

/// `multiplier / 2^shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Not negative.
    pub multiplier: i32,
    /// Within [`SHIFTS`].
    pub shift: i32,
}

impl Factor {
    /// Whether its numbers are such that nothing is undefined.
    pub fn is_sound(self) -> bool {
        self.multiplier >= 0 && SHIFTS.contains(&self.shift)
    }
}

/// `x` times a factor, rounded to nearest, halves up.
#[inline(always)]
fn scaled(x: i32, Factor { multiplier, shift }: Factor) -> i64 {
    // Sound shifts lie below 63; the mask keeps others from being undefined.
    let half = 1_i64 << ((shift - 1) & 63);
    (i64::from(x) * i64::from(multiplier) + half) >> (shift & 63)
}

/// Within ±[`MAX_ELEMENT`].
#[inline(always)]
fn bounded(x: i64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "within 21 bits")]
    let bounded = x.clamp(-i64::from(MAX_ELEMENT), i64::from(MAX_ELEMENT)) as i32;
    bounded
}
