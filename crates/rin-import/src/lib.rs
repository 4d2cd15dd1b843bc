//! Foreign model formats become `.rin`, and `.rin` becomes them.
//!
//! In goes a GGUF file or a Hugging Face folder, opened and checked by `rin-model`; out comes a `.rin` file, version 2:
//! the matrices that the network's plan uses packed into panels, so that they run from the mapping, vectors as f32,
//! the tokenizer as a byte tensor, and a header that any safetensors reader takes. One panel is in memory at a time.
//! The file grows under a temporary name beside its destination and is renamed when it is whole, on disk and readable.
//! [`export`] is the way back, to GGUF and to Hugging Face folders.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod causal;
mod convert;
mod cost;
mod encoder;
mod error;
mod export;
mod foreign;
pub mod integer;
mod layout;
pub mod nir;
mod onnx;
mod panels;
pub mod quantize;
pub mod snn_file;
mod source;
mod staged;
mod vocabulary;
mod whole;
mod write;

pub use cost::Cost;
pub use error::Error;
pub use export::{DTYPES, ExportKind, ExportOptions, ExportReport, export};
pub use foreign::{Description, ForeignError, Layer, OutputLayer, open_onnx, torch_shapes};
pub use onnx::operators as onnx_operators;
pub use write::{NewArray, NewModel, NewNetwork, NewTensor, write, write_network};

use crate::layout::{Content, Described, Layout, Stored};
use crate::panels::Panels;
use crate::staged::Staged;
use rin_engine::weights::vector_values;
use rin_engine::{Plan, PlanOptions};
use rin_kernels::Format;
use rin_model::array::Array;
use rin_model::rin_format::Provenance;
use rin_model::{FileFormat, ModelFile};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a model is imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Type of the matrices that the source holds as floats, one of [`quantize::TARGETS`]; none keeps all types.
    pub quant: Option<Format>,
    /// What the tensors of a PyTorch or safetensors file make; none for files that say it.
    pub description: Option<Description>,
    /// Whether the network shall be one in integers; it then takes `calibration`.
    pub integer: bool,
    /// Rows of a network's input: the scales of integers, and what a conversion cost, are found with them.
    pub calibration: Option<Array>,
    /// Sizes that an ONNX file leaves open, by name.
    pub dims: Vec<(String, usize)>,
    /// Whether a file at the destination may be replaced.
    pub overwrite: bool,
    /// Ends the import with [`Error::Cancelled`] once it is true, such as after Ctrl-C.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// How far an import or an export is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor that is being written, or the source file that is being hashed.
    pub tensor: &'a str,
    /// Bytes of source files hashed and of tensors written so far.
    pub bytes_done: u64,
    /// Their number at the end.
    pub bytes_total: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors, those of the tokenizer among them.
    pub n_tensors: usize,
    /// Matrices whose type was changed as `quant` asked; the others hold no floats, or rows of no whole blocks.
    pub n_quantized: usize,
    /// SHA-256 of the data after the header, in hexadecimal digits, as the header records it.
    pub sha256: String,
    /// What the conversion cost, where rows were given to find it with.
    pub cost: Option<Cost>,
}

const CALIBRATION_NEEDS_ROWS: &str = "calibration rows are for networks on rows: dense layers, and attention encoders; a decoder takes them with --mode rin";
const NEEDS_NO_DESCRIPTION: &str =
    "a description of the network is for PyTorch and safetensors files of weights; this source says itself what it is";

/// Writes the model `src` to `dst` as `.rin`: a GGUF file, a Hugging Face folder, a PyTorch or safetensors file of
/// weights, or a file of RIN's first generation.
///
/// On any error nothing is left behind, and a file that was at `dst` stands.
///
/// # Errors
/// When the source is damaged, is no network that RIN runs or is `.rin` already; when the destination is a folder,
/// part of the source, or a file that may not be replaced; when `quant` is no target; when writing fails.
pub fn import(
    src: &Path,
    dst: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, Error> {
    if let Some(found) = options.quant.filter(|format| !quantize::TARGETS.contains(format)) {
        return Err(Error::QuantTarget { found });
    }
    if let Some(config) = encoder::config_of(src).filter(|_| options.description.is_none()) {
        return encoder::import(src, dst, &config, options);
    }
    if let Some(kind) = foreign::kind_of(src, options.description.is_some()) {
        return foreign::import_network(src, dst, kind, options.description.as_ref(), options);
    }
    if options.description.is_some() {
        return Err(ForeignError::Unsupported { what: NEEDS_NO_DESCRIPTION.to_owned() }.into());
    }
    let file = ModelFile::open(src)?;
    if options.integer {
        return causal::import(&file, src, dst, options);
    }
    if options.calibration.is_some() {
        return Err(ForeignError::Unsupported { what: CALIBRATION_NEEDS_ROWS.to_owned() }.into());
    }
    if file.format() == FileFormat::Rin {
        return Err(Error::AlreadyRin(src.to_owned()));
    }
    let sources = source::files(&file)?;
    staged::check_destination(dst, &sources, options.overwrite)?;
    // Of the plan only the list of its weights is wanted, and that does not depend on these sizes.
    let plan = Plan::new(
        &file,
        PlanOptions { ctx: 1, n_batch: 1, n_sequences: 1, n_logits: 1, kv_positions: None, kv_type: None, stage: None },
    )?;
    let mut layout = Layout::new(&file, &plan.weights, options.quant)?;
    vocabulary::add(&file, &mut layout)?;
    let hashed =
        sources.iter().try_fold(0_u64, |sum, path| Ok::<_, Error>(sum.saturating_add(source::length(path)?)))?;
    let total = layout.data_bytes().saturating_add(hashed);
    let mut meter = Meter { done: 0, total, cancel: options.cancel.as_deref(), progress };
    let files = sources.iter().map(|path| source::describe(path, &mut meter)).collect::<Result<Vec<_>, _>>()?;
    let origin = source::Origin {
        provenance: Provenance {
            source: source::name(src),
            format: file.format().to_string(),
            sha256: None,
            writer: env!("CARGO_PKG_VERSION").to_owned(),
            quant: options.quant.map(|format| format.name().to_owned()),
        },
        files,
    };
    let header = layout.header(Described::Decoder(file.config()?), &origin)?;
    let mut staged = Staged::create(dst, &header, layout.data_bytes())?;
    for tensor in layout.tensors() {
        write_tensor(&file, tensor, &mut staged, &mut meter)?;
    }
    file.check_unchanged()?;
    meter.check()?;
    let n_quantized = layout.tensors().iter().filter(|tensor| tensor.is_quantized(&file)).count();
    let (bytes, sha256) = staged.publish(header, options.overwrite)?;
    Ok(Report { bytes, n_tensors: layout.tensors().len(), n_quantized, sha256, cost: None })
}

fn write_tensor(file: &ModelFile, stored: &Stored, staged: &mut Staged, meter: &mut Meter<'_>) -> Result<(), Error> {
    match &stored.content {
        Content::Matrix { tensor, to } => {
            let mut panels = Panels::new(file, tensor, *to)?;
            while let Some(panel) = panels.next()? {
                staged.write(panel)?;
                meter.advance(&stored.name, panel.len())?;
            }
        }
        Content::Vector(tensor) => {
            let values = vector_values(tensor, file.bytes(tensor))?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            meter.advance(&stored.name, staged.write_padded(&bytes, 0)?)?;
        }
        Content::Bytes { bytes, padding } => {
            meter.advance(&stored.name, staged.write_padded(bytes, *padding)?)?;
        }
    }
    Ok(())
}

/// Counts the bytes done, tells of them, and looks whether to go on.
struct Meter<'a> {
    done: u64,
    total: u64,
    cancel: Option<&'a AtomicBool>,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Meter<'_> {
    fn check(&self) -> Result<(), Error> {
        match self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    fn advance(&mut self, tensor: &str, bytes: usize) -> Result<(), Error> {
        self.check()?;
        self.done = self.done.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)).min(self.total);
        (self.progress)(Progress { tensor, bytes_done: self.done, bytes_total: self.total });
        Ok(())
    }
}
