//! A regular expression that is matched from where a word begins, and from nowhere else.
//!
//! A cutter of words knows where each match starts and asks only where it ends. A lazily built automaton (as RE2 has it;
//! <https://swtch.com/~rsc/regexp/regexp3.html>) answers that in one pass, without the reverse automaton, the literal
//! searchers and the fallbacks of a general engine: half the memory and a third of its code.

use std::sync::{Mutex, PoisonError, TryLockError};

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input};

use super::error::TokenizerError;

/// Most bytes of automaton that are kept; what does not fit is built anew when it is met again.
const CACHE_BYTES: usize = 512 << 10;

/// A compiled pattern, for any number of threads.
#[derive(Debug)]
pub(super) struct Pattern {
    dfa: DFA,
    cache: Mutex<Cache>,
}

impl Pattern {
    /// Compiles a pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, TokenizerError> {
        let dfa = DFA::builder()
            .configure(DFA::config().cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true))
            .thompson(thompson::Config::new().which_captures(WhichCaptures::None))
            .build(pattern)?;
        let cache = Mutex::new(dfa.create_cache());
        Ok(Self { dfa, cache })
    }

    /// Hands `f` a matcher; a thread that finds the automaton in use builds one of its own.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Matcher<'_>) -> T) -> T {
        match self.cache.try_lock() {
            Ok(mut cache) => f(&mut Matcher { dfa: &self.dfa, cache: &mut cache }),
            Err(TryLockError::Poisoned(poisoned)) => {
                let mut cache = PoisonError::into_inner(poisoned);
                cache.reset(&self.dfa);
                f(&mut Matcher { dfa: &self.dfa, cache: &mut cache })
            }
            Err(TryLockError::WouldBlock) => f(&mut Matcher { dfa: &self.dfa, cache: &mut self.dfa.create_cache() }),
        }
    }
}

/// A [`Pattern`] in use.
pub(super) struct Matcher<'a> {
    dfa: &'a DFA,
    cache: &'a mut Cache,
}

impl Matcher<'_> {
    /// The bytes of the match at the start of `text`; of several, the one that the pattern prefers.
    pub(super) fn match_len(&mut self, text: &str) -> Result<Option<usize>, TokenizerError> {
        let input = Input::new(text).anchored(Anchored::Yes);
        Ok(self.dfa.try_search_fwd(self.cache, &input)?.map(|end| end.offset()))
    }
}
