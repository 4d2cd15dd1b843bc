"""An independent float64 forward pass (numpy only) for llama, mistral and qwen2 decoders.

It shares no code with transformers. The scripts hold it against transformers' logits, and use it to run GGUF files
by GGML's own conventions (permuted q/k rows and interleaved rotary pairs for llama, `rope_freqs` divisors, YaRN
keys). It is imported by the other scripts and makes no file.
"""

import math
from dataclasses import dataclass, field

import gguf
import numpy as np


@dataclass
class Shape:
    """The numbers of a decoder; `rope_scaling` is None or a dict in Hugging Face words."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    eps: float
    rope_theta: float
    rope_scaling: dict | None = None
    interleaved: bool = False
    sliding_window: int | None = None
    freq_divisors: np.ndarray | None = field(default=None)


def rope_frequencies(s: Shape):
    """Angles per position, [head_dim / 2], and the factor on cos and sin."""
    d = s.head_dim
    freq = s.rope_theta ** -(np.arange(0, d, 2) / d)
    if s.freq_divisors is not None:
        return freq / s.freq_divisors, 1.0
    if not s.rope_scaling:
        return freq, 1.0
    kind, factor = s.rope_scaling["rope_type"], s.rope_scaling.get("factor", 1.0)
    if kind == "default":
        return freq, 1.0
    if kind == "linear":
        return freq / factor, 1.0
    ctx = s.rope_scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = s.rope_scaling["low_freq_factor"], s.rope_scaling["high_freq_factor"]
        smooth = np.clip((ctx * freq / (2 * math.pi) - low) / (high - low), 0, 1)
        return freq * ((1 - smooth) / factor + smooth), 1.0
    if kind == "yarn":
        turns = lambda n: d * math.log(ctx / (n * 2 * math.pi)) / (2 * math.log(s.rope_theta))
        low = max(math.floor(turns(s.rope_scaling.get("beta_fast") or 32)), 0)
        high = min(math.ceil(turns(s.rope_scaling.get("beta_slow") or 1)), d - 1)
        ramp = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
        return freq * (ramp / factor + (1 - ramp)), 0.1 * math.log(factor) + 1
    raise ValueError(f"rope type {kind}")


def rotate(x, s: Shape):
    """Rotary embedding of [n, heads, head_dim] at positions 0..n."""
    freq, mscale = rope_frequencies(s)
    angle = np.arange(len(x))[:, None] * freq
    cos, sin = (np.cos(angle) * mscale)[:, None], (np.sin(angle) * mscale)[:, None]
    half = s.head_dim // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if s.interleaved else (slice(0, half), slice(half, None))
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def int8_blocks(x, block):
    """`x` after 8-bit quantisation with one scale (absmax / 127) per `block` columns, as GGUF kernels treat it."""
    b = x.reshape(*x.shape[:-1], -1, block)
    scale = np.abs(b).max(-1, keepdims=True) / 127
    q = np.rint(np.divide(b, scale, out=np.zeros_like(b), where=scale > 0))
    return (q * scale).reshape(x.shape)


def forward(s: Shape, w: dict, tokens, activation_block=None):
    """Logits [n, vocab] in float64. `activation_block(name)` gives a block length to quantise the input of a product.

    `w` is keyed with GGUF tensor names ('token_embd.weight', 'blk.0.attn_q.weight', 'blk.0.attn_q.bias', ...).
    """

    def product(name, x):
        block = activation_block and activation_block(name)
        y = (int8_blocks(x, block) if block else x) @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    n, hd = len(tokens), s.head_dim
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    allowed = (j <= i) & (i - j < (s.sliding_window or n))
    x = w["token_embd.weight"][np.asarray(tokens)]
    for layer in range(s.n_layers):
        p = f"blk.{layer}."
        h = rms_norm(x, w[p + "attn_norm.weight"], s.eps)
        q = rotate(product(p + "attn_q", h).reshape(n, s.n_heads, hd), s)
        k = rotate(product(p + "attn_k", h).reshape(n, s.n_kv_heads, hd), s)
        v = product(p + "attn_v", h).reshape(n, s.n_kv_heads, hd)
        k, v = (np.repeat(t, s.n_heads // s.n_kv_heads, axis=1) for t in (k, v))
        scores = np.where(allowed, np.einsum("ihd,jhd->hij", q, k) / math.sqrt(hd), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + product(p + "attn_output", np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1))
        h = rms_norm(x, w[p + "ffn_norm.weight"], s.eps)
        gate = product(p + "ffn_gate", h)
        x = x + product(p + "ffn_down", gate / (1 + np.exp(-gate)) * product(p + "ffn_up", h))
    x = rms_norm(x, w["output_norm.weight"], s.eps)
    return product("output" if "output.weight" in w else "token_embd", x)


def shape_from_config(config) -> Shape:
    """The shape of a transformers config object."""
    rope = dict(config.rope_parameters)
    window = getattr(config, "sliding_window", None)
    if config.model_type == "qwen2" and not config.use_sliding_window:
        window = None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, head_dim,
        config.rms_norm_eps, rope["rope_theta"], rope, sliding_window=window,
    )


def gguf_name(name: str) -> str:
    """The GGUF tensor name of a Hugging Face llama, mistral or qwen2 tensor name."""
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{parts[rest]}.{kind}"
    return f"{parts[stem]}.{kind}"


def weights_from_state(state: dict, tied: bool) -> dict:
    """Float64 arrays with GGUF names from a torch state dict (rows in Hugging Face order)."""
    return {
        gguf_name(k): v.detach().double().numpy() for k, v in state.items() if not (tied and k == "lm_head.weight")
    }


def read_gguf(path):
    """(shape, float64 weights, tensor type names) of a llama or qwen2 GGUF file."""
    reader = gguf.GGUFReader(path)
    get = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
    arch = get("general.architecture")
    heads = get(f"{arch}.attention.head_count")
    width = get(f"{arch}.embedding_length")
    weights = {
        t.name: gguf.quants.dequantize(np.array(t.data), t.tensor_type).reshape(t.shape[::-1]).astype(np.float64)
        for t in reader.tensors
    }
    scaling = None
    if kind := get(f"{arch}.rope.scaling.type"):
        scaling = {"rope_type": kind, "factor": get(f"{arch}.rope.scaling.factor")}
        scaling["original_max_position_embeddings"] = get(f"{arch}.rope.scaling.original_context_length")
    shape = Shape(
        get(f"{arch}.block_count"), heads, get(f"{arch}.attention.head_count_kv", heads),
        get(f"{arch}.attention.key_length", width // heads), get(f"{arch}.attention.layer_norm_rms_epsilon"),
        get(f"{arch}.rope.freq_base", 10000.0), scaling, arch == "llama",
        freq_divisors=weights.pop("rope_freqs.weight", None),
    )  # fmt: skip
    return shape, weights, {t.name: t.tensor_type.name for t in reader.tensors}
