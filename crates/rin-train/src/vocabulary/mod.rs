//! Vocabularies made from the training text, as a `tokenizer.json` that the runtime reads.
//!
//! All three kinds are byte-level byte-pair encodings: of bytes there are 256 and no merges; of characters there are
//! the bytes that occur, merged into the characters that take several, and an unknown token for all others.

mod bpe;

use crate::Error;
use crate::config::TokenizerKind;
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_model::rin_format::hex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Name of the token for what a character vocabulary lacks.
const UNKNOWN: &str = "<unk>";

/// A vocabulary, and the tokenizer that the runtime makes of it.
#[derive(Debug)]
pub struct Vocabulary {
    kind: TokenizerKind,
    json: Vec<u8>,
    tokenizer: Tokenizer,
}

/// Tokens as byte strings in the order of their ids, and the merges by rank.
#[derive(Debug, Default)]
struct Pieces {
    tokens: Vec<Vec<u8>>,
    merges: Vec<(usize, usize)>,
    /// Whether the pattern of GPT-2 cuts the text into words first.
    words: bool,
    has_unknown: bool,
}

impl Vocabulary {
    /// Makes a vocabulary from the training text; `size` is that of a `bpe` one.
    ///
    /// # Errors
    /// When the text has no character, or the runtime refuses the vocabulary.
    pub fn learn(kind: TokenizerKind, text: &[u8], size: usize) -> Result<Self, Error> {
        let pieces = match kind {
            TokenizerKind::Byte => bytes(),
            TokenizerKind::Char => characters(&String::from_utf8_lossy(text)),
            TokenizerKind::Bpe => bpe::learn(&String::from_utf8_lossy(text), size)?,
        };
        Self::from_json(kind, serde_json::to_vec_pretty(&pieces.to_json())?)
    }

    /// Takes a `tokenizer.json` that [`Vocabulary::learn`] made.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub fn from_json(kind: TokenizerKind, json: Vec<u8>) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_hf_json(&json, None)?;
        Ok(Self { kind, json, tokenizer })
    }

    /// The `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The SHA-256 of [`Vocabulary::json`], in hexadecimal digits.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(&self.json))
    }

    /// The runtime's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The tokens of a text, without special ones.
    ///
    /// # Errors
    /// When the text is too long for the tokenizer.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
        if self.kind == TokenizerKind::Byte {
            // The ids are the bytes, also where those are no UTF-8.
            return Ok(text.iter().map(|&byte| u32::from(byte)).collect());
        }
        let options = EncodeOptions { add_special: false, parse_special: false };
        Ok(self.tokenizer.encode(&String::from_utf8_lossy(text), options)?)
    }

    /// Characters of a token; for bytes that are part of one, its first byte counts.
    pub fn characters(&self, id: u32) -> usize {
        let piece = self.tokenizer.piece(id).unwrap_or_default();
        if self.kind == TokenizerKind::Byte {
            return piece.len();
        }
        let unknown = usize::from(piece.is_empty());
        piece.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() + unknown
    }
}

/// One token per byte, in their order.
fn bytes() -> Pieces {
    Pieces { tokens: (0..=u8::MAX).map(|byte| vec![byte]).collect(), ..Pieces::default() }
}

/// One token per character of `text`, in the order of their bytes, and the parts that lead to the longer ones.
fn characters(text: &str) -> Pieces {
    let used: BTreeSet<char> = text.chars().collect();
    let mut tokens: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut buffer = [0; 4];
    for c in &used {
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        for end in 1..=bytes.len() {
            tokens.insert(bytes[..end].to_vec());
            tokens.insert(bytes[end - 1..end].to_vec());
        }
    }
    let tokens: Vec<Vec<u8>> = tokens.into_iter().collect();
    let id = |bytes: &[u8]| tokens.binary_search_by(|token| token.as_slice().cmp(bytes)).ok();
    // A token of several bytes is its beginning and one byte more.
    let merges = tokens.iter().filter_map(|token| {
        let (last, rest) = token.split_last()?;
        Some((id(rest)?, id(&[*last])?))
    });
    let merges = merges.collect();
    Pieces { tokens, merges, words: false, has_unknown: true }
}

/// The printable character that stands for a byte in a byte-level vocabulary (Radford et al., 2019).
fn sign(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let earlier = (0..byte).filter(|&b| !printable(b)).count();
    u32::try_from(256 + earlier).ok().and_then(char::from_u32).unwrap_or_default()
}

impl Pieces {
    fn spelled(&self, id: usize) -> String {
        self.tokens[id].iter().map(|&byte| sign(byte)).collect()
    }

    fn to_json(&self) -> Value {
        let mut vocab: Map<String, Value> =
            (0..self.tokens.len()).map(|id| (self.spelled(id), Value::from(id))).collect();
        if self.has_unknown {
            vocab.insert(UNKNOWN.to_owned(), Value::from(self.tokens.len()));
        }
        let merges: Vec<Value> = self.merges.iter().map(|&(a, b)| json!([self.spelled(a), self.spelled(b)])).collect();
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": self.words
        });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.has_unknown.then_some(UNKNOWN),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocab,
                "merges": merges,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{EncodeOptions, TokenizerKind, Vocabulary, sign};

    const TEXT: &str =
        "To be, or not to be: that is the question — naïve café 中中 \n\n  indented, it's O'Hara's 1599.";

    #[test]
    fn signs_are_those_of_the_byte_alphabet() {
        let pairs = [(0, 'Ā'), (b'\n', 'Ċ'), (b' ', 'Ġ'), (b'a', 'a'), (0x7f, 'ġ'), (0xa0, 'ł'), (0xad, 'Ń')];
        for (byte, character) in pairs {
            assert_eq!(sign(byte), character);
        }
    }

    #[test]
    fn every_kind_comes_back_as_the_text() {
        for (kind, size) in [(TokenizerKind::Byte, 0), (TokenizerKind::Char, 0), (TokenizerKind::Bpe, 300)] {
            let vocabulary = Vocabulary::learn(kind, TEXT.as_bytes(), size).unwrap();
            let ids = vocabulary.encode(TEXT.as_bytes()).unwrap();
            assert_eq!(vocabulary.tokenizer().decode(&ids), TEXT, "{kind:?}");
            let characters: usize = ids.iter().map(|&id| vocabulary.characters(id)).sum();
            let expected = if kind == TokenizerKind::Byte { TEXT.len() } else { TEXT.chars().count() };
            assert_eq!(characters, expected, "{kind:?}");
        }
    }

    #[test]
    fn a_character_vocabulary_has_one_token_per_character_and_one_for_all_others() {
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, "aé中b".as_bytes(), 0).unwrap();
        assert_eq!(vocabulary.encode("b中éa".as_bytes()).unwrap().len(), 4);
        let unknown = vocabulary.encode(b"axa").unwrap();
        assert_eq!(unknown.len(), 3);
        assert_eq!(unknown[1] as usize, vocabulary.size() - 1);
        assert_eq!(vocabulary.characters(unknown[1]), 1);
    }

    #[test]
    fn ascii_text_gives_a_token_per_character_and_the_unknown_one() {
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, b"hello\n", 0).unwrap();
        assert_eq!(vocabulary.size(), 6);
        assert_eq!(vocabulary.encode(b"hello").unwrap(), [3, 2, 4, 4, 5].map(|id| id - 1));
    }

    #[test]
    fn bytes_are_their_ids_even_where_they_are_no_text() {
        let vocabulary = Vocabulary::learn(TokenizerKind::Byte, b"", 0).unwrap();
        assert_eq!(vocabulary.size(), 256);
        assert_eq!(vocabulary.encode(&[0, 200, 255]).unwrap(), [0, 200, 255]);
        let text = "naïve\u{0}";
        let by_runtime = vocabulary.tokenizer().encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(by_runtime, vocabulary.encode(text.as_bytes()).unwrap());
    }
}
