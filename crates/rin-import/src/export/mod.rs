//! The way back: a model becomes a GGUF file or a Hugging Face folder.
//!
//! The source is whatever the engine runs: `.rin`, GGUF, or a folder. The target gets the tensors that the network
//! needs, under its names and in its order of rows. GGUF keeps all types, and blocks come out with the bits with which
//! they went in; a folder holds floats alone, so that quantised matrices become numbers. Tokenizers are copied where
//! the target has the source's kind, and else translated, if that can be done without changing an id.

mod folder;
mod gguf;
mod rope;
mod rows;
mod spm;
mod staging;
mod vocab_from_gguf;
mod vocab_to_gguf;

use crate::{Error, Meter, Progress, source, staged};
use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Error as EngineError, Plan, PlanOptions};
use rin_kernels::Format;
use rin_model::ModelFile;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Types that the quantised matrices of a folder can be turned into.
pub const DTYPES: [Format; 3] = [Format::F32, Format::F16, Format::BF16];

/// How a model is exported.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Type in a folder of the matrices that the source holds quantised, one of [`DTYPES`]; none means F32.
    pub dtype: Option<Format>,
    /// Whether the model may be written without its tokenizer, even where that could be written.
    pub without_tokenizer: bool,
    /// Whether what an earlier export left at the destination may be replaced.
    pub overwrite: bool,
    /// Ends the export with [`Error::Cancelled`] once it is true, such as after Ctrl-C.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// What kind of thing an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder.
    Folder,
}

impl ExportKind {
    /// The kind that a destination's name asks for: a file where it ends in `.gguf`, else a folder.
    ///
    /// # Errors
    /// When it ends as a file of another format does.
    pub fn of(dst: &Path) -> Result<Self, Error> {
        let extension = dst.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "gguf" => Ok(Self::Gguf),
            "rin" | "safetensors" | "json" | "bin" => Err(Error::DestinationKind(dst.to_owned())),
            _ => Ok(Self::Folder),
        }
    }

    /// `gguf` or `folder`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Folder => "folder",
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The kind of the destination.
    pub kind: ExportKind,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors.
    pub n_tensors: usize,
    /// Quantised matrices that became numbers.
    pub n_dequantized: usize,
    /// Whether there is a tokenizer.
    pub tokenizer: bool,
    /// What the target has no place for, in words.
    pub notes: Vec<String>,
}

/// The source as the writers need it.
struct Source<'a> {
    file: &'a ModelFile,
    options: &'a ExportOptions,
    /// The source's tokenizer; none where there is none, or it is not wanted.
    tokenizer: Option<Tokenizer>,
}

/// Writes the model `src` to `dst`: to a GGUF file where the name ends in `.gguf`, else to a Hugging Face folder.
///
/// On any error nothing is left behind, and what was at `dst` stands.
///
/// # Errors
/// When the source is damaged or no network that RIN runs; when the target has no way to say what the network computes,
/// or how its tokenizer splits texts; when the destination is part of the source or must not be replaced; when writing
/// fails.
pub fn export(
    src: &Path,
    dst: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ExportReport, Error> {
    let kind = ExportKind::of(dst)?;
    if let Some(found) = options.dtype {
        if kind == ExportKind::Gguf {
            return Err(Error::DtypeForGguf);
        }
        if !DTYPES.contains(&found) {
            return Err(Error::ExportType { found });
        }
    }
    let file = ModelFile::open(src)?;
    let sources = source::files(&file)?;
    match kind {
        ExportKind::Gguf => staged::check_destination(dst, &sources, options.overwrite)?,
        ExportKind::Folder => staging::check_folder(dst, &sources, options.overwrite)?,
    }
    // Making a plan checks types, shapes and sizes; it does not depend on these numbers.
    Plan::new(
        &file,
        PlanOptions { ctx: 1, n_batch: 1, n_sequences: 1, n_logits: 1, kv_positions: None, kv_type: None, stage: None },
    )?;
    let tokenizer = if options.without_tokenizer { None } else { tokenizer(&file)? };
    let source = Source { file: &file, options, tokenizer };
    let mut meter = Meter { done: 0, total: 0, cancel: options.cancel.as_deref(), progress };
    match kind {
        ExportKind::Gguf => gguf::write(&source, dst, &mut meter),
        ExportKind::Folder => folder::write(&source, dst, &mut meter),
    }
}

/// The tokenizer of the source, with the ends of generation that its configuration names; none where it has none.
fn tokenizer(file: &ModelFile) -> Result<Option<Tokenizer>, Error> {
    match Tokenizer::of_model(file) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(EngineError::Model(rin_model::Error::MissingKey(_) | rin_model::Error::MissingFile(_))) => Ok(None),
        Err(EngineError::Model(error)) => Err(error.into()),
        Err(error) => Err(Error::Engine(error)),
    }
}
