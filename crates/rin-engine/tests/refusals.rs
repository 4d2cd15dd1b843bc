//! What the engine refuses, with typed errors, before anything is lost.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_engine::arena::ArenaOptions;
use rin_engine::generate::{Request, Silent, generate};
use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Engine, Error, LoadOptions};
use rin_model::ModelFile;
use rin_testkit::data::conformance;

fn open() -> ModelFile {
    ModelFile::open(&conformance("models/tiny-llama")).unwrap()
}

fn load(change: impl FnOnce(&mut LoadOptions)) -> Result<Engine, Error> {
    let mut options = LoadOptions { threads: Some(1), ctx: Some(64), ..LoadOptions::default() };
    change(&mut options);
    Engine::load(open(), &options, |_| {})
}

/// A copy of the tiny F32 GGUF with one value of its tensor data replaced.
fn with_value(name: &str, value: f32) -> ModelFile {
    let path = conformance("models/tiny-llama-tied/tiny-llama-tied-f32.gguf");
    let place = {
        let file = ModelFile::open(&path).unwrap();
        let t = file.tensor(name).unwrap();
        usize::try_from(t.offset).unwrap() + 5 * 4
    };
    let mut bytes = std::fs::read(path).unwrap();
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    ModelFile::from_bytes("changed.gguf", bytes).unwrap()
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (tensor, value) in [("blk.1.ffn_up.weight", f32::NAN), ("output_norm.weight", f32::INFINITY)] {
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        match Engine::load(with_value(tensor, value), &options, |_| {}) {
            Err(Error::NonFiniteWeight { tensor: found, .. }) => assert_eq!(found, tensor),
            other => panic!("{tensor}: {other:?}"),
        }
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_and_nothing_is_fed() {
    let mut engine = load(|_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    let refused = engine.feed(&sequence, &[1; 65]).map(<[f32]>::len);
    assert!(matches!(refused, Err(Error::PromptTooLong { tokens: 65, ctx: 64 })), "{refused:?}");
    assert_eq!(engine.position(&sequence), 0);
    engine.feed(&sequence, &[1; 64]).unwrap();
    assert!(matches!(engine.feed(&sequence, &[1]).map(<[f32]>::len), Err(Error::PromptTooLong { tokens: 65, .. })));
}

#[test]
fn unknown_ids_and_empty_prompts_are_refused() {
    let mut engine = load(|_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    assert!(matches!(
        engine.feed(&sequence, &[1, 288]).map(<[f32]>::len),
        Err(Error::UnknownToken { id: 288, n_vocab: 288 })
    ));
    assert!(matches!(engine.feed(&sequence, &[]).map(<[f32]>::len), Err(Error::EmptyPrompt)));
    assert_eq!(engine.position(&sequence), 0);
}

#[test]
fn sequences_are_as_many_as_were_planned() {
    let mut engine = load(|o| o.n_sequences = 2).unwrap();
    let (a, _b) = (engine.sequence().unwrap(), engine.sequence().unwrap());
    assert!(matches!(engine.sequence(), Err(Error::NoSequenceLeft(2))));
    engine.release(a);
    engine.sequence().unwrap();
}

#[test]
fn sequences_do_not_see_each_other() {
    let mut alone = load(|_| {}).unwrap();
    let s = alone.sequence().unwrap();
    let want = alone.feed(&s, &[1, 20, 30, 40]).unwrap().to_vec();
    let mut both = load(|o| o.n_sequences = 3).unwrap();
    let (a, b) = (both.sequence().unwrap(), both.sequence().unwrap());
    both.feed(&a, &[9, 8, 7]).unwrap();
    both.feed(&b, &[1, 20]).unwrap();
    both.feed(&a, &[6, 5]).unwrap();
    let got = both.feed(&b, &[30, 40]).unwrap();
    assert!(got.iter().zip(&want).all(|(g, w)| g.to_bits() == w.to_bits()));
}

#[test]
fn a_plan_that_does_not_fit_says_both_numbers() {
    let error = load(|o| o.memory_limit = Some(1000)).unwrap_err();
    assert!(matches!(error, Error::DoesNotFit(_)), "{error:?}");
    let plan = LoadOptions { ctx: Some(64), ..LoadOptions::default() }.plan(&open()).unwrap();
    let text = error.to_string();
    assert!(text.contains(&plan.total_bytes().to_string()) && text.contains("1000"), "{text}");
}

#[test]
fn options_out_of_range_are_named() {
    for (change, field) in [
        ((|o| o.ctx = Some(0)) as fn(&mut LoadOptions), "ctx"),
        (|o| o.ctx = Some(usize::MAX), "ctx"),
        (|o| o.n_batch = 0, "batch"),
        (|o| o.n_sequences = usize::MAX, "sequences"),
    ] {
        match load(change) {
            Err(Error::BadOption { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}

#[test]
fn a_plan_past_the_address_space_is_an_error() {
    let options = LoadOptions { ctx: Some(1 << 31), n_sequences: 1 << 20, n_batch: 1, ..LoadOptions::default() };
    let planned = options.plan(&open()).map(|p| p.total_bytes());
    assert!(
        matches!(planned, Err(Error::PlanOverflow { .. })) || planned.as_ref().is_ok_and(|&b| b > 1 << 50),
        "{planned:?}"
    );
}

#[test]
fn the_arena_is_exactly_the_plan() {
    for (ctx, n_batch, n_sequences) in [(64, 16, 1), (200, 512, 2), (1, 1, 1), (4096, 7, 1)] {
        let options = LoadOptions {
            threads: Some(1),
            ctx: Some(ctx),
            n_batch,
            n_sequences,
            arena: ArenaOptions::default(),
            ..LoadOptions::default()
        };
        let plan = options.plan(&open()).unwrap();
        let engine = Engine::load(open(), &options, |_| {}).unwrap();
        assert_eq!(engine.arena_len(), plan.arena_bytes());
        let end = plan.slots.iter().map(|s| s.offset + s.bytes).max().unwrap();
        assert_eq!(end.next_multiple_of(64), plan.arena_bytes(), "no byte is planned for nothing");
        // State: frequencies, and for each layer and sequence whole pages of keys and values.
        let page = plan.kv_type.k_page_bytes(16) + plan.kv_type.v_page_bytes(16);
        let kv = 2 * 2 * page * ctx.div_ceil(64) * n_sequences;
        let tokens = 4 * 64 * ctx.div_ceil(64) * n_sequences;
        assert_eq!(plan.state_bytes, kv + tokens + 64);
    }
}

#[test]
fn a_prompt_that_fills_the_context_leaves_no_room() {
    let mut engine = load(|_| {}).unwrap();
    let file = open();
    let tokenizer = Tokenizer::from_source(&file.tokenizer().unwrap()).unwrap();
    let mut run = |prompt: usize, max_tokens| {
        let request = Request { prompt: vec![1; prompt], max_tokens, ignore_eos: true, ..Request::default() };
        generate(&mut engine, Some(&tokenizer), &request, &mut Silent).map(|o| o.tokens.len())
    };
    assert!(matches!(run(64, Some(1)), Err(Error::PromptTooLong { .. })));
    assert!(matches!(run(0, Some(1)), Err(Error::EmptyPrompt)));
    assert_eq!(run(64, Some(0)).unwrap(), 0);
    assert_eq!(run(60, None).unwrap(), 4, "generation ends where the context does");
    assert_eq!(run(1, Some(3)).unwrap(), 3);
}
