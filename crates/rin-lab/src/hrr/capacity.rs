//! How many pairs a vector holds.
//!
//! N values out of D are bound to N random keys and added up; one is asked for by its key and decoded as the nearest of the D.
//! The answer is a sum of the value and N − 1 random vectors, so its product with the right value is about normal with mean 1
//! and variance (N − 1) / n, with each wrong one about normal with mean 0 and variance N / n. The share of right answers is
//! `∫ φ(x) Φ((1 + x √((N−1)/n)) / √(N/n))^(D−1) dx` (E. P. Frady, D. Kleyko, F. T. Sommer, "A theory of sequence indexing and working memory
//! in recurrent neural networks", Neural Computation 30, 2018, section 2.2, with each product's own variance).
//!
//! Values are drawn from the D, so one of D of the other values is the very vector that is asked about. Convolved with the
//! two keys it has a product with itself of variance `Σ |W_k|⁴ / n²` over its spectrum, which is 2 / n for normal numbers,
//! and not 1 / n: with convolution the N − 1 others have the variance `(N − 1) (1 + 1/D) / n`. Signs are 1 when they are
//! squared, so nothing changes there.

use super::float::{self, Complex, times};
use super::{Binder, Block};
use crate::Error;
use crate::random::Random;

/// Ways to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Circular convolution with unitary keys.
    Convolution,
    /// The same in the fixed-point library with mantissas of 16 bits.
    Fixed,
    /// Products of signs, element by element (MAP; R. W. Gayler, 1998).
    Signs,
}

/// The share of right answers that theory expects of `pairs` in a vector of `n` with `candidates` values.
pub fn expected(binding: Binding, n: usize, pairs: usize, candidates: usize) -> f64 {
    let (n, pairs) = (n as f64, pairs as f64);
    let again = if binding == Binding::Signs { 0.0 } else { 1.0 / candidates as f64 };
    let others = (pairs - 1.0) * (1.0 + again);
    let (hit, miss) = ((others / n).sqrt(), ((others + 1.0) / n).sqrt());
    let below = |x: f64| libm::erfc(-(1.0 + hit * x) / miss / std::f64::consts::SQRT_2) / 2.0;
    // Simpson's rule over ±8.
    let (steps, low) = (1600, -8.0);
    let width = 16.0 / f64::from(steps);
    let mut sum = 0.0;
    for i in 0..=steps {
        let x = low + width * f64::from(i);
        let density = libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
        let weight = if i == 0 || i == steps {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        };
        sum += weight * density * libm::pow(below(x), candidates as f64 - 1.0);
    }
    sum * width / 3.0
}

/// The share of right answers of each of `trials`, every pair being asked for.
///
/// # Errors
/// [`Error::Input`] where `n` is no power of two.
pub fn measure(
    binding: Binding,
    n: usize,
    pairs: usize,
    candidates: usize,
    trials: usize,
    seed: u32,
) -> Result<Vec<f64>, Error> {
    let mut found = Vec::with_capacity(trials);
    for trial in 0..trials {
        let mut random = Random::new(seed, trial as u32);
        found.push(match binding {
            Binding::Convolution => convolution(n, pairs, candidates, &mut random)?,
            Binding::Fixed => fixed(n, pairs, candidates, &mut random)?,
            Binding::Signs => signs(n, pairs, candidates, &mut random),
        });
    }
    Ok(found)
}

/// The spectrum of a random unitary vector: phases that are each other's conjugates about the middle.
fn random_unitary(n: usize, random: &mut Random) -> Vec<Complex> {
    let mut spectrum = vec![(1.0, 0.0); n];
    for k in 0..=n / 2 {
        let angle = 2.0 * std::f64::consts::PI * random.uniform();
        let value = if k == 0 || 2 * k == n {
            (if random.chance(0.5) { 1.0 } else { -1.0 }, 0.0)
        } else {
            (libm::cos(angle), libm::sin(angle))
        };
        spectrum[k] = value;
        if k > 0 && 2 * k < n {
            spectrum[n - k] = (value.0, -value.1);
        }
    }
    spectrum
}

/// All of it in the spectrum, where binding is a product and products of vectors are those of spectra (Parseval).
fn convolution(n: usize, pairs: usize, candidates: usize, random: &mut Random) -> Result<f64, Error> {
    let codebook: Vec<Vec<Complex>> = (0..candidates)
        .map(|_| {
            let x = float::normal(n, random);
            let size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            float::spectrum(&x.iter().map(|x| x / size).collect::<Vec<_>>())
        })
        .collect::<Result<_, _>>()?;
    let mut memory = vec![(0.0, 0.0); n];
    let mut asked = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let (key, value) = (random_unitary(n, random), random.below(candidates));
        for ((memory, key), value) in memory.iter_mut().zip(&key).zip(&codebook[value]) {
            let bound = times(*key, *value);
            *memory = (memory.0 + bound.0, memory.1 + bound.1);
        }
        asked.push((key, value));
    }
    let right = asked.iter().filter(|(key, value)| {
        let answer: Vec<Complex> = key.iter().zip(&memory).map(|(k, m)| times((k.0, -k.1), *m)).collect();
        let similarity = |word: &[Complex]| answer.iter().zip(word).map(|(a, w)| a.0 * w.0 + a.1 * w.1).sum::<f64>();
        nearest(codebook.iter().map(|word| similarity(word))) == *value
    });
    Ok(right.count() as f64 / pairs as f64)
}

/// By the library's own operations; sums of vectors are rounded to a block before each answer.
fn fixed(n: usize, pairs: usize, candidates: usize, random: &mut Random) -> Result<f64, Error> {
    const BITS: u32 = 16;
    let binder = Binder::new(n, BITS)?;
    let codebook: Vec<Vec<f64>> = (0..candidates).map(|_| float::normal(n, random)).collect();
    let sizes: Vec<f64> = codebook.iter().map(|x| x.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    let mut memory = vec![0.0; n];
    let mut asked = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let key = Block::of(&float::unitary(&float::normal(n, random))?, BITS);
        let value = random.below(candidates);
        let unit: Vec<f64> = codebook[value].iter().map(|x| x / sizes[value]).collect();
        let bound = binder.bind(&key, &Block::of(&unit, BITS))?.values();
        memory.iter_mut().zip(bound).for_each(|(memory, bound)| *memory += bound);
        asked.push((key, value));
    }
    let memory = Block::of(&memory, BITS);
    let mut right = 0;
    for (key, value) in asked {
        let answer = binder.unbind(&key, &memory)?.values();
        let similarity = |word: &[f64]| answer.iter().zip(word).map(|(a, w)| a * w).sum::<f64>();
        right += usize::from(nearest(codebook.iter().zip(&sizes).map(|(word, size)| similarity(word) / size)) == value);
    }
    Ok(right as f64 / pairs as f64)
}

fn signs(n: usize, pairs: usize, candidates: usize, random: &mut Random) -> f64 {
    let mut vector = || -> Vec<i32> { (0..n).map(|_| if random.word() & 1 == 1 { 1 } else { -1 }).collect() };
    let codebook: Vec<Vec<i32>> = (0..candidates).map(|_| vector()).collect();
    let keys: Vec<Vec<i32>> = (0..pairs).map(|_| vector()).collect();
    let values: Vec<usize> = (0..pairs).map(|_| random.below(candidates)).collect();
    let mut memory = vec![0; n];
    for (key, value) in keys.iter().zip(&values) {
        for ((memory, key), value) in memory.iter_mut().zip(key).zip(&codebook[*value]) {
            *memory += key * value;
        }
    }
    let right = keys.iter().zip(&values).filter(|(key, value)| {
        let answer: Vec<i32> = key.iter().zip(&memory).map(|(k, m)| k * m).collect();
        let similarity = |word: &[i32]| f64::from(answer.iter().zip(word).map(|(a, w)| a * w).sum::<i32>());
        nearest(codebook.iter().map(|word| similarity(word))) == **value
    });
    right.count() as f64 / pairs as f64
}

/// The place of the largest, the first of equal ones.
fn nearest(similarities: impl Iterator<Item = f64>) -> usize {
    let most = similarities.enumerate().fold((0, f64::NEG_INFINITY), |best, x| if x.1 > best.1 { x } else { best });
    most.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theory_has_its_limits() {
        let signs = |n, pairs, candidates| expected(Binding::Signs, n, pairs, candidates);
        assert!(signs(1024, 1, 64) > 0.999_999);
        assert!((signs(64, 100_000, 64) - 1.0 / 64.0).abs() < 0.01, "{}", signs(64, 100_000, 64));
        // Two candidates: the chance that a normal difference of mean 1 and variance (2N − 1)/n is positive.
        let (n, pairs) = (100, 50);
        let spread = ((2.0 * 50.0 - 1.0) / 100.0_f64).sqrt();
        let exact = libm::erfc(-1.0 / spread / std::f64::consts::SQRT_2) / 2.0;
        assert!((signs(n, pairs, 2) - exact).abs() < 1e-6);
        // A value that comes again costs convolution more, and only it.
        assert!(expected(Binding::Convolution, n, pairs, 2) < exact - 0.02);
        assert!((expected(Binding::Convolution, n, pairs, 1 << 20) - signs(n, pairs, 1 << 20)).abs() < 1e-4);
    }

    #[test]
    fn both_bindings_follow_it() {
        for binding in [Binding::Convolution, Binding::Fixed, Binding::Signs] {
            for pairs in [8, 32, 64] {
                let found = measure(binding, 256, pairs, 64, 40, 5).unwrap();
                let mean = found.iter().sum::<f64>() / found.len() as f64;
                let theory = expected(binding, 256, pairs, 64);
                assert!((mean - theory).abs() < 0.05, "{binding:?}, {pairs}: {mean} for {theory}");
            }
        }
    }

    /// With two words half of the values come again, and theory without them is off by far.
    #[test]
    fn values_that_come_again_are_counted() {
        let found = measure(Binding::Convolution, 64, 64, 2, 400, 6).unwrap();
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let (with, without) = (expected(Binding::Convolution, 64, 64, 2), expected(Binding::Signs, 64, 64, 2));
        assert!((mean - with).abs() < 0.01 && (mean - without).abs() > 0.02, "{mean}: {with}, {without}");
    }

    /// The shortcut through spectra is the way through vectors.
    #[test]
    fn a_random_unitary_spectrum_is_that_of_a_real_vector() {
        let mut random = Random::new(1, 5);
        let mut x = random_unitary(64, &mut random);
        float::fft(&mut x, true).unwrap();
        assert!(x.iter().all(|x| x.1.abs() < 1e-12));
    }
}
