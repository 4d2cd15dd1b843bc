//! `rin eval`.

use std::path::Path;

use serde_json::Value;

use crate::failures::fails;
use crate::program::{Place, TINY, conformance, json, keys, output, shared, stderr, stdout};

const FIELDS: [&str; 14] = [
    "tokens",
    "nll_mean",
    "nll_ci95",
    "perplexity",
    "kl_mean",
    "kl_p99",
    "top1_agreement",
    "nll_more",
    "nll_more_ci95",
    "bits_per_weight",
    "file_bytes",
    "nll_per_byte",
    "nll_per_char",
    "ctx",
];

/// A text of 12,000 characters.
fn long_text(place: &Place) -> String {
    let text = "Once upon a time there was a \u{fc}ber tiny model. ".repeat(250);
    place.file("long.txt", text).to_str().unwrap().to_owned()
}

fn evaluated(place: &Place, model: &Path, more: &[&str]) -> Value {
    json(&output(place.on("eval", model, &[&["--json", "--threads", "1"], more].concat())))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "compared within a tolerance")]
fn the_figures_of_a_model_alone() {
    let place = Place::new();
    let text = long_text(&place);
    let model = conformance(TINY);
    let found = evaluated(&place, &model, &["--text", &text, "--ctx", "64"]);
    assert_eq!(keys(&found), FIELDS);
    for absent in ["kl_mean", "kl_p99", "top1_agreement", "nll_more", "nll_more_ci95"] {
        assert!(found[absent].is_null(), "{absent}");
    }
    let number = |name: &str| found[name].as_f64().unwrap();
    assert!((number("perplexity") / number("nll_mean").exp() - 1.0).abs() < 1e-12);
    let interval: Vec<f64> = serde_json::from_value(found["nll_ci95"].clone()).unwrap();
    assert!(interval[0] < number("nll_mean") && number("nll_mean") < interval[1], "{interval:?}");
    let sum = number("nll_mean") * number("tokens");
    let text = std::fs::read_to_string(&text).unwrap();
    assert!((number("nll_per_byte") * text.len() as f64 / sum - 1.0).abs() < 1e-12);
    assert!((number("nll_per_char") * text.chars().count() as f64 / sum - 1.0).abs() < 1e-12);
    assert_eq!(found["bits_per_weight"], 32.0);
    assert_eq!(found["file_bytes"], std::fs::metadata(&model).unwrap().len());
    assert_eq!(found["ctx"], 64);
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let place = Place::new();
    let text = long_text(&place);
    let model = conformance(TINY);
    let reference = model.to_str().unwrap();
    let common = ["--text", text.as_str(), "--reference", reference, "-n", "300"];
    let found = evaluated(&place, &model, &common);
    assert_eq!(found["tokens"], 300);
    assert_eq!((&found["kl_mean"], &found["kl_p99"]), (&Value::from(0.0), &Value::from(0.0)));
    assert_eq!(found["top1_agreement"], 1.0);
    assert_eq!(found["nll_more"], 0.0);
    assert!(found["nll_ci95"].is_null(), "300 tokens are too few blocks");
    let again = evaluated(&place, &model, &[&common[..], &["--tier", "scalar", "--batch", "7"]].concat());
    assert_eq!(again, found);

    let plain = output(place.on("eval", &model, &common));
    for part in ["tokens      300", "nats per token", "perplexity", "agreement   100.000 %", "32.000 bits"] {
        assert!(stdout(&plain).contains(part), "no {part}: {}", stdout(&plain));
    }
    assert!(stderr(&plain).contains("too short for an interval"));
    assert_eq!(stderr(&output(place.on("eval", &model, &[&common[..], &["-q"]].concat()))), "");
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let place = Place::new();
    let model = conformance(TINY);
    let on = |arguments: &[&str]| place.on("eval", &model, arguments);
    let (empty, short, broken, good) = (
        place.file("empty.txt", ""),
        place.file("short.txt", "a"),
        place.file("broken.txt", b"fine so far \xc3( not here"),
        place.file("good.txt", "Once upon a time"),
    );
    let [empty, short, broken, good] = [&empty, &short, &broken, &good].map(|path| path.to_str().unwrap());
    fails(on(&[]), 2, &["--text"]);
    fails(on(&["--text", "none.txt"]), 1, &["none.txt cannot be read"]);
    fails(on(&["--text", empty]), 1, &["empty.txt is empty"]);
    fails(on(&["--text", broken]), 1, &["broken.txt is no UTF-8 text", "offset 12"]);
    fails(on(&["--text", good, "-n", "1"]), 2, &["--max-tokens"]);
    fails(on(&["--text", good, "--ctx", "3"]), 2, &["a context of 3 is too small"]);
    fails(on(&["--text", good, "--reference", "none.gguf"]), 1, &["none.gguf"]);
    fails(on(&["--text", good, "--memory-limit", "1000"]), 4, &["1000 are available"]);
    fails(place.on("eval", &conformance("hostile/01-zip.bin"), &["--text", good]), 3, &["zip archive"]);
    let Some(stories) = shared("models/stories260k/stories260K.gguf") else { return };
    let reference = stories.to_str().unwrap();
    fails(on(&["--text", good, "--reference", reference]), 2, &["a vocabulary of 288, the reference of 512"]);
    let mut many = place.on("eval", &stories, &["--text", short]);
    many.env("RIN_REFERENCE", reference);
    fails(many, 1, &["short.txt", "the text has 1 tokens"]);
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_ends_it_without_a_result() {
    use crate::signals::{interrupt, wait_for_handler};

    let place = Place::new();
    // A text that takes minutes if it is left alone.
    let text = place.file("text.txt", "Once upon a time there was a tiny model. ".repeat(100_000));
    let mut command = place.on("eval", &conformance(TINY), &["--json", "--tier", "scalar", "--threads", "1"]);
    command.arg("--text").arg(text).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_handler(&child);
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    assert_eq!(ended.stdout, b"");
}
