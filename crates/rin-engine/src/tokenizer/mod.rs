//! Text to token ids and back.
//!
//! Two kinds of byte-pair encoding: SentencePiece's, where a score or a rank orders the merges, U+2581 stands for a
//! space and characters without a token fall back to bytes; and the byte-level one of GPT-2, where a pattern cuts the
//! text into words first. Time is O(n log n) in the text, the stack constant. The sources are GGUF metadata and
//! Hugging Face's `tokenizer.json`; results are those of llama.cpp and of the `tokenizers` package.

mod byte_level;
mod decode;
mod encode;
mod error;
mod gguf;
mod hf;
mod hf_components;
mod hf_size;
mod index;
mod merge;
mod pattern;
mod pieces;
mod size;
mod special;
mod split;
mod vocab;

use std::collections::HashMap;

use byte_level::ByteAlphabet;
use merge::NONE;
use pieces::{MergeTable, Pieces, Words};
use size::{Sizes, is_special};
use special::{SpecialToken, SpecialTrie};
use split::Splitter;

pub use decode::{DecodeOptions, DecodeState, StreamDecoder};
pub use encode::EncodeOptions;
pub use error::TokenizerError;
pub use special::Strip;
pub use split::SplitRule;
pub use vocab::{Alphabet, MergePair, Merging, SpacePrefix, Special, TokenType, Vocab};

/// A checked vocabulary with everything that encoding and decoding look up.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule that a file switches on by itself")]
pub struct Tokenizer {
    alphabet: Alphabet,
    pieces: Pieces,
    words: Words,
    byte_ids: Box<[u32; 256]>,
    merges: MergeTable,
    splitter: Splitter,
    trie: SpecialTrie,
    special: Special,
    ignore_merges: bool,
    prefix: SpacePrefix,
    word_breaks: WordBreaks,
    drop_leading_space: bool,
    nfc: bool,
    fuse_unknown: bool,
}

/// Where a SentencePiece text can be cut, so that no merge reaches over the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WordBreaks {
    /// Nowhere.
    None,
    /// Before every run of spaces: no token has a space after something else.
    BeforeRuns,
    /// Before every space, as the file asks.
    BeforeEach,
}

impl Tokenizer {
    /// Checks a vocabulary and builds its tables.
    ///
    /// # Errors
    /// [`TokenizerError::BadVocab`] for a vocabulary that contradicts itself or breaks a limit.
    pub fn from_vocab(vocab: &Vocab<'_>) -> Result<Self, TokenizerError> {
        pieces::check(vocab)?;
        let alphabet = ByteAlphabet::new();
        let sizes = Sizes::of(vocab);
        let pieces = Pieces::new(vocab, &sizes, &alphabet)?;
        let words = Words::new(vocab, &sizes, &pieces);
        let strips: HashMap<u32, Strip> = vocab.strips.iter().copied().collect();
        let specials: Vec<_> = (0_u32..)
            .zip(vocab.tokens.iter().zip(&vocab.types))
            .filter(|(_, (_, kind))| is_special(**kind))
            .map(|(id, (text, kind))| SpecialToken {
                id,
                text,
                control: *kind != TokenType::UserDefined,
                strip: strips.get(&id).copied().unwrap_or_default(),
            })
            .collect();
        Ok(Self {
            alphabet: vocab.alphabet,
            byte_ids: pieces::byte_ids(vocab, &alphabet),
            merges: MergeTable::new(vocab)?,
            splitter: Splitter::new(vocab.rule)?,
            trie: SpecialTrie::new(&specials, sizes.trie)?,
            special: Special::of(vocab),
            ignore_merges: vocab.ignore_merges,
            prefix: vocab.prefix,
            word_breaks: WordBreaks::of(vocab),
            drop_leading_space: vocab.drop_leading_space,
            nfc: vocab.nfc,
            fuse_unknown: vocab.fuse_unknown,
            pieces,
            words,
        })
    }

    /// `spm-bpe` (SentencePiece) or `bpe` (byte-level).
    pub fn kind(&self) -> &'static str {
        match self.alphabet {
            Alphabet::Metaspace => "spm-bpe",
            Alphabet::ByteLevel => "bpe",
        }
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Ids with a meaning of their own.
    pub fn special(&self) -> &Special {
        &self.special
    }

    /// Adds ids that end a generation, as a `generation_config.json` names them.
    ///
    /// # Errors
    /// [`TokenizerError::BadVocab`] for an id outside the vocabulary.
    pub fn with_end(mut self, ids: &[u32]) -> Result<Self, TokenizerError> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size()) {
            let reason = format!("id {id} is outside the vocabulary of {} tokens", self.vocab_size());
            return Err(TokenizerError::bad("end", reason));
        }
        let end = &mut self.special.end;
        end.extend_from_slice(ids);
        end.sort_unstable();
        end.dedup();
        Ok(self)
    }

    /// The type of a token.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.pieces.token_type(id)
    }

    /// The control or user-defined token that is spelled `text`.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.trie.exact(text.as_bytes())
    }

    /// Bytes of the longest [`Tokenizer::piece`]: a text of `n` bytes has at least `n / longest_piece` tokens.
    pub fn longest_piece(&self) -> usize {
        (0_u32..).map_while(|id| self.piece(id)).map(<[u8]>::len).max().unwrap_or(0)
    }

    /// The bytes that a token appends when it is decoded; none for control and unknown tokens.
    ///
    /// A SentencePiece token at the start of a text still has its space here.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        match self.token_type(id)? {
            TokenType::Control | TokenType::Unknown | TokenType::Unused => Some(&[]),
            TokenType::Normal | TokenType::UserDefined | TokenType::Byte => self.pieces.get(id),
        }
    }

    /// As [`Tokenizer::piece`], with the text of control and unknown tokens.
    pub fn text(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    /// The text of `ids`: broken UTF-8 and ids outside the vocabulary read U+FFFD, control tokens leave no trace.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, DecodeOptions::default())
    }

    /// As [`Tokenizer::decode`], with options.
    pub fn decode_with(&self, ids: &[u32], options: DecodeOptions) -> String {
        let mut decoder = self.decoder_with(options);
        let mut out = String::new();
        for &id in ids {
            decoder.push(id, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    /// Decodes ids as they come.
    pub fn decoder(&self) -> StreamDecoder<'_> {
        self.decoder_with(DecodeOptions::default())
    }

    /// As [`Tokenizer::decoder`], with options.
    pub fn decoder_with(&self, options: DecodeOptions) -> StreamDecoder<'_> {
        StreamDecoder::new(self, options)
    }

    fn drops_leading_space(&self) -> bool {
        self.drop_leading_space
    }

    /// The token of one byte.
    fn byte_id(&self, byte: u8) -> Option<u32> {
        Some(self.byte_ids[usize::from(byte)]).filter(|&id| id != NONE)
    }
}

impl WordBreaks {
    fn of(vocab: &Vocab<'_>) -> Self {
        if vocab.alphabet == Alphabet::ByteLevel {
            return Self::None;
        }
        if vocab.split_at_spaces {
            return Self::BeforeEach;
        }
        // A whole word that is a token must stay whole.
        if vocab.ignore_merges {
            return Self::None;
        }
        let mut sign = [0; 4];
        let sign = pieces::SPACE_SIGN.encode_utf8(&mut sign).as_bytes();
        let reaches_over = |text: &[u8]| {
            let mut rest = text;
            while let Some(after) = rest.strip_prefix(sign) {
                rest = after;
            }
            rest.windows(sign.len()).any(|window| window == sign)
        };
        let mut joinable = vocab.tokens.iter().zip(&vocab.types).filter(|(_, kind)| **kind != TokenType::Control);
        if joinable.any(|(text, _)| reaches_over(text)) { Self::None } else { Self::BeforeRuns }
    }
}
