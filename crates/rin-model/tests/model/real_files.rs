//! Files that others made.

use rin_model::{Arch, DType, FileFormat, ModelFile, Pairing, RopeScaling, TokenizerSource, Value};
use rin_testkit::data::shared;

#[test]
fn stories260k() {
    let Some(folder) = shared("models/stories260k") else { return };
    for (name, dtype, q_offset) in [
        ("stories260K.gguf", DType::F32, None),
        ("stories260K-Q8_0.gguf", DType::Q8_0, None),
        // Offset as the gguf Python package reads it.
        ("stories260K-Q4_0.gguf", DType::Q4_0, Some(53_088)),
    ] {
        let path = folder.join(name);
        let file = ModelFile::open(&path).unwrap();
        let config = file.config().unwrap();
        assert_eq!(
            (config.n_layers, config.dim, config.n_heads, config.n_kv_heads, config.head_dim, config.ffn_dim),
            (5, 64, 8, 4, 8, 172)
        );
        assert_eq!((config.arch, config.vocab, config.ctx, config.tied_embeddings), (Arch::Llama, 512, 512, true));
        assert_eq!((config.rope.pairing, config.rope.dims), (Pairing::Interleaved, 8));
        assert_eq!(config.rope.scaling, RopeScaling::None);
        assert_eq!(config.norm_eps.to_bits(), 1e-5_f32.to_bits());
        assert_eq!((file.format(), file.tensors().len()), (FileFormat::Gguf, 47));
        assert_eq!(file.file_bytes(), std::fs::metadata(&path).unwrap().len());
        let q = file.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!((q.dtype, q.shape.as_slice()), (dtype, &[64, 64][..]));
        assert_eq!(file.bytes(q).len() as u64, dtype.row_bytes(64).unwrap() * 64);
        assert!(q_offset.is_none_or(|offset| offset == q.offset));
        assert_eq!(file.tensor("blk.4.ffn_down.weight").unwrap().shape, [64, 172]);
        let TokenizerSource::Gguf(vocab) = file.tokenizer().unwrap() else { panic!("a GGUF vocabulary") };
        assert_eq!((vocab.model, vocab.tokens.len(), vocab.scores.len()), ("llama", 512, 512));
        assert_eq!((vocab.bos, vocab.eos, vocab.unk, vocab.add_bos), (Some(1), Some(2), Some(0), Some(true)));
        assert_eq!((vocab.eog.as_slice(), vocab.add_space_prefix), (&[2][..], Some(true)));
        let name = file.metadata().find(|(key, _)| *key == "general.name").unwrap().1;
        assert_eq!(name, Value::Str("stories260K"));
    }
}

#[test]
fn vocabularies() {
    let Some(folder) = shared("tokenizers") else { return };
    for (name, model, pre, tokens, merges) in [
        ("ggml-vocab-llama-spm.gguf", "llama", Some("default"), 32_000, 0),
        ("ggml-vocab-gpt-2.gguf", "gpt2", Some("gpt-2"), 50_257, 50_000),
        ("ggml-vocab-bert-bge.gguf", "bert", Some("bert-bge"), 30_522, 0),
        ("vocab-bpe-llama3.gguf", "gpt2", Some("llama-bpe"), 287, 31),
        ("vocab-bpe-qwen2.gguf", "gpt2", Some("qwen2"), 287, 31),
    ] {
        let file = ModelFile::open(&folder.join(name)).unwrap();
        assert!(file.config().is_err(), "{name} holds no network");
        assert!(file.tensors().is_empty());
        let TokenizerSource::Gguf(vocab) = file.tokenizer().unwrap() else { panic!("a GGUF vocabulary") };
        assert_eq!((vocab.model, vocab.pre), (model, pre), "{name}");
        assert_eq!((vocab.tokens.len(), vocab.merges.len()), (tokens, merges), "{name}");
        assert_eq!(vocab.types.len(), tokens, "{name}");
    }
    let gpt2 = ModelFile::open(&folder.join("ggml-vocab-gpt-2.gguf")).unwrap();
    assert_eq!(gpt2.config().unwrap_err().kind(), "MissingTensor");
}

/// Numbers, block lengths and block bytes as the `gguf` Python package 0.19.0 has them (`GGML_QUANT_SIZES`).
#[test]
fn types_are_those_of_the_reference_package() {
    #[rustfmt::skip]
    let reference = [
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 40), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18),
    ];
    for (id, name, block_len, block_bytes) in reference {
        let dtype = DType::from_ggml(id).unwrap();
        assert_eq!(dtype.to_string(), name);
        assert_eq!(name.parse(), Ok(dtype));
        // The package counts Q8_1's two halves as floats; ggml's C struct, which wrote any file, holds two f16.
        let block_bytes = if name == "Q8_1" { 36 } else { block_bytes };
        assert_eq!((dtype.block_len(), dtype.block_bytes()), (block_len, block_bytes), "{name}");
    }
    assert_eq!(DType::ALL.iter().filter(|dtype| dtype.ggml_id().is_some()).count(), reference.len());
    assert_eq!(DType::Q4_0.row_bytes(33), None);
    assert_eq!(DType::F64.row_bytes(1 << 62), None);
}
