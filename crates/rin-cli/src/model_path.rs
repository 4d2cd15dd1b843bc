//! From MODEL on the command line to a path: a path as it is, or a name in the local Hugging Face cache.
//!
//! Cache layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. Nothing is fetched.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rin_engine::tokenizer::Tokenizer;
use rin_model::ModelFile;

use crate::args::ModelArgs;
use crate::exit::Usage;

/// Opens the model that the command line names, or the one inside the binary.
///
/// # Errors
/// [`Usage`] where none is named and none is inside; otherwise what [`ModelFile::open`] finds.
pub(crate) fn open(args: &ModelArgs) -> Result<ModelFile> {
    // What read the command line has run; it is no part of a model's memory.
    rin_model::release_code();
    let Some(model) = &args.model else {
        return Ok(embedded_source()?()?);
    };
    let path = resolve(model)?;
    if is_onnx(&path) {
        // As the file that `rin import` would write, in memory.
        return Ok(rin_import::open_onnx(&path, &rin_import::ImportOptions::default())?);
    }
    Ok(ModelFile::open(&path)?)
}

/// Whether a path is that of an ONNX file, by its name.
pub(crate) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) && path.is_file()
}

/// Opens a model.
type Source = fn() -> Result<ModelFile, rin_model::Error>;

/// The model inside the binary.
///
/// # Errors
/// [`Usage`] where there is none.
#[cfg(feature = "embedded")]
#[expect(clippy::unnecessary_wraps, reason = "other builds have none")]
pub(crate) fn embedded_source() -> Result<Source> {
    Ok(rin_embedded::model)
}

/// The model inside the binary, which this build has not.
///
/// # Errors
/// [`Usage`], always.
#[cfg(not(feature = "embedded"))]
pub(crate) fn embedded_source() -> Result<Source> {
    Err(Usage("no model is embedded in this build; give a path".to_owned()).into())
}

/// The tokenizer of a model, with all ids that end its texts.
///
/// # Errors
/// Where there is none, or it is damaged or of an unknown kind.
pub(crate) fn tokenizer(file: &ModelFile) -> Result<Tokenizer> {
    // What read the header has run.
    rin_model::release_code();
    Tokenizer::of_model(file).map_err(|error| match error {
        // It names the file itself.
        rin_engine::Error::Model(error) => error.into(),
        error => anyhow::Error::new(error).context(file.path().display().to_string()),
    })
}

/// The cache folder of the Hugging Face hub.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || {
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    folder("HF_HUB_CACHE").or_else(|| Some(folder("HF_HOME").or_else(home)?.join("hub")))
}

/// The path of a model: as it is given, or in the cache.
///
/// # Errors
/// Where a name is in the cache and cannot be told from others, or is nowhere.
pub(crate) fn resolve(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let Some((name, file)) = cache_name(model) else { return Ok(model.to_path_buf()) };
    let Some(cache) = cache_folder() else { return Ok(model.to_path_buf()) };
    let folder = cache.join(format!("models--{}", name.replace('/', "--")));
    if !folder.is_dir() {
        bail!(
            "there is no file or folder `{}`, and no model of this name in the cache: looked for {}; give a path, or \
             fetch the model into the cache first",
            model.display(),
            folder.display()
        );
    }
    let snapshot = snapshot(&folder)?;
    match file {
        Some(file) => Ok(snapshot.join(file)),
        None => model_in(&snapshot, &name),
    }
}

/// `org/name` and a file within, where the text could be a name: no path that leads elsewhere, no known extension.
fn cache_name(model: &Path) -> Option<(String, Option<PathBuf>)> {
    let mut parts = Vec::new();
    for component in model.components() {
        let Component::Normal(part) = component else { return None };
        parts.push(part.to_str()?);
    }
    let named = |part: &str| {
        let known = [".gguf", ".rin", ".safetensors", ".json"];
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        plain && !known.iter().any(|end| part.ends_with(end))
    };
    match parts.as_slice() {
        [name] if named(name) => Some(((*name).to_owned(), None)),
        [org, name, file @ ..] if named(org) && named(name) => {
            let file = if file.is_empty() { None } else { Some(file.iter().collect()) };
            Some((format!("{org}/{name}"), file))
        }
        _ => None,
    }
}

/// The folder of the revision that `main` names, or of the only one there is.
fn snapshot(folder: &Path) -> Result<PathBuf> {
    let snapshots = folder.join("snapshots");
    if let Ok(revision) = std::fs::read_to_string(folder.join("refs").join("main")) {
        let revision = revision.trim();
        let found = snapshots.join(revision);
        let plain = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_alphanumeric());
        if plain && found.is_dir() {
            return Ok(found);
        }
    }
    let entries = std::fs::read_dir(&snapshots).with_context(|| snapshots.display().to_string())?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match (folders.pop(), folders.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => bail!(
            "{} holds several revisions, and refs/main names none of them; give the path of one",
            snapshots.display()
        ),
        (None, _) => bail!("{} holds no revision: fetch the model again", snapshots.display()),
    }
}

/// The snapshot itself where it is a model folder, else the only model file in it.
fn model_in(snapshot: &Path, name: &str) -> Result<PathBuf> {
    if snapshot.join("config.json").exists() {
        return Ok(snapshot.to_path_buf());
    }
    let entries = std::fs::read_dir(snapshot).with_context(|| snapshot.display().to_string())?;
    let is_model = |path: &PathBuf| path.extension().is_some_and(|end| end == "gguf" || end == "rin");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_model).collect();
    files.sort();
    match files.as_slice() {
        [only] => Ok(only.clone()),
        [] => Ok(snapshot.to_path_buf()),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            Err(Usage(format!("{name} holds several models: give {name}/FILE, one of {}", names.join(", "))).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let name = |text: &str| cache_name(Path::new(text)).map(|(name, file)| (name, file.is_some()));
        assert_eq!(name("gpt2"), Some(("gpt2".to_owned(), false)));
        assert_eq!(name("org/some.name-1B"), Some(("org/some.name-1B".to_owned(), false)));
        assert_eq!(name("org/name/model.gguf"), Some(("org/name".to_owned(), true)));
        for path in ["/org/name", "./name", "../name", "org/../name", "model.gguf", "dir/model.rin", "a b", "org/ü"] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
