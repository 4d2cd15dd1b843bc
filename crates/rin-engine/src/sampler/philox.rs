//! Philox4x32-10, a counter-based random generator.
//!
//! Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011.
//! A draw is a pure function of (seed, position), so it depends neither on the draws before it nor on the sequences that
//! run beside it.

/// Multipliers of the two halves of the counter.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// Added to the key after each round: the golden ratio and √3 − 1, as 32-bit fractions.
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: u32 = 10;
/// 2⁻⁵³, the spacing of the uniform draws.
const UNIT: f64 = f64::EPSILON / 2.0;

/// One block of Philox4x32-10: the four output words for a counter and a key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..ROUNDS {
        let (hi0, lo0) = multiply(MULTIPLIERS[0], c0);
        let (hi1, lo1) = multiply(MULTIPLIERS[1], c2);
        (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0);
        k0 = k0.wrapping_add(KEY_STEPS[0]);
        k1 = k1.wrapping_add(KEY_STEPS[1]);
    }
    [c0, c1, c2, c3]
}

/// The draw of a position: uniform in `[0, 1)`, a multiple of 2⁻⁵³.
///
/// The key is the seed, the counter the position, low words first; the result takes the upper 53 of the 64 bits of the
/// first two output words (word 1 above word 0).
pub fn uniform(seed: u64, position: u64) -> f64 {
    let (key_hi, key_lo) = halves(seed);
    let (counter_hi, counter_lo) = halves(position);
    let [low, high, ..] = philox4x32_10([counter_lo, counter_hi, 0, 0], [key_lo, key_hi]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit the significand of an f64")]
    let numerator = bits as f64;
    numerator * UNIT
}

/// The 64-bit product of two words as (high, low).
fn multiply(a: u32, b: u32) -> (u32, u32) {
    halves(u64::from(a) * u64::from(b))
}

/// The (high, low) words of a 64-bit value.
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, (value & 0xffff_ffff) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors for `philox4x32 10` in `kat_vectors` of the authors' library Random123.
    #[test]
    fn matches_the_published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected, "counter {counter:08x?}, key {key:08x?}");
        }
    }

    #[test]
    fn uniform_takes_the_upper_bits_of_the_first_two_words() {
        // 0xe169c58d6627e8d5 >> 11, over 2^53.
        let expected = 7_931_020_870_206_717.0 / 9_007_199_254_740_992.0;
        assert_eq!(uniform(0, 0).to_bits(), f64::to_bits(expected));
    }

    #[test]
    fn uniform_uses_all_bits_of_seed_and_position() {
        let base = uniform(1, 1).to_bits();
        for bit in 1..64 {
            assert_ne!(uniform(1 | 1 << bit, 1).to_bits(), base, "seed bit {bit}");
            assert_ne!(uniform(1, 1 | 1 << bit).to_bits(), base, "position bit {bit}");
        }
    }

    #[test]
    fn uniform_has_the_moments_of_the_unit_interval() {
        let n = 1u32 << 16;
        let draws: Vec<f64> = (0..u64::from(n)).map(|position| uniform(42, position)).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / f64::from(n);
        let square = draws.iter().map(|draw| draw * draw).sum::<f64>() / f64::from(n);
        // Four standard errors: sqrt(1/12/n) and sqrt(4/45/n).
        assert!((mean - 0.5).abs() < 4.0 * (1.0 / 12.0 / f64::from(n)).sqrt(), "mean {mean}");
        assert!((square - 1.0 / 3.0).abs() < 4.0 * (4.0 / 45.0 / f64::from(n)).sqrt(), "second moment {square}");
    }
}
