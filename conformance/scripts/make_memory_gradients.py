"""Loss and gradients of tiny decoders with memories by PyTorch, for crates/rin-train/tests/memory_gradients.rs.

    python conformance/scripts/make_memory_gradients.py

The networks are those of make_memory_models.py, whose recurrences are flash-linear-attention's; PyTorch differentiates
them. Signs and steps pass gradients straight through where the magnitude is at most 1. Writes
conformance/gradients/memory-<name>.safetensors.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import make_memory_models as models
from make_memory_models import DIM, EPS, FFN, VOCAB, memory

OUT = Path(__file__).resolve().parent.parent / "gradients"
TOKENS = 24

BHRR = dict(address="router", read_by="query", slots=6, values="float", state="f32")
NETWORKS = {
    "linear": [memory("linear", conv=0, gate=False)],
    "retnet": [memory("retnet")],
    "gla": [memory("gla")],
    "delta": [memory("delta")],
    "gated-delta": [memory("gated-delta"), None],
    "bhrr-signs": [memory("bhrr", **BHRR | dict(address="hash", values="sign", read_by="key"))],
    "bhrr-router": [memory("bhrr", **BHRR | dict(top=3, values="sign"))],
    "bhrr-delta": [memory("bhrr", **BHRR | dict(top=2, decay=True, delta=True))],
    "gsa": [memory("gsa", slots=16)],
    "mamba2": [memory("mamba2")],
    "rwkv7": [memory("rwkv7")],
}


class Sign(torch.autograd.Function):
    """The sign, straight through within ±1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx, d):
        (x,) = ctx.saved_tensors
        return d * (x.abs() <= 1)


class Leaves(models.Weights):
    """Weights that gradients are wanted of, in single precision."""

    def draw(self, name, shape, scale, mean=0.0, dtype="F32"):
        super().draw(name, shape, scale, mean, "F32")
        self.values[name].requires_grad_()
        return self.values[name]


if __name__ == "__main__":
    models.sign = Sign.apply
    tokens = torch.randint(0, VOCAB, (TOKENS + 1,), generator=torch.Generator().manual_seed(4))
    for seed, (name, layers) in enumerate(NETWORKS.items()):
        w = Leaves(100 + seed)
        logits = models.forward(layers, w, tokens[:-1].tolist())
        loss = torch.nn.functional.cross_entropy(logits, tokens[1:])
        loss.backward()
        tensors = {f"weight.{n}": v.detach().float().contiguous() for n, v in w.values.items()}
        tensors |= {f"gradient.{n}": v.grad.float().contiguous() for n, v in w.values.items() if v.grad is not None}
        facts = dict(layers=layers, dim=DIM, ffn=FFN, vocab=VOCAB, eps=EPS, tokens=tokens.tolist(), loss=loss.item())
        save_file(tensors, OUT / f"memory-{name}.safetensors", {"facts": json.dumps(facts)})
        print(name, loss.item(), "without gradient:", [n for n, v in w.values.items() if v.grad is None])
