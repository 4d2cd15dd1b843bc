//! `rin tokens`.

use crate::program::{Place, TINY, conformance, ids, json, keys, output, shared, stdout, with_input};

const TEXT: &str = "hello <s> there, ü\t\u{1f600}  x";

#[test]
fn ids_decode_to_the_text() {
    let place = Place::new();
    let model = conformance(TINY);
    let line = stdout(&output(place.on("tokens", &model, &["-p", TEXT])));
    let object = json(&output(place.on("tokens", &model, &["-p", TEXT, "--json"])));
    assert_eq!(keys(&object), ["tokens", "pieces"]);
    let listed: Vec<u64> = line.trim().split(',').map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids(&object["tokens"]), listed);
    assert_eq!(object["pieces"].as_array().unwrap().len(), listed.len());
    assert!(object["pieces"].as_array().unwrap().iter().any(|piece| piece == "<s>"));

    let plain = "hello there, ü\t\u{1f600}  x";
    let line = stdout(&output(place.on("tokens", &model, &["-p", plain, "--no-special"])));
    assert_eq!(stdout(&output(place.on("tokens", &model, &["--decode", line.trim()]))), plain);
    let back = json(&output(place.on("tokens", &model, &["--decode", line.trim(), "--json"])));
    assert_eq!(keys(&back), ["text", "tokens", "pieces"]);
    assert_eq!(back["text"], plain);
}

#[test]
fn a_beginning_of_text_is_left_out_on_request() {
    let place = Place::new();
    let model = conformance(TINY);
    let with = ids(&json(&output(place.on("tokens", &model, &["-p", "a", "--json"])))["tokens"]);
    let without = ids(&json(&output(place.on("tokens", &model, &["-p", "a", "--json", "--no-special"])))["tokens"]);
    assert_eq!(with[1..], without);
}

#[test]
fn a_file_is_one_text_per_line() {
    let place = Place::new();
    let model = conformance(TINY);
    let file = place.file("texts", "hello\n\nthere");
    let file = file.to_str().unwrap();
    let lines = stdout(&output(place.on("tokens", &model, &["--no-special", "--file", file])));
    let single = |text: &str| stdout(&output(place.on("tokens", &model, &["--no-special", "-p", text])));
    assert_eq!(lines, ["hello", "", "there"].map(single).concat());
    let object = json(&output(place.on("tokens", &model, &["--file", file, "--json"])));
    assert_eq!(keys(&object), ["texts"]);
    let texts = object["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 3);
    assert_eq!(keys(&texts[0]), ["tokens", "pieces"]);
}

#[test]
fn a_vocabulary_without_a_network_is_enough() {
    let Some(vocabulary) = shared("tokenizers/ggml-vocab-gpt-2.gguf") else { return };
    let place = Place::new();
    // llama.cpp's published ids of one line of its test inputs.
    let object = json(&output(place.on("tokens", &vocabulary, &["-p", "Hello World!", "--json"])));
    assert_eq!(ids(&object["tokens"]), [15496, 2159, 0]);
    assert_eq!(object["pieces"], serde_json::json!(["Hello", " World", "!"]));
}

#[test]
fn long_texts_come_from_standard_input() {
    let Some(vocabulary) = shared("tokenizers/ggml-vocab-llama-spm.gguf") else { return };
    let place = Place::new();
    let text = "Z".repeat(131_072);
    let command = place.on("tokens", &vocabulary, &["--json"]);
    let object = json(&with_input(command, &text));
    let pieces = object["pieces"].as_array().unwrap();
    let joined: String = pieces[1..].iter().map(|piece| piece.as_str().unwrap()).collect();
    assert_eq!(joined.trim_start(), text);
}
