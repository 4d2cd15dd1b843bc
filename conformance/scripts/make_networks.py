"""Small trained-like networks in the files that torch.save writes, with PyTorch's own outputs for some rows.

Usage: python make_networks.py (from this folder; torch 2.14 or later). The weights are random, the layout is what counts.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).resolve().parent.parent / "networks"


class Residual(nn.Module):
    """Two branches, a batch norm after an addition, two outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(21, 32)
        self.norm = nn.LayerNorm(32, eps=1e-6)
        self.body = nn.Linear(32, 32, bias=False)
        self.body_bn = nn.BatchNorm1d(32)
        self.sum_bn = nn.BatchNorm1d(32, eps=1e-3)
        self.classes = nn.Linear(32, 5)
        self.value = nn.Linear(32, 1)

    def forward(self, x):
        stem = torch.nn.functional.gelu(self.stem(x))
        h = self.norm(stem)
        h = torch.nn.functional.silu(self.body_bn(self.body(h)) + stem)
        h = torch.tanh(self.sum_bn(h))
        return self.classes(h), torch.sigmoid(self.value(h))


def settle(model):
    """Statistics and factors that are not those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.2, 2.0)
        if isinstance(module, (nn.BatchNorm1d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def save(name, x, outputs):
    np.save(OUT / f"{name}-x.npy", x.numpy().astype(np.float32))
    for key, value in outputs.items():
        np.save(OUT / f"{name}-{key}.npy", value.detach().numpy().astype(np.float32))


def main():
    OUT.mkdir(exist_ok=True)
    torch.manual_seed(7)

    plain = settle(nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)))
    x = torch.randn(6, 12)
    save("plain", x, {"y": plain(x)})
    torch.save(plain.state_dict(), OUT / "plain.pt")
    torch.save({"epoch": 3, "state_dict": plain.state_dict()}, OUT / "plain-nested.pth")
    torch.save(plain.state_dict(), OUT / "plain-legacy.pth", _use_new_zipfile_serialization=False)
    save_file(plain.state_dict(), OUT / "plain.safetensors")
    # Half precision, and a matrix that is a transposed view of its storage.
    half = {k: v.half() if v.is_floating_point() else v for k, v in plain.state_dict().items()}
    half["0.weight"] = half["0.weight"].t().contiguous().t()
    torch.save(half, OUT / "plain-half-strided.pt")
    (OUT / "plain.toml").write_text('name = "plain"\nactivation = "relu"\noutputs = [{ layer = "5", kind = "logits" }]\n')

    residual = settle(Residual())
    x = torch.randn(5, 21)
    classes, value = residual(x)
    save("residual", x, {"classes": classes, "value": value})
    torch.save(residual.state_dict(), OUT / "residual.pt")
    (OUT / "residual.toml").write_text(
        """\
name = "residual"

[[layers]]
tensors = "stem"
activation = "gelu"
[[layers]]
tensors = "norm"
eps = 1e-6
[[layers]]
tensors = "body"
[[layers]]
tensors = "body_bn"
add = "stem"
activation = "silu"
[[layers]]
tensors = "sum_bn"
eps = 1e-3
activation = "tanh"
[[layers]]
tensors = "classes"
[[layers]]
tensors = "value"
from = "sum_bn"
activation = "sigmoid"

[[outputs]]
layer = "classes"
kind = "logits"
labels = ["a", "b", "c", "d", "e"]
[[outputs]]
layer = "value"
kind = "values"
"""
    )
    (OUT / "versions.json").write_text(json.dumps({"torch": torch.__version__.split("+")[0], "numpy": np.__version__}) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
