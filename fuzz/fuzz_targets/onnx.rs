//! An ONNX file: its graph, its nodes, and the numbers of its constants.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use rin_model::onnx::{Attribute, ExternalFiles, Model};

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::read(bytes) else { return };
    let mut files = ExternalFiles::none();
    for tensor in &model.graph.initializers {
        black_box(tensor.elements(&mut files).is_ok());
    }
    for (_, attribute) in model.graph.nodes.iter().flat_map(|node| &node.attributes) {
        if let Attribute::Tensor(tensor) = attribute {
            black_box(tensor.elements(&mut files).is_ok());
        }
    }
});
