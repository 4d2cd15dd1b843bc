//! Vocabularies of a chosen size, as the keys of a GGUF file.

use crate::gguf_writer::GgufWriter;

/// Control tokens at the end of [`byte_level`].
const RESERVED: usize = 256;

/// Adds a byte-level vocabulary of `n` tokens: letters, words that merge from them (most in two ways, so that there are
/// nearly twice as many merges as tokens), and 256 reserved control tokens, the last of which ends a text. `n` is 1000 or
/// more.
pub fn byte_level(writer: GgufWriter, pre: &str, n: usize) -> GgufWriter {
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let mut tokens: Vec<String> = letters.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    let n_words = n.saturating_sub(RESERVED);
    let mut next = 0;
    while tokens.len() < n_words {
        let left = tokens[next].clone();
        next += 1;
        for right in letters.iter().take(n_words - tokens.len()) {
            merges.push(format!("{left} {right}"));
            tokens.push(format!("{left}{right}"));
        }
    }
    let other_way = |merge: &String| {
        let (left, right) = merge.split_once(' ')?;
        let (first, rest) = left.split_at_checked(1).filter(|(_, rest)| !rest.is_empty())?;
        Some(format!("{first} {rest}{right}"))
    };
    merges.extend(merges.iter().filter_map(other_way).collect::<Vec<_>>());
    let mut kinds = vec![1; tokens.len()];
    tokens.extend((0..RESERVED).map(|i| format!("<|reserved_special_token_{i}|>")));
    kinds.resize(tokens.len(), 3);
    writer
        .kv_str("tokenizer.ggml.model", "gpt2")
        .kv_str("tokenizer.ggml.pre", pre)
        .kv_strs("tokenizer.ggml.tokens", &tokens)
        .kv_i32s("tokenizer.ggml.token_type", &kinds)
        .kv_strs("tokenizer.ggml.merges", &merges)
        .kv_u32("tokenizer.ggml.eos_token_id", u32::try_from(n - 1).unwrap_or(u32::MAX))
}

/// Adds a SentencePiece vocabulary of `n` tokens: three special ones, all bytes, and words.
pub fn sentence_piece(writer: GgufWriter, n: usize) -> GgufWriter {
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = (259..n).map(|i| format!("\u{2581}t{i}"));
    let tokens: Vec<String> = special.into_iter().chain(bytes).chain(words).collect();
    let mut kinds = vec![2, 3, 3];
    kinds.resize(259, 6);
    kinds.resize(tokens.len(), 1);
    writer
        .kv_str("tokenizer.ggml.model", "llama")
        .kv_strs("tokenizer.ggml.tokens", &tokens)
        .kv_f32s("tokenizer.ggml.scores", &vec![0.0; tokens.len()])
        .kv_i32s("tokenizer.ggml.token_type", &kinds)
        .kv_u32("tokenizer.ggml.bos_token_id", 1)
        .kv_u32("tokenizer.ggml.eos_token_id", 2)
}
