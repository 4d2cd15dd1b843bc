//! A `tokenizer.json` in the keys of GGUF.

use super::gguf::Keys;
use super::spm;
use crate::Error;
use rin_engine::tokenizer::{
    Alphabet, EncodeOptions, MergePair, Merging, SpacePrefix, Special, SplitRule, TokenType, Tokenizer, Vocab,
};
use rin_model::{Config, GgufVocab};
use std::collections::HashSet;

/// SentencePiece's sign for a space.
const SIGN: &str = "\u{2581}";

fn cannot(what: impl Into<String>) -> Error {
    Error::Tokenizer { target: "GGUF", what: what.into() }
}

/// Writes the keys; `tokenizer` is made of `vocab`, `settings` are a `tokenizer_config.json`, `network` names the special
/// tokens that those do not. Returns what the keys do not say.
pub(super) fn write(
    vocab: &Vocab<'_>,
    tokenizer: &Tokenizer,
    settings: Option<&[u8]>,
    network: &Config,
    keys: &mut Keys,
) -> Result<Vec<String>, Error> {
    let mut own = Keys::default();
    let mut notes = Vec::new();
    model(vocab, &mut own)?;
    texts(vocab, network.vocab, &mut own);
    match (&vocab.merging, vocab.alphabet) {
        (Merging::Ranks(merges), Alphabet::ByteLevel) => own.texts(
            "tokenizer.ggml.merges",
            merges.iter().enumerate().map(joined).collect::<Result<Vec<_>, _>>()?.iter().map(Vec::as_slice),
        ),
        (Merging::Ranks(merges), Alphabet::Metaspace) => {
            let mut scores = spm::scores(vocab, merges).map_err(cannot)?;
            scores.resize(scores.len().max(network.vocab), 0.0);
            own.f32s("tokenizer.ggml.scores", &scores);
        }
        (Merging::Scores(_), _) => return Err(cannot("its merges have no ranks")),
    }
    let mut ids = tokenizer.special().clone();
    ids.bos = ids.bos.or(network.bos);
    ids.eos = ids.eos.or(network.eos.first().copied());
    special(&ids, &mut own, &mut notes);
    if ids.eos.is_none() {
        let default = if vocab.alphabet == Alphabet::ByteLevel { 11 } else { 2 };
        notes.push(format!("the source names no end of a text, for which llama.cpp then takes token {default}"));
    }
    if let Some(template) = settings.and_then(chat_template) {
        own.text("tokenizer.chat_template", &template);
    }
    let expected = without_what_gguf_leaves_out(vocab, &mut notes);
    let header = own.header(0);
    let written = GgufVocab::parse(&header)?;
    let written = Tokenizer::from_gguf(&written).map_err(|error| cannot(error.to_string()))?;
    let expected = Tokenizer::from_vocab(&expected).map_err(|error| cannot(error.to_string()))?;
    Probes::of(vocab).compare(&expected, &written).map_err(cannot)?;
    keys.take(&own);
    Ok(notes)
}

/// The model, the pre-tokenizer and the space at the start.
fn model(vocab: &Vocab<'_>, keys: &mut Keys) -> Result<(), Error> {
    match vocab.alphabet {
        Alphabet::ByteLevel => {
            if vocab.prefix != SpacePrefix::Never {
                return Err(cannot("it puts a space before a text, which byte-level vocabularies there do not"));
            }
            let rule = if vocab.rule == SplitRule::Whole && is_within_characters(vocab) {
                // No merge reaches over a character, and no rule cuts one: they all give the same.
                SplitRule::Gpt2
            } else {
                vocab.rule
            };
            let name = rule.gguf_name(vocab.ignore_merges).ok_or_else(|| {
                let merged = if vocab.ignore_merges { "whole words that are tokens" } else { "every word merged" };
                cannot(format!("its way to cut words ({:?}, {merged}) has no name there", vocab.rule))
            })?;
            keys.text("tokenizer.ggml.model", "gpt2");
            keys.text("tokenizer.ggml.pre", name);
        }
        Alphabet::Metaspace => {
            let prefix = match vocab.prefix {
                SpacePrefix::Always => true,
                SpacePrefix::Never => false,
                other => {
                    let what = format!("it puts a space before a text in its own way ({other:?}), not always or never");
                    return Err(cannot(what));
                }
            };
            if vocab.drop_leading_space != prefix {
                return Err(cannot(
                    "it adds a space before a text that decoding does not drop, or the other way round",
                ));
            }
            if vocab.ignore_merges {
                return Err(cannot("words that are tokens are not merged"));
            }
            if vocab.split_at_spaces && has_inner_sign(vocab) {
                return Err(cannot("it cuts the text before every space, and has tokens with a space inside"));
            }
            keys.text("tokenizer.ggml.model", "llama");
            keys.text("tokenizer.ggml.pre", "default");
            keys.bool("tokenizer.ggml.add_space_prefix", prefix);
        }
    }
    Ok(())
}

/// Whether no merge of a byte-level vocabulary makes more than a part of one character.
fn is_within_characters(vocab: &Vocab<'_>) -> bool {
    let Merging::Ranks(merges) = &vocab.merging else { return false };
    // What stands in the byte alphabet for 0x80 to 0xBF, the bytes with which a character goes on.
    let goes_on = |c: char| matches!(c, '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{bf}' | '\u{122}'..='\u{143}');
    let one = |(left, right): &MergePair<'_>| {
        let (Ok(left), Ok(right)) = (std::str::from_utf8(left), std::str::from_utf8(right)) else { return false };
        left.chars().skip(1).chain(right.chars()).all(goes_on)
    };
    merges.iter().all(one)
}

fn has_inner_sign(vocab: &Vocab<'_>) -> bool {
    let inner = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| text.rfind(SIGN).is_some_and(|at| at > 0));
    vocab.tokens.iter().zip(&vocab.types).any(|(text, kind)| *kind == TokenType::Normal && inner(text))
}

/// Texts and types, with a name for each hole and for each row of the embedding beyond the last token.
fn texts(vocab: &Vocab<'_>, rows: usize, keys: &mut Keys) {
    let count = vocab.tokens.len().max(rows);
    let text = |id: usize| match vocab.tokens.get(id) {
        Some(text) if !text.is_empty() => text.to_vec(),
        _ => format!("[PAD{id}]").into_bytes(),
    };
    let kind = |id: usize| match vocab.tokens.get(id).zip(vocab.types.get(id)) {
        Some((text, kind)) if !text.is_empty() => *kind,
        _ => TokenType::Unused,
    };
    let texts: Vec<Vec<u8>> = (0..count).map(text).collect();
    let types: Vec<i32> = (0..count).map(|id| i32::from(kind(id) as u8)).collect();
    keys.texts("tokenizer.ggml.tokens", texts.iter().map(Vec::as_slice));
    keys.i32s("tokenizer.ggml.token_type", &types);
}

/// A merge as GGUF spells it: a space between its parts.
fn joined((rank, (left, right)): (usize, &MergePair<'_>)) -> Result<Vec<u8>, Error> {
    if left.contains(&b' ') || right.contains(&b' ') {
        return Err(cannot(format!("merge {rank} has a space within a part")));
    }
    Ok([left, &b" "[..], right].concat())
}

/// The special ids, and what is put around a text.
fn special(special: &Special, keys: &mut Keys, notes: &mut Vec<String>) {
    let eot = special.eot.filter(|&id| Some(id) != special.eos);
    // By name the reader finds these ends itself; one more has a key of its own.
    let named = [special.eos, eot];
    let mut others = special.end.iter().copied().filter(|&id| !named.contains(&Some(id)));
    let ids = [
        ("bos", special.bos),
        ("eos", special.eos),
        ("eot", eot),
        ("eom", others.next()),
        ("unknown", special.unk),
        ("padding", special.pad),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            keys.uint(&format!("tokenizer.ggml.{name}_token_id"), id.into());
        }
    }
    let left: Vec<String> = others.map(|id| id.to_string()).collect();
    if !left.is_empty() {
        notes.push(format!("no key for these ends of generation: token {}", left.join(", ")));
    }
    keys.bool("tokenizer.ggml.add_bos_token", special.add_bos);
    keys.bool("tokenizer.ggml.add_eos_token", special.add_eos);
}

fn chat_template(config: &[u8]) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    config.get("chat_template")?.as_str().map(str::to_owned)
}

/// The vocabulary less what no key says and ordinary text does not meet; each of them is noted.
fn without_what_gguf_leaves_out<'v>(vocab: &Vocab<'v>, notes: &mut Vec<String>) -> Vocab<'v> {
    let mut expected = vocab.clone();
    if std::mem::take(&mut expected.nfc) {
        notes.push("no key for the composed form (NFC) that the source brings texts into first".to_owned());
    }
    if !std::mem::take(&mut expected.strips).is_empty() {
        notes.push("no key for special tokens that take the spaces around them".to_owned());
    }
    if !std::mem::replace(&mut expected.fuse_unknown, true) && expected.unk.is_some() {
        let what =
            "no key for unknown characters side by side: here they become one unknown token, llama.cpp drops them";
        notes.push(what.to_owned());
    }
    expected
}

/// Most bytes that are encoded to compare two tokenizers.
const MAX_PROBED: usize = 4 << 20;
/// Step between the tokens of a pair; a prime, so that it meets all of them.
const STEP: usize = 7919;

/// Texts on which a translated tokenizer is held against its source: the text of every token, of tokens side by side,
/// and repetitions of tokens that repeat a shorter one.
pub(super) struct Probes {
    texts: Vec<String>,
}

impl Probes {
    pub(super) fn of(vocab: &Vocab<'_>) -> Self {
        let plain = |(text, kind): (&std::borrow::Cow<'_, [u8]>, &TokenType)| {
            let text = std::str::from_utf8(text).ok().filter(|_| *kind == TokenType::Normal)?;
            Some(match vocab.alphabet {
                Alphabet::Metaspace => text.replace(SIGN, " "),
                // The alphabet's sign for a space; other bytes that are not printable are rare in words.
                Alphabet::ByteLevel => text.replace('\u{120}', " "),
            })
        };
        let tokens: Vec<String> = vocab.tokens.iter().zip(&vocab.types).filter_map(plain).collect();
        let mut texts = vec![String::new(), " ".to_owned(), "  a  b\n\n c, 2024!\t".to_owned()];
        for (i, text) in tokens.iter().enumerate() {
            let other = i.saturating_mul(STEP).checked_rem(tokens.len()).and_then(|at| tokens.get(at));
            texts.push(format!("{text}{}", other.map_or("", String::as_str)));
            texts.push(text.clone());
            if let Some(unit) = repeated(text) {
                let times = text.len().checked_div(unit.len()).unwrap_or(1).saturating_mul(4);
                texts.extend([2, 3].map(|more| unit.repeat(times.saturating_add(more))));
            }
        }
        let mut seen = HashSet::new();
        texts.retain(|text| seen.insert(text.clone()));
        Self { texts }
    }

    /// The error names a text that the two encode differently.
    pub(super) fn compare(&self, source: &Tokenizer, written: &Tokenizer) -> Result<(), String> {
        let mut probed = 0_usize;
        for text in &self.texts {
            probed = probed.saturating_add(text.len());
            if probed > MAX_PROBED {
                return Ok(());
            }
            let ids = |tokenizer: &Tokenizer| {
                let options = EncodeOptions { add_special: true, parse_special: false };
                tokenizer.encode(text, options).map_err(|error| error.to_string())
            };
            if ids(source) != ids(written) {
                return Err(format!("{text:?} would get other ids"));
            }
        }
        Ok(())
    }
}

/// The shortest text that `text` repeats, if it does.
fn repeated(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    // Knuth, Morris and Pratt: the longest end of each beginning that is a beginning too.
    let mut borders: Vec<usize> = vec![0];
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        let mut border = borders.get(at.saturating_sub(1)).copied().unwrap_or(0);
        while border > 0 && bytes.get(border) != Some(byte) {
            border = borders.get(border.saturating_sub(1)).copied().unwrap_or(0);
        }
        borders.push(if bytes.get(border) == Some(byte) { border.saturating_add(1) } else { 0 });
    }
    let period = bytes.len().saturating_sub(*borders.last()?);
    text.get(..period).filter(|_| period > 0 && period < bytes.len() && bytes.len().is_multiple_of(period))
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn repetitions_are_found() {
        for (text, unit) in [("aa", "a"), ("ababab", "ab"), ("  ", " "), ("éé", "é"), ("aabaab", "aab")] {
            assert_eq!(repeated(text), Some(unit));
        }
        for text in ["", "a", "ab", "aba", "aab", "abcabcab"] {
            assert_eq!(repeated(text), None, "{text}");
        }
    }
}
