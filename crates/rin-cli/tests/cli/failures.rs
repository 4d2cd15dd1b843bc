//! Exit codes and messages.

use std::process::Command;

use serde_json::Value;

use crate::program::{Place, TINY, conformance, json, output, stderr, stdout};

/// Runs a command that has to fail with a code; standard output stays empty, or holds the error with `--json`.
pub(crate) fn fails(mut command: Command, code: i32, parts: &[&str]) {
    let plain = command.output().unwrap();
    let message = stderr(&plain);
    assert_eq!(plain.status.code(), Some(code), "{message}");
    assert!(message.contains("error: "), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part}: {message}");
    }
    assert_eq!(plain.stdout, b"", "{message}");

    let as_json = command.arg("--json").output().unwrap();
    assert_eq!(as_json.status.code(), Some(code));
    let object: Value = serde_json::from_slice(&as_json.stdout).unwrap();
    assert_eq!(object["error"]["exit_code"], code);
    assert!(object["error"]["kind"].is_string());
    for part in object["error"]["message"].as_str().unwrap().split(": ") {
        assert!(stderr(&as_json).contains(part), "no {part}: {}", stderr(&as_json));
    }
}

#[cfg(not(feature = "embedded"))]
#[test]
fn a_build_without_a_model_says_so() {
    let place = Place::new();
    fails(place.rin(&["run", "-p", "a"]), 2, &["no model is embedded in this build; give a path"]);
}

#[cfg(not(feature = "train"))]
#[test]
fn a_build_without_a_trainer_says_so() {
    let place = Place::new();
    fails(place.rin(&["train", "x.toml"]), 2, &["no trainer", "--features train"]);
}

#[cfg(not(feature = "lab"))]
#[test]
fn a_build_without_a_laboratory_says_so() {
    let place = Place::new();
    fails(place.rin(&["lab"]), 2, &["no laboratory", "--features lab"]);
}

#[test]
fn wrong_usage_is_2() {
    let place = Place::new();
    fails(place.rin(&["walk"]), 2, &["walk"]);
    fails(place.rin(&["run", "--grammar", "x"]), 2, &["--grammar"]);
    fails(place.tiny(&[]), 2, &["standard input is empty", "-p"]);
    fails(place.tiny(&["-p", "a", "--tokens", "1"]), 2, &["--prompt and --tokens exclude each other"]);
    fails(place.tiny(&["--tokens", ""]), 2, &["an id is missing"]);
    fails(place.tiny(&["--tokens", "1,x"]), 2, &["`x` is no token id"]);
    fails(place.tiny(&["--tokens", "1,288"]), 2, &["288"]);
    fails(place.tiny(&["-p", "a", "--temp", "-1"]), 2, &["temp", "-1"]);
    for flag in ["--top-p", "--min-p", "--typical-p", "--temp", "--repeat-penalty", "--presence-penalty"] {
        fails(place.tiny(&["-p", "a", flag, "nan"]), 2, &[&format!("{flag}: "), "NaN"]);
    }
    fails(place.tiny(&["-p", "a", "--logit-bias", "288=1"]), 2, &["--logit-bias: ", "288"]);
    fails(place.tiny(&["-p", "a", "--ctx", "3000000000"]), 2, &["--ctx is 3000000000"]);
    fails(place.tiny(&["-p", "a", "--batch", "0"]), 2, &["--batch is 0"]);
    fails(place.tiny(&["-p", "a", "--threads", "513"]), 2, &["--threads is 513"]);
    fails(place.on("bench", &conformance(TINY), &["-r", "0"]), 2, &["--repetitions is 0"]);
    fails(place.on("bench", &conformance(TINY), &["-b", "0"]), 2, &["--parallel is 0"]);
    fails(place.on("bench", &conformance(TINY), &["-n", "99999999999"]), 2, &["--n-gen is 99999999999"]);
    fails(place.tiny(&["-p", "a", "--logit-bias", "7"]), 2, &["ID=V"]);
    fails(place.tiny(&["-p", "a", "--stop", ""]), 2, &["--stop"]);
    fails(place.tiny(&["-p", "a", "--tier", "sse9"]), 2, &["sse9", "scalar", "amx-int8"]);
    fails(place.tiny(&["-p", "a", "--mode", "poem"]), 2, &["snn", "transformer"]);
    fails(place.tiny(&["-p", "a", "--kv-type", "q1"]), 2, &["q1", "f16"]);
    fails(place.tiny(&["-p", "a", "--batch", "0"]), 2, &["batch"]);
    fails(place.tiny(&["-p", "a", "--memory-limit", "1X"]), 2, &["1X"]);
    fails(place.tiny(&["-p", "hello there", "--ctx", "2"]), 2, &["--ctx"]);
    fails(place.on("tokens", &conformance(TINY), &["--decode", "288"]), 2, &["288"]);
    fails(place.on("tokens", &conformance(TINY), &["--decode", "1", "-p", "a"]), 2, &["exclude"]);
}

#[test]
fn files_that_cannot_be_read_are_1() {
    let place = Place::new();
    fails(place.on("run", &place.path("none.gguf"), &["-p", "a"]), 1, &["none.gguf"]);
    fails(place.rin(&["run", "org/none", "-p", "a"]), 1, &["org/none", "models--org--none"]);
    fails(place.on("tokens", &conformance(TINY), &["--file", "none"]), 1, &["none"]);
}

#[test]
fn bad_models_are_3() {
    let place = Place::new();
    for command in ["run", "inspect", "tokens"] {
        for (file, part) in [
            ("hostile/01-zip.bin", "zip archive"),
            ("hostile/01-empty.bin", "01-empty.bin"),
            ("hostile/13-data-cut.gguf", "cut short"),
            ("hostile/17-overlap.safetensors", "17-overlap.safetensors"),
        ] {
            fails(place.on(command, &conformance(file), &[]), 3, &[part]);
        }
    }
    let unknown = conformance("hostile/15-architecture.gguf");
    fails(place.on("run", &unknown, &["-p", "a"]), 3, &["unknown architecture", "llama", "qwen2"]);
    fails(place.on("inspect", &unknown, &["--plan"]), 3, &["unknown architecture"]);
    let inspected = json(&output(place.on("inspect", &unknown, &["--json"])));
    assert!(inspected["config"].is_null() && inspected["model"]["mode"].is_null());
    assert!(inspected["problems"][0].as_str().unwrap().contains("unknown architecture"));
    assert!(!inspected["tensors"].as_array().unwrap().is_empty());
    assert!(stdout(&output(place.on("inspect", &unknown, &[]))).contains("unknown architecture"));
}

#[test]
fn a_plan_that_does_not_fit_is_4_and_says_what_is_needed_and_what_there_is() {
    let place = Place::new();
    let plan = json(&output(place.on("inspect", &conformance(TINY), &["--plan", "--json"])));
    let needed = plan["plan"]["total_bytes"].to_string();
    fails(place.tiny(&["-p", "a", "--memory-limit", "1000"]), 4, &[&needed, "1000", "--memory-limit"]);
    fails(place.tiny(&["-p", "a", "--ctx", "2000000000"]), 4, &["are needed", "are available"]);
}

#[test]
fn required_energy_is_5() {
    let place = Place::new();
    fails(place.tiny(&["-p", "a", "--require-energy"]), 5, &["no energy sensor"]);
    let mut command = place.tiny(&["-p", "a"]);
    command.env("RIN_REQUIRE_ENERGY", "1");
    fails(command, 5, &["no energy sensor"]);
}

#[test]
fn a_number_of_threads_that_no_pool_has_is_wrong_usage() {
    let place = Place::new();
    for threads in ["0", "513", "1000", "18446744073709551615", "-1"] {
        let output = output(place.rin(&["run", conformance(TINY).to_str().unwrap(), "-p", "x", "--threads", threads]));
        assert_eq!(output.status.code(), Some(2), "{threads}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("threads"), "{threads}");
    }
}

#[test]
fn a_text_that_cannot_fit_is_refused_before_it_is_cut_up() {
    let place = Place::new();
    let long = place.file("long.txt", "Z".repeat(1 << 24));
    let mut command = place.rin(&["run", conformance(TINY).to_str().unwrap(), "-n", "1"]);
    let output = command.stdin(std::fs::File::open(long).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the context holds"));
}
