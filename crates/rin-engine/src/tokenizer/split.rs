//! Pre-tokenization: how a text is cut into words before byte-level merging.
//!
//! The published patterns end in `\s+(?!\S)|\s+`. The look-ahead only gives the last white-space character of a run
//! back to the word after it, so it is left out of the pattern here and done in code, which keeps the time linear.

use std::borrow::Cow;

use super::error::TokenizerError;
use super::pattern::Pattern;

/// GPT-2, also called ByteLevel.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// cl100k as Llama 3 has it: digits by three.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// As Llama 3, each digit alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// As Qwen2, with marks among the letters.
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// o200k: words also break where a lower-case letter meets an upper-case one.
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// Mistral's Tekken: as o200k without contractions, each digit alone.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// Every published pattern ends so; the first alternative is done in code.
const LOOK_AHEAD_TAIL: &str = r"|\s+(?!\S)|\s+";

/// How words are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitRule {
    /// The whole text is one word.
    Whole,
    /// The pattern of GPT-2.
    Gpt2,
    /// Every number character alone, then the pattern of GPT-2.
    DigitsGpt2,
    /// llama.cpp's `default`: punctuation runs, GPT-2, number runs, digits by three.
    Default,
    /// The pattern of Llama 3.
    Llama3,
    /// The pattern of Qwen2.
    Qwen2,
    /// The pattern of Qwen3.5.
    Qwen35,
    /// The pattern of GPT-4o.
    Gpt4o,
    /// The pattern of Mistral's Tekken.
    Tekken,
}

/// A pre-tokenizer of the key `tokenizer.ggml.pre`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pre {
    names: &'static [&'static str],
    pub(super) rule: SplitRule,
    /// A word that is a token as a whole is not merged.
    pub(super) ignore_merges: bool,
    /// A beginning-of-text token is put first where the file does not say.
    pub(super) add_bos: bool,
}

impl Pre {
    const fn new(names: &'static [&'static str], rule: SplitRule) -> Self {
        Self { names, rule, ignore_merges: false, add_bos: false }
    }

    /// Looks a name up.
    pub(super) fn find(name: &str) -> Result<Self, TokenizerError> {
        PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).copied().ok_or_else(|| {
            let known: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
            TokenizerError::UnknownPreTokenizer { name: name.to_owned(), known: known.join(", ") }
        })
    }
}

/// The one table of pre-tokenizer names.
const PRE_TOKENIZERS: &[Pre] = &[
    Pre::new(&["default"], SplitRule::Default),
    Pre::new(&["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"], SplitRule::Gpt2),
    Pre::new(
        &["starcoder", "refact", "smollm", "command-r", "codeshell", "exaone", "minerva-7b"],
        SplitRule::DigitsGpt2,
    ),
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        rule: SplitRule::Llama3,
        ignore_merges: true,
        add_bos: true,
    },
    Pre::new(&["dbrx", "smaug-bpe"], SplitRule::Llama3),
    Pre::new(&["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"], SplitRule::Qwen2),
    Pre::new(&["qwen35"], SplitRule::Qwen35),
    Pre::new(&["gpt-4o", "gpt4o", "llama4"], SplitRule::Gpt4o),
    Pre { names: &["tekken"], rule: SplitRule::Tekken, ignore_merges: true, add_bos: true },
];

impl SplitRule {
    /// The rule whose published pattern is exactly `pattern`.
    pub(super) fn from_pattern(pattern: &str) -> Option<Self> {
        let stem = Cow::from(pattern.strip_suffix(LOOK_AHEAD_TAIL)?);
        // The same set of contractions, as OpenAI writes it for cl100k and o200k.
        let stem = stem.replace("(?i:[sdmt]|ll|ve|re)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)");
        [Self::Gpt2, Self::Llama3, Self::Qwen2, Self::Qwen35, Self::Gpt4o, Self::Tekken]
            .into_iter()
            .find(|rule| rule.words().and_then(|words| words.strip_suffix(r"|\s+")) == Some(&stem))
    }

    /// The value of `tokenizer.ggml.pre` that stands for the rule, with words that are tokens merged or left whole.
    pub fn gguf_name(self, ignore_merges: bool) -> Option<&'static str> {
        let pre = PRE_TOKENIZERS.iter().find(|pre| pre.rule == self && pre.ignore_merges == ignore_merges)?;
        pre.names.first().copied()
    }

    /// The pattern as it is published, with its look-ahead; none for rules of more than one pass, or of none.
    pub fn published_pattern(self) -> Option<String> {
        let one_pass = self.isolated().0.is_empty() && self.isolated().1.is_empty();
        let stem = self.words().filter(|_| one_pass)?.strip_suffix(r"|\s+")?;
        Some(format!("{stem}{LOOK_AHEAD_TAIL}"))
    }

    /// The pattern of words.
    const fn words(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Gpt2 | Self::DigitsGpt2 | Self::Default => Some(GPT2),
            Self::Llama3 => Some(LLAMA3),
            Self::Qwen2 => Some(QWEN2),
            Self::Qwen35 => Some(QWEN35),
            Self::Gpt4o => Some(GPT4O),
            Self::Tekken => Some(TEKKEN),
        }
    }

    /// Patterns whose matches are cut out before and after the words are.
    const fn isolated(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::DigitsGpt2 => (&[r"\p{N}"], &[]),
            Self::Default => (&[r"[\p{P}$+<=>^~|]+"], &[r"\p{N}+", "[0-9]{3}"]),
            _ => (&[], &[]),
        }
    }
}

/// One pass over the text; a rule is a short list of them.
#[derive(Debug)]
enum Stage {
    /// A word at every position; `newlines` when runs that end in a newline are words of their own.
    Words { pattern: Pattern, newlines: bool },
    /// Matches are words, and so is what lies between them.
    Isolate(Pattern),
}

/// A compiled [`SplitRule`].
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<Stage>,
}

impl Splitter {
    /// Compiles a rule.
    pub(super) fn new(rule: SplitRule) -> Result<Self, TokenizerError> {
        let (before, after) = rule.isolated();
        let mut stages = Vec::new();
        for pattern in before {
            stages.push(Stage::Isolate(Pattern::new(pattern)?));
        }
        if let Some(words) = rule.words() {
            stages.push(Stage::Words { pattern: Pattern::new(words)?, newlines: words.contains(r"\s*[\r\n]+") });
        }
        for pattern in after {
            stages.push(Stage::Isolate(Pattern::new(pattern)?));
        }
        Ok(Self { stages })
    }

    /// Calls `emit` with each word of `text`, in order; together they are the text.
    pub(super) fn split(
        &self,
        text: &str,
        emit: &mut dyn FnMut(&str) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        run(&self.stages, text, emit)
    }
}

/// Runs the first stage and hands its words to the next; as deep as a rule has stages.
fn run(
    stages: &[Stage],
    text: &str,
    emit: &mut dyn FnMut(&str) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    let Some((stage, later)) = stages.split_first() else {
        return if text.is_empty() { Ok(()) } else { emit(text) };
    };
    match stage {
        Stage::Words { pattern, newlines } => pattern.with(|pattern| {
            let mut rest = text;
            while let Some(first) = rest.chars().next() {
                let matched = pattern.match_len(rest)?.unwrap_or(0).max(first.len_utf8());
                let len = give_back(&rest[..matched], matched == rest.len(), *newlines);
                run(later, &rest[..len], emit)?;
                rest = &rest[len..];
            }
            Ok(())
        }),
        Stage::Isolate(pattern) => pattern.with(|pattern| {
            let (mut done, mut at) = (0, 0);
            while let Some(next) = text[at..].chars().next() {
                let Some(len) = pattern.match_len(&text[at..])?.filter(|&len| len > 0) else {
                    at += next.len_utf8();
                    continue;
                };
                run(later, &text[done..at], emit)?;
                run(later, &text[at..at + len], emit)?;
                at += len;
                done = at;
            }
            run(later, &text[done..], emit)
        }),
    }
}

/// The length of a word after `\s+(?!\S)`: a run of white space before a word leaves it its last character.
///
/// Only the last alternative of a pattern ends in white space, or the one that ends in newlines.
fn give_back(word: &str, at_end: bool, newlines: bool) -> usize {
    let Some(last) = word.chars().next_back() else { return 0 };
    let by_white_space = last.is_whitespace() && !(newlines && matches!(last, '\r' | '\n'));
    let shorter = word.len() - last.len_utf8();
    if by_white_space && !at_end && shorter > 0 { shorter } else { word.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(rule: SplitRule, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        let splitter = Splitter::new(rule).unwrap();
        splitter
            .split(text, &mut |word| {
                out.push(word.to_owned());
                Ok(())
            })
            .unwrap();
        assert_eq!(out.concat(), text);
        out
    }

    #[test]
    fn white_space_before_a_word_leaves_one_character() {
        assert_eq!(words(SplitRule::Gpt2, "a   b"), ["a", "  ", " b"]);
        assert_eq!(words(SplitRule::Gpt2, "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(words(SplitRule::Gpt2, "a  "), ["a", "  "]);
        assert_eq!(words(SplitRule::Llama3, "a \n\n  b"), ["a", " \n\n", " ", " b"]);
        assert_eq!(words(SplitRule::Llama3, "\t\tx"), ["\t", "\tx"]);
        assert_eq!(words(SplitRule::Gpt2, "\u{3000}\u{3000}x"), ["\u{3000}", "\u{3000}", "x"]);
    }

    #[test]
    fn rules_differ_where_they_should() {
        assert_eq!(words(SplitRule::Gpt2, "I'll x12345"), ["I", "'ll", " x", "12345"]);
        assert_eq!(words(SplitRule::Llama3, "I'LL x12345"), ["I", "'LL", " x", "123", "45"]);
        assert_eq!(words(SplitRule::Qwen2, "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(words(SplitRule::Qwen2, "e\u{301}x 1"), ["e", "\u{301}x", " ", "1"]);
        assert_eq!(words(SplitRule::Qwen35, "e\u{301}x !\u{301}1"), ["e\u{301}x", " !", "\u{301}", "1"]);
        assert_eq!(words(SplitRule::DigitsGpt2, "a  12b"), ["a", "  ", "1", "2", "b"]);
        assert_eq!(words(SplitRule::Gpt4o, "HelloWorld's a/b//\n"), ["Hello", "World's", " a", "/b", "//\n"]);
        assert_eq!(words(SplitRule::Tekken, "it's"), ["it", "'s"]);
        assert_eq!(words(SplitRule::Default, "a, 12345!?"), ["a", ",", " ", "123", "45", "!?"]);
        assert_eq!(words(SplitRule::Whole, "a b"), ["a b"]);
    }

    #[test]
    fn published_patterns_are_recognised_by_their_text() {
        let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        assert_eq!(SplitRule::from_pattern(gpt2), Some(SplitRule::Gpt2));
        assert_eq!(SplitRule::from_pattern(&gpt2.replace("'d", "'e")), None);
        assert_eq!(SplitRule::from_pattern(r"\s+"), None);
        assert!(Pre::find("qwen2").is_ok_and(|pre| pre.rule == SplitRule::Qwen2));
        let rest = [SplitRule::Qwen35, SplitRule::Gpt4o, SplitRule::Tekken];
        for rule in [SplitRule::Gpt2, SplitRule::Llama3, SplitRule::Qwen2].into_iter().chain(rest) {
            assert_eq!(SplitRule::from_pattern(&rule.published_pattern().unwrap()), Some(rule));
        }
        assert_eq!(SplitRule::Whole.published_pattern(), None);
        assert_eq!(SplitRule::DigitsGpt2.published_pattern(), None);
        assert_eq!(SplitRule::Llama3.gguf_name(true), Some("llama-bpe"));
        assert_eq!(SplitRule::Llama3.gguf_name(false), Some("dbrx"));
        assert_eq!(SplitRule::Whole.gguf_name(false), None);
        let error = Pre::find("nonesuch").unwrap_err().to_string();
        assert!(error.contains("nonesuch") && error.contains("llama-bpe"), "{error}");
    }
}
