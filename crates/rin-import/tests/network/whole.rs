//! Encoders in integers: beside the goldens of `transformers` and their own networks in f32, on all tiers and threads.

use crate::model::{Temporary, tiers};
use rin_engine::network::verify::{Axes, verify};
use rin_engine::network::{Domain, NetworkError};
use rin_engine::topology::Policy;
use rin_engine::{Error as EngineError, LoadOptions, NetworkEngine};
use rin_import::{Error, ImportOptions, Report, import};
use rin_model::array::Array;
use rin_model::{Body, Mode, ModelFile, Port};
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    conformance(&format!("encoders/{name}"))
}

/// The encoder in integers, with the golden inputs as calibration.
fn convert(src: &Path) -> Result<(Temporary, Report), Error> {
    let to = Temporary::new();
    let first = if src.join("ids.npy").is_file() { "ids.npy" } else { "pixels.npy" };
    let calibration = Some(Array::read(&src.join(first)).unwrap());
    let options = ImportOptions { integer: true, calibration, ..ImportOptions::default() };
    let report = import(src, &to.0, &options, &mut |_| ())?;
    Ok((to, report))
}

fn load(file: &Temporary, n_batch: usize) -> NetworkEngine {
    let options = LoadOptions { n_batch, ctx: Some(70), affinity: Policy::None, ..LoadOptions::default() };
    NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap()
}

/// The largest distance of an output from the golden one, and the root of the mean square, by the range of the golden.
fn distance(found: &[f32], golden: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), golden.len());
    let most = golden.iter().copied().fold(f32::MIN, f32::max);
    let least = golden.iter().copied().fold(f32::MAX, f32::min);
    let errors = || found.iter().zip(golden).map(|(a, b)| (a - b).abs() / (most - least));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let rms = (errors().map(|e| e * e).sum::<f32>() / found.len() as f32).sqrt();
    (errors().fold(0.0, f32::max), rms)
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
fn encoders_in_integers_are_near_the_goldens() {
    for (name, outputs) in GOLDENS {
        let folder = folder(name);
        let (file, report) = convert(&folder).unwrap();
        let cost = report.cost.unwrap();
        let mut engine = load(&file, 4);
        assert_eq!(engine.file().mode(), Some(Mode::Rin));
        assert!(matches!(engine.plan().network.body, Body::Whole(_)));
        let read = |port: &Port| Array::read(&folder.join(format!("{}.npy", port.name))).ok();
        let arrays: Vec<Option<Array>> = engine.inputs().iter().map(read).collect();
        let rows = arrays[0].as_ref().unwrap().shape[0];
        let slices: Vec<&[f32]> = arrays.iter().map(|array| array.as_ref().map_or(&[][..], |a| &a.values)).collect();
        engine.run(&slices, rows).unwrap();
        for (i, output) in outputs.iter().enumerate() {
            let golden = Array::read(&folder.join(format!("{output}.npy"))).unwrap();
            let (worst, rms) = distance(engine.output(i), &golden.values);
            println!("{name} {output}: {worst:.4} of the range at most, {rms:.5} rms; {cost:?}");
            assert!(worst <= 0.05 && rms <= 0.02, "{name} {output}: {worst} {rms}");
        }
        // The largest number of a hidden vector is no class.
        let classes = name.contains('-');
        assert!((!classes || cost.same_class >= 0.95) && cost.rms < 0.02, "{name}: {cost:?}");
    }
}

#[test]
fn bits_depend_on_no_tier_thread_or_batch() {
    for name in ["bert", "vit-classes"] {
        let (file, _) = convert(&folder(name)).unwrap();
        let mut engine = load(&file, 5);
        let axes = Axes { tiers: tiers(), threads: vec![1, 2, 3, 5], batch: vec![1, 2, 5] };
        let report = verify(&mut engine, &axes, Policy::None).unwrap();
        assert_eq!((report.cases, &report.mismatches[..]), (report.equal, &[][..]), "{name}");
        assert!(report.cases >= 12, "{name}");
    }
}

#[test]
fn what_does_not_count_changes_nothing() {
    let (file, _) = convert(&folder("bert")).unwrap();
    let mut engine = load(&file, 2);
    assert!(matches!(engine.domain(0), Domain::Ids(n) if n > 1));
    let ids: Vec<f32> = (0..20).map(|i| f32::from(i * 7 % 60_u8)).collect();
    engine.run(&[&ids[..9], &[], &[]], 1).unwrap();
    let alone: Vec<Vec<u32>> = (0..3).map(|i| engine.output(i).iter().map(|x| x.to_bits()).collect()).collect();
    let mut padded = ids.clone();
    padded.extend(&ids);
    engine.run(&[&padded, &[], &[0.0, 9.0]], 2).unwrap();
    let width = engine.output_shape(0)[1];
    let hidden: Vec<u32> = engine.output(0)[20 * width..].iter().map(|x| x.to_bits()).collect();
    assert_eq!(hidden[..9 * width], alone[0]);
    assert_eq!(hidden[9 * width..], vec![0; 11 * width]);
    for (output, alone) in alone.iter().enumerate().skip(1) {
        let width = engine.output_width(output);
        let found: Vec<u32> = engine.output(output)[width..].iter().map(|x| x.to_bits()).collect();
        assert_eq!(&found, alone);
    }
}

/// A damaged number is found when the file is loaded.
#[test]
fn numbers_out_of_range_are_refused() {
    let (file, _) = convert(&folder("bert-classes")).unwrap();
    let found = ModelFile::open(&file.0).unwrap();
    let tensor = found.tensors().iter().find(|tensor| tensor.name.contains(".table")).unwrap();
    let at = usize::try_from(tensor.offset).unwrap();
    let name = tensor.name.clone();
    let mut bytes = std::fs::read(&file.0).unwrap();
    drop(found);
    bytes[at..at + 4].copy_from_slice(&(1_i32 << 21).to_le_bytes());
    std::fs::write(&file.0, bytes).unwrap();
    let options = LoadOptions { ctx: Some(8), ..LoadOptions::default() };
    let error = NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap_err();
    assert!(
        matches!(&error, EngineError::Network(NetworkError::UnsoundTensor { tensor }) if *tensor == name),
        "{error}"
    );
}

#[test]
fn what_has_no_integers_is_told() {
    let to = Temporary::new();
    let told = |options: &ImportOptions| import(&folder("bert"), &to.0, options, &mut |_| ()).unwrap_err().to_string();
    let integer = ImportOptions { integer: true, ..ImportOptions::default() };
    assert!(told(&integer).contains("--calibrate"));
    let calibration = Some(Array { shape: vec![1, 4], values: vec![0.0, 1.0, f32::NAN, 2.0], lengths: None });
    let error = told(&ImportOptions { calibration, ..integer });
    assert!(error.contains("NaN"), "{error}");
    assert!(!to.0.exists());
}
