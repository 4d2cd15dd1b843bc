//! Flags of a generation: how tokens are drawn, what becomes of the context, who guesses.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use rin_engine::sampler::SamplingParams;

use crate::values::Bias;

#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most tokens to generate [default: until the model ends or the context is full]
    #[arg(short = 'n', long, alias = "gen", value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<usize>,
    /// Temperature; 0 takes the most probable token
    #[arg(long, value_name = "T", default_value_t = SamplingParams::default().temp, allow_negative_numbers = true)]
    temp: f32,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = SamplingParams::default().top_k, allow_negative_numbers = true)]
    top_k: usize,
    /// Keep the most probable tokens that together reach P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep tokens of at least P times the highest probability; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Keep the tokens nearest to the expected information that together reach P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().typical_p, allow_negative_numbers = true)]
    typical_p: f32,
    /// Divide the logits of recent tokens; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().repeat_penalty,
        allow_negative_numbers = true)]
    repeat_penalty: f32,
    /// Subtract from the logits of recent tokens
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().presence_penalty,
        allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtract from the logits of recent tokens, per occurrence
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().frequency_penalty,
        allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Add V to the logit of a token; -inf forbids it (repeatable)
    #[arg(long, value_name = "ID=V")]
    logit_bias: Vec<Bias>,
    /// Key of the random numbers: one seed, one text
    #[arg(long, value_name = "N", default_value_t = SamplingParams::default().seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// End before this string (repeatable)
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end-of-text tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

impl SamplingArgs {
    /// The sampler's parameters.
    pub(crate) fn params(&self) -> SamplingParams {
        SamplingParams {
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().map(|bias| (bias.id, bias.value)).collect(),
            seed: self.seed,
            ..SamplingParams::default()
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Context")]
pub(crate) struct ContextArgs {
    /// Save the text and its KV cache at the end, to go on from
    #[arg(long, value_name = "FILE")]
    pub(crate) save_state: Option<PathBuf>,
    /// Go on from a saved text; a prompt continues it
    #[arg(long, value_name = "FILE")]
    pub(crate) load_state: Option<PathBuf>,
    /// When the context is full, go on with its later half instead of ending
    #[arg(long)]
    pub(crate) context_shift: bool,
    /// Tokens at the start that stay when the context is shifted
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) keep: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Guessing")]
pub(crate) struct GuessArgs {
    /// Guess tokens from earlier places in the text: same result, faster where the text repeats itself
    #[arg(long)]
    pub(crate) lookup: bool,
    /// Guess tokens with a smaller model of the same vocabulary: same result, faster where it guesses right
    #[arg(long, value_name = "MODEL2")]
    pub(crate) draft: Option<PathBuf>,
    /// Most tokens to guess at a time
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    pub(crate) draft_max: usize,
}
