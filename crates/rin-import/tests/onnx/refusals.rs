//! Models that are not run, and what they are told.

use crate::data::engine;
use rin_import::{Error, ForeignError, ImportOptions};
use rin_testkit::onnx_writer::{
    Proto, attribute_int, attribute_ints, external, floats, graph, integers, model, node, value,
};

fn refusal(bytes: &[u8]) -> Error {
    engine("refusals", bytes, &ImportOptions::default()).map(|_| ()).unwrap_err()
}

/// A graph from `x (batch, 4)` to `y`.
fn small(nodes: &[Proto], constants: &[Proto]) -> Vec<u8> {
    model(17, &graph(nodes, constants, &[value("x", 1, &[-1, 4])], &[value("y", 1, &[-1, 4])]))
}

#[test]
fn everything_that_lacks_is_told_at_once() {
    let nodes = [
        node("Foo", &["x"], &["a"], &[]),
        node("Loop", &["a"], &["b"], &[]),
        node("Relu", &["b"], &["c"], &[]),
        node("Foo", &["c"], &["y"], &[]),
        node("Bar", &["c"], &["d"], &[]).bytes(7, "com.example"),
    ];
    let strings = Proto::new().int(1, 1).int(2, 8).bytes(8, "words").bytes(6, "text");
    let Error::Foreign(ForeignError::Operators { lacking }) = refusal(&small(&nodes, &[strings])) else {
        panic!("a list")
    };
    let want = ["operator Foo (2 nodes)", "operator Loop", "operator com.example::Bar", "elements of string (`words`)"];
    assert_eq!(lacking, want);
}

#[test]
fn sizes_that_are_left_open_are_asked_for_at_once() {
    let dim = |name: &str| Proto::new().bytes(2, name);
    let input = |name: &str, dims: &[Proto]| {
        let shape = dims.iter().fold(Proto::new(), |shape, dim| shape.message(1, dim));
        let tensor = Proto::new().int(1, 1).message(2, &shape);
        Proto::new().bytes(1, name).message(2, &Proto::new().message(1, &tensor))
    };
    let inputs =
        [input("x", &[dim("N"), dim("length"), dim("N")]), input("z", &[Proto::new(), Proto::new(), dim("width")])];
    let nodes = [node("Identity", &["x"], &["y"], &[])];
    let bytes = model(17, &graph(&nodes, &[], &inputs, &[value("y", 1, &[-1])]));
    let Error::Foreign(ForeignError::Sizes { names }) = refusal(&bytes) else { panic!("sizes") };
    assert_eq!(names, ["--dim length=SIZE", "--dim width=SIZE", "--dim z.1=SIZE"]);
    let dims = [("length", 3), ("width", 2), ("z.1", 5)].map(|(name, n)| (name.to_owned(), n)).to_vec();
    let engine = engine("sizes", &bytes, &ImportOptions { dims, ..ImportOptions::default() }).unwrap();
    assert_eq!(engine.inputs()[0].shape, [3, 1]);
    assert_eq!(engine.inputs()[1].shape, [5, 2]);
}

#[test]
fn graphs_that_cannot_run_are_refused() {
    let told = |nodes: &[Proto], constants: &[Proto], part: &str| {
        let error = refusal(&small(nodes, constants)).to_string();
        assert!(error.contains(part), "{error}");
    };
    let relu = |from: &str, to: &str| node("Relu", &[from], &[to], &[]);
    // A cycle, a value of nobody, one that is made twice, an output of nobody.
    told(&[node("Add", &["x", "b"], &["a"], &[]), relu("a", "b"), relu("b", "y")], &[], "`b`, which nothing before");
    told(&[relu("none", "y")], &[], "`none`, which nothing before");
    told(&[relu("x", "a"), relu("x", "a"), relu("a", "y")], &[], "`a` is made twice");
    told(&[relu("x", "a")], &[], "the model's outputs ask for `y`");
    // Shapes that do not fit, and those that nobody can know.
    told(&[node("MatMul", &["x", "w"], &["y"], &[])], &[floats("w", &[3, 4], &[0.0; 12])], "node `y` (MatMul)");
    let shape = |values: &[i64]| integers("s", &[2], values);
    told(&[node("Reshape", &["x", "s"], &["y"], &[])], &[shape(&[-1, -1])], "more than one size");
    told(&[node("Reshape", &["x", "s"], &["y"], &[])], &[shape(&[3, 3])], "as many elements");
    told(&[node("Reshape", &["x", "s"], &["y"], &[])], &[shape(&[i64::MAX, i64::MAX])], "(Reshape)");
    told(&[node("Expand", &["x", "s"], &["y"], &[])], &[shape(&[1 << 40, 4])], "(Expand)");
    told(&[node("NonZero", &["x"], &["s"], &[]), node("Reshape", &["x", "s"], &["y"], &[])], &[], "operator NonZero");
    told(&[node("Transpose", &["x"], &["y"], &[attribute_ints("perm", &[0, 0])])], &[], "axis twice");
    told(&[node("Softmax", &["x"], &["y"], &[attribute_int("axis", 7)])], &[], "axis 7");
    told(&[node("Concat", &["x"], &["y"], &[attribute_ints("axis", &[0])])], &[], "is an integer, not ints");
    told(&[node("Gather", &["x", "s"], &["y"], &[])], &[shape(&[0, 9])], "an index beyond");
    let dims: Vec<i64> = vec![1 << 21, 1 << 21, 1 << 21, 1 << 21];
    told(&[node("ConstantOfShape", &["s"], &["y"], &[])], &[integers("s", &[4], &dims)], "(ConstantOfShape)");
}

#[test]
fn external_constants_stay_beside_the_model() {
    let nodes = [node("Add", &["x", "w"], &["y"], &[])];
    let away = |location: &str| external("w", 1, &[4], &[("location", location)]);
    for location in ["../x", "/etc/hostname", "a/../../x"] {
        let error = refusal(&small(&nodes, &[away(location)]));
        let Error::Model(found) = &error else { panic!("{error}") };
        assert_eq!(found.kind(), "PathEscape", "{location}");
    }
    let Error::Model(found) = refusal(&small(&nodes, &[away("no-such-constants.bin")])) else { panic!("missing") };
    assert_eq!(found.kind(), "MissingFile");
}

#[test]
fn damage_is_survived() {
    let nodes = [
        node("Conv", &["x4", "w"], &["a"], &[attribute_ints("pads", &[1, 1, 1, 1])]),
        node("Relu", &["a"], &["y"], &[]),
    ];
    let nodes = [&[node("Reshape", &["x", "s"], &["x4"], &[])][..], &nodes].concat();
    let constants = [floats("w", &[2, 1, 3, 3], &[0.5; 18]), integers("s", &[4], &[1, 1, 2, 2])];
    let whole = small(&nodes, &constants);
    assert!(engine("whole", &whole, &ImportOptions::default()).is_ok());
    for cut in (0..whole.len()).step_by(3) {
        drop(engine("cut", &whole[..cut], &ImportOptions::default()));
    }
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 1 << (at % 8);
        drop(engine("flipped", &broken, &ImportOptions::default()));
    }
}
