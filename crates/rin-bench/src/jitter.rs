//! The machine's own jitter: how much the time of a fixed piece of arithmetic varies.
//!
//! What lengthens a spin that touches no memory (interrupts, other processes, a hypervisor) lengthens steps of a model as
//! well. A tail of the steps that the spin does not have is the engine's own.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::stats::{percentile, sorted, tail};

/// How long a spin shall take.
pub const SPIN: Duration = Duration::from_micros(20);

/// Spins of a measurement.
pub const SPINS: usize = 10_000;

/// How the durations of one fixed loop are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Jitter {
    /// Spins that were timed.
    pub n: usize,
    /// Median duration, in µs.
    pub median_us: f64,
    /// 99th percentile over the median.
    pub p99: Option<f64>,
    /// 99.9th percentile over the median.
    pub p999: Option<f64>,
    /// Longest over the median.
    pub max: f64,
}

impl Jitter {
    /// Of durations in ns; none of no durations.
    pub fn of(ns: &[f64]) -> Option<Self> {
        let sorted = sorted(ns);
        let median = percentile(&sorted, 500).filter(|median| *median > 0.0)?;
        let over = |value: f64| value / median;
        Some(Self {
            n: sorted.len(),
            median_us: median / 1e3,
            p99: tail(&sorted, 990).map(over),
            p999: tail(&sorted, 999).map(over),
            max: over(*sorted.last()?),
        })
    }
}

/// A loop of pure arithmetic of a fixed length.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    iterations: u64,
}

impl Spin {
    /// A loop of about `target` on this processor, undisturbed.
    pub fn calibrate(target: Duration) -> Self {
        let target = target.as_secs_f64() * 1e9;
        let mut iterations = 64;
        loop {
            // The shortest of several is the one that nothing came between.
            let ns = (0..5).map(|_| Self { iterations }.time()).fold(f64::INFINITY, f64::min);
            if ns >= target / 2.0 || iterations >= 1 << 40 {
                let scaled = iterations as f64 * (target / ns.max(1.0));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; saturates")]
                return Self { iterations: (scaled as u64).max(1) };
            }
            iterations *= 2;
        }
    }

    /// Runs the loop once; how long it took, in ns.
    pub fn time(self) -> f64 {
        let start = Instant::now();
        black_box(self.run());
        start.elapsed().as_secs_f64() * 1e9
    }

    /// Runs the loop `n` times and adds each duration, in ns.
    pub fn sample(self, n: usize, into: &mut Vec<f64>) {
        into.reserve(n);
        into.extend((0..n).map(|_| self.time()));
    }

    /// A chain of multiplications, each of which waits for the one before.
    fn run(self) -> u64 {
        let mut state = black_box(1_u64);
        for _ in 0..self.iterations {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        state
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_over_the_median() {
        let ns: Vec<f64> = (1..=10_000).map(f64::from).collect();
        let jitter = Jitter::of(&ns).unwrap();
        assert_eq!(jitter.n, 10_000);
        assert_eq!(jitter.median_us, 5.0);
        assert_eq!((jitter.p99, jitter.p999, jitter.max), (Some(1.98), Some(1.998), 2.0));
        let few = Jitter::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((few.p99, few.p999, few.max), (None, None, 1.5));
        assert_eq!(Jitter::of(&[]), None);
    }

    #[test]
    fn a_longer_loop_takes_more_iterations() {
        let short = Spin::calibrate(Duration::from_micros(2));
        let long = Spin::calibrate(Duration::from_millis(2));
        assert!(long.iterations > 10 * short.iterations, "{} and {}", short.iterations, long.iterations);
        let mut ns = Vec::new();
        short.sample(100, &mut ns);
        assert_eq!(ns.len(), 100);
        assert!(ns.iter().all(|ns| *ns > 0.0));
    }
}
