//! The vocabulary of a GGUF file.

use std::borrow::Cow;

use rin_model::{GgufVocab, ModelFile, TokenizerSource};

use super::Tokenizer;
use super::error::TokenizerError;
use super::hf;
use super::pieces::byte_of;
use super::size::{Count, Sizes};
use super::split::{Pre, SplitRule};
use super::vocab::{Alphabet, Merging, SpacePrefix, TokenType, Vocab};

/// The values of `tokenizer.ggml.model` that are read.
const MODELS: &str = "llama, gpt2";

impl Tokenizer {
    /// The tokenizer of a model, with all ids that its configuration ends a text with.
    ///
    /// # Errors
    /// Where the file has none; as [`Tokenizer::from_source`].
    pub fn of_model(file: &ModelFile) -> Result<Self, crate::Error> {
        let tokenizer = Self::from_source(&file.tokenizer()?)?;
        match file.config() {
            Ok(config) => Ok(tokenizer.with_end(&config.eos)?),
            Err(_) => Ok(tokenizer),
        }
    }

    /// The tokenizer that a file describes.
    ///
    /// # Errors
    /// As [`Tokenizer::from_vocab`] and [`Tokenizer::from_hf_json`]; a model or pre-tokenizer that is not known.
    pub fn from_source(source: &TokenizerSource<'_>) -> Result<Self, TokenizerError> {
        match source {
            TokenizerSource::Gguf(vocab) => Self::from_gguf(vocab),
            TokenizerSource::HuggingFace(tokenizer, config) => Self::from_hf_json(tokenizer, *config),
        }
    }

    /// The tokenizer that the keys `tokenizer.*` of a GGUF file describe.
    ///
    /// # Errors
    /// As [`Tokenizer::from_vocab`]; a model or pre-tokenizer that is not known.
    pub fn from_gguf(source: &GgufVocab<'_>) -> Result<Self, TokenizerError> {
        Self::from_vocab(&vocab(source)?)
    }
}

impl Vocab<'static> {
    /// The vocabulary of a model file, before it is checked.
    ///
    /// # Errors
    /// As [`Tokenizer::from_source`], but for what only a check finds.
    pub fn from_source(source: &TokenizerSource<'_>) -> Result<Self, TokenizerError> {
        match source {
            TokenizerSource::Gguf(source) => vocab(source).map(Vocab::into_owned),
            TokenizerSource::HuggingFace(tokenizer, config) => {
                hf::read(tokenizer, *config, |vocab| Ok(vocab.into_owned()))
            }
        }
    }
}

/// Puts the vocabulary together from the keys.
fn vocab<'a>(source: &GgufVocab<'a>) -> Result<Vocab<'a>, TokenizerError> {
    let mut vocab = match source.model {
        "llama" => sentence_piece(source)?,
        "gpt2" => byte_level(source)?,
        name => return Err(unsupported_model(name)),
    };
    vocab.bos = source.bos.or(vocab.bos);
    vocab.eos = source.eos.or(vocab.eos);
    vocab.unk = source.unk.or(vocab.unk);
    vocab.eot = source.eot;
    vocab.pad = source.pad;
    vocab.end.clone_from(&source.eog);
    // A default is taken only where the file names the token; an explicit wish without a token is an error.
    vocab.add_bos = source.add_bos.unwrap_or(vocab.add_bos && vocab.bos.is_some());
    vocab.add_eos = source.add_eos.unwrap_or(false);
    Ok(vocab)
}

fn tokens<'a>(source: &GgufVocab<'a>) -> Vec<Cow<'a, [u8]>> {
    let mut tokens = Vec::with_capacity(source.tokens.len());
    tokens.extend(source.tokens.iter().map(Cow::Borrowed));
    tokens
}

/// The types in the file, or a guess for each token of a file without.
fn types(source: &GgufVocab<'_>, alphabet: Alphabet) -> Result<Vec<TokenType>, TokenizerError> {
    let mut types = Vec::with_capacity(source.tokens.len());
    if source.types.is_empty() {
        types.extend(source.tokens.iter().map(|text| guessed_type(text, alphabet)));
    }
    for (id, number) in source.types.iter().enumerate() {
        let unknown = || TokenizerError::bad(format!("token {id}"), format!("unknown type {number}"));
        types.push(TokenType::from_gguf(number).ok_or_else(unknown)?);
    }
    Ok(types)
}

/// What a token is for, where the file does not say.
fn guessed_type(text: &[u8], alphabet: Alphabet) -> TokenType {
    match (alphabet, text) {
        (Alphabet::ByteLevel, _) => TokenType::Normal,
        (_, b"<unk>") => TokenType::Unknown,
        (_, b"<s>" | b"</s>") => TokenType::Control,
        _ if byte_of(text).is_some() => TokenType::Byte,
        _ => TokenType::Normal,
    }
}

/// What the tables of the vocabulary will hold.
pub(super) fn sizes(source: &GgufVocab<'_>) -> Result<Sizes, TokenizerError> {
    let (alphabet, ignore_merges) = match source.model {
        "llama" => (Alphabet::Metaspace, false),
        "gpt2" => (Alphabet::ByteLevel, pre_tokenizer(source)?.ignore_merges),
        name => return Err(unsupported_model(name)),
    };
    let mut count = Count::new(alphabet, ignore_merges);
    let mut types = source.types.iter().map(|number| TokenType::from_gguf(number).unwrap_or(TokenType::Normal));
    for text in source.tokens.iter() {
        count.token(text, types.next().unwrap_or_else(|| guessed_type(text, alphabet)));
    }
    let mut sizes = count.finish();
    match alphabet {
        Alphabet::Metaspace => sizes.scores = source.scores.len(),
        Alphabet::ByteLevel => sizes.merges = source.merges.len(),
    }
    Ok(sizes)
}

fn pre_tokenizer(source: &GgufVocab<'_>) -> Result<Pre, TokenizerError> {
    Pre::find(source.pre.unwrap_or("default"))
}

fn unsupported_model(name: &str) -> TokenizerError {
    TokenizerError::UnsupportedModel { name: name.to_owned(), known: MODELS }
}

fn sentence_piece<'a>(source: &GgufVocab<'a>) -> Result<Vocab<'a>, TokenizerError> {
    let types = types(source, Alphabet::Metaspace)?;
    let mut scores = Vec::with_capacity(source.scores.len());
    scores.extend(source.scores.iter());
    let merging = Merging::Scores(scores);
    let mut vocab = Vocab::new(Alphabet::Metaspace, merging, SplitRule::Whole, tokens(source), types);
    // The numbering of SentencePiece, which files leave out when they follow it.
    let usual = |id: u32, name: &[u8]| (source.tokens.iter().nth(id as usize) == Some(name)).then_some(id);
    vocab.unk = usual(0, b"<unk>");
    vocab.bos = usual(1, b"<s>");
    vocab.eos = usual(2, b"</s>");
    vocab.add_bos = true;
    if source.add_space_prefix.unwrap_or(true) {
        vocab.prefix = SpacePrefix::Always;
        vocab.drop_leading_space = true;
    }
    Ok(vocab)
}

fn byte_level<'a>(source: &GgufVocab<'a>) -> Result<Vocab<'a>, TokenizerError> {
    let pre = pre_tokenizer(source)?;
    let types = types(source, Alphabet::ByteLevel)?;
    let mut merges = Vec::with_capacity(source.merges.len());
    for (rank, merge) in source.merges.iter().enumerate() {
        // The first part is at least one byte, which may itself be a space.
        let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
        let Some(at) = space else {
            return Err(TokenizerError::bad(format!("merge {rank}"), "no space between its parts"));
        };
        merges.push((Cow::Borrowed(&merge[..at]), Cow::Borrowed(&merge[at + 1..])));
    }
    let merging = Merging::Ranks(merges);
    let mut vocab = Vocab::new(Alphabet::ByteLevel, merging, pre.rule, tokens(source), types);
    vocab.ignore_merges = pre.ignore_merges;
    vocab.add_bos = pre.add_bos;
    Ok(vocab)
}
