//! Tokenizers in the words of the other format: the same ids, or an error that says why not.

use crate::export::exported;
use crate::models::{Folder, stories, tiny_llama};
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_import::{Error, ExportOptions, export};
use rin_model::ModelFile;
use rin_testkit::data::{conformance, shared};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_source(&ModelFile::open(path).unwrap().tokenizer().unwrap()).unwrap()
}

/// The tiny model with another tokenizer, its vocabulary cut or filled to the rows of the embedding.
fn with_tokenizer(folder: &Folder, json: &Value) -> PathBuf {
    let dst = folder.join("source");
    std::fs::create_dir_all(&dst).unwrap();
    for name in ["model.safetensors", "config.json"] {
        std::fs::copy(tiny_llama().join(name), dst.join(name)).unwrap();
    }
    std::fs::write(dst.join("tokenizer.json"), json.to_string()).unwrap();
    dst
}

fn tiny(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(conformance("models").join(name).join("tokenizer.json")).unwrap()).unwrap()
}

fn texts() -> Vec<String> {
    let vectors = conformance("tokenizers/bpe-llama3/vectors.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    let mut texts = Vec::new();
    strings(&vectors, &mut texts);
    assert!(texts.len() > 20);
    texts
}

fn strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| strings(value, into)),
        Value::Object(values) => values.values().for_each(|value| strings(value, into)),
        _ => {}
    }
}

fn assert_same_ids(a: &Tokenizer, b: &Tokenizer, what: &str) {
    for text in texts() {
        for add_special in [false, true] {
            let options = EncodeOptions { add_special, parse_special: true };
            let ids = a.encode(&text, options).unwrap();
            assert_eq!(ids, b.encode(&text, options).unwrap(), "{what}: {text:?}");
            assert_eq!(a.decode(&ids), b.decode(&ids), "{what}: {text:?}");
        }
    }
}

#[test]
fn tokenizers_become_gguf_keys_and_come_back() {
    for name in ["tiny-llama", "tiny-llama3", "tiny-mistral"] {
        let folder = Folder::new();
        let (gguf, back) = (folder.join("a.gguf"), folder.join("back"));
        let src = conformance("models").join(name);
        let notes = exported(&src, &gguf).unwrap().notes;
        assert!(notes.iter().all(|note| note.contains("reaches back 32 tokens")), "{notes:?}");
        assert_eq!(notes.len(), usize::from(name == "tiny-mistral"));
        exported(&gguf, &back).unwrap();
        let (a, b, c) = (tokenizer(&src), tokenizer(&gguf), tokenizer(&back));
        assert_same_ids(&a, &b, name);
        assert_same_ids(&a, &c, name);
        let config = ModelFile::open(&src).unwrap().config().unwrap().clone();
        // The configuration names the end where tokenizer.json does not.
        for written in [&b, &c] {
            let special = written.special();
            assert_eq!(special.eos, config.eos.first().copied(), "{name}");
            assert_eq!((special.bos, special.add_bos), (a.special().bos, a.special().add_bos), "{name}");
            assert_eq!((special.unk, special.add_eos), (a.special().unk, false), "{name}");
        }
        assert_eq!(ModelFile::open(&back).unwrap().config().unwrap().eos, config.eos);
        assert_eq!(b.special().end, a.with_end(&config.eos).unwrap().special().end, "{name}");
    }
}

#[test]
fn what_gguf_does_not_say_of_rare_text_is_noted() {
    let folder = Folder::new();
    let report = exported(&conformance("models/tiny-qwen2"), &folder.join("a.gguf")).unwrap();
    assert!(matches!(&report.notes[..], [note] if note.contains("NFC")), "{:?}", report.notes);
}

#[test]
fn the_vocabulary_of_a_trained_model_becomes_a_tokenizer_json() {
    let Some(src) = shared(&stories("")) else { return };
    let folder = Folder::new();
    exported(&src, &folder.join("a")).unwrap();
    assert_same_ids(&tokenizer(&src), &tokenizer(&folder.join("a")), "stories260K");
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("a/tokenizer.json")).unwrap()).unwrap();
    assert_eq!((&json["model"]["type"], &json["model"]["byte_fallback"]), (&json!("BPE"), &json!(true)));
    // And back again, from ranks to scores.
    exported(&folder.join("a"), &folder.join("b.gguf")).unwrap();
    assert_same_ids(&tokenizer(&src), &tokenizer(&folder.join("b.gguf")), "stories260K");
}

/// The vocabularies of `rin train`: bytes, and characters of one byte or more, without a rule that cuts words.
#[test]
fn vocabularies_of_bytes_and_of_characters_need_no_rule_to_cut_words() {
    for keep in [0, 3] {
        let folder = Folder::new();
        let mut json = tiny("tiny-llama3");
        json["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        // The sign of é: the bytes C3 A9. Merges within a character, first two of them, then none.
        json["model"]["merges"] = json!([["Ã", "©"], ["â", "ĺ"], ["âĺ", "ķ"]].as_slice()[..keep]);
        if keep > 0 {
            for (text, of) in [("Ã©", "he"), ("âĺ", "in"), ("âĺķ", "er")] {
                let id = json["model"]["vocab"].as_object_mut().unwrap().remove(of).unwrap();
                json["model"]["vocab"][text] = id;
            }
        }
        let src = with_tokenizer(&folder, &json);
        let mut config: Value = serde_json::from_slice(&std::fs::read(src.join("config.json")).unwrap()).unwrap();
        config["eos_token_id"] = Value::Null;
        std::fs::write(src.join("config.json"), config.to_string()).unwrap();
        let notes = exported(&src, &folder.join("a.gguf")).unwrap().notes;
        assert!(matches!(&notes[..], [note] if note.contains("no end of a text")), "{notes:?}");
        assert_same_ids(&tokenizer(&src), &tokenizer(&folder.join("a.gguf")), "bytes");
    }
}

#[test]
fn a_tokenizer_that_gguf_cannot_hold_is_refused_by_name() {
    let folder = Folder::new();
    let refused = |json: &Value, expected: &str| {
        let src = with_tokenizer(&folder, json);
        let error = exported(&src, &folder.join("a.gguf")).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
        assert!(error.to_string().contains(expected) && error.to_string().contains("--without-tokenizer"), "{error}");
        assert_eq!(folder.names(), ["source"]);
    };
    let mut whole = tiny("tiny-llama3");
    whole["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    refused(&whole, "Whole");
    let mut prefix = tiny("tiny-llama3");
    prefix["pre_tokenizer"] = json!({ "type": "ByteLevel", "add_prefix_space": true, "use_regex": true });
    refused(&prefix, "space before a text");
    let mut kept = tiny("tiny-qwen2");
    kept["model"]["ignore_merges"] = json!(true);
    refused(&kept, "Qwen2");
    let mut first = tiny("tiny-llama");
    first["normalizer"] = Value::Null;
    first["pre_tokenizer"] =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    refused(&first, "FirstUnlessPresent");
    let mut missing = tiny("tiny-llama");
    missing["model"]["merges"].as_array_mut().unwrap().remove(1);
    refused(&missing, "no merge of the list");
    let mut decoded = tiny("tiny-llama");
    decoded["decoder"] = json!({ "type": "ByteFallback" });
    refused(&decoded, "decoding");

    // Without it the model is written all the same.
    let options = ExportOptions { without_tokenizer: true, ..ExportOptions::default() };
    let report = export(&folder.join("source"), &folder.join("a.gguf"), &options, &mut |_| {}).unwrap();
    assert!(!report.tokenizer);
    let written = ModelFile::open(&folder.join("a.gguf")).unwrap();
    assert!(written.tokenizer().is_err());
    written.config().unwrap();
    let keys: Vec<_> = written.metadata().filter(|(key, _)| key.starts_with("tokenizer.")).collect();
    assert!(matches!(keys[..], [("tokenizer.ggml.model", rin_model::Value::Str("none"))]));
}

#[test]
fn holes_and_rows_beyond_the_vocabulary_get_names() {
    let folder = Folder::new();
    let mut json = tiny("tiny-llama");
    for text in ["▁w", "en"] {
        json["model"]["vocab"].as_object_mut().unwrap().remove(text).unwrap();
    }
    json["model"]["merges"].as_array_mut().unwrap().truncate(15);
    let src = with_tokenizer(&folder, &json);
    exported(&src, &folder.join("a.gguf")).unwrap();
    let file = ModelFile::open(&folder.join("a.gguf")).unwrap();
    let Ok(rin_model::TokenizerSource::Gguf(vocab)) = file.tokenizer() else { panic!("no vocabulary") };
    assert_eq!(vocab.tokens.len(), 288);
    assert_eq!(vocab.tokens.iter().skip(286).collect::<Vec<_>>(), [b"[PAD286]", b"[PAD287]"]);
    assert_eq!(vocab.types.iter().skip(286).collect::<Vec<_>>(), [5, 5]);
    assert_same_ids(&tokenizer(&src), &tokenizer(&folder.join("a.gguf")), "holes");
}

/// Bytes of a GGUF file with one key's text replaced by another of the same length.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn a_vocabulary_that_tokenizer_json_cannot_hold_is_refused_by_name() {
    let folder = Folder::new();
    let gguf = folder.join("a.gguf");
    let refused = |bytes: Vec<u8>, expected: &str| {
        std::fs::write(&gguf, bytes).unwrap();
        let error = exported(&gguf, &folder.join("a")).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains(expected), "{error}");
        assert_eq!(folder.names(), ["a.gguf"]);
    };
    let spm = std::fs::read(tiny_llama().join("tiny-llama-f16.gguf")).unwrap();
    let scores = |a: f32, b: f32| [a.to_le_bytes(), b.to_le_bytes()].concat();
    refused(patched(&spm, &scores(-3.0, -4.0), &scores(-3.0, -3.0)), "same score");
    let text = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    refused(patched(&spm, &text(b"er"), &text(b"on")), "the same text");
    refused(patched(&spm, &text(b"er"), &text(b"\xff\xfe")), "no UTF-8");
    let options = ExportOptions { without_tokenizer: true, ..ExportOptions::default() };
    export(&gguf, &folder.join("a"), &options, &mut |_| {}).unwrap();
    let names = std::fs::read_dir(folder.join("a")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}
