//! Finds control and user-defined tokens in a text: a trie, leftmost match first, longest match first.

use super::error::TokenizerError;
use super::merge::{NONE, index_u32};

/// Longest text in bytes of a token that is searched for in the input; it bounds the search at each position.
const MAX_SPECIAL_BYTES: usize = 256;

/// White space next to a token that belongs to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strip {
    /// The token takes the white space before it.
    pub left: bool,
    /// The token takes the white space after it.
    pub right: bool,
}

/// A token that is found in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpecialToken<'a> {
    pub(super) id: u32,
    pub(super) text: &'a [u8],
    /// Found only where the caller asks for control tokens.
    pub(super) control: bool,
    pub(super) strip: Strip,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Its edges are `edges[first..last]`, ascending by byte.
    first: u32,
    last: u32,
    /// Index of the token that ends here, or [`NONE`].
    token: u32,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    id: u32,
    control: bool,
    strip: Strip,
}

/// A piece of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    /// Text to be split and merged, with its byte offset.
    Text(usize, &'t str),
    /// A token that the input spells out.
    Token(u32),
}

/// The trie over all special tokens.
#[derive(Debug)]
pub(super) struct SpecialTrie {
    nodes: Vec<Node>,
    edges: Vec<(u8, u32)>,
    tokens: Vec<Found>,
    /// Bytes that some token begins with.
    begins: Box<[bool; 256]>,
}

/// What a trie holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TrieSize {
    nodes: usize,
    tokens: usize,
}

impl TrieSize {
    /// Counts the texts of special tokens, in any order and with repetitions.
    pub(super) fn of(mut texts: Vec<&[u8]>) -> Self {
        texts.sort_unstable();
        texts.dedup();
        texts.retain(|text| !text.is_empty());
        let shared = |pair: &[&[u8]]| match pair {
            [a, b] => a.iter().zip(*b).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        // A node for every beginning of a text, the empty one among them.
        Self { nodes: 1 + bytes - texts.windows(2).map(shared).sum::<usize>(), tokens: texts.len() }
    }

    /// Bytes of the trie.
    pub(super) const fn bytes(&self) -> usize {
        // Every node but the first is the end of an edge.
        self.nodes * size_of::<Node>()
            + self.nodes.saturating_sub(1) * size_of::<(u8, u32)>()
            + self.tokens * size_of::<Found>()
            + size_of::<[bool; 256]>()
    }
}

impl SpecialTrie {
    /// Builds the trie; of two tokens with the same text the first counts, empty texts are never found.
    pub(super) fn new(tokens: &[SpecialToken<'_>], size: TrieSize) -> Result<Self, TokenizerError> {
        for token in tokens {
            if token.text.len() > MAX_SPECIAL_BYTES {
                let reason = format!("special token of {} bytes, limit {MAX_SPECIAL_BYTES}", token.text.len());
                return Err(TokenizerError::bad(format!("token {}", token.id), reason));
            }
        }
        let mut sorted: Vec<_> = tokens.iter().filter(|token| !token.text.is_empty()).collect();
        sorted.sort_by_key(|token| token.text);
        sorted.dedup_by_key(|token| token.text);
        let mut nodes = Vec::with_capacity(size.nodes);
        nodes.push(Node { first: 0, last: 0, token: NONE });
        let mut trie = Self {
            nodes,
            edges: Vec::with_capacity(size.nodes.saturating_sub(1)),
            tokens: sorted.iter().map(|t| Found { id: t.id, control: t.control, strip: t.strip }).collect(),
            begins: Box::new([false; 256]),
        };
        // Each entry is a node: its range of sorted tokens, which agree on their first `depth` bytes.
        let mut ranges = vec![(0, sorted.len(), 0_usize)];
        let mut node = 0;
        while let Some(&(mut low, high, depth)) = ranges.get(node) {
            let first = index_u32(trie.edges.len());
            let mut token = NONE;
            while let Some(entry) = sorted[low..high].first() {
                let Some(&byte) = entry.text.get(depth) else {
                    token = index_u32(low);
                    low += 1;
                    continue;
                };
                let same = sorted[low..high].partition_point(|other| other.text.get(depth) == Some(&byte));
                trie.edges.push((byte, index_u32(ranges.len())));
                ranges.push((low, low + same, depth + 1));
                trie.nodes.push(Node { first: 0, last: 0, token: NONE });
                low += same;
            }
            trie.nodes[node] = Node { first, last: index_u32(trie.edges.len()), token };
            node += 1;
        }
        for token in &sorted {
            trie.begins[usize::from(token.text[0])] = true;
        }
        Ok(trie)
    }

    /// The longest token at the start of `text`, and its length in bytes.
    fn longest(&self, text: &[u8], control: bool) -> Option<(Found, usize)> {
        let mut node = *self.nodes.first()?;
        let mut best = None;
        for (depth, &byte) in text.iter().enumerate() {
            let edges = self.edges.get(node.first as usize..node.last as usize)?;
            // Nearly every node has one edge or two.
            let edge = match edges {
                [edge] | [edge, _] if edge.0 == byte => Some(edge),
                [] | [_] => None,
                [_, edge] => Some(edge).filter(|edge| edge.0 == byte),
                _ => edges.binary_search_by_key(&byte, |edge| edge.0).ok().map(|at| &edges[at]),
            };
            let Some(&(_, target)) = edge else { break };
            node = *self.nodes.get(target as usize)?;
            if let Some(&found) = self.tokens.get(node.token as usize)
                && (control || !found.control)
            {
                best = Some((found, depth + 1));
            }
        }
        best
    }

    /// The token whose whole text is `text`.
    pub(super) fn exact(&self, text: &[u8]) -> Option<u32> {
        self.longest(text, true).filter(|&(_, len)| len == text.len()).map(|(found, _)| found.id)
    }

    /// Cuts `text` into tokens that it spells out and the text between them; no empty text.
    ///
    /// `control` says whether control tokens count, or only user-defined ones.
    pub(super) fn segments<'s, 't: 's>(
        &'s self,
        text: &'t str,
        control: bool,
    ) -> impl Iterator<Item = Segment<'t>> + 's {
        let mut position = 0;
        let mut waiting = None;
        std::iter::from_fn(move || {
            if let Some(id) = waiting.take() {
                return Some(Segment::Token(id));
            }
            let start = position;
            let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
            let Some((at, found, len)) = self.next_token(rest, control) else {
                position = text.len();
                return Some(Segment::Text(start, rest));
            };
            let (mut before, mut after) = (&rest[..at], &rest[at + len..]);
            if found.strip.left {
                before = before.trim_end();
            }
            if found.strip.right {
                after = after.trim_start();
            }
            position = text.len() - after.len();
            if before.is_empty() {
                return Some(Segment::Token(found.id));
            }
            waiting = Some(found.id);
            Some(Segment::Text(start, before))
        })
    }

    /// The first token in `text` that lies on whole characters: its offset, and its length in bytes.
    fn next_token(&self, text: &str, control: bool) -> Option<(usize, Found, usize)> {
        let bytes = text.as_bytes();
        bytes.iter().enumerate().filter(|&(_, &byte)| self.begins[usize::from(byte)]).find_map(|(at, _)| {
            let (found, len) = self.longest(&bytes[at..], control)?;
            (text.is_char_boundary(at) && text.is_char_boundary(at + len)).then_some((at, found, len))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str, control: bool) -> SpecialToken<'_> {
        SpecialToken { id, text: text.as_bytes(), control, strip: Strip::default() }
    }

    fn trie(tokens: &[SpecialToken<'_>]) -> SpecialTrie {
        SpecialTrie::new(tokens, TrieSize::of(tokens.iter().map(|token| token.text).collect())).unwrap()
    }

    #[test]
    fn leftmost_longest_and_control_only_on_request() {
        let tokens = [
            token(1, "<a>", true),
            token(2, "<a>b", true),
            token(3, "  ", false),
            token(4, "é", false),
            token(5, "", true),
        ];
        let trie = trie(&tokens);
        assert_eq!((trie.nodes.len(), trie.nodes.capacity()), (9, 9));
        assert_eq!((trie.edges.len(), trie.edges.capacity()), (8, 8));
        let cut = |text, control| trie.segments(text, control).collect::<Vec<_>>();
        assert_eq!(cut("", true), []);
        assert_eq!(
            cut("x<a>bé<a>", true),
            [Segment::Text(0, "x"), Segment::Token(2), Segment::Token(4), Segment::Token(1)]
        );
        assert_eq!(cut("<a> <a", false), [Segment::Text(0, "<a> <a")]);
        assert_eq!(cut("   y", false), [Segment::Token(3), Segment::Text(2, " y")]);
    }

    #[test]
    fn strip_takes_the_white_space_around() {
        let strip = Strip { left: true, right: true };
        let trie = trie(&[SpecialToken { id: 7, text: b"<m>", control: true, strip }]);
        let cut: Vec<_> = trie.segments("a \n<m>\t b <m>", true).collect();
        assert_eq!(cut, [Segment::Text(0, "a"), Segment::Token(7), Segment::Text(8, "b"), Segment::Token(7)]);
    }

    #[test]
    fn a_special_token_is_bounded() {
        let long = "x".repeat(MAX_SPECIAL_BYTES + 1);
        let error = SpecialTrie::new(&[token(9, &long, true)], TrieSize::default()).unwrap_err();
        assert!(matches!(error, TokenizerError::BadVocab { ref place, .. } if place == "token 9"), "{error}");
    }
}
