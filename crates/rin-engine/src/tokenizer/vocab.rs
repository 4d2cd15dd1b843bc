//! A vocabulary as the file formats give it, before it is checked.

use std::borrow::Cow;

use super::special::Strip;
use super::split::SplitRule;

/// How the text of a token stands for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// SentencePiece: U+2581 stands for a space, `<0x0A>` for a byte.
    Metaspace,
    /// GPT-2: every byte has a printable character.
    ByteLevel,
}

/// Which pairs merge first.
#[derive(Debug, Clone)]
pub enum Merging<'a> {
    /// The pair whose text is the token with the highest score; one score for each token.
    Scores(Vec<f32>),
    /// The pair that stands first in a list.
    Ranks(Vec<MergePair<'a>>),
}

/// The texts of two tokens that merge.
pub type MergePair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// What a token is for; the numbers are those of GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenType {
    /// Text.
    Normal = 1,
    /// Stands for text without a token.
    Unknown = 2,
    /// Has a meaning instead of a text, as the end of the text.
    Control = 3,
    /// Text that is never split or merged.
    UserDefined = 4,
    /// A hole in the numbering.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    /// The type of a GGUF number; 0 (undefined) reads as normal.
    pub fn from_gguf(number: i32) -> Option<Self> {
        Some(match number {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// When a space is put before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Never.
    Never,
    /// Before every stretch of text between special tokens.
    Always,
    /// As `Always`, where the stretch does not begin with a space.
    UnlessPresent,
    /// As `UnlessPresent`, at the very start of the input only.
    FirstUnlessPresent,
}

/// Everything that defines a tokenizer.
#[expect(clippy::struct_excessive_bools, reason = "independent properties of the file formats")]
#[derive(Debug, Clone)]
pub struct Vocab<'a> {
    /// How tokens stand for bytes.
    pub alphabet: Alphabet,
    /// Which pairs merge first.
    pub merging: Merging<'a>,
    /// Text of each token, by id.
    pub tokens: Vec<Cow<'a, [u8]>>,
    /// Type of each token.
    pub types: Vec<TokenType>,
    /// White space that special tokens take, by id; absent means none.
    pub strips: Vec<(u32, Strip)>,
    /// How a text is cut into words ([`Alphabet::ByteLevel`] only).
    pub rule: SplitRule,
    /// A word that is a token as a whole is not merged.
    pub ignore_merges: bool,
    /// When a space is put before a text.
    pub prefix: SpacePrefix,
    /// Every U+2581 begins a word of its own ([`Alphabet::Metaspace`] only).
    pub split_at_spaces: bool,
    /// Decoding drops one space at the start of the text.
    pub drop_leading_space: bool,
    /// Text is brought into Unicode's composed form (NFC) first.
    pub nfc: bool,
    /// Neighbouring characters without a token share one unknown token.
    pub fuse_unknown: bool,
    /// Beginning-of-text token.
    pub bos: Option<u32>,
    /// End-of-text token.
    pub eos: Option<u32>,
    /// End-of-turn token; found by name where absent.
    pub eot: Option<u32>,
    /// Unknown token.
    pub unk: Option<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// Further tokens that end a generation, besides those known by name.
    pub end: Vec<u32>,
    /// The beginning-of-text token is put before a text.
    pub add_bos: bool,
    /// The end-of-text token is put after a text.
    pub add_eos: bool,
}

impl<'a> Vocab<'a> {
    /// A vocabulary without special tokens and with nothing put before or after a text.
    pub fn new(
        alphabet: Alphabet,
        merging: Merging<'a>,
        rule: SplitRule,
        tokens: Vec<Cow<'a, [u8]>>,
        types: Vec<TokenType>,
    ) -> Self {
        Self {
            alphabet,
            merging,
            tokens,
            types,
            strips: Vec::new(),
            rule,
            ignore_merges: false,
            prefix: SpacePrefix::Never,
            split_at_spaces: false,
            drop_leading_space: false,
            nfc: false,
            fuse_unknown: true,
            bos: None,
            eos: None,
            eot: None,
            unk: None,
            pad: None,
            end: Vec::new(),
            add_bos: false,
            add_eos: false,
        }
    }

    /// The same vocabulary with texts of its own.
    pub fn into_owned(self) -> Vocab<'static> {
        let owned = |text: Cow<'_, [u8]>| Cow::Owned(text.into_owned());
        let merging = match self.merging {
            Merging::Scores(scores) => Merging::Scores(scores),
            Merging::Ranks(merges) => {
                Merging::Ranks(merges.into_iter().map(|(left, right)| (owned(left), owned(right))).collect())
            }
        };
        Vocab { merging, tokens: self.tokens.into_iter().map(owned).collect(), ..self }
    }
}

/// Ids with a meaning of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Special {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// All ids that end a generation, ascending.
    pub end: Vec<u32>,
    /// [`Special::bos`] is put before a text.
    pub add_bos: bool,
    /// [`Special::eos`] is put after a text.
    pub add_eos: bool,
}

/// Names of tokens that end a turn of a chat, the most specific first.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eot|>",
    "<turn|>",
    "<|end_of_turn|>",
    "<end_of_utterance>",
];

/// Further names of tokens after which nothing more is generated.
const END_OF_TEXT: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

impl Special {
    /// Reads the ids of a vocabulary and finds the ends of generation by name.
    pub(super) fn of(vocab: &Vocab<'_>) -> Self {
        let named = |names: &[&str]| -> Vec<(usize, u32)> {
            let tokens = (0_u32..).zip(vocab.tokens.iter().zip(&vocab.types));
            tokens
                .filter(|(_, (_, kind))| matches!(kind, TokenType::Control | TokenType::UserDefined))
                .filter_map(|(id, (text, _))| Some((names.iter().position(|name| name.as_bytes() == &**text)?, id)))
                .collect()
        };
        let turn = named(END_OF_TURN);
        let eot = vocab.eot.or_else(|| turn.iter().min().map(|&(_, id)| id));
        let mut end: Vec<u32> = turn.iter().chain(&named(END_OF_TEXT)).map(|&(_, id)| id).collect();
        end.extend(vocab.eos.into_iter().chain(eot).chain(vocab.end.iter().copied()));
        end.sort_unstable();
        end.dedup();
        Self {
            bos: vocab.bos,
            eos: vocab.eos,
            eot,
            unk: vocab.unk,
            pad: vocab.pad,
            end,
            add_bos: vocab.add_bos,
            add_eos: vocab.add_eos,
        }
    }
}
