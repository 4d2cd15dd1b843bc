"""GGUF files of some of the tiny models, and two more llamas in the quantised types. Run make_tiny_models.py first.

    HF_HUB_OFFLINE=1 python conformance/scripts/make_gguf.py

Writes conformance/models/<name>/<name>-<type>.gguf for five of the Hugging Face folders (their logits.npy is the
reference), and conformance/models/{tiny-llama-b32, tiny-llama-k256}/: one GGUF per quantised type with
logits-<type>.npy, which transformers computes in float32 from the weights that gguf.quants.dequantize returns. Those
logits know nothing of quantised activations; logits-<type>-int8.npy holds some rows of a float64 forward pass of our
own (reference.py) whose products take activations in 8-bit blocks of the weight's block length, scale absmax / 127,
ties to even.
"""

import json
from importlib.metadata import version

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, LlamaConfig

import reference
import tiny_tokenizers
from make_tiny_models import MODELS, N_SHORT, draw_tokens, logits_of, randomise, versions

# (folder, type of the matrices, tokenizer); vectors are F32, as llama.cpp's converter writes them.
CONVERTED = [
    ("tiny-llama", Type.F16, "spm"),
    ("tiny-llama-tied", Type.F32, "spm"),
    ("tiny-llama3", Type.BF16, "llama-bpe"),
    ("tiny-qwen2", Type.BF16, "qwen2"),
    ("tiny-qwen2-yarn", Type.F16, "qwen2"),
]
BITS = {Type.F32: 32, Type.Q8_0: 8, Type.Q4_0: 4, Type.Q5_0: 5, Type.Q4_K: 4, Type.Q5_K: 5, Type.Q6_K: 6}
# name: (seed, types, dimensions). Every row of b32 is a multiple of 32 columns; every row of k256 is 256 columns but
# for the output projection of attention (32), which falls back to Q8_0.
QUANTISED = {
    "tiny-llama-b32": (
        4100, [Type.Q8_0, Type.Q4_0, Type.Q5_0],
        dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
    ),
    "tiny-llama-k256": (
        4200, [Type.Q4_K, Type.Q5_K, Type.Q6_K],
        dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1),
    ),
}  # fmt: skip
# The stored rows of the forward pass with quantised activations.
INT8_ROWS = [0, 1, 2, 7, 15, 20, 27, 31, 38, 39]
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q5_0": gguf.LlamaFileType.MOSTLY_Q5_0, "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": gguf.LlamaFileType.MOSTLY_Q5_K_S, "Q6_K": gguf.LlamaFileType.MOSTLY_Q6_K,
}  # fmt: skip


def interleave_rows(w, n_heads):
    """Rows of a q or k weight or bias from (first half, second half) order per head to adjacent rotary pairs."""
    per_head = w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:])
    return per_head.swapaxes(1, 2).reshape(w.shape)


def llama3_divisors(config):
    """The `rope_freqs.weight` tensor: 1 for short waves, `factor` for long ones, a blend between."""
    rope = config.rope_parameters
    head_dim = config.head_dim
    freq = 1.0 / (np.float32(rope["rope_theta"]) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim))
    ctx, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    out = []
    for wavelength in 2 * np.pi / freq:
        if wavelength < ctx / high:
            out.append(1.0)
        elif wavelength > ctx / low:
            out.append(rope["factor"])
        else:
            smooth = (ctx / wavelength - low) / (high - low)
            out.append(1.0 / ((1 - smooth) / rope["factor"] + smooth))
    assert len(set(out)) >= 3, "all three bands must occur"
    return np.array(out, dtype=np.float32)


def write_config(writer, config):
    """The architecture's keys."""
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def gguf_arrays(state, config):
    """Float32 arrays by GGUF name, q and k rows permuted where GGML rotates adjacent pairs (llama)."""
    out = {}
    for name, tensor in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        w = tensor.detach().float().numpy()
        if config.model_type == "llama" and ".q_proj." in name:
            w = interleave_rows(w, config.num_attention_heads)
        if config.model_type == "llama" and ".k_proj." in name:
            w = interleave_rows(w, config.num_key_value_heads)
        out[reference.gguf_name(name)] = np.ascontiguousarray(w)
    return out


def write(path, config, arrays, file_type, tokenizer):
    """A GGUF file; `arrays` maps names to (data, type)."""
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name(path.parent.name)
    write_config(writer, config)
    writer.add_file_type(FILE_TYPES[file_type.name])
    writer.add_quantization_version(2)
    tiny_tokenizers.write_gguf(writer, tokenizer)
    for name, (data, kind) in arrays.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(name, kind, tokenizer):
    """One Hugging Face folder as GGUF, every matrix in one float type without loss."""
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    arrays = {}
    if model.config.rope_parameters["rope_type"] == "llama3":
        arrays["rope_freqs.weight"] = (llama3_divisors(model.config), Type.F32)
    for tensor, w in gguf_arrays(model.state_dict(), model.config).items():
        stored = kind if w.ndim == 2 else Type.F32
        data = gguf.quants.quantize(w, stored)
        assert (gguf.quants.dequantize(data, stored) == w).all()
        arrays[tensor] = (data, stored)
    path = MODELS / name / f"{name}-{kind.name.lower()}.gguf"
    write(path, model.config, arrays, kind, tokenizer)
    check(path, MODELS / name / "logits.npy", json.loads((MODELS / name / "prompt.json").read_text()))


def f16_bytes(x):
    return x.astype("<f2").view(np.uint8)


def quantise_q4_q5_k(w, bits):
    """Q4_K or Q5_K blocks: per 32 columns a 6-bit scale and a 6-bit minimum over two f16 factors."""
    blocks = w.reshape(-1, 8, 32)
    n, top = len(blocks), 2**bits - 1
    low = np.minimum(blocks.min(-1), 0)
    step, minimum = (blocks.max(-1) - low) / top, -low
    d = (step.max(-1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    dmin = (minimum.max(-1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    sc = np.clip(np.rint(step / d), 1, 63).astype(np.uint8)
    m = np.clip(np.rint(minimum / dmin), 0, 63).astype(np.uint8)
    q = np.rint((blocks + (dmin * m)[..., None]) / (d * sc)[..., None])
    q = np.clip(q, 0, top).astype(np.uint8)
    scales = np.concatenate(
        [sc[:, :4] | (sc[:, 4:] >> 4) << 6, m[:, :4] | (m[:, 4:] >> 4) << 6, (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4],
        axis=1,
    )
    nibbles = ((q[:, 0::2] & 15) | (q[:, 1::2] & 15) << 4).reshape(n, 128)
    parts = [f16_bytes(d), f16_bytes(dmin), scales]
    if bits == 5:
        parts.append(((q >> 4) << np.arange(8, dtype=np.uint8)[None, :, None]).sum(1, dtype=np.uint8))
    return np.concatenate(parts + [nibbles], axis=1).reshape(w.shape[0], -1)


def quantise_q6_k(w):
    """Q6_K blocks: per 16 columns a signed 8-bit scale over one f16 factor."""
    blocks = w.reshape(-1, 16, 16)
    n = len(blocks)
    step = np.abs(blocks).max(-1) / 31
    d = (step.max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    sc = np.clip(np.rint(step / d), 1, 127).astype(np.int8)
    q = np.clip(np.rint(blocks / (d * sc)[..., None]), -32, 31).astype(np.int8)
    q = (q + 32).astype(np.uint8).reshape(n, 2, 4, 32)
    low = np.concatenate([(q[:, :, 0] & 15) | (q[:, :, 2] & 15) << 4, (q[:, :, 1] & 15) | (q[:, :, 3] & 15) << 4], -1)
    high = ((q >> 4) << np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]).sum(2, dtype=np.uint8)
    parts = [low.reshape(n, 128), high.reshape(n, 64), sc.view(np.uint8), f16_bytes(d)]
    return np.concatenate(parts, axis=1).reshape(w.shape[0], -1)


def quantise(w, kind):
    """Raw blocks and the type used; rows that K-blocks do not fit fall back to Q8_0."""
    if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        if w.shape[1] % 256:
            return quantise(w, Type.Q8_0)
        data = quantise_q6_k(w) if kind == Type.Q6_K else quantise_q4_q5_k(w, 4 if kind == Type.Q4_K else 5)
    else:
        data = gguf.quants.quantize(w, kind)
    return data, kind


def deinterleave_rows(w, n_heads):
    """The inverse of interleave_rows."""
    per_head = w.reshape(n_heads, w.shape[0] // n_heads // 2, 2, *w.shape[1:])
    return per_head.swapaxes(1, 2).reshape(w.shape)


def reference_logits(model, arrays, tokens):
    """transformers' logits with the dequantised weights in place of its own."""
    config, state = model.config, {}
    by_gguf_name = {reference.gguf_name(k): k for k in model.state_dict()}
    for name, (data, kind) in arrays.items():
        w = gguf.quants.dequantize(data, kind)
        if "attn_q." in name:
            w = deinterleave_rows(w, config.num_attention_heads)
        if "attn_k." in name:
            w = deinterleave_rows(w, config.num_key_value_heads)
        state[by_gguf_name[name]] = torch.from_numpy(np.ascontiguousarray(w))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return logits_of(model, tokens)


def make_quantised(name, seed, kinds, dims):
    """One GGUF and one set of logits per type, all from the same random weights."""
    folder = MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        vocab_size=tiny_tokenizers.VOCAB, head_dim=16, tie_word_embeddings=True, max_position_embeddings=512,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **dims,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, torch.Generator().manual_seed(seed))
    original = gguf_arrays(model.state_dict(), config)
    tokens = draw_tokens(seed + 1, N_SHORT, 285)
    types = {}
    for kind in kinds:
        arrays = {n: quantise(w, kind) if w.ndim == 2 else (w, Type.F32) for n, w in original.items()}
        for n, (data, used) in arrays.items():
            error = np.abs(gguf.quants.dequantize(data, used) - original[n]).max()
            assert error <= 1.05 * np.abs(original[n]).max() / 2 ** (BITS[used] - 1), (kind, n)
        path = folder / f"{name}-{kind.name.lower()}.gguf"
        write(path, config, arrays, kind, "llama-bpe")
        logits = reference_logits(model, arrays, tokens)
        np.save(folder / f"logits-{kind.name.lower()}.npy", logits)
        types[kind.name], rounded = describe_quantised(path, tokens, logits)
        np.save(folder / f"logits-{kind.name.lower()}-int8.npy", rounded[INT8_ROWS].astype(np.float32))
        print(path.name, {k: round(v, 6) for k, v in types[kind.name].items() if isinstance(v, float | int)})
    prompt = {"model": name, "tokens": tokens, "types": types, "versions": versions() | {"gguf": version("gguf")}}
    (folder / "prompt.json").write_text(json.dumps(prompt) + "\n")


def describe_quantised(path, tokens, logits):
    """Greedy ids, conditioning, and what activations in 8-bit blocks of the weight's block length change."""
    shape, weights, kinds = reference.read_gguf(path)
    own = reference.forward(shape, weights, tokens)
    assert np.abs(own - logits).max() < 1e-3
    block = lambda name: gguf.GGML_QUANT_SIZES[Type[kinds[name + ".weight"]]][0]
    rounded = reference.forward(shape, weights, tokens, block)
    top = np.sort(logits, axis=1)
    suffix = path.stem.rsplit("-", 1)[1]
    facts = {
        "file": path.name,
        "logits": f"logits-{suffix}.npy",
        "int8_logits": f"logits-{suffix}-int8.npy",
        "int8_rows": INT8_ROWS,
        "argmax": [int(a) for a in logits.argmax(1)],
        "logits_std": float(logits.std()),
        "min_top2_gap": float((top[:, -1] - top[:, -2]).min()),
        "max_abs_diff_numpy_f64": float(np.abs(own - logits).max()),
        "int8_activations_max_abs_diff": float(np.abs(rounded - own).max()),
        "int8_activations_rms_diff": float(np.sqrt(((rounded - own) ** 2).mean())),
        "int8_activations_same_argmax": int((rounded.argmax(1) == logits.argmax(1)).sum()),
    }
    return facts, rounded


def check(path, logits_path, prompt):
    """The file, read again and run by GGML's conventions in float64, against transformers' logits."""
    shape, weights, _ = reference.read_gguf(path)
    worst = np.abs(reference.forward(shape, weights, prompt["tokens"]) - np.load(logits_path)).max()
    if "long" in prompt:
        rows = reference.forward(shape, weights, prompt["long"]["tokens"])[prompt["long"]["rows"]]
        worst = max(worst, np.abs(rows - np.load(logits_path.with_name("logits-long.npy"))).max())
    assert worst < 2e-4, (path, worst)
    print(f"{path.name}: float64 forward differs from the logits by {worst:.2e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in CONVERTED:
        convert(*row)
    for name, row in QUANTISED.items():
        make_quantised(name, *row)
