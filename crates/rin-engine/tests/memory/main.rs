//! Networks with memories of a fixed size: against others' results, over all axes, through saved states, and for long.
#![expect(clippy::unwrap_used, reason = "a test")]

mod conform;
mod refuse;
mod rwkv_cpp;
mod state;

use rin_engine::{Engine, LoadOptions};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};

/// The networks of RIN's own, one per kind of memory and arm.
const KINDS: [&str; 15] = [
    "linear",
    "retnet",
    "gla",
    "delta",
    "gated-delta",
    "mamba2",
    "gsa",
    "rwkv7",
    "bhrr",
    "bhrr-query-norm",
    "bhrr-lsh",
    "bhrr-router-top",
    "bhrr-decay-delta",
    "bhrr-outer",
    "hybrid",
];

/// Networks as others store them.
const OTHERS: [&str; 9] = [
    "tiny-mamba2",
    "tiny-mamba2/tiny-mamba2-f32.gguf",
    "tiny-qwen3-next",
    "tiny-qwen3-next/tiny-qwen3-next-f32.gguf",
    "tiny-qwen3-next/tiny-qwen3-next-fused-f32.gguf",
    "tiny-qwen3.5",
    "tiny-qwen3.5/tiny-qwen3.5-f32.gguf",
    "tiny-rwkv7",
    "tiny-rwkv7/tiny-rwkv7-f32.gguf",
];

fn kind(name: &str) -> PathBuf {
    conformance(&format!("memory/{name}.rin"))
}

fn other(name: &str) -> PathBuf {
    conformance(&format!("recurrent/{name}"))
}

fn all() -> Vec<PathBuf> {
    KINDS.iter().map(|name| kind(name)).chain(OTHERS.iter().map(|name| other(name))).collect()
}

fn ids(path: &Path) -> Vec<u32> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn engine(path: &Path, change: impl FnOnce(&mut LoadOptions)) -> Engine {
    let mut options = LoadOptions {
        threads: Some(2),
        ctx: Some(256),
        n_logits: 64,
        kv_type: Some(KvType::F32),
        ..LoadOptions::default()
    };
    change(&mut options);
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Engine::load(file, &options, |_| {}).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}
