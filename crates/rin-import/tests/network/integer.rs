//! Networks in integers, made of PyTorch's files, beside PyTorch's own outputs.

use crate::model::{Temporary, load, outputs, tiers};
use rin_engine::network::verify::{Axes, verify};
use rin_engine::topology::Policy;
use rin_import::integer::{DenseLayer, DenseNetwork, write};
use rin_import::{Description, Error, ImportOptions, Report, import};
use rin_kernels::Format;
use rin_model::array::Array;
use rin_model::{Body, Function, Mode, ModelFile, Output, OutputKind, Port};
use rin_testkit::data::conformance;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn golden(name: &str) -> Array {
    Array::read(&conformance(&format!("networks/{name}.npy"))).unwrap()
}

fn options(name: &str) -> ImportOptions {
    let text = std::fs::read_to_string(conformance(&format!("networks/{name}.toml"))).unwrap();
    let description = Some(Description::parse(&text).unwrap());
    ImportOptions { integer: true, calibration: Some(golden("plain-x")), description, ..ImportOptions::default() }
}

fn convert(options: &ImportOptions) -> Result<(Temporary, Report), Error> {
    let to = Temporary::new();
    let report = import(&conformance("networks/plain.pt"), &to.0, options, &mut |_| ())?;
    Ok((to, report))
}

#[test]
fn a_network_of_pytorch_in_integers_is_near_it() {
    let (file, report) = convert(&options("plain")).unwrap();
    let model = ModelFile::open(&file.0).unwrap();
    model.verify_sha256().unwrap();
    assert_eq!(model.mode(), Some(Mode::Rin));
    let x = golden("plain-x");
    let rows = x.shape[0];
    let (found, digest) = outputs(&mut load(&file, 3), &x.values, 2);
    let want = golden("plain-y").values;
    let most = want.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    for (found, want) in found[0].iter().zip(&want) {
        assert!((found - want).abs() <= 0.03 * most, "{found} for {want}");
    }
    let cost = report.cost.unwrap();
    assert_eq!((cost.rows, report.n_quantized), (rows, 3));
    assert!(cost.rms > 1e-5 && cost.rms < 0.01 && cost.same_class > 0.7, "{cost:?}");
    // By construction the same on every machine.
    assert_eq!(digest, "sha256:ce1818a524b7923f8a2855f33471036a25075c7aff6039f4d16bcde1e3f65925");
}

#[test]
fn bits_depend_on_no_tier_thread_or_batch() {
    // Wide enough to be dealt out, with a function that takes a table.
    let noise = |n: usize, seed| crate::model::noise(n, seed);
    let widths = [70, 1100, 1000, 33];
    let layers = widths.windows(2).zip(0_u32..).map(|(pair, i)| DenseLayer {
        weight: noise(pair[0] * pair[1], i + 1).iter().map(|w| w * 3.0 / (pair[0] as f32).sqrt()).collect(),
        bias: noise(pair[1], i + 9),
        function: [Function::Tanh, Function::Relu6, Function::Identity][i as usize],
    });
    let network = DenseNetwork {
        name: None,
        input: Port::row("x", vec![70]),
        output: Output { name: "y".to_owned(), kind: OutputKind::Values, labels: Vec::new() },
        layers: layers.collect(),
    };
    let rows = Array { shape: vec![6, 70], values: noise(6 * 70, 3), lengths: None };
    let file = Temporary::new();
    write(&file.0, &network.quantize(&rows).unwrap(), "a test", "test", false).unwrap();
    let mut engine = load(&file, 7);
    let axes = Axes { tiers: tiers(), threads: vec![1, 2, 3], batch: vec![1, 2, 7] };
    let report = verify(&mut engine, &axes, Policy::None).unwrap();
    assert_eq!((report.cases, &report.mismatches[..]), (report.equal, &[][..]));
    // What the layers compute in numbers.
    let (found, _) = outputs(&mut engine, &rows.values, 6);
    let mut x: Vec<f64> = rows.values.iter().map(|&x| f64::from(x)).collect();
    for (layer, pair) in network.layers.iter().zip(widths.windows(2)) {
        let of = |x: &[f64]| -> Vec<f64> {
            let dots = layer.weight.chunks(pair[0]).zip(&layer.bias);
            let dot =
                |(w, b): (&[f32], &f32)| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + f64::from(*b);
            dots.map(dot).collect()
        };
        let act = |x: f64| match layer.function {
            Function::Tanh => x.tanh(),
            Function::Relu6 => x.clamp(0.0, 6.0),
            _ => x,
        };
        x = x.chunks(pair[0]).flat_map(of).map(act).collect();
    }
    let most = x.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let worst = found[0].iter().zip(&x).fold(0.0, |worst: f64, (a, b)| worst.max((f64::from(*a) - b).abs()));
    assert!(worst < 0.06 * most, "{worst} of {most}");
}

#[test]
fn what_has_no_integers_is_refused_by_name() {
    let refused = |options: &ImportOptions| convert(options).map(|_| ()).unwrap_err().to_string();
    let unfit = Array { shape: vec![2, 5], values: vec![0.0; 10], lengths: None };
    assert!(refused(&ImportOptions { calibration: Some(unfit), ..options("plain") }).contains("rows of shape [12]"));
    assert!(refused(&ImportOptions { calibration: None, ..options("plain") }).contains("--calibrate"));
    let mut rows = golden("plain-x");
    rows.values[3] = f32::NAN;
    assert!(refused(&ImportOptions { calibration: Some(rows), ..options("plain") }).contains("NaN"));
    let to = Temporary::new();
    let residual = ImportOptions { calibration: Some(golden("residual-x")), ..options("residual") };
    let error = import(&conformance("networks/residual.pt"), &to.0, &residual, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("`sum_bn` is a scale"), "{error}");
    let cancelled = ImportOptions { cancel: Some(Arc::new(AtomicBool::new(true))), ..options("plain") };
    assert!(matches!(convert(&cancelled), Err(Error::Cancelled)));
    assert!(!to.0.exists());
}

#[test]
fn a_conversion_to_blocks_tells_its_cost_too() {
    let blocks = ImportOptions { integer: false, quant: Some(Format::Q4_0), ..options("plain") };
    let four = convert(&blocks).unwrap().1.cost.unwrap();
    let eight = convert(&ImportOptions { quant: Some(Format::Q8_0), ..blocks.clone() }).unwrap().1.cost.unwrap();
    let none = convert(&ImportOptions { quant: None, ..blocks }).unwrap().1.cost.unwrap();
    assert!(none.rms == 0.0 && none.same_class > 0.999, "{none:?}");
    assert!(eight.rms > 0.0 && eight.rms < 0.01 && four.rms > 3.0 * eight.rms && four.rms < 0.1, "{eight:?} {four:?}");
}

#[test]
fn files_whose_sums_could_wrap_are_refused() {
    let (file, _) = convert(&options("plain")).unwrap();
    let bytes = std::fs::read(&file.0).unwrap();
    let model = ModelFile::open(&file.0).unwrap();
    let Body::Integer(integer) = &model.network().unwrap().body else { panic!("integers") };
    assert_eq!(integer.layers.len(), 3);
    for (name, value) in [("layer.1.shift", 0_i32), ("layer.0.bias", i32::MAX), ("layer.2.multiplier", -1)] {
        let at = usize::try_from(model.tensor(name).unwrap().offset).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let other = Temporary::new();
        std::fs::write(&other.0, changed).unwrap();
        let options = rin_engine::LoadOptions { n_batch: 1, ..rin_engine::LoadOptions::default() };
        let error = rin_engine::NetworkEngine::load(ModelFile::open(&other.0).unwrap(), &options, |_| ()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{name}: {error}");
    }
}
