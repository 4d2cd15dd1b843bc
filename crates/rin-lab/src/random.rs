//! Random numbers of the experiments: streams keyed by a seed, the same on every machine.

use rin_engine::sampler::philox::philox4x32_10;

/// 2⁻³², the spacing of the uniform draws.
const UNIT: f64 = 1.0 / 4_294_967_296.0;

/// A stream of random numbers from Philox4x32-10, keyed by a seed and a stream's number.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u32; 2],
    block: u32,
    words: [u32; 4],
    left: usize,
    spare: Option<f64>,
}

impl Random {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u32, stream: u32) -> Self {
        Self { key: [seed, stream], block: 0, words: [0; 4], left: 0, spare: None }
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.left == 0 {
            self.words = philox4x32_10([self.block, 0, 0, 1], self.key);
            self.block = self.block.wrapping_add(1);
            self.left = self.words.len();
        }
        self.left -= 1;
        self.words[self.left]
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻³².
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.word()) * UNIT
    }

    /// Uniform in `[low, high)`.
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// A number below `n`, with a bias of at most n / 2³².
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from((u128::from(self.word()) * n as u128) >> 32).unwrap_or(0)
    }

    /// Standard normal (G. E. P. Box, M. E. Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let angle = 2.0 * std::f64::consts::PI * self.uniform();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }

    /// Whether an event of probability `p` happens.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// One of some values; none of nothing.
    pub fn one_of<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        values.get(self.below(values.len())).copied()
    }

    /// The numbers below `n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn draws_have_their_moments_and_streams_differ() {
        let mut random = Random::new(3, 4);
        let n = 40_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = random.normal();
            sum += x;
            squares += x * x;
            uniform += random.uniform();
        }
        let n = f64::from(n);
        // Four standard errors.
        assert!((sum / n).abs() < 4.0 / n.sqrt(), "{}", sum / n);
        assert!((squares / n - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "{}", squares / n);
        assert!((uniform / n - 0.5).abs() < 4.0 / (12.0 * n).sqrt(), "{}", uniform / n);
        assert_ne!(Random::new(3, 4).word(), Random::new(3, 5).word());
        assert_ne!(Random::new(3, 4).word(), Random::new(4, 4).word());
        let mut order = Random::new(1, 1).permutation(50);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
