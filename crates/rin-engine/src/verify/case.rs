//! The ways to compute one text.

use super::VerifyOptions;
use crate::{Engine, Error, Feed, Rows, Sequence, Trace};
use rin_kernels::Tier;

/// The values that each axis takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    /// Instruction tiers.
    pub tiers: Vec<Tier>,
    /// Threads.
    pub threads: Vec<usize>,
    /// Sequences in a step, the one that is compared among them.
    pub batch: Vec<usize>,
    /// Tokens of the prompt in a step.
    pub chunk: Vec<usize>,
    /// Whether the prompt's first pages are in the cache already.
    pub cache_hit: Vec<bool>,
}

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Instruction tier.
    pub tier: Tier,
    /// Threads.
    pub threads: usize,
    /// Sequences in a step.
    pub batch: usize,
    /// Tokens of the prompt in a step.
    pub chunk: usize,
    /// Whether the prompt's first pages are in the cache already.
    pub cache_hit: bool,
}

impl Axes {
    /// The values of the contract, over the tiers of this machine.
    pub fn contract(tiers: Vec<Tier>) -> Self {
        Self {
            tiers,
            threads: vec![1, 2, 3, 5, 8],
            batch: vec![1, 2, 3, 7, 16],
            chunk: vec![1, 7, 64, 512],
            cache_hit: vec![false, true],
        }
    }

    /// All combinations, or one chunk for each combination of the others, such that all pairs of values occur. Those with
    /// one tier and one number of threads follow each other.
    pub fn cases(&self, full: bool) -> Vec<Case> {
        let mut cases = Vec::new();
        for (t, &tier) in self.tiers.iter().enumerate() {
            for (n, &threads) in self.threads.iter().enumerate() {
                for (b, &batch) in self.batch.iter().enumerate() {
                    for (h, &cache_hit) in self.cache_hit.iter().enumerate() {
                        for (c, &chunk) in self.chunk.iter().enumerate() {
                            // A Latin square over the chunks.
                            if full || (t + n + b + 2 * h) % self.chunk.len().max(1) == c {
                                cases.push(Case { tier, threads, batch, chunk, cache_hit });
                            }
                        }
                    }
                }
            }
        }
        cases
    }
}

impl Case {
    /// The definition: nothing that could make it faster.
    pub const BASELINE: Self = Self { tier: Tier::Scalar, threads: 1, batch: 1, chunk: 1, cache_hit: false };
}

/// Text number `i`: ids that look random, the same on every machine.
pub(super) fn text(i: usize, n_vocab: usize, n: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i as u64 + 1);
    let next = |_| {
        // splitmix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // Below the size of the vocabulary, which is below 2^32.
        u32::try_from(z % n_vocab.max(1) as u64).unwrap_or(0)
    };
    (0..n).map(next).collect()
}

/// Computes `tokens` in one way; `each` gets the position and logits of the last token of the prompt and of each one after
/// it, and may change the tokens that follow.
pub(super) fn run_case(
    engine: &mut Engine,
    case: &Case,
    options: &VerifyOptions,
    tokens: &mut [u32],
    each: impl FnMut(&mut [u32], usize, &[f32]),
) -> Result<(), Error> {
    run_traced(engine, case, options, tokens, each, None)
}

/// Who hears of every row of the network.
pub(super) type Tracer<'a> = Option<&'a mut dyn FnMut(&Trace<'_>)>;

/// As [`run_case`]; `tracer` gets the rows of the sequence that is compared.
pub(super) fn run_traced(
    engine: &mut Engine,
    case: &Case,
    options: &VerifyOptions,
    tokens: &mut [u32],
    mut each: impl FnMut(&mut [u32], usize, &[f32]),
    mut tracer: Tracer<'_>,
) -> Result<(), Error> {
    engine.reconfigure(case.tier, case.threads, options.affinity)?;
    engine.forget_prefixes();
    let prompt = options.prompt.len();
    if case.cache_hit {
        let before = engine.admit(&[], prompt)?;
        engine.feed(&before, &tokens[..prompt])?;
        engine.release(before);
    }
    let limit = tokens.len();
    let main = engine.admit(&tokens[..prompt], limit)?;
    let mut others = Vec::new();
    let outcome = beside(engine, case, prompt, limit, &mut others)
        .and_then(|()| advance(engine, case, prompt, &main, &mut others, tokens, &mut each, &mut tracer));
    engine.release(main);
    for other in others {
        engine.release(other.sequence);
    }
    outcome
}

/// A sequence that is computed beside the one that is compared.
struct Other {
    sequence: Sequence,
    ids: Vec<u32>,
    at: usize,
}

impl Other {
    /// Its next token, where it has one.
    fn next(&self) -> Option<Feed<'_>> {
        let tokens = self.ids.get(self.at..=self.at)?;
        Some(Feed { sequence: &self.sequence, tokens, rows: Rows::Last })
    }
}

/// Makes the others: with texts of their own, and ahead by different numbers of tokens.
fn beside(engine: &mut Engine, case: &Case, prompt: usize, limit: usize, others: &mut Vec<Other>) -> Result<(), Error> {
    for i in 1..case.batch {
        let ids = text(i, engine.plan().config.vocab, limit);
        let sequence = engine.admit(&[], limit)?;
        let at = (7 * i) % prompt.max(1);
        others.push(Other { sequence, ids, at });
        if let (true, Some(other)) = (at > 0, others.last()) {
            engine.feed(&other.sequence, &other.ids[..at])?;
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the pieces of one case")]
fn advance(
    engine: &mut Engine,
    case: &Case,
    prompt: usize,
    main: &Sequence,
    others: &mut [Other],
    tokens: &mut [u32],
    each: &mut impl FnMut(&mut [u32], usize, &[f32]),
    tracer: &mut Tracer<'_>,
) -> Result<(), Error> {
    let n_vocab = engine.plan().config.vocab;
    let mut at = engine.position(main);
    while at < tokens.len() {
        let n = if at < prompt { case.chunk.min(prompt - at) } else { 1 };
        let rows = if at + n >= prompt { Rows::Last } else { Rows::None };
        // The compared sequence stands in the middle of the step.
        let (left, right) = others.split_at(others.len() / 2);
        let mut feeds: Vec<Feed<'_>> = left.iter().filter_map(Other::next).collect();
        let place = feeds.len();
        feeds.push(Feed { sequence: main, tokens: &tokens[at..at + n], rows });
        feeds.extend(right.iter().filter_map(Other::next));
        let logits = match tracer {
            None => engine.step(&feeds)?,
            Some(tracer) => engine.step_traced(&feeds, |trace| {
                if trace.feed == place {
                    tracer(trace);
                }
            })?,
        };
        at += n;
        if rows == Rows::Last {
            each(tokens, at - 1, &logits[place * n_vocab..][..n_vocab]);
        }
        for other in &mut *others {
            other.at += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Axes, text};
    use rin_kernels::Tier;

    #[test]
    fn a_quarter_of_the_cases_has_every_pair_of_values() {
        let axes = Axes::contract(vec![Tier::Scalar, Tier::Avx2]);
        let (all, some) = (axes.cases(true), axes.cases(false));
        assert_eq!((all.len(), some.len()), (2 * 5 * 5 * 4 * 2, 2 * 5 * 5 * 2));
        assert!(some.iter().all(|case| all.contains(case)));
        for &chunk in &axes.chunk {
            let with: Vec<_> = some.iter().filter(|case| case.chunk == chunk).collect();
            for &batch in &axes.batch {
                assert!(with.iter().any(|case| case.batch == batch), "chunk {chunk}, batch {batch}");
            }
            for &threads in &axes.threads {
                assert!(with.iter().any(|case| case.threads == threads), "chunk {chunk}, {threads} threads");
            }
            for hit in [false, true] {
                assert!(with.iter().any(|case| case.cache_hit == hit), "chunk {chunk}, {hit}");
            }
            for &tier in &axes.tiers {
                assert!(with.iter().any(|case| case.tier == tier), "chunk {chunk}, {tier}");
            }
        }
    }

    #[test]
    fn texts_differ_and_stay_within_the_vocabulary() {
        let (a, b) = (text(0, 288, 500), text(1, 288, 500));
        assert_ne!(a, b);
        assert!(a.iter().chain(&b).all(|&id| id < 288));
        assert_eq!(text(0, 288, 10), a[..10]);
    }
}
