//! `rin train`, from a configuration to a text.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::failures::fails;
use crate::program::{Place, json, output, stderr, stdout};
use crate::signals::interrupt;

/// A text that a small network learns in a few steps.
const LINE: &str = "the quick brown fox jumps over the lazy dog. ";

/// The smallest network whose rows are whole blocks of Q8_0.
fn config(place: &Place, steps: usize, more: &str) {
    place.file("text.txt", LINE.repeat(120));
    place.file(
        "config.toml",
        format!(
            "[model]\ndim = 32\nlayers = 1\nheads = 2\nffn = 64\nctx = 32\ntokenizer = \"char\"\n\
             [data]\nfiles = [\"text.txt\"]\n\
             [train]\nsteps = {steps}\nbatch = 4\nlr = 1e-2\nseed = 7\nquant = \"q8_0\"\neval_every = {steps}\n\
             checkpoint_every = 4\nlog_every = 1\n{more}\n\
             [output]\ndir = \"out\"\nname = \"fox\"\n"
        ),
    );
}

fn train(place: &Place, more: &[&str]) -> Command {
    let mut command = place.rin(&["train", "config.toml"]);
    command.args(more);
    command
}

/// The losses in the log, step by step.
fn losses(place: &Place) -> Vec<String> {
    let log = std::fs::read_to_string(place.path("out/fox.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| Some(format!("{} {}", line["step"], line.get("loss")?))).collect()
}

#[test]
fn what_was_trained_runs() {
    let place = Place::new();
    config(&place, 80, "");
    let result = json(&output(train(&place, &["--json", "--plot"])));
    assert_eq!(result["quant"], "Q8_0");
    let loss = result["evaluation"]["nats_per_char"].as_f64().unwrap();
    assert!(loss < 1.0, "{loss}: it has not learned");
    let more = result["formats"][1]["more_interval"].as_array().unwrap();
    assert!(more[0].as_f64().unwrap() <= more[1].as_f64().unwrap());
    assert!(std::fs::read_to_string(place.path("out/fox.svg")).unwrap().starts_with("<svg"));
    assert_eq!(losses(&place).len(), 80);

    let model = place.path("out/fox.rin");
    let text = stdout(&output(place.on("run", &model, &["-q", "-p", "the quick", "-n", "30", "--temp", "0"])));
    assert!(text.trim_end().bytes().all(|b| LINE.as_bytes().contains(&b)), "{text:?} has other characters");
    // The command evaluates as the trainer did: the same windows, the same bits.
    let split = LINE.repeat(120).len() * 9 / 10;
    let rest = place.file("rest.txt", &LINE.repeat(120)[split..]);
    let found = json(&output(place.on("eval", &model, &["--text", rest.to_str().unwrap(), "--json"])));
    assert!((found["nll_mean"].as_f64().unwrap() - loss).abs() < 1e-3, "{found} for {loss}");

    fails(train(&place, &[]), 2, &["exists already"]);
    stdout(&output(train(&place, &["--overwrite"])));
}

#[test]
fn an_interrupted_training_goes_on_with_equal_losses() {
    let place = Place::new();
    config(&place, 400, "");
    let child = train(&place, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !place.path("out/fox.checkpoint").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("go on with: rin train config.toml --resume"), "{}", stderr(&ended));
    let done = losses(&place).len();
    assert!(done < 400, "it was not interrupted");
    let ended = output(train(&place, &["--resume"]));
    assert!(stderr(&ended).contains("going on after step"), "{}", stderr(&ended));
    let in_two_parts = losses(&place);

    stdout(&output(train(&place, &["--overwrite", "-q"])));
    assert_eq!(in_two_parts, losses(&place));
}

#[test]
fn a_broken_checkpoint_leaves_the_one_before() {
    let place = Place::new();
    config(&place, 12, "");
    stdout(&output(train(&place, &[])));
    let checkpoint = place.path("out/fox.checkpoint");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, bytes).unwrap();
    let ended = output(train(&place, &["--resume"]));
    stdout(&ended);
    assert!(stderr(&ended).contains("is damaged") && stderr(&ended).contains("going on from"), "{}", stderr(&ended));
}

#[test]
fn bad_configurations_name_the_key() {
    let place = Place::new();
    fails(place.rin(&["train"]), 2, &["CONFIG.toml"]);
    fails(place.rin(&["train", "none.toml"]), 1, &["none.toml"]);
    config(&place, 4, "momentum = 1");
    fails(train(&place, &[]), 2, &["config.toml", "momentum"]);
    config(&place, 4, "warmup = 5");
    fails(train(&place, &[]), 2, &["train.warmup", "at most train.steps = 4"]);
    config(&place, 4, "");
    fails(train(&place, &["--resume"]), 2, &["there is no checkpoint"]);
    let text = std::fs::read_to_string(place.path("config.toml")).unwrap();
    place.file("config.toml", text.replace("heads = 2", "heads = 3"));
    fails(train(&place, &[]), 2, &["model.heads = 3", "model.dim = 32"]);
    place.file("config.toml", text.replace("text.txt", "gone.txt"));
    fails(train(&place, &[]), 1, &["gone.txt"]);
    config(&place, 4, "seq = 33");
    fails(train(&place, &[]), 2, &["train.seq"]);
    config(&place, 4, "lr = 1e-2");
    fails(train(&place, &[]), 2, &["lr"]);
}

#[test]
fn losses_that_are_no_numbers_end_the_training() {
    let place = Place::new();
    config(&place, 60, "clip = 0.0\nwarmup = 0");
    let text = std::fs::read_to_string(place.path("config.toml")).unwrap();
    place.file("config.toml", text.replace("lr = 1e-2", "lr = 10.0\nweight_decay = 10.0\nquant_from_step = 59"));
    let mut command = train(&place, &[]);
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("is not a number; the last good checkpoint is"), "{}", stderr(&ended));
}
