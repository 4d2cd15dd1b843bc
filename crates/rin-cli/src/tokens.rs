//! `rin tokens`: texts to token ids and back.

use std::path::Path;

use anyhow::{Context, Result};
use rin_engine::tokenizer::Tokenizer;
use serde::Serialize;

use crate::args::TokensArgs;
use crate::exit::Usage;
use crate::run::{encode, prompt_text};
use crate::{model_path, output};

/// A text's ids and what each of them spells.
#[derive(Debug, Serialize)]
struct TokensJson {
    tokens: Vec<u32>,
    pieces: Vec<String>,
}

/// One of [`TokensJson`] per line of a file.
#[derive(Debug, Serialize)]
struct TextsJson {
    texts: Vec<TokensJson>,
}

/// The way back.
#[derive(Debug, Serialize)]
struct DecodedJson<'a> {
    text: &'a str,
    #[serde(flatten)]
    tokens: TokensJson,
}

impl TokensJson {
    fn of(tokenizer: &Tokenizer, tokens: Vec<u32>) -> Self {
        let piece = |id: &u32| String::from_utf8_lossy(tokenizer.text(*id).unwrap_or_default()).into_owned();
        Self { pieces: tokens.iter().map(piece).collect(), tokens }
    }
}

/// Encodes a text, standard input or the lines of a file, or decodes ids.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn tokens(args: &TokensArgs) -> Result<()> {
    let file = model_path::open(&args.model)?;
    let tokenizer = model_path::tokenizer(&file)?;
    if let Some(ids) = &args.decode {
        return decode(&tokenizer, &ids.0, args.output.json);
    }
    if let Some(path) = &args.file {
        return encode_lines(&tokenizer, path, args);
    }
    let text = prompt_text(args.prompt.as_deref(), "--file F")?;
    let ids = encode(&tokenizer, &text, args.no_special)?;
    if args.output.json {
        return output::json(&TokensJson::of(&tokenizer, ids));
    }
    output::text(&line(&ids))
}

/// Ids as `--tokens` and `--decode` take them.
fn line(ids: &[u32]) -> String {
    let mut line = String::with_capacity(7 * ids.len() + 1);
    for (i, id) in ids.iter().enumerate() {
        if i > 0 {
            line.push(',');
        }
        line.push_str(&id.to_string());
    }
    line.push('\n');
    line
}

fn encode_lines(tokenizer: &Tokenizer, path: &Path, args: &TokensArgs) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let texts = text.strip_suffix('\n').unwrap_or(&text).split('\n').filter(|_| !text.is_empty());
    let mut all = Vec::new();
    for (number, text) in texts.enumerate() {
        let ids = encode(tokenizer, text, args.no_special)
            .with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        if args.output.json {
            all.push(TokensJson::of(tokenizer, ids));
        } else {
            output::text(&line(&ids))?;
        }
    }
    if args.output.json { output::json(&TextsJson { texts: all }) } else { Ok(()) }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], json: bool) -> Result<()> {
    let n_vocab = tokenizer.vocab_size();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= n_vocab) {
        return Err(Usage(format!("token id {id} is not in the vocabulary of {n_vocab}")).into());
    }
    let text = tokenizer.decode(ids);
    if json {
        let tokens = TokensJson::of(tokenizer, ids.to_vec());
        return output::json(&DecodedJson { text: &text, tokens });
    }
    output::exact(&text)
}
