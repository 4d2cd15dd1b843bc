//! Several sequences in one engine: steps over a batch of them, shared prefixes, truncation. None changes a bit.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_engine::{Engine, Error, Feed, LoadOptions, Rows};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::conformance;

fn engine(change: impl Fn(&mut LoadOptions)) -> Engine {
    let path = conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf");
    let mut options =
        LoadOptions { threads: Some(2), ctx: Some(512), n_batch: 64, n_logits: 64, ..LoadOptions::default() };
    change(&mut options);
    Engine::load(ModelFile::open(&path).unwrap(), &options, |_| {}).unwrap()
}

fn ids(n: usize, salt: u32) -> Vec<u32> {
    (0..n).map(|i| (u32::try_from(i).unwrap() * 37 + salt * 101) % 280).collect()
}

/// The logits after every token, by an engine that holds nothing else.
fn alone(tokens: &[u32], kv: KvType) -> Vec<Vec<u32>> {
    let mut engine = engine(|o| o.kv_type = Some(kv));
    let sequence = engine.sequence().unwrap();
    let mut rows = Vec::new();
    engine.feed_all(&sequence, tokens, |row| rows.push(bits(row))).unwrap();
    rows
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_step_over_many_sequences_has_the_bits_of_each_alone() {
    for kv in KvType::ALL {
        let prompts: Vec<Vec<u32>> = (0..5).map(|i| ids(40 + 30 * i, u32::try_from(i).unwrap())).collect();
        let want: Vec<_> = prompts.iter().map(|prompt| alone(prompt, kv)).collect();
        let mut engine = engine(|o| (o.n_sequences, o.kv_type) = (5, Some(kv)));
        let sequences: Vec<_> = prompts.iter().map(|p| engine.admit(p, p.len()).unwrap()).collect();
        // Ragged: each advances by another number of tokens, some wait, prefill stands beside decoding.
        let mut seed = 1_usize;
        let mut fed = [0; 5];
        while fed.iter().zip(&prompts).any(|(&fed, prompt)| fed < prompt.len()) {
            let mut parts = Vec::new();
            for (i, prompt) in prompts.iter().enumerate() {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345) % (1 << 31);
                let n = [0, 1, 3, 12][(seed >> 16) % 4].min(prompt.len() - fed[i]);
                if n > 0 {
                    parts.push((i, fed[i]..fed[i] + n));
                    fed[i] += n;
                }
            }
            let feeds: Vec<Feed<'_>> = parts
                .iter()
                .map(|(i, range)| Feed {
                    sequence: &sequences[*i],
                    tokens: &prompts[*i][range.clone()],
                    rows: Rows::All,
                })
                .collect();
            let logits = engine.step(&feeds).unwrap();
            let found = logits.chunks_exact(288).map(bits);
            let expected = parts.iter().flat_map(|(i, range)| want[*i][range.clone()].iter());
            assert!(found.eq(expected.cloned()), "{kv}");
        }
    }
}

#[test]
fn a_shared_prefix_has_the_bits_of_a_computed_one() {
    for kv in KvType::ALL {
        let common = ids(200, 1);
        let mut prompts = [common.clone(), common.clone(), common];
        prompts[1].extend(ids(50, 2));
        prompts[2].extend(ids(100, 3));
        let mut engine = engine(|o| (o.n_sequences, o.kv_type) = (2, Some(kv)));
        for (i, prompt) in prompts.iter().enumerate() {
            let sequence = engine.admit(prompt, prompt.len()).unwrap();
            let there = engine.position(&sequence);
            assert_eq!(there, if i == 0 { 0 } else { 192 }, "whole pages of 64");
            let want = alone(prompt, kv);
            let mut at = there;
            engine
                .feed_all(&sequence, &prompt[there..], |row| {
                    assert_eq!(bits(row), want[at], "{kv}, position {at}");
                    at += 1;
                })
                .unwrap();
            engine.release(sequence);
        }
        engine.forget_prefixes();
        let sequence = engine.admit(&prompts[0], 200).unwrap();
        assert_eq!(engine.position(&sequence), 0);
    }
}

#[test]
fn going_back_changes_nothing_for_anyone() {
    for kv in KvType::ALL {
        let (prompt, other) = (ids(150, 1), ids(60, 9));
        let branch: Vec<u32> = prompt[..100].iter().chain(&other).copied().collect();
        let (want, want_branch) = (alone(&prompt, kv), alone(&branch, kv));
        let mut engine = engine(|o| (o.n_sequences, o.kv_type) = (2, Some(kv)));
        let first = engine.admit(&prompt, 300).unwrap();
        engine.feed(&first, &prompt[..140]).unwrap();
        // The second takes two pages of the first and goes back into the second of them.
        let second = engine.admit(&prompt[..140], 300).unwrap();
        assert_eq!(engine.position(&second), 128);
        engine.truncate(&second, 100).unwrap();
        let mut at = 100;
        engine
            .feed_all(&second, &other, |row| {
                assert_eq!(bits(row), want_branch[at], "{kv}, position {at}");
                at += 1;
            })
            .unwrap();
        assert_eq!(bits(engine.feed(&first, &prompt[140..]).unwrap()), want[149], "{kv}: the first is as it was");
        engine.truncate(&first, 70).unwrap();
        assert_eq!(bits(engine.feed(&first, &prompt[70..]).unwrap()), want[149], "{kv}: the same again");
    }
}

#[test]
fn a_cache_that_is_shared_is_promised_before_it_is_used() {
    let mut engine = engine(|o| (o.n_sequences, o.kv_positions) = (4, Some(320)));
    assert_eq!(engine.available_positions(), 320);
    let a = engine.admit(&ids(10, 1), 192).unwrap();
    let b = engine.admit(&ids(10, 2), 128).unwrap();
    assert_eq!(engine.available_positions(), 0);
    assert!(matches!(engine.admit(&[1], 1), Err(Error::CacheFull { needed: 64, available: 0 })));
    engine.feed(&a, &ids(192, 1)).unwrap();
    engine.feed(&b, &ids(128, 2)).unwrap();
    let beyond = engine.feed(&b, &[1]).map(<[f32]>::len);
    assert!(matches!(beyond, Err(Error::PromptTooLong { tokens: 129, ctx: 128 })), "{beyond:?}");
    engine.release(a);
    assert_eq!(engine.available_positions(), 192);
    let whole = engine.sequence().map(|_| ());
    assert!(matches!(whole, Err(Error::CacheFull { needed: 512, available: 192 })), "{whole:?}");
}

#[test]
fn a_step_that_cannot_be_is_refused_before_anything_is_fed() {
    let mut engine = engine(|o| (o.n_sequences, o.n_batch, o.n_logits) = (2, 16, 4));
    let (a, b) = (engine.admit(&[], 20).unwrap(), engine.admit(&[], 20).unwrap());
    let (nine, five, bad, twenty_one) = (ids(9, 1), ids(5, 1), [1, 288], ids(21, 1));
    let feed = |sequence, tokens, rows| Feed { sequence, tokens, rows };
    let refused = |engine: &mut Engine, feeds: &[Feed<'_>]| engine.step(feeds).map(<[f32]>::len).unwrap_err();
    let error = refused(&mut engine, &[feed(&a, &nine, Rows::Last), feed(&b, &nine, Rows::Last)]);
    assert!(matches!(error, Error::StepTooLarge { what: "tokens", found: 18, most: 16 }), "{error:?}");
    let error = refused(&mut engine, &[feed(&a, &five, Rows::All)]);
    assert!(matches!(error, Error::StepTooLarge { what: "rows of logits", found: 5, most: 4 }), "{error:?}");
    let error = refused(&mut engine, &[feed(&a, &five, Rows::None), feed(&a, &five, Rows::None)]);
    assert!(matches!(error, Error::StepTooLarge { what: "turns of one sequence", .. }), "{error:?}");
    let error = refused(&mut engine, &[feed(&a, &five, Rows::None), feed(&b, &bad, Rows::None)]);
    assert!(matches!(error, Error::UnknownToken { id: 288, .. }), "{error:?}");
    let error = engine.feed(&a, &twenty_one).map(<[f32]>::len).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { tokens: 21, ctx: 20 }), "{error:?}");
    assert_eq!((engine.position(&a), engine.position(&b)), (0, 0));
    assert_eq!(engine.step(&[feed(&a, &five, Rows::None), feed(&b, &nine, Rows::Last)]).unwrap().len(), 288);
    assert_eq!((engine.position(&a), engine.position(&b)), (5, 9));
}

#[test]
fn a_trace_belongs_to_its_token() {
    let mut engine = engine(|o| o.n_sequences = 2);
    let (a, b) = (engine.admit(&[], 20).unwrap(), engine.admit(&[], 20).unwrap());
    let (first, second) = (ids(7, 1), ids(3, 2));
    let feeds = [
        Feed { sequence: &a, tokens: &first, rows: Rows::None },
        Feed { sequence: &b, tokens: &second, rows: Rows::Last },
    ];
    let mut embedded = Vec::new();
    let mut after_the_layers: Vec<(usize, usize, Vec<u32>)> = Vec::new();
    let traced = engine.step_traced(&feeds, |trace| match (trace.operation, trace.layer) {
        ("embedding", _) => embedded.push((trace.feed, trace.position)),
        ("select" | "linear", None) => after_the_layers.push((trace.feed, trace.position, bits(trace.values))),
        _ => {}
    });
    let logits = bits(traced.unwrap());
    let all: Vec<_> = (0..7).map(|position| (0, position)).chain((0..3).map(|position| (1, position))).collect();
    assert_eq!(embedded, all);
    let owners: Vec<_> = after_the_layers.iter().map(|(feed, position, _)| (*feed, *position)).collect();
    assert_eq!(owners, [(1, 2), (1, 2)], "what is selected is the last token of the second");
    assert_eq!(after_the_layers[1].2, logits);
}
