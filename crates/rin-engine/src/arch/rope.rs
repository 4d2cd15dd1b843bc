//! Rotation frequencies and their scalings.
//!
//! Sources: Su et al. 2021 (RoFormer); linear position interpolation, Chen et al. 2023; YaRN, Peng et al. 2023,
//! section 3; Llama 3.1 (its reference code's `apply_scaling`). All in f64 by `libm`, rounded to f32 where the
//! reference implementations hold f32, so that every platform gets the same bits.

use rin_model::{Rope, RopeScaling};

/// What the reference implementations hold in f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what it is for")]
fn to_f32(x: f64) -> f32 {
    x as f32
}

/// `base^(-2 i / dims)` for each pair, scaled; and the factor on cosines and sines.
///
/// `factors` are the divisors of `rope_freqs.weight`, for [`RopeScaling::Factors`].
pub fn frequencies(rope: &Rope, factors: Option<&[f32]>, out: &mut [f32]) -> f32 {
    unscaled(rope, out);
    match &rope.scaling {
        RopeScaling::Linear { factor } => {
            for f in out.iter_mut() {
                *f /= factor;
            }
        }
        RopeScaling::Llama3 { .. } => {
            let divisors = llama3_divisors(rope).unwrap_or_default();
            for (f, divisor) in out.iter_mut().zip(divisors) {
                *f /= divisor;
            }
        }
        RopeScaling::Factors => {
            for (f, divisor) in out.iter_mut().zip(factors.unwrap_or_default()) {
                *f /= divisor;
            }
        }
        RopeScaling::Yarn { factor, original_ctx, beta_fast, beta_slow, truncate, .. } => {
            let ramp = Ramp::new(rope, *original_ctx as f64, f64::from(*beta_fast), f64::from(*beta_slow), *truncate);
            for (i, f) in out.iter_mut().enumerate() {
                let keep = 1.0 - ramp.at(i);
                *f = *f / factor * (1.0 - keep) + *f * keep;
            }
        }
        _ => {}
    }
    attention_factor(&rope.scaling)
}

/// `base^(-2 i / dims)` for each pair.
fn unscaled(rope: &Rope, out: &mut [f32]) {
    for (i, f) in out.iter_mut().enumerate() {
        let exponent = f64::from((2 * i) as f32 / rope.dims as f32);
        let power = to_f32(libm::pow(f64::from(rope.base), exponent));
        *f = 1.0 / power;
    }
}

/// What [`RopeScaling::Llama3`] divides the frequency of each pair by: the numbers of `rope_freqs.weight`. None for
/// any other scaling.
pub fn llama3_divisors(rope: &Rope) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_ctx } = rope.scaling else {
        return None;
    };
    let bands = Bands { factor, low: low_freq_factor, high: high_freq_factor, original: original_ctx as f32 };
    let mut divisors = vec![0.0; rope.dims / 2];
    unscaled(rope, &mut divisors);
    for f in &mut divisors {
        *f = bands.divisor(*f);
    }
    Some(divisors)
}

/// Llama 3's three bands of wavelengths, in f32 throughout: converters to GGUF write these divisors into
/// `rope_freqs.weight` so, and a folder must give the bits of its GGUF.
struct Bands {
    factor: f32,
    low: f32,
    high: f32,
    original: f32,
}

impl Bands {
    /// What a frequency is divided by: 1 for short waves, `factor` for long ones, a smooth passage between.
    fn divisor(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < self.original / self.high {
            1.0
        } else if wavelength > self.original / self.low {
            self.factor
        } else {
            let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }
}

/// YaRN's passage from extrapolated to interpolated pairs.
struct Ramp {
    low: f32,
    high: f32,
}

impl Ramp {
    fn new(rope: &Rope, original: f64, fast: f64, slow: f64, truncate: bool) -> Self {
        let dims = rope.dims as f64;
        let pair = |rotations: f64| {
            let turns = original / (rotations * 2.0 * std::f64::consts::PI);
            dims * libm::log(turns) / (2.0 * libm::log(f64::from(rope.base)))
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low >= high {
            high = low + 0.001;
        }
        Self { low: to_f32(low), high: to_f32(high) }
    }

    /// 0 below the passage, 1 above.
    fn at(&self, i: usize) -> f32 {
        ((i as f32 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The factor on cosines and sines.
fn attention_factor(scaling: &RopeScaling) -> f32 {
    let RopeScaling::Yarn { factor, attention_factor, multiplier, mscale, mscale_all_dim, .. } = scaling else {
        return 1.0;
    };
    let of = |mscale: f32| {
        if *factor <= 1.0 { 1.0 } else { 0.1 * f64::from(mscale) * libm::log(f64::from(*factor)) + 1.0 }
    };
    let derived = || match (mscale, mscale_all_dim) {
        (Some(m), Some(all)) if *m != 0.0 && *all != 0.0 => to_f32(of(*m) / of(*all)),
        _ => to_f32(of(1.0)),
    };
    attention_factor.unwrap_or_else(derived) * multiplier
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these quotients are exact to the bit")]
mod tests {
    use super::frequencies;
    use rin_model::{Pairing, Rope, RopeScaling};

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { base: 10_000.0, dims: 8, pairing: Pairing::Half, scaling }
    }

    #[test]
    fn unscaled_frequencies_are_powers_of_the_base() {
        let mut f = [0.0; 4];
        assert_eq!(frequencies(&rope(RopeScaling::None), None, &mut f).to_bits(), 1.0_f32.to_bits());
        assert_eq!(f, [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_and_tensor_factors_divide() {
        let mut f = [0.0; 4];
        frequencies(&rope(RopeScaling::Linear { factor: 4.0 }), None, &mut f);
        assert_eq!(f, [0.25, 0.025, 0.0025, 0.00025]);
        frequencies(&rope(RopeScaling::Factors), Some(&[1.0, 2.0, 4.0, 8.0]), &mut f);
        assert_eq!(f, [1.0, 0.05, 0.0025, 0.000_125]);
    }

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_ctx: 256 };
        let mut f = [0.0; 4];
        frequencies(&rope(scaling), None, &mut f);
        // Wavelengths 6.28, 62.8, 628, 6283 against 64 and 256: the first two stay, the last two are divided by 8.
        assert_eq!(f, [1.0, 0.1, 0.01 / 8.0, 0.001 / 8.0]);
    }
}
