//! A Hugging Face folder: `config.json`, weights in one safetensors file or in several with an index, `tokenizer.json`.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::config::Config;
use crate::error::{Error, fault};
use crate::family;
use crate::json::{self, Entries};
use crate::mmap::FileBytes;
use crate::safetensors::Safetensors;
use crate::tensor::{RowOrder, TensorInfo, TensorTable};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest index, in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// What a folder holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) files: Vec<FileBytes>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) tensors: TensorTable,
    pub(crate) config: Result<Config, Error>,
    pub(crate) tokenizer: Option<FileBytes>,
    pub(crate) tokenizer_config: Option<FileBytes>,
}

#[derive(Deserialize)]
struct IndexJson {
    weight_map: Entries<String>,
}

/// Opens a folder.
pub(crate) fn load(folder: &Path) -> Result<Loaded, Error> {
    let weights = folder.join(WEIGHTS);
    if weights.is_file() {
        let file = FileBytes::map(&weights)?;
        let header = Safetensors::parse(file.bytes()).map_err(|error| error.in_file(&weights))?;
        return load_single(file, header);
    }
    let Some(index) = optional(folder, INDEX)? else {
        let expected = format!("{WEIGHTS} or {INDEX} in the folder");
        return Err(Error::NotAModel(fault("folder", "", expected, "neither")).in_file(folder));
    };
    let here = |error: Error| error.in_file(index.path());
    if index.length() > MAX_INDEX {
        let expected = format!("at most {MAX_INDEX} bytes of JSON");
        return Err(here(Error::BudgetExceeded(fault("index", "", expected, index.length()))));
    }
    let map: IndexJson = json::parse(index.bytes(), "index").map_err(here)?;
    let map = map.weight_map.unique("index").map_err(here)?;
    let (files, metadata, tensors) = load_shards(folder, &map).map_err(here)?;
    finish(Some(folder), files, metadata, tensors)
}

/// Takes one safetensors file with what lies beside it.
pub(crate) fn load_single(file: FileBytes, header: Safetensors) -> Result<Loaded, Error> {
    let folder = file.is_mapped().then(|| file.path().parent().unwrap_or(Path::new("")).to_path_buf());
    let (metadata, tensors) = header.into_parts();
    finish(folder.as_deref(), vec![file], metadata, tensors)
}

type Shards = (Vec<FileBytes>, Vec<(String, String)>, Vec<TensorInfo>);

/// Maps each file of the index once and takes from it the tensors that the index places there.
fn load_shards(folder: &Path, map: &[(String, String)]) -> Result<Shards, Error> {
    let mut names: Vec<&str> = map.iter().map(|(_, file)| file.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let place: HashMap<&str, &str> = map.iter().map(|(tensor, file)| (tensor.as_str(), file.as_str())).collect();
    let (mut files, mut metadata, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(plain_path(name)?);
        let file = FileBytes::map(&path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::BadShard(fault("index", name, "all files that the index names", "no such file"))
            }
            other => other,
        })?;
        let header = Safetensors::parse(file.bytes()).map_err(|error| error.in_file(&path))?;
        let (strings, listed) = header.into_parts();
        let shard = files.len();
        tensors.extend(listed.into_iter().filter(|tensor| place.get(tensor.source_name.as_str()) == Some(&name)).map(
            |mut tensor| {
                tensor.shard = shard;
                tensor
            },
        ));
        if metadata.is_empty() {
            metadata = strings;
        }
        files.push(file);
    }
    if tensors.len() != map.len() {
        let found: std::collections::HashSet<&str> = tensors.iter().map(|tensor| tensor.source_name.as_str()).collect();
        let (tensor, file) = map.iter().find(|entry| !found.contains(entry.0.as_str())).cloned().unwrap_or_default();
        let expected = format!("the tensor in `{}`", crate::error::shorten(&file));
        return Err(Error::BadShard(fault("index", tensor, expected, "no such tensor there")));
    }
    Ok((files, metadata, tensors))
}

/// A path that stays below its folder.
fn plain_path(name: &str) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if plain && !name.is_empty() && !name.contains(['\\', '\0', ':']) {
        return Ok(path.to_path_buf());
    }
    Err(Error::PathEscape(fault("index", name, "the name of a file in the same folder", "another path")))
}

/// Renames tensors to their canonical names and reads the configuration; what is wrong with that stays in `config`.
///
/// Bytes in memory have no folder, and so no configuration.
fn finish(
    folder: Option<&Path>,
    files: Vec<FileBytes>,
    metadata: Vec<(String, String)>,
    mut tensors: Vec<TensorInfo>,
) -> Result<Loaded, Error> {
    for tensor in &mut tensors {
        if let Some(name) = family::canonical_name(&tensor.source_name) {
            tensor.name = name;
        }
    }
    let place = folder.or(files.first().map(FileBytes::path)).unwrap_or(Path::new("")).to_path_buf();
    let mut tensors = TensorTable::new(tensors).map_err(|error| error.in_file(&place))?;
    let Some(folder) = folder else {
        let config = Err(no_config().in_file(&place));
        return Ok(Loaded { files, metadata, tensors, config, tokenizer: None, tokenizer_config: None });
    };
    let config = config(folder, &mut tensors);
    Ok(Loaded {
        files,
        metadata,
        tensors,
        config,
        tokenizer: optional(folder, "tokenizer.json")?,
        tokenizer_config: optional(folder, "tokenizer_config.json")?,
    })
}

fn no_config() -> Error {
    Error::MissingFile(fault("folder", "config.json", "config.json beside the weights", "no such file"))
}

fn config(folder: &Path, tensors: &mut TensorTable) -> Result<Config, Error> {
    let Some(file) = optional(folder, "config.json")? else {
        return Err(no_config().in_file(folder));
    };
    let generation = optional(folder, "generation_config.json")?;
    let mut config = Config::from_hf(file.bytes(), generation.as_ref().map(FileBytes::bytes))
        .map_err(|error| error.in_file(file.path()))?;
    if config.name.is_none() {
        config.name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    for tensor in tensors.all_mut() {
        tensor.rows = family::hf_rows(&config, &tensor.name);
        if tensor.rows == RowOrder::Transposed {
            tensor.shape.reverse();
        }
    }
    family::check_tensors(&config, tensors).map_err(|error| error.in_file(folder))?;
    Ok(config)
}

/// Maps a file of the folder, if it is there.
fn optional(folder: &Path, name: &str) -> Result<Option<FileBytes>, Error> {
    match FileBytes::map(&folder.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
