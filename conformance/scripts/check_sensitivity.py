"""Shows that the stored logits notice each feature they are there for.

    HF_HUB_OFFLINE=1 python conformance/scripts/check_sensitivity.py

Runs every Hugging Face folder in float64 as it is and with one feature left out, and prints the largest difference from
the stored logits. As it is must agree to 1e-4; with the feature left out must differ by more than 0.05.
"""

import json
from dataclasses import replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import reference
from make_tiny_models import MODELS, TINY

NO_SCALING = lambda s, w: (replace(s, rope_scaling=None), w)
NO_BIAS = lambda s, w: (s, {k: v for k, v in w.items() if not k.endswith(".bias")})
INTERLEAVED = lambda s, w: (replace(s, interleaved=True), w)
EPS = lambda s, w: (replace(s, eps=1e-2), w)


def yarn_without_mscale(s, w):
    """The factor on cos and sin multiplies q.k by its square."""
    mscale = 0.1 * np.log(s.rope_scaling["factor"]) + 1
    return s, {k: v / mscale if ".attn_q." in k else v for k, v in w.items()}


def other_kv_grouping(s, w):
    """Query head h reads kv head h modulo n_kv_heads instead of h / group."""
    q = lambda v: v.reshape(s.n_kv_heads, -1, s.head_dim, *v.shape[1:]).swapaxes(0, 1).reshape(v.shape)
    o = lambda v: q(v.T).T
    out = {k: q(v) if ".attn_q." in k else o(v) if ".attn_output.weight" in k else v for k, v in w.items()}
    return s, out


LEFT_OUT = {
    "tiny-llama": {"interleaved rope": INTERLEAVED, "other kv grouping": other_kv_grouping, "wrong eps": EPS},
    "tiny-llama-tied": {"interleaved rope": INTERLEAVED},
    "tiny-llama3": {"no rope scaling": NO_SCALING},
    "tiny-llama-linear": {"no rope scaling": NO_SCALING},
    "tiny-llama-bias": {"no biases": NO_BIAS},
    "tiny-mistral": {
        "no window": lambda s, w: (replace(s, sliding_window=None), w),
        "window + 1": lambda s, w: (replace(s, sliding_window=s.sliding_window + 1), w),
    },
    "tiny-qwen2": {"no biases": NO_BIAS},
    "tiny-qwen2-yarn": {"no rope scaling": NO_SCALING, "one factor of mscale missing": yarn_without_mscale},
}

if __name__ == "__main__":
    assert LEFT_OUT.keys() == TINY.keys()
    for name, changes in LEFT_OUT.items():
        model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
        shape = reference.shape_from_config(model.config)
        weights = reference.weights_from_state(model.state_dict(), model.config.tie_word_embeddings)
        prompt = json.loads((MODELS / name / "prompt.json").read_text())
        case = prompt.get("long", prompt)
        stored = np.load(MODELS / name / case["logits"])
        for what, change in ({"as it is": lambda s, w: (s, w)} | changes).items():
            worst = np.abs(reference.forward(*change(shape, weights), case["tokens"])[case["rows"]] - stored).max()
            print(f"{name}, {what}: {worst:.2e}")
            assert worst < 1e-4 if what == "as it is" else worst > 0.05
