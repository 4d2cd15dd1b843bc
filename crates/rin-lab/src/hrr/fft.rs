//! Binding in block-floating fixed point: mantissas of 16 or 32 bits that share one exponent.
//!
//! Transforms of 16-bit vectors keep 24 bits between their stages, so that rounding at each of them stays below that of the
//! result.

use super::float::{check_length, reverse_bits, same_length};
use crate::Error;

/// A vector of mantissas with one exponent: element i is `mantissas[i] · 2^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The mantissas.
    pub mantissas: Vec<i32>,
    /// Their exponent.
    pub exponent: i32,
}

impl Block {
    /// Numbers as mantissas of `bits` bits with sign, the largest of them in full.
    pub fn of(x: &[f64], bits: u32) -> Self {
        let most = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        if most <= 0.0 || !most.is_finite() {
            return Self { mantissas: vec![0; x.len()], exponent: 0 };
        }
        let exponent = libm::frexp(most).1 + 1 - bits.cast_signed();
        let limit = f64::from(1_u32 << (bits - 1)) - 1.0;
        let scale = libm::exp2(f64::from(-exponent));
        let mantissas = x.iter().map(|x| (x * scale).round_ties_even().clamp(-limit, limit) as i32).collect();
        Self { mantissas, exponent }
    }

    /// The numbers.
    pub fn values(&self) -> Vec<f64> {
        let scale = libm::exp2(f64::from(self.exponent));
        self.mantissas.iter().map(|m| f64::from(*m) * scale).collect()
    }
}

/// A complex number in wide integers.
type Wide = (i64, i64);

/// Binds vectors of one width in fixed point.
#[derive(Clone, Debug)]
pub struct Binder {
    /// Bits of a mantissa.
    bits: u32,
    /// Bits between the stages of a transform.
    inner: u32,
    n: usize,
    /// e^(-2πik/n) for k below n/2, with `inner − 2` fractional bits.
    turns: Vec<Wide>,
}

impl Binder {
    /// For vectors of `n` elements with mantissas of `bits` bits.
    ///
    /// # Errors
    /// [`Error::Input`] where `n` is no power of two, or the bits are neither 16 nor 32.
    pub fn new(n: usize, bits: u32) -> Result<Self, Error> {
        check_length(n)?;
        if bits != 16 && bits != 32 {
            return Err(Error::input("mantissas", format!("{bits} bits, but they may have 16 or 32")));
        }
        let inner = bits.max(24);
        let unit = libm::exp2(f64::from(inner - 2));
        let turn = |k: usize| {
            let angle = -2.0 * std::f64::consts::PI * k as f64 / n as f64;
            (libm::round(unit * libm::cos(angle)) as i64, libm::round(unit * libm::sin(angle)) as i64)
        };
        Ok(Self { bits, inner, n, turns: (0..n / 2).map(turn).collect() })
    }

    /// `a ⊛ b`.
    ///
    /// # Errors
    /// [`Error::Input`] where a vector has another width.
    pub fn bind(&self, a: &Block, b: &Block) -> Result<Block, Error> {
        self.product(a, b, false)
    }

    /// What was bound to a unitary key.
    ///
    /// # Errors
    /// [`Error::Input`] where a vector has another width.
    pub fn unbind(&self, key: &Block, bound: &Block) -> Result<Block, Error> {
        self.product(key, bound, true)
    }

    fn product(&self, a: &Block, b: &Block, conjugate: bool) -> Result<Block, Error> {
        for block in [a, b] {
            same_length(self.n, block.mantissas.len())?;
        }
        let (a, scale_a) = self.transform(a.mantissas.iter().map(|m| (i64::from(*m), 0)).collect(), a.exponent, false);
        let (b, scale_b) = self.transform(b.mantissas.iter().map(|m| (i64::from(*m), 0)).collect(), b.exponent, false);
        let sign = if conjugate { -1 } else { 1 };
        // Mantissas have at most 32 bits, so a product fits 64 and their sum 65.
        let wide: Vec<(i128, i128)> = a
            .iter()
            .zip(&b)
            .map(|(a, b)| {
                let (ar, ai, br, bi) = (i128::from(a.0), sign * i128::from(a.1), i128::from(b.0), i128::from(b.1));
                (ar * br - ai * bi, ar * bi + ai * br)
            })
            .collect();
        let most = wide.iter().map(|(re, im)| re.unsigned_abs().max(im.unsigned_abs())).max().unwrap_or(0);
        let shift = (u128::BITS - most.leading_zeros()).saturating_sub(self.inner - 1);
        let narrow = wide.iter().map(|(re, im)| (rounded(*re, shift), rounded(*im, shift))).collect();
        let (mut x, exponent) = self.transform(narrow, scale_a + scale_b + shift.cast_signed(), true);
        // What is imaginary is rounding.
        for x in &mut x {
            x.1 = 0;
        }
        let exponent = exponent + fit(&mut x, (1_i64 << (self.bits - 1)) - 1) - self.n.trailing_zeros().cast_signed();
        Ok(Block { mantissas: x.into_iter().map(|(re, _)| re as i32).collect(), exponent })
    }

    /// The transform; before each stage all mantissas are brought to where the stage cannot overflow, and its exponent goes
    /// along.
    fn transform(&self, mut x: Vec<Wide>, mut exponent: i32, inverse: bool) -> (Vec<Wide>, i32) {
        // |a ± w b| grows by at most 1 + √2 in a part: two bits below the sign are left free.
        let room = (1_i64 << (self.inner - 3)) - 1;
        reverse_bits(&mut x);
        let mut half = 1;
        while half < self.n {
            exponent += fit(&mut x, room);
            let step = self.n / (2 * half);
            for block in x.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((a, b), turn) in low.iter_mut().zip(high).zip(self.turns.iter().step_by(step)) {
                    let im = if inverse { -turn.1 } else { turn.1 };
                    let unit = self.inner - 2;
                    let re_part = rounded(i128::from(b.0 * turn.0 - b.1 * im), unit);
                    let im_part = rounded(i128::from(b.0 * im + b.1 * turn.0), unit);
                    (*a, *b) = ((a.0 + re_part, a.1 + im_part), (a.0 - re_part, a.1 - im_part));
                }
            }
            half *= 2;
        }
        (x, exponent)
    }
}

/// Shifts all mantissas so that the largest takes all the room and no more; tells how much the exponent grows.
fn fit(x: &mut [Wide], room: i64) -> i32 {
    let most = x.iter().map(|(re, im)| re.abs().max(im.abs())).max().unwrap_or(0);
    if most == 0 {
        return 0;
    }
    let mut shift = 0_i32;
    while most >> shift.max(0) > room {
        shift += 1;
    }
    while shift <= 0 && most << (1 - shift) <= room {
        shift -= 1;
    }
    for (re, im) in x.iter_mut() {
        if shift > 0 {
            let by = shift.unsigned_abs();
            (*re, *im) = (rounded(i128::from(*re), by), rounded(i128::from(*im), by));
        } else {
            (*re, *im) = (*re << -shift, *im << -shift);
        }
    }
    shift
}

/// `x / 2^shift`, rounded half up.
fn rounded(x: i128, shift: u32) -> i64 {
    let half = if shift == 0 { 0 } else { 1_i128 << (shift - 1) };
    ((x + half) >> shift) as i64
}

#[cfg(test)]
mod tests {
    use super::super::float;
    use super::*;
    use crate::random::Random;
    use rin_testkit::data::conformance;

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn distance(found: &[f64], expected: &[f64]) -> f64 {
        let wrong: f64 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
        (wrong / expected.iter().map(|x| x * x).sum::<f64>()).sqrt()
    }

    #[test]
    fn binding_is_numpys_circular_convolution() {
        let goldens = std::fs::read_to_string(conformance("lab/signals.json")).unwrap();
        let goldens: serde_json::Value = serde_json::from_str(&goldens).unwrap();
        for case in goldens["hrr"].as_array().unwrap() {
            let [a, b, expected, unitary] = ["a", "b", "bound", "unitary_a"].map(|key| numbers(&case[key]));
            assert!(distance(&float::bind(&a, &b).unwrap(), &expected) < 1e-13);
            assert!(distance(&float::unitary(&a).unwrap(), &unitary) < 1e-13);
            for (bits, most) in [(16, 1e-3), (32, 1e-7)] {
                let binder = Binder::new(a.len(), bits).unwrap();
                let found = binder.bind(&Block::of(&a, bits), &Block::of(&b, bits)).unwrap().values();
                assert!(distance(&found, &expected) < most, "{bits} bits: {}", distance(&found, &expected));
            }
        }
    }

    /// The seed's unbinding gave a cosine of 0.44 to 0.57.
    #[test]
    fn unitary_keys_are_undone() {
        let mut random = Random::new(1, 4);
        for n in [1, 2, 64, 1024, 4096] {
            let value = float::normal(n, &mut random);
            let key = float::unitary(&float::normal(n, &mut random)).unwrap();
            let bound = float::bind(&key, &value).unwrap();
            assert!(distance(&float::unbind(&key, &bound).unwrap(), &value) < 1e-12);
            for (bits, least) in [(16, 0.999), (32, 1.0 - 1e-6)] {
                let binder = Binder::new(n, bits).unwrap();
                let (k, v) = (Block::of(&key, bits), Block::of(&value, bits));
                let back = binder.unbind(&k, &binder.bind(&k, &v).unwrap()).unwrap().values();
                let cosine = float::cosine(&back, &value);
                assert!(cosine >= least, "{n}, {bits} bits: {cosine}");
            }
        }
    }

    #[test]
    fn scales_and_zeros_do_not_matter() {
        let mut random = Random::new(2, 4);
        let (a, b) = (float::normal(128, &mut random), float::normal(128, &mut random));
        let binder = Binder::new(128, 16).unwrap();
        let tiny: Vec<f64> = a.iter().map(|x| x * 1e-30).collect();
        let found = binder.bind(&Block::of(&tiny, 16), &Block::of(&b, 16)).unwrap().values();
        let expected: Vec<f64> = float::bind(&a, &b).unwrap().iter().map(|x| x * 1e-30).collect();
        assert!(distance(&found, &expected) < 1e-3);
        let zero = Block::of(&[0.0; 128], 16);
        assert!(binder.bind(&zero, &Block::of(&b, 16)).unwrap().values().iter().all(|x| *x == 0.0));
        // All of one sign: the largest sum that there is.
        let ones = Block::of(&[1.0; 128], 16);
        let found = binder.bind(&ones, &ones).unwrap().values();
        assert!(found.iter().all(|x| (x / 128.0 - 1.0).abs() < 1e-3), "{found:?}");
        assert!(Binder::new(96, 16).is_err() && Binder::new(64, 24).is_err());
        assert!(binder.bind(&ones, &Block::of(&[1.0; 64], 16)).is_err());
    }
}
