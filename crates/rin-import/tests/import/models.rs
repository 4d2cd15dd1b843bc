//! What is imported, where to, and how it runs.

use rin_engine::{Engine, LoadOptions};
use rin_import::{Error, ImportOptions, Report, import};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::{conformance, shared};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of its own for each test, gone afterwards.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rin-import-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

pub(crate) fn convert(src: &Path, dst: &Path, quant: Option<Format>) -> Result<Report, Error> {
    import(src, dst, &ImportOptions { quant, ..ImportOptions::default() }, &mut |_| {})
}

/// Every model of `conformance/models`, as a folder and as GGUF files, and the trained one.
pub(crate) fn models() -> Vec<PathBuf> {
    let mut models = Vec::new();
    for folder in std::fs::read_dir(conformance("models")).unwrap() {
        let folder = folder.unwrap().path();
        if folder.join("model.safetensors").exists() {
            models.push(folder.clone());
        }
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        models.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")));
    }
    assert!(models.len() >= 19, "only {} models", models.len());
    models.extend(["", "-Q8_0", "-Q4_0"].iter().filter_map(|name| shared(&stories(name))));
    models
}

pub(crate) fn stories(name: &str) -> String {
    format!("models/stories260k/stories260K{name}.gguf")
}

pub(crate) fn tiny_llama() -> PathBuf {
    conformance("models/tiny-llama")
}

pub(crate) fn logits(path: &Path) -> Vec<u32> {
    let file = ModelFile::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kv_type = Some(KvType::F32);
    let options = LoadOptions { threads: Some(1), ctx: Some(64), n_logits: 24, kv_type, ..LoadOptions::default() };
    let mut engine = Engine::load(file, &options, |_| {}).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sequence = engine.sequence().unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 11 % 280).collect();
    let mut bits = Vec::new();
    engine.feed_all(&sequence, &tokens, |row| bits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
    bits
}

/// The header of a safetensors file, and where its data begins.
pub(crate) fn header(bytes: &[u8]) -> (Value, usize) {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), 8 + length)
}

pub(crate) fn metadata(header: &Value, key: &str) -> Value {
    serde_json::from_str(header["__metadata__"][key].as_str().unwrap()).unwrap()
}
