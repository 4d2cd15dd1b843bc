//! Attention encoders: import of a Hugging Face folder, run on ids and pictures, inspect, verify.

use crate::program::{Place, conformance, json, output, stderr, stdout};
use rin_model::array::Array;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> String {
    conformance(&format!("encoders/{name}")).display().to_string()
}

fn imported(place: &Place, name: &str) -> PathBuf {
    let to = place.path(&format!("{name}.rin"));
    let mut command = place.rin(&["import", &golden(name), "-q", "-o"]);
    command.arg(&to);
    stdout(&output(command));
    to
}

fn near(found: &Path, want: &str) {
    let (found, want) = (Array::read(found).unwrap(), Array::read(Path::new(&golden(want))).unwrap());
    assert_eq!(found.shape, want.shape);
    for (found, want) in found.values.iter().zip(&want.values) {
        assert!((found - want).abs() <= 2e-5, "{found} for {want}");
    }
}

#[test]
fn a_folder_of_bert_runs_on_ids() {
    let place = Place::new();
    let model = imported(&place, "bert");
    let inputs: Vec<String> =
        ["ids", "types", "length"].map(|name| format!("{name}={}", golden(&format!("bert/{name}.npy")))).to_vec();
    let mut arguments: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input.as_str()]).collect();
    arguments.extend(["--output", "mean=mean.npy", "--output", "all.npz", "--json", "-q"]);
    let found = json(&output(place.on("run", &model, &arguments)));
    assert_eq!((&found["model"]["mode"], &found["rows"]), (&"attn".into(), &4.into()));
    assert_eq!(found["outputs"][0]["shape"], serde_json::json!([4, 70, 36]));
    assert_eq!(found["allocations_during_inference"], 0);
    near(&place.path("mean.npy"), "bert/mean.npy");
    // The archive holds the same bytes as a file of its own.
    let (archive, mean) =
        (std::fs::read(place.path("all.npz")).unwrap(), std::fs::read(place.path("mean.npy")).unwrap());
    assert!(archive.windows(mean.len()).any(|part| part == mean), "mean.npy is in the archive");
    for name in ["layer.1.norm.npy", "mean.npy", "pooled.npy"] {
        assert!(archive.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
    // The batch counts positions: one row at a time here.
    let mut command = place.on("run", &model, &arguments);
    command.args(["--batch", "64", "--threads", "2"]);
    assert_eq!(json(&output(command))["digest"], found["digest"]);
}

#[test]
fn lines_of_ids_may_differ_in_length() {
    let place = Place::new();
    let model = imported(&place, "bert-classes");
    place.file("ids.csv", "5,6,7,8\n9\n");
    let text = stdout(&output(place.on("run", &model, &["--input", "ids=ids.csv", "-q"])));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines.iter().all(|line| line.ends_with("no") || line.ends_with("yes") || line.ends_with("maybe")),
        "{text}"
    );
    place.file("one.csv", "9\n");
    let alone = stdout(&output(place.on("run", &model, &["--input", "one.csv", "-q"])));
    assert_eq!(alone.lines().next(), Some(lines[1]));
    let tokens = imported(&place, "bert-tokens");
    let found = json(&output(place.on("run", &tokens, &["--input", "ids.csv", "--json", "-q"])));
    let positions: Vec<_> =
        found["classes"].as_array().unwrap().iter().map(|class| class["position"].clone()).collect();
    assert_eq!(positions, [0, 1, 2, 3, 0]);
    for (input, hint) in [("ids=far.csv", "ids are whole numbers from 0 to 59"), ("ids=long.csv", "81 positions")] {
        place.file("far.csv", "1,60\n");
        place.file("long.csv", ["1"; 81].join(","));
        let refused = output(place.on("run", &model, &["--input", input]));
        assert!(!refused.status.success() && stderr(&refused).contains(hint), "{}", stderr(&refused));
    }
}

#[test]
fn a_folder_of_vit_runs_on_pictures() {
    let place = Place::new();
    let model = imported(&place, "vit-classes");
    let pixels = golden("vit-classes/pixels.npy");
    stdout(&output(place.on("run", &model, &["--input", &pixels, "--output", "logits.npy", "-q"])));
    near(&place.path("logits.npy"), "vit-classes/logits.npy");
    // A picture in bytes.
    place.file("picture.raw", "x".repeat(3 * 24 * 24));
    let text = stdout(&output(place.on("run", &model, &["--input", "picture.raw", "-q"])));
    assert_eq!(text.lines().count(), 1);
    let short = output(place.on("run", &model, &["--input", &golden("vit-classes/logits.npy")]));
    assert_eq!(short.status.code(), Some(2), "{}", stderr(&short));
}

#[test]
fn an_encoder_is_inspected_planned_and_verified() {
    let place = Place::new();
    let model = imported(&place, "bert");
    let text = stdout(&output(place.on("inspect", &model, &["--plan", "--ctx", "16"])));
    for part in
        ["mode attn", "ids of shape [80], a sequence", "attention (layer.0.qkv)", "32 rows at once", "fits       yes"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let verified = json(&output(place.on("verify", &model, &["--json", "-q", "--threads", "2"])));
    assert_eq!(verified["cases"], verified["equal"]);
    assert!(verified["cases"].as_u64().unwrap() >= 5, "{verified}");
}
