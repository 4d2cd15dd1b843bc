//! Text to ids.

use super::error::TokenizerError;
use super::merge::{Merger, NONE};
use super::pieces::{MergeTable, PairLookup, SPACE_SIGN};
use super::special::Segment;
use super::vocab::{Alphabet, SpacePrefix};
use super::{Tokenizer, WordBreaks};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Most bytes of a text, and most tokens: positions in the model are 32-bit.
const LIMIT: usize = i32::MAX as usize;

/// What is done besides splitting and merging.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// The beginning- and end-of-text tokens are added where the vocabulary asks for it.
    pub add_special: bool,
    /// Control tokens that the text spells out become ids. Never set it for text from outside.
    pub parse_special: bool,
}

/// The ids so far, and the buffers of the work.
#[derive(Debug, Default)]
struct Encoding {
    ids: Vec<u32>,
    merger: Merger,
    /// A word in SentencePiece's spelling.
    word: String,
    /// The last id stands for a character without a token.
    after_unknown: bool,
}

impl Tokenizer {
    /// The ids of a text.
    ///
    /// # Errors
    /// A text or a list of ids longer than 2³¹−1; a character for which the vocabulary has no token of any kind.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > LIMIT {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: LIMIT });
        }
        let mut encoding = Encoding::default();
        let special = self.special();
        if options.add_special && special.add_bos {
            encoding.ids.extend(special.bos);
        }
        for segment in self.trie.segments(text, options.parse_special) {
            encoding.after_unknown = false;
            match segment {
                Segment::Token(id) => encoding.ids.push(id),
                Segment::Text(start, text) if self.nfc && !is_nfc(text) => {
                    self.encode_text(&text.nfc().collect::<String>(), start == 0, &mut encoding)?;
                }
                Segment::Text(start, text) => self.encode_text(text, start == 0, &mut encoding)?,
            }
        }
        if options.add_special && special.add_eos {
            encoding.ids.extend(special.eos);
        }
        if encoding.ids.len() > LIMIT {
            return Err(TokenizerError::TooManyTokens { limit: LIMIT });
        }
        Ok(encoding.ids)
    }

    /// A stretch of text between special tokens; `first` when the input begins with it.
    fn encode_text(&self, text: &str, first: bool, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        match self.alphabet {
            Alphabet::ByteLevel if self.puts_space_before(text, first) => {
                self.encode_bytes(&format!(" {text}"), encoding)
            }
            Alphabet::ByteLevel => self.encode_bytes(text, encoding),
            Alphabet::Metaspace => self.encode_metaspace(text, first, encoding),
        }
    }

    /// Whether a space goes before a stretch of text; `first` when the input begins with it.
    fn puts_space_before(&self, text: &str, first: bool) -> bool {
        let spaced = text.starts_with(' ') || self.alphabet == Alphabet::Metaspace && text.starts_with(SPACE_SIGN);
        match self.prefix {
            SpacePrefix::Never => false,
            SpacePrefix::Always => true,
            SpacePrefix::UnlessPresent => !spaced,
            SpacePrefix::FirstUnlessPresent => first && !spaced,
        }
    }

    /// Cuts a text into words and merges the bytes of each.
    fn encode_bytes(&self, text: &str, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        self.splitter.split(text, &mut |word| {
            encoding.merger.clear();
            if let Some(id) = self.whole_word(word) {
                encoding.ids.push(id);
                encoding.after_unknown = false;
                return Ok(());
            }
            for &byte in word.as_bytes() {
                encoding.merger.push(1, self.byte_ids[usize::from(byte)]);
            }
            self.emit(word, encoding)
        })
    }

    /// Spells a text with U+2581 for spaces and merges the characters of each word.
    fn encode_metaspace(&self, text: &str, first: bool, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        let prefix = self.puts_space_before(text, first);
        let mut word = std::mem::take(&mut encoding.word);
        word.clear();
        let mut last = NO_SPACE;
        for character in prefix.then_some(SPACE_SIGN).into_iter().chain(text.chars()) {
            let character = if character == ' ' { SPACE_SIGN } else { character };
            let breaks = match self.word_breaks {
                WordBreaks::None => false,
                WordBreaks::BeforeRuns => last != SPACE_SIGN,
                WordBreaks::BeforeEach => true,
            };
            if character == SPACE_SIGN && breaks && !word.is_empty() {
                self.encode_word(&word, encoding)?;
                word.clear();
            }
            word.push(character);
            last = character;
        }
        if !word.is_empty() {
            self.encode_word(&word, encoding)?;
        }
        encoding.word = word;
        Ok(())
    }

    /// Merges the characters of one word in SentencePiece's spelling.
    fn encode_word(&self, word: &str, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        encoding.merger.clear();
        if let Some(id) = self.whole_word(word) {
            encoding.ids.push(id);
            encoding.after_unknown = false;
            return Ok(());
        }
        // With ranks, bytes take part in merges as the file lists them; with scores a merge goes by text.
        let ranked = matches!(self.merges, MergeTable::Ranks(_));
        let mut buffer = [0; 4];
        for character in word.chars() {
            let bytes = character.encode_utf8(&mut buffer).as_bytes();
            match self.words.get(&self.pieces, bytes) {
                Some(id) => encoding.merger.push(bytes.len(), id),
                None if ranked && self.has_bytes(bytes) => {
                    for &byte in bytes {
                        encoding.merger.push(1, self.byte_ids[usize::from(byte)]);
                    }
                }
                None => encoding.merger.push(bytes.len(), NONE),
            }
        }
        self.emit(word, encoding)
    }

    /// The token of a word that is not to be merged.
    fn whole_word(&self, word: &str) -> Option<u32> {
        if !self.ignore_merges {
            return None;
        }
        self.words.get(&self.pieces, word.as_bytes())
    }

    fn has_bytes(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.byte_id(byte).is_some())
    }

    /// Merges the symbols of a word and appends their ids.
    fn emit(&self, word: &str, encoding: &mut Encoding) -> Result<(), TokenizerError> {
        let Encoding { ids, merger, after_unknown, .. } = encoding;
        let lookup = PairLookup { table: &self.merges, words: &self.words, pieces: &self.pieces };
        for symbol in merger.merge(word.as_bytes(), &lookup) {
            if symbol.id != NONE {
                ids.push(symbol.id);
                *after_unknown = false;
                continue;
            }
            let bytes = symbol.text(word.as_bytes());
            if self.has_bytes(bytes) {
                ids.extend(bytes.iter().filter_map(|&byte| self.byte_id(byte)));
                *after_unknown = false;
            } else if let Some(unknown) = self.special().unk {
                if !(*after_unknown && self.fuse_unknown) {
                    ids.push(unknown);
                }
                *after_unknown = true;
            } else {
                return Err(TokenizerError::NoToken { text: String::from_utf8_lossy(bytes).into_owned() });
            }
        }
        Ok(())
    }
}

/// Any character but the sign of a space.
const NO_SPACE: char = '\0';
