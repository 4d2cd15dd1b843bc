//! Test support: counting allocator, bit comparison, tiny models.

pub mod data;
pub mod gguf_writer;
pub mod npy;
pub mod onnx_writer;
pub mod safetensors_writer;
pub mod vocabulary;
