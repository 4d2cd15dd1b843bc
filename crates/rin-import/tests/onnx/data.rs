//! Arrays as ONNX's tests store them, and models with their engines.

use rin_engine::{LoadOptions, NetworkEngine};
use rin_import::{Error, ImportOptions};
use rin_model::onnx::{Elements, ExternalFiles, Model};
use rin_testkit::onnx_writer::Proto;
use std::path::PathBuf;

/// An array of a test.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<u64>,
    pub(crate) element: i32,
    pub(crate) values: Vec<f64>,
}

/// Reads a `TensorProto`; none where it is of a type that RIN does not have.
pub(crate) fn array(bytes: &[u8]) -> Option<Array> {
    let graph = Proto::new().bytes(5, bytes);
    let model = Proto::new().message(7, &graph).finish();
    let model = Model::read(&model).ok()?;
    let tensor = model.graph.initializers.first()?;
    let values = match tensor.elements(&mut ExternalFiles::none()).ok()? {
        Elements::Floats(values) => values.into_iter().map(f64::from).collect(),
        Elements::Integers(values) => values.into_iter().map(|n| n as f64).collect(),
    };
    Some(Array { shape: tensor.dims.clone(), element: tensor.element, values })
}

/// A file that removes itself.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Temporary {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("rin-onnx-{}-{name}.onnx", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// An engine for a model in memory.
pub(crate) fn engine(name: &str, bytes: &[u8], options: &ImportOptions) -> Result<NetworkEngine, Error> {
    let file = rin_import::open_onnx(&Temporary::new(name, bytes).0, options)?;
    let options = LoadOptions { n_batch: 8, threads: Some(1), ..LoadOptions::default() };
    Ok(NetworkEngine::load(file, &options, |_| {})?)
}

/// The first value that is not as near as ONNX's own tests ask.
#[expect(clippy::float_cmp, reason = "infinities are near nothing but themselves")]
pub(crate) fn difference(found: &[f32], wanted: &[f64], relative: f64, absolute: f64) -> Option<String> {
    if found.len() != wanted.len() {
        return Some(format!("{} values, not {}", found.len(), wanted.len()));
    }
    let far = |(found, wanted): (&f32, &f64)| {
        let found = f64::from(*found);
        let same = found == *wanted || found.is_nan() && wanted.is_nan();
        !(same || (found - wanted).abs() <= absolute + relative * wanted.abs())
    };
    let at = found.iter().zip(wanted).position(far)?;
    Some(format!("value {at} is {}, not {}", found[at], wanted[at]))
}
