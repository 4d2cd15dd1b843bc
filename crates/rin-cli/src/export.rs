//! `rin export`: a model becomes a GGUF file or a Hugging Face folder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use rin_import::{ExportOptions, ExportReport};
use serde::Serialize;

use crate::args::ExportArgs;
use crate::output::Size;
use crate::{interrupt, model_path, output, report, snn};

#[derive(Debug, Serialize)]
struct ExportJson {
    source: String,
    output: String,
    kind: &'static str,
    bytes: u64,
    n_tensors: usize,
    n_dequantized: usize,
    tokenizer: bool,
    notes: Vec<String>,
    version: &'static str,
}

/// Exports a model.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::install()?;
    interrupt::begin_with(Arc::clone(&cancel));
    let source = model_path::resolve(&args.source)?;
    if args.to.extension().is_some_and(|end| end.eq_ignore_ascii_case("nir")) {
        return snn::export(args, &source);
    }
    let options = ExportOptions {
        dtype: args.dtype,
        without_tokenizer: args.without_tokenizer,
        overwrite: args.overwrite,
        cancel: Some(cancel),
    };
    let bar = report::byte_progress(0, "exporting", args.output.quiet);
    let exported = rin_import::export(&source, &args.to, &options, &mut |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let ExportReport { kind, bytes, n_tensors, n_dequantized, tokenizer, notes } = exported?;
    if !args.output.quiet {
        for note in &notes {
            output::tell(&format!("note: {note}"));
        }
        let numbers = if n_dequantized > 0 { format!(", {n_dequantized} of them dequantised") } else { String::new() };
        let without = if tokenizer { "" } else { ", no tokenizer" };
        output::tell(&format!("{}: {}, {n_tensors} tensors{numbers}{without}", args.to.display(), Size(bytes)));
    }
    if !args.output.json {
        return Ok(());
    }
    output::json(&ExportJson {
        source: source.display().to_string(),
        output: args.to.display().to_string(),
        kind: kind.name(),
        bytes,
        n_tensors,
        n_dequantized,
        tokenizer,
        notes,
        version: env!("CARGO_PKG_VERSION"),
    })
}
