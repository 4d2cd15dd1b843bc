//! How much memory a vocabulary takes once its tables are built, counted from the file that describes it.

use rin_model::TokenizerSource;

use super::byte_level::ByteAlphabet;
use super::error::TokenizerError;
use super::index::Index;
use super::pieces::{MergePairIds, decode_piece};
use super::special::TrieSize;
use super::vocab::{Alphabet, Merging, TokenType, Vocab};
use super::{Tokenizer, gguf, hf_size};

/// Room for the ids that end a text, of which there is a handful.
const ENDS: usize = 16;

/// What the tables of a vocabulary hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    /// Bytes that the tokens stand for, end to end.
    pub(super) piece_bytes: usize,
    /// Tokens that merging may arrive at by their text.
    pub(super) words: usize,
    /// Tokens with a score.
    pub(super) scores: usize,
    pub(super) merges: usize,
    pub(super) trie: TrieSize,
}

impl Sizes {
    /// Bytes of all tables.
    pub(super) const fn bytes(&self) -> usize {
        let of_token = size_of::<u32>() + size_of::<TokenType>();
        self.piece_bytes
            + self.tokens * of_token
            + Index::bytes(self.words)
            + self.scores * size_of::<u32>()
            + if self.merges > 0 { self.merges * size_of::<MergePairIds>() + Index::bytes(self.merges) } else { 0 }
            + self.trie.bytes()
            + size_of::<[u32; 256]>()
            + ENDS * size_of::<u32>()
    }

    /// Counts a vocabulary.
    pub(super) fn of(vocab: &Vocab<'_>) -> Self {
        let mut count = Count::new(vocab.alphabet, vocab.ignore_merges);
        vocab.tokens.iter().zip(&vocab.types).for_each(|(text, kind)| count.token(text, *kind));
        let mut sizes = count.finish();
        match &vocab.merging {
            Merging::Scores(scores) => sizes.scores = scores.len(),
            Merging::Ranks(merges) => sizes.merges = merges.len(),
        }
        sizes
    }
}

/// Counts the tokens of a vocabulary one by one.
#[derive(Debug)]
pub(super) struct Count<'a> {
    alphabet: Alphabet,
    ignore_merges: bool,
    bytes: ByteAlphabet,
    sizes: Sizes,
    special: Vec<&'a [u8]>,
    piece: Vec<u8>,
}

impl<'a> Count<'a> {
    pub(super) fn new(alphabet: Alphabet, ignore_merges: bool) -> Self {
        let (bytes, sizes) = (ByteAlphabet::new(), Sizes::default());
        Self { alphabet, ignore_merges, bytes, sizes, special: Vec::new(), piece: Vec::new() }
    }

    /// Counts the next token.
    pub(super) fn token(&mut self, text: &'a [u8], kind: TokenType) {
        self.sizes.tokens += 1;
        self.piece.clear();
        decode_piece(text, kind, self.alphabet, &self.bytes, &mut self.piece);
        self.sizes.piece_bytes += self.piece.len();
        self.sizes.words += usize::from(is_word(kind, self.alphabet, self.ignore_merges));
        if is_special(kind) {
            self.special.push(text);
        }
    }

    pub(super) fn finish(mut self) -> Sizes {
        self.sizes.trie = TrieSize::of(self.special);
        self.sizes
    }
}

/// Whether merging may arrive at a token by its text.
pub(super) fn is_word(kind: TokenType, alphabet: Alphabet, ignore_merges: bool) -> bool {
    match alphabet {
        Alphabet::Metaspace => matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused),
        // The ranks name tokens by id; only whole words are looked up.
        Alphabet::ByteLevel => ignore_merges && kind == TokenType::Normal,
    }
}

/// Whether a token is looked for in the text.
pub(super) fn is_special(kind: TokenType) -> bool {
    matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
}

impl Tokenizer {
    /// Bytes of heap that the vocabulary of a file will take as a tokenizer: the texts, and the tables to find them by.
    /// Nothing is built. For GGUF files the number is exact but for a few bytes, for `tokenizer.json` it is a bound, a few percent above.
    ///
    /// Not counted is what has the same size for every vocabulary: the compiled pattern that cuts words.
    ///
    /// # Errors
    /// As [`Tokenizer::from_source`], but for what only building the tables finds.
    pub fn planned_bytes(source: &TokenizerSource<'_>) -> Result<usize, TokenizerError> {
        let sizes = match source {
            TokenizerSource::Gguf(vocab) => gguf::sizes(vocab)?,
            TokenizerSource::HuggingFace(tokenizer, _) => hf_size::sizes(tokenizer)?,
        };
        Ok(sizes.bytes())
    }
}
