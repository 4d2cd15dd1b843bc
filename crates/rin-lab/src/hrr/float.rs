//! Binding in double precision.

use crate::Error;
use crate::random::Random;

/// A complex number, as (re, im).
pub type Complex = (f64, f64);

pub(super) fn times(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// The discrete Fourier transform, in place; `inverse` is not divided by the length.
///
/// # Errors
/// [`Error::Input`] where the length is no power of two.
pub fn fft(x: &mut [Complex], inverse: bool) -> Result<(), Error> {
    let n = x.len();
    check_length(n)?;
    reverse_bits(x);
    let mut half = 1;
    while half < n {
        let step = std::f64::consts::PI / half as f64 * if inverse { 1.0 } else { -1.0 };
        let turns: Vec<Complex> = (0..half).map(|k| (libm::cos(step * k as f64), libm::sin(step * k as f64))).collect();
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), turn) in low.iter_mut().zip(high).zip(&turns) {
                let turned = times(*b, *turn);
                (*a, *b) = ((a.0 + turned.0, a.1 + turned.1), (a.0 - turned.0, a.1 - turned.1));
            }
        }
        half *= 2;
    }
    Ok(())
}

pub(super) fn check_length(n: usize) -> Result<(), Error> {
    if n.is_power_of_two() && n <= 1 << 20 {
        Ok(())
    } else {
        Err(Error::input("vector", format!("{n} elements, but it must be a power of two up to 2^20")))
    }
}

/// Exchanges places whose numbers are each other's mirror image in binary.
pub(super) fn reverse_bits<T>(x: &mut [T]) {
    let bits = x.len().trailing_zeros();
    for i in 0..x.len() {
        let j = if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) };
        if i < j {
            x.swap(i, j);
        }
    }
}

/// The spectrum of a real vector.
///
/// # Errors
/// As [`fft`].
pub fn spectrum(x: &[f64]) -> Result<Vec<Complex>, Error> {
    let mut y: Vec<Complex> = x.iter().map(|x| (*x, 0.0)).collect();
    fft(&mut y, false)?;
    Ok(y)
}

fn real(mut x: Vec<Complex>) -> Result<Vec<f64>, Error> {
    fft(&mut x, true)?;
    let n = x.len() as f64;
    Ok(x.into_iter().map(|x| x.0 / n).collect())
}

/// `a ⊛ b`.
///
/// # Errors
/// [`Error::Input`] where the lengths differ or are no power of two.
pub fn bind(a: &[f64], b: &[f64]) -> Result<Vec<f64>, Error> {
    same_length(a.len(), b.len())?;
    let (a, b) = (spectrum(a)?, spectrum(b)?);
    real(a.into_iter().zip(b).map(|(a, b)| times(a, b)).collect())
}

/// What was bound to `key`, exactly where the key is unitary.
///
/// # Errors
/// As [`bind`].
pub fn unbind(key: &[f64], bound: &[f64]) -> Result<Vec<f64>, Error> {
    same_length(key.len(), bound.len())?;
    let (key, bound) = (spectrum(key)?, spectrum(bound)?);
    real(key.into_iter().zip(bound).map(|(k, b)| times((k.0, -k.1), b)).collect())
}

pub(super) fn same_length(a: usize, b: usize) -> Result<(), Error> {
    if a == b {
        Ok(())
    } else {
        Err(Error::input("vectors", format!("{a} and {b} elements, but they must be the same")))
    }
}

/// The unitary vector with the phases of `x`: magnitude one at every frequency.
///
/// # Errors
/// As [`fft`].
pub fn unitary(x: &[f64]) -> Result<Vec<f64>, Error> {
    let y = spectrum(x)?;
    real(
        y.into_iter()
            .map(|(re, im)| {
                let size = libm::hypot(re, im);
                if size > 0.0 { (re / size, im / size) } else { (1.0, 0.0) }
            })
            .collect(),
    )
}

/// A vector of independent normal elements of variance 1/n.
pub fn normal(n: usize, random: &mut Random) -> Vec<f64> {
    let scale = 1.0 / (n as f64).sqrt();
    (0..n).map(|_| scale * random.normal()).collect()
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
