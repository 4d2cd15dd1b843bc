//! Dense networks.

use crate::model::{Temporary, dense, load, node, noise, outputs, residual_mlp, save, tiers};
use rin_engine::Error;
use rin_engine::network::NetworkError;
use rin_engine::topology::Policy;
use rin_import::{NewNetwork, NewTensor, write_network};
use rin_kernels::Format;
use rin_kernels::format::dequantize;
use rin_model::{Body, Function, ModelFile, Op};

/// The rows of a matrix as numbers.
fn weights(tensors: &[NewTensor], name: &str) -> Vec<Vec<f64>> {
    let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let (rows, cols) = (tensor.shape[0], tensor.shape.get(1).copied().unwrap_or(1));
    let bytes = tensor.bytes.len() / rows;
    let mut row = vec![0.0; cols];
    let mut numbers = |bytes: &[u8]| -> Vec<f64> {
        dequantize(tensor.format, bytes, &mut row);
        row.iter().map(|&w| f64::from(w)).collect()
    };
    tensor.bytes.chunks(bytes).map(&mut numbers).collect()
}

/// `residual_mlp` as its description reads, in double precision.
#[expect(clippy::disallowed_methods, reason = "the platform's f64 functions are the reference of a test")]
fn definition(tensors: &[NewTensor], x: &[f32]) -> [Vec<f64>; 4] {
    let vector = |name: &str| -> Vec<f64> { weights(tensors, name).concat() };
    let product = |name: &str, x: &[f64]| -> Vec<f64> {
        weights(tensors, name).iter().map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let add = |a: Vec<f64>, b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    let map = |x: Vec<f64>, f: &dyn Fn(f64) -> f64| -> Vec<f64> { x.into_iter().map(f).collect() };
    // erf by its series.
    let erf = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let h1 = map(add(product("fc1.weight", &x), &vector("fc1.bias")), &|x| {
        0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
    });
    let n = h1.len() as f64;
    let mean = h1.iter().sum::<f64>() / n;
    let variance = h1.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let (g, b) = (vector("ln.weight"), vector("ln.bias"));
    let n1: Vec<f64> =
        h1.iter().zip(&g).zip(&b).map(|((x, g), b)| (x - mean) / (variance + 1e-5).sqrt() * g + b).collect();
    let h2 = map(add(product("fc2.weight", &n1), &vector("fc2.bias")), &|x| x * sigmoid(x));
    let sum = map(add(h2, &h1), &|x| x.max(0.0));
    let (g, b) = (vector("bn.weight"), vector("bn.bias"));
    let scaled: Vec<f64> = sum.iter().zip(&g).zip(&b).map(|((x, g), b)| (x * g + b).tanh()).collect();
    let class = add(product("fc3.weight", &scaled), &vector("fc3.bias"));
    let gate = map(product("fc4.weight", &scaled), &sigmoid);
    let e: Vec<f64> = class.iter().map(|x| x.exp()).collect();
    let total: f64 = e.iter().sum();
    let p = e.iter().map(|e| e / total).collect();
    [class, gate, p, h1]
}

const SHAPES: [[usize; 3]; 3] = [[64, 96, 10], [37, 50, 7], [1, 33, 1]];

#[test]
fn it_computes_what_its_description_says() {
    for (format, tolerance) in [(Format::F32, 2e-5), (Format::F16, 2e-5), (Format::Q8_0, 0.03), (Format::Q4_0, 0.03)] {
        for shape in SHAPES {
            let (network, tensors) = residual_mlp(shape, format);
            let mut engine = load(&save(&network, &tensors), 8);
            let x = noise(5 * shape[0], 77);
            let (found, _) = outputs(&mut engine, &x, 8);
            for (r, x) in x.chunks(shape[0]).enumerate() {
                for (i, want) in definition(&tensors, x).iter().enumerate() {
                    for (want, found) in want.iter().zip(&found[i][r * want.len()..]) {
                        // Weights are the file's on both sides: what differs is the rounding of activations.
                        let error = (f64::from(*found) - want).abs();
                        assert!(
                            error <= tolerance * (1.0 + want.abs()),
                            "{format} {shape:?} output {i}: {found}, {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bits_depend_on_no_tier_thread_or_batch() {
    for format in [Format::F32, Format::Q8_0, Format::Q4_0] {
        for shape in [[37, 50, 7], [784, 256, 10]] {
            let (network, tensors) = residual_mlp(shape, format);
            let file = save(&network, &tensors);
            let mut engine = load(&file, 16);
            let x = noise(16 * shape[0], 5);
            engine.reconfigure(rin_kernels::Tier::Scalar, 1, Policy::None).unwrap();
            let want = outputs(&mut engine, &x, 1);
            for tier in tiers() {
                for threads in [1, 2, 3] {
                    engine.reconfigure(tier, threads, Policy::None).unwrap();
                    for batch in [1, 3, 16] {
                        let found = outputs(&mut engine, &x, batch);
                        assert!(found == want, "{format} {shape:?} {tier} {threads} threads, batch {batch}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_are_none_are_refused() {
    let (network, tensors) = residual_mlp([37, 50, 7], Format::Q8_0);
    let mut engine = load(&save(&network, &tensors), 2);
    let x = noise(3 * 37, 1);
    engine.run(&[&x[..74]], 2).unwrap();
    assert_eq!(engine.output(0).len(), 14);
    let many = engine.run(&[&x], 3).unwrap_err();
    assert!(matches!(many, Error::StepTooLarge { found: 3, most: 2, .. }), "{many}");
    assert!(engine.output(0).is_empty());
    let short = engine.run(&[&x[..73]], 2).unwrap_err();
    assert!(short.to_string().contains("input 'x' has 73 values, but 2 rows of 37 are 74"), "{short}");
    let none = engine.run(&[], 2).unwrap_err();
    assert!(matches!(none, Error::Network(NetworkError::InputCount { found: 0, expected: 1 })), "{none}");
    engine.run(&[&[]], 0).unwrap();
}

#[test]
fn a_file_says_which_network_it_holds() {
    let (network, tensors) = residual_mlp([37, 50, 7], Format::Q8_0);
    let file = save(&network, &tensors);
    let model = ModelFile::open(&file.0).unwrap();
    model.verify_sha256().unwrap();
    assert_eq!((model.network(), model.mode()), (Some(&network), Some(rin_model::Mode::Mlp)));
    let error = model.config().unwrap_err();
    assert_eq!(error.kind(), "NoText");
    assert!(error.to_string().contains("mode `mlp`") && error.to_string().contains("--input"), "{error}");
}

#[test]
fn descriptions_that_contradict_themselves_are_refused() {
    type Change = fn(&mut rin_model::Network, &mut Vec<NewTensor>);
    fn nodes(network: &mut rin_model::Network) -> &mut Vec<rin_model::Node> {
        let Body::Nodes(nodes) = &mut network.body else { panic!("nodes") };
        nodes
    }
    let cases: [(&str, Change); 12] = [
        ("InconsistentConfig", |n, _| nodes(n)[0].inputs[0] = "nothing".into()),
        ("InconsistentConfig", |n, _| nodes(n)[3].inputs.truncate(1)),
        ("InconsistentConfig", |n, _| nodes(n)[3].inputs[1] = "x".into()),
        ("InconsistentConfig", |n, _| n.outputs.clear()),
        ("InconsistentConfig", |n, _| n.outputs[0].name = "no value".into()),
        ("InconsistentConfig", |n, _| n.outputs[0].labels = vec!["one".into()]),
        ("InconsistentConfig", |n, _| n.mode = rin_model::Mode::Transformer),
        ("InconsistentConfig", |n, _| n.inputs[0].shape = vec![usize::MAX, 3]),
        ("InconsistentConfig", |n, _| {
            nodes(n)[1].op = Op::LayerNorm { weight: "ln.weight".into(), bias: "ln.bias".into(), eps: f32::NAN };
        }),
        ("Duplicate", |n, _| nodes(n)[1].output = "x".into()),
        ("MissingTensor", |_, t| t.truncate(10)),
        ("BadShape", |n, _| n.inputs[0].shape = vec![100]),
    ];
    for (i, (kind, change)) in cases.into_iter().enumerate() {
        let (mut network, mut tensors) = residual_mlp([37, 50, 7], Format::F32);
        change(&mut network, &mut tensors);
        let model = NewNetwork { network: &network, source: "a test", format: "test", quant: None };
        let file = Temporary::new();
        let found = write_network(&file.0, &model, &tensors, &[], false);
        // A number that JSON cannot hold is refused a step earlier.
        let found = match found {
            Err(rin_import::Error::Model(error)) => error.kind(),
            other => panic!("case {i}: {other:?}"),
        };
        assert!(found == kind || (i == 8 && found == "BadHeader"), "case {i}: {found} for {kind}");
        assert!(!file.0.exists());
    }
}

#[test]
fn a_matrix_whose_rows_are_too_long_is_refused_when_it_is_planned() {
    let network = rin_model::Network {
        mode: rin_model::Mode::Mlp,
        name: None,
        inputs: vec![rin_model::Port::row("x", vec![4])],
        outputs: vec![rin_model::Output { name: "y".into(), kind: rin_model::OutputKind::Values, labels: vec![] }],
        body: Body::Nodes(vec![node(dense("fc", Function::Identity), &["x"], "y")]),
    };
    let weight = NewTensor::matrix("fc.weight", Format::F32, [2, 1000], &noise(2000, 3)).unwrap();
    let file = save(&network, &[weight, NewTensor::vector("fc.bias", &[0.0; 2])]);
    let error = rin_engine::network::NetworkPlan::new(&ModelFile::open(&file.0).unwrap(), 1).unwrap_err();
    assert!(matches!(error, Error::BadShape { .. }), "{error}");
}
