//! Rotary scalings in the words of the target.

use crate::Error;
use rin_engine::arch::rope::{frequencies, llama3_divisors};
use rin_engine::weights::vector_values;
use rin_model::{Config, ModelFile, Rope, RopeScaling};

/// Tensor of a GGUF file that holds the divisors of the frequencies.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Exponents of the original contexts that Llama 3's scaling is looked for with.
const ORIGINAL_CTX: std::ops::RangeInclusive<u32> = 4..=20;
/// The bands of all published models with Llama 3's scaling.
const BANDS: (f32, f32) = (1.0, 4.0);

/// The configuration as GGUF has keys for it, and the tensor [`FACTORS`] where the source has none.
///
/// Llama 3's scaling becomes its divisors, and YaRN's attention factor a multiple of the usual one: both give the
/// frequencies and factors of the source to the bit.
pub(super) fn for_gguf(config: &Config) -> Result<(Config, Option<Vec<f32>>), Error> {
    let mut config = config.clone();
    let mut divisors = None;
    match &mut config.rope.scaling {
        RopeScaling::Llama3 { .. } => {
            divisors = llama3_divisors(&config.rope);
            config.rope.scaling = RopeScaling::Factors;
        }
        RopeScaling::Yarn { attention_factor, mscale, mscale_all_dim, .. }
            if attention_factor.is_some() || mscale.is_some() || mscale_all_dim.is_some() =>
        {
            config.rope = with_multiplier(&config.rope)?;
        }
        _ => {}
    }
    Ok((config, divisors))
}

/// The factor on cosines and sines.
fn attention_factor(rope: &Rope) -> f32 {
    frequencies(rope, None, &mut [])
}

/// YaRN with the usual attention factor, times what makes it the one that is wanted.
fn with_multiplier(rope: &Rope) -> Result<Rope, Error> {
    let wanted = attention_factor(rope);
    let of = |x: f32| {
        let mut rope = rope.clone();
        if let RopeScaling::Yarn { attention_factor, multiplier, mscale, mscale_all_dim, .. } = &mut rope.scaling {
            (*attention_factor, *multiplier, *mscale, *mscale_all_dim) = (None, x, None, None);
        }
        rope
    };
    // The quotient is rounded, and so is its product with the usual factor: one of the neighbours fits, if any does.
    let near = wanted / attention_factor(&of(1.0));
    let candidates = [near, near.next_up(), near.next_down(), near.next_up().next_up(), near.next_down().next_down()];
    let fitting = candidates.into_iter().map(of).find(|rope| attention_factor(rope).to_bits() == wanted.to_bits());
    fitting.ok_or_else(|| Error::Inexpressible {
        target: "a GGUF file",
        what: format!("YaRN's attention factor {wanted} is no multiple of the usual one"),
    })
}

/// The configuration as `config.json` has names for it.
///
/// Divisors in a tensor are Llama 3's where its formula gives them to the bit; YaRN's attention factor is named as a
/// whole where a GGUF file multiplied it.
pub(super) fn for_folder(file: &ModelFile, config: &Config) -> Result<Config, Error> {
    let mut config = config.clone();
    let whole = attention_factor(&config.rope);
    match &mut config.rope.scaling {
        RopeScaling::Yarn { attention_factor, multiplier, .. } if multiplier.to_bits() != 1.0_f32.to_bits() => {
            (*attention_factor, *multiplier) = (Some(whole), 1.0);
        }
        RopeScaling::Factors => {
            let divisors = match file.tensor(FACTORS) {
                Some(tensor) => vector_values(tensor, file.bytes(tensor))?,
                None => Vec::new(),
            };
            config.rope = llama3_of(&config.rope, &divisors).ok_or_else(|| Error::Inexpressible {
                target: "a Hugging Face folder",
                what: format!("config.json has no name for the divisors in `{FACTORS}`, which are not Llama 3's"),
            })?;
        }
        _ => {}
    }
    Ok(config)
}

/// Llama 3's scaling with exactly these divisors.
fn llama3_of(rope: &Rope, divisors: &[f32]) -> Option<Rope> {
    let factor = divisors.iter().copied().reduce(f32::max)?;
    let candidates = ORIGINAL_CTX.map(|exponent| {
        let (low_freq_factor, high_freq_factor) = BANDS;
        let original_ctx = 1_usize.checked_shl(exponent).unwrap_or(usize::MAX);
        Rope {
            scaling: RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_ctx },
            ..rope.clone()
        }
    });
    let bits = |divisors: &[f32]| divisors.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    candidates.into_iter().find(|rope| llama3_divisors(rope).is_some_and(|found| bits(&found) == bits(divisors)))
}
