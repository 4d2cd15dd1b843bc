//! What comes out is what went in.

use crate::models::{Folder, convert, header, logits, metadata, models, stories};
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_kernels::Format;
use rin_model::{FileFormat, ModelFile};
use rin_testkit::data::{conformance, shared};
use std::path::Path;

#[test]
fn every_model_runs_as_its_source_does_bit_for_bit() {
    let folder = Folder::new();
    for (i, src) in models().iter().enumerate() {
        let dst = folder.join(&format!("{i}.rin"));
        let report = convert(src, &dst, None).unwrap_or_else(|error| panic!("{}: {error}", src.display()));
        let (from, to) = (ModelFile::open(src).unwrap(), ModelFile::open(&dst).unwrap());
        assert_eq!(to.format(), FileFormat::Rin);
        to.verify_sha256().unwrap();
        assert_eq!(to.config().unwrap(), from.config().unwrap(), "{}", src.display());
        assert_eq!(report.bytes, std::fs::metadata(&dst).unwrap().len());
        assert_eq!(report.n_quantized, 0);
        assert!(logits(src) == logits(&dst), "{}: the logits differ", src.display());
        assert_eq!(from.tokenizer().is_ok(), to.tokenizer().is_ok(), "{}", src.display());
        if let (Ok(from), Ok(to)) = (from.tokenizer(), to.tokenizer()) {
            // The descriptions are the same to the last byte of each token.
            assert!(format!("{from:?}") == format!("{to:?}"), "{}: the tokenizers differ", src.display());
            let ids = |source| {
                Tokenizer::from_source(source).unwrap().encode(" Once upon\n\na tïme", EncodeOptions::default())
            };
            assert_eq!(ids(&from).unwrap(), ids(&to).unwrap());
        }
    }
}

#[test]
fn a_folder_and_a_gguf_file_of_the_same_weights_become_the_same_network() {
    let folder = Folder::new();
    for (name, gguf) in [
        ("tiny-llama", "tiny-llama-f16.gguf"),
        ("tiny-llama-tied", "tiny-llama-tied-f32.gguf"),
        ("tiny-llama3", "tiny-llama3-bf16.gguf"),
        ("tiny-qwen2", "tiny-qwen2-bf16.gguf"),
        ("tiny-qwen2-yarn", "tiny-qwen2-yarn-f16.gguf"),
        ("tiny-gpt2", "tiny-gpt2-f32.gguf"),
    ] {
        let src = conformance("models").join(name);
        for quant in [None, Some(Format::Q8_0)] {
            let of = |src: &Path, dst: &str| {
                let dst = folder.join(&format!("{name}-{quant:?}-{dst}"));
                convert(src, &dst, quant).unwrap();
                dst
            };
            let (a, b) = (of(&src, "hf.rin"), of(&src.join(gguf), "gguf.rin"));
            assert!(logits(&a) == logits(&b), "{name} with {quant:?}");
        }
    }
}

#[test]
fn the_vocabulary_of_a_gguf_file_keeps_its_keys_and_their_order() {
    let Some(src) = shared(&stories("")) else { return };
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&src, &dst, None).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (header, data) = header(&bytes);
    let begin = data + usize::try_from(header["tokenizer"]["data_offsets"][0].as_u64().unwrap()).unwrap();
    let length = metadata(&header, "rin.tensors")["tokenizer"]["shape"][0].as_u64().unwrap();
    let vocabulary = &bytes[begin..begin + usize::try_from(length).unwrap()];
    let gguf = rin_model::gguf::Gguf::parse(vocabulary).unwrap();
    assert!(gguf.version() == 3 && gguf.tensors().is_empty());
    let keys: Vec<_> = gguf.metadata().iter().collect();
    let source = ModelFile::open(&src).unwrap();
    let wanted = |key: &str| key.starts_with("tokenizer.") || key == "general.architecture";
    let want: Vec<_> = source.metadata().filter(|(key, _)| wanted(key)).collect();
    assert!(want.len() > 3);
    assert!(keys == want, "the keys or their values differ");
}
