//! Element types and constants of ONNX as those of graphs.

use super::error::OnnxError;
use rin_engine::graph::Held;
use rin_model::DType;
use rin_model::onnx::{Elements, ExternalFiles, Tensor, element_name};

/// The element type that a number in a file stands for. All floats are computed with as F32.
pub(super) fn dtype_of(element: i32) -> Result<DType, OnnxError> {
    known_dtype(element).ok_or_else(|| {
        OnnxError::shape(format!("elements of {}, which RIN does not compute with", element_name(element)))
    })
}

/// As [`dtype_of`], and none where there is none.
pub(super) fn known_dtype(element: i32) -> Option<DType> {
    Some(match element {
        1 | 10 | 11 | 16 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        12 => DType::U32,
        13 => DType::U64,
        _ => return None,
    })
}

/// The numbers of a constant.
pub(super) fn held_of(tensor: &Tensor<'_>, files: &mut ExternalFiles) -> Result<Held, OnnxError> {
    let dtype = dtype_of(tensor.element)?;
    let shape = tensor.dims.iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect::<Vec<_>>();
    Ok(match tensor.elements(files)? {
        Elements::Floats(values) => Held::floats(&shape, &values),
        Elements::Integers(values) => Held::integers(dtype, &shape, &values),
    })
}
