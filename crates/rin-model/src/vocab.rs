//! Where the tokenizer of a model comes from.

use crate::error::{Error, fault};
use crate::gguf::{Gguf, Metadata};
use crate::value::{Element, List};

/// Longest text of one token, in bytes.
const MAX_TOKEN: usize = 1 << 16;
/// Token types are 1 to 6; 0 stands for "undefined".
const TOKEN_TYPES: std::ops::RangeInclusive<i32> = 0..=6;

/// A tokenizer's description, as its file holds it.
#[derive(Debug, Clone)]
pub enum TokenizerSource<'a> {
    /// Vocabulary within a GGUF file.
    Gguf(GgufVocab<'a>),
    /// `tokenizer.json`, and `tokenizer_config.json` where there is one.
    HuggingFace(&'a [u8], Option<&'a [u8]>),
}

/// The `tokenizer.*` keys of a GGUF file, with lengths and ids checked against each other. Lists stay in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufVocab<'a> {
    /// Algorithm: `"llama"` (SentencePiece), `"gpt2"` (byte-level BPE), `"bert"`, …
    pub model: &'a str,
    /// Name of the pre-tokenizer.
    pub pre: Option<&'a str>,
    /// Text of each token.
    pub tokens: List<'a, &'a [u8]>,
    /// Score of each token; empty where the file has none.
    pub scores: List<'a, f32>,
    /// Type of each token (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte); empty where none.
    pub types: List<'a, i32>,
    /// Merges by rank, the two parts separated by a space.
    pub merges: List<'a, &'a [u8]>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// All ids that end a generation: eos, eot, end of message, and the fill-in-the-middle separators.
    pub eog: Vec<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the text.
    pub add_space_prefix: Option<bool>,
    /// Jinja template of the chat format.
    pub chat_template: Option<&'a str>,
}

impl<'a> GgufVocab<'a> {
    /// Reads the vocabulary of a GGUF file, such as one without tensors.
    ///
    /// # Errors
    /// Whatever is wrong with the header; `MissingKey` without a vocabulary; `BadVocab` where it contradicts itself.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::from_metadata(&Gguf::parse_metadata(bytes)?)
    }

    pub(crate) fn from_metadata(metadata: &Metadata<'a>) -> Result<Self, Error> {
        let model = metadata.str("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let tokens = list(metadata, "tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let n = List::<&[u8]>::len(&tokens);
        if n == 0 {
            return Err(bad("tokenizer.ggml.tokens", "at least one token", "none"));
        }
        if let Some(longest) = tokens.iter().find(|token| token.len() > MAX_TOKEN) {
            let expected = format!("tokens of at most {MAX_TOKEN} bytes");
            return Err(bad("tokenizer.ggml.tokens", expected, format!("one of {}", longest.len())));
        }
        let id = |key: &str| token_id(metadata, key, n);
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let eot = id("tokenizer.ggml.eot_token_id")?;
        let mut eog: Vec<u32> = eos.into_iter().chain(eot).collect();
        for name in ["eom", "fim_pad", "fim_rep", "fim_sep"] {
            eog.extend(id(&format!("tokenizer.ggml.{name}_token_id"))?);
        }
        eog.sort_unstable();
        eog.dedup();
        Ok(Self {
            model,
            pre: metadata.str("tokenizer.ggml.pre")?,
            scores: scores(metadata, n)?,
            types: types(metadata, n)?,
            merges: list(metadata, "tokenizer.ggml.merges")?.unwrap_or_default(),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos,
            eot,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            eog,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: metadata.str("tokenizer.chat_template")?,
            tokens,
        })
    }
}

fn missing(key: &str) -> Error {
    Error::MissingKey(fault("metadata", key, "a vocabulary", "no such key"))
}

fn bad(key: &str, expected: impl Into<String>, found: impl std::fmt::Display) -> Error {
    Error::BadVocab(fault("metadata", key, expected, found))
}

/// A list that is as long as it says.
fn list<'a, T: Element<'a>>(metadata: &Metadata<'a>, key: &str) -> Result<Option<List<'a, T>>, Error> {
    let Some(array) = metadata.array(key)? else { return Ok(None) };
    let list = array.list(key)?;
    same_length(key, list.iter().count(), list.len())?;
    Ok(Some(list))
}

fn scores<'a>(metadata: &Metadata<'a>, n: usize) -> Result<List<'a, f32>, Error> {
    const KEY: &str = "tokenizer.ggml.scores";
    let Some(scores) = list::<f32>(metadata, KEY)? else { return Ok(List::default()) };
    same_length(KEY, scores.len(), n)?;
    match scores.iter().position(f32::is_nan) {
        Some(id) => Err(bad(KEY, "numbers", format!("NaN for token {id}"))),
        None => Ok(scores),
    }
}

fn types<'a>(metadata: &Metadata<'a>, n: usize) -> Result<List<'a, i32>, Error> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = list::<i32>(metadata, KEY)? else { return Ok(List::default()) };
    same_length(KEY, types.len(), n)?;
    match types.iter().find(|kind| !TOKEN_TYPES.contains(kind)) {
        Some(kind) => Err(bad(KEY, "types from 0 to 6", kind)),
        None => Ok(types),
    }
}

fn same_length(key: &str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(bad(key, format!("{expected} elements"), found))
}

/// An id below `n`. Converters write −1 for "none".
fn token_id(metadata: &Metadata<'_>, key: &str, n: usize) -> Result<Option<u32>, Error> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    if matches!(value, crate::Value::Int(-1)) || value.as_u64() == Some(u64::from(u32::MAX)) {
        return Ok(None);
    }
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    match id.filter(|&id| usize::try_from(id).is_ok_and(|id| id < n)) {
        Some(id) => Ok(Some(id)),
        None => Err(bad(key, format!("an id below {n}"), value)),
    }
}
