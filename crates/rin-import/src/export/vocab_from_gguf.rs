//! The vocabulary of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

use super::spm;
use super::vocab_to_gguf::Probes;
use crate::Error;
use rin_engine::tokenizer::{Alphabet, Merging, SpacePrefix, SplitRule, TokenType, Tokenizer, Vocab};
use serde_json::{Map, Value, json};

/// SentencePiece's sign for a space.
const SIGN: &str = "\u{2581}";

fn cannot(what: impl Into<String>) -> Error {
    Error::Tokenizer { target: "tokenizer.json", what: what.into() }
}

/// Both files; `tokenizer` is made of `vocab`, `ctx` is the longest text in tokens.
pub(super) fn translate(
    vocab: &Vocab<'_>,
    tokenizer: &Tokenizer,
    ctx: usize,
    chat_template: Option<&str>,
) -> Result<(Value, Value), Error> {
    let texts = texts(vocab)?;
    let (normalizer, pre_tokenizer, decoder) = match vocab.alphabet {
        Alphabet::ByteLevel => byte_level(vocab)?,
        Alphabet::Metaspace => metaspace(vocab)?,
    };
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(vocab, &texts),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(tokenizer, &texts),
        "decoder": decoder,
        "model": model(vocab, &texts)?,
    });
    let settings = settings(tokenizer, &texts, ctx, chat_template);
    let read = Tokenizer::from_hf_json(&serde_json::to_vec(&json)?, Some(&serde_json::to_vec(&settings)?))
        .map_err(|error| cannot(error.to_string()))?;
    let (from, to) = (tokenizer.special(), read.special());
    if (from.bos, from.eos, from.add_bos, from.add_eos) != (to.bos, to.eos, to.add_bos, to.add_eos) {
        return Err(cannot("its special tokens would get other ids"));
    }
    Probes::of(vocab).compare(tokenizer, &read).map_err(cannot)?;
    Ok((json, settings))
}

/// The text of each token; none for holes in the numbering.
fn texts<'v>(vocab: &'v Vocab<'_>) -> Result<Vec<Option<&'v str>>, Error> {
    let mut first = std::collections::HashMap::new();
    let text = |(id, (text, kind)): (usize, (&'v std::borrow::Cow<'_, [u8]>, &TokenType))| {
        if text.is_empty() && *kind == TokenType::Unused {
            return Ok(None);
        }
        let text = std::str::from_utf8(text).map_err(|_| cannot(format!("token {id} is no UTF-8")))?;
        match first.insert(text, id) {
            Some(other) => Err(cannot(format!("the tokens {other} and {id} have the same text {text:?}"))),
            None => Ok(Some(text)),
        }
    };
    vocab.tokens.iter().zip(&vocab.types).enumerate().map(text).collect()
}

/// Normalizer, pre-tokenizer and decoder.
type Parts = (Value, Value, Value);

fn byte_level(vocab: &Vocab<'_>) -> Result<Parts, Error> {
    if vocab.types.contains(&TokenType::Byte) {
        return Err(cannot("it is byte-level and has byte tokens"));
    }
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let sequence =
        |first: Value, use_regex: bool| json!({ "type": "Sequence", "pretokenizers": [first, bytes(use_regex)] });
    let pre_tokenizer = match (vocab.rule, vocab.rule.published_pattern()) {
        (SplitRule::Whole, _) => bytes(false),
        (SplitRule::Gpt2, _) => bytes(true),
        (SplitRule::DigitsGpt2, _) => sequence(json!({ "type": "Digits", "individual_digits": true }), true),
        (_, Some(pattern)) => {
            let split = json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false
            });
            sequence(split, false)
        }
        (rule, None) => return Err(cannot(format!("its way to cut words ({rule:?}) has no pattern of its own"))),
    };
    Ok((Value::Null, pre_tokenizer, bytes(true)))
}

fn metaspace(vocab: &Vocab<'_>) -> Result<Parts, Error> {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SIGN });
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SIGN }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    let normalizer = match vocab.prefix {
        SpacePrefix::Always => {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
            json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SIGN }, replace] })
        }
        SpacePrefix::Never => replace,
        other => return Err(cannot(format!("it puts a space before a text in its own way ({other:?})"))),
    };
    Ok((normalizer, Value::Null, json!({ "type": "Sequence", "decoders": decoders })))
}

/// The tokens that are looked for in the text before it is split.
fn added(vocab: &Vocab<'_>, texts: &[Option<&str>]) -> Vec<Value> {
    let entries = texts.iter().zip(&vocab.types).enumerate().filter_map(|(id, (text, kind))| {
        let special = match kind {
            TokenType::Control | TokenType::Unknown => true,
            TokenType::UserDefined => false,
            _ => return None,
        };
        Some(json!({
            "id": id, "content": (*text)?, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special
        }))
    });
    entries.collect()
}

/// What is put around a text.
fn post_processor(tokenizer: &Tokenizer, texts: &[Option<&str>]) -> Value {
    let special = tokenizer.special();
    let text = |id: u32| texts.get(usize::try_from(id).ok()?).copied().flatten().map(|text| (id, text));
    let first = special.bos.filter(|_| special.add_bos).and_then(text);
    let last = special.eos.filter(|_| special.add_eos).and_then(text);
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let around = |sequence: &str, kind: u8| {
        let part = |token: Option<(u32, &str)>| {
            token.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": kind } }))
        };
        let middle = json!({ "Sequence": { "id": sequence, "type_id": kind } });
        [part(first), Some(middle), part(last)].into_iter().flatten().collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [first, last]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

fn model(vocab: &Vocab<'_>, texts: &[Option<&str>]) -> Result<Value, Error> {
    let ranks = match &vocab.merging {
        Merging::Scores(scores) => spm::merges(vocab, scores).map_err(cannot)?,
        Merging::Ranks(merges) => {
            let text = |part| std::str::from_utf8(part).map_err(|_| cannot("a merge is no UTF-8"));
            merges.iter().map(|(left, right)| Ok((text(left)?, text(right)?))).collect::<Result<Vec<_>, Error>>()?
        }
    };
    // Readers before 2024 know the first form alone, and it cannot hold a space.
    let spaced = ranks.iter().any(|(left, right)| left.contains(' ') || right.contains(' '));
    let merge =
        |(left, right): &(&str, &str)| if spaced { json!([left, right]) } else { json!(format!("{left} {right}")) };
    let vocabulary: Map<String, Value> =
        texts.iter().enumerate().filter_map(|(id, text)| Some(((*text)?.to_owned(), json!(id)))).collect();
    let unknown = vocab.unk.and_then(|id| texts.get(usize::try_from(id).ok()?).copied().flatten());
    Ok(json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": vocab.fuse_unknown,
        "byte_fallback": vocab.types.contains(&TokenType::Byte),
        "ignore_merges": vocab.ignore_merges,
        "vocab": vocabulary,
        "merges": ranks.iter().map(merge).collect::<Vec<_>>(),
    }))
}

/// `tokenizer_config.json`. The class is the one that takes `tokenizer.json` as it stands.
fn settings(tokenizer: &Tokenizer, texts: &[Option<&str>], ctx: usize, chat_template: Option<&str>) -> Value {
    let special = tokenizer.special();
    let text = |id: Option<u32>| id.and_then(|id| texts.get(usize::try_from(id).ok()?).copied().flatten());
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": ctx,
        "clean_up_tokenization_spaces": false,
        "add_bos_token": special.add_bos,
        "add_eos_token": special.add_eos,
        "bos_token": text(special.bos),
        "eos_token": text(special.eos),
        "unk_token": text(special.unk),
        "pad_token": text(special.pad),
    });
    if let (Value::Object(settings), Some(template)) = (&mut settings, chat_template) {
        settings.insert("chat_template".to_owned(), json!(template));
    }
    settings
}
