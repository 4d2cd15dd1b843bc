//! Model files as checked, borrowed data: GGUF, safetensors, .rin.
