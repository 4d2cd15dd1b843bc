//! The smallest networks of each format, for tests to break.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rin_testkit::gguf_writer::GgufWriter;
use rin_testkit::safetensors_writer::SafetensorsWriter;

pub(crate) const DIM: u64 = 8;
pub(crate) const Q: u64 = 8;
pub(crate) const KV: u64 = 4;
pub(crate) const FFN: u64 = 12;
pub(crate) const VOCAB: u64 = 10;

/// Tensors of a llama with one layer: GGUF name, Hugging Face name, row-major shape.
pub(crate) const TENSORS: [(&str, &str, &[u64]); 12] = [
    ("token_embd.weight", "model.embed_tokens.weight", &[VOCAB, DIM]),
    ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", &[DIM]),
    ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", &[Q, DIM]),
    ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", &[KV, DIM]),
    ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", &[KV, DIM]),
    ("blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", &[DIM, Q]),
    ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", &[DIM]),
    ("blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", &[FFN, DIM]),
    ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", &[FFN, DIM]),
    ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", &[DIM, FFN]),
    ("output_norm.weight", "model.norm.weight", &[DIM]),
    ("output.weight", "lm_head.weight", &[VOCAB, DIM]),
];

/// Bytes of F32 values that differ from tensor to tensor.
pub(crate) fn values(name: &str, shape: &[u64]) -> Vec<u8> {
    let seed = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let n: u64 = shape.iter().product();
    (0..n).flat_map(|i| (f32::from(u16::try_from(u64::from(seed % 97) + i).unwrap()) / 64.0).to_le_bytes()).collect()
}

pub(crate) fn ne(shape: &[u64]) -> Vec<u64> {
    shape.iter().rev().copied().collect()
}

/// Keys of the network and of its vocabulary.
pub(crate) fn gguf_keys() -> GgufWriter {
    let tokens: Vec<String> = (0..VOCAB).map(|i| format!("t{i}")).collect();
    GgufWriter::new(3)
        .kv_str("general.architecture", "llama")
        .kv_str("general.name", "tiny")
        .kv_u32("llama.block_count", 1)
        .kv_u32("llama.context_length", 64)
        .kv_u32("llama.embedding_length", 8)
        .kv_u32("llama.feed_forward_length", 12)
        .kv_u32("llama.attention.head_count", 2)
        .kv_u32("llama.attention.head_count_kv", 1)
        .kv_f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .kv_f32("llama.rope.freq_base", 10_000.0)
        .kv_u32("llama.rope.dimension_count", 4)
        .kv_u32("llama.vocab_size", 10)
        .kv_str("tokenizer.ggml.model", "llama")
        .kv_strs("tokenizer.ggml.tokens", &tokens)
        .kv_f32s("tokenizer.ggml.scores", &[0.0; 10])
        .kv_i32s("tokenizer.ggml.token_type", &[1; 10])
        .kv_u32("tokenizer.ggml.bos_token_id", 1)
        .kv_u32("tokenizer.ggml.eos_token_id", 2)
}

/// A whole llama in F32.
pub(crate) fn gguf() -> GgufWriter {
    TENSORS.iter().fold(gguf_keys(), |file, (name, _, shape)| file.tensor(name, &ne(shape), 0, values(name, shape)))
}

/// `config.json` of the same network.
pub(crate) const CONFIG_JSON: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8,
  "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 10,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": null,
  "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": [2, 3]
}"#;

/// The weights of the network as a Hugging Face file.
pub(crate) fn safetensors() -> SafetensorsWriter {
    TENSORS.iter().fold(SafetensorsWriter::new().metadata("format", "pt"), |file, (name, hf, shape)| {
        file.tensor(hf, "F32", shape, &values(name, shape))
    })
}

/// A folder that is removed when the test ends.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rin-model-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
