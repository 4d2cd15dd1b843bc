//! Hostile files: built by a table, kept under `conformance/hostile/`, each with the error that it must produce.

use std::collections::BTreeMap;
use std::path::Path;

use rin_model::{Error, ModelFile};
use rin_testkit::data::{conformance, shared};

use crate::hostile_cases::{Case, all};
use crate::tiny::{Folder, gguf, gguf_keys};

/// What a user meets first: the header, then the network, then the tokenizer.
fn outcome(file: Result<ModelFile, Error>) -> Result<(), Error> {
    let file = file?;
    file.config()?;
    file.tokenizer()?;
    Ok(())
}

fn kind(result: Result<(), Error>) -> &'static str {
    result.map_or_else(|error| error.kind(), |()| "Ok")
}

#[test]
fn the_tiny_networks_are_sound() {
    outcome(ModelFile::from_bytes("tiny.gguf", gguf().finish())).unwrap();
    outcome(ModelFile::from_bytes("tiny.rin", crate::rin::rin(|_, value| value.to_owned(), 64))).unwrap();
}

#[test]
fn each_case_gives_its_error() {
    let mut wrong = Vec::new();
    for Case { name, kind: expected, bytes } in all() {
        let result = outcome(ModelFile::from_bytes(name, bytes));
        let message = result.as_ref().map_or_else(ToString::to_string, |()| "no error".to_owned());
        let found = kind(result);
        if found != expected {
            wrong.push(format!("{name}: expected {expected}, found {found}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn messages_name_place_expectation_and_remedy() {
    for Case { name, bytes, .. } in all() {
        let Err(error) = outcome(ModelFile::from_bytes(name, bytes)) else { continue };
        let message = error.to_string();
        match error.fault() {
            Some(fault) => {
                assert!(fault.file.as_deref().is_some_and(|file| file == Path::new(name)), "{name}: {message}");
                assert!(
                    !fault.section.is_empty() && !fault.expected.is_empty() && !fault.found.is_empty(),
                    "{message}"
                );
                assert!(message.contains("expected") && message.contains("; "), "{message}");
            }
            None => assert_eq!(error.kind(), "UnknownArchitecture"),
        }
        assert!(message.len() < 1000, "{name}: {message}");
    }
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let file = ModelFile::from_bytes("x", gguf().kv_str("general.architecture", "rwkv6").finish()).unwrap();
    let message = file.config().unwrap_err().to_string();
    for name in ["rwkv6", "llama", "mistral", "qwen2"] {
        assert!(message.contains(name), "{message}");
    }
}

type Expected = BTreeMap<String, BTreeMap<String, String>>;

/// `RIN_WRITE_HOSTILE=1` writes the files and the table's side of `expected.json` anew.
#[test]
fn the_files_on_disk_are_those_of_the_table() {
    let folder = conformance("hostile");
    let table = folder.join("expected.json");
    let mut expected: Expected = match std::fs::read(&table) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => Expected::new(),
    };
    let files: BTreeMap<String, String> =
        all().into_iter().map(|case| (case.name.to_owned(), case.kind.to_owned())).collect();
    assert_eq!(files.len(), all().len(), "two cases of one name");
    if std::env::var_os("RIN_WRITE_HOSTILE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for case in all() {
            std::fs::write(folder.join(case.name), case.bytes).unwrap();
        }
        expected.insert("files".to_owned(), files.clone());
        std::fs::write(&table, serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
    }
    assert_eq!(expected["files"], files);
    for case in all() {
        let path = folder.join(case.name);
        assert_eq!(std::fs::read(&path).unwrap(), case.bytes, "{}", case.name);
        assert_eq!(kind(outcome(ModelFile::open(&path))), case.kind, "{}", case.name);
    }
}

/// Seeds of another project's fuzzer, with the errors that RIN gives for them.
#[test]
fn the_shared_files_give_their_errors() {
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(conformance("hostile/expected.json")).unwrap()).unwrap();
    let Some(folder) = shared("hostile/gguf") else { return };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.insert(name, kind(outcome(ModelFile::open(&path))).to_owned());
    }
    assert_eq!(found, expected["shared/data/hostile/gguf"], "the right side is the file's");
}

#[test]
fn strings_and_tokens_have_budgets() {
    let long = gguf_keys().kv_str("general.description", &"x".repeat((16 << 20) + 1)).finish();
    assert_eq!(kind(outcome(ModelFile::from_bytes("x", long))), "BudgetExceeded");
    let many = (0..5).fold(gguf_keys(), |file, i| file.kv_str(&format!("k{i}"), &"x".repeat(15 << 20))).finish();
    assert_eq!(kind(outcome(ModelFile::from_bytes("x", many))), "BudgetExceeded");
    let mut tokens = vec!["t".to_owned(); 10];
    tokens[4] = "x".repeat((1 << 16) + 1);
    let token = gguf().kv_strs("tokenizer.ggml.tokens", &tokens).finish();
    assert_eq!(kind(outcome(ModelFile::from_bytes("x", token))), "BadVocab");
    let keys = (0..70_000)
        .fold(gguf_keys().claim_keys(70_000), |file, i: u32| file.kv_again(format!("key{i}").as_bytes(), 0, &[0]));
    assert_eq!(kind(outcome(ModelFile::from_bytes("x", keys.finish()))), "BudgetExceeded");
}

#[test]
fn a_changed_file_is_noticed() {
    let folder = Folder::new();
    let path = folder.write("tiny.gguf", gguf().finish());
    let file = ModelFile::open(&path).unwrap();
    file.check_unchanged().unwrap();
    let shorter = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    shorter.set_len(100).unwrap();
    let error = file.check_unchanged().unwrap_err();
    assert_eq!(error.kind(), "FileChanged");
    assert!(error.to_string().contains("100 bytes"), "{error}");
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = Folder::new();
    assert_eq!(kind(outcome(ModelFile::open(&folder.path().join("absent.gguf")))), "Io");
    assert_eq!(kind(outcome(ModelFile::open(folder.path()))), "NotAModel");
    #[cfg(unix)]
    assert_eq!(kind(outcome(ModelFile::open(Path::new("/dev/zero")))), "NotAModel");
}
