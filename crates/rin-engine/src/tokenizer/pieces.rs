//! The checked vocabulary: what each token stands for, and the tables that merging looks pairs up in.

use std::borrow::Cow;
use std::collections::HashMap;

use super::byte_level::ByteAlphabet;
use super::error::TokenizerError;
use super::merge::{NONE, Pairs, index_u32};
use super::vocab::{Alphabet, MergePair, Merging, TokenType, Vocab};

/// Longest text of a token in bytes.
const MAX_TOKEN_BYTES: usize = 65_535;
/// Most tokens of a vocabulary.
const MAX_TOKENS: usize = 1 << 24;
/// SentencePiece's sign for a space.
pub(super) const SPACE_SIGN: char = '\u{2581}';

/// The bytes of all tokens, end to end.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// End of each token in `bytes`.
    ends: Vec<u32>,
}

impl Pieces {
    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize)
    }

    /// Works out what each token stands for.
    pub(super) fn new(vocab: &Vocab<'_>, alphabet: &ByteAlphabet) -> Result<Self, TokenizerError> {
        let mut pieces = Self::default();
        for (id, (text, kind)) in vocab.tokens.iter().zip(&vocab.types).enumerate() {
            match (kind, vocab.alphabet) {
                (TokenType::Byte, _) => {
                    let byte = byte_of(text).ok_or_else(|| {
                        TokenizerError::bad(format!("token {id}"), "a byte token is spelled <0x00> to <0xFF>")
                    })?;
                    pieces.bytes.push(byte);
                }
                (TokenType::Normal | TokenType::UserDefined, Alphabet::Metaspace) => {
                    unescape_into(text, &mut pieces.bytes);
                }
                (TokenType::Normal, Alphabet::ByteLevel) => alphabet.decode_into(text, &mut pieces.bytes),
                _ => pieces.bytes.extend_from_slice(text),
            }
            let end = u32::try_from(pieces.bytes.len())
                .map_err(|_| TokenizerError::bad(format!("token {id}"), "more than 4 GiB of token text"))?;
            pieces.ends.push(end);
        }
        Ok(pieces)
    }
}

/// The byte that `<0x0A>` spells.
pub(super) fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2 && !digits.starts_with('+'))?;
    u8::from_str_radix(digits, 16).ok()
}

/// Appends `text` with spaces for their sign.
fn unescape_into(text: &[u8], out: &mut Vec<u8>) {
    let mut sign = [0; 4];
    let sign = SPACE_SIGN.encode_utf8(&mut sign).as_bytes();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after_sign) = rest.strip_prefix(sign) {
            out.push(b' ');
            rest = after_sign;
        } else {
            out.push(first);
            rest = after;
        }
    }
}

/// Holds a vocabulary against its limits.
pub(super) fn check(vocab: &Vocab<'_>) -> Result<(), TokenizerError> {
    let count = vocab.tokens.len();
    if count == 0 || count > MAX_TOKENS {
        return Err(TokenizerError::bad("tokens", format!("{count} tokens, expected 1 to {MAX_TOKENS}")));
    }
    if vocab.types.len() != count {
        return Err(TokenizerError::bad("token types", format!("{} for {count} tokens", vocab.types.len())));
    }
    if let Some((id, text)) = vocab.tokens.iter().enumerate().find(|(_, text)| text.len() > MAX_TOKEN_BYTES) {
        let reason = format!("{} bytes, limit {MAX_TOKEN_BYTES}", text.len());
        return Err(TokenizerError::bad(format!("token {id}"), reason));
    }
    if let Merging::Scores(scores) = &vocab.merging {
        if scores.len() != count {
            return Err(TokenizerError::bad("scores", format!("{} for {count} tokens", scores.len())));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(TokenizerError::bad(format!("token {id}"), "its score is not a number"));
        }
    }
    let named = [("bos", vocab.bos), ("eos", vocab.eos), ("eot", vocab.eot), ("unk", vocab.unk), ("pad", vocab.pad)];
    let ends = vocab.end.iter().map(|&id| ("end", Some(id)));
    for (name, id) in named.into_iter().chain(ends) {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            return Err(TokenizerError::bad(name, format!("id {id} is outside the vocabulary of {count} tokens")));
        }
    }
    for (name, id, add) in [("bos", vocab.bos, vocab.add_bos), ("eos", vocab.eos, vocab.add_eos)] {
        if add && id.is_none() {
            return Err(TokenizerError::bad(name, "is to be added to texts, but has no id"));
        }
    }
    Ok(())
}

/// Id of each byte, [`NONE`] where the vocabulary has no token for it.
pub(super) fn byte_ids(vocab: &Vocab<'_>, alphabet: &ByteAlphabet) -> Box<[u32; 256]> {
    let mut ids = Box::new([NONE; 256]);
    let mut set = |byte: u8, id: u32| {
        let slot = &mut ids[usize::from(byte)];
        if *slot == NONE {
            *slot = id;
        }
    };
    match vocab.alphabet {
        Alphabet::Metaspace => {
            for (id, (text, kind)) in (0_u32..).zip(vocab.tokens.iter().zip(&vocab.types)) {
                if let Some(byte) = byte_of(text).filter(|_| *kind == TokenType::Byte) {
                    set(byte, id);
                }
            }
        }
        Alphabet::ByteLevel => {
            let chars: HashMap<char, u8> = (0..=u8::MAX).map(|byte| (alphabet.char(byte), byte)).collect();
            for (id, text) in (0_u32..).zip(&vocab.tokens) {
                let mut text = std::str::from_utf8(text).unwrap_or_default().chars();
                if let (Some(first), None) = (text.next(), text.next())
                    && let Some(&byte) = chars.get(&first)
                {
                    set(byte, id);
                }
            }
        }
    }
    ids
}

/// Texts that merging may arrive at: SentencePiece's own spelling, or the bytes of byte-level tokens.
pub(super) fn words(vocab: &Vocab<'_>, pieces: &Pieces) -> HashMap<Box<[u8]>, u32> {
    let mut words = HashMap::new();
    if vocab.alphabet == Alphabet::ByteLevel && !vocab.ignore_merges {
        return words;
    }
    for (id, (text, kind)) in (0_u32..).zip(vocab.tokens.iter().zip(&vocab.types)) {
        let word = match (vocab.alphabet, kind) {
            (Alphabet::Metaspace, TokenType::Normal | TokenType::UserDefined | TokenType::Unused) => &**text,
            (Alphabet::ByteLevel, TokenType::Normal) => pieces.get(id).unwrap_or_default(),
            _ => continue,
        };
        if !word.is_empty() {
            words.entry(word.into()).or_insert(id);
        }
    }
    words
}

/// Which pairs merge, and in which order.
#[derive(Debug)]
pub(super) enum MergeTable {
    /// Priority of each token, lowest first, and the longest text that is worth looking up.
    Scores { keys: Vec<u32>, longest: usize },
    /// Rank and merged id of each pair.
    Ranks(Ranks),
}

impl MergeTable {
    /// Builds the table of a checked vocabulary.
    pub(super) fn new(vocab: &Vocab<'_>, words: &HashMap<Box<[u8]>, u32>) -> Result<Self, TokenizerError> {
        match &vocab.merging {
            Merging::Scores(scores) => {
                let longest = words.keys().map(|word| word.len()).max().unwrap_or(0);
                Ok(Self::Scores { keys: scores.iter().map(|&score| descending(score)).collect(), longest })
            }
            Merging::Ranks(merges) => Ok(Self::Ranks(ranks(&vocab.tokens, merges)?)),
        }
    }
}

/// An integer that orders as the score does, backwards.
fn descending(score: f32) -> u32 {
    // Adding zero turns the negative zero, which is equal to zero, into it.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { bits } else { !(bits | 1 << 31) }
}

/// Rank and merged id of each pair of ids.
type Ranks = HashMap<(u32, u32), (u32, u32)>;

fn ranks(tokens: &[Cow<'_, [u8]>], merges: &[MergePair<'_>]) -> Result<Ranks, TokenizerError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, text) in (0_u32..).zip(tokens) {
        ids.entry(&**text).or_insert(id);
    }
    let mut table = HashMap::with_capacity(merges.len());
    let mut joined = Vec::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        let id_of = |text: &[u8]| match ids.get(text) {
            Some(&id) if !text.is_empty() => Ok(id),
            _ => {
                let reason = format!("`{}` is not in the vocabulary", String::from_utf8_lossy(text));
                Err(TokenizerError::bad(format!("merge {rank}"), reason))
            }
        };
        let pair = (id_of(left)?, id_of(right)?);
        joined.clear();
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        let merged = id_of(&joined)?;
        table.entry(pair).or_insert((index_u32(rank), merged));
    }
    Ok(table)
}

/// The table beside the texts that it refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairLookup<'t> {
    pub(super) table: &'t MergeTable,
    pub(super) words: &'t HashMap<Box<[u8]>, u32>,
}

impl Pairs for PairLookup<'_> {
    fn join(&self, left: u32, right: u32, joined: &[u8]) -> Option<(u32, u32)> {
        match self.table {
            MergeTable::Ranks(ranks) => ranks.get(&(left, right)).copied(),
            MergeTable::Scores { longest, .. } if joined.len() > *longest => None,
            MergeTable::Scores { keys, .. } => {
                let &id = self.words.get(joined)?;
                Some((*keys.get(id as usize)?, id))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_order_backwards() {
        let scores = [f32::INFINITY, 3.5, 1.0, 0.0, -1.0, -2.5, f32::NEG_INFINITY];
        assert!(scores.map(descending).is_sorted_by(|a, b| a < b));
        assert_eq!(descending(-0.0), descending(0.0));
    }

    #[test]
    fn bytes_are_spelled_in_two_hex_digits() {
        assert_eq!(byte_of(b"<0x0A>"), Some(10));
        assert_eq!(byte_of(b"<0xff>"), Some(255));
        for text in [b"<0xA>".as_slice(), b"<0x+A>", b"<0x00A>", b"0x0A", b"<0xGG>", b""] {
            assert_eq!(byte_of(text), None);
        }
    }
}
