//! A Hugging Face folder: configuration, weights in one safetensors file, tokenizer.

use super::rows::{Exported, Types, tensors, too_large};
use super::staging::NewFolder;
use super::{ExportKind, ExportReport, Source, rope, vocab_from_gguf};
use crate::{Error, Meter};
use rin_engine::tokenizer::Vocab;
use rin_kernels::Format;
use rin_model::{Config, ModelFile, TokenizerSource};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Longest header that safetensors allows, in bytes.
const MAX_HEADER: usize = 100_000_000;
/// Alignment of the header, in bytes.
const ALIGNMENT: usize = 8;

/// The tokenizer's files.
struct TokenizerFiles {
    json: Vec<u8>,
    config: Option<Vec<u8>>,
}

/// Writes the folder.
pub(super) fn write(source: &Source<'_>, dst: &Path, meter: &mut Meter<'_>) -> Result<ExportReport, Error> {
    let mut config = rope::for_folder(source.file, source.file.config()?)?;
    add_special(&mut config, source);
    let numbers = source.options.dtype.unwrap_or(Format::F32);
    let tensors = tensors(source, &config, None, Types::Folder(numbers))?;
    let config_json =
        config.to_hf(dtype(&tensors)).map_err(|error| Error::inexpressible("a Hugging Face folder", error))?;
    let tokenizer = tokenizer(source, &config)?;
    let header = header(&tensors)?;
    meter.total = tensors.iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_bytes));
    let mut small = vec![("config.json", pretty(&config_json)?)];
    if let Some(generation) = generation(&config_json) {
        small.push(("generation_config.json", pretty(&generation)?));
    }
    if let Some(files) = tokenizer {
        small.push(("tokenizer.json", files.json));
        small.extend(files.config.map(|config| ("tokenizer_config.json", config)));
    }
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let beside = small.iter().map(|(_, bytes)| length(bytes)).fold(length(&header), u64::saturating_add);
    let bytes = meter.total.saturating_add(beside);
    let folder = NewFolder::beside(dst, bytes)?;
    let mut weights = folder.file("model.safetensors")?;
    weights.write(&header)?;
    for tensor in &tensors {
        tensor.write(meter, &mut |bytes| weights.write(bytes))?;
    }
    weights.finish()?;
    drop(weights);
    for (name, bytes) in &small {
        folder.put(name, bytes)?;
    }
    source.file.check_unchanged()?;
    meter.check()?;
    ModelFile::open(folder.path())?.config()?;
    folder.publish(source.options.overwrite)?;
    Ok(ExportReport {
        kind: ExportKind::Folder,
        bytes,
        n_tensors: tensors.len(),
        n_dequantized: tensors.iter().filter(|tensor| tensor.is_dequantized()).count(),
        tokenizer: source.tokenizer.is_some(),
        notes: Vec::new(),
    })
}

/// The special tokens of a GGUF vocabulary, which a folder names in its configuration.
fn add_special(config: &mut Config, source: &Source<'_>) {
    let Some(tokenizer) = source.tokenizer.as_ref().filter(|_| source.file.vocabulary_bytes().is_some()) else {
        return;
    };
    let special = tokenizer.special();
    if config.eos.is_empty() {
        let others = special.end.iter().copied().filter(|&id| Some(id) != special.eos);
        config.eos = special.eos.into_iter().chain(others).collect();
    }
    config.bos = config.bos.or(special.bos);
}

/// The type of all tensors as PyTorch calls it; where there are several, the one that holds all their numbers.
fn dtype(tensors: &[Exported<'_>]) -> &'static str {
    let all = |format: Format| tensors.iter().all(|tensor| tensor.format == format);
    if all(Format::F16) {
        "float16"
    } else if all(Format::BF16) {
        "bfloat16"
    } else {
        "float32"
    }
}

fn pretty(json: &Value) -> Result<Vec<u8>, Error> {
    let mut text = serde_json::to_vec_pretty(json)?;
    text.push(b'\n');
    Ok(text)
}

/// `generation_config.json`, where there is anything to say.
fn generation(config: &Value) -> Option<Value> {
    let ids = ["bos_token_id", "eos_token_id"].into_iter().filter_map(|key| {
        let id = config.get(key).filter(|id| !id.is_null())?;
        Some((key.to_owned(), id.clone()))
    });
    let ids: Map<String, Value> = ids.collect();
    (!ids.is_empty()).then_some(Value::Object(ids))
}

/// The header of the safetensors file.
fn header(tensors: &[Exported<'_>]) -> Result<Vec<u8>, Error> {
    let mut json = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut begin = 0_u64;
    for tensor in tensors {
        let end = begin.checked_add(tensor.n_bytes).filter(|&end| i64::try_from(end).is_ok());
        let end = end.ok_or_else(|| too_large(&tensor.name))?;
        let dtype = tensor.dtype()?.safetensors_name().ok_or_else(|| too_large(&tensor.name))?;
        let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
        json.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut text = serde_json::to_vec(&json)?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    if text.len() > MAX_HEADER {
        return Err(Error::HeaderTooLong(text.len()));
    }
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    Ok([&length.to_le_bytes(), text.as_slice()].concat())
}

/// The source's files, or a translation of its vocabulary.
fn tokenizer(source: &Source<'_>, config: &Config) -> Result<Option<TokenizerFiles>, Error> {
    let Some(tokenizer) = &source.tokenizer else { return Ok(None) };
    match source.file.tokenizer()? {
        TokenizerSource::HuggingFace(json, config) => {
            Ok(Some(TokenizerFiles { json: json.to_vec(), config: config.map(<[u8]>::to_vec) }))
        }
        from @ TokenizerSource::Gguf(_) => {
            let template = match &from {
                TokenizerSource::Gguf(vocab) => vocab.chat_template,
                TokenizerSource::HuggingFace(..) => None,
            };
            let vocab = Vocab::from_source(&from).map_err(|error| Error::Engine(error.into()))?;
            let (json, settings) = vocab_from_gguf::translate(&vocab, tokenizer, config.ctx, template)?;
            Ok(Some(TokenizerFiles { json: serde_json::to_vec_pretty(&json)?, config: Some(pretty(&settings)?) }))
        }
    }
}
