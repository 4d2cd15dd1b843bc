//! Whole trainings of a few steps: results, checkpoints, interruptions, refusals.
#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

mod pupils;
mod refusals;

use rin_engine::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use rin_engine::{Engine, LoadOptions};
use rin_model::{ModelFile, TokenizerSource};
use rin_train::config::{DistillConfig, HintLayers, Hints, TrainConfig};
use rin_train::train::{Summary, run_config};
use rin_train::{Error, Event, Outcome, RunOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A folder of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rin-train-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("text.txt"), text()).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The configuration file of a tiny network; `train` are further keys of its section.
    fn toml(&self, name: &str, model: &str, train: &str) -> String {
        let dir = self.0.to_str().unwrap();
        format!(
            "[model]\ndim = 32\nlayers = 1\nheads = 2\nffn = 32\nctx = 16\n{model}\n\
             [data]\nfiles = ['{dir}/text.txt']\n\
             [train]\nbatch = 4\nwarmup = 1\nlog_every = 1\n{train}\n\
             [output]\ndir = '{dir}'\nname = '{name}'\n"
        )
    }

    /// As [`Folder::toml`], read.
    fn config(&self, model: &str, train: &str) -> TrainConfig {
        TrainConfig::parse(&self.toml("tiny", model, train), Path::new("tiny.toml")).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn text() -> String {
    "How much wood would a woodchuck chuck, if a woodchuck could chuck wood?\nAs much as it could!\n".repeat(20)
}

fn never() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

fn finish(config: TrainConfig, options: RunOptions) -> Summary {
    match run_config(config, options, &mut |_: &Event<'_>| {}, never()).unwrap() {
        Outcome::Finished(summary) => *summary,
        Outcome::Cancelled { .. } => panic!("nobody cancelled"),
    }
}

/// Runs until `step` is done, and cancels.
fn cancel_after(config: TrainConfig, options: RunOptions, step: usize) -> Outcome {
    let cancel = never();
    let flag = cancel.clone();
    let mut progress = move |event: &Event<'_>| {
        if let Event::Step { step: done, .. } = event
            && *done == step
        {
            flag.store(true, Ordering::Relaxed);
        }
    };
    run_config(config, options, &mut progress, cancel).unwrap()
}

/// The training losses of a log, as they are spelled.
fn losses(log: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let loss = |line: &str| -> Option<String> {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["event"] == "train").then(|| line["loss"].to_string())
    };
    log.lines().filter_map(loss).collect()
}

#[test]
fn a_training_learns_and_its_result_runs() {
    let folder = Folder::new("learns");
    let config = folder.config("tokenizer = 'char'", "steps = 120\nlr = 0.01\nema = 0.9\neval_every = 30");
    let summary = finish(config, RunOptions { plot: true, ..RunOptions::default() });
    // The text has 24 symbols, so chance is 3.2 nats.
    assert!(summary.evaluation.nats_per_char < 1.6, "{}", summary.evaluation.nats_per_char);
    let [low, high] = summary.evaluation.interval;
    assert!(low <= summary.evaluation.nats_per_char && summary.evaluation.nats_per_char <= high);
    assert_eq!(summary.evaluation.tokens, summary.evaluation.chars);
    assert_eq!(summary.formats.len(), 3);
    assert!(summary.formats[1].more_than_f32.abs() < 0.02 && summary.formats[1].same_argmax > 0.97);
    assert!(std::fs::read_to_string(folder.file("tiny.svg")).unwrap().contains("polyline"));
    let file = ModelFile::open(&summary.model).unwrap();
    file.verify_sha256().unwrap();
    let Ok(TokenizerSource::HuggingFace(json, None)) = file.tokenizer() else { panic!("a tokenizer.json") };
    let tokenizer = Tokenizer::from_hf_json(json, None).unwrap();
    let prompt = tokenizer.encode("How much wood would a woodchuck ", EncodeOptions::default()).unwrap();
    let mut engine =
        Engine::load(file, &LoadOptions { threads: Some(1), ctx: Some(64), ..Default::default() }, |_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    let logits = engine.feed(&sequence, &prompt).unwrap();
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let next = tokenizer.decode_with(&[u32::try_from(best).unwrap()], DecodeOptions::default());
    assert_eq!(next, "c");
}

/// The text says little after two steps; a teacher that knows it says more. A share of 0 changes no bit.
#[test]
fn a_student_learns_from_its_teacher() {
    let folder = Folder::new("student");
    let teacher = folder.toml("teacher", "tokenizer = 'char'", "steps = 120\nlr = 0.01\neval_every = 30");
    std::fs::write(folder.file("teacher.toml"), &teacher).unwrap();
    let mut student = folder.config("tokenizer = 'char'", "steps = 20\nlr = 0.01\nseed = 1");
    let distill = |weight| DistillConfig { weight, ..DistillConfig::plain(folder.file("teacher.toml")) };
    student.distill = Some(distill(1.0));
    let refused = run_config(student.clone(), RunOptions::default(), &mut |_: &Event<'_>| {}, never());
    assert!(matches!(refused, Err(Error::ConfigValue { key: "distill.teacher", .. })), "{refused:?}");
    finish(TrainConfig::read(&folder.file("teacher.toml")).unwrap(), RunOptions::default());

    let again = RunOptions { overwrite: true, ..RunOptions::default() };
    // The text is not seen: what is learned of it comes from the teacher.
    let taught = finish(student.clone(), RunOptions::default());
    assert!(taught.evaluation.nats_per_char < 2.8, "{}", taught.evaluation.nats_per_char);
    let with_teacher = losses(&folder.file("tiny.jsonl"));
    student.distill = Some(distill(0.0));
    finish(student.clone(), again);
    let of_text = losses(&folder.file("tiny.jsonl"));
    student.distill = None;
    finish(student, again);
    assert_eq!(of_text, losses(&folder.file("tiny.jsonl")));
    assert_ne!(of_text, with_teacher);
}

#[test]
fn hints_are_learned_from_a_model_and_are_not_exported() {
    let folder = Folder::new("hints");
    let teacher = folder.toml("teacher", "tokenizer = 'char'", "steps = 30\nlr = 0.01\nquant = 'q8_0'");
    let teacher = teacher.replace("layers = 1", "layers = 2").replace("dim = 32", "dim = 64");
    finish(TrainConfig::parse(&teacher, Path::new("t.toml")).unwrap(), RunOptions::default());
    let again = RunOptions { overwrite: true, ..RunOptions::default() };
    let plain = DistillConfig::plain(folder.file("teacher.rin"));
    let mut seen = Vec::new();
    for (hints, quant) in [
        (Hints::None, ""),
        (Hints::Hidden, ""),
        (Hints::Attention, ""),
        (Hints::Both, ""),
        (Hints::Relations, ""),
        (Hints::Hidden, "quant = 'q8_0'"),
    ] {
        let mut student = folder.config("tokenizer = 'char'", &format!("steps = 8\nlr = 0.01\n{quant}"));
        student.distill = Some(DistillConfig { hints, ..plain.clone() });
        let summary = finish(student.clone(), again);
        let file = ModelFile::open(&summary.model).unwrap();
        assert!(file.tensors().iter().all(|t| !t.name.contains("hint")), "{hints:?}");
        assert_eq!(
            summary.parameters as u64,
            file.tensors().iter().map(rin_model::TensorInfo::n_elements).sum::<u64>()
        );
        Engine::load(file, &LoadOptions::default(), |_| {}).unwrap();
        let whole = losses(&folder.file("tiny.jsonl"));
        let number = |i: usize| whole[i].parse::<f64>().unwrap();
        assert!(number(7) < number(0), "{hints:?}: {whole:?}");
        // The first loss is that of the same weights, the second that of a step with another gradient.
        assert!(
            seen.iter().all(|before: &Vec<String>| !quant.is_empty() || before[0] == whole[0] && before[1] != whole[1])
        );
        if quant.is_empty() {
            seen.push(whole.clone());
        }
        // What the first step measured is kept over an interruption.
        cancel_after(student.clone(), again, 3);
        finish(student.clone(), RunOptions { resume: true, ..RunOptions::default() });
        assert_eq!(losses(&folder.file("tiny.jsonl")), whole, "{hints:?}");
        if hints == Hints::None {
            student.distill = Some(DistillConfig { hints: Hints::Hidden, hint_weight: 0.0, ..plain.clone() });
            finish(student, again);
            assert_eq!(losses(&folder.file("tiny.jsonl"))[1], whole[1], "a map without weight changes nothing");
        }
    }
}

#[test]
fn a_model_teaches_as_the_training_that_it_is_of() {
    let folder = Folder::new("both");
    let teacher = folder.toml("teacher", "tokenizer = 'char'", "steps = 20\nlr = 0.01\neval_every = 10");
    std::fs::write(folder.file("teacher.toml"), &teacher).unwrap();
    finish(TrainConfig::read(&folder.file("teacher.toml")).unwrap(), RunOptions::default());
    let of = |name: &str| {
        let mut student = folder.config("tokenizer = 'char'", "steps = 5\nseed = 1");
        student.distill = Some(DistillConfig { hints: Hints::Hidden, ..DistillConfig::plain(folder.file(name)) });
        finish(student, RunOptions { overwrite: true, ..RunOptions::default() });
        losses(&folder.file("tiny.jsonl"))
    };
    assert_eq!(of("teacher.rin"), of("teacher.toml"));
}

#[test]
fn the_model_in_the_binary_teaches() {
    let folder = Folder::new("embedded");
    let tokenizer = Tokenizer::of_model(&rin_embedded::model().unwrap()).unwrap();
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap();
    let characters: Vec<u8> = ids.flat_map(|id| tokenizer.piece(id).unwrap().to_vec()).collect();
    std::fs::write(folder.file("text.txt"), characters.repeat(20)).unwrap();
    let mut student = folder.config("tokenizer = 'char'", "steps = 6\nlr = 0.01");
    (student.model.heads, student.model.layers) = (8, 2);
    student.model.dim = 64;
    let plain = DistillConfig::plain(PathBuf::from(rin_train::config::EMBEDDED));
    student.model.kv_heads = Some(4);
    for hints in [Hints::Hidden, Hints::Attention, Hints::Both, Hints::Relations] {
        student.distill = Some(DistillConfig { hints, hint_layers: HintLayers::Reversed, ..plain.clone() });
        let summary = finish(student.clone(), RunOptions { overwrite: true, ..RunOptions::default() });
        assert!(summary.evaluation.nats_per_char.is_finite());
    }
}

#[test]
fn teachers_whose_inside_does_not_fit_are_refused_by_name() {
    let folder = Folder::new("teachers");
    finish(folder.config("tokenizer = 'char'", "steps = 1"), RunOptions::default());
    let of = |model: &str, hints, hint_layers, teacher: PathBuf| {
        let mut config = folder.config(model, "steps = 1");
        config.output.name = "student".to_owned();
        config.distill = Some(DistillConfig { hints, hint_layers, ..DistillConfig::plain(teacher) });
        config
    };
    let model = || folder.file("tiny.rin");
    let refused = |config| match run_config(config, RunOptions::default(), &mut |_: &Event<'_>| {}, never()) {
        Err(Error::ConfigValue { key, found, expected }) => format!("{key} = {found}: {expected}"),
        other => panic!("{other:?}"),
    };
    let char = "tokenizer = 'char'";
    let mut deep = of(char, Hints::Hidden, HintLayers::Uniform, model());
    deep.model.layers = 2;
    assert!(refused(deep).starts_with("model.layers = 2"));
    let mut wide = of(char, Hints::Attention, HintLayers::Reversed, model());
    wide.model.heads = 4;
    assert!(refused(wide).starts_with("model.heads = 4: 2"));
    let shared = of("tokenizer = 'char'\nkv_heads = 1", Hints::Relations, HintLayers::Uniform, model());
    assert!(refused(shared).starts_with("model.kv_heads = 1: 2"));
    let near = of("tokenizer = 'char'\nwindow = 4", Hints::Attention, HintLayers::Uniform, model());
    assert!(refused(near).starts_with("model.window = 4: 16"));
    let bytes = refused(of("tokenizer = 'byte'", Hints::None, HintLayers::Uniform, model()));
    assert!(bytes.starts_with("distill.teacher") && bytes.contains("256"), "{bytes}");
    // The model in the binary knows other characters than these.
    let other = refused(of(char, Hints::None, HintLayers::Uniform, PathBuf::from(rin_train::config::EMBEDDED)));
    assert!(other.starts_with("distill.teacher = embedded") && other.contains("vocabulary"), "{other}");
    let missing = of(char, Hints::None, HintLayers::Uniform, folder.file("missing.rin"));
    assert!(run_config(missing, RunOptions::default(), &mut |_: &Event<'_>| {}, never()).is_err());
}

#[test]
fn bytes_and_pairs_of_them_train_too() {
    for (name, model) in [("byte", "tokenizer = 'byte'"), ("bpe", "tokenizer = 'bpe'\nvocab = 280")] {
        let folder = Folder::new(name);
        let config = folder.config(model, "steps = 3\nquant = 'q8_0'\naccumulate = 2\ndropout = 0.1");
        let summary = finish(config, RunOptions::default());
        assert_eq!(summary.vocab, if name == "byte" { 256 } else { 280 });
        assert_eq!(summary.quant, "Q8_0");
        let validation = text().len() - text().len() * 9 / 10;
        assert!(validation - summary.evaluation.chars < 8, "{name}: all but the first token count");
    }
}

#[test]
fn a_resumed_training_has_the_losses_of_an_uninterrupted_one() {
    for (name, train) in [
        ("float", "steps = 12\nema = 0.99\ndropout = 0.2\neval_every = 5"),
        ("quant", "steps = 12\nquant = 'q4_0'\nquant_from_step = 8\nstep_size = 'learned'\nema = 0.99"),
    ] {
        let whole = Folder::new(&format!("whole-{name}"));
        let summary = finish(whole.config("tokenizer = 'char'", train), RunOptions::default());
        let want = losses(&whole.file("tiny.jsonl"));
        assert_eq!(want.len(), 12);

        let parts = Folder::new(&format!("parts-{name}"));
        let config = || parts.config("tokenizer = 'char'", train);
        let resume = RunOptions { resume: true, ..RunOptions::default() };
        assert!(matches!(cancel_after(config(), RunOptions::default(), 7), Outcome::Cancelled { step: 7, .. }));
        assert!(matches!(cancel_after(config(), resume, 9), Outcome::Cancelled { step: 9, .. }));
        let resumed = finish(config(), resume);
        assert_eq!(losses(&parts.file("tiny.jsonl")), want, "{name}");
        assert_eq!(resumed.sha256, summary.sha256, "{name}");
        let bytes = |summary: &Summary| std::fs::read(&summary.model).unwrap();
        assert!(bytes(&resumed) == bytes(&summary), "{name}: the exported files differ");
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_stands() {
    let folder = Folder::new("damaged");
    let config = || folder.config("tokenizer = 'char'", "steps = 8\ncheckpoint_every = 2");
    cancel_after(config(), RunOptions::default(), 5);
    let checkpoint = folder.file("tiny.checkpoint");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, &bytes).unwrap();
    let mut notes = Vec::new();
    let mut progress = |event: &Event<'_>| match event {
        Event::Note(note) => notes.push((*note).to_owned()),
        Event::Started { resumed_at, .. } => notes.push(format!("resumed at {resumed_at}")),
        _ => {}
    };
    let resume = RunOptions { resume: true, ..RunOptions::default() };
    run_config(config(), resume, &mut progress, never()).unwrap();
    assert!(notes[0].contains("SHA-256") && notes[1] == "resumed at 4", "{notes:?}");

    std::fs::write(&checkpoint, b"short").unwrap();
    std::fs::write(folder.file("tiny.checkpoint.previous"), b"short").unwrap();
    let found = run_config(config(), resume, &mut |_: &Event<'_>| {}, never());
    assert!(matches!(found, Err(Error::BrokenCheckpoint { .. })), "{found:?}");
}

#[test]
fn training_ends_when_patience_does() {
    let folder = Folder::new("patience");
    let config = folder.config("tokenizer = 'char'", "steps = 500\neval_every = 1\npatience = 3\nlr = 3.0\nclip = 0.0");
    finish(config, RunOptions::default());
    assert!(losses(&folder.file("tiny.jsonl")).len() < 100);
}

/// The demonstration of examples/bhrr, shortened: its slots are whole numbers in the file, and the engine runs it.
#[test]
fn the_example_with_slots_trains_and_runs() {
    let folder = Folder::new("bhrr");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bhrr/bhrr.toml");
    let mut config = TrainConfig::read(&example).unwrap();
    config.data.files = vec![folder.file("text.txt")];
    config.output.dir.clone_from(&folder.0);
    (config.train.steps, config.train.batch, config.train.eval_every) = (12, 2, 12);
    let summary = finish(config, RunOptions::default());
    let file = ModelFile::open(&summary.model).unwrap();
    let memory = file.config().unwrap().memory_of(0).cloned().unwrap();
    assert_eq!((memory.slots, memory.bhrr.unwrap().state), (8, rin_model::SlotStateType::I32));
    let tokenizer = Tokenizer::of_model(&file).unwrap();
    let prompt = tokenizer.encode("How much wood", EncodeOptions::default()).unwrap();
    let mut engine = Engine::load(file, &LoadOptions { threads: Some(1), ..LoadOptions::default() }, |_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    let logits = engine.feed(&sequence, &prompt).unwrap();
    assert!(logits.iter().all(|x| x.is_finite()) && logits.iter().any(|x| x.to_bits() != logits[0].to_bits()));
}

#[test]
fn a_memory_without_a_name_is_gated_delta() {
    let folder = Folder::new("default");
    let config = folder.config("tokenizer = 'char'\n[model.memory]\nconv = 2", "steps = 1");
    let memories = config.model.memory.as_ref().unwrap().memories(&config.model).unwrap();
    assert_eq!(memories.len(), 1);
    assert!(memories[0].as_ref().is_some_and(|m| m.kind == rin_model::MemoryKind::GatedDelta && m.conv == 2));
}
