//! What a GGUF file says of its network.

use rin_model::{Arch, Config, Error, ModelFile, Pairing, RopeScaling};
use rin_testkit::gguf_writer::GgufWriter;

use crate::tiny::{DIM, KV, Q, TENSORS, gguf, gguf_keys, ne, values};

fn config(file: &GgufWriter) -> Result<Config, Error> {
    ModelFile::from_bytes("tiny.gguf", file.finish())?.config().cloned()
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut bytes = gguf().finish();
    bytes[4] = 2;
    let file = ModelFile::from_bytes("tiny.gguf", bytes).unwrap();
    assert_eq!(*file.config().unwrap(), config(&gguf()).unwrap());
}

#[test]
fn alignment_moves_the_data() {
    for alignment in [8, 64, 4096] {
        let file = TENSORS.iter().fold(gguf_keys().alignment(alignment), |file, (name, _, shape)| {
            file.tensor(name, &ne(shape), 0, values(name, shape))
        });
        let file = ModelFile::from_bytes("tiny.gguf", file.finish()).unwrap();
        for (name, _, shape) in TENSORS {
            let tensor = file.tensor(name).unwrap();
            assert!(tensor.offset.is_multiple_of(alignment.into()));
            assert_eq!(file.bytes(tensor), values(name, shape));
        }
    }
}

#[test]
fn presence_of_tensors_tells_ties_and_biases() {
    let plain = config(&gguf()).unwrap();
    assert!(!plain.tied_embeddings && !plain.qkv_bias && !plain.attn_output_bias && !plain.mlp_bias);
    assert!(config(&gguf().without_tensor("output.weight")).unwrap().tied_embeddings);
    let bias =
        |file: GgufWriter, name: &str, n: u64| file.tensor(&format!("blk.0.{name}.bias"), &[n], 0, values(name, &[n]));
    let q_alone = bias(gguf(), "attn_q", Q);
    assert_eq!(config(&q_alone).unwrap_err().kind(), "MissingTensor");
    let all = bias(bias(q_alone, "attn_k", KV), "attn_v", KV);
    assert!(config(&all).unwrap().qkv_bias);
    assert!(config(&bias(all.clone(), "attn_output", DIM)).unwrap().attn_output_bias);
    assert_eq!(config(&bias(all, "attn_output", DIM + 1)).unwrap_err().kind(), "BadShape");
}

#[test]
fn rope_scalings() {
    let scaling = |file: GgufWriter| config(&file).unwrap().rope.scaling;
    let kind = |kind: &str| gguf().kv_str("llama.rope.scaling.type", kind);
    assert_eq!(scaling(kind("none")), RopeScaling::None);
    let factor = |file: GgufWriter| file.kv_f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(scaling(factor(kind("linear"))), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(gguf().kv_f32("llama.rope.scale_linear", 2.0)), RopeScaling::Linear { factor: 2.0 });
    let yarn = factor(kind("yarn")).kv_u32("llama.rope.scaling.original_context_length", 16);
    assert_eq!(
        scaling(yarn.kv_f32("llama.rope.scaling.attn_factor", 0.5)),
        RopeScaling::Yarn {
            factor: 4.0,
            original_ctx: 16,
            attention_factor: None,
            multiplier: 0.5,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            truncate: true
        }
    );
    let factors = |file: GgufWriter, n: u64| file.tensor("rope_freqs.weight", &[n], 0, values("rope_freqs", &[n]));
    assert_eq!(scaling(factors(gguf(), 2)), RopeScaling::Factors);
    assert_eq!(config(&factors(gguf(), 4)).unwrap_err().kind(), "BadShape");
    assert_eq!(config(&factors(factor(kind("linear")), 2)).unwrap_err().kind(), "Unsupported");
}

/// The keys of a qwen2 file begin with its name, and its heads rotate in halves.
#[test]
fn qwen2_is_another_family() {
    let keys = GgufWriter::new(3)
        .kv_str("general.architecture", "qwen2")
        .kv_u32("qwen2.block_count", 1)
        .kv_u64("qwen2.context_length", 64)
        .kv_u32("qwen2.embedding_length", 8)
        .kv_u32("qwen2.feed_forward_length", 12)
        .kv_u32("qwen2.attention.head_count", 2)
        .kv_u32("qwen2.attention.head_count_kv", 1)
        .kv_f32("qwen2.attention.layer_norm_rms_epsilon", 1e-6)
        .kv_f32("qwen2.rope.freq_base", 1e6);
    let file =
        TENSORS.iter().fold(keys, |file, (name, _, shape)| file.tensor(name, &ne(shape), 0, values(name, shape)));
    let config = config(&file).unwrap();
    assert_eq!((config.arch, config.rope.pairing, config.rope.dims), (Arch::Qwen2, Pairing::Half, 4));
    assert_eq!((config.vocab, config.n_kv_heads, config.name), (10, 1, None));
}

#[test]
fn a_description_survives_its_json() {
    for scaling in [
        RopeScaling::None,
        RopeScaling::Factors,
        RopeScaling::Llama3 { factor: 8.1, low_freq_factor: 1.0, high_freq_factor: 4.0, original_ctx: 8192 },
    ] {
        let mut before = config(&gguf()).unwrap();
        before.rope.scaling = scaling;
        before.norm_eps = f32::from_bits(0x3727_C5AD);
        let json = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), before, "{json}");
    }
}
