//! Learning merges (Sennrich, Haddow and Birch, 2016) over words cut by the pattern of GPT-2.

use super::Pieces;
use crate::Error;
use regex::Regex;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The pattern without its look-ahead, which [`words`] does in code.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

type Pair = (usize, usize);

/// A word as tokens, and how often it occurs.
struct Word {
    tokens: Vec<usize>,
    count: i64,
}

/// Merges the most frequent pair of tokens (of several, the one of the lowest ids) until there are `size` tokens or no
/// pair occurs twice.
pub(super) fn learn(text: &str, size: usize) -> Result<Pieces, Error> {
    let mut pieces = Pieces { words: true, ..super::bytes() };
    let mut words: Vec<Word> = count_words(text)?
        .into_iter()
        .map(|(word, count)| Word { tokens: word.bytes().map(usize::from).collect(), count })
        .collect();
    let mut counts: HashMap<Pair, i64> = HashMap::new();
    let mut places: HashMap<Pair, HashSet<usize>> = HashMap::new();
    for (at, word) in words.iter().enumerate() {
        for pair in pairs(&word.tokens) {
            *counts.entry(pair).or_default() += word.count;
            places.entry(pair).or_default().insert(at);
        }
    }
    while pieces.tokens.len() < size {
        let best = counts.iter().max_by_key(|&(&pair, &count)| (count, std::cmp::Reverse(pair)));
        let Some((&pair, _)) = best.filter(|&(_, &count)| count > 1) else { break };
        let id = pieces.tokens.len();
        pieces.tokens.push([pieces.tokens[pair.0].as_slice(), &pieces.tokens[pair.1]].concat());
        pieces.merges.push(pair);
        for at in places.remove(&pair).unwrap_or_default() {
            let word = &mut words[at];
            for old in pairs(&word.tokens) {
                *counts.entry(old).or_default() -= word.count;
            }
            merge(&mut word.tokens, pair, id);
            for new in pairs(&word.tokens) {
                *counts.entry(new).or_default() += word.count;
                places.entry(new).or_default().insert(at);
            }
        }
        counts.remove(&pair);
    }
    Ok(pieces)
}

fn pairs(tokens: &[usize]) -> impl Iterator<Item = Pair> + '_ {
    tokens.windows(2).map(|two| (two[0], two[1]))
}

/// Replaces each `pair`, from the left.
fn merge(tokens: &mut Vec<usize>, pair: Pair, id: usize) {
    let (mut from, mut to) = (0, 0);
    while from < tokens.len() {
        let merged = from + 1 < tokens.len() && (tokens[from], tokens[from + 1]) == pair;
        tokens[to] = if merged { id } else { tokens[from] };
        from += if merged { 2 } else { 1 };
        to += 1;
    }
    tokens.truncate(to);
}

/// The words of a text with their numbers, in a fixed order.
fn count_words(text: &str) -> Result<BTreeMap<&str, i64>, Error> {
    let pattern = Regex::new(PATTERN).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
    let mut counts = BTreeMap::new();
    let mut at = 0;
    while let Some(found) = pattern.find_at(text, at) {
        let mut end = found.end();
        // The last white-space character of a run belongs to the word after it.
        let last = found.as_str().chars().next_back().filter(|c| c.is_whitespace());
        if let Some(last) = last.filter(|last| end < text.len() && found.len() > last.len_utf8()) {
            end -= last.len_utf8();
        }
        *counts.entry(&text[found.start()..end]).or_default() += 1;
        at = end;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::{count_words, learn};

    #[test]
    fn words_are_cut_as_gpt2_cuts_them() {
        let counts = count_words("it's  two words\n\n x1").unwrap();
        let words: Vec<_> = counts.keys().copied().collect();
        assert_eq!(words, ["\n\n", " ", " two", " words", " x", "'s", "1", "it"]);
    }

    #[test]
    fn the_most_frequent_pairs_are_merged_first() {
        // Sennrich et al., section 3.2, without their end-of-word sign: e s, es t, l o, lo w come first.
        let text = ["low"; 5].join(" ") + &" lower".repeat(2) + &" newest".repeat(6) + &" widest".repeat(3);
        let pieces = learn(&text, 256 + 4).unwrap();
        let learned: Vec<_> = pieces.tokens[256..].iter().map(|t| String::from_utf8(t.clone()).unwrap()).collect();
        assert_eq!(learned, ["es", "est", "lo", "low"]);
    }

    #[test]
    fn learning_stops_where_nothing_repeats() {
        assert_eq!(learn("ab", 1000).unwrap().tokens.len(), 256);
    }
}
