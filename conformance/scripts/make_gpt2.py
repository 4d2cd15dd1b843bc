"""A tiny random GPT-2 as a Hugging Face folder and as GGUF files, with the logits that transformers computes for it.

    HF_HUB_OFFLINE=1 python conformance/scripts/make_gpt2.py

Writes conformance/models/tiny-gpt2/ as make_tiny_models.py writes its folders, and tiny-gpt2-f32.gguf with the keys and
names that the `gguf` package has for the architecture. The matrices of the folder lie as (inputs, outputs), as GPT-2's
program has them; those of the GGUF file as (outputs, inputs).
"""

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config

import tiny_tokenizers
from make_tiny_models import LONG_ROWS, MODELS, N_LONG, N_SHORT, draw_tokens, logits_of, versions

NAME, TOKENIZER = "tiny-gpt2", "gpt-2"
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)


def draw(model, generator):
    """Weights wide enough that logits spread over several units; norms around 1, and biases that count."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=generator)
            if ".ln_" in name:
                p.copy_(float(name.endswith("weight")) + 0.25 * z)
            elif name.endswith("bias"):
                p.copy_(0.3 * z)
            elif "wte" in name or "wpe" in name:
                p.copy_(2.0 / p.shape[1] ** 0.5 * z)
            else:
                p.copy_(1.5 / p.shape[0] ** 0.5 * z)


def case(model, tokens, rows, file):
    """Logits of some rows, stored, and how well they are conditioned."""
    logits = logits_of(model, tokens)
    double = logits_of(model.double(), tokens)
    model.float()
    np.save(MODELS / NAME / file, logits[rows])
    top = np.sort(logits, axis=1)
    assert np.isfinite(logits).all()
    return {
        "tokens": tokens,
        "logits": file,
        "rows": rows,
        "argmax": [int(a) for a in logits[rows].argmax(1)],
        "logits_std": float(logits.std()),
        "min_top2_gap": float((top[:, -1] - top[:, -2])[rows].min()),
        "max_abs_diff_transformers_f64": float(np.abs(logits - double)[rows].max()),
    }


def write_gguf(model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(NAME)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tiny_tokenizers.write_gguf(writer, TOKENIZER)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        w = tensor.detach().float().numpy()
        if ".c_" in name and w.ndim == 2:
            w = w.T
        writer.add_tensor(NAMES.get_name(name, (".weight", ".bias")), np.ascontiguousarray(w))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder = MODELS / NAME
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, special = tiny_tokenizers.make(TOKENIZER)
    config = GPT2Config(
        vocab_size=tiny_tokenizers.VOCAB, n_positions=192, n_embd=48, n_layer=2, n_head=3, n_inner=112, **special,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    draw(model, torch.Generator().manual_seed(5000))
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))

    # The reference is what a reader of the folder computes, so it is loaded again.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = {
        "model": NAME,
        "stored_type": "F32",
        "text": tiny_tokenizers.TEXT,
        "text_tokens": tokenizer.encode(tiny_tokenizers.TEXT, add_special_tokens=False).ids,
    }
    prompt |= case(model, draw_tokens(5001, N_SHORT, special["bos_token_id"]), list(range(N_SHORT)), "logits.npy")
    prompt["long"] = case(model, draw_tokens(5002, N_LONG, special["bos_token_id"]), LONG_ROWS, "logits-long.npy")
    prompt["versions"] = versions()
    (folder / "prompt.json").write_text(json.dumps(prompt) + "\n")
    write_gguf(model, folder / f"{NAME}-f32.gguf")
    for c in (prompt, prompt["long"]):
        print(NAME, {k: round(v, 7) for k, v in c.items() if isinstance(v, float)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
