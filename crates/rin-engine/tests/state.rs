//! A sequence that is saved goes on with the same bits; a file that is not sound is refused.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_engine::generate::{Drafter, Request, Shift, Silent, continue_with, generate};
use rin_engine::sampler::SamplingParams;
use rin_engine::state::StateError;
use rin_engine::{Engine, Error, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use std::path::PathBuf;

fn engine(name: &str, change: impl Fn(&mut LoadOptions)) -> Engine {
    let path = conformance(&format!("models/tiny-llama-b32/tiny-llama-b32-{name}.gguf"));
    let mut options = LoadOptions { threads: Some(2), ctx: Some(256), n_logits: 16, ..LoadOptions::default() };
    change(&mut options);
    Engine::load(ModelFile::open(&path).unwrap(), &options, |_| {}).unwrap()
}

fn request(prompt: Vec<u32>, n: usize, temp: f32) -> Request {
    let sampling = SamplingParams { temp, seed: 5, ..SamplingParams::default() };
    Request { prompt, max_tokens: Some(n), sampling, ignore_eos: true, max_draft: 7, ..Request::default() }
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % 280).collect()
}

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.state", std::process::id()))
}

#[test]
fn what_was_saved_goes_on_with_the_same_bits() {
    for kv in KvType::ALL {
        let path = place(&format!("go-on-{kv}"));
        let load = || engine("q8_0", |o| o.kv_type = Some(kv));
        let want = generate(&mut load(), None, &request(ids(70), 60, 0.9), &mut Silent).unwrap();
        let mut first = load();
        let mut sequence = first.sequence().unwrap();
        let half = request(ids(70), 25, 0.9);
        let half = continue_with(&mut first, &mut sequence, None, &half, None, &mut Silent).unwrap();
        let so_far: Vec<u32> = ids(70).into_iter().chain(half.tokens.iter().copied()).collect();
        first.save(&sequence, &so_far, &path).unwrap();

        let mut second = load();
        let mut restored = second.restore(&path).unwrap();
        assert_eq!(restored.tokens, so_far);
        assert_eq!(second.position(&restored.sequence), 70 + 24, "the last token is not fed yet");
        let rest = request(restored.tokens.clone(), 35, 0.9);
        let rest = continue_with(&mut second, &mut restored.sequence, None, &rest, None, &mut Silent).unwrap();
        assert_eq!([half.tokens, rest.tokens].concat(), want.tokens, "{kv}");
        assert_eq!(rest.cached, 94);
        // The same text computed from its start has the digest of the part that was restored.
        let again = generate(&mut load(), None, &request(so_far, 35, 0.9), &mut Silent).unwrap();
        assert_eq!(rest.digest, again.digest, "{kv}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn files_that_are_not_sound_are_refused() {
    let path = place("unsound");
    let mut model = engine("q8_0", |_| {});
    let sequence = model.sequence().unwrap();
    model.feed(&sequence, &ids(100)).unwrap();
    model.save(&sequence, &ids(100), &path).unwrap();
    model.release(sequence);
    let sound = std::fs::read(&path).unwrap();
    let mut refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = model.restore(&path).unwrap_err();
        // Its place is free again.
        let sequence = model.sequence().unwrap();
        model.release(sequence);
        match error {
            Error::State(error) => error,
            other => panic!("{other:?}"),
        }
    };
    for cut in [0, 7, 15, 16, 100, sound.len() / 2, sound.len() - 1] {
        let error = refusal(&sound[..cut]);
        assert!(matches!(&error, StateError::Damaged { .. }), "cut at {cut}: {error:?}");
    }
    for at in [0, 9, 13, 20, 40, sound.len() / 2, sound.len() - 10] {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        let error = refusal(&bytes);
        let named = matches!(error, StateError::Damaged { .. } | StateError::Other { .. });
        assert!(named, "changed at {at}: {error:?}");
    }
    let error = refusal(&[&sound[..], b"x"].concat());
    assert!(error.to_string().contains("after its end"), "{error}");
    std::fs::write(&path, &sound).unwrap();
    let of = |name: &str, change: fn(&mut LoadOptions)| engine(name, change).restore(&path).unwrap_err();
    let other = |error: Error, named: &str| match error {
        Error::State(StateError::Other { what, .. }) => assert_eq!(what, named),
        other => panic!("{other:?}"),
    };
    other(of("q4_0", |_| {}), "model");
    other(of("q8_0", |o| o.kv_type = Some(KvType::Q8)), "--kv-type");
    assert!(matches!(of("q8_0", |o| o.ctx = Some(64)), Error::PromptTooLong { tokens: 100, ctx: 64 }));
    let missing = engine("q8_0", |_| {}).restore(&place("none")).unwrap_err();
    assert!(matches!(missing, Error::State(StateError::Io { .. })));
    std::fs::remove_file(&path).unwrap();
    let mut model = engine("q8_0", |_| {});
    let sequence = model.sequence().unwrap();
    let nowhere = place("folder").join("none").join("x.state");
    assert!(matches!(model.save(&sequence, &[], &nowhere), Err(Error::State(StateError::Io { .. }))));
}

#[test]
fn guesses_change_neither_tokens_nor_bits() {
    // Greedy, and random with a temperature that repeats little; a text that repeats itself, so that lookups hit.
    let prompt: Vec<u32> = ids(12).repeat(4);
    for temp in [0.0, 0.7] {
        let request = request(prompt.clone(), 90, temp);
        let mut model = engine("q8_0", |_| {});
        let want = generate(&mut model, None, &request, &mut Silent).unwrap();
        assert_eq!(want.drafted, 0);
        for by_model in [false, true] {
            let mut draft_model = engine(if temp > 0.0 { "q4_0" } else { "q8_0" }, |_| {});
            let mut drafter =
                if by_model { Drafter::model(&mut draft_model, &model).unwrap() } else { Drafter::Lookup };
            let mut sequence = model.sequence().unwrap();
            let found =
                continue_with(&mut model, &mut sequence, None, &request, Some(&mut drafter), &mut Silent).unwrap();
            assert_eq!(found.tokens, want.tokens, "temperature {temp}, by a model: {by_model}");
            assert_eq!(found.digest, want.digest);
            assert_eq!(model.position(&sequence), prompt.len() + 89, "all but the last token");
            assert!(found.drafted > 0, "nothing was guessed");
            if by_model && temp == 0.0 {
                assert!(found.accepted > 60, "the model itself guesses right: {} of {}", found.accepted, found.drafted);
            }
            model.release(sequence);
        }
    }
}

#[test]
fn a_full_context_goes_on_as_a_fresh_start_with_what_is_kept() {
    let load = || engine("q8_0", |o| o.ctx = Some(96));
    let mut shifted = request(ids(80), 60, 0.0);
    shifted.shift = Some(Shift { keep: 4 });
    let found = generate(&mut load(), None, &shifted, &mut Silent).unwrap();
    assert_eq!(found.tokens.len(), 60);
    // 97 tokens do not fit into 96 positions: of those after the first 4, the later half stays.
    let all: Vec<u32> = ids(80).into_iter().chain(found.tokens.iter().copied()).collect();
    let kept: Vec<u32> = all[..4].iter().chain(&all[4 + 47..97]).copied().collect();
    let fresh = generate(&mut load(), None, &request(kept.clone(), 96 - kept.len(), 0.0), &mut Silent).unwrap();
    assert_eq!(found.tokens[17..], fresh.tokens[..43]);
    // With guesses it is the same.
    let (mut model, mut drafter) = (load(), Drafter::Lookup);
    let mut sequence = model.sequence().unwrap();
    let guessed = continue_with(&mut model, &mut sequence, None, &shifted, Some(&mut drafter), &mut Silent).unwrap();
    assert_eq!((guessed.tokens, guessed.digest), (found.tokens, found.digest));
}
