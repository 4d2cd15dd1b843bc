//! Files that are written and found: logits, imports, the model cache.

use std::path::Path;
use std::process::Stdio;

use crate::program::{Place, TINY, conformance, ids, json, output, stderr, stdout};

/// Shape and values of an array file.
fn read_npy(path: &Path) -> ((usize, usize), Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    assert!((10 + length).is_multiple_of(64) && header.ends_with('\n'));
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let (rows, cols) = shape.split_once(", ").unwrap();
    let values = bytes[10 + length..].as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    ((rows.parse().unwrap(), cols.parse().unwrap()), values)
}

#[test]
fn logits_are_written_for_every_generated_token() {
    let place = Place::new();
    let run = ["-p", "hello", "--temp", "0", "-n", "7", "--ignore-eos", "--json", "--logits", "out.npy"];
    let object = json(&output(place.tiny(&run)));
    assert_eq!(object["allocations_during_inference"], 0);
    let (shape, values) = read_npy(&place.path("out.npy"));
    assert_eq!((shape, values.len()), ((7, 288), 7 * 288));
    let highest = |row: &[f32]| (0..288u32).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
    let greedy: Vec<u64> = values.chunks(288).map(|row| u64::from(highest(row))).collect();
    assert_eq!(greedy, ids(&object["tokens"]));

    let none = place.tiny(&["-p", "hello", "-n", "0", "--logits", "out.npy"]);
    assert_eq!(stdout(&output(none)), "");
    assert_eq!(read_npy(&place.path("out.npy")), ((0, 288), vec![]));
    assert_eq!(std::fs::read_dir(&place.folder).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn logits_that_cannot_be_written_are_an_error() {
    let place = Place::new();
    let failed = output(place.tiny(&["-p", "a", "-n", "1", "--logits", "none/out.npy"]));
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("cannot be written to none/out.npy"), "{}", stderr(&failed));
    if Path::new("/dev/full").exists() {
        let failed = output(place.tiny(&["-p", "a", "-n", "400", "--logits", "/dev/full"]));
        assert_eq!(failed.status.code(), Some(1));
        assert!(stderr(&failed).contains("No space left"), "{}", stderr(&failed));
    }
    assert_eq!(std::fs::read_dir(&place.folder).unwrap().count(), 0);
}

#[test]
fn an_import_runs_as_its_source() {
    let place = Place::new();
    let import = |model: &Path, more: &[&str]| {
        let mut command = place.on("import", model, &["-o", "out.rin"]);
        command.args(more);
        output(command)
    };
    let model = conformance(TINY);
    let object = json(&import(&model, &["--json", "-q"]));
    assert_eq!(object["bytes"], std::fs::metadata(place.path("out.rin")).unwrap().len());
    let run = ["-p", "hello", "-n", "9", "--json", "-q"];
    let ran = |model: &Path| json(&output(place.on("run", model, &run)));
    let (from, to) = (ran(&model), ran(&place.path("out.rin")));
    assert_eq!((&from["digest"], &from["text"]), (&to["digest"], &to["text"]));
    assert_eq!((&to["model"]["format"], &to["model"]["n_params"]), (&"rin".into(), &from["model"]["n_params"]));

    let again = import(&model, &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    let folder = conformance("models/tiny-llama-tied");
    assert_eq!(json(&import(&folder, &["--overwrite", "--quant", "f16", "--json"]))["quant"], "F16");
    let inspected = json(&output(place.on("inspect", &place.path("out.rin"), &["--json"])));
    assert_eq!(inspected["model"]["quant"], "F16");
    assert_eq!(import(&place.path("out.rin"), &[]).status.code(), Some(2));
    assert_eq!(import(&conformance("hostile/01-zip.bin"), &["--overwrite"]).status.code(), Some(3));
    assert_eq!(import(&place.path("none.gguf"), &["--overwrite"]).status.code(), Some(1));
}

#[test]
fn names_are_found_in_the_cache() {
    let place = Place::new();
    let model = std::fs::read(conformance(TINY)).unwrap();
    let path = |json: serde_json::Value| json["model"]["path"].as_str().unwrap().to_owned();
    let inspect = |name: &str| place.rin(&["inspect", name, "--json"]);

    place.file("hub/models--org--one/refs/main", "abc123\n");
    let one = place.file("hub/models--org--one/snapshots/abc123/m.gguf", &model);
    place.file("hub/models--org--one/snapshots/old/m.gguf", &model);
    let mut command = inspect("org/one");
    command.env("HF_HUB_CACHE", place.path("hub"));
    assert_eq!(path(json(&output(command))), one.to_str().unwrap());

    let two = place.file("home/hub/models--two/snapshots/abc/a.gguf", &model);
    place.file("home/hub/models--two/snapshots/abc/b.gguf", &model);
    let mut command = inspect("two");
    command.env("HF_HOME", place.path("home"));
    let failed = output(command);
    assert_eq!(failed.status.code(), Some(2));
    assert!(stderr(&failed).contains("a.gguf, b.gguf"), "{}", stderr(&failed));

    let folder = conformance("models/tiny-qwen2");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        place.file(&format!(".cache/huggingface/hub/models--org--three/snapshots/f/{name}"), bytes);
    }
    let found = json(&output(inspect("org/three")));
    assert_eq!(found["model"]["arch"], "qwen2");

    place.file(".cache/huggingface/hub/models--org--four/refs/main", "../../..");
    place.file(".cache/huggingface/hub/models--org--four/snapshots/a/m.gguf", &model);
    let named = json(&output(inspect("org/four/m.gguf")));
    assert!(path(named).ends_with("snapshots/a/m.gguf"));
    drop(two);
}

#[test]
fn logits_never_take_the_place_of_the_model() {
    let place = Place::new();
    let model = place.file("model.gguf", std::fs::read(conformance(TINY)).unwrap());
    let before = std::fs::read(&model).unwrap();
    for name in ["model.gguf", "./model.gguf"] {
        let output = output(place.rin(&["run", "model.gguf", "-p", "x", "-n", "1", "--logits", name]));
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("overwrite the model"));
    }
    assert_eq!(std::fs::read(&model).unwrap(), before);
}

#[test]
fn logits_to_a_folder_or_a_pipe_are_refused_before_anything_runs() {
    let place = Place::new();
    for target in ["/", "/dev/stdout"] {
        let output =
            output(place.rin(&["run", conformance(TINY).to_str().unwrap(), "-p", "x", "-n", "2", "--logits", target]));
        assert_eq!(output.status.code(), Some(1), "{target}");
        assert!(output.stdout.is_empty(), "{target}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn ids_run_without_a_tokenizer() {
    let place = Place::new();
    let source = conformance("models/tiny-llama");
    for name in ["config.json", "model.safetensors"] {
        place.file(&format!("bare/{name}"), std::fs::read(source.join(name)).unwrap());
    }
    let arguments = ["--tokens", "1,20,30", "-n", "4", "--temp", "0", "--json", "-q"];
    let run = |model: &str| {
        let output = output(place.rin(&[&["run", model], &arguments[..]].concat()));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (bare, whole) = (run("bare"), run(source.to_str().unwrap()));
    assert_eq!(bare["text"], "");
    assert_eq!(bare["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(bare["digest"], whole["digest"]);
    let output = output(place.rin(&["run", "bare", "-p", "x"]));
    assert_eq!(output.status.code(), Some(3), "a prompt needs a tokenizer");
}

#[test]
fn a_model_that_is_cut_short_while_it_runs_ends_with_a_word() {
    let place = Place::new();
    let source = conformance("models/tiny-llama");
    let output = output(place.rin(&["import", source.to_str().unwrap(), "-o", "m.rin"]));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut running = place.rin(&["run", "m.rin", "-p", "x", "-n", "100000", "--ctx", "200000", "--ignore-eos"]);
    let mut running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its first text says that it is loaded and runs.
    let mut first = [0];
    std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut first).unwrap();
    std::fs::OpenOptions::new().write(true).open(place.path("m.rin")).unwrap().set_len(64).unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{:?}", output.status);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cut short"));
}

#[test]
fn a_changed_byte_in_a_rin_file_shows_in_inspect() {
    let place = Place::new();
    let source = conformance("models/tiny-llama");
    output(place.rin(&["import", source.to_str().unwrap(), "-o", "m.rin"]));
    let problems = || {
        let output = output(place.rin(&["inspect", "m.rin", "--json"]));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        object["problems"].as_array().unwrap().len()
    };
    assert_eq!(problems(), 0);
    let mut bytes = std::fs::read(place.path("m.rin")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    place.file("m.rin", bytes);
    assert_eq!(problems(), 1);
}
