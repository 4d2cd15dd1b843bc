//! Networks on rows of numbers: import, run, inspect, verify.

use crate::program::{Place, TINY, conformance, json, keys, output, stderr, stdout};
use rin_testkit::npy::Array2;
use std::path::PathBuf;

pub(crate) fn golden(name: &str) -> String {
    conformance(&format!("networks/{name}")).display().to_string()
}

/// `residual.pt` as `.rin`.
pub(crate) fn residual(place: &Place, quant: &[&str]) -> PathBuf {
    let to = place.path("residual.rin");
    let (src, toml) = (golden("residual.pt"), golden("residual.toml"));
    let mut command = place.rin(&["import", &src, "--network", &toml, "--overwrite", "-q", "-o"]);
    command.arg(&to).args(quant);
    stdout(&output(command));
    to
}

#[test]
fn a_network_of_pytorch_runs_on_rows() {
    let place = Place::new();
    let model = residual(&place, &[]);
    let x = golden("residual-x.npy");
    let arguments = ["--input", &x, "--output", "classes=c.npy", "--output", "value=v.npy", "--json", "-q"];
    let found = json(&output(place.on("run", &model, &arguments)));
    let expected = [
        "model",
        "rows",
        "classes",
        "outputs",
        "timings",
        "memory",
        "allocations_during_inference",
        "energy",
        "digest",
        "tier",
        "threads",
        "version",
    ];
    assert_eq!(keys(&found), expected);
    assert_eq!((&found["model"]["mode"], &found["rows"]), (&"mlp".into(), &5.into()));
    assert_eq!(found["allocations_during_inference"], 0);
    for (file, want) in [("c.npy", "residual-classes.npy"), ("v.npy", "residual-value.npy")] {
        let (found, want) = (Array2::read(&place.path(file)), Array2::read(&conformance(&format!("networks/{want}"))));
        assert_eq!((found.rows, found.cols), (want.rows, want.cols));
        for (found, want) in found.values.iter().zip(&want.values) {
            assert!((found - want).abs() <= 3e-6, "{found} for {want}");
        }
    }
    // The class of each row is the largest of PyTorch's scores.
    let scores = Array2::read(&conformance("networks/residual-classes.npy"));
    for (r, class) in found["classes"].as_array().unwrap().iter().enumerate() {
        let row = scores.row(r);
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!((&class["index"], &class["label"]), (&best.into(), &["a", "b", "c", "d", "e"][best].into()));
        let p = class["p"].as_f64().unwrap();
        assert!(p > 0.2 && p <= 1.0, "{p}");
    }
    // The same digest in other batches and threads.
    for more in [["--batch", "2"], ["--threads", "2"], ["--tier", "scalar"]] {
        let mut command = place.on("run", &model, &["--input", &x, "--json", "-q"]);
        command.args(more);
        assert_eq!(json(&output(command))["digest"], found["digest"], "{more:?}");
    }
}

#[test]
fn tables_and_names_of_inputs_are_taken() {
    let place = Place::new();
    let model = residual(&place, &["--quant", "Q8_0"]);
    let row = (0..21).map(|i| format!("{}", f64::from(i) * 0.1 - 1.0)).collect::<Vec<_>>().join(",");
    place.file("rows.csv", format!("{row}\n{row}\n"));
    let text = stdout(&output(place.on("run", &model, &["--input", "input=rows.csv", "-q"])));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, lines[1]), "{text}");
    assert!(lines[0].ends_with(['a', 'b', 'c', 'd', 'e']), "{text}");
}

#[test]
fn what_does_not_fit_is_wrong_usage() {
    let place = Place::new();
    let model = residual(&place, &[]);
    let x = golden("residual-x.npy");
    place.file("short.csv", "1,2,3\n");
    for (arguments, hint) in [
        (&[][..], "input `input` is missing"),
        (&["-p", "text"], "takes no text"),
        (&["--input", "short.csv"], "rows of shape [21]"),
        (&["--input", &x, "--input", &x], "each once"),
        (&["--input", &format!("other={x}")], "takes the inputs `input`"),
        (&["--input", &x, "--output", "y.npy"], "say which output"),
        (&["--input", &x, "--output", "value=y.bin"], ".npy"),
        (&["--input", &x, "--output", "value=residual.rin"], ".npy"),
        (&["--input", &x, "--mode", "transformer"], "mode mlp"),
    ] {
        let output = output(place.on("run", &model, arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
    }
    let text = output(place.tiny(&["--input", &x]));
    assert_eq!(text.status.code(), Some(2));
    assert!(stderr(&text).contains("continues text"), "{}", stderr(&text));
    let unnamed = output(place.rin(&["import", &golden("residual.pt"), "-o", "b.rin"]));
    assert_eq!(unnamed.status.code(), Some(2), "{}", stderr(&unnamed));
    assert!(stderr(&unnamed).contains("--network"), "{}", stderr(&unnamed));
}

#[test]
fn it_is_inspected_planned_and_verified() {
    let place = Place::new();
    let model = residual(&place, &["--quant", "Q8_0"]);
    let found = json(&output(place.on("inspect", &model, &["--json"])));
    assert_eq!((&found["model"]["mode"], &found["model"]["quant"]), (&"mlp".into(), &"Q8_0".into()));
    assert_eq!(found["problems"].as_array().unwrap().len(), 0, "{found}");
    assert_eq!(found["network"]["inputs"][0]["shape"], serde_json::json!([21]));
    let text = stdout(&output(place.on("inspect", &model, &["--plan"])));
    for part in ["mode mlp", "input of shape [21]", "dense gelu (input)", "32 rows at once", "fits       yes"] {
        let text = text.replace("512 rows", "32 rows");
        assert!(text.contains(part), "{part}: {text}");
    }
    let plan = json(&output(place.on("inspect", &model, &["--json", "--plan", "--batch", "1"])));
    let run =
        json(&output(place.on("run", &model, &["--input", &golden("residual-x.npy"), "--batch", "1", "--json", "-q"])));
    assert_eq!(plan["plan"]["total_bytes"], run["memory"]["plan_bytes"]);
    let verified = json(&output(place.on("verify", &model, &["--json", "-q"])));
    assert_eq!(verified["cases"], verified["equal"]);
    assert!(verified["cases"].as_u64().unwrap() >= 25, "{verified}");
}

#[test]
fn it_becomes_integers_with_rows_to_calibrate() {
    let place = Place::new();
    let to = place.path("integers.rin");
    let (src, toml, x) = (golden("plain.pt"), golden("plain.toml"), golden("plain-x.npy"));
    let all = ["import", &src, "--network", &toml, "--mode", "rin", "--calibrate", &x, "--json", "-q", "-o"];
    let mut command = place.rin(&all);
    command.arg(&to);
    let imported = json(&output(command));
    assert_eq!((&imported["quant"], &imported["n_quantized"]), (&"integers".into(), &3.into()));
    assert!(imported["cost"]["rms"].as_f64().unwrap() < 0.01, "{imported}");
    let found = json(&output(place.on("run", &to, &["--input", &x, "--json", "-q"])));
    assert_eq!((&found["model"]["mode"], &found["allocations_during_inference"]), (&"rin".into(), &0.into()));
    let scalar = json(&output(place.on("run", &to, &["--input", &x, "--json", "-q", "--tier", "scalar"])));
    assert_eq!(scalar["digest"], found["digest"]);
    let plan = stdout(&output(place.on("inspect", &to, &["--plan"])));
    assert!(plan.contains("mode rin") && plan.contains("layer 2 i32"), "{plan}");
    let verified = json(&output(place.on("verify", &to, &["--json", "-q"])));
    assert_eq!(verified["cases"], verified["equal"]);
    let without = output(place.rin(&["import", &src, "--network", &toml, "--mode", "rin", "-o", "x.rin"]));
    assert_eq!(without.status.code(), Some(2), "{}", stderr(&without));
}

#[test]
fn its_bench_has_a_row_of_inferences() {
    let place = Place::new();
    let model = residual(&place, &["--quant", "Q8_0"]);
    let rows = json_rows(&output(place.on("bench", &model, &["-r", "2", "-b", "1,3", "--rates-only", "--json", "-q"])));
    assert_eq!(rows.len(), 2);
    for (row, n) in rows.iter().zip([1, 3]) {
        assert_eq!((&row["test"], &row["n_parallel"], &row["allocs"]), (&"inf".into(), &n.into(), &0.into()));
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["digest"].as_str().unwrap().starts_with("sha256:"));
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 2);
    }
    let whole = json_rows(&output(place.on("bench", &model, &["-r", "2", "--json", "-q"])));
    assert!(whole[0]["p50_us"].as_f64().unwrap() > 0.0 && whole[0]["p99_us"].as_f64().unwrap() > 0.0, "{whole:?}");
    let mixed = output(place.on("bench", &model, &[&conformance(TINY).display().to_string()]));
    assert_eq!(mixed.status.code(), Some(2));
}

fn json_rows(output: &std::process::Output) -> Vec<serde_json::Value> {
    serde_json::from_str(&stdout(output)).unwrap()
}
