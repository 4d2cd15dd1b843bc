//! Models as exporters and quantisers write them, with the answers of ONNX Runtime.

use rin_engine::network::verify::{Axes, verify};
use rin_engine::topology::Policy;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_import::{ImportOptions, import, open_onnx};
use rin_kernels::{Cpu, Format};
use rin_model::{Body, ModelFile};
use rin_testkit::data::conformance;
use rin_testkit::npy::Array2;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    conformance(&format!("onnx/{name}.onnx"))
}

fn options(quant: Option<Format>) -> ImportOptions {
    ImportOptions { quant, dims: vec![("length".to_owned(), 7)], ..ImportOptions::default() }
}

fn load(file: ModelFile, threads: usize, n_batch: usize) -> NetworkEngine {
    let options = LoadOptions { n_batch, threads: Some(threads), ..LoadOptions::default() };
    NetworkEngine::load(file, &options, |_| {}).unwrap()
}

/// Names of the operations of a graph, in order.
fn operations(file: &ModelFile) -> Vec<&'static str> {
    let Some(Body::Graph(graph)) = file.network().map(|network| &network.body) else { panic!("a graph") };
    graph.nodes.iter().map(|node| node.op.name()).collect()
}

fn outputs(engine: &mut NetworkEngine, name: &str) -> Vec<f32> {
    let x = Array2::read(&conformance(&format!("onnx/{name}-x.npy")));
    let mut found = Vec::new();
    let (width, most) = (x.cols, engine.max_rows());
    for rows in x.values.chunks(width * most) {
        engine.run(&[rows], rows.len() / width).unwrap();
        found.extend_from_slice(engine.output(0));
    }
    found
}

/// Largest distance from the answers.
fn distance(name: &str, quant: Option<Format>) -> f32 {
    let mut engine = load(open_onnx(&path(name), &options(quant)).unwrap(), 1, 2);
    let found = outputs(&mut engine, name);
    let want = Array2::read(&conformance(&format!("onnx/{name}-y.npy"))).values;
    assert_eq!(found.len(), want.len());
    found.iter().zip(&want).fold(0.0, |most, (a, b)| f32::max(most, (a - b).abs()))
}

#[test]
fn floats_agree_with_onnx_runtime() {
    for name in ["cnn", "encoder", "mlp"] {
        let found = distance(name, None);
        assert!(found <= 2e-6, "{name}: {found}");
    }
}

#[test]
fn integers_agree_with_onnx_runtime_up_to_a_step() {
    // Outputs are probabilities of five classes, and scores of about 1.
    for (name, bound) in [("cnn-qdq", 0.02), ("mlp-dynamic", 2e-5)] {
        let found = distance(name, None);
        assert!(found <= bound, "{name}: {found}");
    }
}

#[test]
fn quantised_models_run_on_integers() {
    let file = open_onnx(&path("cnn-qdq"), &options(None)).unwrap();
    let found = operations(&file);
    let count = |name: &str| found.iter().filter(|op| **op == name).count();
    assert_eq!((count("conv"), count("conv_integer")), (0, 4), "{found:?}");
    assert_eq!((count("linear"), count("mat_mul"), count("mat_mul_integer")), (0, 0, 1), "{found:?}");
    // Convolutions whose sums become bytes without floats in between.
    assert!(count("requantize") >= 3, "{found:?}");
    let file = open_onnx(&path("mlp-dynamic"), &options(None)).unwrap();
    assert_eq!(operations(&file).iter().filter(|op| **op == "mat_mul_integer").count(), 3);
}

#[test]
fn what_follows_from_shapes_is_gone() {
    let file = open_onnx(&path("encoder"), &options(None)).unwrap();
    let found = operations(&file);
    let known =
        ["gather", "linear", "copy", "mat_mul", "softmax", "add", "layer_norm", "gelu", "reduce", "mul", "reshape"];
    let rest: Vec<_> = found.iter().filter(|op| !known.contains(op)).collect();
    assert!(found.len() < 60 && rest.is_empty(), "{found:?}");
    assert!(
        !operations(&open_onnx(&path("cnn"), &options(None)).unwrap()).contains(&"relu"),
        "fused into convolutions"
    );
}

#[test]
fn layers_on_rows_become_layers() {
    let file = open_onnx(&path("mlp"), &options(None)).unwrap();
    let Some(Body::Nodes(nodes)) = file.network().map(|network| &network.body) else { panic!("layers") };
    let found: Vec<&str> = nodes.iter().map(|node| node.op.name()).collect();
    assert_eq!(found, ["dense", "dense", "activation", "dense"]);
}

#[test]
fn bits_are_the_same_on_every_tier_and_any_number_of_threads() {
    for name in ["cnn", "cnn-qdq", "encoder", "mlp", "mlp-dynamic"] {
        let axes = Axes { threads: vec![1, 2, 3], batch: vec![1, 3], tiers: Cpu::detect().tiers().collect() };
        let mut engine = load(open_onnx(&path(name), &options(None)).unwrap(), 1, axes.rows());
        let report = verify(&mut engine, &axes, Policy::default()).unwrap();
        assert_eq!(report.equal, report.cases, "{name}: {:?}", report.mismatches);
    }
}

#[test]
fn a_file_holds_what_is_opened_in_memory() {
    let to = std::env::temp_dir().join(format!("rin-onnx-models-{}.rin", std::process::id()));
    for (name, quant) in [("cnn", None), ("encoder", Some(Format::Q8_0)), ("cnn-qdq", None)] {
        let written = ImportOptions { overwrite: true, ..options(quant) };
        import(&path(name), &to, &written, &mut |_| ()).unwrap();
        let file = ModelFile::open(&to).unwrap();
        file.verify_sha256().unwrap();
        let memory = outputs(&mut load(open_onnx(&path(name), &options(quant)).unwrap(), 1, 4), name);
        let found = outputs(&mut load(file, 2, 1), name);
        assert!(memory.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
    std::fs::remove_file(&to).unwrap();
    let near = distance("encoder", Some(Format::Q8_0));
    assert!(near > 0.0 && near < 0.05, "{near}");
}
