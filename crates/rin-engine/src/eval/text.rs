//! The text of an evaluation, and the windows that a model sees it through.

use super::EvalError;
use crate::Error;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// The tokens of a text and what they spell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalText {
    /// Its tokens, none of them added by the tokenizer; control tokens that the text spells out are plain text.
    pub ids: Vec<u32>,
    /// The token before every window, where the tokenizer adds one to texts.
    pub bos: Option<u32>,
    /// Bytes of the text that the scored tokens spell.
    pub bytes: usize,
    /// Characters (code points) of the text that the scored tokens spell.
    pub chars: usize,
}

impl EvalText {
    /// Encodes a text and keeps its first `max_tokens` tokens.
    ///
    /// # Errors
    ///
    /// [`EvalError::TextTooShort`] where fewer than two tokens are left; what the tokenizer refuses.
    pub fn encode(tokenizer: &Tokenizer, text: &str, max_tokens: Option<usize>) -> Result<Self, Error> {
        let mut ids = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false })?;
        let special = tokenizer.special();
        let bos = special.bos.filter(|_| special.add_bos);
        let (mut bytes, mut chars) = spelled(text.as_bytes());
        let mut leave_out = |piece: &[u8]| {
            let (piece_bytes, piece_chars) = spelled(piece);
            bytes = bytes.saturating_sub(piece_bytes);
            chars = chars.saturating_sub(piece_chars);
        };
        for id in ids.iter().skip(max_tokens.unwrap_or(usize::MAX)) {
            leave_out(tokenizer.piece(*id).unwrap_or_default());
        }
        ids.truncate(max_tokens.unwrap_or(usize::MAX));
        // With nothing before it, the first token is context only.
        if let (None, Some(first)) = (bos, ids.first()) {
            let piece = tokenizer.piece(*first).unwrap_or_default();
            // A space that the tokenizer put there is not the text's.
            let own = if text.starts_with(' ') { None } else { piece.strip_prefix(b" ") };
            leave_out(own.unwrap_or(piece));
        }
        let text = Self { ids, bos, bytes, chars };
        if text.ids.len() < 2 { Err(EvalError::TextTooShort { tokens: text.ids.len() }.into()) } else { Ok(text) }
    }

    /// Tokens that are scored: all, but for the first where nothing comes before it.
    pub fn scored(&self) -> usize {
        self.ids.len().saturating_sub(self.first_scored())
    }

    /// Whether a reference's tokenizer reads the same text as these tokens.
    ///
    /// # Errors
    ///
    /// [`EvalError::OtherBeginning`] or [`EvalError::OtherTokens`] with the first difference.
    pub fn check_same(&self, reference: &Self) -> Result<(), EvalError> {
        if self.bos != reference.bos {
            return Err(EvalError::OtherBeginning { model: self.bos, reference: reference.bos });
        }
        let n = self.ids.len().max(reference.ids.len());
        let at = |position| (self.ids.get(position).copied(), reference.ids.get(position).copied());
        match (0..n).find(|&position| at(position).0 != at(position).1) {
            Some(position) => {
                let (model, reference) = at(position);
                Err(EvalError::OtherTokens { position, model, reference })
            }
            None => Ok(()),
        }
    }

    fn first_scored(&self) -> usize {
        usize::from(self.bos.is_none())
    }

    /// The windows of a context of `ctx` positions.
    ///
    /// # Errors
    ///
    /// [`EvalError::ContextTooSmall`].
    pub(super) fn windows(&self, ctx: usize) -> Result<Windows, EvalError> {
        if ctx < MIN_CTX {
            return Err(EvalError::ContextTooSmall { ctx, least: MIN_CTX });
        }
        let capacity = ctx - usize::from(self.bos.is_some());
        Ok(Windows {
            n: self.ids.len(),
            capacity,
            stride: capacity - ctx.div_ceil(2),
            first: 0,
            scored: self.first_scored(),
        })
    }
}

/// The smallest context in which a window with a beginning-of-text token moves on.
const MIN_CTX: usize = 4;

/// Bytes, and characters that begin in them.
fn spelled(text: &[u8]) -> (usize, usize) {
    // In UTF-8, all bytes of a character but the first are 10xxxxxx.
    (text.len(), text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count())
}

/// A part of the text that the model sees at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// The first token in it.
    pub(super) first: usize,
    /// The first token that it scores.
    pub(super) scored: usize,
    /// Behind the last token that it scores.
    pub(super) end: usize,
}

/// The windows over a text, in order.
#[derive(Debug)]
pub(super) struct Windows {
    n: usize,
    capacity: usize,
    stride: usize,
    /// Where the next window begins.
    first: usize,
    /// The first token that is not scored yet.
    scored: usize,
}

impl Iterator for Windows {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        if self.scored >= self.n {
            return None;
        }
        let end = self.n.min(self.first + self.capacity);
        let window = Window { first: self.first, scored: self.scored, end };
        self.scored = end;
        self.first += self.stride;
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: u32, bos: Option<u32>) -> EvalText {
        EvalText { ids: (0..n).collect(), bos, bytes: 0, chars: 0 }
    }

    #[test]
    fn each_token_is_scored_once_with_half_a_context_before_it() {
        for bos in [None, Some(1)] {
            for ctx in 4..24 {
                for n in 2..80_u32 {
                    let text = text(n, bos);
                    let mut next = text.first_scored();
                    for window in text.windows(ctx).unwrap() {
                        assert_eq!(window.scored, next);
                        assert!(window.end > window.scored, "ctx {ctx}, {n} tokens");
                        let held = window.end - window.first + usize::from(bos.is_some());
                        assert!(held <= ctx, "ctx {ctx}, {n} tokens: a window of {held}");
                        assert!(window.scored - window.first >= ctx.div_ceil(2).min(window.scored));
                        next = window.end;
                    }
                    assert_eq!(next, n as usize);
                }
            }
        }
        assert_eq!(text(9, None).windows(3).unwrap_err(), EvalError::ContextTooSmall { ctx: 3, least: 4 });
    }

    #[test]
    fn the_first_difference_is_named() {
        let a = text(5, None);
        assert_eq!(a.check_same(&text(5, None)), Ok(()));
        let other = EvalError::OtherTokens { position: 4, model: Some(4), reference: None };
        assert_eq!(a.check_same(&text(4, None)), Err(other));
        let other = EvalError::OtherBeginning { model: None, reference: Some(1) };
        assert_eq!(a.check_same(&text(5, Some(1))), Err(other));
    }
}
