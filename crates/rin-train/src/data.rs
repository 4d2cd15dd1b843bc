//! Text as tokens: reading, the split, and batches that are a function of (seed, step).

use crate::Error;
use crate::config::{DataConfig, TokenizerKind};
use crate::random::{index, stream};
use std::path::Path;

/// The two parts of the text: the second one is never trained on.
#[derive(Clone, Debug)]
pub struct Text {
    /// The beginning.
    pub train: Vec<u8>,
    /// The rest.
    pub validation: Vec<u8>,
}

impl Text {
    /// Reads the files as one text and cuts it once, at a character.
    ///
    /// # Errors
    /// When a file cannot be read, or is no UTF-8 and the vocabulary is not of bytes.
    pub fn read(data: &DataConfig, tokenizer: TokenizerKind) -> Result<Self, Error> {
        let mut text = Vec::new();
        for path in &data.files {
            let bytes = std::fs::read(path).map_err(|e| Error::reading(path, e))?;
            if tokenizer != TokenizerKind::Byte {
                check_utf8(path, &bytes)?;
            }
            text.extend_from_slice(&bytes);
        }
        Ok(Self::split(text, data.split))
    }

    /// Cuts a text: the share `split` of its bytes, rounded down to a character, comes first.
    pub fn split(mut text: Vec<u8>, split: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
        let mut at = ((text.len() as f64 * split) as usize).min(text.len());
        // A continuation byte of UTF-8 belongs to what is before it.
        while at > 0 && text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
            at -= 1;
        }
        let validation = text.split_off(at);
        Self { train: text, validation }
    }
}

fn check_utf8(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::NotText { path: path.to_owned(), at: e.valid_up_to() }),
    }
}

/// Random windows of the training tokens.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Vec<u32>,
    seq: usize,
    batch: usize,
    seed: u64,
}

impl Batches {
    /// Batches of `batch` windows of `seq` tokens.
    ///
    /// # Errors
    /// When there are too few tokens for a window.
    pub fn new(tokens: Vec<u32>, seq: usize, batch: usize, seed: u64) -> Result<Self, Error> {
        if tokens.len() <= seq {
            let (tokens, needed) = (tokens.len(), seq + 1);
            return Err(Error::DataTooShort { split: "training", tokens, needed, key: "train.seq" });
        }
        Ok(Self { tokens, seq, batch, seed })
    }

    /// Tokens of the split.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The inputs and targets `(batch, seq)` of part `micro` of step `step`.
    pub fn get(&self, step: usize, micro: usize) -> (Vec<u32>, Vec<u32>) {
        let state = stream(self.seed, &[1, step as u64, micro as u64]);
        let n = self.batch * self.seq;
        let (mut ids, mut targets) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for row in 0..self.batch {
            let start = index(state, row as u64, self.tokens.len() - self.seq);
            let window = &self.tokens[start..=start + self.seq];
            ids.extend_from_slice(&window[..self.seq]);
            targets.extend_from_slice(&window[1..]);
        }
        (ids, targets)
    }
}

#[cfg(test)]
mod tests {
    use super::{Batches, Text};

    #[test]
    fn the_split_is_contiguous_and_at_a_character() {
        let text = "aé".repeat(10).into_bytes();
        for split in [0.5, 0.51, 0.55, 0.9] {
            let parts = Text::split(text.clone(), split);
            assert!(String::from_utf8(parts.train.clone()).is_ok());
            assert_eq!([parts.train, parts.validation].concat(), text);
        }
        let parts = Text::split(vec![b'x'; 1_115_394], 0.9);
        assert_eq!((parts.train.len(), parts.validation.len()), (1_003_854, 111_540));
    }

    #[test]
    fn a_batch_is_a_function_of_its_place_and_targets_follow_inputs() {
        let batches = Batches::new((0..1000).collect(), 16, 4, 9).unwrap();
        let (ids, targets) = batches.get(3, 1);
        assert_eq!(batches.get(3, 1), (ids.clone(), targets.clone()));
        assert_ne!(batches.get(4, 1).0, ids);
        assert_ne!(batches.get(3, 0).0, ids);
        assert!(ids.iter().zip(&targets).all(|(id, target)| id + 1 == *target));
        assert!(Batches::new(vec![0; 16], 16, 1, 0).is_err());
    }
}
