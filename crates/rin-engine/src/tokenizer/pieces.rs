//! The checked vocabulary: what each token stands for, and the tables that merging looks pairs up in.

use std::borrow::Cow;
use std::collections::HashMap;

use super::byte_level::ByteAlphabet;
use super::error::TokenizerError;
use super::index::{Index, MAX_ENTRIES};
use super::merge::{NONE, Pairs};
use super::size::{Sizes, is_word};
use super::vocab::{Alphabet, MergePair, Merging, TokenType, Vocab};

/// Longest text of a token in bytes.
const MAX_TOKEN_BYTES: usize = 65_535;
/// Most tokens of a vocabulary.
const MAX_TOKENS: usize = MAX_ENTRIES;
/// SentencePiece's sign for a space.
pub(super) const SPACE_SIGN: char = '\u{2581}';

/// What all tokens stand for, end to end, and what they are for.
#[derive(Debug)]
pub(super) struct Pieces {
    alphabet: Alphabet,
    bytes: Vec<u8>,
    /// End of each token in `bytes`.
    ends: Vec<u32>,
    types: Vec<TokenType>,
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

    /// The type of a token.
    pub(super) fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// Works out what each token stands for.
    pub(super) fn new(vocab: &Vocab<'_>, sizes: &Sizes, alphabet: &ByteAlphabet) -> Result<Self, TokenizerError> {
        let mut bytes = Vec::with_capacity(sizes.piece_bytes);
        let mut ends = Vec::with_capacity(sizes.tokens);
        for (id, (text, kind)) in vocab.tokens.iter().zip(&vocab.types).enumerate() {
            if *kind == TokenType::Byte && byte_of(text).is_none() {
                return Err(TokenizerError::bad(format!("token {id}"), "a byte token is spelled <0x00> to <0xFF>"));
            }
            decode_piece(text, *kind, vocab.alphabet, alphabet, &mut bytes);
            let end = u32::try_from(bytes.len())
                .map_err(|_| TokenizerError::bad(format!("token {id}"), "more than 4 GiB of token text"))?;
            ends.push(end);
        }
        Ok(Self { alphabet: vocab.alphabet, bytes, ends, types: vocab.types.clone() })
    }

    /// Whether a token is spelled so: in SentencePiece's spelling, or as the bytes of a byte-level token.
    fn is_spelled(&self, id: u32, word: &[u8]) -> bool {
        let Some(piece) = self.get(id) else { return false };
        match (self.alphabet, self.token_type(id)) {
            (Alphabet::Metaspace, Some(TokenType::Normal | TokenType::UserDefined)) => is_unescaped(piece, word),
            _ => piece == word,
        }
    }
}

/// Appends the bytes that a token stands for. A byte token that is not spelled as one stands for nothing.
pub(super) fn decode_piece(text: &[u8], kind: TokenType, of: Alphabet, alphabet: &ByteAlphabet, out: &mut Vec<u8>) {
    match (kind, of) {
        (TokenType::Byte, _) => out.extend(byte_of(text)),
        (TokenType::Normal | TokenType::UserDefined, Alphabet::Metaspace) => unescape_into(text, out),
        (TokenType::Normal, Alphabet::ByteLevel) => alphabet.decode_into(text, out),
        _ => out.extend_from_slice(text),
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

/// Whether `piece` is what `text`, which has no spaces, stands for: the same with spaces for their sign.
fn is_unescaped(piece: &[u8], text: &[u8]) -> bool {
    let mut sign = [0; 4];
    let sign = SPACE_SIGN.encode_utf8(&mut sign).as_bytes();
    let mut rest = text;
    piece.iter().all(|byte| {
        let after = if *byte == b' ' { rest.strip_prefix(sign) } else { rest.strip_prefix(&[*byte]) };
        after.map(|after| rest = after).is_some()
    }) && rest.is_empty()
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
    if let Merging::Ranks(merges) = &vocab.merging
        && merges.len() > MAX_ENTRIES
    {
        return Err(TokenizerError::bad("merges", format!("{} merges, expected at most {MAX_ENTRIES}", merges.len())));
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

/// Finds tokens by the texts that merging may arrive at: SentencePiece's own spelling, or the bytes of byte-level tokens.
#[derive(Debug)]
pub(super) struct Words {
    index: Index,
    /// Bytes of the longest text.
    longest: usize,
}

impl Words {
    /// The tokens of a checked vocabulary; of equal texts the first counts.
    pub(super) fn new(vocab: &Vocab<'_>, sizes: &Sizes, pieces: &Pieces) -> Self {
        let mut words = Self { index: Index::with_room(sizes.words), longest: 0 };
        for (id, (text, kind)) in (0_u32..).zip(vocab.tokens.iter().zip(&vocab.types)) {
            let word = match vocab.alphabet {
                // A text to be merged has the sign for every space: it never arrives at a space.
                Alphabet::Metaspace if text.contains(&b' ') => continue,
                Alphabet::Metaspace => &**text,
                Alphabet::ByteLevel => pieces.get(id).unwrap_or_default(),
            };
            if is_word(*kind, vocab.alphabet, vocab.ignore_merges) && !word.is_empty() {
                words.longest = words.longest.max(word.len());
                words.index.insert(words.index.place_of_text(word), id, |other| pieces.is_spelled(other, word));
            }
        }
        words
    }

    /// The token with this text.
    pub(super) fn get(&self, pieces: &Pieces, word: &[u8]) -> Option<u32> {
        if word.len() > self.longest {
            return None;
        }
        self.index.find(self.index.place_of_text(word), |id| pieces.is_spelled(id, word))
    }
}

/// Which pairs merge, and in which order.
#[derive(Debug)]
pub(super) enum MergeTable {
    /// Priority of each token, lowest first.
    Scores(Vec<u32>),
    /// Pairs by rank.
    Ranks(Ranks),
}

impl MergeTable {
    /// Builds the table of a checked vocabulary.
    pub(super) fn new(vocab: &Vocab<'_>) -> Result<Self, TokenizerError> {
        match &vocab.merging {
            Merging::Scores(scores) => Ok(Self::Scores(scores.iter().map(|&score| descending(score)).collect())),
            Merging::Ranks(merges) => Ranks::new(&vocab.tokens, merges).map(Self::Ranks),
        }
    }
}

/// An integer that orders as the score does, backwards.
fn descending(score: f32) -> u32 {
    // Adding zero turns the negative zero, which is equal to zero, into it.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { bits } else { !(bits | 1 << 31) }
}

/// Ids of two tokens, and of what they merge into.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergePairIds {
    left: u32,
    right: u32,
    merged: u32,
}

/// The pairs that merge, in order.
#[derive(Debug)]
pub(super) struct Ranks {
    pairs: Vec<MergePairIds>,
    index: Option<Index>,
}

impl Ranks {
    fn new(tokens: &[Cow<'_, [u8]>], merges: &[MergePair<'_>]) -> Result<Self, TokenizerError> {
        if merges.is_empty() {
            return Ok(Self { pairs: Vec::new(), index: None });
        }
        let mut pairs: Vec<MergePairIds> = Vec::with_capacity(merges.len());
        let mut index = Index::with_room(merges.len());
        let mut ids = Index::with_room(tokens.len());
        let text_of = |id: u32| tokens.get(id as usize).map(|text| &**text);
        for (id, text) in (0_u32..).zip(tokens) {
            ids.insert(ids.place_of_text(text), id, |other| text_of(other) == Some(text));
        }
        let mut joined = Vec::new();
        for (rank, (left, right)) in (0_u32..).zip(merges) {
            let id_of = |text: &[u8]| {
                let found =
                    ids.find(ids.place_of_text(text), |id| text_of(id) == Some(text)).filter(|_| !text.is_empty());
                found.ok_or_else(|| {
                    let reason = format!("`{}` is not in the vocabulary", String::from_utf8_lossy(text));
                    TokenizerError::bad(format!("merge {rank}"), reason)
                })
            };
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let pair = MergePairIds { left: id_of(left)?, right: id_of(right)?, merged: id_of(&joined)? };
            // Of a pair that is listed twice the first rank counts.
            let is_pair = |other: u32| pairs.get(other as usize).is_some_and(|p| p.is(pair.left, pair.right));
            index.insert(index.place_of_pair(pair.left, pair.right), rank, is_pair);
            pairs.push(pair);
        }
        Ok(Self { pairs, index: Some(index) })
    }

    /// Rank and merged id of a pair.
    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let index = self.index.as_ref()?;
        let is_pair = |rank: u32| self.pairs.get(rank as usize).is_some_and(|pair| pair.is(left, right));
        let rank = index.find(index.place_of_pair(left, right), is_pair)?;
        Some((rank, self.pairs.get(rank as usize)?.merged))
    }
}

impl MergePairIds {
    const fn is(self, left: u32, right: u32) -> bool {
        self.left == left && self.right == right
    }
}

/// The table beside the texts that it refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairLookup<'t> {
    pub(super) table: &'t MergeTable,
    pub(super) words: &'t Words,
    pub(super) pieces: &'t Pieces,
}

impl Pairs for PairLookup<'_> {
    fn join(&self, left: u32, right: u32, joined: &[u8]) -> Option<(u32, u32)> {
        match self.table {
            MergeTable::Ranks(ranks) => ranks.get(left, right),
            MergeTable::Scores(keys) => {
                let id = self.words.get(self.pieces, joined)?;
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
    #[test]
    fn a_spelling_has_the_sign_for_every_space() {
        for (piece, text, is) in [
            (" a", "\u{2581}a", true),
            ("  ", "\u{2581}\u{2581}", true),
            ("", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab", "a", false),
            (" a", "\u{2582}a", false),
            ("\u{2581}a", "\u{2581}a", true),
        ] {
            assert_eq!(is_unescaped(piece.as_bytes(), text.as_bytes()), is, "{piece:?} {text:?}");
        }
    }
}
