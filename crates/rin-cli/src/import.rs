//! `rin import`: a foreign model becomes a `.rin` file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use rin_import::{Cost, Description, ImportOptions, Report};
use rin_model::Mode;
use rin_model::array::Array;
use serde::Serialize;

use crate::args::ImportArgs;
use crate::exit::Usage;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostJson>,
    version: &'static str,
}

/// The network beside the same one in f32, on the calibration rows.
#[derive(Debug, Serialize)]
struct CostJson {
    rows: usize,
    same_class: f64,
    rms: f64,
    /// Of a decoder: the mean loss in nats per id, in f32 and as converted.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<[f64; 2]>,
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
    let calibration = args
        .calibrate
        .as_deref()
        .map(|path| Array::read(path).map_err(|error| Usage(format!("--calibrate {}: {error}", path.display()))));
    let options = ImportOptions {
        quant: args.quant,
        description,
        dims: args.dim.iter().map(|NamedSize(name, size)| (name.clone(), *size)).collect(),
        integer: args.mode == Some(Mode::Rin),
        calibration: calibration.transpose()?,
        overwrite: args.overwrite,
        cancel: Some(cancel),
    };
    let bar = report::byte_progress(0, "importing", args.output.quiet);
    let imported = rin_import::import(&source, &args.to, &options, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let Report { bytes, n_tensors, n_quantized, sha256, cost } = imported?;
    let quant = if options.integer { Some("integers") } else { args.quant.map(rin_kernels::Format::name) };
    if !args.output.quiet {
        let to = quant.map_or_else(String::new, |name| format!(", {n_quantized} of them converted to {name}"));
        output::tell(&format!("{}: {}, {n_tensors} tensors{to}", args.to.display(), Size(bytes)));
        if let Some(Cost { rows, same_class, rms, loss }) = cost {
            output::tell(&format!(
                "\nbeside f32 on {rows} rows: {:.2} % have the same largest output, {:.3} % of the range apart (rms)",
                same_class * 100.0,
                rms * 100.0
            ));
            if let Some([floats, converted]) = loss {
                output::tell(&format!("loss per id in nats: {floats:.4} in f32, {converted:.4} as converted"));
            }
        }
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
        cost: cost.map(|Cost { rows, same_class, rms, loss }| CostJson { rows, same_class, rms, loss }),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Reads a description of a network.
fn description(path: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--network {}", path.display()))?;
    Description::parse(&text).with_context(|| format!("--network {}", path.display()))
}
