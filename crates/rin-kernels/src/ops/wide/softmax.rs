//! Softmax in integers: powers of two from a table and a shift, and one rounded division by their sum.
//!
//! `e = 2^-(u / 2^f)` with `u = max − t`, for exponents `t` of base 2 with `f` fractional bits. How far the result may be from
//! softmax is proven and measured in the laboratory (`rin_lab::softmax`, docs/research/softmax.md).

/// Fractional bits of a probability.
pub const UNIT_BITS: u32 = 15;
/// Fractional bits of the table of powers.
pub const TABLE_BITS: u32 = 30;
/// Most fractional bits of an exponent.
pub const MAX_FRACTION: u32 = 12;
/// The exponent of a score that does not count.
pub const MASKED: i64 = i64::MIN / 4;

/// `round(2^30 · 2^-(i / 2^f))` for `i` in `0..2^f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Powers {
    fraction: u32,
    table: Vec<u32>,
}

impl Powers {
    /// For exponents of `fraction` fractional bits, in integers alone: roots of 1/2 with 62 fractional bits, multiplied.
    ///
    /// # Panics
    ///
    /// For more than [`MAX_FRACTION`] bits.
    #[must_use]
    pub fn new(fraction: u32) -> Self {
        assert!(fraction <= MAX_FRACTION, "{fraction} fractional bits");
        // roots[k] = 2^-(1 / 2^k); each is within 2^-61 of its number.
        let mut roots = [1_u64 << 61; MAX_FRACTION as usize + 1];
        for k in 1..roots.len() {
            #[expect(clippy::cast_possible_truncation, reason = "below 2^62")]
            let root = (u128::from(roots[k - 1]) << 62).isqrt() as u64;
            roots[k] = root;
        }
        let entry = |i: u32| {
            let mut product = 1_u64 << 62;
            for bit in 0..fraction {
                if i >> bit & 1 == 1 {
                    let root = roots[(fraction - bit) as usize];
                    #[expect(clippy::cast_possible_truncation, reason = "below 2^62")]
                    let smaller = ((u128::from(product) * u128::from(root) + (1 << 61)) >> 62) as u64;
                    product = smaller;
                }
            }
            ((product + (1 << 31)) >> 32) as u32
        };
        Self { fraction, table: (0..1_u32 << fraction).map(entry).collect() }
    }

    /// Fractional bits of the exponents.
    #[must_use]
    pub fn fraction(&self) -> u32 {
        self.fraction
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &[u32] {
        &self.table
    }
}

/// Writes `2^-((max − t) / 2^f)` for each exponent, in [`TABLE_BITS`] fractional bits, and returns the sum: zeros where there
/// is no exponent but [`MASKED`] ones. `table` has 2^f entries.
#[inline(always)]
pub fn weigh(exponents: &[i64], fraction: u32, table: &[u32], weights: &mut [u32]) -> u64 {
    weigh_by(exponents, fraction, |place| table[place], weights)
}

/// As [`weigh`], the table behind a function of a place below 2^f.
#[inline(always)]
pub(super) fn weigh_by(exponents: &[i64], fraction: u32, entry: impl Fn(usize) -> u32, weights: &mut [u32]) -> u64 {
    let most = exponents.iter().copied().max().unwrap_or(MASKED);
    if most <= MASKED {
        weights.fill(0);
        return 0;
    }
    let mask = (1_u64 << fraction) - 1;
    let mut sum = 0;
    for (weight, t) in weights.iter_mut().zip(exponents) {
        let u = most.abs_diff(*t);
        let shift = u >> fraction;
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let entry = entry((u & mask) as usize);
        *weight = if shift > u64::from(TABLE_BITS) { 0 } else { entry >> shift };
        sum += u64::from(*weight);
    }
    sum
}

/// Weights over their sum in units of 2^-[`UNIT_BITS`], each rounded to nearest.
///
/// A sum of at least one whole weight has 31 bits or more, and then one reciprocal of it serves all: with `b` the sum's highest
/// bit, `a = weight · 2^15 + sum / 2` and `inverse = floor(2^(b + 31) / sum)`, the estimate `(a / 2^15) · inverse / 2^(b + 16)` is
/// below `a / sum` by less than `(2^31 + 2^32) / 2^46`, so what is rounded down from it is the quotient or one less, and the rest
/// says which.
#[inline(always)]
pub fn divide(weights: &mut [u32], sum: u64) {
    if sum == 0 {
        return;
    }
    let bit = sum.ilog2();
    if (TABLE_BITS..=44).contains(&bit) {
        let inverse = (1_u128 << (bit + 31)) / u128::from(sum);
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^31")]
        let inverse = inverse as u64 & 0xffff_ffff;
        for weight in weights {
            let a = (u64::from(*weight) << UNIT_BITS) + sum / 2;
            let estimate = ((a >> UNIT_BITS & 0xffff_ffff) * inverse) >> (bit + 16);
            let more = u64::from(a - estimate * sum >= sum);
            #[expect(clippy::cast_possible_truncation, reason = "at most 2^15")]
            let share = (estimate + more) as u32;
            *weight = share;
        }
        return;
    }
    for weight in weights {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^15")]
        let share = (((u64::from(*weight) << UNIT_BITS) + sum / 2) / sum) as u32;
        *weight = share;
    }
}

#[cfg(test)]
mod tests {
    use super::{MASKED, Powers, divide, weigh};

    /// `round(2^30 · 2^-(i / 256))` by Python's decimals of 80 digits.
    #[test]
    fn entries_are_rounded_powers() {
        let powers = Powers::new(8);
        let found: Vec<u32> = [0, 1, 37, 128, 200, 255].iter().map(|&i| powers.table()[i]).collect();
        assert_eq!(found, [1 << 30, 1_070_838_486, 971_385_527, 759_250_125, 624_770_026, 538_326_517]);
        assert_eq!(Powers::new(0).table(), [1 << 30]);
        assert!(Powers::new(12).table().windows(2).all(|pair| pair[0] > pair[1]));
    }

    /// The reciprocal gives the quotient, rounded to nearest, of all sums that it serves.
    #[test]
    fn shares_are_quotients() {
        let mut state = 9_u64;
        for sum in (30..45).flat_map(|bit| [0, 1, 12_345, (1 << bit) - 1].map(|more| (1_u64 << bit) + more)) {
            let mut weights: Vec<u32> = (0..200)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    u32::try_from(state >> 34).unwrap()
                })
                .collect();
            weights.extend([0, 1, 1 << 30, (1 << 30) - 1]);
            // Weights whose quotients end just above and just below a half.
            weights.extend((1..40).map(|k| u32::try_from((((2 * k + 1) * sum) >> 16).min(1 << 30)).unwrap()));
            let want: Vec<u64> = weights.iter().map(|&w| ((u64::from(w) << 15) + sum / 2) / sum).collect();
            divide(&mut weights, sum);
            assert_eq!(weights.iter().map(|&w| u64::from(w)).collect::<Vec<_>>(), want, "{sum}");
        }
    }

    #[test]
    fn a_unit_of_the_exponent_halves_a_weight() {
        let powers = Powers::new(4);
        let mut weights = [9; 4];
        let sum = weigh(&[0, -16, -32, MASKED], 4, powers.table(), &mut weights);
        assert_eq!((weights, sum), ([1 << 30, 1 << 29, 1 << 28, 0], 7 << 28));
        divide(&mut weights, sum);
        assert_eq!(weights, [18_725, 9_362, 4_681, 0]);
        assert_eq!(weigh(&[MASKED; 2], 4, powers.table(), &mut weights[..2]), 0);
        assert_eq!(weights[..2], [0, 0]);
    }
}
