use super::*;
use crate::Function;

fn typed(dtype: DType, shape: &[usize]) -> ValueType {
    ValueType::new(dtype, shape)
}

fn made(op: &GraphOp, inputs: &[ValueType]) -> Result<ValueType, String> {
    let inputs: Vec<&ValueType> = inputs.iter().collect();
    op.infer(&inputs, |name| (name == "w").then(|| vec![5, 32]))
}

fn f32s(shape: &[usize]) -> ValueType {
    typed(DType::F32, shape)
}

#[test]
fn shapes_follow_from_operations() {
    let add = GraphOp::Binary { function: Binary::Add };
    assert_eq!(made(&add, &[f32s(&[2, 1, 4]), f32s(&[3, 1])]).unwrap(), f32s(&[2, 3, 4]));
    let less = GraphOp::Binary { function: Binary::Less };
    assert_eq!(made(&less, &[f32s(&[]), f32s(&[2])]).unwrap(), typed(DType::Bool, &[2]));
    assert_eq!(made(&GraphOp::MatMul, &[f32s(&[7, 1, 2, 3]), f32s(&[4, 3, 5])]).unwrap(), f32s(&[7, 4, 2, 5]));
    let linear = GraphOp::Linear { weight: "w".to_owned(), bias: None, function: Function::default() };
    assert_eq!(made(&linear, &[f32s(&[2, 3, 30])]).unwrap(), f32s(&[2, 3, 5]));
    let window = Window {
        kernel: vec![3, 3],
        strides: vec![2, 1],
        dilations: vec![1, 2],
        before: vec![1, 0],
        after: vec![1, 0],
        places: vec![4, 3],
    };
    let conv = GraphOp::Conv { window: window.clone(), group: 2, function: Function::default() };
    let image = f32s(&[1, 4, 7, 7]);
    assert_eq!(made(&conv, &[image.clone(), f32s(&[6, 2, 3, 3]), f32s(&[6])]).unwrap(), f32s(&[1, 6, 4, 3]));
    let index = GraphOp::Pool { kind: PoolKind::MaxIndex, window };
    assert_eq!(made(&index, &[image]).unwrap(), typed(DType::I64, &[1, 4, 4, 3]));
    let gather = GraphOp::Gather { axis: 1 };
    assert_eq!(made(&gather, &[f32s(&[2, 9, 4]), typed(DType::I64, &[3, 5])]).unwrap(), f32s(&[2, 3, 5, 4]));
    let reduce = |keep| GraphOp::Reduce { kind: ReduceKind::Sum, axes: vec![0, 2], keep };
    assert_eq!(made(&reduce(true), &[f32s(&[2, 3, 4])]).unwrap(), f32s(&[1, 3, 1]));
    assert_eq!(made(&reduce(false), &[f32s(&[2, 3, 4])]).unwrap(), f32s(&[3]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |op: &GraphOp, inputs: &[ValueType]| assert!(made(op, inputs).is_err(), "{op:?} {inputs:?}");
    let add = GraphOp::Binary { function: Binary::Add };
    refused(&add, &[f32s(&[2]), f32s(&[3])]);
    refused(&add, &[f32s(&[2]), typed(DType::I32, &[2])]);
    refused(&add, &[f32s(&[2])]);
    refused(&GraphOp::MatMul, &[f32s(&[2, 3]), f32s(&[2, 3])]);
    let linear =
        |weight: &str| GraphOp::Linear { weight: weight.to_owned(), bias: None, function: Function::default() };
    refused(&linear("none"), &[f32s(&[30])]);
    refused(&linear("w"), &[f32s(&[33])]);
    refused(&GraphOp::Reshape { shape: vec![usize::MAX, 2] }, &[f32s(&[4])]);
    refused(&GraphOp::Gather { axis: 2 }, &[f32s(&[2, 2]), typed(DType::I64, &[1])]);
    refused(&GraphOp::Reduce { kind: ReduceKind::Max, axes: vec![1, 0], keep: false }, &[f32s(&[2, 2])]);
    let region = |from, strides: &[i64], to| Region {
        input: 0,
        from,
        strides: strides.to_vec(),
        to,
        to_strides: vec![3, 1],
        shape: vec![2, 3],
    };
    let copy = |region| GraphOp::Copy { shape: vec![2, 3], fill: false, regions: vec![region] };
    let x = [f32s(&[2, 3])];
    assert!(made(&copy(region(0, &[3, 1], 0)), &x).is_ok());
    assert!(made(&copy(region(5, &[-3, -1], 0)), &x).is_ok());
    for region in [region(1, &[3, 1], 0), region(0, &[3, 1], 1), region(4, &[-3, -1], 0), region(0, &[i64::MAX, 1], 0)]
    {
        refused(&copy(region), &x);
    }
}

#[test]
fn a_graph_refers_to_earlier_values_only() {
    let relu =
        |input| GraphNode { op: GraphOp::Unary { function: Unary::Relu, alpha: 0.0, beta: 0.0 }, inputs: vec![input] };
    let graph = |nodes: Vec<GraphNode>| Graph { inputs: vec![f32s(&[2])], constants: vec![], nodes, outputs: vec![1] };
    let kind = |graph: Graph| graph.types(|_| None, |_| None).map(|types| types.len()).map_err(|error| error.kind());
    assert_eq!(kind(graph(vec![relu(0), relu(1)])), Ok(3));
    // A value that is made of itself, one of the next, and none.
    assert_eq!(kind(graph(vec![relu(1)])), Err("InconsistentConfig"));
    assert_eq!(kind(graph(vec![relu(2), relu(1)])), Err("InconsistentConfig"));
    assert_eq!(kind(graph(vec![relu(u32::MAX)])), Err("InconsistentConfig"));
    let huge =
        |shape: &[usize]| Graph { inputs: vec![f32s(shape)], constants: vec![], nodes: vec![], outputs: vec![0] };
    for shape in [&[1 << 30, 1 << 30][..], &[usize::MAX, 0], &[1; 9]] {
        assert_eq!(kind(huge(shape)), Err("InconsistentConfig"), "{shape:?}");
    }
    assert_eq!(kind(huge(&[0, 5])), Ok(1));
}
