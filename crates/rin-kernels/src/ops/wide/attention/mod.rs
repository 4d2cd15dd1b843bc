//! Attention of one query to the keys and values of its sequence, in integers.
//!
//! ```text
//! q, k = ((x + 2^8) >> 9) in 12 bits, v = ((x + 2^4) >> 5) in 16 bits
//! t[j] = scaled(sum over d of q[d] * k[j, d], factor)
//! p    = softmax in integers of t, at most 2^15 - 1
//! y[d] = (sum over j of p[j] * v[j, d] + 2^9) >> 10
//! ```
//!
//! The factor holds the scales of queries and keys, the root of a head's width and log2(e) · 2^8. Sums fit 32 bits: of at most
//! [`MAX_HEAD`] products of 22 bits, and of probabilities whose sum is 1 up to half a unit each.
//!
//! Keys lie in lines of 16 positions × 2 elements, the lines of 16 positions one after the other, and values in pairs of
//! positions, each element of the first beside that of the second: so products of pairs of 16 bits add up in 16 sums that are
//! 16 positions, or 16 elements of a value, and no sum goes across a register. What stands after the last position and the last
//! element is 0.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod tests;

use super::softmax::{Powers, divide, weigh_by};
use super::{Factor, bounded, scaled};
use crate::pack::LANES;

/// Fractional bits of a score's exponent.
pub const FRACTION: u32 = 8;
/// Most elements of a head.
pub const MAX_HEAD: usize = 256;
/// Most positions that a query attends to.
pub const MAX_POSITIONS: usize = 1 << 14;

/// Two numbers of 16 bits that are multiplied together.
pub type Pair = [i16; 2];

/// Pairs that keys of `positions` of a head of `head` elements take.
pub fn key_pairs(positions: usize, head: usize) -> usize {
    positions.next_multiple_of(LANES) * head.div_ceil(2)
}

/// Pairs that the values take.
pub fn value_pairs(positions: usize, head: usize) -> usize {
    positions.div_ceil(2) * head
}

/// Queries or keys of 12 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "clamped to 12 bits")]
fn twelve_bits(x: i32) -> i16 {
    ((x + (1 << 8)) >> 9).clamp(-(1 << 11), 1 << 11) as i16
}

/// A query in pairs.
#[inline(always)]
pub fn to_query(out: &mut [Pair], x: &[i32]) {
    for (out, x) in out.iter_mut().zip(x.chunks(2)) {
        *out = [twelve_bits(x[0]), x.get(1).map_or(0, |&x| twelve_bits(x))];
    }
}

/// The key of a position; `keys` were zeros before the first.
#[inline(always)]
pub fn put_key(keys: &mut [Pair], position: usize, x: &[i32]) {
    let lines = x.len().div_ceil(2);
    let panel = &mut keys[position / LANES * lines * LANES..][..lines * LANES];
    for (line, x) in panel.as_chunks_mut::<LANES>().0.iter_mut().zip(x.chunks(2)) {
        line[position % LANES] = [twelve_bits(x[0]), x.get(1).map_or(0, |&x| twelve_bits(x))];
    }
}

/// The value of a position, in 16 bits; `values` were zeros before the first.
#[inline(always)]
pub fn put_value(values: &mut [Pair], position: usize, x: &[i32]) {
    for (pair, x) in values[position / 2 * x.len()..][..x.len()].iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 16 bits")]
        let small = ((x + (1 << 4)) >> 5).clamp(-32_767, 32_767) as i16;
        pair[position % 2] = small;
    }
}

/// What a head of a sequence attends to.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// As [`put_key`] writes them, of as many positions as are attended to or more.
    pub keys: &'a [Pair],
    /// As [`put_value`] writes them.
    pub values: &'a [Pair],
    /// From products to exponents.
    pub factor: Factor,
    /// Of [`FRACTION`] fractional bits.
    pub powers: &'a Powers,
}

kernel! {
    /// One query against the first positions, as many as there is room for in `exponents` and `weights`.
    pub struct Attend(y: &mut [i32], q: &[Pair], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]);
    check: |y: &&mut [i32], q: &&[Pair], to: &Attended<'_>, exponents: &&mut [i64], weights: &&mut [u32]| {
        let (head, n) = (y.len(), exponents.len());
        assert!((1..=MAX_HEAD).contains(&head) && q.len() == head.div_ceil(2), "a head of {head}");
        assert!(n <= MAX_POSITIONS && weights.len() == n, "{n} positions");
        assert!(key_pairs(n, head) <= to.keys.len() && value_pairs(n, head) <= to.values.len(), "keys of {n} positions");
        assert!(to.factor.is_sound(), "{:?}", to.factor);
        assert!(to.powers.fraction() == FRACTION, "powers of {} bits", to.powers.fraction());
    };
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => attend,
        Avx2 if target_arch = "x86_64" => avx2,
        Avx512Vnni if target_arch = "x86_64" => avx512::attend,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(y: &mut [i32], q: &[Pair], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]) {
    attend(y, q, to, exponents, weights);
}

/// A product of pairs, added.
#[inline(always)]
fn add_products(sum: i32, a: Pair, b: Pair) -> i32 {
    let [first, second] = [0, 1].map(|i| i32::from(a[i]) * i32::from(b[i]));
    sum.wrapping_add(first.wrapping_add(second))
}

/// Scores of 16 positions as exponents.
#[inline(always)]
fn put_exponents(exponents: &mut [i64], dots: &[i32], factor: Factor) {
    for (t, dot) in exponents.iter_mut().zip(dots) {
        *t = scaled(*dot, factor);
    }
}

/// Exponents become probabilities, of at most 2^15 − 1: one of 1 would be 2^15, which 16 bits with a sign lack.
#[inline(always)]
fn probabilities(exponents: &[i64], powers: &Powers, weights: &mut [u32]) {
    // As many as there are places, as was checked.
    let Some(table) = powers.table().first_chunk::<{ 1 << FRACTION }>() else { return };
    let sum = weigh_by(exponents, FRACTION, |place| table[place & (table.len() - 1)], weights);
    divide(weights, sum);
    for p in weights {
        *p = (*p).min(32_767);
    }
}

/// The probabilities of a pair of positions; of the last alone with a 0 beside.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "15 bits")]
fn pair_of(weights: &[u32]) -> Pair {
    [weights[0] as i16, weights.get(1).map_or(0, |&p| p as i16)]
}

/// A sum over positions as an element.
#[inline(always)]
fn element(sum: i32) -> i32 {
    bounded((i64::from(sum) + (1 << 9)) >> 10)
}

#[inline(always)]
fn attend(y: &mut [i32], q: &[Pair], to: Attended<'_>, exponents: &mut [i64], weights: &mut [u32]) {
    let head = y.len();
    for (exponents, panel) in exponents.chunks_mut(LANES).zip(to.keys.chunks_exact(q.len() * LANES)) {
        let mut dots = [0_i32; LANES];
        for (q, line) in q.iter().zip(panel.as_chunks::<LANES>().0) {
            for (dot, key) in dots.iter_mut().zip(line) {
                *dot = add_products(*dot, *q, *key);
            }
        }
        put_exponents(exponents, &dots, to.factor);
    }
    probabilities(exponents, to.powers, weights);
    y.fill(0);
    for (p, values) in weights.chunks(2).map(pair_of).zip(to.values.chunks_exact(head)) {
        for (y, value) in y.iter_mut().zip(values) {
            *y = add_products(*y, p, *value);
        }
    }
    for y in y {
        *y = element(*y);
    }
}
