//! The discrete cosine transform of eight values (type II) and its inverse in fixed point, by two flow graphs, and the
//! procedure of IEEE 1180 for the inverse in two dimensions.
//!
//! With `X` the orthonormal transform of `x`, [`Graph::Aan`] gives `X[k] · s[k] · √8`, `s[0] = 1`, `s[k] = √2 cos(kπ/16)`: five
//! multiplications, the scales belong into what follows. [`Graph::Loeffler`] gives `X[k] · √8`.

mod basis;
mod graph;
pub mod ieee1180;
mod time;

pub use basis::{Basis, rounded};
pub use graph::{Fixed, Graph, aan_scale, forward_float, inverse_float};
pub use time::{TIME, TimeCoder};

/// The orthonormal transform by its definition, in double precision.
pub fn definition(x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let at = |k: usize| {
        let scale = if k == 0 { (1.0 / n).sqrt() } else { (2.0 / n).sqrt() };
        let term = |(i, x): (usize, &f64)| x * libm::cos(std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / n);
        scale * x.iter().enumerate().map(term).sum::<f64>()
    };
    (0..x.len()).map(at).collect()
}

/// The inverse of [`definition`], in double precision.
pub fn definition_inverse(spectrum: &[f64]) -> Vec<f64> {
    let n = spectrum.len() as f64;
    let at = |i: usize| {
        let term = |(k, x): (usize, &f64)| {
            let scale = if k == 0 { (1.0 / n).sqrt() } else { (2.0 / n).sqrt() };
            scale * x * libm::cos(std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / n)
        };
        spectrum.iter().enumerate().map(term).sum()
    };
    (0..spectrum.len()).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use rin_testkit::data::conformance;

    fn goldens() -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(conformance("lab/signals.json")).unwrap()).unwrap()
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    #[test]
    fn the_definition_is_scipys() {
        for case in goldens()["dct"].as_array().unwrap() {
            let (x, expected) = (numbers(&case["x"]), numbers(&case["dct"]));
            let size = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
            for (found, expected) in definition(&x).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-13 * size, "{found} {expected}");
            }
            for (found, x) in definition_inverse(&expected).iter().zip(&x) {
                assert!((found - x).abs() < 1e-13 * size, "{found} {x}");
            }
        }
    }

    #[test]
    fn both_graphs_are_the_transform() {
        let mut random = Random::new(1, 3);
        for graph in [Graph::Aan, Graph::Loeffler] {
            for _ in 0..100 {
                let x: [f64; 8] = std::array::from_fn(|_| random.normal());
                let right = definition(&x);
                let found = forward_float(graph, x);
                let back = inverse_float(graph, std::array::from_fn(|k| right[k] * graph.scale(k)));
                for k in 0..8 {
                    assert!((found[k] - right[k] * graph.scale(k) * 8.0_f64.sqrt()).abs() < 1e-8, "{graph:?} {k}");
                    assert!((back[k] - x[k] * 8.0_f64.sqrt()).abs() < 1e-8, "{graph:?} {k}");
                }
            }
        }
    }

    fn error(fixed: &Fixed, amplitude: f64) -> f64 {
        let mut random = Random::new(2, 3);
        let (mut wrong, mut right) = (0.0, 0.0);
        for _ in 0..5000 {
            let x: [i32; 8] = std::array::from_fn(|_| libm::round(random.within(-amplitude, amplitude)) as i32);
            let exact = definition(&x.map(f64::from));
            for (k, y) in fixed.forward(x).into_iter().enumerate() {
                wrong += (fixed.value(k, y) - exact[k]).powi(2);
                right += exact[k] * exact[k];
            }
        }
        (wrong / right).sqrt()
    }

    /// The seed's transform had an error of 99 %.
    #[test]
    fn fifteen_bits_with_guard_bits_are_within_a_hundredth_of_a_percent() {
        for graph in [Graph::Aan, Graph::Loeffler] {
            let fixed = |constant_bits, guard_bits, rounds| Fixed { graph, constant_bits, guard_bits, rounds };
            let good = error(&fixed(15, 4, true), 2048.0);
            assert!(good < 1e-4, "{graph:?}: {good}");
            let coarse = error(&fixed(8, 0, false), 2048.0);
            assert!(coarse > 10.0 * good, "{graph:?}: {coarse}");
        }
    }

    #[test]
    fn the_inverse_meets_ieee_1180_and_a_coarse_one_does_not() {
        let good = Fixed { graph: Graph::Loeffler, constant_bits: 15, guard_bits: 6, rounds: true };
        let coarse = Fixed { graph: Graph::Aan, constant_bits: 8, guard_bits: 0, rounds: false };
        let range = ieee1180::Range { low: 256, high: 255, sign: 1 };
        let found = ieee1180::measure(|block| good.inverse_2d(block), range, 600);
        assert!(found.peak <= 1.0 && found.overall_mse < 0.02, "{found:?}");
        let found = ieee1180::measure(|block| coarse.inverse_2d(block), range, 600);
        assert!(!found.meets(), "{found:?}");
        assert_eq!(good.inverse_2d(&[0; 64]), [0; 64]);
        // A transposed block would be far off.
        let turned = |block: &[i32; 64]| good.inverse_2d(&std::array::from_fn(|i| block[i % 8 * 8 + i / 8]));
        assert!(!ieee1180::measure(turned, range, 50).meets());
    }
}
