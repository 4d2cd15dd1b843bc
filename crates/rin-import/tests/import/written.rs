//! The file itself: header, provenance, hash.

use crate::models::{Folder, convert, header, metadata, tiny_llama};
use rin_kernels::Format;
use rin_model::ModelFile;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[test]
fn the_header_is_a_safetensors_header_without_holes() {
    let folder = Folder::new();
    let (src, dst) = (tiny_llama(), folder.join("a.rin"));
    let report = convert(&src, &dst, Some(Format::Q8_0)).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (header, data) = header(&bytes);
    assert!(data.is_multiple_of(64));
    assert_eq!(bytes[8], b'{');
    let strings = &header["__metadata__"];
    assert_eq!((&strings["rin.version"], &strings["rin.numerics"]), (&"2".into(), &"1".into()));
    let hash = rin_model::rin_format::hex(&Sha256::digest(&bytes[data..]));
    assert_eq!(strings["rin.sha256"], Value::from(hash.as_str()));
    assert_eq!(report.sha256, hash);
    let mut end = 0;
    let tensors: Vec<_> = header.as_object().unwrap().iter().filter(|entry| entry.0 != "__metadata__").collect();
    for (name, tensor) in &tensors {
        let offsets: [u64; 2] = serde_json::from_value(tensor["data_offsets"].clone()).unwrap();
        let shape: Vec<u64> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        assert_eq!((&tensor["dtype"], offsets[0]), (&"U8".into(), end), "{name}");
        assert_eq!(offsets[1] - offsets[0], shape.iter().product::<u64>(), "{name}");
        assert!(offsets[1].is_multiple_of(64), "{name}");
        end = offsets[1];
    }
    assert_eq!(end, (bytes.len() - data) as u64);
    assert_eq!(report.n_tensors, tensors.len());
    // 64 columns of Q8_0: two blocks of 512 bytes of codes and 32 of scales for 16 rows.
    let golden = r#"{"dtype":"Q8_0","shape":[288,64],"packed":true}"#;
    assert_eq!(metadata(&header, "rin.tensors")["token_embd.weight"].to_string(), golden);
    assert_eq!(header["token_embd.weight"]["shape"], serde_json::json!([18, 1088]));
    let golden = r#"{"dtype":"F32","shape":[64],"packed":false}"#;
    assert_eq!(metadata(&header, "rin.tensors")["output_norm.weight"].to_string(), golden);
    assert_eq!(header["output_norm.weight"]["shape"], serde_json::json!([256]));
    let json = std::fs::read(src.join("tokenizer.json")).unwrap();
    assert_eq!(metadata(&header, "rin.tensors")["tokenizer"]["shape"], serde_json::json!([json.len()]));
}

#[test]
fn the_provenance_names_each_file_with_its_hash() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&tiny_llama(), &dst, Some(Format::Q4_0)).unwrap();
    let (header, _) = header(&std::fs::read(&dst).unwrap());
    let provenance = metadata(&header, "rin.provenance");
    assert_eq!((&provenance["source"], &provenance["format"]), (&"tiny-llama".into(), &"safetensors".into()));
    assert_eq!((&provenance["quant"], &provenance["writer"]), (&"Q4_0".into(), &env!("CARGO_PKG_VERSION").into()));
    let files = provenance["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["model.safetensors", "config.json", "tokenizer.json"]);
    for file in files {
        let bytes = std::fs::read(tiny_llama().join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len());
        assert_eq!(file["sha256"], rin_model::rin_format::hex(&Sha256::digest(&bytes)));
    }
}

#[test]
fn a_flipped_byte_fails_the_hash() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&tiny_llama(), &dst, None).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (_, data) = header(&bytes);
    for at in [data, data + (bytes.len() - data) / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let file = ModelFile::from_bytes("a.rin", damaged).unwrap();
        assert_eq!(file.verify_sha256().unwrap_err().kind(), "BadChecksum", "byte {at}");
    }
}
