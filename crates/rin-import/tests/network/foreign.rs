//! PyTorch and safetensors files: goldens are PyTorch's own outputs (`conformance/scripts/make_networks.py`).

use crate::model::{Temporary, load, outputs};
use rin_import::{Description, Error, ForeignError, ImportOptions, import};
use rin_kernels::Format;
use rin_model::{Body, ModelFile, Op};
use rin_testkit::data::{conformance, shared};
use rin_testkit::npy::Array2;
use std::path::Path;

fn description(name: &str) -> Description {
    Description::parse(&std::fs::read_to_string(conformance(&format!("networks/{name}.toml"))).unwrap()).unwrap()
}

fn convert(src: &Path, description: Option<Description>, quant: Option<Format>) -> Result<Temporary, Error> {
    let to = Temporary::new();
    import(src, &to.0, &ImportOptions { quant, description, ..ImportOptions::default() }, &mut |_| ())?;
    Ok(to)
}

fn golden(name: &str) -> Vec<f32> {
    Array2::read(&conformance(&format!("networks/{name}.npy"))).values
}

/// The largest distance of an output from PyTorch's.
fn distance(file: &Temporary, x: &str, output: usize, golden_name: &str) -> f32 {
    let mut engine = load(file, 4);
    let (found, _) = outputs(&mut engine, &golden(x), 4);
    let want = golden(golden_name);
    assert_eq!(found[output].len(), want.len());
    found[output].iter().zip(&want).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()))
}

#[test]
fn every_container_gives_what_pytorch_computes() {
    for (file, bound) in [
        ("plain.pt", 2e-6),
        ("plain-nested.pth", 2e-6),
        ("plain-legacy.pth", 2e-6),
        ("plain.safetensors", 2e-6),
        ("plain-half-strided.pt", 2e-3),
    ] {
        let src = conformance(&format!("networks/{file}"));
        let found = distance(&convert(&src, Some(description("plain")), None).unwrap(), "plain-x", 0, "plain-y");
        assert!(found <= bound, "{file}: {found}");
        let int8 = convert(&src, Some(description("plain")), Some(Format::Q8_0)).unwrap();
        let found = distance(&int8, "plain-x", 0, "plain-y");
        assert!(found <= 0.02, "{file} in Q8_0: {found}");
    }
}

#[test]
fn residuals_norms_and_several_outputs_are_those_of_pytorch() {
    let file = convert(&conformance("networks/residual.pt"), Some(description("residual")), None).unwrap();
    assert!(distance(&file, "residual-x", 0, "residual-classes") <= 3e-6);
    assert!(distance(&file, "residual-x", 1, "residual-value") <= 3e-6);
    let model = ModelFile::open(&file.0).unwrap();
    let network = model.network().unwrap();
    assert_eq!((network.name.as_deref(), network.outputs[0].labels.len()), (Some("residual"), 5));
    let Body::Nodes(nodes) = &network.body else { panic!("nodes") };
    // The norm after a dense layer is part of it; the one after a sum stands for itself.
    let scales = nodes.iter().filter(|node| matches!(node.op, Op::Scale { .. })).count();
    assert_eq!((nodes.len(), scales), (7, 1));
}

#[test]
fn what_the_tensors_do_not_say_is_asked_for() {
    let src = conformance("networks/plain.pt");
    let error = convert(&src, None, None).unwrap_err();
    assert!(error.to_string().contains("activation") && error.to_string().contains("--network"), "{error}");
    let of = |text: &str| convert(&src, Some(Description::parse(text).unwrap()), None).unwrap_err().to_string();
    let unused = of("layers = [{ tensors = \"0\" }, { tensors = \"1\" }]");
    assert!(unused.contains("4 tensors") && unused.contains("`3.weight`"), "{unused}");
    let twice = of("layers = [{ tensors = \"0\" }, { tensors = \"0\" }]");
    assert!(twice.contains("`0.weight`"), "{twice}");
    let shape = of("layers = [{ tensors = \"0\" }, { tensors = \"5\" }, { tensors = \"3\" }]");
    assert!(shape.contains("`3.weight`") && shape.contains("[24, 24]"), "{shape}");
    let input = of("activation = \"relu\"\ninput_shape = [3, 5]");
    assert!(input.contains("[3, 5]") && input.contains("12"), "{input}");
    let layer = of("activation = \"relu\"\noutputs = [{ layer = \"9\", kind = \"values\" }]");
    assert!(layer.contains("`9`"), "{layer}");
    assert!(Description::parse("activation = \"softplus\"").unwrap_err().to_string().contains("relu"));
    assert!(Description::parse("nothing = 1").is_err());
}

#[test]
fn a_file_cut_or_changed_anywhere_is_refused_or_read() {
    let to = Temporary::new();
    let damaged = std::env::temp_dir().join(format!("rin-foreign-damaged-{}.pt", std::process::id()));
    for name in ["plain.pt", "plain-legacy.pth"] {
        let whole = std::fs::read(conformance(&format!("networks/{name}"))).unwrap();
        let options =
            ImportOptions { description: Some(description("plain")), overwrite: true, ..ImportOptions::default() };
        let mut refused = 0;
        for at in (0..whole.len()).step_by(13) {
            std::fs::write(&damaged, &whole[..at]).unwrap();
            assert!(import(&damaged, &to.0, &options, &mut |_| ()).is_err(), "{name} cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&damaged, &changed).unwrap();
            // A weight may change; nothing may panic.
            refused += usize::from(import(&damaged, &to.0, &options, &mut |_| ()).is_err());
        }
        assert!(refused > 0, "{name}");
    }
    std::fs::remove_file(damaged).unwrap();
}

/// A pickle in the place of the one in `plain.pt`: a zip archive of one stored entry.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let name = b"a/data.pkl";
    let size = u32::try_from(pickle.len()).unwrap().to_le_bytes();
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend([0; 14]);
    zip.extend([size, size].concat());
    zip.extend([10, 0, 0, 0]);
    zip.extend(name);
    zip.extend(pickle);
    let directory = u32::try_from(zip.len()).unwrap().to_le_bytes();
    zip.extend(b"PK\x01\x02");
    zip.extend([0; 16]);
    zip.extend([size, size].concat());
    zip.extend([10, 0]);
    zip.extend([0; 16]);
    zip.extend(name);
    let length = u32::try_from(46 + name.len()).unwrap().to_le_bytes();
    zip.extend(b"PK\x05\x06");
    zip.extend([0, 0, 0, 0, 1, 0, 1, 0]);
    zip.extend([length, directory].concat());
    zip.extend([0, 0]);
    zip
}

#[test]
fn pickles_that_call_are_refused_by_name() {
    let path = std::env::temp_dir().join(format!("rin-foreign-calls-{}.pt", std::process::id()));
    let calls: [(&[u8], &str); 5] = [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"(S'ls'\nios\nsystem\n.", "an object"),
        (b"\x80\x02cmodule\nClass\n)\x81}b.", "module.Class"),
        (b"\x80\x02ctorch._utils\n_rebuild_from_type_v2\n)R.", "torch._utils._rebuild_from_type_v2"),
    ];
    for (pickle, name) in calls {
        std::fs::write(&path, archive(pickle)).unwrap();
        match convert(&path, Some(description("plain")), None) {
            Err(Error::Foreign(ForeignError::UnsupportedObject { what })) => assert_eq!(what, name),
            other => panic!("{name}: {:?}", other.err()),
        }
    }
    // Not one value for each time that a long name is remembered.
    let mut bomb = b"\x80\x04\x8d\x00\x00\x10\x00\x00\x00\x00\x00".to_vec();
    bomb.extend(vec![b'a'; 1 << 20]);
    bomb.extend(b"\x940");
    bomb.extend(b"h\x00h\x00\x93".repeat(100_000));
    for pickle in [&bomb[..], b".", b"\x80\x06.", b"h\x01.", b"t.", b"(((((", b"\x80\x02]q\x00h\x00a.", b"N.", b"}."] {
        std::fs::write(&path, archive(pickle)).unwrap();
        assert!(convert(&path, Some(description("plain")), None).is_err(), "{:?}", &pickle[..pickle.len().min(9)]);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn files_of_others_are_read_or_refused_with_a_reason() {
    let (Some(pth), Some(hostile)) = (shared("pth"), shared("hostile/pickle")) else { return };
    let (mut imported, mut refused) = (Vec::new(), 0);
    let mut folders = vec![pth, hostile];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // Convolutions, malware, broken archives: few are networks of one dense layer or norm.
            match convert(&path, None, None) {
                Ok(_) => imported.push(path.file_name().unwrap().to_string_lossy().into_owned()),
                Err(error) => refused += usize::from(!error.to_string().is_empty()),
            }
        }
    }
    assert!(refused > 40, "{refused}");
    assert!(imported.iter().any(|name| name == "linear__linear_with_bias.pt"), "{imported:?}");
    let bad = |name: &String| name.starts_with("malicious") || name.contains("broken") || name.contains("bypass");
    assert!(!imported.iter().any(bad), "{imported:?}");
}
