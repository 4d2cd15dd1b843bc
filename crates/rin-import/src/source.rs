//! The files that a model consists of, and what the result records of them.

use crate::{Error, Meter};
use rin_model::rin_format::{Provenance, hex};
use rin_model::{FileFormat, ModelFile};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files of a Hugging Face folder that the reader takes beside the weights.
const BESIDE: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Bytes that are hashed at a time.
const CHUNK: usize = 1 << 20;

/// The provenance, with the files that went in.
#[derive(Debug, Serialize)]
pub(crate) struct Origin {
    #[serde(flatten)]
    pub(crate) provenance: Provenance,
    pub(crate) files: Vec<SourceFile>,
}

/// One file of the source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceFile {
    name: String,
    bytes: u64,
    sha256: String,
}

/// The name of a file or folder, without the folder that it is in.
pub(crate) fn name(path: &Path) -> String {
    let full = || path.canonicalize().ok()?.file_name().map(|name| name.to_string_lossy().into_owned());
    path.file_name().map(|name| name.to_string_lossy().into_owned()).or_else(full).unwrap_or_default()
}

/// All files that were read for a model, weights first.
pub(crate) fn files(file: &ModelFile) -> Result<Vec<PathBuf>, Error> {
    match file.format() {
        FileFormat::Gguf => Ok(gguf_parts(file)),
        _ if file.path().is_dir() => {
            let folder = file.path();
            let mut files = folder_weights(folder)?;
            files.extend(beside(folder));
            Ok(files)
        }
        _ => {
            let folder = file.path().parent().unwrap_or(Path::new(""));
            Ok([file.path().to_path_buf()].into_iter().chain(beside(folder)).collect())
        }
    }
}

fn beside(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    BESIDE.map(|name| folder.join(name)).into_iter().filter(|path| path.is_file())
}

/// A split model has names that end in `-00001-of-00003.gguf`; the reader has checked them.
fn gguf_parts(file: &ModelFile) -> Vec<PathBuf> {
    let first = file.path();
    let name = first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let last = file.tensors().iter().map(|tensor| tensor.shard).max().unwrap_or(0);
    let part = |shard: usize| match name.rsplit_once("-00001-of-") {
        Some((stem, count)) if last > 0 => {
            first.with_file_name(format!("{stem}-{:05}-of-{count}", shard.saturating_add(1)))
        }
        _ => first.to_path_buf(),
    };
    (0..=last).map(part).collect()
}

/// The one file of weights, or the index and the files that it names.
fn folder_weights(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    if folder.join(WEIGHTS).is_file() {
        return Ok(vec![folder.join(WEIGHTS)]);
    }
    let path = folder.join(INDEX);
    let text = std::fs::read(&path).map_err(|error| Error::reading(&path, error))?;
    let index: serde_json::Value = serde_json::from_slice(&text)?;
    let map = index.get("weight_map").and_then(serde_json::Value::as_object);
    let mut names: Vec<&str> = map.into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Ok([path.clone()].into_iter().chain(names.into_iter().map(|name| folder.join(name))).collect())
}

/// Length of a file in bytes.
pub(crate) fn length(path: &Path) -> Result<u64, Error> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(|error| Error::reading(path, error))
}

/// Reads a file once and notes its name, length and hash.
pub(crate) fn describe(path: &Path, meter: &mut Meter<'_>) -> Result<SourceFile, Error> {
    let refused = |error| Error::reading(path, error);
    let name = name(path);
    let mut file = File::open(path).map_err(refused)?;
    let (mut hash, mut bytes, mut chunk) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let n = file.read(&mut chunk).map_err(refused)?;
        let Some(read) = chunk.get(..n).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
        bytes = bytes.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
        meter.advance(&name, n)?;
    }
    Ok(SourceFile { name, bytes, sha256: hex(&hash.finalize()) })
}
