//! Spiking networks from outside: NIR in, answers out, `.rin` and NIR again.

use crate::program::{Place, conformance, json, output, stderr};
use serde_json::Value;

const GRAPH: &str = "nir/lif-li.nir";

/// The input of the graphs as a CSV file of 60 steps × 9 inputs, and what the equations say of it.
fn example(place: &Place) -> Vec<f64> {
    let golden: Value = serde_json::from_slice(&std::fs::read(conformance("nir/graphs.json")).unwrap()).unwrap();
    let case = &golden["lif-li.nir"];
    let bits: Vec<String> = case["input"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let lines: Vec<String> = bits.chunks(9).map(|step| step.join(",")).collect();
    place.file("x.csv", lines.join("\n"));
    case["output"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn values(object: &Value) -> Vec<f64> {
    object["rows"][0]["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_graph_answers_as_its_equations_say_and_so_does_its_rin_file() {
    let place = Place::new();
    let want = example(&place);
    let run = |model: &str, more: &[&str]| {
        let model = if model.starts_with("nir/") { conformance(model) } else { place.path(model) };
        let arguments = [&["--mode", "snn", "--input", "x.csv", "--json", "-q"], more].concat();
        json(&output(place.on("run", &model, &arguments)))
    };
    let ran = run(GRAPH, &["--time-step", "0.001"]);
    for (found, want) in values(&ran).iter().zip(&want) {
        assert!((found - want).abs() < 0.05, "{ran} for {want:?}");
    }
    assert_eq!((&ran["model"]["mode"], &ran["steps"]), (&"snn".into(), &60.into()));
    assert_eq!(ran["rows"][0]["class"].as_u64().unwrap(), 1 + u64::from(want[3] > want[1]) * 2);
    assert!(ran["activity"]["spikes"][0].as_u64().unwrap() > 0);

    let import = ["-o", "a.rin", "--time-step", "0.001", "--time-steps", "60"];
    assert_eq!(output(place.on("import", &conformance(GRAPH), &import)).status.code(), Some(0));
    assert_eq!(values(&run("a.rin", &[])), values(&ran));
    assert_eq!(values(&run("a.rin", &["--tier", "scalar", "--threads", "2"])), values(&ran));
    let back = output(place.on("export", &place.path("a.rin"), &["-o", "b.nir", "--dt", "0.001"]));
    assert_eq!(back.status.code(), Some(0), "{}", stderr(&back));
    assert_eq!(values(&run("b.nir", &[])), values(&ran), "the step is noted in the graph");

    // The plan is what a run takes, and the bits are those of the definition.
    let plan = json(&output(place.on("inspect", &place.path("a.rin"), &["--plan", "--json", "--threads", "2"])));
    let taken = run("a.rin", &["--threads", "2"]);
    assert_eq!(plan["plan"]["total_bytes"], taken["plan_bytes"]);
    assert!(plan["plan"]["slots"].as_array().unwrap().len() > 10, "{plan}");
    let verified = json(&output(place.on("verify", &place.path("a.rin"), &["--json", "-q"])));
    assert_eq!(verified["cases"], verified["equal"]);
    assert!(verified["cases"].as_u64().unwrap() >= 25, "{verified}");
    let bench =
        output(place.on("bench", &place.path("a.rin"), &["-r", "2", "-b", "1,2", "--rates-only", "--json", "-q"]));
    let rows: Vec<Value> = serde_json::from_slice(&bench.stdout).unwrap();
    assert_eq!(rows.len(), 2, "{}", stderr(&bench));
    for (row, n) in rows.iter().zip([1, 2]) {
        assert_eq!((&row["test"], &row["n_parallel"], &row["allocs"]), (&"inf".into(), &n.into(), &0.into()), "{row}");
    }

    let text = output(place.on("run", &place.path("a.rin"), &["--input", "x.csv", "-q"]));
    assert!(String::from_utf8_lossy(&text.stdout).contains('\t'));
    let kept = output(place.on("run", &place.path("a.rin"), &["--input", "x.csv", "--output", "y.npy", "-q"]));
    assert_eq!((kept.status.code(), kept.stdout.len()), (Some(0), 0));
    let bytes = std::fs::read(place.path("y.npy")).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("(1, 4)"));
}

#[test]
fn codings_turn_rows_into_spikes() {
    let place = Place::new();
    place.file("rows.csv", "0,1,2,3,4,5,6,7,8\n8,7,6,5,4,3,2,1,0\n");
    for coding in ["direct", "rate", "latency"] {
        let arguments = ["--input", "rows.csv", "--coding", coding, "--input-scale", "0.125", "--time-steps", "12"];
        let more = ["--time-step", "0.001", "--json", "-q"];
        let ran = json(&output(place.on("run", &conformance(GRAPH), &[&arguments[..], &more].concat())));
        assert_eq!(ran["rows"].as_array().unwrap().len(), 2, "{coding}");
        assert!(ran["activity"]["input_spikes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn wrong_use_says_what_to_do() {
    let place = Place::new();
    example(&place);
    place.file("short.csv", "1,0\n");
    place.file("two.csv", "2,0,0,0,0,0,0,0,0\n");
    let code = |arguments: &[&str]| {
        let done = output(place.on("run", &conformance(GRAPH), arguments));
        (done.status.code(), stderr(&done))
    };
    let step = ["--time-step", "0.001"];
    for (arguments, needle) in [
        (&[][..], "--input"),
        (&["--input", "short.csv"], "(60"),
        (&["--input", "none.npy"], "none.npy"),
        (&["--input", "two.csv"], "0 or 1"),
    ] {
        let (found, told) = code(&[arguments, &step].concat());
        assert_eq!(found, Some(2), "{arguments:?}: {told}");
        let needle = if needle == "(60" { "trains" } else { needle };
        assert!(told.contains(needle), "{arguments:?}: {told}");
    }
    // A step longer than a time constant is a matter of the graph.
    let (found, told) = code(&["--input", "x.csv", "--time-step", "0.5"]);
    assert_eq!(found, Some(3), "{told}");
    assert!(told.contains("smaller"), "{told}");
    let (found, told) = code(&["--input", "x.csv", "-p", "text"]);
    assert_eq!(found, Some(2), "{told}");
    let model = conformance("models/tiny-llama");
    let done = output(place.on("run", &model, &["--mode", "snn", "--input", "x.csv"]));
    assert_eq!(done.status.code(), Some(2), "{}", stderr(&done));
    // HDF5 that is no graph.
    let done = output(place.on("run", &conformance("nir/hdf5-earliest.h5"), &["--input", "x.csv"]));
    assert_eq!(done.status.code(), Some(3), "{}", stderr(&done));
}
