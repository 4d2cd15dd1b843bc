//! Models in several files become one.

use crate::models::{Folder, convert, header, logits, metadata, tiny_llama};
use rin_model::{FileFormat, ModelFile, TensorInfo, Value};
use rin_testkit::gguf_writer::GgufWriter;
use rin_testkit::safetensors_writer::SafetensorsWriter;
use std::path::Path;

/// Imports `src`, compares it with the whole model, and gives the names of the files that went in.
fn names_of_sources(folder: &Folder, src: &Path, whole: &Path) -> Vec<String> {
    let dst = folder.join("parts.rin");
    convert(src, &dst, None).unwrap();
    assert!(logits(&dst) == logits(whole), "{}", src.display());
    let (header, _) = header(&std::fs::read(&dst).unwrap());
    let provenance = metadata(&header, "rin.provenance");
    let files = provenance["files"].as_array().unwrap();
    files.iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn files_of_an_index() {
    let folder = Folder::new();
    let whole = ModelFile::open(&tiny_llama()).unwrap();
    assert_eq!(whole.format(), FileFormat::Safetensors);
    let shard = |tensor: &TensorInfo| if tensor.name.starts_with("blk.") { "b.safetensors" } else { "a.safetensors" };
    for name in ["a.safetensors", "b.safetensors"] {
        let tensors = whole.tensors().iter().filter(|tensor| shard(tensor) == name);
        let file = tensors.fold(SafetensorsWriter::new(), |file, tensor| {
            let dtype = tensor.dtype.safetensors_name().unwrap();
            file.tensor(&tensor.source_name, dtype, &tensor.shape, whole.bytes(tensor))
        });
        std::fs::write(folder.join(name), file.finish()).unwrap();
    }
    let map: serde_json::Map<_, _> =
        whole.tensors().iter().map(|tensor| (tensor.source_name.clone(), shard(tensor).into())).collect();
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(tiny_llama().join(name), folder.join(name)).unwrap();
    }
    assert_eq!(
        names_of_sources(&folder, &folder.0, &tiny_llama()),
        ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "config.json", "tokenizer.json"]
    );
}

fn with_keys_of(whole: &ModelFile) -> GgufWriter {
    whole.metadata().fold(GgufWriter::new(3), |file, (key, value)| match value {
        Value::Uint(n) => file.kv_u32(key, u32::try_from(n).unwrap()),
        Value::F32(x) => file.kv_f32(key, x),
        Value::Bool(b) => file.kv_bool(key, b),
        Value::Str(text) => file.kv_str(key, text),
        Value::Array(array) => match array.elem() {
            "string" => file.kv_strs(key, &array.strings(key).unwrap().collect::<Vec<_>>()),
            "f32" => file.kv_f32s(key, &array.f32s(key).unwrap().collect::<Vec<_>>()),
            _ => file.kv_i32s(key, &array.i32s(key).unwrap().collect::<Vec<_>>()),
        },
        other => panic!("`{key}` is {other}"),
    })
}

#[test]
fn parts_of_a_split_gguf() {
    let folder = Folder::new();
    let whole = tiny_llama().join("tiny-llama-f16.gguf");
    let model = ModelFile::open(&whole).unwrap();
    let n_tensors = i32::try_from(model.tensors().len()).unwrap();
    let names = [1, 2, 3].map(|part| format!("m-{part:05}-of-00003.gguf"));
    for (part, name) in (0..).zip(&names) {
        let keys = if part == 0 { with_keys_of(&model) } else { GgufWriter::new(3) };
        let keys = keys.kv_u32("split.no", part).kv_u32("split.count", 3).kv_i32("split.tensors.count", n_tensors);
        let tensors = model.tensors().iter().zip((0..3).cycle()).filter(|(_, holder)| *holder == part);
        let file = tensors.fold(keys, |file, (tensor, _)| {
            let ne: Vec<u64> = tensor.shape.iter().rev().copied().collect();
            file.tensor(&tensor.name, &ne, tensor.dtype.ggml_id().unwrap(), model.bytes(tensor).to_vec())
        });
        std::fs::write(folder.join(name), file.finish()).unwrap();
    }
    assert_eq!(names_of_sources(&folder, &folder.join(&names[1]), &whole), names);
}
