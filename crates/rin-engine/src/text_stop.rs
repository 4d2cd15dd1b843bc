//! Stop strings over streamed text.
//!
//! Text that could be the beginning of a stop string is held back until what follows decides.

/// Finds the first of several stop strings in text that comes in pieces, and passes on the text before it.
///
/// The first match is the one that ends first; of several that end together, the longest. So the text that is passed on
/// contains no stop string, and how the text was cut into pieces does not show.
///
/// The search is Knuth, Morris and Pratt's (1977), one automaton per stop string over bytes. The text held back is always
/// the longest suffix of the text that begins a stop string, so it is kept as a length only; as both text and stop strings
/// are valid UTF-8, it begins and ends between characters.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<StopString>,
    /// The stop string whose beginning is held back.
    held_stop: usize,
    /// How many bytes of it are held back.
    n_held: usize,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct StopString {
    text: Box<str>,
    /// `borders[n]`: length of the longest proper prefix of the first `n + 1` bytes that is also their suffix.
    borders: Box<[usize]>,
    /// How many bytes of `text` the text so far ends with, at most.
    n_matched: usize,
}

impl StopString {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for end in 1..bytes.len() {
            border = extend_match(bytes, &borders, border, bytes[end]);
            borders[end] = border;
        }
        Self { text: text.into(), borders: borders.into(), n_matched: 0 }
    }

    /// Takes one byte of text; true if the stop string is now complete.
    fn advance(&mut self, byte: u8) -> bool {
        self.n_matched = extend_match(self.text.as_bytes(), &self.borders, self.n_matched, byte);
        self.n_matched == self.text.len()
    }
}

/// The longest prefix of `pattern` that ends with `byte`, where `n_matched < pattern.len()` bytes matched before it.
fn extend_match(pattern: &[u8], borders: &[usize], mut n_matched: usize, byte: u8) -> usize {
    while n_matched > 0 && pattern[n_matched] != byte {
        n_matched = borders[n_matched - 1];
    }
    if pattern[n_matched] == byte { n_matched + 1 } else { n_matched }
}

impl StopMatcher {
    /// A matcher for these stop strings. Empty ones match nothing.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.as_ref().is_empty());
        Self {
            stops: stops.map(|stop| StopString::new(stop.as_ref())).collect(),
            held_stop: 0,
            n_held: 0,
            stopped: false,
        }
    }

    /// Takes a piece of text and appends to `out` what is certain to come before any stop string. Returns whether a stop
    /// string was found, in this piece or before; text after it is dropped.
    ///
    /// Allocates only if `out` lacks the capacity.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        for (index, byte) in text.bytes().enumerate() {
            // Every automaton has to take the byte: the longest complete one counts.
            let mut n_stop = 0;
            for stop in &mut self.stops {
                if stop.advance(byte) {
                    n_stop = n_stop.max(stop.text.len());
                }
            }
            if n_stop > 0 {
                self.release(text, self.n_held + index + 1 - n_stop, out);
                self.stopped = true;
                self.n_held = 0;
                return true;
            }
        }
        // `max_by_key` over nothing: without stop strings nothing is held back.
        let longest = self.stops.iter().enumerate().max_by_key(|(_, stop)| stop.n_matched);
        let (held_stop, n_held) = longest.map_or((0, 0), |(index, stop)| (index, stop.n_matched));
        self.release(text, self.n_held + text.len() - n_held, out);
        (self.held_stop, self.n_held) = (held_stop, n_held);
        false
    }

    /// Ends the text: appends what was held back, unless a stop string was found, and makes the matcher ready for another
    /// text.
    pub fn finish(&mut self, out: &mut String) {
        self.release("", self.n_held, out);
        self.n_held = 0;
        self.stopped = false;
        for stop in &mut self.stops {
            stop.n_matched = 0;
        }
    }

    /// Whether a stop string was found.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Appends the first `n` bytes of the held text followed by `text`.
    fn release(&self, text: &str, n: usize, out: &mut String) {
        if self.n_held > 0 {
            out.push_str(&self.stops[self.held_stop].text[..n.min(self.n_held)]);
        }
        out.push_str(&text[..n.saturating_sub(self.n_held)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes the pieces and ends the text: what came out, and whether it stopped.
    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let (mut matcher, mut out) = (StopMatcher::new(stops), String::new());
        for piece in pieces {
            matcher.push(piece, &mut out);
        }
        let stopped = matcher.is_stopped();
        matcher.finish(&mut out);
        (out, stopped)
    }

    /// The whole text searched from the left for the first place where a stop string ends.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for end in 1..=text.len() {
            let complete =
                stops.iter().filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(longest) = complete.map(String::len).max() {
                return (text[..end - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn stops_within_a_piece_and_across_many() {
        let expected = ("Hello ".to_owned(), true);
        assert_eq!(stream(&["\nUser:"], &["Hello \nUser: more"]), expected);
        assert_eq!(stream(&["\nUser:"], &["Hel", "lo \n", "Us", "", "e", "r", ":", " more"]), expected);
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_released() {
        let (mut matcher, mut out) = (StopMatcher::new(["</s>"]), String::new());
        assert!(!matcher.push("a<", &mut out));
        assert_eq!(out, "a");
        assert!(!matcher.push("/", &mut out));
        assert_eq!(out, "a");
        assert!(!matcher.push("<", &mut out));
        assert_eq!(out, "a</");
        matcher.finish(&mut out);
        assert_eq!(out, "a</<");
    }

    #[test]
    fn overlapping_stops_end_at_the_earliest_end_and_take_the_longest() {
        assert_eq!(stream(&["bc", "abc"], &["xa", "bc"]), ("x".to_owned(), true));
        assert_eq!(stream(&["abc", "bc"], &["xa", "bc"]), ("x".to_owned(), true));
        assert_eq!(stream(&["abcd", "b"], &["xabcd"]), ("xa".to_owned(), true));
        assert_eq!(stream(&["aab"], &["aa", "ab"]), ("a".to_owned(), true));
    }

    #[test]
    fn characters_that_share_leading_bytes_are_kept_whole() {
        // é is C3 A9, è is C3 A8, … is E2 80 A6.
        assert_eq!(stream(&["é"], &["caf", "è", "é"]), ("cafè".to_owned(), true));
        assert_eq!(stream(&["a…b"], &["a", "…", "…b"]), ("a……b".to_owned(), false));
    }

    #[test]
    fn without_stops_everything_passes() {
        assert_eq!(stream(&[], &["a", "b"]), ("ab".to_owned(), false));
        assert_eq!(stream(&[""], &["a", "b"]), ("ab".to_owned(), false));
    }

    #[test]
    fn nothing_follows_a_stop_until_finish() {
        let (mut matcher, mut out) = (StopMatcher::new(["."]), String::new());
        assert!(matcher.push("a.b", &mut out));
        assert!(matcher.push("c", &mut out));
        assert!(matcher.is_stopped());
        matcher.finish(&mut out);
        assert_eq!(out, "a");
        assert!(!matcher.push("d", &mut out));
        assert_eq!(out, "ad");
    }

    proptest! {
        #[test]
        fn equals_the_naive_search_for_any_pieces(
            stops in prop::collection::vec("[aéè]{0,4}", 0..4),
            pieces in prop::collection::vec("[aéè]{0,5}", 0..12),
        ) {
            let (expected, expected_stopped) = naive(&stops, &pieces.concat());
            let (mut matcher, mut out, mut text) = (StopMatcher::new(&stops), String::new(), String::new());
            for piece in &pieces {
                text.push_str(piece);
                if matcher.push(piece, &mut out) {
                    break;
                }
                // Exactly the longest suffix that begins a stop string is held back.
                let held = &text[out.len()..];
                let begins = |suffix: &str| stops.iter().any(|stop| stop.len() > suffix.len() && stop.starts_with(suffix));
                let longest = text.char_indices().map(|(at, _)| &text[at..]).find(|suffix| begins(suffix)).unwrap_or("");
                prop_assert_eq!(held, longest);
                prop_assert!(text.starts_with(&out));
            }
            prop_assert_eq!(matcher.is_stopped(), expected_stopped);
            matcher.finish(&mut out);
            prop_assert_eq!(&out, &expected);
            prop_assert!(!stops.iter().any(|stop| !stop.is_empty() && out.contains(stop.as_str())));
        }
    }
}
