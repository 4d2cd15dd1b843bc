//! A GGUF file, version 3.

use super::rows::{Exported, Types, tensors, too_large};
use super::staging::NewFile;
use super::{ExportKind, ExportReport, Source, rope, vocab_to_gguf};
use crate::vocabulary::tokenizer_keys;
use crate::{Error, Meter};
use rin_engine::tokenizer::Vocab;
use rin_kernels::Format;
use rin_model::{Config, ModelFile, TokenizerSource, Value, gguf};
use std::path::Path;

const VERSION: u32 = 3;
/// Alignment of the data and of every tensor, in bytes: the default, which no key has to name.
const ALIGNMENT: u64 = 32;
/// Version of the quantised types, which has not changed since files name it.
const QUANTIZATION_VERSION: u64 = 2;

/// Numbers of the value types.
mod kind {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
}

/// The keys of a file, as its bytes.
#[derive(Debug, Default)]
pub(super) struct Keys {
    count: u64,
    bytes: Vec<u8>,
}

impl Keys {
    /// A key and the type of its value.
    fn begin(&mut self, key: &str, kind: u32) {
        self.count = self.count.saturating_add(1);
        self.string(key.as_bytes());
        self.bytes.extend(kind.to_le_bytes());
    }

    fn string(&mut self, text: &[u8]) {
        self.bytes.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.bytes.extend(text);
    }

    fn begin_array(&mut self, key: &str, kind: u32, len: usize) {
        self.begin(key, kind::ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(u64::try_from(len).unwrap_or(u64::MAX).to_le_bytes());
    }

    pub(super) fn uint(&mut self, key: &str, n: u64) {
        if let Ok(n) = u32::try_from(n) {
            self.begin(key, kind::U32);
            self.bytes.extend(n.to_le_bytes());
        } else {
            self.begin(key, kind::U64);
            self.bytes.extend(n.to_le_bytes());
        }
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.begin(key, kind::BOOL);
        self.bytes.push(value.into());
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.begin(key, kind::STRING);
        self.string(text.as_bytes());
    }

    pub(super) fn texts<'t>(&mut self, key: &str, texts: impl ExactSizeIterator<Item = &'t [u8]>) {
        self.begin_array(key, kind::STRING, texts.len());
        texts.for_each(|text| self.string(text));
    }

    pub(super) fn f32s(&mut self, key: &str, values: &[f32]) {
        self.begin_array(key, kind::F32, values.len());
        self.bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }

    pub(super) fn i32s(&mut self, key: &str, values: &[i32]) {
        self.begin_array(key, kind::I32, values.len());
        self.bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }

    fn value(&mut self, key: &str, value: Value<'_>) -> Result<(), Error> {
        match value {
            Value::Uint(n) => self.uint(key, n),
            Value::Bool(value) => self.bool(key, value),
            Value::Str(text) => self.text(key, text),
            Value::F32(x) => {
                self.begin(key, kind::F32);
                self.bytes.extend(x.to_le_bytes());
            }
            other => return Err(inexpressible(format!("`{key}` is {}", other.kind()))),
        }
        Ok(())
    }

    /// Adds all keys of another list.
    pub(super) fn take(&mut self, other: &Self) {
        self.append(other.count, &other.bytes);
    }

    fn append(&mut self, count: u64, bytes: &[u8]) {
        self.count = self.count.saturating_add(count);
        self.bytes.extend(bytes);
    }

    /// A file with these keys and `n_tensors` descriptions to follow.
    pub(super) fn header(&self, n_tensors: u64) -> Vec<u8> {
        let counts = [n_tensors.to_le_bytes(), self.count.to_le_bytes()].concat();
        [&gguf::MAGIC[..], &VERSION.to_le_bytes(), &counts, &self.bytes].concat()
    }
}

fn inexpressible(what: String) -> Error {
    Error::Inexpressible { target: "a GGUF file", what }
}

/// Writes the file.
pub(super) fn write(source: &Source<'_>, dst: &Path, meter: &mut Meter<'_>) -> Result<ExportReport, Error> {
    let (config, factors) = rope::for_gguf(source.file.config()?)?;
    let tensors = tensors(source, &config, factors.as_deref(), Types::Gguf)?;
    let mut keys = Keys::default();
    for (key, value) in config.to_gguf().map_err(|error| Error::inexpressible("a GGUF file", error))? {
        keys.value(&key, value)?;
    }
    if let Some(file_type) = file_type(&tensors) {
        keys.uint("general.file_type", file_type);
    }
    keys.uint("general.quantization_version", QUANTIZATION_VERSION);
    let mut notes = tokenizer(source, &config, &mut keys)?;
    if let Some(window) = config.window {
        notes.push(format!(
            "attention reaches back {window} tokens; readers that do not know this key for {} look further",
            config.arch
        ));
    }
    let mut header = keys.header(u64::try_from(tensors.len()).unwrap_or(u64::MAX));
    let mut offset = 0_u64;
    for tensor in &tensors {
        describe(tensor, offset, &mut header)?;
        let padded = tensor.n_bytes.checked_next_multiple_of(ALIGNMENT);
        let end = padded.and_then(|padded| offset.checked_add(padded)).filter(|&end| i64::try_from(end).is_ok());
        offset = end.ok_or_else(|| too_large(&tensor.name))?;
    }
    pad(&mut header, ALIGNMENT);
    let bytes = offset.saturating_add(u64::try_from(header.len()).unwrap_or(u64::MAX));
    meter.total = tensors.iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes));
    let mut file = NewFile::beside(dst, bytes)?;
    file.write(&header)?;
    for tensor in &tensors {
        tensor.write(meter, &mut |bytes| file.write(bytes))?;
        let over = tensor.n_bytes.checked_rem(ALIGNMENT).filter(|&over| over > 0);
        let missing = over.map_or(0, |over| ALIGNMENT.saturating_sub(over));
        file.write(&vec![0; usize::try_from(missing).unwrap_or(0)])?;
    }
    source.file.check_unchanged()?;
    meter.check()?;
    file.publish(source.options.overwrite, |path| {
        let written = ModelFile::open(path)?;
        written.config()?;
        match written.tokenizer() {
            Err(error) if source.tokenizer.is_some() => Err(error.into()),
            _ => Ok(()),
        }
    })?;
    let n_tensors = tensors.len();
    let tokenizer = source.tokenizer.is_some();
    Ok(ExportReport { kind: ExportKind::Gguf, bytes, n_tensors, n_dequantized: 0, tokenizer, notes })
}

/// The keys of the tokenizer: those of the source, or their translation. Returns what they do not say.
fn tokenizer(source: &Source<'_>, network: &Config, keys: &mut Keys) -> Result<Vec<String>, Error> {
    let Some(tokenizer) = &source.tokenizer else {
        // Readers of GGUF want to be told.
        keys.text("tokenizer.ggml.model", "none");
        return Ok(Vec::new());
    };
    match source.file.tokenizer()? {
        TokenizerSource::Gguf(_) => {
            let bytes = source.file.vocabulary_bytes().unwrap_or_default();
            let damaged = |error| Error::reading(source.file.path(), error);
            let (count, bytes) = tokenizer_keys(bytes, |key| key.starts_with(b"tokenizer.")).map_err(damaged)?;
            keys.append(count, &bytes);
            Ok(Vec::new())
        }
        from @ TokenizerSource::HuggingFace(_, settings) => {
            let vocab = Vocab::from_source(&from).map_err(|error| Error::Engine(error.into()))?;
            vocab_to_gguf::write(&vocab, tokenizer, settings, network, keys)
        }
    }
}

fn describe(tensor: &Exported<'_>, offset: u64, header: &mut Vec<u8>) -> Result<(), Error> {
    let name = tensor.name.as_bytes();
    let id = tensor.dtype()?.ggml_id().ok_or_else(|| too_large(&tensor.name))?;
    header.extend(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
    header.extend(name);
    header.extend(u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
    header.extend(id.to_le_bytes());
    header.extend(offset.to_le_bytes());
    Ok(())
}

fn pad(bytes: &mut Vec<u8>, alignment: u64) {
    let alignment = usize::try_from(alignment).unwrap_or(1);
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

/// llama.cpp's number for files that hold mostly one type: of the quantised types, if there are any, the one with most
/// bytes.
fn file_type(tensors: &[Exported<'_>]) -> Option<u64> {
    let bytes = |format: Format| {
        let of = tensors.iter().filter(|tensor| tensor.format == format && tensor.shape.len() > 1);
        of.fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes))
    };
    let present = Format::ALL.into_iter().filter(|&format| bytes(format) > 0);
    match present.max_by_key(|&format| (format.block_len() > 1, bytes(format)))? {
        Format::F32 => Some(0),
        Format::F16 => Some(1),
        Format::Q4_0 => Some(2),
        Format::Q8_0 => Some(7),
        Format::Q5_0 => Some(8),
        Format::Q4_K => Some(14),
        Format::Q5_K => Some(16),
        Format::Q6_K => Some(18),
        Format::BF16 => Some(32),
        Format::TQ1_0 => Some(36),
        Format::TQ2_0 => Some(37),
        _ => None,
    }
}
