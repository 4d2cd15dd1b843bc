"""Tiny random decoders in Hugging Face folders, with the logits that transformers computes for them.

    HF_HUB_OFFLINE=1 python conformance/scripts/make_tiny_models.py

Writes conformance/models/<name>/{config.json, model.safetensors, tokenizer.json, prompt.json, logits.npy} and for some
logits-long.npy. Weights are drawn, rounded to the type they are stored in, and the logits are computed in float32 from
those rounded values on the CPU with eager attention. prompt.json records how far they lie from float64.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

import reference
import tiny_tokenizers

MODELS = Path(__file__).resolve().parent.parent / "models"
N_SHORT, N_LONG = 40, 150
# The stored rows of the long case: both sides of a 32-position window and of the 64-position blocks, then the end.
LONG_ROWS = [0, 1, 31, 32, 33, 62, 63, 64, 65, 66, 95, 96, 97, 126, 127, 128, 129, 130, 148, 149]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

GQA = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=112)
# name: (config class, arguments, rope parameters, stored type, tokenizer, older config layout, long case)
TINY = {
    "tiny-llama": (LlamaConfig, GQA, {"rope_theta": 10000.0}, "F16", "spm", True, True),
    "tiny-llama-tied": (
        LlamaConfig,
        dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=3, intermediate_size=96,
             tie_word_embeddings=True, rms_norm_eps=1e-5),
        {"rope_theta": 10000.0}, "F32", "spm", False, False,
    ),
    "tiny-llama3": (
        LlamaConfig, GQA | dict(rms_norm_eps=1e-5, max_position_embeddings=512),
        {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        "BF16", "llama-bpe", True, True,
    ),
    "tiny-llama-linear": (
        LlamaConfig, GQA | dict(num_hidden_layers=1),
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}, "F16", "spm", True, True,
    ),
    "tiny-llama-bias": (
        LlamaConfig, GQA | dict(num_hidden_layers=1, attention_bias=True, mlp_bias=True),
        {"rope_theta": 10000.0}, "BF16", "spm", False, False,
    ),
    "tiny-mistral": (
        MistralConfig, GQA | dict(head_dim=24, sliding_window=32), {"rope_theta": 10000.0}, "BF16", "spm", False, True,
    ),
    "tiny-qwen2": (
        Qwen2Config, GQA | dict(tie_word_embeddings=True), {"rope_theta": 1000000.0}, "BF16", "qwen2", True, False,
    ),
    "tiny-qwen2-yarn": (
        Qwen2Config, GQA | dict(tie_word_embeddings=True, max_position_embeddings=256),
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64},
        "F16", "qwen2", False, True,
    ),
}  # fmt: skip


def randomise(model, generator):
    """Weights wide enough that logits spread over several units, norms around 1, biases around 0."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.25 * z)
            elif name.endswith("bias"):
                p.copy_(0.3 * z)
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(2.0 / p.shape[1] ** 0.5 * z)
            else:
                p.copy_(1.5 / p.shape[1] ** 0.5 * z)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def draw_tokens(seed, n, bos):
    return [bos] + [int(t) for t in np.random.default_rng(seed).integers(3, tiny_tokenizers.VOCAB, n - 1)]


def describe(model, tokens, logits, rows):
    """What a test needs to know about a case: its rows, its greedy ids and how well it is conditioned."""
    shape = reference.shape_from_config(model.config)
    weights = reference.weights_from_state(model.state_dict(), model.config.tie_word_embeddings)
    own = reference.forward(shape, weights, tokens)
    double = logits_of(model.double(), tokens)
    model.float()
    top = np.sort(logits, axis=1)
    assert np.isfinite(logits).all() and np.abs(logits - own).max() < 2e-3
    return {
        "rows": rows,
        "argmax": [int(a) for a in logits[rows].argmax(1)],
        "logits_std": float(logits.std()),
        "min_top2_gap": float((top[:, -1] - top[:, -2])[rows].min()),
        "max_abs_diff_transformers_f64": float(np.abs(logits - double)[rows].max()),
        "max_abs_diff_numpy_f64": float(np.abs(logits - own)[rows].max()),
    }


def older_layout(path, name):
    """config.json as transformers wrote it before version 5: rope_theta, rope_scaling, torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    key = "type" if name == "tiny-llama-linear" else "rope_type"
    config["rope_scaling"] = None if kind == "default" else {key: kind} | rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(index, name):
    cls, arguments, rope, stored, tokenizer_kind, older, long = TINY[name]
    folder = MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, special = tiny_tokenizers.make(tokenizer_kind)
    config = cls(
        vocab_size=tiny_tokenizers.VOCAB, rope_parameters={"rope_type": "default"} | rope,
        **{"max_position_embeddings": 512} | arguments | special,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, torch.Generator().manual_seed(1000 + index))
    model.to(DTYPES[stored]).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if older:
        older_layout(folder / "config.json", name)
    tokenizer.save(str(folder / "tokenizer.json"))

    # The reference is what a reader of the folder computes, so it is loaded again.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = draw_tokens(2000 + index, N_SHORT, special["bos_token_id"])
    logits = logits_of(model, tokens)
    np.save(folder / "logits.npy", logits)
    prompt = {
        "model": name,
        "stored_type": stored,
        "text": tiny_tokenizers.TEXT,
        "text_tokens": tokenizer.encode(tiny_tokenizers.TEXT, add_special_tokens=False).ids,
        "tokens": tokens,
        "logits": "logits.npy",
    } | describe(model, tokens, logits, list(range(N_SHORT)))
    if long:
        tokens = draw_tokens(3000 + index, N_LONG, special["bos_token_id"])
        logits = logits_of(model, tokens)
        np.save(folder / "logits-long.npy", logits[LONG_ROWS])
        prompt["long"] = {"tokens": tokens, "logits": "logits-long.npy"} | describe(model, tokens, logits, LONG_ROWS)
    prompt["versions"] = versions()
    (folder / "prompt.json").write_text(json.dumps(prompt) + "\n")
    for case in (prompt, prompt.get("long")):
        if case:
            print(name, {k: round(v, 7) for k, v in case.items() if isinstance(v, float)})


def versions():
    """The packages that the numbers come from."""
    packages = (torch, transformers, tokenizers, np)
    return {p.__name__: p.__version__.split("+")[0] for p in packages}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for index, name in enumerate(TINY):
        make(index, name)
