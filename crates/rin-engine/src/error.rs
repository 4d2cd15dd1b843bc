//! What can go wrong between a model file and its text.

use crate::arena::ArenaError;
use crate::chain::ChainError;
use crate::eval::EvalError;
use crate::limits::LimitError;
use crate::network::NetworkError;
use crate::pool::PoolError;
use crate::sampler::SamplingError;
use crate::snn::SnnError;
use crate::state::StateError;
use crate::tokenizer::TokenizerError;

/// Failures of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file is damaged, lies, or holds a network that RIN does not know.
    #[error(transparent)]
    Model(#[from] rin_model::Error),
    /// A tensor has an element type that no kernel runs.
    #[error(
        "tensor '{tensor}' is of type {found}, which RIN does not run; it runs {known}. Convert the model to one of these"
    )]
    UnsupportedType {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that kernels exist for.
        known: String,
    },
    /// A family that the reader knows and this engine cannot plan.
    #[error("networks of the family '{0}' can be read, but not run by this version")]
    NoPlan(&'static str),
    /// A matrix whose rows do not hold whole blocks, or are too large.
    #[error("tensor '{tensor}' of {rows} x {cols} cannot be packed as {format}: {reason}")]
    BadShape {
        /// Name of the tensor.
        tensor: String,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Its type.
        format: String,
        /// What is wrong.
        reason: String,
    },
    /// A weight or a scale that is infinite or not a number.
    #[error(
        "tensor '{tensor}' holds a value that is no number in row {row}, near column {col}; the file is damaged or was converted wrongly"
    )]
    NonFiniteWeight {
        /// Name of the tensor.
        tensor: String,
        /// Row.
        row: usize,
        /// First column of the block.
        col: usize,
    },
    /// A packed tensor of a `.rin` file whose length is not that of its shape.
    #[error("tensor '{tensor}' has {found} bytes, its shape and type ask for {expected}; import the model again")]
    PackedSize {
        /// Name of the tensor.
        tensor: String,
        /// Bytes that the shape asks for.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// An option out of its range.
    #[error("{field} is {found}, but must be {expected}")]
    BadOption {
        /// Name of the option.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The plan does not fit the memory.
    #[error("the plan does not fit: {0}; take a smaller --ctx or --batch, a smaller --kv-type, or a smaller model")]
    DoesNotFit(#[from] LimitError),
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is not in the vocabulary of {n_vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// More tokens than the context holds.
    #[error(
        "the prompt has {tokens} tokens, the context holds {ctx} (one is kept for the answer); raise --ctx or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The context.
        ctx: usize,
    },
    /// Nothing to run on.
    #[error("the prompt is empty and no token for the beginning of a text is added; give a prompt")]
    EmptyPrompt,
    /// All places for sequences are taken.
    #[error("all {0} sequences of the plan are in use; release one, or plan for more")]
    NoSequenceLeft(usize),
    /// The KV cache has no room for a sequence, or a sequence none for more tokens.
    #[error(
        "the KV cache has room for {available} more positions here, {needed} are needed; end other sequences, or plan for more"
    )]
    CacheFull {
        /// Positions that are needed.
        needed: usize,
        /// Positions that there are.
        available: usize,
    },
    /// A position that a sliding window has left behind.
    #[error(
        "position {position} has fallen out of the attention window and cannot be gone back to; begin a new sequence"
    )]
    OutOfWindow {
        /// The position.
        position: usize,
    },
    /// A position that a memory of a fixed size cannot go back to.
    #[error(
        "a memory of a fixed size cannot go back to position {position}; begin again, or restore or fork an earlier state"
    )]
    NotRewindable {
        /// The position.
        position: usize,
    },
    /// More tokens or rows of logits in one step than the plan holds, or a sequence named twice.
    #[error("a step of {found} {what} is more than the {most} that were planned for")]
    StepTooLarge {
        /// Tokens, rows of logits, or turns of one sequence.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A model that guesses tokens has another vocabulary than the one that it guesses for.
    #[error(
        "the draft model has a vocabulary of {draft} tokens, the model of {target}; take a draft of the same family"
    )]
    OtherVocabulary {
        /// Tokens that the draft model knows.
        draft: usize,
        /// Tokens that the model knows.
        target: usize,
    },
    /// A saved sequence that cannot be used or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// What goes wrong between the stages of a network over several processes.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Arithmetic on sizes left the address space.
    #[error("the plan's {what} is larger than the address space")]
    PlanOverflow {
        /// Which size.
        what: &'static str,
    },
    /// The arena could not be had.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The threads could not be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The tokenizer is damaged or of an unknown kind, or a text is too long for it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sampling setting is out of range, or the logits are no numbers.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Rows that are not those that a network takes.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A text, a context or a reference that cannot be evaluated.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

impl Error {
    /// Its name: that of the variant, or of what lies within it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(error) => error.kind(),
            Self::UnsupportedType { .. } => "UnsupportedType",
            Self::NoPlan(_) => "NoPlan",
            Self::BadShape { .. } => "BadShape",
            Self::NonFiniteWeight { .. } => "NonFiniteWeight",
            Self::PackedSize { .. } => "PackedSize",
            Self::BadOption { .. } | Self::Sampling(SamplingError::Parameter { .. }) => "BadOption",
            Self::DoesNotFit(_) | Self::Arena(ArenaError::AddressSpace { .. } | ArenaError::Map { .. }) => "DoesNotFit",
            Self::UnknownToken { .. } => "UnknownToken",
            Self::PromptTooLong { .. } => "PromptTooLong",
            Self::EmptyPrompt => "EmptyPrompt",
            Self::Network(_) => "BadInput",
            Self::CacheFull { .. } => "CacheFull",
            Self::OtherVocabulary { .. } => "OtherVocabulary",
            Self::Chain(ChainError::Lost { .. }) => "RankLost",
            Self::Chain(_) => "RanksDisagree",
            Self::State(StateError::Io { .. }) => "Io",
            Self::State(StateError::Other { .. }) => "OtherState",
            Self::State(StateError::Damaged { .. }) => "DamagedState",
            Self::PlanOverflow { .. } => "PlanOverflow",
            Self::Tokenizer(error) => error.kind(),
            Self::Eval(error) => error.kind(),
            Self::NoSequenceLeft(_)
            | Self::OutOfWindow { .. }
            | Self::NotRewindable { .. }
            | Self::StepTooLarge { .. }
            | Self::Arena(_)
            | Self::Pool(_)
            | Self::Sampling(_) => "Failed",
        }
    }
}

impl From<SnnError> for Error {
    fn from(error: SnnError) -> Self {
        // Boxed, as a larger error makes every result of the engine larger.
        Self::Network(NetworkError::Spiking(Box::new(error)))
    }
}
