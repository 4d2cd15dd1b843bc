//! The sections of `tokenizer.json` around the model: what they do to a text, or that this is not known.

use serde_json::Value;

use super::error::TokenizerError;
use super::pieces::SPACE_SIGN;
use super::split::SplitRule;
use super::vocab::{Alphabet, SpacePrefix};

/// SentencePiece's sign for a space, as the file spells it.
const SIGN: &str = "\u{2581}";
const _: () = assert!(SPACE_SIGN as u32 == 0x2581);

/// A [`TokenizerError::UnsupportedComponent`].
pub(super) fn unsupported(component: &'static str, name: impl Into<String>) -> TokenizerError {
    TokenizerError::UnsupportedComponent { component, name: name.into() }
}

/// The components of a section, sequences taken apart, each with its type.
fn components<'v>(section: &'v Value, list: &str) -> Vec<(&'v str, &'v Value)> {
    let mut found = Vec::new();
    let mut waiting = vec![section];
    while let Some(component) = waiting.pop() {
        match component["type"].as_str() {
            Some("Sequence") => {
                let parts = component[list].as_array().map(Vec::as_slice).unwrap_or_default();
                waiting.extend(parts.iter().rev());
            }
            Some(kind) => found.push((kind, component)),
            None if component.is_null() => {}
            None => found.push(("(no type)", component)),
        }
    }
    found
}

/// A component with its fields, to name it in an error.
fn describe(component: &Value) -> String {
    let mut text = component.to_string();
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What happens to a text before its words are merged, and to pieces after they were looked up.
#[expect(clippy::struct_excessive_bools, reason = "independent effects of independent sections")]
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) alphabet: Alphabet,
    pub(super) rule: SplitRule,
    pub(super) prefix: SpacePrefix,
    pub(super) split_at_spaces: bool,
    pub(super) drop_leading_space: bool,
    /// Text is brought into Unicode's composed form first.
    pub(super) nfc: bool,
    /// The normalizer writes U+2581 for spaces.
    replaces_spaces: bool,
    /// The normalizer puts U+2581 before the text.
    prepends: bool,
}

impl Pipeline {
    /// Reads the three sections.
    pub(super) fn read(normalizer: &Value, pre_tokenizer: &Value, decoder: &Value) -> Result<Self, TokenizerError> {
        let mut pipeline = Self {
            alphabet: Alphabet::Metaspace,
            rule: SplitRule::Whole,
            prefix: SpacePrefix::Never,
            split_at_spaces: false,
            drop_leading_space: false,
            nfc: false,
            replaces_spaces: false,
            prepends: false,
        };
        pipeline.read_normalizer(normalizer)?;
        pipeline.read_pre_tokenizer(pre_tokenizer)?;
        pipeline.read_decoder(decoder)?;
        Ok(pipeline)
    }

    /// Whether the normalizer would change the text of an added token.
    pub(super) fn normalizer_changes(&self, text: &str) -> bool {
        self.prepends || (self.replaces_spaces && text.contains(' '))
    }

    fn read_normalizer(&mut self, section: &Value) -> Result<(), TokenizerError> {
        for (kind, component) in components(section, "normalizers") {
            match kind {
                "Prepend" if component["prepend"] == SIGN => self.prepends = true,
                "Replace" if component["pattern"]["String"] == " " && component["content"] == SIGN => {
                    self.replaces_spaces = true;
                }
                "NFC" => self.nfc = true,
                _ => return Err(unsupported("normalizer", describe(component))),
            }
        }
        if self.prepends {
            self.prefix = SpacePrefix::Always;
        }
        Ok(())
    }

    fn read_pre_tokenizer(&mut self, section: &Value) -> Result<(), TokenizerError> {
        let parts = components(section, "pretokenizers");
        let refuse = || Err(unsupported("pre_tokenizer", describe(section)));
        match parts.as_slice() {
            [] if self.replaces_spaces => {}
            [("Metaspace", part)] => return self.read_metaspace(part),
            // Gemma's; the normalizer has left no space to split at.
            [("Split", part)] if self.replaces_spaces && part["pattern"]["String"] == " " => {}
            [before @ .., ("ByteLevel", part)] if !self.replaces_spaces && !self.prepends => {
                self.alphabet = Alphabet::ByteLevel;
                let own_pattern = part["use_regex"].as_bool().unwrap_or(true);
                self.rule = match (before, own_pattern) {
                    ([], true) => SplitRule::Gpt2,
                    ([], false) => SplitRule::Whole,
                    ([("Digits", digits)], true) if digits["individual_digits"] == true => SplitRule::DigitsGpt2,
                    ([("Split", split)], false) => published_rule(split)?,
                    _ => return refuse(),
                };
                match (part["add_prefix_space"].as_bool().unwrap_or(true), before) {
                    (false, _) => {}
                    (true, []) => self.prefix = SpacePrefix::UnlessPresent,
                    // It would put a space before every part that was split off before.
                    (true, _) => return refuse(),
                }
            }
            _ => return refuse(),
        }
        Ok(())
    }

    fn read_metaspace(&mut self, part: &Value) -> Result<(), TokenizerError> {
        let refuse = || Err(unsupported("pre_tokenizer", describe(part)));
        if part["replacement"] != SIGN || self.prepends {
            return refuse();
        }
        let legacy = part["add_prefix_space"].as_bool().unwrap_or(true);
        let by_legacy = if legacy { "always" } else { "never" };
        self.prefix = match part["prepend_scheme"].as_str().unwrap_or(by_legacy) {
            "never" => SpacePrefix::Never,
            "first" => SpacePrefix::FirstUnlessPresent,
            "always" => SpacePrefix::UnlessPresent,
            _ => return refuse(),
        };
        self.split_at_spaces = part["split"].as_bool().unwrap_or(true);
        Ok(())
    }

    fn read_decoder(&mut self, section: &Value) -> Result<(), TokenizerError> {
        for (kind, component) in components(section, "decoders") {
            match (kind, self.alphabet) {
                ("ByteLevel", Alphabet::ByteLevel) | ("ByteFallback" | "Fuse", Alphabet::Metaspace) => {}
                ("Replace", Alphabet::Metaspace)
                    if component["pattern"]["String"] == SIGN && component["content"] == " " => {}
                ("Strip", Alphabet::Metaspace)
                    if component["content"] == " " && component["start"] == 1 && component["stop"] == 0 =>
                {
                    self.drop_leading_space = true;
                }
                ("Metaspace", Alphabet::Metaspace) if component["replacement"] == SIGN => {
                    self.drop_leading_space = component["prepend_scheme"] != "never"
                        && component["add_prefix_space"].as_bool().unwrap_or(true);
                }
                _ => return Err(unsupported("decoder", describe(component))),
            }
        }
        Ok(())
    }
}

/// The rule of a Split whose pattern is one of the published ones.
fn published_rule(split: &Value) -> Result<SplitRule, TokenizerError> {
    let pattern = split["pattern"]["Regex"].as_str().unwrap_or_default();
    let inverted = split["invert"].as_bool().unwrap_or(false);
    // The patterns match every character, so that removing what lies between the matches removes nothing.
    let keeps = matches!((split["behavior"].as_str(), inverted), (Some("Isolated"), _) | (Some("Removed"), true));
    SplitRule::from_pattern(pattern).filter(|_| keeps).ok_or_else(|| unsupported("pre_tokenizer", describe(split)))
}

/// What is put around a text.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// The token before the text.
    pub(super) first: Option<u32>,
    /// The token after the text.
    pub(super) last: Option<u32>,
}

impl Template {
    /// Reads the post-processor.
    pub(super) fn read(section: &Value) -> Result<Self, TokenizerError> {
        let mut template = Self::default();
        for (kind, component) in components(section, "processors") {
            match kind {
                // It moves offsets only.
                "ByteLevel" => {}
                "TemplateProcessing" => template = Self::read_single(component)?,
                _ => return Err(unsupported("post_processor", describe(component))),
            }
        }
        Ok(template)
    }

    fn read_single(component: &Value) -> Result<Self, TokenizerError> {
        let refuse = || unsupported("post_processor", describe(&component["single"]));
        let parts = component["single"].as_array().ok_or_else(refuse)?;
        let text = parts.iter().position(|part| !part["Sequence"].is_null()).ok_or_else(refuse)?;
        let one = |parts: &[Value]| match parts {
            [] => Ok(None),
            [part] => {
                let name = part["SpecialToken"]["id"].as_str().ok_or_else(refuse)?;
                let ids = component["special_tokens"][name]["ids"].as_array().map(Vec::as_slice);
                let Some([id]) = ids else { return Err(refuse()) };
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(refuse)?;
                Ok(Some(id))
            }
            _ => Err(refuse()),
        };
        Ok(Self { first: one(&parts[..text])?, last: one(&parts[text + 1..])? })
    }
}
