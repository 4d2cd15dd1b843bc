"""Softmax, norms, attention and products in integers: to the bit as the engine has them, and they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rin
from rin.errors import InvalidInputError, UnsupportedError

torch = pytest.importorskip("torch")
nn = torch.nn


def setup_module() -> None:
    import rin.torch  # noqa: F401


def run(path: Path, x: Any) -> Any:
    with rin.RinEngine(path, threads=1) as engine:
        return engine.infer(x)


def scattered(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("fraction", [0, 4, 8, 10])
def test_the_softmax_keeps_its_bound(fraction: int) -> None:
    torch.manual_seed(fraction)
    module = rin.torch.IntegerSoftmax(fraction)
    x = torch.randn(300, 40) * torch.logspace(-2, 2, 300)[:, None]
    x[7, :30] = -torch.inf
    x[8] = -torch.inf
    found = module(x).numpy()
    assert not found[8].any() and not found[7, :30].any()
    x[8] = 0
    found[8] = 1 / 40
    expected = x.double().softmax(-1).numpy()
    # The argument is off by half of a unit of its exponent, the result by half of one of 2^-15 (docs/research/softmax.md).
    bound = np.expm1(np.log(2) / 2**fraction) / 4 + 41 / 2**29 + 2**-16 + 1e-7
    error = float(np.abs(found - expected).max())
    assert 0.3 * bound < error <= bound


def test_gradients_are_those_of_floats() -> None:
    torch.manual_seed(1)
    x = torch.randn(20, 32)
    attended = torch.randn(2, 6, 3 * 32)

    def attention(rows: Any) -> Any:
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in rows.split(32, -1))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)

    norm = scattered(rin.torch.IntegerLayerNorm(32, input_most=6.0, output_most=6.0))
    rms = scattered(rin.torch.IntegerRMSNorm(32, input_most=6.0))
    linear = scattered(rin.torch.IntegerLinear(32, 7, input_most=6.0, output_most=20.0))
    pairs: list[tuple[Any, Any, Any]] = [
        (rin.torch.IntegerSoftmax(), lambda rows: rows.softmax(-1), x),
        (norm, lambda rows: nn.functional.layer_norm(rows, (32,), norm.weight, norm.bias), x),
        (rms, lambda rows: nn.functional.rms_norm(rows, (32,), rms.weight, 1e-5), x),
        (linear, lambda rows: nn.functional.linear(rows, linear.weight, linear.bias), x),
        (rin.torch.IntegerAttention(32, 4, positions=6, input_most=6.0), attention, attended),
    ]
    for module, smooth, rows in pairs:
        one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        found, expected = module(one), smooth(other)
        far = (found - expected).abs().max().item()
        assert 0 < far < 0.02 * expected.abs().max().item(), type(module).__name__
        weights = torch.randn(found.shape)
        parameters = list(module.parameters())
        (found * weights).sum().backward()
        gradients = [parameter.grad.clone() for parameter in parameters]
        module.zero_grad()
        (expected * weights).sum().backward()
        assert torch.allclose(one.grad, other.grad, atol=1e-5)
        for parameter, gradient in zip(parameters, gradients):
            # The gain of the integer RMS norm meets integers, not floats.
            assert torch.allclose(gradient, parameter.grad, atol=3e-3 if module is rms else 1e-5)


@pytest.mark.parametrize("width", [5, 48, 300])
def test_layer_norms_are_the_engines_to_the_bit(tmp_path: Path, width: int) -> None:
    torch.manual_seed(width)
    module = scattered(rin.torch.IntegerLayerNorm(width, 1e-3, input_most=3.0, output_most=4.0))
    x = torch.randn(200, width) * torch.logspace(-5, 2, 200)[:, None] + 0.3
    x[3], x[4] = 0, 2.0
    rin.torch.export(module, tmp_path / "x.rin", kind="values")
    found = run(tmp_path / "x.rin", x)
    assert np.array_equal(found, module(x).detach().numpy())
    near = nn.functional.layer_norm(x, (width,), module.weight, module.bias, 1e-3).detach().numpy()
    within = slice(80, 150)
    assert float(np.abs(found[within] - near[within]).max()) < 3e-3


@pytest.mark.parametrize("most", [1.0, 30.0])
def test_attention_is_the_engines_to_the_bit(tmp_path: Path, most: float) -> None:
    torch.manual_seed(4)
    module = rin.torch.IntegerAttention(48, 3, positions=40, input_most=most)
    x = torch.randn(5, 40, 3 * 48) * most / 2
    rin.torch.export(module, tmp_path / "x.rin", kind="values", name="attention")
    found = run(tmp_path / "x.rin", x)
    assert np.array_equal(found.reshape(5, 40, 48), module(x).numpy()) and float(np.ptp(found)) > most / 4


@pytest.mark.parametrize("inputs,outputs", [(3, 5), (64, 48), (250, 17)])
def test_products_are_the_engines_to_the_bit(tmp_path: Path, inputs: int, outputs: int) -> None:
    torch.manual_seed(inputs)
    module = scattered(rin.torch.IntegerLinear(inputs, outputs, input_most=4.0, output_most=20.0))
    x = torch.randn(100, inputs) * torch.logspace(-4, 2, 100)[:, None]
    x[9] = 0
    rin.torch.export(module, tmp_path / "x.rin")
    assert np.array_equal(run(tmp_path / "x.rin", x), module(x).detach().numpy())


def test_chains_train_and_run(tmp_path: Path) -> None:
    torch.manual_seed(8)
    x = torch.randn(64, 6, 16)
    y = (x[:, :, 0].sum(1) > 0).float()
    module = nn.Sequential(
        rin.torch.IntegerLinear(16, 48, input_most=4.0, output_most=6.0),
        nn.Sequential(rin.torch.IntegerAttention(16, 2, positions=6, input_most=6.0)),
        rin.torch.IntegerLinear(16, 8, input_most=6.0, output_most=8.0),
        rin.torch.IntegerLayerNorm(8, input_most=8.0, output_most=8.0),
    )
    optimizer = torch.optim.Adam(module.parameters(), 2e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.binary_cross_entropy_with_logits(module(x)[:, :, 0].mean(1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    rin.torch.export(module, tmp_path / "x.rin")
    assert np.array_equal(run(tmp_path / "x.rin", x).reshape(64, 6, 8), module(x).detach().numpy())


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.rin"
    norm = rin.torch.IntegerLayerNorm(4, input_most=1.0, output_most=1.0)
    lone = [
        (rin.torch.IntegerSoftmax(), "IntegerSoftmax", "IntegerAttention"),
        (rin.torch.IntegerRMSNorm(4, input_most=1.0), "IntegerRMSNorm", "IntegerLayerNorm"),
        (nn.Sequential(nn.Linear(4, 4), norm), "IntegerLayerNorm", "chain"),
    ]
    for module, place, why in lone:
        with pytest.raises(UnsupportedError, match=why) as caught:
            rin.torch.export(module, path)
        assert caught.value.place == place
    wider = rin.torch.IntegerLayerNorm(4, input_most=2.0, output_most=1.0)
    other = rin.torch.IntegerLayerNorm(5, input_most=1.0, output_most=1.0)
    for second, place in [(wider, "input_most"), (other, "IntegerLayerNorm")]:
        with pytest.raises(InvalidInputError) as refused:
            rin.torch.export(nn.Sequential(norm, second), path)
        assert refused.value.place == place
    with pytest.raises(InvalidInputError, match="integers"):
        rin.torch.export(norm, path, quant="Q8_0")
    tight = rin.torch.IntegerLinear(4, 4, input_most=4.0, output_most=1e-6)
    with pytest.raises(InvalidInputError, match="output_most"):
        rin.torch.export(tight, path)
    assert not path.exists()
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidInputError):
            rin.torch.IntegerLayerNorm(4, input_most=wrong, output_most=1.0)
    with pytest.raises(InvalidInputError):
        rin.torch.IntegerSoftmax(13)
    with pytest.raises(InvalidInputError):
        rin.torch.IntegerAttention(10, 3, positions=4, input_most=1.0)
