//! SentencePiece's merges: by the score of the token that two make, or by rank in a list of pairs.
//!
//! The two agree if all pairs that make a token stand together in the list, in the order of the tokens' scores, and no
//! pair is left out. What is left open then is only which of two overlapping pairs goes first that make the same token;
//! [`Probes`](super::vocab_to_gguf::Probes) look at that.

use rin_engine::tokenizer::{MergePair, TokenType, Vocab};
use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// Longest token in bytes: the ways to make one grow with its length.
const MAX_TOKEN: usize = 1024;

/// The texts of two tokens that merge.
type Pair<'v> = (&'v str, &'v str);

/// A vocabulary as merging sees it.
struct Texts<'v> {
    ids: HashMap<&'v str, usize>,
    /// The same by id.
    by_id: Vec<(usize, &'v str)>,
}

impl<'v> Texts<'v> {
    /// The tokens that merging may arrive at.
    fn new(vocab: &'v Vocab<'_>) -> Result<Self, String> {
        let (mut ids, mut by_id) = (HashMap::new(), Vec::new());
        for (id, (text, kind)) in vocab.tokens.iter().zip(&vocab.types).enumerate() {
            if text.is_empty() || matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::Byte) {
                continue;
            }
            let text = std::str::from_utf8(text).map_err(|_| format!("token {id} is no UTF-8"))?;
            if text.len() > MAX_TOKEN {
                return Err(format!("token {id} has {} bytes, and at most {MAX_TOKEN} are taken", text.len()));
            }
            if let Entry::Vacant(place) = ids.entry(text) {
                place.insert(id);
                by_id.push((id, text));
            }
        }
        Ok(Self { ids, by_id })
    }

    /// All ways in which two symbols make `text`. A symbol is a token, or a character of its own.
    ///
    /// The error names a character that is no token: by score it could merge, by rank it could not.
    fn pairs(&self, text: &'v str) -> Result<Vec<Pair<'v>>, String> {
        let mut pairs = Vec::new();
        for (at, _) in text.char_indices().skip(1) {
            let Some((left, right)) = text.split_at_checked(at) else { continue };
            let is_symbol = |part: &str| self.ids.contains_key(part) || is_one_character(part);
            if !is_symbol(left) || !is_symbol(right) {
                continue;
            }
            if let Some(part) = [left, right].into_iter().find(|part| !self.ids.contains_key(part)) {
                return Err(format!("the token `{text}` begins or ends in `{part}`, which is no token"));
            }
            pairs.push((left, right));
        }
        Ok(pairs)
    }
}

fn is_one_character(text: &str) -> bool {
    text.chars().nth(1).is_none()
}

/// Scores that make the merges of a list of pairs. The error says why there are none.
pub(super) fn scores(vocab: &Vocab<'_>, merges: &[MergePair<'_>]) -> Result<Vec<f32>, String> {
    let texts = Texts::new(vocab)?;
    let mut listed = HashSet::new();
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut last = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        let (Ok(left), Ok(right)) = (std::str::from_utf8(left), std::str::from_utf8(right)) else {
            return Err(format!("merge {rank} is no UTF-8"));
        };
        let made = format!("{left}{right}");
        for part in [left, right, &made] {
            if !texts.ids.contains_key(part) {
                return Err(format!("merge {rank} takes or makes `{part}`, which is no token of plain text"));
            }
        }
        listed.insert((left, right));
        if made != last && ranks.insert(made.clone(), rank).is_some() {
            return Err(format!("the merges that make `{made}` do not stand together"));
        }
        last = made;
    }
    for &(_, text) in &texts.by_id {
        if let Some((left, right)) = texts.pairs(text)?.into_iter().find(|pair| !listed.contains(pair)) {
            return Err(format!("`{left}` and `{right}` make a token by score, but are no merge of the list"));
        }
    }
    let lowest = -number(merges.len()) - 1.0;
    let score = |text: &Cow<'_, [u8]>, kind: &TokenType| match kind {
        TokenType::Control | TokenType::Unknown | TokenType::Byte => 0.0,
        _ => std::str::from_utf8(text).ok().and_then(|text| ranks.get(text)).map_or(lowest, |&rank| 0.0 - number(rank)),
    };
    Ok(vocab.tokens.iter().zip(&vocab.types).map(|(text, kind)| score(text, kind)).collect())
}

#[expect(clippy::cast_precision_loss, reason = "a vocabulary has fewer merges than 2^24, and up to there it is exact")]
fn number(n: usize) -> f32 {
    n as f32
}

/// The list of pairs that merges as scores do. The error says why there is none.
pub(super) fn merges<'v>(vocab: &'v Vocab<'_>, scores: &[f32]) -> Result<Vec<Pair<'v>>, String> {
    let texts = Texts::new(vocab)?;
    let mut made: Vec<(f32, usize, Vec<Pair<'_>>)> = Vec::new();
    for &(id, text) in &texts.by_id {
        let pairs = texts.pairs(text)?;
        let score = scores.get(id).copied().unwrap_or(0.0);
        if !pairs.is_empty() {
            made.push((score, id, pairs));
        }
    }
    made.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for pair in made.windows(2) {
        if let [a, b] = pair
            && a.0 <= b.0
        {
            return Err(format!("the tokens {} and {} have the same score", a.1, b.1));
        }
    }
    Ok(made.into_iter().flat_map(|(_, _, pairs)| pairs).collect())
}

#[cfg(test)]
mod tests {
    use super::{merges, scores};
    use rin_engine::tokenizer::{Alphabet, MergePair, Merging, SplitRule, TokenType, Vocab};
    use std::borrow::Cow;

    fn vocab(tokens: &[&'static str]) -> Vocab<'static> {
        let tokens: Vec<Cow<'static, [u8]>> = tokens.iter().map(|text| Cow::Borrowed(text.as_bytes())).collect();
        let types = vec![TokenType::Normal; tokens.len()];
        Vocab::new(Alphabet::Metaspace, Merging::Ranks(Vec::new()), SplitRule::Whole, tokens, types)
    }

    fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<MergePair<'static>> {
        pairs.iter().map(|(a, b)| (Cow::Borrowed(a.as_bytes()), Cow::Borrowed(b.as_bytes()))).collect()
    }

    #[test]
    fn a_complete_list_and_scores_become_each_other() {
        let vocab = vocab(&["a", "b", "c", "ab", "bc", "abc"]);
        let list = [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")];
        let found = scores(&vocab, &pairs(&list)).unwrap();
        assert_eq!(found, [-5.0, -5.0, -5.0, -1.0, 0.0, -2.0]);
        assert_eq!(merges(&vocab, &found).unwrap(), list);
    }

    #[test]
    fn what_the_other_side_cannot_say_is_named() {
        let vocab = vocab(&["a", "b", "c", "ab", "bc", "abc", "aé"]);
        let error = |list: &[(&'static str, &'static str)]| scores(&vocab, &pairs(list)).unwrap_err();
        assert!(error(&[("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")]).contains("`abc` do not stand together"));
        assert!(error(&[("a", "x")]).contains("`x`"));
        assert!(error(&[("a", "b")]).contains("no merge of the list") || error(&[("a", "b")]).contains("`é`"));
        assert!(merges(&vocab, &[0.0; 7]).unwrap_err().contains("`é`"));
        let plain = self::vocab(&["a", "b", "ab", "ba"]);
        assert!(merges(&plain, &[0.0; 4]).unwrap_err().contains("2 and 3 have the same score"));
        assert_eq!(merges(&plain, &[0.0, 0.0, -1.0, 2.0]).unwrap(), [("b", "a"), ("a", "b")]);
    }
}
