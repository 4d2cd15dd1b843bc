//! `rin bench`.

use serde_json::Value;

use crate::failures::fails;
use crate::program::{Place, TINY, conformance, json, output, stdout};

const QUICK: [&str; 3] = ["-r", "3", "-q"];

#[test]
fn rows_come_in_four_forms() {
    let place = Place::new();
    let model = conformance(TINY);
    let with = |more: &[&str]| stdout(&output(place.on("bench", &model, &[&QUICK[..], more].concat())));
    let rows: Vec<Value> =
        serde_json::from_str(&with(&["-p", "20", "-n", "10", "-o", "json", "-t", "1,2", "-b", "1,3"])).unwrap();
    let name = |row: &Value| format!("{} {} {}", row["test"].as_str().unwrap(), row["n_threads"], row["n_parallel"]);
    let names: Vec<String> = rows.iter().map(name).collect();
    assert_eq!(names, ["pp20 1 1", "tg10 1 1", "tg10 1 3", "pp20 2 1", "tg10 2 1", "tg10 2 3"]);
    for row in &rows {
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 3);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["plan_bytes"].as_u64().unwrap() > 0);
        assert_eq!(row["energy_status"], "unmeasured");
        assert!(row["digest"].as_str().unwrap().starts_with("sha256:"));
    }
    assert_eq!(rows[1]["digest"], rows[4]["digest"], "the same bits on one thread and on two");
    assert!(with(&["-o", "md", "-p", "20", "-n", "0"]).contains("pp20"));
    assert_eq!(with(&["-o", "csv", "-p", "0", "-n", "3"]).lines().count(), 2);
    assert!(
        with(&["-o", "jsonl", "-p", "8", "-n", "3"]).lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
}

#[test]
fn a_measurement_does_not_differ_from_itself() {
    let place = Place::new();
    let rows = stdout(&output(place.on(
        "bench",
        &conformance(TINY),
        &[&QUICK[..], &["-p", "20", "-n", "10", "--json"]].concat(),
    )));
    let a = place.file("a.json", rows);
    let a = a.to_str().unwrap();
    let found = json(&output(place.rin(&["bench", "compare", a, a, "--json"])));
    assert_eq!(found["pairs"].as_array().unwrap().len(), 2);
    assert!(stdout(&output(place.rin(&["bench", "compare", a, a]))).contains("no difference shown"));
    place.file("empty.json", "[]");
    fails(place.rin(&["bench", "compare", a, "empty.json"]), 1, &["empty.json", "no rows"]);
    fails(place.rin(&["bench", "compare", a]), 2, &["B.json"]);
}

#[test]
fn what_cannot_be_measured_is_named() {
    let place = Place::new();
    let model = conformance(TINY);
    fails(place.on("bench", &model, &["-p", "0", "-n", "0"]), 2, &["nothing to measure"]);
    fails(place.on("bench", &model, &["-t", "0"]), 2, &["--threads"]);
    fails(place.on("bench", &model, &["-r", "0"]), 2, &["-r"]);
    fails(place.on("bench", &model, &["--tier", "sse9"]), 2, &["sse9"]);
    fails(place.on("bench", &model, &["-b", "1000"]), 2, &["--parallel"]);
    fails(place.on("bench", &model, &["-d", "99999999"]), 2, &["--depth is 99999999"]);
    fails(place.on("bench", &model, &["--ctx", "8"]), 2, &["--ctx is 8"]);
    fails(place.on("bench", &place.path("none.gguf"), &[]), 1, &["none.gguf"]);
}

#[test]
fn a_profile_says_where_the_time_goes() {
    let place = Place::new();
    let model = conformance(TINY);
    let mut command = place.rin(&["bench", "profile"]);
    command.arg(&model).args(["-p", "8", "-n", "4", "-r", "2", "-q", "--json", "--threads", "1"]);
    command.args(["--trace", "trace.json", "--svg", "profile.svg"]);
    assert!(json_text(&stdout(&output(command))).is_object());
    let trace = json_text(&std::fs::read_to_string(place.path("trace.json")).unwrap());
    assert!(trace.as_array().unwrap().iter().any(|event| event["name"].as_str().unwrap().contains("ffn_down")));
    assert!(std::fs::read_to_string(place.path("profile.svg")).unwrap().starts_with("<svg"));
}

fn json_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
