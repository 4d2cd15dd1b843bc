//! What cannot be trained, and how that is said.

use super::{Folder, cancel_after, finish, never, run_config};
use rin_train::checkpoint::{Checkpoint, WithEma};
use rin_train::config::TrainConfig;
use rin_train::parameters::Parameters;
use rin_train::{Error, Event, RunOptions, network};
use std::path::Path;

const SOUND: &str = "[model]\ndim = 32\nlayers = 1\nheads = 2\nffn = 32\nctx = 16\ntokenizer = 'char'\n\
    [data]\nfiles = ['text.txt']\n[train]\nsteps = 10\n[output]\nname = 'tiny'\n";

#[test]
fn a_configuration_that_cannot_be_names_the_key() {
    assert!(TrainConfig::parse(SOUND, Path::new("c.toml")).is_ok());
    for (from, to, named) in [
        ("steps = 10", "steps = 10\nstep = 3", "step"),
        ("ffn = 32\n", "", "ffn"),
        ("dim = 32", "dim = 'wide'", "dim"),
        ("'char'", "'words'", "words"),
        ("heads = 2", "heads = 3", "model.heads"),
        ("heads = 2", "heads = 32", "model.heads"),
        ("heads = 2", "heads = 2\nkv_heads = 4", "model.kv_heads"),
        ("heads = 2", "heads = 2\nkv_heads = 0", "model.kv_heads"),
        ("dim = 32", "dim = 0", "model.dim"),
        ("ffn = 32", "ffn = 99999999", "model.ffn"),
        ("ctx = 16", "ctx = 16\nvocab = 300", "model.vocab"),
        ("'char'", "'bpe'", "model.vocab"),
        ("ctx = 16", "ctx = 16\nrope_base = 0.5", "model.rope_base"),
        ("['text.txt']", "[]", "data.files"),
        ("['text.txt']", "['text.txt']\nsplit = 1.0", "data.split"),
        ("steps = 10", "steps = 0", "train.steps"),
        ("steps = 10", "steps = 10\nseq = 17", "train.seq"),
        ("steps = 10", "steps = 10\nlr = nan", "train.lr"),
        ("steps = 10", "steps = 10\nmin_lr = 1.0", "train.min_lr"),
        ("steps = 10", "steps = 10\ndropout = 1.0", "train.dropout"),
        ("steps = 10", "steps = 10\nema = 1.0", "train.ema"),
        ("steps = 10", "steps = 10\nwarmup = 11", "train.warmup"),
        ("steps = 10", "steps = 10\nbetas = [0.9, 1.0]", "train.betas"),
        ("steps = 10", "steps = 10\nquant = 'q8_0'\nquant_from_step = 10", "train.quant_from_step"),
        ("steps = 10", "steps = 10\nstep_size = 'learned'", "train.step_size"),
        ("ffn = 32", "ffn = 40", "quant"),
        ("name = 'tiny'", "name = 'a/b'", "output.name"),
        ("name = 'tiny'", "name = ''", "output.name"),
        ("[output]", "[distill]\nteacher = 'embedded'\nhints = 'betti'\n[output]", "betti"),
        ("[output]", "[distill]\nteacher = 'embedded'\nhint_layers = 'random'\n[output]", "random"),
        ("[output]", "[distill]\nteacher = 'embedded'\nhint_weight = -1.0\n[output]", "distill.hint_weight"),
    ] {
        let mut text = SOUND.replace(from, to);
        if named == "quant" {
            text = text.replace("steps = 10", "steps = 10\nquant = 'q8_0'");
        }
        assert_ne!(text, SOUND);
        let error = TrainConfig::parse(&text, Path::new("c.toml")).expect_err(&text).to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    let unknown = TrainConfig::parse(&SOUND.replace("layers", "layer"), Path::new("c.toml")).unwrap_err().to_string();
    assert!(unknown.contains("layer") && unknown.contains("kv_heads") && unknown.contains("c.toml"), "{unknown}");
}

#[test]
fn results_of_an_earlier_training_are_not_replaced_unasked() {
    let folder = Folder::new("exists");
    let config = || folder.config("tokenizer = 'char'", "steps = 1");
    finish(config(), RunOptions::default());
    let again = run_config(config(), RunOptions::default(), &mut |_: &Event<'_>| {}, never());
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    finish(config(), RunOptions { overwrite: true, ..RunOptions::default() });
}

#[test]
fn only_a_checkpoint_of_the_same_training_is_resumed() {
    let folder = Folder::new("other");
    let resume = RunOptions { resume: true, ..RunOptions::default() };
    let go_on = |model: &str, train: &str| {
        run_config(folder.config(model, train), resume, &mut |_: &Event<'_>| {}, never()).map(|_| ())
    };
    let none = go_on("tokenizer = 'char'", "steps = 9");
    assert!(matches!(none, Err(Error::NoCheckpoint(_))), "{none:?}");
    cancel_after(folder.config("tokenizer = 'char'", "steps = 9"), RunOptions::default(), 2);
    let other = go_on("tokenizer = 'byte'", "steps = 9");
    assert!(matches!(other, Err(Error::OtherTraining { .. })), "{other:?}");
    let without_average = go_on("tokenizer = 'char'", "steps = 9\nema = 0.9");
    assert!(matches!(without_average, Err(Error::OtherTraining { .. })), "{without_average:?}");
    std::fs::write(folder.file("text.txt"), super::text() + "more").unwrap();
    let data = go_on("tokenizer = 'char'", "steps = 9");
    assert!(matches!(data, Err(Error::OtherTraining { .. })), "{data:?}");
}

#[test]
fn losses_that_are_no_numbers_stop_with_the_step_and_the_last_good_checkpoint() {
    let folder = Folder::new("nan");
    let config = || folder.config("tokenizer = 'char'", "steps = 9");
    cancel_after(config(), RunOptions::default(), 3);
    let path = folder.file("tiny.checkpoint");
    let sizes = config();
    let vocab = rin_train::vocabulary::Vocabulary::learn(sizes.model.tokenizer, super::text().as_bytes(), 0).unwrap();
    let like = Parameters(network::build(&sizes.model, vocab.size(), "tiny").unwrap().parameters());
    let mut checkpoint = Checkpoint::load(&path, &like, Some(WithEma(false))).unwrap();
    checkpoint.parameters.0[1].values[0] = f32::NAN;
    checkpoint.save(&path).unwrap();
    let resume = RunOptions { resume: true, ..RunOptions::default() };
    let found = run_config(config(), resume, &mut |_: &Event<'_>| {}, never()).unwrap_err();
    assert!(matches!(&found, Error::Diverged { step: 4, checkpoint: Some(at), .. } if *at == path), "{found:?}");
    assert!(found.to_string().contains("step 4") && found.to_string().contains("tiny.checkpoint"), "{found}");
}

#[test]
fn data_that_cannot_be_used_is_refused() {
    let folder = Folder::new("data");
    let found = |bytes: &[u8], model: &str| {
        std::fs::write(folder.file("text.txt"), bytes).unwrap();
        run_config(folder.config(model, "steps = 1"), RunOptions::default(), &mut |_: &Event<'_>| {}, never())
            .map(|_| ())
    };
    let short = found(b"abc", "tokenizer = 'char'");
    assert!(matches!(short, Err(Error::DataTooShort { split: "training", .. })), "{short:?}");
    let binary = found(b"abc\xff", "tokenizer = 'char'");
    assert!(matches!(binary, Err(Error::NotText { at: 3, .. })), "{binary:?}");
    let small = found(b"ab ab ab ab ab ab ab ab ab ab ab ab", "tokenizer = 'bpe'\nvocab = 1000");
    assert!(small.unwrap_err().to_string().contains("model.vocab"));
    std::fs::remove_file(folder.file("text.txt")).unwrap();
    let missing = run_config(
        folder.config("tokenizer = 'char'", "steps = 1"),
        RunOptions::default(),
        &mut |_: &Event<'_>| {},
        never(),
    );
    assert!(matches!(missing, Err(Error::Read { .. })));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_no_checkpoint() {
    let folder = Folder::new("full");
    cancel_after(folder.config("tokenizer = 'char'", "steps = 9"), RunOptions::default(), 3);
    let path = folder.file("tiny.checkpoint");
    let before = std::fs::read(&path).unwrap();
    let sizes = folder.config("tokenizer = 'char'", "steps = 9");
    let vocab = rin_train::vocabulary::Vocabulary::learn(sizes.model.tokenizer, super::text().as_bytes(), 0).unwrap();
    let like = Parameters(network::build(&sizes.model, vocab.size(), "tiny").unwrap().parameters());
    let checkpoint = Checkpoint::load(&path, &like, Some(WithEma(false))).unwrap();
    // Every write to this device fails as on a full disk; the temporary name leads to it.
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    let found = checkpoint.save(&path);
    assert!(matches!(&found, Err(Error::Write { path: at, .. }) if *at == path), "{found:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!temporary.exists());
}
