//! Ids back to text, all at once or as they come.

use super::Tokenizer;

/// How ids are turned into text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Control tokens appear as their text; otherwise they leave no trace.
    pub show_special: bool,
    /// The ids continue a text: a leading space is kept that would be dropped at the start of a text.
    pub continuation: bool,
}

/// Turns ids into text as they come, whole characters only.
///
/// What it appends in all equals [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    state: DecodeState,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, options: DecodeOptions) -> Self {
        Self { tokenizer, state: DecodeState::new(options) }
    }

    /// Appends to `out` the characters that `id` completes. An id outside the vocabulary reads U+FFFD.
    pub fn push(&mut self, id: u32, out: &mut String) {
        self.state.push(self.tokenizer, id, out);
    }

    /// Appends U+FFFD where the ids ended within a character, and starts afresh.
    pub fn finish(&mut self, out: &mut String) {
        self.state.finish(out);
    }
}

/// The state of a [`StreamDecoder`], for callers that hold the tokenizer elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecodeState {
    options: DecodeOptions,
    /// Some text was appended, so that a leading space stays.
    started: bool,
    /// The first bytes of a character that is not complete.
    pending: [u8; 4],
    pending_len: usize,
}

impl DecodeState {
    /// The state before the first id.
    pub fn new(options: DecodeOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// As [`StreamDecoder::push`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let piece = if self.options.show_special { tokenizer.text(id) } else { tokenizer.piece(id) };
        let mut bytes = piece.unwrap_or("\u{FFFD}".as_bytes());
        if !self.started && !bytes.is_empty() {
            self.started = true;
            if tokenizer.drops_leading_space() && !self.options.continuation {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.append(bytes, out);
    }

    /// As [`StreamDecoder::finish`].
    pub fn finish(&mut self, out: &mut String) {
        if self.pending_len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        *self = Self::new(self.options);
    }

    /// Appends bytes; broken UTF-8 becomes U+FFFD as in [`String::from_utf8_lossy`].
    fn append(&mut self, mut bytes: &[u8], out: &mut String) {
        while self.pending_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            self.pending[self.pending_len] = byte;
            let taken = &self.pending[..=self.pending_len];
            match std::str::from_utf8(taken) {
                Ok(character) => {
                    out.push_str(character);
                    self.pending_len = 0;
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => {
                    self.pending_len += 1;
                    bytes = rest;
                }
                // The byte does not continue the character: it stays where it is, to be read anew.
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.pending_len = 0;
                }
            }
        }
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            let broken = chunk.invalid();
            let may_go_on = std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none());
            if may_go_on && chunks.peek().is_none() {
                self.pending_len = broken.len();
                self.pending[..broken.len()].copy_from_slice(broken);
            } else if !broken.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_reads_as_the_whole(
            parts in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec![b'a', 0x80, 0xBF, 0xC3, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xED, 0xFF]), 0..5),
                0..12,
            ),
        ) {
            let mut state = DecodeState::default();
            let mut out = String::new();
            for part in &parts {
                state.append(part, &mut out);
            }
            state.finish(&mut out);
            let whole = parts.concat();
            prop_assert_eq!(out, String::from_utf8_lossy(&whole));
        }
    }
}
