//! `rin import`: a foreign model becomes a `.rin` file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use rin_import::{Description, ImportOptions, Report};
use serde::Serialize;

use crate::args::ImportArgs;
use crate::output::Size;
use crate::values::NamedSize;
use crate::{interrupt, model_path, output, report, snn};

#[derive(Debug, Serialize)]
struct ImportJson {
    source: String,
    output: String,
    bytes: u64,
    n_tensors: usize,
    n_quantized: usize,
    quant: Option<&'static str>,
    sha256: String,
    version: &'static str,
}

/// Imports a model.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::install()?;
    interrupt::begin_with(Arc::clone(&cancel));
    let source = model_path::resolve(&args.source)?;
    if snn::is_nir(&source)? {
        return snn::import(args, &source);
    }
    let description = args.network.as_deref().map(description).transpose()?;
    let dims = args.dim.iter().map(|NamedSize(name, size)| (name.clone(), *size)).collect();
    let options =
        ImportOptions { quant: args.quant, description, dims, overwrite: args.overwrite, cancel: Some(cancel) };
    let bar = report::byte_progress(0, "importing", args.output.quiet);
    let imported = rin_import::import(&source, &args.to, &options, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let Report { bytes, n_tensors, n_quantized, sha256 } = imported?;
    let quant = args.quant.map(rin_kernels::Format::name);
    if !args.output.quiet {
        let to = quant.map_or_else(String::new, |name| format!(", {n_quantized} of them converted to {name}"));
        output::tell(&format!("{}: {}, {n_tensors} tensors{to}", args.to.display(), Size(bytes)));
    }
    if !args.output.json {
        return Ok(());
    }
    output::json(&ImportJson {
        source: source.display().to_string(),
        output: args.to.display().to_string(),
        bytes,
        n_tensors,
        n_quantized,
        quant,
        sha256,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Reads a description of a network.
fn description(path: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--network {}", path.display()))?;
    Description::parse(&text).with_context(|| format!("--network {}", path.display()))
}
