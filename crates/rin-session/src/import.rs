//! Foreign models become `.rin` files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rin_import::quantize::TARGETS;
use rin_import::{Description, ImportOptions, import};
use rin_kernels::Format;
use serde_json::json;

use crate::{Failure, invalid};

/// How a model is imported.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportRequest<'a> {
    /// Type of the matrices that the source holds as floats; none keeps all types.
    pub quant: Option<&'a str>,
    /// A TOML file that says what the tensors of a PyTorch or safetensors file make.
    pub network: Option<&'a Path>,
    /// Whether a file at the destination may be replaced.
    pub overwrite: bool,
}

/// Writes the model `source` to `to` as `.rin`; gives what was written as JSON. `go_on` hears how far it is, as JSON, and
/// ends it with false.
///
/// # Errors
///
/// When the source cannot be read or run, or the destination not written; nothing is left behind then.
pub fn import_model(
    source: &Path,
    to: &Path,
    request: &ImportRequest<'_>,
    go_on: &mut dyn FnMut(&str) -> bool,
) -> Result<String, Failure> {
    let quant = request.quant.map(target);
    let description = request.network.map(description).transpose()?;
    let cancel = Arc::new(AtomicBool::new(false));
    let (quant, overwrite) = (quant.transpose()?, request.overwrite);
    let cancelled = Some(Arc::clone(&cancel));
    let options = ImportOptions { quant, description, overwrite, cancel: cancelled, ..ImportOptions::default() };
    let report = import(source, to, &options, &mut |progress| {
        let event = json!({
            "event": "progress",
            "tensor": progress.tensor,
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
        });
        if !go_on(&event.to_string()) {
            cancel.store(true, Ordering::Relaxed);
        }
    })?;
    Ok(json!({
        "source": source.display().to_string(),
        "output": to.display().to_string(),
        "bytes": report.bytes,
        "n_tensors": report.n_tensors,
        "n_quantized": report.n_quantized,
        "quant": quant.map(Format::name),
        "sha256": report.sha256,
    })
    .to_string())
}

/// The type that matrices are brought to.
pub(crate) fn target(name: &str) -> Result<Format, Failure> {
    let found = TARGETS.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known = TARGETS.map(Format::name).join(", ");
        invalid(format!("quant is one of {known}, not {}", name.escape_debug())).at("quant")
    })
}

fn description(path: &Path) -> Result<Description, Failure> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("{place} cannot be read: {error}")).at(place.as_str()))?;
    Ok(Description::parse(&text).map_err(rin_import::Error::from)?)
}
