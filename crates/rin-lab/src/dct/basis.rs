//! Rotations of groups of numbers, and rounding to a few bits.

use super::{definition, definition_inverse};

/// What a group is turned by before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing.
    None,
    /// The orthonormal Walsh–Hadamard matrix; the length is a power of two.
    Hadamard,
    /// The orthonormal cosine transform.
    Cosine,
}

impl Basis {
    /// The group in this basis.
    pub fn turn(self, x: Vec<f64>) -> Vec<f64> {
        match self {
            Self::None => x,
            Self::Hadamard => hadamard(x),
            Self::Cosine => definition(&x),
        }
    }

    /// The inverse of [`Basis::turn`].
    pub fn back(self, x: Vec<f64>) -> Vec<f64> {
        match self {
            Self::None => x,
            Self::Hadamard => hadamard(x),
            Self::Cosine => definition_inverse(&x),
        }
    }
}

/// The orthonormal Walsh–Hadamard transform, its own inverse.
fn hadamard(mut x: Vec<f64>) -> Vec<f64> {
    let mut half = 1;
    while half < x.len() {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f64).sqrt();
    x.into_iter().map(|x| x * scale).collect()
}

/// Rounds to 2^bits levels spaced evenly about zero, with the scale out of forty that leaves the least error.
pub fn rounded(x: &[f64], bits: u32) -> Vec<f64> {
    let most = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    if most <= 0.0 {
        return x.to_vec();
    }
    let levels = f64::from(1_u32 << (bits - 1));
    // Levels at (i + 1/2) · step, i from −levels to levels − 1.
    let at = |step: f64| {
        let one = |x: &f64| ((x / step).floor().clamp(-levels, levels - 1.0) + 0.5) * step;
        x.iter().map(one).collect::<Vec<f64>>()
    };
    let error = |rounded: &[f64]| rounded.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let steps = (1..=40).map(|i| most / levels * f64::from(i) / 40.0);
    let candidates = steps
        .map(|step| at(f64::from(rin_kernels::half::f16_to_f32(rin_kernels::half::f32_to_f16(step as f32)).max(1e-7))));
    let best = candidates.min_by(|a, b| error(a).total_cmp(&error(b)));
    best.unwrap_or_else(|| x.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const GROUP: usize = 64;

    #[test]
    fn rotations_keep_lengths_and_rounding_is_near() {
        let mut random = Random::new(1, 6);
        let x: Vec<f64> = (0..GROUP).map(|_| random.normal()).collect();
        let back = hadamard(hadamard(x.clone()));
        assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-12));
        let error = |bits| {
            let r = rounded(&x, bits);
            (r.iter().zip(&x).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / x.iter().map(|x| x * x).sum::<f64>())
                .sqrt()
        };
        // Lloyd and Max's best even steps for normal values: 0.345 (2 bits), 0.193 (3 bits), 0.107 (4 bits).
        for (bits, best) in [(2, 0.345), (3, 0.193), (4, 0.107)] {
            assert!(error(bits) > 0.8 * best && error(bits) < 1.25 * best, "{bits} bits: {}", error(bits));
        }
        assert_eq!(rounded(&[0.0; 4], 3), [0.0; 4]);
    }
}
