//! The interval of a mean whose terms depend on their neighbours: the block bootstrap.
//!
//! Source: E. Carlstein, "The use of subseries values for estimating the variance of a general statistic from a
//! stationary sequence", Annals of Statistics 14, 1986; percentile interval as in B. Efron, R. Tibshirani, "An
//! introduction to the bootstrap", 1993, chapter 13.

use crate::sampler::philox::philox4x32_10;

/// Resamples of an interval.
pub const RESAMPLES: u32 = 10_000;

/// With fewer blocks there is no interval: their spread says too little.
pub const MIN_BLOCKS: usize = 10;

/// Characters that a block of tokens holds on average.
pub const BLOCK_CHARS: usize = 1000;

/// The key of the random numbers.
const KEY: [u32; 2] = [0, 0];

/// Tokens of a block of about [`BLOCK_CHARS`] characters, where `tokens` tokens spell `chars` characters.
pub fn block_tokens(tokens: usize, chars: usize) -> usize {
    match chars {
        0 => BLOCK_CHARS,
        chars => tokens.saturating_mul(BLOCK_CHARS).div_ceil(chars).max(1),
    }
}

/// The 95 % interval of the mean of `values` by the block bootstrap; none with fewer than [`MIN_BLOCKS`] blocks.
///
/// The values are cut into blocks of `block`, the last one being shorter; each of [`RESAMPLES`] resamples draws as many
/// blocks as there are, with replacement, and is the mean of their values. The interval leaves out 2.5 % of the resamples
/// at either end. The draws are words of Philox4x32-10 with a fixed key and the counter (draw / 4, resample, 0, 0); a
/// word w takes block ⌊w · blocks / 2³²⌋.
pub fn mean_interval(values: &[f64], block: usize) -> Option<[f64; 2]> {
    let blocks: Vec<(f64, usize)> =
        values.chunks(block.max(1)).map(|block| (block.iter().sum(), block.len())).collect();
    let n = u32::try_from(blocks.len()).ok()?;
    if blocks.len() < MIN_BLOCKS {
        return None;
    }
    let mut means: Vec<f64> = (0..RESAMPLES).map(|resample| resampled_mean(&blocks, n, resample)).collect();
    means.sort_by(f64::total_cmp);
    let outside = means.len() / 40;
    Some([*means.get(outside)?, *means.get(means.len() - 1 - outside)?])
}

/// The mean over the blocks that one resample draws.
fn resampled_mean(blocks: &[(f64, usize)], n: u32, resample: u32) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for four in 0..n.div_ceil(4) {
        let words = philox4x32_10([four, resample, 0, 0], KEY);
        let draws = words.iter().take((n - 4 * four).min(4) as usize);
        for word in draws {
            let index = (u64::from(*word) * u64::from(n)) >> 32;
            if let Some((block_sum, length)) = usize::try_from(index).ok().and_then(|index| blocks.get(index)) {
                sum += block_sum;
                count += length;
            }
        }
    }
    sum / super::as_f64(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::philox::uniform;

    /// Independent standard normal values, by Box and Muller.
    fn normal(n: u64) -> Vec<f64> {
        let angle = |i| 2.0 * std::f64::consts::PI * uniform(8, 2 * i + 1);
        let radius = |i| libm::sqrt(-2.0 * libm::log(1.0 - uniform(8, 2 * i)));
        (0..n).map(|i| radius(i) * libm::cos(angle(i))).collect()
    }

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
        (mean, libm::sqrt(variance / n))
    }

    #[test]
    fn a_constant_has_an_interval_of_no_width() {
        assert_eq!(mean_interval(&[1.25; 1003], 100), Some([1.25, 1.25]));
        let [low, high] = mean_interval(&[0.1; 1003], 100).unwrap();
        assert!((low - 0.1).abs() < 1e-15 && (high - 0.1).abs() < 1e-15);
    }

    #[test]
    fn few_blocks_give_no_interval() {
        assert_eq!(mean_interval(&[], 10), None);
        assert_eq!(mean_interval(&[1.0; 90], 10), None);
        assert!(mean_interval(&[1.0; 91], 10).is_some());
    }

    #[test]
    fn independent_values_have_the_interval_of_normal_theory() {
        for (block, n) in [(1, 600), (7, 4203)] {
            let values = normal(n);
            let (mean, error) = moments(&values);
            let [low, high] = mean_interval(&values, block).unwrap();
            let width = high - low;
            let expected = 2.0 * 1.959_964 * error;
            assert!((width / expected - 1.0).abs() < 0.05, "blocks of {block}: {width} instead of {expected}");
            assert!((f64::midpoint(low, high) - mean).abs() < 0.05 * expected, "{low} … {high} around {mean}");
        }
    }

    /// Where every value comes ten times, there are a tenth as many independent ones.
    #[test]
    fn dependent_values_have_a_wider_interval() {
        let few = normal(600);
        let values: Vec<f64> = few.iter().flat_map(|x| [*x; 10]).collect();
        let (_, error) = moments(&few);
        let [low, high] = mean_interval(&values, 10).unwrap();
        assert!(((high - low) / (2.0 * 1.959_964 * error) - 1.0).abs() < 0.05);
        let [low_alone, high_alone] = mean_interval(&values, 1).unwrap();
        assert!(high_alone - low_alone < 0.4 * (high - low), "values taken for independent give a third of the width");
    }

    #[test]
    fn a_block_spells_a_thousand_characters() {
        assert_eq!(block_tokens(500, 1500), 334);
        assert_eq!(block_tokens(700, 700), 1000);
        assert_eq!(block_tokens(5, 1_000_000), 1);
        assert_eq!(block_tokens(5, 0), 1000);
    }
}
