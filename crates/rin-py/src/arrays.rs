//! Memory of numpy for the engine, and back.

use numpy::{PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use rin_model::Port;
use rin_session::{Failure, Ports, Session, Shared};

use crate::failure::raised;

/// How many rows an array of this shape holds, and whether it is one row without the axis of rows.
pub(crate) fn rows_of(shape: &[usize], port: &Port) -> Option<(usize, bool)> {
    let width = port.width();
    if shape == port.shape || shape == [width] {
        return Some((1, true));
    }
    let (&rows, of_row) = shape.split_first()?;
    let values = of_row.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))?;
    (values == width && !of_row.is_empty()).then_some((rows, false))
}

/// Computes the rows of one array for a network of one input and one output. None where it is something else, which is then
/// for the careful way.
pub(crate) fn infer_one<'py>(
    py: Python<'py>,
    shared: &Shared,
    ports: &Ports,
    input: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let (Ok(array), [port], [output]) = (input.cast::<PyArrayDyn<f32>>(), &*ports.inputs, &*ports.outputs) else {
        return Ok(None);
    };
    let Some((rows, single)) = rows_of(array.shape(), port) else { return Ok(None) };
    // A slice of it would also be had in Fortran's order.
    if !array.is_c_contiguous() || !array.data().is_aligned() {
        return Ok(None);
    }
    let Ok(readable) = array.try_readonly() else { return Ok(None) };
    let Ok(values) = readable.as_slice() else { return Ok(None) };
    let run = |out: &mut [f32]| {
        let found = py.detach(|| shared.with(|session: &mut Session| session.infer(&[values], rows, &mut [out])));
        found.map_err(|failure: Failure| raised(py, &failure))
    };
    if single {
        let out = PyArray1::<f32>::zeros(py, [output.width], false);
        run(out.readwrite().as_slice_mut()?)?;
        return Ok(Some(out.into_any()));
    }
    let out = PyArray2::<f32>::zeros(py, [rows, output.width], false);
    run(out.readwrite().as_slice_mut()?)?;
    Ok(Some(out.into_any()))
}

/// Computes `rows` rows of contiguous arrays, one per input; gives an array `(rows, width)` per output.
pub(crate) fn infer<'py>(
    py: Python<'py>,
    shared: &Shared,
    ports: &Ports,
    inputs: &[Bound<'py, PyArrayDyn<f32>>],
    rows: usize,
) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
    let readable: Vec<_> = inputs.iter().map(PyArrayMethods::readonly).collect();
    let values = readable.iter().map(|array| Ok(array.as_slice()?)).collect::<PyResult<Vec<&[f32]>>>()?;
    let arrays: Vec<_> =
        ports.outputs.iter().map(|output| PyArray2::<f32>::zeros(py, [rows, output.width], false)).collect();
    let mut writable: Vec<_> = arrays.iter().map(PyArrayMethods::readwrite).collect();
    let places = writable.iter_mut().map(|array| Ok(array.as_slice_mut()?));
    let mut places = places.collect::<PyResult<Vec<&mut [f32]>>>()?;
    let found = py.detach(|| shared.with(|session| session.infer(&values, rows, &mut places)));
    found.map_err(|failure| raised(py, &failure))?;
    drop(writable);
    Ok(arrays)
}
