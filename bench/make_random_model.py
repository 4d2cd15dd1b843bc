"""Writes a GGUF of a known model's shape with random weights, for speed measurements.

    python bench/make_random_model.py llama-1b Q8_0 llama-1b-q8_0.gguf

Speed does not depend on the values of weights; text from such a file is noise. Weights are normal with variance
1 / columns, so that every layer's values stay in a range in which the errors of an engine can be judged. One shape,
type and seed give one file. The vocabulary is made of bare numbers. Needs numpy and gguf (bench/requirements.txt).
"""

import sys
import zlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, quants

SHAPES = {
    # name: dim, layers, heads, kv heads, head_dim, ffn, vocab, rope base, epsilon, arch (output tied to embedding)
    "seed-4m": (256, 4, 4, 4, 64, 1024, 256, 1e4, 1e-5, "llama"),
    "stories-15m": (288, 6, 6, 6, 48, 768, 32000, 1e4, 1e-5, "llama"),
    "smol-135m": (576, 30, 9, 3, 64, 1536, 49152, 1e5, 1e-5, "llama"),
    "qwen-0.5b": (896, 24, 14, 2, 64, 4864, 151936, 1e6, 1e-6, "qwen2"),
    "llama-1b": (2048, 16, 32, 8, 64, 8192, 128256, 5e5, 1e-5, "llama"),
}
TYPES = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M", "TQ1_0", "TQ2_0")
# Values and bytes of a block.
BLOCK = {
    "F32": (1, 4), "BF16": (1, 2), "F16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q5_0": (32, 22),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
}  # fmt: skip
# What llama.cpp's quantiser takes where a row does not hold whole blocks.
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0"}
ROWS_AT_ONCE = 4096


def f16_bytes(value, shape):
    """One f16 value for each block, as bytes."""
    return np.full((*shape, 1), value, dtype=np.float16).view(np.uint8)


def packed_scales(rng, shape):
    """The 12 bytes of eight 6-bit scales and eight equal minima."""
    s = rng.integers(20, 64, (*shape, 8), dtype=np.uint8)
    low, high = s[..., :4], s[..., 4:]
    first = low | (high >> 4) << 6
    return np.concatenate([first, first, (high & 15) | (high & 15) << 4], axis=-1)


def k_blocks(kind, rng, rows, cols, std):
    """Random blocks of a K type with mean 0; gguf's Python code cannot quantise to these."""
    shape = (rows, cols // 256)
    some = lambda n: rng.integers(0, 256, (*shape, n), dtype=np.uint8)
    if kind == "Q6_K":
        scales = rng.integers(4, 17, (*shape, 16), dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), (*shape, 16))
        parts = [some(128), some(64), scales.view(np.uint8), f16_bytes(std / (10.7 * 18.5), shape)]
    else:
        # A value is d·scale·q − dmin·minimum; with minimum = scale its mean is 0 where dmin = d·mean(q).
        q_std, q_mean, high = (4.61, 7.5, []) if kind == "Q4_K" else (9.23, 15.5, [some(32)])
        d = np.float16(std / (43.4 * q_std))
        parts = [f16_bytes(d, shape), f16_bytes(d * q_mean, shape), packed_scales(rng, shape), *high, some(128)]
    return np.concatenate(parts, axis=-1)


def raw_rows(name, kind, rows, cols, seed):
    """The bytes of a matrix, [rows, bytes of a row]."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    length, size = BLOCK[kind]
    out = np.empty((rows, cols // length * size), dtype=np.uint8)
    std = 1 / np.sqrt(cols)
    for i in range(0, rows, ROWS_AT_ONCE):
        n = min(ROWS_AT_ONCE, rows - i)
        if kind.endswith("_K"):
            data = k_blocks(kind, rng, n, cols, std)
        else:
            values = rng.standard_normal((n, cols), dtype=np.float32) * np.float32(std)
            data = np.ascontiguousarray(quants.quantize(values, T[kind])).view(np.uint8)
        out[i : i + n] = data.reshape(n, -1)
    return out


def matrices(shape, kind):
    """(name, type, rows, columns) of every matrix of a shape, in the file's order."""
    dim, layers, heads, kv, hd, ffn, vocab, _, _, _ = SHAPES[shape]
    # A Q4_K_M file holds its embedding and some value and down matrices in more bits.
    base, more = ("Q4_K", "Q6_K") if kind == "Q4_K_M" else (kind, kind)
    # Nor is a ternary file's embedding ternary.
    embedding = "Q4_K" if kind.startswith("TQ") else more
    fit = lambda t, cols: t if cols % BLOCK[t][0] == 0 else FALLBACK.get(t, "F16")
    yield "token_embd", fit(embedding, dim), vocab, dim
    for i in range(layers):
        better = more if i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2 else base
        for name, rows, cols, t in [
            ("attn_q", heads * hd, dim, base), ("attn_k", kv * hd, dim, base), ("attn_v", kv * hd, dim, better),
            ("attn_output", dim, heads * hd, base), ("ffn_gate", ffn, dim, base), ("ffn_up", ffn, dim, base),
            ("ffn_down", dim, ffn, better),
        ]:  # fmt: skip
            yield f"blk.{i}.{name}", fit(t, cols), rows, cols


def vectors(shape, seed):
    """(name, values) of norms and, for qwen2, biases."""
    dim, layers, heads, kv, hd, _, _, _, _, arch = SHAPES[shape]
    names = [("output_norm.weight", dim)]
    for i in range(layers):
        names += [(f"blk.{i}.attn_norm.weight", dim), (f"blk.{i}.ffn_norm.weight", dim)]
        if arch == "qwen2":
            names += [(f"blk.{i}.attn_{m}.bias", n * hd) for m, n in (("q", heads), ("k", kv), ("v", kv))]
    for name, n in names:
        noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(n, dtype=np.float32) * 0.1
        yield name, noise + np.float32(not name.endswith("bias"))


def write(shape, kind, path, seed=1):
    """Writes the file; one matrix is in memory at a time."""
    dim, layers, heads, kv, hd, ffn, vocab, base, eps, arch = SHAPES[shape]
    w = GGUFWriter(path, arch)
    w.add_context_length(8192)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(eps)
    w.add_rope_freq_base(base)
    w.add_rope_dimension_count(hd)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("llama")
    words = [f"<0x{i:02X}>" for i in range(256)] + [f"\u2581t{i}" for i in range(vocab - 259)]
    w.add_token_list(["<unk>", "<s>", "</s>"] + words)
    w.add_token_scores([0.0] * 259 + [-float(i) for i in range(vocab - 259)])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    small = list(vectors(shape, seed))
    large = list(matrices(shape, kind))
    for name, values in small:
        w.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, t, rows, cols in large:
        length, size = BLOCK[t]
        width = cols // length * size
        w.add_tensor_info(f"{name}.weight", (rows, width), np.dtype(np.uint8), rows * width, raw_dtype=T[t])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for _, values in small:
        w.write_tensor_data(values)
    for name, t, rows, cols in large:
        w.write_tensor_data(raw_rows(name, t, rows, cols, seed))
    w.close()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in TYPES:
        sys.exit(f"usage: make_random_model.py {'|'.join(SHAPES)} {'|'.join(TYPES)} FILE.gguf")
    write(*sys.argv[1:])
