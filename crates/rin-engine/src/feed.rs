//! What an engine is fed with, and what it shows of a step.

/// Tokens in the KV cache. Made by [`Engine::sequence`](crate::Engine::sequence) or [`Engine::admit`](crate::Engine::admit), given
/// back to [`Engine::release`](crate::Engine::release).
#[derive(Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its place in the cache; the stages of a chain have one sequence in the same.
    pub(crate) row: usize,
}

/// Which logits of a [`Feed`] are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// None: the tokens are only stored.
    None,
    /// Those after the last token.
    #[default]
    Last,
    /// Those after every token.
    All,
}

/// What one sequence takes part in a step with.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: &'a Sequence,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// The logits that are wanted.
    pub rows: Rows,
}

/// A row that a step of the plan wrote.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Which [`Feed`] it belongs to.
    pub feed: usize,
    /// Position of its token.
    pub position: usize,
    /// The step of the plan.
    pub step: usize,
    /// The layer of that step.
    pub layer: Option<usize>,
    /// What the step computes.
    pub operation: &'static str,
    /// Which of its outputs: queries, keys, values of one product.
    pub part: usize,
    /// The values.
    pub values: &'a [f32],
}

impl Feed<'_> {
    /// Rows of logits that are wanted.
    pub(crate) fn n_rows(&self) -> usize {
        match self.rows {
            Rows::None => 0,
            Rows::Last => usize::from(!self.tokens.is_empty()),
            Rows::All => self.tokens.len(),
        }
    }
}
