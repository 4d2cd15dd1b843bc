//! Random numbers that are a function of their place, so that a resumed training draws what it would have drawn.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators") as a hash of a counter.

/// The golden ratio as a 64-bit fraction, the generator's increment.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The `n`-th output of the generator that starts at `state`.
#[inline(always)]
pub fn draw(state: u64, n: u64) -> u64 {
    let z = state.wrapping_add(GOLDEN.wrapping_mul(n.wrapping_add(1)));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of its own for each purpose and place: hashes `parts` one after the other into the seed.
pub fn stream(seed: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(draw(seed, 0), |state, &part| draw(state ^ draw(part, 1), 2))
}

/// Uniform in `[0, 1)`.
pub fn uniform(state: u64, n: u64) -> f64 {
    (draw(state, n) >> 11) as f64 * (f64::EPSILON / 2.0)
}

/// Uniform in `0..below`, which is not 0; the bias is below `below / 2^64`.
#[expect(clippy::cast_possible_truncation, reason = "the high half of the product is below `below`")]
pub fn index(state: u64, n: u64, below: usize) -> usize {
    ((u128::from(draw(state, n)) * below as u128) >> 64) as usize
}

/// Standard normal, by the method of Box and Muller.
pub fn normal(state: u64, n: u64) -> f64 {
    let (a, b) = (1.0 - uniform(state, 2 * n), uniform(state, 2 * n + 1));
    (-2.0 * libm::log(a)).sqrt() * libm::cos(std::f64::consts::TAU * b)
}

#[cfg(test)]
mod tests {
    use super::{draw, index, normal, uniform};

    #[test]
    fn the_outputs_are_those_of_the_published_generator() {
        // Vigna's splitmix64.c, state 1234567.
        let want = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|n| draw(1_234_567, n)), want);
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let n = 20_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| uniform(1, i)) - 0.5).abs() < 0.01);
        assert!(mean(&|i| normal(2, i)).abs() < 0.03);
        assert!((mean(&|i| normal(2, i).powi(2)) - 1.0).abs() < 0.05);
        assert!((mean(&|i| index(3, i, 7) as f64) - 3.0).abs() < 0.06);
    }
}
