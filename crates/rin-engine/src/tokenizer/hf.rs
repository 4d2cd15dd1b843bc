//! Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::Tokenizer;
use super::error::TokenizerError;
use super::hf_components::{Pipeline, Template, unsupported};
use super::pieces::byte_of;
use super::special::Strip;
use super::vocab::{Alphabet, Merging, TokenType, Vocab};

pub(super) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// Most ids without a token.
const MAX_HOLES: usize = 1 << 16;
/// Names that the beginning of a text goes by, where no file says.
const BOS_NAMES: &[&str] = &["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>"];
/// Names that the end of a text goes by, where no file says.
const EOS_NAMES: &[&str] = &["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<|im_end|>"];

#[derive(Debug, Deserialize)]
struct File<'a> {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[expect(clippy::struct_excessive_bools, reason = "the fields of the file")]
#[derive(Debug, Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Debug, Deserialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow, default)]
    vocab: Entries<'a>,
    #[serde(borrow, default)]
    merges: Vec<Merge<'a>>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The vocabulary as pairs. The array of a Unigram model reads as empty: its kind is refused later, by name.
#[derive(Debug, Default)]
struct Entries<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map from token to id")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(text), id)) = map.next_entry()? {
                    entries.push((text, id));
                }
                Ok(Entries(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entries::default())
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// `"a b"` or `["a", "b"]`.
#[derive(Debug)]
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        fn cut<E: serde::de::Error>(merge: &str) -> Result<(&str, &str), E> {
            let parts = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
            parts.ok_or_else(|| E::custom(format!("merge {merge:?} is not two tokens with a space between")))
        }
        impl<'de> Visitor<'de> for Read {
            type Value = Merge<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a merge: \"a b\" or [\"a\", \"b\"]")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, merge: &'de str) -> Result<Self::Value, E> {
                cut(merge).map(|(left, right)| Merge(left.into(), right.into()))
            }
            fn visit_str<E: serde::de::Error>(self, merge: &str) -> Result<Self::Value, E> {
                cut(merge).map(|(left, right)| Merge(left.to_owned().into(), right.to_owned().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let (Some(Text(left)), Some(Text(right))) = (sequence.next_element()?, sequence.next_element()?) else {
                    return Err(A::Error::custom("a merge of fewer than two tokens"));
                };
                if sequence.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::custom("a merge of more than two tokens"));
                }
                Ok(Merge(left, right))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, and `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// [`TokenizerError::UnsupportedComponent`] names a part of the file whose effect is not implemented;
    /// [`TokenizerError::BadJson`] and [`TokenizerError::BadVocab`] say where the file is broken.
    pub fn from_hf_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        read(tokenizer, config, |vocab| Self::from_vocab(&vocab))
    }
}

/// Hands the vocabulary of the two files to `take`; it borrows from what is parsed here.
pub(super) fn read<T>(
    tokenizer: &[u8],
    config: Option<&[u8]>,
    take: impl FnOnce(Vocab<'_>) -> Result<T, TokenizerError>,
) -> Result<T, TokenizerError> {
    let file: File<'_> =
        serde_json::from_slice(tokenizer).map_err(|source| TokenizerError::BadJson { file: TOKENIZER, source })?;
    let config: Value = match config {
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|source| TokenizerError::BadJson { file: CONFIG, source })?
        }
        None => Value::Null,
    };
    take(vocab(&file, &config)?)
}

/// Puts the vocabulary together from all sections of the file.
fn vocab<'f>(file: &'f File<'_>, config: &Value) -> Result<Vocab<'f>, TokenizerError> {
    let model = &file.model;
    check_model(model)?;
    let pipeline = Pipeline::read(&file.normalizer, &file.pre_tokenizer, &file.decoder)?;
    check_added(file, &pipeline)?;
    let tokens = tokens(file)?;
    let merges = model.merges.iter().map(|Merge(left, right)| (bytes(left), bytes(right))).collect();
    let types = types(file, &tokens, pipeline.alphabet);
    let mut vocab = Vocab::new(pipeline.alphabet, Merging::Ranks(merges), pipeline.rule, tokens, types);
    vocab.strips = strips(&file.added_tokens);
    vocab.ignore_merges = model.ignore_merges;
    vocab.prefix = pipeline.prefix;
    vocab.split_at_spaces = pipeline.split_at_spaces;
    vocab.drop_leading_space = pipeline.drop_leading_space;
    vocab.nfc = pipeline.nfc;
    vocab.fuse_unknown = model.fuse_unk;
    let template = Template::read(&file.post_processor)?;
    set_special(&mut vocab, &template, config, file);
    Ok(vocab)
}

fn check_model(model: &Model<'_>) -> Result<(), TokenizerError> {
    match model.kind.as_deref() {
        Some("BPE") => {}
        None if !model.merges.is_empty() => {}
        kind => {
            let name = kind.unwrap_or("none").to_owned();
            return Err(TokenizerError::UnsupportedModel { name, known: "BPE" });
        }
    }
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (name, affix) in affixes {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(unsupported("model", name));
        }
    }
    Ok(())
}

fn check_added(file: &File<'_>, pipeline: &Pipeline) -> Result<(), TokenizerError> {
    for added in &file.added_tokens {
        if added.single_word {
            return Err(unsupported("added_tokens", format!("single_word of {:?}", added.content)));
        }
        // Such a token is looked for in the normalized text, and would have to be normalized itself.
        if added.normalized && pipeline.normalizer_changes(&added.content) {
            return Err(unsupported("added_tokens", format!("normalized of {:?}", added.content)));
        }
    }
    Ok(())
}

fn bytes(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

/// The text of each id; empty in the holes of the numbering.
fn tokens<'f>(file: &'f File<'_>) -> Result<Vec<Cow<'f, [u8]>>, TokenizerError> {
    let (mut count, mut n_entries) = (0, 0_usize);
    for (_, id) in entries(file) {
        count = count.max(id as usize + 1);
        n_entries += 1;
    }
    check_holes(count, n_entries)?;
    let mut tokens = vec![bytes(""); count];
    let mut taken = vec![false; count];
    for (text, id) in entries(file) {
        let (slot, taken) = (&mut tokens[id as usize], &mut taken[id as usize]);
        if *taken && **slot != *text.as_bytes() {
            let other = String::from_utf8_lossy(slot);
            return Err(TokenizerError::bad(format!("token {id}"), format!("is both {other:?} and {text:?}")));
        }
        (*slot, *taken) = (bytes(text), true);
    }
    Ok(tokens)
}

/// Holds the number of ids against that of the tokens.
pub(super) fn check_holes(count: usize, n_entries: usize) -> Result<(), TokenizerError> {
    if count > n_entries.saturating_add(MAX_HOLES) {
        let reason = format!("{n_entries} tokens are numbered up to {}", count - 1);
        return Err(TokenizerError::bad("vocab", reason));
    }
    Ok(())
}

/// The tokens of the vocabulary, then the added ones, each with its id.
fn entries<'f>(file: &'f File<'_>) -> impl DoubleEndedIterator<Item = (&'f str, u32)> {
    let model = file.model.vocab.0.iter().map(|(text, id)| (&**text, *id));
    model.chain(file.added_tokens.iter().map(|added| (&*added.content, added.id)))
}

fn types(file: &File<'_>, tokens: &[Cow<'_, [u8]>], alphabet: Alphabet) -> Vec<TokenType> {
    let has_bytes = alphabet == Alphabet::Metaspace && file.model.byte_fallback;
    let kind = |text: &[u8]| match text {
        b"" => TokenType::Unused,
        text if has_bytes && byte_of(text).is_some() => TokenType::Byte,
        _ => TokenType::Normal,
    };
    let mut types: Vec<_> = tokens.iter().map(|text| kind(text)).collect();
    for added in &file.added_tokens {
        types[added.id as usize] = if added.special { TokenType::Control } else { TokenType::UserDefined };
    }
    if let Some(unknown) = &file.model.unk_token
        && let Some(id) = tokens.iter().position(|text| **text == *unknown.as_bytes())
    {
        types[id] = TokenType::Unknown;
    }
    types
}

fn strips(added: &[Added]) -> Vec<(u32, Strip)> {
    let strips = added.iter().map(|added| (added.id, Strip { left: added.lstrip, right: added.rstrip }));
    strips.filter(|(_, strip)| *strip != Strip::default()).collect()
}

/// Reads the special ids: the configuration first, then the template, then the usual names.
fn set_special(vocab: &mut Vocab<'_>, template: &Template, config: &Value, file: &File<'_>) {
    // Of equal texts the last counts. A handful of look-ups is not worth a table.
    let id_of = |text: &str| entries(file).rev().find(|entry| entry.0 == text).map(|entry| entry.1);
    let configured = |key: &str| {
        let value = &config[key];
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        id_of(text)
    };
    let named = |names: &[&str]| names.iter().find_map(|name| id_of(name));
    vocab.bos = template.first.or_else(|| configured("bos_token")).or_else(|| named(BOS_NAMES));
    vocab.eos = configured("eos_token").or(template.last).or_else(|| named(EOS_NAMES));
    vocab.unk = file.model.unk_token.as_deref().and_then(id_of).or_else(|| configured("unk_token"));
    vocab.pad = configured("pad_token");
    vocab.add_bos = config["add_bos_token"].as_bool().unwrap_or(template.first.is_some()) && vocab.bos.is_some();
    vocab.add_eos = config["add_eos_token"].as_bool().unwrap_or(template.last.is_some()) && vocab.eos.is_some();
}
