//! The native backend of the Python package `rin`: the module `rin._native`.
//!
//! A thin layer over `rin-session`, which `librin` shares: [`context`] is a session as a Python object, [`arrays`] hands
//! numpy's memory to the engine and back, [`failure`] turns failures into the exceptions of `rin.errors`. The interpreter is
//! free whenever the engine works or waits. What users see is written in Python, in `python/rin`.
#![expect(clippy::needless_pass_by_value, reason = "arguments are taken out of Python's objects")]

mod arrays;
mod context;
mod failure;
mod options;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rin_session::{DecoderRequest, ImportRequest, PlanBytes, TensorRequest, TrainRequest};

use crate::failure::{Heard, raised};
use crate::options::{LoadArgs, load_options};

/// Counts, so that "nothing is allocated during inference" is a measured figure.
#[global_allocator]
static GLOBAL: rin_kernels::alloc::CountingAllocator = rin_kernels::alloc::CountingAllocator;

/// The version, as "0.1.0".
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Heap allocations of RIN in this process so far.
#[pyfunction]
fn allocations() -> u64 {
    rin_kernels::alloc::allocations()
}

/// The numbers of a plan: total, weights, state, scratch, vocabulary, limit, fits.
fn plan_tuple(py: Python<'_>, plan: PlanBytes) -> PyResult<Bound<'_, PyTuple>> {
    let PlanBytes { total, weights, state, scratch, vocabulary, limit, fits } = plan;
    (total, weights, state, scratch, vocabulary, limit, fits).into_pyobject(py)
}

/// The memory that a model would take.
#[pyfunction]
#[pyo3(signature = (path, options))]
fn plan(py: Python<'_>, path: PathBuf, options: LoadArgs) -> PyResult<Bound<'_, PyTuple>> {
    let found = py.detach(|| PlanBytes::of_file(&path, &load_options(&options)?));
    plan_tuple(py, found.map_err(|failure| raised(py, &failure))?)
}

/// A foreign model becomes a `.rin` file; what was written comes back as JSON.
#[pyfunction]
#[pyo3(signature = (source, to, quant, network, overwrite, callback))]
fn import_model(
    py: Python<'_>,
    source: PathBuf,
    to: PathBuf,
    quant: Option<String>,
    network: Option<PathBuf>,
    overwrite: bool,
    callback: Option<Py<PyAny>>,
) -> PyResult<String> {
    let mut heard = Heard::new(callback);
    let found = py.detach(|| {
        let request = ImportRequest { quant: quant.as_deref(), network: network.as_deref(), overwrite };
        rin_session::import_model(&source, &to, &request, &mut |event| heard.go_on(event))
    });
    heard.end(py, found)
}

/// A tensor: name, dtype, shape, bytes.
type Named = (String, String, Vec<usize>, Vec<u8>);

fn requests(tensors: &[Named]) -> Vec<TensorRequest<'_>> {
    tensors.iter().map(|(name, dtype, shape, bytes)| TensorRequest { name, dtype, shape, bytes }).collect()
}

/// A network in memory becomes a `.rin` file; `tensors` are (name, dtype, shape, bytes). What was written comes back as JSON.
#[pyfunction]
#[pyo3(signature = (to, description, tensors, quant, overwrite))]
fn write_network(
    py: Python<'_>,
    to: PathBuf,
    description: String,
    tensors: Vec<Named>,
    quant: Option<String>,
    overwrite: bool,
) -> PyResult<String> {
    let found =
        py.detach(|| rin_session::write_network(&to, &description, &requests(&tensors), quant.as_deref(), overwrite));
    found.map_err(|failure| raised(py, &failure))
}

/// A decoder in memory becomes a `.rin` file, as a network does; `tokenizer` is a `tokenizer.json`.
#[pyfunction]
#[pyo3(signature = (to, config, tokenizer, tensors, quant, overwrite))]
fn write_decoder(
    py: Python<'_>,
    to: PathBuf,
    config: String,
    tokenizer: Vec<u8>,
    tensors: Vec<Named>,
    quant: Option<String>,
    overwrite: bool,
) -> PyResult<String> {
    let found = py.detach(|| {
        let request = DecoderRequest { config: &config, tokenizer: &tokenizer, quant: quant.as_deref(), overwrite };
        rin_session::write_decoder(&to, &request, &requests(&tensors))
    });
    found.map_err(|failure| raised(py, &failure))
}

/// Trains what a TOML file says; the summary comes back as JSON.
#[pyfunction]
#[pyo3(signature = (config, resume, overwrite, callback))]
fn train(
    py: Python<'_>,
    config: PathBuf,
    resume: bool,
    overwrite: bool,
    callback: Option<Py<PyAny>>,
) -> PyResult<String> {
    let mut heard = Heard::new(callback);
    let request = TrainRequest { resume, overwrite };
    let found = py.detach(|| rin_session::train(&config, request, &mut |event| heard.go_on(event)));
    heard.end(py, found)
}

/// Does what a command line says; gives the exit code.
#[pyfunction]
fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    let code = py.detach(|| rin_cli::run_command(arguments));
    (0..=u8::MAX).find(|&number| ExitCode::from(number) == code).unwrap_or(1)
}

/// The module `rin._native`.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::context::Context;
    #[pymodule_export]
    use super::{allocations, command, import_model, plan, train, version, write_decoder, write_network};
}
