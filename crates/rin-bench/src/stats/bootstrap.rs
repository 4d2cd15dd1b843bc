//! 95 % intervals by the percentile bootstrap.
//!
//! Source: B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.

use rin_engine::sampler::philox::philox4x32_10;

/// Resamples of an interval.
pub const RESAMPLES: u32 = 10_000;

/// With fewer samples there is no interval: their spread says too little.
pub const MIN_SAMPLES: usize = 5;

/// The key of the random numbers.
const KEY: [u32; 2] = [0x7269_6e00, 0x6265_6e63];

/// The 95 % interval of the mean; none of fewer than [`MIN_SAMPLES`] values.
pub fn mean_interval(values: &[f64]) -> Option<[f64; 2]> {
    interval(&[values], |resampled| super::mean(resampled.first()?))
}

/// The 95 % interval of the median; none of fewer than [`MIN_SAMPLES`] values.
pub fn median_interval(values: &[f64]) -> Option<[f64; 2]> {
    interval(&[values], |resampled| super::median(resampled.first()?))
}

/// The 95 % interval of mean(`b`) − mean(`a`) for independent samples; none where either has fewer than
/// [`MIN_SAMPLES`].
pub fn difference_interval(a: &[f64], b: &[f64]) -> Option<[f64; 2]> {
    interval(&[a, b], |resampled| match resampled {
        [a, b] => Some(super::mean(b)? - super::mean(a)?),
        _ => None,
    })
}

/// The interval of a statistic of several samples, each of them resampled by itself. Leaves out 2.5 % of the resamples at
/// either end.
fn interval(samples: &[&[f64]], statistic: impl Fn(&[Vec<f64>]) -> Option<f64>) -> Option<[f64; 2]> {
    if samples.iter().any(|sample| sample.len() < MIN_SAMPLES) {
        return None;
    }
    let mut resampled: Vec<Vec<f64>> = samples.iter().map(|sample| Vec::with_capacity(sample.len())).collect();
    let mut found = Vec::with_capacity(RESAMPLES as usize);
    for resample in 0..RESAMPLES {
        for (stream, (sample, into)) in (0..).zip(samples.iter().zip(&mut resampled)) {
            into.clear();
            into.extend(draws(stream, resample, sample.len()).filter_map(|index| sample.get(index)));
        }
        found.push(statistic(&resampled)?);
    }
    found.sort_unstable_by(f64::total_cmp);
    let outside = found.len() / 40;
    Some([*found.get(outside)?, *found.get(found.len() - 1 - outside)?])
}

/// `n` indices below `n`, with replacement: a word w of Philox with the counter (draw / 4, resample, stream, 0) takes
/// ⌊w · n / 2³²⌋.
pub(super) fn draws(stream: u32, resample: u32, n: usize) -> impl Iterator<Item = usize> {
    words(stream, resample).take(n).map(move |word| below(word, n))
}

/// The random words of a resample.
pub(super) fn words(stream: u32, resample: u32) -> impl Iterator<Item = u32> {
    (0..=u32::MAX).flat_map(move |four| philox4x32_10([four, resample, stream, 0], KEY))
}

/// A word as a number below `n`, with a bias of at most n / 2³².
pub(super) fn below(word: u32, n: usize) -> usize {
    let scaled = (u128::from(word) * n as u128) >> 32;
    usize::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{mean, sorted, stddev};
    use rin_engine::sampler::philox::uniform;

    #[test]
    fn a_constant_has_an_interval_of_no_width() {
        assert_eq!(mean_interval(&[1.5; 7]), Some([1.5, 1.5]));
        assert_eq!(median_interval(&[1.5; 7]), Some([1.5, 1.5]));
        assert_eq!(difference_interval(&[1.5; 7], &[2.0; 5]), Some([0.5, 0.5]));
        assert_eq!(mean_interval(&[1.5; 4]), None);
        assert_eq!(difference_interval(&[1.5; 7], &[2.0; 4]), None);
    }

    /// All 5⁵ resamples of five values, against the drawn ones: the ends must lie between the true quantiles of 2 % and
    /// 3 %, which are five standard errors away on either side.
    #[test]
    fn the_ends_are_quantiles_of_all_resamples() {
        let values = [1.0, 2.0, 4.0, 8.5, 16.25];
        let all = |statistic: fn(&[f64]) -> Option<f64>| {
            let every = (0..3125_usize).map(|code| {
                let digits = (0..5).scan(code, |rest, _| {
                    let digit = *rest % 5;
                    *rest /= 5;
                    Some(values[digit])
                });
                statistic(&digits.collect::<Vec<_>>()).unwrap()
            });
            sorted(&every.collect::<Vec<_>>())
        };
        for (statistic, found) in [
            (mean as fn(&[f64]) -> Option<f64>, mean_interval(&values).unwrap()),
            (crate::stats::median, median_interval(&values).unwrap()),
        ] {
            let all = all(statistic);
            let at = |share: f64| all[(0..3125).find(|i| *i as f64 >= share * 3124.0).unwrap()];
            assert!((at(0.02)..=at(0.03)).contains(&found[0]), "{found:?}");
            assert!((at(0.97)..=at(0.98)).contains(&found[1]), "{found:?}");
        }
    }

    #[test]
    fn many_values_have_the_interval_of_normal_theory() {
        let x: Vec<f64> = (0..400).map(|i| uniform(3, i)).collect();
        let y: Vec<f64> = (0..300).map(|i| 0.3 + uniform(4, i)).collect();
        let error = |x: &[f64]| stddev(x).unwrap() / (x.len() as f64).sqrt();
        let close = |found: [f64; 2], middle: f64, error: f64| {
            let expected = 2.0 * 1.959_964 * error;
            assert!(((found[1] - found[0]) / expected - 1.0).abs() < 0.05, "{found:?} for a width of {expected}");
            assert!((f64::midpoint(found[0], found[1]) - middle).abs() < 0.05 * expected, "{found:?} around {middle}");
        };
        close(mean_interval(&x).unwrap(), mean(&x).unwrap(), error(&x));
        let both = (error(&x) * error(&x) + error(&y) * error(&y)).sqrt();
        close(difference_interval(&x, &y).unwrap(), mean(&y).unwrap() - mean(&x).unwrap(), both);
    }
}
