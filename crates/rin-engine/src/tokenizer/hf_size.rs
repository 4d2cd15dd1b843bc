//! The size of the vocabulary in a `tokenizer.json`, counted while it is read.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::byte_level::ByteAlphabet;
use super::error::TokenizerError;
use super::hf::{Added, TOKENIZER, Text, check_holes};
use super::hf_components::Pipeline;
use super::pieces::{byte_of, decode_piece};
use super::size::Sizes;
use super::special::TrieSize;
use super::vocab::{Alphabet, TokenType};

#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: ModelOutline,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(default)]
    vocab: Entries,
    #[serde(default)]
    merges: Merges,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// What the vocabulary comes to.
#[derive(Default)]
struct Entries {
    count: usize,
    /// The highest id and one.
    end: usize,
    /// Tokens that are spelled as a byte.
    bytes: usize,
    /// Bytes that the tokens stand for in either alphabet: the section that tells may come later.
    metaspace: usize,
    byte_level: usize,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (alphabet, mut piece) = (ByteAlphabet::new(), Vec::new());
                let mut length = |text: &str, of: Alphabet| {
                    piece.clear();
                    decode_piece(text.as_bytes(), TokenType::Normal, of, &alphabet, &mut piece);
                    piece.len()
                };
                let mut entries = Entries::default();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, u32>()? {
                    entries.count += 1;
                    entries.end = entries.end.max(id as usize + 1);
                    entries.bytes += usize::from(byte_of(text.as_bytes()).is_some());
                    entries.metaspace += length(&text, Alphabet::Metaspace);
                    entries.byte_level += length(&text, Alphabet::ByteLevel);
                }
                Ok(entries)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Entries, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entries::default())
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// How many merges there are.
#[derive(Default)]
struct Merges(usize);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Merges;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of merges")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Merges, A::Error> {
                let mut count = 0;
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Merges(count))
            }
        }
        deserializer.deserialize_seq(Read)
    }
}

/// Bytes of `<0x0A>`.
const SPELLED_BYTE: usize = 6;

/// A bound: a token of the vocabulary that is also an added one counts with both of its texts.
pub(super) fn sizes(tokenizer: &[u8]) -> Result<Sizes, TokenizerError> {
    let file: Outline =
        serde_json::from_slice(tokenizer).map_err(|source| TokenizerError::BadJson { file: TOKENIZER, source })?;
    let Outline { model, added_tokens: added, .. } = &file;
    let pipeline = Pipeline::read(&file.normalizer, &file.pre_tokenizer, &file.decoder)?;
    let vocab = &model.vocab;
    let added_words = added.iter().filter(|token| !token.special).count();
    let (vocab_bytes, words) = match pipeline.alphabet {
        Alphabet::Metaspace if model.byte_fallback => {
            (vocab.metaspace - vocab.bytes * (SPELLED_BYTE - 1), vocab.count - vocab.bytes + added_words)
        }
        Alphabet::Metaspace => (vocab.metaspace, vocab.count + added_words),
        Alphabet::ByteLevel => (vocab.byte_level, if model.ignore_merges { vocab.count } else { 0 }),
    };
    let texts = || added.iter().map(|token| token.content.as_bytes());
    let tokens = added.iter().map(|token| token.id as usize + 1).fold(vocab.end, usize::max);
    check_holes(tokens, vocab.count + added.len())?;
    let unknown = model.unk_token.as_deref().map(|text| Cow::Borrowed(text.as_bytes()));
    Ok(Sizes {
        tokens,
        piece_bytes: vocab_bytes + texts().map(<[u8]>::len).sum::<usize>(),
        words,
        scores: 0,
        merges: model.merges.0,
        trie: TrieSize::of(texts().chain(unknown.as_deref()).collect()),
    })
}
