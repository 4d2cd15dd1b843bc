"""Tiny random recurrent networks as others store them, with the logits that others compute for them.

    HF_HUB_OFFLINE=1 python conformance/scripts/make_recurrent_models.py

- tiny-mamba2, tiny-qwen3-next, tiny-qwen3.5: Hugging Face folders, logits of transformers (float32, CPU, its own
  plain-torch paths); Qwen3.5 as its published folders are, with a part for text and names that say so.
- The same as GGUF, in the layout of llama.cpp's converter; Qwen3-Next with dense feed-forward networks, which llama.cpp has
  no files of, and besides with the one matrix `ssm_in` that earlier files had.
- tiny-rwkv7: GGUF (llama.cpp's layout), a folder (flash-linear-attention's layout) and a state dictionary (the layout of
  RWKV's author) of one network, logits of the `rwkv` package, which reads the last of them.

Writes conformance/recurrent/<name>/.
"""

import json
import os
import sys
from pathlib import Path

# transformers takes its own plain-torch paths where this package, which needs a GPU, is not there.
sys.modules["fla"] = None

os.environ.update(HF_HUB_OFFLINE="1", RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Mamba2Config, Qwen3_5TextConfig, Qwen3NextConfig

OUT = Path(__file__).resolve().parent.parent / "recurrent"
VOCAB, TOKENS = 64, 75


def tokens():
    return [int(t) for t in np.random.default_rng(3).integers(0, VOCAB, TOKENS)]


def randomise(model, generator):
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=generator)
            if name.endswith(("A_log", "dt_bias", "bias")):
                p.copy_(0.4 * z)
            elif name.endswith(".D") or p.dim() == 1:
                # Qwen3-Next's norms are around zero, but for the gated one.
                centre = 0.0 if "Qwen3" in type(model).__name__ and "linear_attn.norm" not in name else 1.0
                p.copy_(centre + 0.2 * z)
            elif "embed" in name or "lm_head" in name:
                p.copy_(2.0 / p.shape[1] ** 0.5 * z)
            elif "conv1d" in name:
                p.copy_(0.6 * z)
            else:
                p.copy_(1.5 / p.shape[1] ** 0.5 * z)


def folder(name, config, seed):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, torch.Generator().manual_seed(seed))
    ids = tokens()
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
        double = model.double()(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    model.float()
    print(name, "deviation", logits.std(), "to float64", np.abs(logits - double).max())
    path = OUT / name
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path, safe_serialization=True)
    (path / "generation_config.json").unlink(missing_ok=True)
    np.save(path / "logits.npy", logits.astype(np.float32))
    return model


def mamba2():
    config = Mamba2Config(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, expand=2,
                          state_size=24, n_groups=2, conv_kernel=4, chunk_size=16, tie_word_embeddings=False,
                          bos_token_id=None, eos_token_id=1, pad_token_id=None)  # fmt: skip
    model = folder("tiny-mamba2", config, 1)
    w = gguf.GGUFWriter(OUT / "tiny-mamba2" / "tiny-mamba2-f32.gguf", "mamba2")
    w.add_context_length(1 << 20)
    w.add_embedding_length(32)
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_block_count(2)
    w.add_ssm_conv_kernel(4)
    w.add_ssm_inner_size(64)
    w.add_ssm_state_size(24)
    w.add_ssm_time_step_rank(4)
    w.add_ssm_group_count(2)
    w.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    names = {
        "norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight",
        "mixer.conv1d.weight": "ssm_conv1d.weight", "mixer.conv1d.bias": "ssm_conv1d.bias",
        "mixer.dt_bias": "ssm_dt.bias", "mixer.A_log": "ssm_a", "mixer.D": "ssm_d", "mixer.norm.weight": "ssm_norm.weight",
        "mixer.out_proj.weight": "ssm_out.weight",
    }  # fmt: skip
    for name, p in model.state_dict().items():
        x = p.float().numpy()
        if name.startswith("backbone.layers."):
            layer, rest = name.removeprefix("backbone.layers.").split(".", 1)
            if rest == "mixer.conv1d.weight":
                x = x.squeeze(1)
            elif rest == "mixer.A_log":
                x = -np.exp(x)[:, None]
            elif rest == "mixer.D":
                x = x[:, None]
            elif rest == "mixer.norm.weight":
                x = x.reshape(2, -1)
            name = f"blk.{layer}.{names[rest]}"
        else:
            name = {"backbone.embeddings.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight",
                    "lm_head.weight": "output.weight"}[name]  # fmt: skip
        w.add_tensor(name, np.ascontiguousarray(x, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def qwen3_next():
    config = Qwen3NextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
        linear_value_head_dim=16, linear_conv_kernel_dim=4, num_experts=0, mlp_only_layers=[0, 1, 2],
        layer_types=["linear_attention", "full_attention", "linear_attention"], max_position_embeddings=256,
        rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = folder("tiny-qwen3-next", config, 2)
    for suffix, fused in (("", False), ("-fused", True)):
        qwen_gguf(OUT / "tiny-qwen3-next" / f"tiny-qwen3-next{suffix}-f32.gguf", "qwen3next", config, model, fused)


def qwen3_5():
    config = Qwen3_5TextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=24,
        linear_value_head_dim=16, linear_conv_kernel_dim=4, full_attention_interval=2, max_position_embeddings=256,
        layer_types=["linear_attention", "full_attention"] * 2, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5,
                             mrope_section=[2, 1, 1], mrope_interleaved=True),
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = folder("tiny-qwen3.5", config, 3)
    path = OUT / "tiny-qwen3.5"
    qwen_gguf(path / "tiny-qwen3.5-f32.gguf", "qwen35", config, model, False)
    # As published: the text within a network that sees.
    text = json.loads((path / "config.json").read_text())
    whole = dict(architectures=["Qwen3_5ForConditionalGeneration"], model_type="qwen3_5", text_config=text,
                 tie_word_embeddings=text.pop("tie_word_embeddings"))  # fmt: skip
    (path / "config.json").write_text(json.dumps(whole, indent=2) + "\n")
    names = {n: n.replace("model.", "model.language_model.", 1) for n in model.state_dict() if n != "lm_head.weight"}
    save_file({to: model.state_dict()[n].contiguous().clone() for n, to in names.items()}, path / "model.safetensors")


def tiled(x, config, width, dim=0):
    """Heads of values in the order of llama.cpp: the first of each head of keys, then the second of each."""
    keys = config.linear_num_key_heads
    split = x.unflatten(dim, (keys, config.linear_num_value_heads // keys, width))
    return split.transpose(dim, dim + 1).flatten(dim, dim + 2)


def qwen_gguf(path, arch, config, model, fused):
    """`fused`: queries, keys, values and gates in one matrix, group by group, as the folder has them."""
    w = gguf.GGUFWriter(path, arch)
    c = config
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    w.add_rope_dimension_count(int(c.head_dim * c.rope_parameters["partial_rotary_factor"]))
    if arch == "qwen35":
        w.add_rope_dimension_sections([*c.rope_parameters["mrope_section"], 0])
    w.add_ssm_conv_kernel(c.linear_conv_kernel_dim)
    w.add_ssm_state_size(c.linear_key_head_dim)
    w.add_ssm_group_count(c.linear_num_key_heads)
    w.add_ssm_time_step_rank(c.linear_num_value_heads)
    w.add_ssm_inner_size(c.linear_num_value_heads * c.linear_value_head_dim)
    w.add_uint32(f"{arch}.full_attention_interval", 2)
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "linear_attn.in_proj_qkvz": "ssm_in",
        "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate",
        "linear_attn.in_proj_b": "ssm_beta", "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.conv1d": "ssm_conv1d",
        "linear_attn.norm": "ssm_norm", "linear_attn.out_proj": "ssm_out",
    }  # fmt: skip
    keys, value = c.linear_num_key_heads * c.linear_key_head_dim, c.linear_value_head_dim
    order = lambda x, width, dim=0: tiled(x, c, width, dim) if arch == "qwen35" else x  # noqa: E731
    for name, x in model.state_dict().items():
        x = x.float()
        if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            x = x + 1
        if not name.startswith("model.layers."):
            place = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                     "lm_head.weight": "output.weight"}[name]  # fmt: skip
            if place != "output.weight" or not c.tie_word_embeddings:
                w.add_tensor(place, x.numpy())
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        put = lambda part, x: w.add_tensor(f"blk.{layer}.{part}", np.ascontiguousarray(x.numpy()))  # noqa: E731
        if rest == "linear_attn.A_log":
            put("ssm_a", order(-x.exp(), 1))
        elif rest == "linear_attn.dt_bias":
            put("ssm_dt.bias", order(x, 1))
        elif rest == "linear_attn.conv1d.weight":
            x = x.squeeze(1)
            put("ssm_conv1d.weight", torch.cat([x[: 2 * keys], order(x[2 * keys :], value)]))
        elif rest == "linear_attn.in_proj_qkvz.weight" and not fused:
            groups = c.linear_num_key_heads
            over = c.linear_num_value_heads // groups * value
            parts = x.unflatten(0, (groups, -1)).split([c.linear_key_head_dim] * 2 + [over] * 2, dim=1)
            q, k, v, z = (part.flatten(0, 1) for part in parts)
            put("attn_qkv.weight", torch.cat([q, k, v]))
            put("attn_gate.weight", z)
        else:
            stem, kind = rest.rsplit(".", 1)
            if stem == "linear_attn.in_proj_qkv":
                x = torch.cat([x[: 2 * keys], order(x[2 * keys :], value)])
            elif stem == "linear_attn.in_proj_z":
                x = order(x, value)
            elif stem in ("linear_attn.in_proj_b", "linear_attn.in_proj_a"):
                x = order(x, 1)
            elif stem == "linear_attn.out_proj":
                x = order(x, value, 1)
            put(f"{names[stem]}.{kind}", x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def rwkv7():
    """Head width 64 is the package's only one."""
    dim, layers, ffn, rank, head = 64, 2, 96, 16, 64
    rng = np.random.default_rng(7)
    draw = lambda *shape, scale=1.0, mean=0.0: torch.tensor((mean + scale * rng.standard_normal(shape)).astype(np.float32))
    matrix = lambda rows, cols, gain=1.3: draw(rows, cols, scale=gain / cols**0.5)
    z = {"emb.weight": draw(VOCAB, dim), "head.weight": matrix(VOCAB, dim, 2.0)}
    for name in ("ln_out", "blocks.0.ln0"):
        z |= {f"{name}.weight": draw(dim, scale=0.2, mean=1), f"{name}.bias": draw(dim, scale=0.2)}
    for i in range(layers):
        b = f"blocks.{i}."
        for name in ("ln1", "ln2", "att.ln_x"):
            z |= {f"{b}{name}.weight": draw(dim, scale=0.2, mean=1), f"{b}{name}.bias": draw(dim, scale=0.2)}
        for name in "rwkvag":
            z[f"{b}att.x_{name}"] = draw(1, 1, dim, scale=0.3, mean=0.5)
        for name in "wavg":
            z[f"{b}att.{name}1"] = matrix(rank, dim).T.contiguous()
            z[f"{b}att.{name}2"] = matrix(dim, rank).T.contiguous()
            if name != "g":
                z[f"{b}att.{name}0"] = draw(1, 1, dim, scale=0.5)
        z[f"{b}att.k_k"] = draw(1, 1, dim, scale=0.2, mean=0.8)
        z[f"{b}att.k_a"] = draw(1, 1, dim, scale=0.2, mean=0.8)
        z[f"{b}att.r_k"] = draw(dim // head, head, scale=0.2)
        for name in ("receptance", "key", "value", "output"):
            z[f"{b}att.{name}.weight"] = matrix(dim, dim)
        z[f"{b}ffn.x_k"] = draw(1, 1, dim, scale=0.3, mean=0.5)
        z[f"{b}ffn.key.weight"] = matrix(ffn, dim)
        z[f"{b}ffn.value.weight"] = matrix(dim, ffn)
    ids = tokens()
    path = OUT / "tiny-rwkv7"
    path.mkdir(parents=True, exist_ok=True)
    torch.save(z, path / "tiny-rwkv7.pth")
    from rwkv.model import RWKV

    model = RWKV(model=str(path / "tiny-rwkv7"), strategy="cpu fp32")
    rows, state = [], None
    for t in ids:
        logits, state = model.forward([t], state)
        rows.append(logits.float().numpy().copy())
    np.save(path / "logits.npy", np.array(rows, dtype=np.float32))
    print("tiny-rwkv7 deviation", np.array(rows).std())
    write_rwkv_gguf(path / "tiny-rwkv7-f32.gguf", z, dim, layers, ffn, head)
    write_rwkv_folder(path, z, dim, layers, ffn, head)


def write_rwkv_gguf(path, z, dim, layers, ffn, head):
    w = gguf.GGUFWriter(path, "rwkv7")
    w.add_context_length(1 << 20)
    w.add_embedding_length(dim)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_layer_norm_eps(1e-5)
    w.add_wkv_head_size(head)
    w.add_head_count(0)
    once = {"emb": "token_embd", "head": "output", "ln_out": "output_norm", "blocks.0.ln0": "token_embd_norm"}
    names = {
        "ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln", "att.receptance": "time_mix_receptance",
        "att.key": "time_mix_key", "att.value": "time_mix_value", "att.output": "time_mix_output",
        "ffn.key": "channel_mix_key", "ffn.value": "channel_mix_value",
    }  # fmt: skip
    for name, p in z.items():
        x, (stem, kind) = p.numpy(), name.rsplit(".", 1)
        if stem in once:
            w.add_tensor(f"{once[stem]}.{kind}", x)
            continue
        layer, rest = name.removeprefix("blocks.").split(".", 1)
        stem, _, kind = rest.rpartition(".")
        if stem in names:
            w.add_tensor(f"blk.{layer}.{names[stem]}.{kind}", x)
        elif rest == "att.x_r":
            fused = np.stack([z[f"blocks.{layer}.att.x_{part}"].numpy().reshape(1, 1, -1) for part in "rwkvag"])
            w.add_tensor(f"blk.{layer}.time_mix_lerp_fused.weight", fused)
        elif rest == "ffn.x_k":
            w.add_tensor(f"blk.{layer}.channel_mix_lerp_k.weight", x)
        elif not rest.startswith("att.x_"):
            # The converter squeezes rows of numbers, and transposes the thin matrices to (outputs, inputs).
            part = rest.removeprefix("att.")
            if layer == "0" and part.startswith("v"):
                continue
            x = x.T if part[1:] in ("1", "2") else (x if part == "r_k" else x.reshape(-1))
            w.add_tensor(f"blk.{layer}.time_mix_{part}.weight", np.ascontiguousarray(x))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_rwkv_folder(path, z, dim, layers, ffn, head):
    names = {"ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm", "att.receptance": "attn.r_proj",
             "att.key": "attn.k_proj", "att.value": "attn.v_proj", "att.output": "attn.o_proj", "ln0": "pre_norm",
             "ffn.key": "ffn.key", "ffn.value": "ffn.value"}  # fmt: skip
    out = {}
    for name, p in z.items():
        if not name.startswith("blocks."):
            out[{"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight",
                 "ln_out.weight": "model.norm.weight", "ln_out.bias": "model.norm.bias"}[name]] = p  # fmt: skip
            continue
        layer, rest = name.removeprefix("blocks.").split(".", 1)
        stem, _, kind = rest.rpartition(".")
        prefix = f"model.layers.{layer}."
        part = rest.removeprefix("att.")
        if stem in names:
            out[f"{prefix}{names[stem]}.{kind}"] = p
        elif rest.startswith("att.x_"):
            out[f"{prefix}attn.{part}"] = p
        elif rest == "ffn.x_k":
            out[f"{prefix}ffn.x_k"] = p.reshape(-1)
        elif part in ("k_k", "k_a"):
            out[f"{prefix}attn.{part}"] = p.reshape(-1)
        elif part == "r_k":
            out[f"{prefix}attn.r_k"] = p
        elif not (layer == "0" and part.startswith("v")):
            place = {"1": "lora.0.weight", "2": "lora.2.weight", "0": "lora.2.bias"}[part[1:]]
            out[f"{prefix}attn.{part[0]}_lora.{place}"] = p.T.contiguous() if part[1:] in "12" else p.reshape(-1)
    save_file({name: p.contiguous().clone() for name, p in out.items()}, path / "model.safetensors")
    config = {"model_type": "rwkv7", "architectures": ["RWKV7ForCausalLM"], "hidden_size": dim, "num_hidden_layers": layers,
              "head_dim": head, "intermediate_size": ffn, "norm_eps": 1e-5, "norm_bias": True, "vocab_size": VOCAB,
              "attn": None, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": False}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "tokens.json").write_text(json.dumps(tokens()) + "\n")
    mamba2()
    qwen3_next()
    qwen3_5()
    rwkv7()
