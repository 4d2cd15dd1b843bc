//! What sequences hold: constant, saved, restored, forked, and never gone back to.

use super::{all, bits, engine, kind, other};
use rin_engine::state::StateError;
use rin_engine::{Engine, Error, LoadOptions};
use rin_model::ModelFile;
use std::path::PathBuf;

fn tokens(engine: &Engine, n: usize) -> Vec<u32> {
    let vocab = u32::try_from(engine.plan().config.vocab).unwrap();
    (0..u32::try_from(n).unwrap()).map(|i| (i * 37 + i / 5) % vocab).collect()
}

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.state", std::process::id()))
}

#[test]
fn what_is_saved_or_forked_goes_on_with_the_same_bits() {
    for (i, path) in all().iter().enumerate() {
        let mut first = engine(path, |o| o.n_sequences = 3);
        let text = tokens(&first, 120);
        let whole = first.sequence().unwrap();
        let want = bits(first.feed(&whole, &text).unwrap());
        let half = first.sequence().unwrap();
        first.feed(&half, &text[..71]).unwrap();
        let saved = place(&format!("memory-{i}"));
        first.save(&half, &text, &saved).unwrap();
        let copy = first.fork(&half).unwrap();
        assert_eq!(first.position(&copy), 71);
        // The original goes elsewhere; the copy does not notice.
        first.feed(&half, &[1, 2, 3]).unwrap();
        assert_eq!(bits(first.feed(&copy, &text[71..]).unwrap()), want, "{}: fork", path.display());

        let mut second = engine(path, |_| {});
        let restored = second.restore(&saved).unwrap();
        assert_eq!((second.position(&restored.sequence), &restored.tokens), (71, &text));
        let got = bits(second.feed(&restored.sequence, &text[71..]).unwrap());
        assert_eq!(got, want, "{}: restored", path.display());
        std::fs::remove_file(saved).unwrap();
    }
}

#[test]
fn a_marked_place_is_come_back_to() {
    for path in [kind("hybrid"), kind("bhrr"), other("tiny-rwkv7"), other("tiny-qwen3-next")] {
        let mut engine = engine(&path, |_| {});
        let text = tokens(&engine, 100);
        let sequence = engine.sequence().unwrap();
        engine.feed(&sequence, &text[..70]).unwrap();
        let mark = engine.mark(&sequence);
        let want = bits(engine.feed(&sequence, &text[70..]).unwrap());
        for _ in 0..2 {
            engine.rewind(&sequence, &mark).unwrap();
            assert_eq!(engine.position(&sequence), 70);
            assert_eq!(bits(engine.feed(&sequence, &text[70..]).unwrap()), want, "{}", path.display());
        }
        engine.truncate(&sequence, 0).unwrap();
        assert!(matches!(engine.rewind(&sequence, &mark), Err(Error::NotRewindable { position: 70 })));
    }
}

#[test]
fn a_place_that_is_used_again_begins_with_nothing() {
    let mut engine = engine(&kind("hybrid"), |_| {});
    let text = tokens(&engine, 40);
    let mut sequence = engine.sequence().unwrap();
    let want = bits(engine.feed(&sequence, &text).unwrap());
    engine.restart(&mut sequence, &[], 256).unwrap();
    assert_eq!(bits(engine.feed(&sequence, &text).unwrap()), want);
    engine.truncate(&sequence, 0).unwrap();
    assert_eq!(bits(engine.feed(&sequence, &text).unwrap()), want);
    let error = engine.truncate(&sequence, 39).unwrap_err();
    assert!(matches!(error, Error::NotRewindable { position: 39 }), "{error}");
    engine.truncate(&sequence, 40).unwrap();
}

#[test]
fn a_state_of_another_memory_is_refused_by_name() {
    let saved = place("other-memory");
    let mut first = engine(&kind("bhrr"), |_| {});
    let sequence = first.sequence().unwrap();
    first.feed(&sequence, &[1, 2, 3]).unwrap();
    first.save(&sequence, &[1, 2, 3], &saved).unwrap();
    for (name, path) in [("model", kind("bhrr-query-norm")), ("model", kind("linear")), ("model", other("tiny-mamba2"))]
    {
        match engine(&path, |_| {}).restore(&saved).unwrap_err() {
            Error::State(StateError::Other { what, .. }) => assert_eq!(what, name),
            error => panic!("{error:?}"),
        }
    }
    // The header of a sound file, with another kind of memory written into it at the same length.
    let text = std::fs::read(&saved).unwrap();
    let at = text.windows(4).position(|w| w == b"bhrr").unwrap();
    let mut changed = text.clone();
    changed[at..at + 4].copy_from_slice(b"gsa ");
    std::fs::write(&saved, &changed).unwrap();
    match first.restore(&saved).unwrap_err() {
        Error::State(StateError::Other { what, found, .. }) => {
            assert_eq!(what, "memory");
            assert!(found.starts_with("gsa"), "{found}");
        }
        error => panic!("{error:?}"),
    }
    std::fs::remove_file(saved).unwrap();
}

/// Bytes of a plan for a context of `ctx`.
fn plan_bytes(path: &std::path::Path, ctx: usize) -> (usize, usize) {
    let file = ModelFile::open(path).unwrap();
    let options = LoadOptions { ctx: Some(ctx), n_batch: 64, ..LoadOptions::default() };
    let plan = options.plan(&file).unwrap();
    (plan.state_bytes, plan.total_bytes())
}

#[test]
fn a_hundred_thousand_tokens_take_the_bytes_of_one() {
    const TOKENS: usize = 100_000;
    for name in ["gated-delta", "bhrr", "gsa"] {
        let path = kind(name);
        assert_eq!(plan_bytes(&path, 128), plan_bytes(&path, TOKENS), "{name}: the plan does not know the context");
        let mut engine = engine(&path, |o| (o.ctx, o.n_batch) = (Some(TOKENS), 512));
        let (held, arena) = (engine.plan().held_bytes(), engine.arena_len());
        let sequence = engine.sequence().unwrap();
        let chunk = tokens(&engine, 500);
        let before = rin_kernels::alloc::allocations();
        for _ in 0..TOKENS / chunk.len() {
            let logits = engine.feed(&sequence, &chunk).unwrap();
            assert!(logits.iter().all(|l| l.is_finite()), "{name}");
        }
        assert_eq!(engine.position(&sequence), TOKENS);
        assert_eq!(rin_kernels::alloc::allocations(), before, "{name}: nothing is allocated");
        assert_eq!((engine.plan().held_bytes(), engine.arena_len()), (held, arena), "{name}");
        let error = engine.feed(&sequence, &[1]).unwrap_err();
        assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
    }
}

#[test]
fn a_memory_takes_what_its_plan_says() {
    // Per head 8 slots of 16 numbers of 4 bytes, two heads; nothing else without a convolution.
    let file = ModelFile::open(&kind("bhrr")).unwrap();
    let plan = LoadOptions::default().plan(&file).unwrap();
    assert_eq!(plan.held_bytes(), 2 * 8 * 16 * 4);
    let options = LoadOptions { ctx: Some(1000), ..LoadOptions::default() };
    let narrow = options.plan(&ModelFile::open(&kind("bhrr-query-norm")).unwrap()).unwrap();
    assert_eq!(narrow.held_bytes(), 2 * 8 * 16 * 2, "16-bit slots");
    // Two heads of 16 × 16, and three rows of queries, keys and values before the convolution.
    let gated = options.plan(&ModelFile::open(&kind("delta")).unwrap()).unwrap();
    assert_eq!(gated.held_bytes(), 2 * 16 * 16 * 4 + 3 * (16 + 16 + 32) * 4);
}
