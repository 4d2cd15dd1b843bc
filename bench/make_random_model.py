"""Writes a GGUF of a known model's shape with random weights, for speed measurements.

    python bench/make_random_model.py llama-1b Q8_0 llama-1b-q8_0.gguf [tokenizer.gguf]

Speed does not depend on the values of weights; text from such a file is noise. The tokenizer is copied from the
GGUF named last, or made of bare numbers. Needs numpy and gguf (bench/requirements.txt).
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter

SHAPES = {
    # name: dim, layers, heads, kv heads, head_dim, ffn, vocab, tied, arch
    "smol-135m": (576, 30, 9, 3, 64, 1536, 49152, True, "llama"),
    "qwen-0.5b": (896, 24, 14, 2, 64, 4864, 151936, True, "qwen2"),
    "llama-1b": (2048, 16, 32, 8, 64, 8192, 128256, True, "llama"),
    "stories-15m": (288, 6, 6, 6, 48, 768, 32000, True, "llama"),
}
BLOCK = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q5_0": (32, 22), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
rng = np.random.default_rng(1)


def blocks(kind, rows, cols):
    """Random blocks with small scales."""
    length, size = BLOCK[kind]
    data = rng.integers(0, 256, (rows, cols // length, size), dtype=np.uint8)
    scale = np.full((rows, cols // length), 0.0004, dtype=np.float16).view(np.uint8).reshape(rows, cols // length, 2)
    at = 208 if kind == "Q6_K" else 0
    data[:, :, at : at + 2] = scale
    if kind in ("Q4_K", "Q5_K"):
        data[:, :, 2:4] = scale
    return data.reshape(rows, -1)


def add(writer, name, kind, rows, cols):
    """One matrix; rows that do not hold whole blocks fall back as llama.cpp's quantiser does."""
    if kind in BLOCK and cols % BLOCK[kind][0]:
        kind = {"Q4_K": "Q5_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0"}.get(kind, "F16")
    if kind in BLOCK:
        writer.add_tensor(name, blocks(kind, rows, cols), raw_dtype=T[kind])
        return
    values = rng.standard_normal((rows, cols), dtype=np.float32) * 0.02
    if kind == "BF16":
        writer.add_tensor(name, (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), raw_dtype=T.BF16)
    else:
        writer.add_tensor(name, values.astype(np.float16 if kind == "F16" else np.float32))


def main():
    shape, kind, path = sys.argv[1:4]
    dim, layers, heads, kv, hd, ffn, vocab, tied, arch = SHAPES[shape]
    # A Q4_K_M file holds its value, down and output matrices in more bits.
    mixed = kind == "Q4_K_M"
    base = "Q4_K" if mixed else kind
    w = GGUFWriter(path, arch)
    w.add_context_length(8192)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(hd)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + [f"\u2581t{i}" for i in range(vocab - 259)])
    w.add_token_scores([0.0] * 259 + [-float(i) for i in range(vocab - 259)])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    ones = lambda n: np.ones(n, dtype=np.float32)
    add(w, "token_embd.weight", "Q6_K" if mixed else base, vocab, dim)
    w.add_tensor("output_norm.weight", ones(dim))
    for i in range(layers):
        more = "Q6_K" if mixed and (i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2) else base
        w.add_tensor(f"blk.{i}.attn_norm.weight", ones(dim))
        w.add_tensor(f"blk.{i}.ffn_norm.weight", ones(dim))
        for name, rows, cols, t in [
            ("attn_q", heads * hd, dim, base), ("attn_k", kv * hd, dim, base), ("attn_v", kv * hd, dim, more),
            ("attn_output", dim, heads * hd, base), ("ffn_gate", ffn, dim, base), ("ffn_up", ffn, dim, base),
            ("ffn_down", dim, ffn, more),
        ]:
            add(w, f"blk.{i}.{name}.weight", t, rows, cols)
            if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                w.add_tensor(f"blk.{i}.{name}.bias", np.zeros(rows, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
