"""Spiking networks whose forward pass is the engine's integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .._types import Json
from .._types import Tensor as Array
from ..errors import InvalidInputError
from ._straight import numpy, straight_through


class _Spike(torch.autograd.Function):
    """A spike that was decided in integers, with a surrogate gradient at its distance from the threshold."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, spikes: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate, ctx.slope = surrogate, slope
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (distance,) = ctx.saved_tensors
        slope = ctx.slope
        if ctx.surrogate == "atan":
            derivative = 0.5 * slope / (1 + (0.5 * math.pi * slope * distance) ** 2)
        else:
            derivative = 1 / (1 + slope * distance.abs()) ** 2
        return gradients[0] * derivative, None, None, None


class _Integers:
    """A spiking layer as the engine holds it."""

    LARGEST = 4_194_304.0
    MOST_SHIFT = 10

    def __init__(self, weight: Tensor, bias: Tensor, last: bool) -> None:
        self.unit = weight.abs().amax(0).clamp(min=1e-6) / 127
        most = float((bias.abs().clamp(min=1.0) / self.unit).double().max())
        fitting = (s for s in range(self.MOST_SHIFT, -1, -1) if most * 2**s <= self.LARGEST)
        self.shift = next(fitting, 0)
        unit = self.unit.double()
        self.weights = (weight / self.unit).round().clamp(-127, 127)
        self.current = (bias.double() / unit * 2**self.shift).round()
        ones = torch.ones_like(unit)
        self.threshold = torch.full_like(unit, 2.0**31 - 1) if last else (ones / unit * 2**self.shift).round()
        self.real = (unit / 2**self.shift).float()


class SpikingNetwork(nn.Module):
    """Layers of leaky integrate-and-fire neurons over time steps, whose forward pass is the engine's integer network, to the
    bit: 8-bit weights, a membrane of 24 bits, a leak of ``1 - 2**-leak``; see ``docs/snn.md``.

    A row is a constant current of 7 bits with sign; the answer of an output neuron, which never spikes, is its mean membrane.

    Shapes: ``(batch, widths[0])`` to ``(batch, widths[-1])``, float32. Thresholds are 1.

    Args:
        widths: inputs, hidden layers, outputs.
        steps: time steps of a row.
        leak: what a step loses of a membrane, as a power of two.
        reset: what a spike does: ``"subtract"`` or ``"zero"``.
        surrogate: gradient of a spike: ``"atan"`` or ``"fast_sigmoid"``.
        slope: its steepness.
        scale: factor on the inputs, which brings them to at most 1.
    """

    def __init__(
        self,
        widths: Sequence[int],
        steps: int,
        *,
        leak: int = 3,
        reset: str = "subtract",
        surrogate: str = "atan",
        slope: float = 2.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1 or steps < 1 or not 1 <= leak <= 12:
            raise InvalidInputError("a spiking network has 2 widths at least, 1 step at least, and a leak of 1 to 12")
        if reset not in ("subtract", "zero") or surrogate not in ("atan", "fast_sigmoid"):
            raise InvalidInputError("reset is subtract or zero, surrogate is atan or fast_sigmoid")
        self.widths, self.steps, self.leak = list(widths), steps, leak
        self.reset, self.surrogate, self.slope, self.scale = reset, surrogate, slope, scale
        pairs = list(zip(widths, widths[1:]))
        self.weights = nn.ParameterList(torch.randn(n, m) * math.sqrt(2 / n) for n, m in pairs)
        """Per layer ``(inputs, outputs)``."""
        self.biases = nn.ParameterList(torch.zeros(m) for _, m in pairs)
        """Per layer ``(outputs)``."""

    @property
    def keep(self) -> int:
        """What a step keeps of a membrane, of 4096."""
        return int(4096 - 2 ** (12 - self.leak))

    def _layers(self) -> list[_Integers]:
        last = len(self.widths) - 2
        with torch.no_grad():
            pairs = zip(self.weights, self.biases)
            return [_Integers(weight, bias, at == last) for at, (weight, bias) in enumerate(pairs)]

    def forward(self, input: Tensor) -> Tensor:
        layers = self._layers()
        beta = 1 - 2.0**-self.leak
        scaled = input * self.scale * 128
        entered = straight_through(scaled, scaled.round().clamp(-127, 127))
        # In real numbers with gradients, and in integers (in doubles, exactly) beside them, which decide.
        trains: list[tuple[Tensor, Tensor]] = []
        found = input.new_zeros(input.shape[0], self.widths[-1])
        for at, layer in enumerate(layers):
            weight = straight_through(self.weights[at], layer.weights * layer.unit)
            codes = layer.weights.double()
            constant = self.biases[at]
            drive = layer.current
            if at == 0:
                constant = constant + entered / 128 @ weight
                sums = entered.detach().double() @ codes
                drive = drive + ((sums * 2**layer.shift + 64) / 128).floor()
            v = input.new_zeros(input.shape[0], self.widths[at + 1])
            exact = v.double()
            total = torch.zeros_like(exact)
            smooth = torch.zeros_like(v)
            spikes: list[tuple[Tensor, Tensor]] = []
            for t in range(self.steps):
                current, integer = constant, drive
                if at > 0:
                    before, fired = trains[t]
                    current = current + before @ weight
                    integer = integer + fired @ codes * 2**layer.shift
                kept = (exact.abs() * self.keep / 4096).floor() * exact.sign()
                exact = (kept + integer).clamp(-(2**23 - 1), 2**23 - 1)
                v = straight_through(beta * v + current, (exact * layer.real.double()).float())
                total, smooth = total + exact, smooth + v
                if at == len(layers) - 1:
                    continue
                above = (exact > layer.threshold).double()
                spike = cast("Tensor", _Spike.apply(v - 1, above.float(), self.surrogate, self.slope))
                spikes.append((spike, above))
                if self.reset == "zero":
                    exact, v = exact * (1 - above), v * (1 - above.float())
                else:
                    exact, v = exact - above * layer.threshold, v - above.float()
            trains = spikes
            if at == len(layers) - 1:
                mean = (total / self.steps * layer.real.double()).float()
                found = straight_through(smooth / self.steps, mean)
        return found

    def _describe(self) -> tuple[Json, list[Array]]:
        layers, tensors = [], []
        for at, layer in enumerate(self._layers()):
            n = self.widths[at + 1]
            layers.append(
                {
                    "outputs": n,
                    "shift": layer.shift,
                    "reset": self.reset,
                    "synapse": False,
                    "units": True,
                    "projections": ["input" if at == 0 else {"layer": at - 1}],
                }
            )
            arrays = {
                "keep_v": ("U16", np.full(n, self.keep, dtype="<u2")),
                "threshold": ("I32", numpy(layer.threshold, "<i4")),
                "current": ("I32", numpy(layer.current, "<i4")),
                "bias": ("I32", np.zeros(n, dtype="<i4")),
                "unit": ("F32", numpy(layer.real, "<f4")),
                "weight.0": ("I8", numpy(layer.weights, "i1")),
            }
            for name, (dtype, values) in arrays.items():
                tensors.append((f"layer.{at}.{name}", dtype, list(values.shape), values.tobytes()))
        coding = {"direct": {"scale": self.scale}}
        spiking = {"steps": self.steps, "coding": coding, "readout": "membrane", "layers": layers}
        return {
            "mode": "snn",
            "inputs": [{"name": "input", "shape": [self.widths[0]]}],
            "outputs": [{"name": "output", "kind": "logits"}],
            "body": {"spiking": spiking},
        }, tensors
