//! What can go wrong with an evaluation.

use std::fmt;

/// Why a model could not be evaluated on a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A text with nothing to predict.
    #[error("the text has {tokens} tokens, an evaluation needs 2 or more")]
    TextTooShort {
        /// Its tokens.
        tokens: usize,
    },
    /// A context that leaves no room for half a window of context and something to predict.
    #[error("a context of {ctx} is too small for an evaluation, it needs {least} or more; raise --ctx")]
    ContextTooSmall {
        /// The context.
        ctx: usize,
        /// The smallest that will do.
        least: usize,
    },
    /// Two models whose distributions are over different numbers of tokens.
    #[error(
        "the model has a vocabulary of {model}, the reference of {reference}: \
         their distributions cannot be compared; give a reference with the same vocabulary"
    )]
    OtherVocabulary {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the reference.
        reference: usize,
    },
    /// Two tokenizers that begin texts differently.
    #[error("a text begins with {} in the model and with {} in the reference; give a reference with the same tokenizer",
        Token(*model), Token(*reference))]
    OtherBeginning {
        /// The token that the model's texts begin with.
        model: Option<u32>,
        /// The token that the reference's texts begin with.
        reference: Option<u32>,
    },
    /// Two tokenizers that cut the text differently.
    #[error("token {position} of the text is {} in the model and {} in the reference; \
        give a reference with the same tokenizer", Token(*model), Token(*reference))]
    OtherTokens {
        /// Index of the first difference.
        position: usize,
        /// The model's token there.
        model: Option<u32>,
        /// The reference's token there.
        reference: Option<u32>,
    },
    /// A logit that is infinite or not a number.
    #[error("the logits of token {position} of the text are no numbers; the model is damaged")]
    NonFiniteLogits {
        /// Index of the token that they predict.
        position: usize,
    },
    /// The caller asked to stop.
    #[error("the evaluation was cancelled")]
    Cancelled,
}

impl EvalError {
    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TextTooShort { .. } => "TextTooShort",
            Self::ContextTooSmall { .. } => "ContextTooSmall",
            Self::OtherVocabulary { .. } => "OtherVocabulary",
            Self::OtherBeginning { .. } => "OtherBeginning",
            Self::OtherTokens { .. } => "OtherTokens",
            Self::NonFiniteLogits { .. } => "NonFiniteLogits",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A token's id, or that there is none.
struct Token(Option<u32>);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "id {id}"),
            None => f.write_str("no token"),
        }
    }
}
