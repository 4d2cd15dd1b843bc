//! One network in several stages that hand rows to each other: the bits of one process, whatever is done.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_engine::chain::{ChainError, Link, in_process};
use rin_engine::plan::{LayerBytes, Stage};
use rin_engine::state::StateError;
use rin_engine::topology::Policy;
use rin_engine::{Engine, Error, Feed, LoadOptions, Rows};
use rin_kernels::Tier;
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

/// Quantised; with biases in bf16; in f32 with embedding and output in one; with a sliding window.
const MODELS: [&str; 4] = [
    "models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf",
    "models/tiny-qwen2/tiny-qwen2-bf16.gguf",
    "models/tiny-llama-tied/tiny-llama-tied-f32.gguf",
    "models/tiny-mistral/model.safetensors",
];

fn options() -> LoadOptions {
    LoadOptions {
        threads: Some(1),
        affinity: Policy::None,
        ctx: Some(512),
        n_batch: 160,
        n_logits: 160,
        n_sequences: 3,
        ..LoadOptions::default()
    }
}

fn open(model: &str) -> ModelFile {
    ModelFile::open(&conformance(model)).unwrap()
}

/// A network in stages on threads of their own.
struct Chain {
    first: Option<Engine>,
    others: Vec<JoinHandle<Result<(), Error>>>,
}

impl Chain {
    /// `tier` says which one each stage takes.
    fn new(model: &str, stages: Vec<Stage>, tier: fn(usize) -> Option<Tier>) -> Self {
        let count = stages.len();
        let stage = |(link, stage): (Box<dyn Link>, _)| {
            let options = LoadOptions { stage: Some(stage), tier: tier(stage.index), ..options() };
            let mut engine = Engine::load(open(model), &options, |_| {}).unwrap();
            if count > 1 {
                engine.join(link).unwrap();
            }
            engine
        };
        let mut stages = in_process(count).into_iter().zip(stages).map(stage);
        let first = stages.next();
        let start = |mut engine: Engine| Builder::new().spawn(move || engine.follow()).unwrap();
        Self { first, others: stages.map(start).collect() }
    }

    fn engine(&mut self) -> &mut Engine {
        self.first.as_mut().unwrap()
    }

    /// The others end when the first one does.
    fn end(mut self) -> Vec<Result<(), Error>> {
        drop(self.first.take());
        self.others.into_iter().map(|other| other.join().unwrap()).collect()
    }
}

fn by_layers(model: &str, count: usize) -> Vec<Stage> {
    LayerBytes::of(&open(model)).unwrap().share_out(&vec![1.0; count]).unwrap()
}

fn by_rows(model: &str, count: usize) -> Vec<Stage> {
    Stage::by_rows(count, open(model).config().unwrap().n_layers)
}

fn ids(n: usize, salt: u32) -> Vec<u32> {
    (0..n).map(|i| (u32::try_from(i).unwrap() * 37 + salt * 101) % 280).collect()
}

/// Everything that an engine can be asked for; the bits of all logits.
fn work(engine: &mut Engine, folder: &Path) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut keep = |logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
    let saved = folder.join("text.state");
    // A prompt that is cut into several messages, and single tokens after it.
    let (one, other) = (ids(230, 1), ids(90, 2));
    let a = engine.sequence().unwrap();
    keep(engine.feed(&a, &one).unwrap());
    for id in 0..5 {
        keep(engine.feed(&a, &[id]).unwrap());
    }
    engine.save(&a, &[&one[..], &[0, 1, 2, 3, 4]].concat(), &saved).unwrap();
    // Prefill beside decoding, with rows in between that nobody wants.
    let b = engine.admit(&other, 200).unwrap();
    let feeds = [
        Feed { sequence: &a, tokens: &[7], rows: Rows::Last },
        Feed { sequence: &b, tokens: &other[..80], rows: Rows::All },
    ];
    keep(engine.step(&feeds).unwrap());
    engine.step(&[Feed { sequence: &b, tokens: &other[80..85], rows: Rows::None }]).unwrap();
    // Rows that are wanted early in a step of many messages.
    let long = ids(150, 3);
    let d = engine.sequence().unwrap();
    let feeds = [
        Feed { sequence: &a, tokens: &[11], rows: Rows::Last },
        Feed { sequence: &d, tokens: &long, rows: Rows::None },
        Feed { sequence: &b, tokens: &other[85..86], rows: Rows::Last },
    ];
    keep(engine.step(&feeds).unwrap());
    engine.release(d);
    keep(engine.feed(&b, &other[86..]).unwrap());
    if engine.plan().config.window.is_some() {
        // What has left the window is not come back to.
        return bits;
    }
    // Back, a copy, and the same prompt again, whose first pages are in the cache.
    engine.truncate(&a, 200).unwrap();
    let c = engine.fork(&a).unwrap();
    let feeds = [&a, &b, &c].map(|sequence| Feed { sequence, tokens: &[9, 10], rows: Rows::All });
    keep(engine.step(&feeds).unwrap());
    engine.release(b);
    engine.release(c);
    let again = engine.admit(&one, 300).unwrap();
    assert_eq!(engine.position(&again), 192, "three pages are there already");
    let position = engine.position(&again);
    keep(engine.feed(&again, &one[position..]).unwrap());
    engine.release(again);
    engine.forget_prefixes();
    engine.reconfigure(Tier::Scalar, 2, Policy::None).unwrap();
    // What does not fit is refused by all or none.
    assert!(matches!(engine.feed(&a, &[u32::MAX]), Err(Error::UnknownToken { .. })));
    let restored = engine.restore(&saved).unwrap();
    assert_eq!((restored.tokens.len(), engine.position(&restored.sequence)), (235, 235));
    keep(engine.feed(&restored.sequence, &[8]).unwrap());
    let mut a = a;
    engine.restart(&mut a, &other, 100).unwrap();
    keep(engine.feed(&a, &other).unwrap());
    engine.save(&a, &other, &saved).unwrap();
    bits
}

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Does all of [`work`] in these stages, every other one on another tier, and compares with one process.
fn holds(model: &str, want: &[u32], stages: Vec<Stage>, folder: &Path) {
    let count = stages.len();
    let mut chain = Chain::new(model, stages, |i| (i % 2 == 1).then_some(Tier::Scalar));
    let found = work(chain.engine(), folder);
    assert_eq!(found.len(), want.len());
    let differs = found.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{model} over {count}");
    assert!(chain.end().iter().all(Result::is_ok));
    // Each stage keeps the pages of the last text only.
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let names: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    let of_stages = names.iter().filter(|name| name.contains(&format!("-of-{count}."))).count();
    assert_eq!(of_stages, count - 1, "{names:?}");
}

#[test]
fn stages_have_the_bits_of_one_process() {
    for (i, model) in MODELS.into_iter().enumerate() {
        let folder = folder(&format!("chain-{i}"));
        let mut whole = Engine::load(open(model), &options(), |_| {}).unwrap();
        let want = work(&mut whole, &folder);
        let n_layers = whole.plan().config.n_layers;
        for count in 1..=(n_layers + 1).min(4) {
            holds(model, &want, by_layers(model, count), &folder);
        }
    }
}

/// All block formats and halved rotation pairs beside [`MODELS`]; with biases of every product.
const MORE_MODELS: [&str; 5] = [
    "models/tiny-llama-b32/tiny-llama-b32-q4_0.gguf",
    "models/tiny-llama-k256/tiny-llama-k256-q4_k.gguf",
    "models/tiny-llama-k256/tiny-llama-k256-q6_k.gguf",
    "models/tiny-llama-bias/model.safetensors",
    "models/tiny-llama/tiny-llama-f16.gguf",
];

#[test]
fn shares_of_rows_have_the_bits_of_one_process() {
    for (i, model) in MODELS.into_iter().chain(MORE_MODELS).enumerate() {
        let folder = folder(&format!("rows-{i}"));
        let mut whole = Engine::load(open(model), &options(), |_| {}).unwrap();
        let want = work(&mut whole, &folder);
        for count in 1..=whole.plan().config.n_kv_heads {
            holds(model, &want, by_rows(model, count), &folder);
        }
    }
}

#[test]
fn stages_hold_what_the_whole_holds() {
    let model = MODELS[0];
    let whole = options().plan(&open(model)).unwrap();
    let stages = LayerBytes::of(&open(model)).unwrap().share_out(&[1.0; 3]).unwrap();
    let plan = |&stage| LoadOptions { stage: Some(stage), ..options() }.plan(&open(model)).unwrap();
    let plans: Vec<_> = stages.iter().map(plan).collect();
    let weights: usize = plans.iter().map(|plan| plan.weights.bytes()).sum();
    assert_eq!(weights, whole.weights.bytes(), "every weight lies in one place");
    let caches = |plan: &rin_engine::Plan| {
        plan.slots.iter().filter(|slot| slot.name.contains(".kv ")).map(|slot| slot.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(plans.iter().flat_map(caches).collect::<Vec<_>>(), caches(&whole));
    for (plan, stage) in plans.iter().zip(&stages) {
        assert_eq!(caches(plan).len(), stage.end_layer - stage.first_layer);
    }
}

#[test]
fn shares_of_rows_hold_what_the_whole_holds() {
    // Two key heads of 16; embedding and output in one, in bf16; biases.
    let model = MODELS[1];
    let whole = options().plan(&open(model)).unwrap();
    let plan = |stage| LoadOptions { stage: Some(stage), ..options() }.plan(&open(model)).unwrap();
    let plans: Vec<_> = by_rows(model, 2).into_iter().map(plan).collect();
    let rows = |plan: &rin_engine::Plan, part: &str| -> Vec<usize> {
        plan.weights.matrices().iter().filter(|m| m.name.ends_with(part)).map(|m| m.rows).collect()
    };
    assert_eq!(
        [rows(&plans[0], "ffn_up.weight"), rows(&plans[1], "ffn_up.weight")],
        [[64; 2], [48; 2]],
        "whole panels"
    );
    assert_eq!([rows(&plans[0], "attn_k.weight"), rows(&plans[1], "attn_k.weight")], [[16; 2], [16; 2]]);
    assert_eq!([rows(&plans[0], "embd.weight"), rows(&plans[1], "embd.weight")], [vec![288, 144], vec![144]]);
    // Each weight lies in one place, but for the norms, and the rows of the output beside the embedding: in the first one
    // they lie in it.
    let (norms, output) = ((2 * 2 + 1) * 64 * 4, 144 * 64 * 2);
    let sum: usize = plans.iter().map(|plan| plan.weights.bytes()).sum();
    assert_eq!(sum, whole.weights.bytes() + norms + output);
    let cache = |plan: &rin_engine::Plan| -> usize {
        plan.slots.iter().filter(|slot| slot.name.contains(".kv ")).map(|slot| slot.bytes).sum()
    };
    assert!(plans.iter().all(|plan| cache(plan) * 2 == cache(&whole)));
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let plan = |model: &str, stage| LoadOptions { stage: Some(stage), ..options() }.plan(&open(model)).map(|_| ());
    let refused = plan(MODELS[0], by_rows(MODELS[0], 3)[0]).unwrap_err();
    assert!(refused.to_string().starts_with("--tp is 3, but must be at most 2: each rank has key heads"), "{refused}");
    let stage = Stage { end_layer: 9, ..by_rows(MODELS[0], 2)[1] };
    assert!(plan(MODELS[0], stage).is_err(), "layers that it has not");
}

#[test]
fn a_text_is_taken_on_by_those_who_saved_it() {
    let (model, folder) = (MODELS[0], folder("taken-on"));
    let saved = folder.join("text.state");
    let text = ids(80, 4);
    let mut shares = Chain::new(model, by_rows(model, 2), |_| None);
    let sequence = shares.engine().sequence().unwrap();
    shares.engine().feed(&sequence, &text).unwrap();
    shares.engine().save(&sequence, &text, &saved).unwrap();
    let want = shares.engine().feed(&sequence, &[5]).unwrap().to_vec();
    shares.end();
    let mut again = Chain::new(model, by_rows(model, 2), |_| None);
    let restored = again.engine().restore(&saved).unwrap();
    assert_eq!(again.engine().feed(&restored.sequence, &[5]).unwrap(), want);
    again.end();
    // Another number of ranks, or another cut, has other pages.
    for stages in [by_rows(model, 1), by_layers(model, 2)] {
        let mut others = Chain::new(model, stages, |_| None);
        let refused = others.engine().restore(&saved).unwrap_err();
        assert!(
            matches!(&refused, Error::State(StateError::Other { what: "share of the network", found, .. }) if found == "rows 1 of 2"),
            "{refused}"
        );
        others.end();
    }
}

#[test]
fn a_stage_that_is_gone_ends_the_others() {
    let mut links = in_process(2);
    drop(links.pop());
    let stages = LayerBytes::of(&open(MODELS[0])).unwrap().share_out(&[1.0; 2]).unwrap();
    let options = LoadOptions { stage: Some(stages[0]), ..options() };
    let mut engine = Engine::load(open(MODELS[0]), &options, |_| {}).unwrap();
    assert!(matches!(engine.sequence().map(|_| ()), Ok(())), "nobody has been asked yet");
    let sequence = engine.sequence().unwrap();
    assert!(
        matches!(engine.feed(&sequence, &[1]), Err(Error::Chain(ChainError::Disagree { .. }))),
        "it has not joined"
    );
    engine.join(links.pop().unwrap()).unwrap();
    let lost = engine.feed(&sequence, &[1]).unwrap_err();
    assert!(matches!(lost, Error::Chain(ChainError::Lost { stage: 0, .. })), "{lost}");
    // And it stays so.
    assert!(matches!(engine.feed(&sequence, &[1]), Err(Error::Chain(ChainError::Lost { .. }))));
    let mut whole = Engine::load(open(MODELS[0]), &LoadOptions { stage: None, ..options }, |_| {}).unwrap();
    assert!(whole.join(in_process(1).pop().unwrap()).is_err(), "a whole network is no stage");
}
