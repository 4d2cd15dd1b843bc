//! Speculation: tokens are guessed, and the guesses are computed in one step with the token before them.
//!
//! The sampler draws each token from the same logits with the same random number as without guesses; a guess only counts
//! where it is what was drawn (Leviathan, Kalman and Matias, 2023, with the target's own random numbers in place of the
//! rejection rule). So tokens and logit bits are those of plain decoding, for greedy and for random sampling alike.

use crate::sampler::argmax;
use crate::{Engine, Error, Sequence};

/// Who guesses.
#[derive(Debug)]
pub enum Drafter<'a> {
    /// The text repeats itself: what followed its last tokens before (prompt lookup, Saxena, 2023).
    Lookup,
    /// A smaller model with the same vocabulary, by its most probable tokens.
    Model(Box<DraftModel<'a>>),
}

/// A model that guesses.
#[derive(Debug)]
pub struct DraftModel<'a> {
    engine: &'a mut Engine,
    sequence: Sequence,
    /// The tokens in its cache.
    fed: Vec<u32>,
}

/// The longest run of tokens that a lookup searches for.
const LONGEST: usize = 3;

impl<'a> Drafter<'a> {
    /// Guesses with `engine`, which has to have the vocabulary of `target`.
    ///
    /// # Errors
    ///
    /// [`Error::OtherVocabulary`]; what [`Engine::sequence`] refuses.
    pub fn model(engine: &'a mut Engine, target: &Engine) -> Result<Self, Error> {
        let (draft, target) = (engine.plan().config.vocab, target.plan().config.vocab);
        if draft != target {
            return Err(Error::OtherVocabulary { draft, target });
        }
        let sequence = engine.sequence()?;
        let fed = Vec::with_capacity(engine.plan().options.ctx + 1);
        Ok(Self::Model(Box::new(DraftModel { engine, sequence, fed })))
    }

    /// Appends up to `most` guesses of what follows `tokens` to `out`.
    pub(super) fn guess(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        match self {
            Self::Lookup => out.extend(lookup(tokens, most)),
            Self::Model(model) => model.guess(tokens, most, out)?,
        }
        Ok(())
    }
}

/// What followed the latest earlier place of the last tokens, of as many of them as possible.
fn lookup(tokens: &[u32], most: usize) -> &[u32] {
    for n in (1..=LONGEST.min(tokens.len().saturating_sub(1))).rev() {
        let (before, last) = tokens.split_at(tokens.len() - n);
        // The place may overlap the last tokens, and end before them.
        let found = (0..before.len()).rev().find(|&at| tokens[at..].starts_with(last));
        if let Some(at) = found {
            let follows = &tokens[at + n..];
            return &follows[..follows.len().min(most)];
        }
    }
    &[]
}

impl DraftModel<'_> {
    fn guess(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        let room = self.engine.plan().options.ctx;
        let common = self.fed.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is fed even where it is there, for its logits.
        let keep = common.min(tokens.len().saturating_sub(1));
        if tokens.len() + most > room {
            return Ok(());
        }
        self.engine.truncate(&self.sequence, keep)?;
        self.fed.truncate(keep);
        let mut next = argmax(self.engine.feed(&self.sequence, &tokens[keep..])?)?;
        self.fed.extend_from_slice(&tokens[keep..]);
        for i in 0..most {
            out.push(next);
            if i + 1 < most {
                let logits = self.engine.feed(&self.sequence, &[next])?;
                self.fed.push(next);
                next = argmax(logits)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn the_latest_place_of_the_longest_run_is_taken() {
        assert_eq!(lookup(&[1, 2, 3, 9, 8, 1, 2, 3], 2), [9, 8]);
        assert_eq!(lookup(&[1, 2, 7, 1, 2, 8, 2, 5, 1, 2], 9), [8, 2, 5, 1, 2], "later before earlier");
        assert_eq!(lookup(&[1, 2, 7, 9, 2, 8, 1, 2], 1), [7], "two in a row before one");
        assert_eq!(lookup(&[5, 5, 5], 4), [5], "over its own end");
        for none in [&[][..], &[1], &[1, 2, 3]] {
            assert!(lookup(none, 4).is_empty());
        }
    }
}
