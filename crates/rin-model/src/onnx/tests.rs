use super::*;
use rin_testkit::onnx_writer::{self as write, Proto, attribute_float, attribute_int, attribute_ints};
use std::path::PathBuf;

/// A model with everything that the reader looks at.
fn sample() -> Vec<u8> {
    let attributes = [
        attribute_int("transB", 1),
        attribute_float("alpha", 0.5),
        attribute_ints("axes", &[-1, 300]),
        Proto::new().bytes(1, "t").message(5, &write::floats("", &[2], &[1.0, 2.0])).int(20, 4),
        Proto::new().bytes(1, "s").bytes(4, "text").int(20, 3),
        Proto::new().bytes(1, "g").message(6, &Proto::new()).int(20, 5),
    ];
    let graph = write::graph(
        &[write::node("Gemm", &["x", "w", ""], &["y"], &attributes)],
        &[write::floats("w", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), write::integers("n", &[], &[-7])],
        &[write::value("x", 1, &[-1, 3])],
        &[write::value("y", 1, &[-1, 2])],
    );
    write::model(17, &graph)
}

#[test]
fn a_model_is_taken_apart() {
    let bytes = sample();
    let model = Model::read(&bytes).unwrap();
    assert_eq!((model.ir_version, model.producer, &model.opsets[..]), (8, "rin-testkit", &[("", 17)][..]));
    let graph = &model.graph;
    assert_eq!(graph.inputs[0].shape.as_deref(), Some(&[Dim::Named("batch"), Dim::Size(3)][..]));
    assert_eq!((graph.inputs[0].element, graph.outputs[0].name), (Some(1), "y"));
    let node = &graph.nodes[0];
    assert_eq!((node.op, &node.inputs[..], node.label()), ("Gemm", &["x", "w", ""][..], "y"));
    assert_eq!(node.attribute("transB"), Some(&Attribute::Int(1)));
    assert_eq!(node.attribute("alpha"), Some(&Attribute::Float(0.5)));
    assert_eq!(node.attribute("axes"), Some(&Attribute::Ints(vec![-1, 300])));
    assert_eq!(node.attribute("s"), Some(&Attribute::String(b"text")));
    assert_eq!(node.attribute("g"), Some(&Attribute::Other));
    let Some(Attribute::Tensor(tensor)) = node.attribute("t") else { panic!("a tensor") };
    let mut none = ExternalFiles::none();
    assert_eq!(tensor.elements(&mut none).unwrap(), Elements::Floats(vec![1.0, 2.0]));
    let [w, n] = &graph.initializers[..] else { panic!("two constants") };
    assert_eq!((w.name, &w.dims[..]), ("w", &[2, 3][..]));
    assert_eq!(n.elements(&mut none).unwrap(), Elements::Integers(vec![-7]));
}

#[test]
fn numbers_of_every_kind_are_read() {
    let mut none = ExternalFiles::none();
    let mut of = |proto: &Proto| {
        let graph = Proto::new().message(5, proto);
        let bytes = Proto::new().message(7, &graph).finish();
        Model::read(&bytes)
            .map(|model| model.graph.initializers[0].elements(&mut none).map_err(|e| e.kind().to_owned()))
    };
    let integers =
        |element, fields: &[i64]| fields.iter().fold(Proto::new().int(1, 2).int(2, element), |m, v| m.int(5, *v));
    assert_eq!(of(&integers(3, &[-128, 127])).unwrap().unwrap(), Elements::Integers(vec![-128, 127]));
    assert_eq!(of(&integers(2, &[0, 256])).unwrap().unwrap_err(), "BadType");
    assert_eq!(of(&integers(10, &[0x3c00, 0xc000])).unwrap().unwrap(), Elements::Floats(vec![1.0, -2.0]));
    assert_eq!(of(&integers(16, &[0x3f80, 0xc000])).unwrap().unwrap(), Elements::Floats(vec![1.0, -2.0]));
    assert_eq!(of(&integers(7, &[1])).unwrap().unwrap_err(), "BadShape");
    let raw = |element, bytes: &[u8]| write::tensor("", element, &[2], bytes);
    assert_eq!(of(&raw(5, &[0xff, 0xff, 2, 0])).unwrap().unwrap(), Elements::Integers(vec![-1, 2]));
    assert_eq!(of(&raw(9, &[0, 3])).unwrap().unwrap(), Elements::Integers(vec![0, 1]));
    assert_eq!(of(&raw(11, &[0; 16])).unwrap().unwrap(), Elements::Floats(vec![0.0, 0.0]));
    assert_eq!(of(&raw(1, &[0; 7])).unwrap().unwrap_err(), "BadShape");
    assert_eq!(of(&raw(8, &[0; 2])).unwrap().unwrap_err(), "Unsupported");
    assert_eq!(of(&write::tensor("", 1, &[1 << 40, 1 << 40], &[])).unwrap().unwrap_err(), "ShapeOverflow");
    assert_eq!(of(&write::tensor("", 1, &[-1], &[])).unwrap_err().kind(), "BadShape");
    assert_eq!(of(&write::tensor("", 1, &[1; 9], &[0; 4])).unwrap_err().kind(), "BadShape");
    assert_eq!(of(&write::tensor("", 1, &[0, 5], &[])).unwrap().unwrap(), Elements::Floats(vec![]));
}

#[test]
fn every_cut_and_flipped_bit_is_survived() {
    let whole = sample();
    let look = |bytes: &[u8]| {
        let Ok(model) = Model::read(bytes) else { return false };
        for tensor in &model.graph.initializers {
            drop(tensor.elements(&mut ExternalFiles::none()));
        }
        true
    };
    assert!(look(&whole));
    // A cut between two fields leaves a message: what counts is that nothing panics.
    let read = (0..whole.len()).filter(|&cut| look(&whole[..cut])).count();
    assert!(read < 10, "{read} of {} cuts read", whole.len());
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut broken = whole.clone();
            broken[at] ^= 1 << bit;
            look(&broken);
        }
    }
}

#[test]
fn hostile_files_end_in_typed_errors() {
    let kind = |bytes: &[u8]| Model::read(bytes).unwrap_err().kind();
    assert_eq!(kind(b""), "MissingKey");
    assert_eq!(kind(b"PK\x03\x04 zip"), "BadHeader");
    // A million empty nodes are two million bytes, and would be a hundred times as many.
    let mut many = Vec::with_capacity(2 << 20);
    (0..1 << 20).for_each(|_| many.extend([0x0a, 0]));
    many.extend([0x0a, 0]);
    assert_eq!(kind(&Proto::new().bytes(7, &many).finish()), "BudgetExceeded");
    let long = "n".repeat(5000);
    assert_eq!(
        kind(&write::model(17, &write::graph(&[write::node(&long, &[], &[], &[])], &[], &[], &[]))),
        "BudgetExceeded"
    );
    let twice = write::node("Relu", &[], &[], &[attribute_int("a", 1), attribute_int("a", 2)]);
    assert_eq!(kind(&write::model(17, &write::graph(&[twice], &[], &[], &[]))), "Duplicate");
    let not_utf8 = Proto::new().message(7, &Proto::new().bytes(2, [0xff, 0xfe])).finish();
    assert_eq!(kind(&not_utf8), "BadUtf8");
    // A graph within a parameter, and a graph within that, a thousand times: they are not entered.
    let mut deep = Proto::new();
    for _ in 0..1000 {
        deep = Proto::new()
            .message(1, &write::node("If", &[], &[], &[Proto::new().bytes(1, "g").message(6, &deep).int(20, 5)]));
    }
    let bytes = write::model(17, &deep);
    assert_eq!(Model::read(&bytes).unwrap().graph.nodes[0].attribute("g"), Some(&Attribute::Other));
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("rin-onnx-{}-{name}", std::process::id()));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(folder.join("model/sub")).unwrap();
    folder
}

#[test]
fn external_data_stays_in_its_folder() {
    let folder = folder("external");
    let write_file = |path: &str, bytes: &[u8]| std::fs::write(folder.join(path), bytes).unwrap();
    write_file("secret", &[9; 8]);
    write_file("model/data.bin", &[0, 0, 128, 63, 0, 0, 0, 64, 1]);
    write_file("model/sub/data.bin", &[0; 8]);
    write_file("model/second", &[0; 8]);
    std::fs::hard_link(folder.join("model/second"), folder.join("model/hard")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret", folder.join("model/link")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("model/up")).unwrap();
        std::os::unix::fs::symlink("sub", folder.join("model/inside")).unwrap();
    }
    let mut files = ExternalFiles::in_folder(&folder.join("model"));
    let mut read = |entries: &[(&str, &str)]| {
        let graph = Proto::new().message(5, &write::external("w", 1, &[2], entries));
        let bytes = Proto::new().message(7, &graph).finish();
        let model = Model::read(&bytes).map_err(|error| error.kind())?;
        model.graph.initializers[0].elements(&mut files).map_err(|error| error.kind())
    };
    assert_eq!(read(&[("location", "data.bin"), ("length", "8")]), Ok(Elements::Floats(vec![1.0, 2.0])));
    assert_eq!(read(&[("location", "sub/data.bin")]), Ok(Elements::Floats(vec![0.0, 0.0])));
    let secret = folder.join("secret");
    let absolute = secret.to_str().unwrap();
    let escapes = ["../secret", "sub/../../secret", "junk/../../secret", absolute, "", "sub", "a\\..\\b", "hard"];
    for location in escapes {
        assert_eq!(read(&[("location", location)]), Err("PathEscape"), "{location}");
    }
    #[cfg(unix)]
    for location in ["link", "up/secret", "inside/data.bin"] {
        assert_eq!(read(&[("location", location)]), Err("PathEscape"), "{location}");
    }
    assert_eq!(read(&[("location", "none.bin")]), Err("MissingFile"));
    assert_eq!(read(&[]), Err("MissingKey"));
    assert_eq!(read(&[("location", "data.bin"), ("offset", "2")]), Err("OutOfBounds"));
    assert_eq!(read(&[("location", "data.bin"), ("offset", "18446744073709551615")]), Err("OutOfBounds"));
    assert_eq!(read(&[("location", "data.bin"), ("length", "4")]), Err("BadShape"));
    assert_eq!(read(&[("location", "data.bin"), ("offset", "x")]), Err("BadHeader"));
    std::fs::remove_dir_all(&folder).unwrap();
}
