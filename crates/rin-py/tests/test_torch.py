"""Modules of PyTorch: what the engine gives is what they give, and they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rin
from rin.errors import InvalidInputError, UnsupportedError

torch = pytest.importorskip("torch")
nn = torch.nn


def run(path: Path, x: Any) -> Any:
    """The engine's outputs, straight from the tensor."""
    with rin.RinEngine(path, threads=1) as engine:
        return engine.infer(x)


def network() -> Any:
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(24)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_()
        norm.bias.normal_()
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(17, 24),
        norm,
        nn.ReLU(),
        nn.Dropout(0.5),
        rin.torch.Residual(nn.Sequential(nn.GELU(), nn.Linear(24, 24), nn.Tanh()), nn.SiLU()),
        nn.LayerNorm(24),
        nn.Linear(24, 24, bias=False),
        nn.LeakyReLU(),
        nn.Hardswish(),
        nn.Linear(24, 5),
        nn.Softmax(-1),
    ).eval()


def setup_module() -> None:
    import rin.torch  # noqa: F401


def test_networks_give_what_their_modules_give(tmp_path: Path) -> None:
    module, x = network(), torch.randn(40, 17)
    labels = ["a", "b", "c", "d", "e"]
    report = rin.torch.export(module, tmp_path / "x.rin", labels=labels, kind="probabilities", name="mixed")
    assert report["bytes"] == (tmp_path / "x.rin").stat().st_size
    expected = module(x).detach().numpy()
    found = run(tmp_path / "x.rin", x)
    assert float(np.abs(found - expected).max()) <= 1e-5
    assert float(np.ptp(expected)) > 0.1
    with rin.RinEngine(tmp_path / "x.rin") as engine:
        (output,) = engine.info["outputs"]
        assert output["labels"] == labels and output["kind"] == "probabilities" and engine.info["name"] == "mixed"


@pytest.mark.parametrize("width", [32, 96, 50, 7])
def test_integer_products_are_the_engines(tmp_path: Path, width: int) -> None:
    torch.manual_seed(width)
    module = nn.Sequential(rin.torch.QuantLinear(width, 40)).eval()
    x = torch.randn(64, width) * torch.logspace(-3, 3, 64)[:, None]
    x[3] = 0
    rin.torch.export(module, tmp_path / "x.rin", quant="Q8_0")
    expected, found = module(x).detach().numpy(), run(tmp_path / "x.rin", x)
    assert np.array_equal(found, expected)
    plain = nn.functional.linear(x, module[0].weight, module[0].bias).detach().numpy()
    assert not np.array_equal(expected, plain) and np.abs(expected - plain).max() < 0.05 * np.abs(plain).max()


def test_quantised_networks_train_and_run(tmp_path: Path) -> None:
    torch.manual_seed(3)
    x = torch.randn(128, 32)
    y = (x[:, 0] * x[:, 1] > 0).long()
    module = nn.Sequential(rin.torch.QuantLinear(32, 64), nn.ReLU(), rin.torch.QuantLinear(64, 2))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    rin.torch.export(module.eval(), tmp_path / "x.rin", quant="Q8_0")
    expected, found = module(x).detach().numpy(), run(tmp_path / "x.rin", x)
    assert float(np.abs(found - expected).max()) <= 1e-5


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid"])
def test_spiking_networks_are_the_engines_to_the_bit_and_train(tmp_path: Path, reset: str, surrogate: str) -> None:
    torch.manual_seed(5)
    x = torch.rand(100, 12) * 2 - 1
    y = (x[:, :6].sum(1) > x[:, 6:].sum(1)).long()
    module = rin.torch.SpikingNetwork([12, 24, 16, 2], 6, reset=reset, surrogate=surrogate, slope=2.0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for at in range(25):
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if at in (0, 24):
            path = tmp_path / f"{at}.rin"
            rin.torch.export(module, path)
            assert np.array_equal(run(path, x), module(x).detach().numpy())
    assert losses[-1] < 0.7 * losses[0]


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.rin"
    for module, place in [(nn.Conv1d(3, 3, 3), "Conv1d"), (nn.Softmax(0), "Softmax"), (nn.LeakyReLU(0.2), "LeakyReLU")]:
        with pytest.raises(UnsupportedError) as caught:
            rin.torch.export(nn.Sequential(nn.Linear(3, 3), module), path)
        assert caught.value.place == place
    with pytest.raises(InvalidInputError, match="eval"):
        rin.torch.export(network().train(), path)
    with pytest.raises(InvalidInputError):
        rin.torch.export(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), path)
    with pytest.raises(InvalidInputError):
        rin.torch.export(nn.Sequential(nn.ReLU()), path)
    broken = nn.Linear(3, 4)
    with torch.no_grad():
        broken.weight[1, 2] = torch.nan
    with pytest.raises(InvalidInputError) as found:
        rin.torch.export(nn.Sequential(broken), path)
    assert "weight" in found.value.place and found.value.kind == "NotFinite"
    assert not path.exists()
    with pytest.raises(InvalidInputError):
        rin.torch.SpikingNetwork([3], 4)
