//! Root mean square and layer norm in integers: an inverse root from a table of 64 entries and one Newton step.
//!
//! `y = c · sqrt(n) / sqrt(Σ c² + n ε)`; of a layer norm `c` is the element less the mean, with [`CENTRE_BITS`] fractional bits.
//! The error of the factor is at most [`RSQRT_ERROR`], proven and measured in the laboratory (`rin_lab::norm`,
//! docs/research/norm.md).

use super::bounded;

/// Fractional bits of the inverse root.
pub const ROOT_BITS: u32 = 30;
/// Entries of the table.
const ENTRIES: usize = 64;
/// Most elements of a layer norm's row: its products then fit 63 bits.
pub const MAX_WIDTH: usize = 1 << 14;
/// Fractional bits of an element less the mean.
pub const CENTRE_BITS: u32 = 4;
/// Fractional bits of a normalised element.
pub const UNIT_BITS: u32 = 16;

/// How far, relatively, the inverse root may be off. A table entry is the best constant for an interval [a, b] with b/a at
/// most 1 + 1/32, so off by at most `e = (√(b/a) − 1) / (√(b/a) + 1) < 2^-7.0`; Newton's step leaves `−(3/2) e² − e³/2`, which half of the
/// largest, added to its constant, spreads evenly about zero: `(3/4) e² < 4.6e-5 < 2^-14`, and rounding adds less than 2^-25.
pub const RSQRT_ERROR: f64 = 4.6e-5;

/// `round(2^15 · best)` of each interval, `best` the constant whose relative error is the same at either end: 32 intervals of
/// [1, 2) and 32 of [2, 4). `2 / (√a + √b)` in integers.
const TABLE: [u32; ENTRIES] = {
    let mut table = [0; ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        let octave = 1 << (i / 32);
        // Ends with 5 fractional bits, roots with 24.
        let low = octave * (32 + (i as u64 % 32));
        let high = low + octave;
        let roots = (low << 43).isqrt() + (high << 43).isqrt();
        // 2 · 2^15 · 2^24 / roots, rounded.
        let entry = ((1_u64 << 40) + roots / 2) / roots;
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^15")]
        let entry = entry as u32;
        table[i] = entry;
        i += 1;
    }
    table
};

/// 1/√m with [`ROOT_BITS`] fractional bits, for `m` in [1, 4) with 30 fractional bits.
#[inline(always)]
#[must_use]
pub fn inverse_root(m: u32) -> u32 {
    // Three plus half of the largest error of a step: 1.5 · (1/128)².
    const THREE: u64 = (3 << ROOT_BITS) + 98_304;
    let octave = u32::from(m >= 2 << ROOT_BITS);
    let entry = 32 * octave + (m >> (ROOT_BITS - 5 + octave)) % 32;
    let y = u64::from(TABLE[entry as usize]);
    // y has 15 fractional bits, y² 30, m y² 60.
    let product = (u64::from(m) * (y * y)) >> 30;
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^30")]
    let root = ((y * (THREE - product)) >> 16) as u32;
    root
}

/// `√n / √sum` as a number and the fractional bits that come with it, `sqrt_n` with 32 fractional bits; zero for a sum of zero.
#[inline(always)]
#[must_use]
pub fn factor(sum: u64, sqrt_n: u64) -> (u64, u32) {
    if sum == 0 {
        return (0, 0);
    }
    // sum = m · 4^e with m in [1, 4).
    let e = sum.ilog2() / 2;
    let m = if 2 * e >= ROOT_BITS { sum >> (2 * e - ROOT_BITS) } else { sum << (ROOT_BITS - 2 * e) };
    #[expect(clippy::cast_possible_truncation, reason = "below 4 with 30 fractional bits")]
    let root = u128::from(inverse_root(m as u32));
    // √n · 1/√m: 32 + 30 fractional bits, of which 30 are kept; then 2^-e.
    #[expect(clippy::cast_possible_truncation, reason = "at most √n with 30 fractional bits")]
    let factor = ((root * u128::from(sqrt_n)) >> 32) as u64;
    (factor, ROOT_BITS + e)
}

/// √n with 32 fractional bits.
#[must_use]
pub fn root_of_count(n: usize) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the root of 128 bits")]
    let root = ((n as u128) << 64).isqrt() as u64;
    root
}

/// What a norm multiplies with and adds.
#[derive(Clone, Copy, Debug)]
pub struct WideNorm<'a> {
    /// One per element: the gain in steps of the result, times 2^(shift − [`UNIT_BITS`]).
    pub gain: &'a [i32],
    /// One per element, in steps of the result; of a root mean square none.
    pub bias: &'a [i32],
    /// How far a normalised element times its gain is shifted, 1 to 62.
    pub shift: i32,
    /// `n · ε` in units of the squares of elements less their mean.
    pub epsilon: u64,
}

impl WideNorm<'_> {
    fn fits(&self, n: usize, bias: usize) -> bool {
        n <= MAX_WIDTH && self.gain.len() == n && self.bias.len() == bias
    }
}

kernel! {
    /// `y = (x − mean) / √(variance + ε) · gain + bias`, with at most [`MAX_WIDTH`] elements within ±[`MAX_ELEMENT`](super::MAX_ELEMENT).
    pub struct WideLayerNorm(y: &mut [i32], x: &[i32], norm: WideNorm<'_>);
    check: |y: &&mut [i32], x: &&[i32], norm: &WideNorm<'_>| {
        let n = x.len();
        assert!(y.len() == n && norm.fits(n, n), "a norm of {n} elements");
    };
    cases: tests::for_each_case;
    conformance: layer_norm_conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

kernel! {
    /// `y = x / √(mean of x² + ε) · gain`, with as many elements; its elements get [`CENTRE_BITS`] more bits too.
    pub struct WideRmsNorm(y: &mut [i32], x: &[i32], norm: WideNorm<'_>);
    check: |y: &&mut [i32], x: &&[i32], norm: &WideNorm<'_>| {
        let n = x.len();
        assert!(y.len() == n && norm.fits(n, 0), "a norm of {n} elements");
    };
    cases: tests::for_each_case;
    conformance: rms_norm_conformance;
    variants {
        Scalar => rms_row::scalar,
        Avx2 if target_arch = "x86_64" => rms_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => rms_row::avx512,
    }
}

tiers!(fn row(y: &mut [i32], x: &[i32], norm: WideNorm<'_>) = layer_norm;);
tiers!(fn rms_row(y: &mut [i32], x: &[i32], norm: WideNorm<'_>) = rms_norm;);

#[inline(always)]
fn layer_norm(y: &mut [i32], x: &[i32], norm: WideNorm<'_>) {
    let n = i64::try_from(x.len().max(1)).unwrap_or(1);
    let total: i64 = x.iter().map(|&x| i64::from(x)).sum();
    normed(y, x, norm, ((total << CENTRE_BITS) + n / 2).div_euclid(n));
}

#[inline(always)]
fn rms_norm(y: &mut [i32], x: &[i32], norm: WideNorm<'_>) {
    normed(y, x, norm, 0);
}

/// Elements less the mean, by the root of the mean of their squares.
#[inline(always)]
fn normed(y: &mut [i32], x: &[i32], norm: WideNorm<'_>, mean: i64) {
    let mut sum = norm.epsilon;
    for (y, &x) in y.iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2 · 2^20 with 4 bits more")]
        let centred = ((i64::from(x) << CENTRE_BITS) - mean) as i32;
        *y = centred;
        sum = sum.wrapping_add((i64::from(centred) * i64::from(centred)).cast_unsigned());
    }
    let (factor, fraction) = factor(sum, root_of_count(x.len()));
    // At most 2^37 · 2^25.
    let factor = factor.cast_signed();
    let half = 1_i64 << ((norm.shift - 1) & 63);
    let down = fraction.saturating_sub(UNIT_BITS).min(63);
    let element = |centred: i32, gain: i32| {
        let unit = i64::from(centred).wrapping_mul(factor) >> down;
        // At most √n with 16 fractional bits: 23 bits, and a gain of 32.
        (unit.wrapping_mul(i64::from(gain)).wrapping_add(half)) >> (norm.shift & 63)
    };
    if norm.bias.is_empty() {
        for (y, gain) in y.iter_mut().zip(norm.gain) {
            *y = bounded(element(*y, *gain));
        }
        return;
    }
    for ((y, gain), bias) in y.iter_mut().zip(norm.gain).zip(norm.bias) {
        *y = bounded(element(*y, *gain) + i64::from(*bias));
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_ELEMENT;
    use super::{RSQRT_ERROR, WideLayerNorm, WideNorm, WideRmsNorm};
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case {
        x: Vec<i32>,
        gain: Vec<i32>,
        bias: Vec<i32>,
        epsilon: u64,
    }

    /// A handle of either norm, so that one list of cases serves both.
    pub(super) trait Op {
        fn of(&self, case: &Case) -> Vec<i32>;
    }

    impl Op for WideLayerNorm {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y = vec![7; case.x.len()];
            self.run(&mut y, &case.x, case.norm());
            y
        }
    }

    impl Op for WideRmsNorm {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y = vec![7; case.x.len()];
            self.run(&mut y, &case.x, WideNorm { bias: &[], ..case.norm() });
            y
        }
    }

    impl Case {
        fn norm(&self) -> WideNorm<'_> {
            WideNorm { gain: &self.gain, bias: &self.bias, shift: 20, epsilon: self.epsilon }
        }

        pub(super) fn check<O: Op>(&self, reference: &O, candidate: &O) {
            assert_eq!(reference.of(self), candidate.of(self), "{} elements", self.x.len());
        }
    }

    fn case(random: &mut Random, n: usize, scale: f32) -> Case {
        let mut numbers = |scale: f32| -> Vec<i32> {
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and is bounded")]
            let number = |x: f32| ((x * scale) as i32).clamp(-MAX_ELEMENT, MAX_ELEMENT);
            random.normals(n).into_iter().map(number).collect()
        };
        Case { x: numbers(scale), gain: numbers(300_000.0), bias: numbers(1000.0), epsilon: 12_345 }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(71);
        for n in (1..40).chain([256, 768, 4096]) {
            for scale in [0.0, 3.0, 20_000.0, 3e6] {
                f(case(&mut random, n, scale));
            }
        }
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "whole numbers below 2^53")]
    fn rows_are_those_of_a_norm() {
        let mut random = Random::new(72);
        let (layer, rms) = (WideLayerNorm::select(&Cpu::detect()), WideRmsNorm::select(&Cpu::detect()));
        for (n, centred) in [(3_usize, true), (64, true), (768, true), (1, false), (64, false), (768, false)] {
            for scale in [300.0, 40_000.0] {
                let case = case(&mut random, n, scale);
                let mean = case.x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                let mean = if centred { mean } else { 0.0 };
                let squares = case.x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
                // An element less the mean has four more bits.
                let root = ((squares + case.epsilon as f64 / 256.0) / n as f64).sqrt();
                let found = if centred { layer.of(&case) } else { rms.of(&case) };
                for (i, found) in found.into_iter().enumerate() {
                    // The gain has 20 − 16 fractional bits.
                    let exact = (f64::from(case.x[i]) - mean) / root * f64::from(case.gain[i]) / 16.0;
                    let bias = if centred { f64::from(case.bias[i]) } else { 0.0 };
                    let want = (exact + bias).clamp(-1_048_576.0, 1_048_576.0);
                    // Half a sixteenth of a step of the mean, the factor, and a unit of 2^-16 before the gain.
                    let mean_error = f64::from(case.gain[i]).abs() / 16.0 / root / 16.0;
                    let unit = f64::from(case.gain[i]).abs() / 16.0 / 65_536.0;
                    let bound = exact.abs() * (RSQRT_ERROR + 1e-6) + mean_error + unit + 1.0;
                    assert!((f64::from(found) - want).abs() <= bound, "{n} {scale} {i}: {found} for {want}");
                }
            }
        }
    }
}
