//! `rin export`: the way back, from outside.

use std::path::Path;

use crate::program::{Place, conformance, json, output, stderr};

#[test]
fn an_export_runs_as_its_source() {
    let place = Place::new();
    let source = conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf");
    let ran = |model: &Path| json(&output(place.on("run", model, &["-p", "hello", "-n", "9", "--json", "-q"])));
    assert_eq!(output(place.on("import", &source, &["-o", "a.rin"])).status.code(), Some(0));
    let object = json(&output(place.on("export", &place.path("a.rin"), &["-o", "a.gguf", "--json", "-q"])));
    assert_eq!((&object["kind"], &object["n_dequantized"]), (&"gguf".into(), &0.into()));
    assert_eq!(object["bytes"], std::fs::metadata(place.path("a.gguf")).unwrap().len());
    let (from, to) = (ran(&source), ran(&place.path("a.gguf")));
    assert_eq!((&from["digest"], &from["text"]), (&to["digest"], &to["text"]));

    let told = output(place.on("export", &place.path("a.gguf"), &["-o", "folder", "--dtype", "bf16"]));
    assert_eq!(told.status.code(), Some(0));
    assert!(stderr(&told).contains("15 of them dequantised"), "{}", stderr(&told));
    assert_eq!(ran(&place.path("folder"))["text"].as_str().map(str::is_empty), Some(false));
    let config = std::fs::read_to_string(place.path("folder/config.json")).unwrap();
    assert!(config.contains("LlamaForCausalLM"), "{config}");
}

#[test]
fn a_failed_export_has_its_exit_code_and_leaves_nothing() {
    let place = Place::new();
    let source = conformance("models/tiny-llama");
    let code = |arguments: &[&str]| {
        let done = output(place.on("export", &source, arguments));
        (done.status.code(), stderr(&done))
    };
    let (wrong, told) = code(&["-o", "a.rin"]);
    assert_eq!(wrong, Some(2));
    assert!(told.contains("rin import"), "{told}");
    assert_eq!(code(&["-o", "a.gguf", "--dtype", "f16"]).0, Some(2));
    assert_eq!(code(&["-o", "a", "--dtype", "q8_0"]).0, Some(2));
    assert_eq!(code(&["-o", "none/a.gguf"]).0, Some(1));
    assert_eq!(code(&[]).0, Some(2));
    place.file("full/notes.txt", "mine");
    let (full, told) = code(&["-o", "full", "--overwrite"]);
    assert_eq!(full, Some(2));
    assert!(told.contains("notes.txt"), "{told}");
    assert_eq!(output(place.on("export", &conformance("hostile/01-zip.bin"), &["-o", "b"])).status.code(), Some(3));
    assert_eq!(code(&["-o", "a.gguf"]).0, Some(0));
    let (again, told) = code(&["-o", "a.gguf"]);
    assert_eq!(again, Some(2));
    assert!(told.contains("--overwrite"), "{told}");
    assert_eq!(code(&["-o", "a.gguf", "--overwrite"]).0, Some(0));
    let mut names: Vec<_> = std::fs::read_dir(&place.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a.gguf", "full"]);
}

#[test]
fn a_tokenizer_without_words_in_gguf_is_told_with_the_way_out() {
    let place = Place::new();
    for name in ["model.safetensors", "config.json"] {
        let bytes = std::fs::read(conformance("models/tiny-llama").join(name)).unwrap();
        place.file(&format!("source/{name}"), bytes);
    }
    let text = std::fs::read_to_string(conformance("models/tiny-llama/tokenizer.json")).unwrap();
    place.file("source/tokenizer.json", text.replace("\"ignore_merges\": false", "\"ignore_merges\": true"));
    let refused = output(place.on("export", &place.path("source"), &["-o", "a.gguf"]));
    assert_eq!(refused.status.code(), Some(3));
    assert!(stderr(&refused).contains("--without-tokenizer"), "{}", stderr(&refused));
    let done = output(place.on("export", &place.path("source"), &["-o", "a.gguf", "--without-tokenizer"]));
    assert_eq!(done.status.code(), Some(0));
    assert!(stderr(&done).contains("no tokenizer"), "{}", stderr(&done));
}
