//! ONNX models on the command line.

use crate::program::{Place, conformance, json, output, stderr, stdout};

fn golden(name: &str) -> String {
    conformance(&format!("onnx/{name}")).display().to_string()
}

#[test]
fn a_model_is_imported_or_run_as_it_is() {
    let place = Place::new();
    let to = place.path("cnn.rin");
    let mut command = place.rin(&["import", &golden("cnn-qdq.onnx"), "-q", "-o"]);
    command.arg(&to);
    stdout(&output(command));
    let x = golden("cnn-qdq-x.npy");
    let run = |model: &std::path::Path, more: &[&str]| {
        let found = json(&output(place.on("run", model, &[&["--input", &x, "--json", "-q"], more].concat())));
        assert_eq!((&found["rows"], &found["allocations_during_inference"]), (&5.into(), &0.into()));
        found["digest"].as_str().unwrap().to_owned()
    };
    let digest = run(&to, &["--threads", "1"]);
    assert_eq!(run(&to, &["--threads", "2", "--batch", "2"]), digest);
    assert_eq!(run(golden("cnn-qdq.onnx").as_ref(), &["--tier", "scalar"]), digest);
    let text = stdout(&output(place.on("inspect", &to, &["--plan"])));
    assert!(text.contains("conv_integer") && text.contains("rows of `constant."), "{text}");
}

#[test]
fn sizes_are_chosen_and_what_lacks_is_told() {
    let place = Place::new();
    let to = place.path("encoder.rin");
    let import = |source: &str, more: &[&str]| {
        let mut command = place.rin(&["import", source, "-q", "-o"]);
        command.arg(&to).args(more);
        output(command)
    };
    let refused = import(&golden("encoder.onnx"), &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--dim length=SIZE"), "{}", stderr(&refused));
    stdout(&import(&golden("encoder.onnx"), &["--dim", "length=7"]));
    let x = golden("encoder-x.npy");
    let found = json(&output(place.on("run", &to, &["--input", &x, "--json", "-q"])));
    assert_eq!(found["rows"], 4);

    let unknown = place.path("unknown.onnx");
    // A graph of one node, `Foo`.
    std::fs::write(&unknown, b"\x3a\x07\x0a\x05\x22\x03Foo").unwrap();
    let refused = import(unknown.to_str().unwrap(), &["--json", "--overwrite"]);
    assert_eq!(refused.status.code(), Some(3));
    let found: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(found["error"]["kind"], "UnsupportedOperators");
    assert!(stderr(&refused).contains("operator Foo"), "{}", stderr(&refused));
}
