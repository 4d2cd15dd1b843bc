"""Loss and gradients of a tiny decoder by PyTorch, for crates/rin-train/tests/gradients.rs.

The network is written out in plain PyTorch in float64 and differentiated by autograd; the results are stored as
float32. Writes conformance/gradients/tiny-decoder.safetensors and tiny-decoder.json.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file

DIM, LAYERS, HEADS, KV_HEADS, FFN, VOCAB, SEQ, BATCH = 32, 2, 4, 2, 48, 23, 70, 2
ROPE_BASE, EPS = 10000.0, 1e-5
HEAD_DIM = DIM // HEADS
OUT = pathlib.Path(__file__).resolve().parents[1] / "gradients"


def rms_norm(x, gain):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * gain


def rotate(x):
    """Pairs (2i, 2i + 1) of x (batch, seq, heads, head_dim) turn by position * base^(-2i / head_dim)."""
    position = torch.arange(x.shape[1], dtype=x.dtype)
    frequency = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2, dtype=x.dtype) / HEAD_DIM)
    angle = (position[:, None] * frequency)[None, :, None, :]
    a, b = x[..., 0::2], x[..., 1::2]
    turned = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
    return torch.stack(turned, -1).flatten(-2)


def forward(p, ids):
    batch, seq = ids.shape
    x = p["token_embd.weight"][ids]
    mask = torch.full((seq, seq), float("-inf"), dtype=x.dtype).triu(1)
    for layer in range(LAYERS):
        w = lambda part: p[f"blk.{layer}.{part}.weight"]
        h = rms_norm(x, w("attn_norm"))
        q = rotate((h @ w("attn_q").T).view(batch, seq, HEADS, HEAD_DIM))
        k = rotate((h @ w("attn_k").T).view(batch, seq, KV_HEADS, HEAD_DIM))
        v = (h @ w("attn_v").T).view(batch, seq, KV_HEADS, HEAD_DIM)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / HEAD_DIM**0.5 + mask
        a = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(batch, seq, DIM)
        x = x + a @ w("attn_output").T
        h = rms_norm(x, w("ffn_norm"))
        x = x + (torch.nn.functional.silu(h @ w("ffn_gate").T) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return rms_norm(x, p["output_norm.weight"]) @ p["token_embd.weight"].T


def main():
    torch.manual_seed(5)
    shapes = {"token_embd.weight": (VOCAB, DIM), "output_norm.weight": (DIM,)}
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (DIM,),
            "attn_q": (DIM, DIM),
            "attn_k": (KV_HEADS * HEAD_DIM, DIM),
            "attn_v": (KV_HEADS * HEAD_DIM, DIM),
            "attn_output": (DIM, DIM),
            "ffn_norm": (DIM,),
            "ffn_gate": (FFN, DIM),
            "ffn_up": (FFN, DIM),
            "ffn_down": (DIM, FFN),
        }.items():
            shapes[f"blk.{layer}.{part}.weight"] = shape
    # float32 values, so that both sides begin with the same numbers; large enough that attention is not uniform.
    weights = {n: (torch.randn(s) * 0.25 + (1.0 if len(s) == 1 else 0.0)).float() for n, s in shapes.items()}
    tokens = torch.randint(0, VOCAB, (BATCH, SEQ + 1))
    p = {name: w.double().requires_grad_() for name, w in weights.items()}
    logits = forward(p, tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    tensors = {f"weight.{name}": w for name, w in weights.items()}
    tensors |= {f"gradient.{name}": w.grad.float() for name, w in p.items()}
    tensors["logits"] = logits.detach().flatten(0, 1).float()
    OUT.mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in sorted(tensors.items())}, OUT / "tiny-decoder.safetensors")
    facts = {
        "dim": DIM,
        "layers": LAYERS,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "ffn": FFN,
        "vocab": VOCAB,
        "seq": SEQ,
        "batch": BATCH,
        "ids": tokens[:, :-1].flatten().tolist(),
        "targets": tokens[:, 1:].flatten().tolist(),
        "loss": loss.item(),
        "torch": torch.__version__,
    }
    (OUT / "tiny-decoder.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
