//! Attention encoders in Hugging Face folders: goldens are the outputs of `transformers`
//! (`conformance/scripts/make_encoders.py`), for texts of 70, 64, 33 and 1 positions and for pictures.

use crate::model::{Temporary, load, node, noise, save, tiers};
use rin_engine::network::verify::{Axes, verify};
use rin_engine::topology::Policy;
use rin_engine::{Error as EngineError, LoadOptions, NetworkEngine};
use rin_import::{Error, ImportOptions, NewTensor, import};
use rin_kernels::{Format, Tier};
use rin_model::array::Array;
use rin_model::{Body, Function, Mode, ModelFile, Network, Op, Output, OutputKind, Pool, Port, PortKind};
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    conformance(&format!("encoders/{name}"))
}

fn convert(src: &Path, quant: Option<Format>) -> Result<Temporary, Error> {
    let to = Temporary::new();
    import(src, &to.0, &ImportOptions { quant, ..ImportOptions::default() }, &mut |_| ())?;
    Ok(to)
}

/// The golden arrays of the network's inputs, in its order; empty where the folder has none.
fn inputs(engine: &NetworkEngine, folder: &Path) -> (Vec<Vec<f32>>, usize) {
    let read = |port: &Port| Array::read(&folder.join(format!("{}.npy", port.name))).ok();
    let arrays: Vec<Option<Array>> = engine.inputs().iter().map(read).collect();
    let rows = arrays[0].as_ref().unwrap().shape[0];
    (arrays.into_iter().map(|array| array.map_or(Vec::new(), |array| array.values)).collect(), rows)
}

/// The largest distance of an output from the golden one, by the range of the golden.
fn distance(found: &[f32], golden: &[f32]) -> f32 {
    assert_eq!(found.len(), golden.len());
    let most = golden.iter().copied().fold(f32::MIN, f32::max);
    let least = golden.iter().copied().fold(f32::MAX, f32::min);
    found.iter().zip(golden).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs())) / (most - least)
}

const GOLDENS: [(&str, &[&str]); 7] = [
    ("bert", &["hidden", "mean", "pooled"]),
    ("bert-classes", &["logits"]),
    ("bert-tokens", &["logits"]),
    ("roberta-classes", &["logits"]),
    ("distilbert-classes", &["logits"]),
    ("vit", &["hidden", "pooled"]),
    ("vit-classes", &["logits"]),
];

#[test]
fn encoders_compute_what_transformers_computes() {
    for (name, outputs) in GOLDENS {
        let folder = folder(name);
        for (quant, bound) in [(None, 3e-6), (Some(Format::Q8_0), 0.05)] {
            let mut engine = load(&convert(&folder, quant).unwrap(), 4);
            let (inputs, rows) = inputs(&engine, &folder);
            let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
            engine.run(&slices, rows).unwrap();
            assert_eq!(engine.outputs().len(), outputs.len(), "{name}");
            for (i, output) in outputs.iter().enumerate() {
                let golden = Array::read(&folder.join(format!("{output}.npy"))).unwrap();
                assert_eq!(engine.output_width(i), golden.shape[1..].iter().product::<usize>(), "{name} {output}");
                let found = distance(engine.output(i), &golden.values);
                assert!(found <= bound, "{name} {output} {quant:?}: {found}");
            }
        }
    }
}

#[test]
fn bits_depend_on_no_tier_thread_or_batch() {
    for (name, quant) in [("bert", None), ("bert-tokens", Some(Format::Q8_0)), ("vit", Some(Format::Q8_0))] {
        let file = convert(&folder(name), quant).unwrap();
        let options = LoadOptions { n_batch: 5, ctx: Some(70), affinity: Policy::None, ..LoadOptions::default() };
        let mut engine = NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap();
        let axes = Axes { tiers: tiers(), threads: vec![1, 2, 3, 5], batch: vec![1, 2, 5] };
        let report = verify(&mut engine, &axes, Policy::None).unwrap();
        assert_eq!((report.cases, &report.mismatches[..]), (report.equal, &[][..]), "{name}");
        assert!(report.cases >= 12, "{name}");
    }
}

#[test]
fn what_does_not_count_changes_nothing() {
    let file = convert(&folder("bert"), None).unwrap();
    let mut engine = load(&file, 2);
    let ids: Vec<f32> = (0..20).map(|i| f32::from(i * 7 % 60_u8)).collect();
    engine.run(&[&ids[..9], &[], &[]], 1).unwrap();
    let alone: Vec<Vec<u32>> = (0..3).map(|i| engine.output(i).iter().map(|x| x.to_bits()).collect()).collect();
    assert_eq!(engine.output_shape(0), [9, 36]);
    // The same nine, with eleven behind them that do not count, beside another row.
    let mut padded = ids.clone();
    padded.extend(&ids);
    engine.run(&[&padded, &[], &[0.0, 9.0]], 2).unwrap();
    assert_eq!(engine.output_shape(0), [20, 36]);
    let hidden: Vec<u32> = engine.output(0)[20 * 36..].iter().map(|x| x.to_bits()).collect();
    assert_eq!(hidden[..9 * 36], alone[0]);
    assert_eq!(hidden[9 * 36..], vec![0; 11 * 36]);
    for output in 1..3 {
        let row: Vec<u32> = engine.output(output)[36..].iter().map(|x| x.to_bits()).collect();
        assert_eq!(row, alone[output], "{output}");
    }
}

#[test]
fn inputs_that_are_none_are_refused() {
    let file = convert(&folder("bert"), None).unwrap();
    let mut engine = load(&file, 2);
    let mut refused = |inputs: &[&[f32]], rows| {
        let error = engine.run(inputs, rows).unwrap_err();
        assert!(engine.output(0).is_empty());
        assert!(matches!(error, EngineError::Network(_)), "{error}");
        error.to_string()
    };
    assert!(
        refused(&[&[1.0, 60.0], &[], &[]], 1).contains("'ids' has 60 in row 0; the ids are whole numbers from 0 to 59")
    );
    assert!(refused(&[&[1.0, 2.0, 1.0, -1.0], &[], &[]], 2).contains("-1 in row 1"));
    assert!(refused(&[&[0.5], &[], &[]], 1).contains("0.5"));
    assert!(refused(&[&[f32::NAN], &[], &[]], 1).contains("NaN"));
    assert!(refused(&[&[1.0, 2.0], &[2.0, 0.0], &[]], 1).contains("'types'"));
    assert!(refused(&[&[1.0, 2.0], &[0.0], &[]], 1).contains("not 2 positions"));
    assert!(refused(&[&[1.0; 81], &[], &[]], 1).contains("not 1 to 80 positions"));
    assert!(refused(&[&[1.0; 3], &[], &[]], 2).contains("3 values in 2 rows"));
    assert!(refused(&[&[1.0; 4], &[], &[3.0, 1.0]], 2).contains("length of row 0 is 3"));
    assert!(refused(&[&[1.0; 4], &[], &[1.0]], 2).contains("'length'"));
    assert!(refused(&[&[], &[], &[]], 1).contains("'ids'"));
    engine.run(&[&[1.0, 2.0], &[0.0, 1.0], &[1.0]], 1).unwrap();
}

#[test]
fn the_labels_and_heads_of_a_folder_are_kept() {
    let file = convert(&folder("bert-classes"), None).unwrap();
    let model = ModelFile::open(&file.0).unwrap();
    model.verify_sha256().unwrap();
    let network = model.network().unwrap();
    assert_eq!(
        (network.mode, &network.outputs[0].labels[..]),
        (Mode::Attn, &["no", "yes", "maybe"].map(String::from)[..])
    );
    let kinds: Vec<_> = network.inputs.iter().map(|port| (port.name.as_str(), port.kind, port.optional)).collect();
    let expected =
        [("ids", PortKind::Sequence, false), ("types", PortKind::Sequence, true), ("length", PortKind::Length, true)];
    assert_eq!(kinds, expected);
    // RoBERTa's table begins with two rows that no position has.
    let file = convert(&folder("roberta-classes"), None).unwrap();
    assert_eq!(ModelFile::open(&file.0).unwrap().network().unwrap().inputs[0].shape, [80]);
}

#[test]
fn folders_that_ask_for_more_are_refused_by_name() {
    let place = std::env::temp_dir().join(format!("rin-encoder-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(folder("bert").join("model.safetensors"), place.join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(folder("bert").join("config.json")).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        std::fs::write(place.join("config.json"), config.replace(from, to)).unwrap();
        convert(&place, None).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused("\"gelu\"", "\"mish\"").contains("`mish`"));
    assert!(refused("\"is_decoder\": false", "\"is_decoder\": true").contains("is_decoder"));
    assert!(refused("BertModel", "BertForQuestionAnswering").contains("BertForQuestionAnswering"));
    assert!(refused("BertModel", "BertForSequenceClassification").contains("`classifier.weight`"));
    let layers = refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(layers.contains("16 tensors") && layers.contains("encoder.layer.1."), "{layers}");
    assert!(refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3").contains("encoder.layer.2."));
    assert!(refused("\"num_attention_heads\": 3", "\"num_attention_heads\": 5").contains("5 heads"));
    assert!(refused("\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": 0").contains("eps"));
    std::fs::remove_dir_all(place).unwrap();
}

/// One layer of attention over a sequence of vectors, then a class: `softmax(q·k ÷ √d)·v`, the mean of it, a product.
fn one_layer() -> (Network, Vec<NewTensor>) {
    let dense = |name: &str| Op::Dense { weight: format!("{name}.weight"), bias: None, function: Function::Identity };
    let nodes = vec![
        node(dense("qkv"), &["x"], "qkv"),
        node(Op::Attention { heads: 2, causal: false }, &["qkv"], "attention"),
        node(Op::Pool { kind: Pool::Mean }, &["attention"], "mean"),
        node(dense("class"), &["mean"], "class"),
    ];
    let port = |name: &str, shape, kind, optional| Port { name: name.to_owned(), shape, kind, optional };
    let network = Network {
        mode: Mode::Attn,
        name: None,
        inputs: vec![
            port("x", vec![130, 5], PortKind::Sequence, false),
            port("length", vec![1], PortKind::Length, true),
        ],
        outputs: vec![Output { name: "class".to_owned(), kind: OutputKind::Logits, labels: Vec::new() }],
        body: Body::Nodes(nodes),
    };
    let matrix = |name: &str, rows, cols, seed| {
        NewTensor::matrix(name, Format::F32, [rows, cols], &noise(rows * cols, seed)).unwrap()
    };
    (network, vec![matrix("qkv.weight", 24, 5, 1), matrix("class.weight", 3, 8, 2)])
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the platform's f64 exponential is the reference of a test")]
fn a_classifier_of_one_layer_is_its_definition() {
    let (network, tensors) = one_layer();
    let mut engine = load(&save(&network, &tensors), 3);
    let x = noise(3 * 130 * 5, 3);
    let lengths = [130.0, 65.0, 1.0];
    engine.run(&[&x, &lengths], 3).unwrap();
    let (qkv, class) = (noise(24 * 5, 1), noise(3 * 8, 2));
    for (row, n) in [130, 65, 1].into_iter().enumerate() {
        let x = &x[row * 130 * 5..][..n * 5];
        let of =
            |t: usize, r: usize| -> f64 { (0..5).map(|c| f64::from(qkv[r * 5 + c]) * f64::from(x[t * 5 + c])).sum() };
        let mut mean = [0.0; 8];
        for t in 0..n {
            for head in 0..2 {
                let e: Vec<f64> = (0..n)
                    .map(|s| ((0..4).map(|i| of(t, head * 4 + i) * of(s, 8 + head * 4 + i)).sum::<f64>() / 2.0).exp())
                    .collect();
                let sum: f64 = e.iter().sum();
                for i in 0..4 {
                    let v: f64 = (0..n).map(|s| e[s] / sum * of(s, 16 + head * 4 + i)).sum();
                    mean[head * 4 + i] += v / n as f64;
                }
            }
        }
        for c in 0..3 {
            let want: f64 = (0..8).map(|i| f64::from(class[c * 8 + i]) * mean[i]).sum();
            let found = f64::from(engine.output(0)[row * 3 + c]);
            assert!((found - want).abs() < 2e-6, "row {row} class {c}: {found} for {want}");
        }
    }
    // By the scalar tier too, on more threads than heads.
    let want: Vec<u32> = engine.output(0).iter().map(|x| x.to_bits()).collect();
    engine.reconfigure(Tier::Scalar, 4, Policy::None).unwrap();
    engine.run(&[&x, &lengths], 3).unwrap();
    assert_eq!(engine.output(0).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want);
}

#[test]
fn descriptions_of_sequences_that_contradict_themselves_are_refused() {
    type Change = fn(&mut Network);
    fn nodes(network: &mut Network) -> &mut Vec<rin_model::Node> {
        let Body::Nodes(nodes) = &mut network.body else { panic!("nodes") };
        nodes
    }
    let cases: [(Change, &str); 9] = [
        (|n| nodes(n)[1].op = Op::Attention { heads: 5, causal: false }, "5 heads"),
        (|n| nodes(n)[1].op = Op::Attention { heads: 0, causal: false }, "0 heads"),
        (|n| nodes(n)[1].op = Op::Attention { heads: usize::MAX, causal: false }, "heads"),
        (|n| n.inputs[0].kind = PortKind::Row, "sequence"),
        (|n| n.inputs[1].shape = vec![2], "one number"),
        (|n| nodes(n)[0].op = Op::Embed { table: "class.weight".into() }, "one number at a position"),
        (|n| nodes(n)[0].op = Op::AddPositions { table: "class.weight".into() }, "130 rows of 5 values"),
        (|n| nodes(n)[0].op = Op::Prepend { vector: "class.weight".into() }, "[5]"),
        (|n| nodes(n)[0].op = Op::Patches { channels: 1, height: 1, width: 5, size: 0 }, "whole squares"),
    ];
    for (change, hint) in cases {
        let (mut network, tensors) = one_layer();
        change(&mut network);
        let file = Temporary::new();
        let model = rin_import::NewNetwork { network: &network, source: "a test", format: "test", quant: None };
        let error = rin_import::write_network(&file.0, &model, &tensors, &[], false).unwrap_err().to_string();
        assert!(error.contains(hint), "{hint}: {error}");
    }
}
