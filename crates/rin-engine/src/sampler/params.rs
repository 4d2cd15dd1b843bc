//! The options of sampling and their limits.

use super::SamplingError;

/// How the next token is chosen.
///
/// The default keeps the usual filters (temperature 0.8, top-k 40, top-p 0.95, min-p 0.05) and no penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits after all filters; 0 takes the token with the highest logit.
    pub temp: f32,
    /// Keeps the `top_k` highest logits; 0 keeps all.
    pub top_k: usize,
    /// Keeps the shortest run of most probable tokens whose probabilities reach `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keeps the tokens with at least `min_p` times the probability of the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Keeps the tokens whose information lies nearest to the entropy, until their probabilities exceed `typical_p`;
    /// 1 keeps all.
    pub typical_p: f32,
    /// Divides the positive and multiplies the other logits of recent tokens; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens count as recent, for all three penalties; 0 switches them off.
    pub repeat_last_n: usize,
    /// Subtracted from the logit of each recent token.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each recent token once per occurrence.
    pub frequency_penalty: f32,
    /// (token id, value added to its logit), in order; −∞ forbids the token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random generator.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temp: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every field against its range.
    ///
    /// # Errors
    ///
    /// [`SamplingError::Parameter`] for the first field out of range, NaN included, and for a vocabulary of 0 tokens or of
    /// more than `u32` can number.
    pub fn validate(&self, n_vocab: usize) -> Result<(), SamplingError> {
        if n_vocab == 0 || u32::try_from(n_vocab).is_err() {
            return Err(parameter("n_vocab", "1 to 4294967295 tokens", &n_vocab));
        }
        let unit_interval = |value: f32| (0.0..=1.0).contains(&value);
        let checks = [
            ("temp", self.temp, self.temp.is_finite() && self.temp >= 0.0, "a finite number of at least 0"),
            ("top_p", self.top_p, unit_interval(self.top_p), "0 to 1"),
            ("min_p", self.min_p, unit_interval(self.min_p), "0 to 1"),
            ("typical_p", self.typical_p, unit_interval(self.typical_p), "0 to 1"),
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0,
                "a finite number above 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a finite number"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a finite number"),
        ];
        for (field, found, holds, expected) in checks {
            if !holds {
                return Err(parameter(field, expected, &found));
            }
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= n_vocab {
                return Err(parameter("logit_bias", &format!("a token id below {n_vocab}"), &id));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(parameter("logit_bias", "a finite number or -inf", &bias));
            }
        }
        Ok(())
    }
}

fn parameter(field: &'static str, expected: &str, found: &impl ToString) -> SamplingError {
    SamplingError::Parameter { field, expected: expected.to_owned(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_VOCAB: usize = 10;

    fn rejected_field(change: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate(N_VOCAB).unwrap_err().to_string()
    }

    #[test]
    fn defaults_and_limits_are_accepted() {
        assert_eq!(SamplingParams::default().validate(N_VOCAB), Ok(()));
        let limits = SamplingParams {
            temp: 0.0,
            top_k: usize::MAX,
            top_p: 0.0,
            min_p: 1.0,
            typical_p: 0.0,
            repeat_penalty: f32::from_bits(1),
            repeat_last_n: usize::MAX,
            presence_penalty: -2.0,
            frequency_penalty: f32::MIN,
            logit_bias: vec![(9, f32::NEG_INFINITY), (0, f32::MAX)],
            seed: u64::MAX,
        };
        assert_eq!(limits.validate(N_VOCAB), Ok(()));
    }

    #[test]
    fn each_field_out_of_range_is_named_with_what_was_found() {
        type Set = fn(&mut SamplingParams, f32);
        let fields: [(&str, Set, &[f32]); 8] = [
            ("temp", |p, v| p.temp = v, &[f32::NAN, f32::INFINITY, -0.1]),
            ("top_p", |p, v| p.top_p = v, &[f32::NAN, f32::INFINITY, -0.1, 1.1]),
            ("min_p", |p, v| p.min_p = v, &[f32::NAN, f32::INFINITY, -0.1, 1.1]),
            ("typical_p", |p, v| p.typical_p = v, &[f32::NAN, f32::INFINITY, -0.1, 1.1]),
            ("repeat_penalty", |p, v| p.repeat_penalty = v, &[f32::NAN, f32::INFINITY, -0.1, 0.0]),
            ("presence_penalty", |p, v| p.presence_penalty = v, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
            ("frequency_penalty", |p, v| p.frequency_penalty = v, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
            ("logit_bias", |p, v| p.logit_bias = vec![(0, v)], &[f32::NAN, f32::INFINITY]),
        ];
        for (field, set, values) in fields {
            for &value in values {
                let message = rejected_field(|params| set(params, value));
                assert!(message.starts_with(&format!("{field}: ")), "{field} = {value}: {message}");
                assert!(message.ends_with(&format!("found {value}")), "{field} = {value}: {message}");
            }
        }
    }

    #[test]
    fn token_ids_and_vocabulary_sizes_out_of_range_are_named() {
        let message = rejected_field(|params| params.logit_bias = vec![(9, 1.0), (10, 1.0)]);
        assert_eq!(message, "logit_bias: expected a token id below 10, found 10");
        for n_vocab in [0, usize::MAX] {
            let message = SamplingParams::default().validate(n_vocab).unwrap_err().to_string();
            assert_eq!(message, format!("n_vocab: expected 1 to 4294967295 tokens, found {n_vocab}"));
        }
    }
}
