//! What can go wrong with a vocabulary or a text.

use regex_automata::MatchError;
use regex_automata::hybrid::BuildError;
use thiserror::Error;

/// Why a tokenizer could not be built, or a text not be encoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The vocabulary contradicts itself or breaks a limit.
    #[error("bad vocabulary: {place}: {reason}")]
    BadVocab {
        /// The token, merge or field at fault, as `token 17` or `merge 3`.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer model other than the two kinds of BPE.
    #[error("tokenizer model `{name}` is not supported (supported: {known})")]
    UnsupportedModel {
        /// The model as the file names it.
        name: String,
        /// The names that are supported.
        known: &'static str,
    },
    /// A GGUF pre-tokenizer without a known split rule.
    #[error("unknown pre-tokenizer `{name}` (known: {known})")]
    UnknownPreTokenizer {
        /// The pre-tokenizer as the file names it.
        name: String,
        /// All known names, separated by commas.
        known: String,
    },
    /// A part of `tokenizer.json` whose effect is not implemented.
    #[error("tokenizer.json: {component} `{name}` is not supported")]
    UnsupportedComponent {
        /// The section of the file, as `normalizer`.
        component: &'static str,
        /// The component's type or pattern.
        name: String,
    },
    /// A file that is no JSON of the expected shape.
    #[error("{file}: {source}")]
    BadJson {
        /// `tokenizer.json` or `tokenizer_config.json`.
        file: &'static str,
        /// The parser's complaint, with line and column.
        source: serde_json::Error,
    },
    /// A text longer than the index type of tokens can count.
    #[error("text of {bytes} bytes is longer than {limit}")]
    TextTooLong {
        /// Length of the text in bytes.
        bytes: usize,
        /// The most bytes that are accepted.
        limit: usize,
    },
    /// More tokens than the index type can count.
    #[error("more than {limit} tokens")]
    TooManyTokens {
        /// The most tokens that are accepted.
        limit: usize,
    },
    /// The vocabulary has neither a token nor an unknown token for a piece of text.
    #[error("the vocabulary has no token for {text:?} and no unknown token")]
    NoToken {
        /// The text without a token.
        text: String,
    },
    /// A built-in split pattern that the regex engine refused.
    #[error("split pattern: {0}")]
    Pattern(Box<BuildError>),
    /// A split pattern that could not be matched.
    #[error("split pattern: {0}")]
    Match(#[from] MatchError),
}

impl From<BuildError> for TokenizerError {
    fn from(error: BuildError) -> Self {
        Self::Pattern(Box::new(error))
    }
}

impl TokenizerError {
    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadVocab { .. } => "BadVocab",
            Self::UnsupportedModel { .. } => "UnsupportedModel",
            Self::UnknownPreTokenizer { .. } => "UnknownPreTokenizer",
            Self::UnsupportedComponent { .. } => "UnsupportedComponent",
            Self::BadJson { .. } => "BadJson",
            Self::TextTooLong { .. } => "TextTooLong",
            Self::TooManyTokens { .. } => "TooManyTokens",
            Self::NoToken { .. } => "NoToken",
            Self::Pattern(_) | Self::Match(_) => "Tokenizer",
        }
    }

    /// A [`TokenizerError::BadVocab`] at `place`.
    pub(super) fn bad(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::BadVocab { place: place.into(), reason: reason.into() }
    }
}
