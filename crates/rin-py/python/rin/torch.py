"""Modules of PyTorch that RIN runs, and the way from the one to the other.

What :func:`export` writes, :class:`rin.RinEngine` runs: feed-forward networks of the usual modules, :class:`QuantLinear`,
whose forward pass is the engine's integer product, and :class:`SpikingNetwork`, whose forward pass is the engine's integers
from input to output. Rounding passes gradients straight through (Bengio, Léonard and Courville 2013), spikes pass those of a
surrogate (Neftci, Mostafa and Zenke 2019), so that all of them train as they are.

    model = nn.Sequential(QuantLinear(784, 256), nn.ReLU(), QuantLinear(256, 10))
    ...                                             # train it
    rin.torch.export(model, "digits.rin", quant="Q8_0")
    with rin.RinEngine("digits.rin") as engine:
        engine.infer(images)                        # what model(images) gives, within 1e-5

Needs PyTorch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from . import _arguments
from ._backend import backend
from ._types import Json, Path
from ._types import Tensor as _Array
from .errors import InvalidInputError, UnsupportedError

__all__ = ["QuantLinear", "Residual", "SpikingNetwork", "export"]

_BLOCK = 32


class _Straight(torch.autograd.Function):
    """A value with the gradient of another. (Adding their difference would round.)"""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.to(smooth.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _straight_through(smooth: Tensor, exact: Tensor) -> Tensor:
    """The value of ``exact`` with the gradient of ``smooth``."""
    return cast("Tensor", _Straight.apply(smooth, exact))


class QuantLinear(nn.Linear):
    """``nn.Linear`` whose forward pass is the engine's product in Q8_0: weights and rows in 8 bits with a scale per 32 values,
    sums of integers, one fused multiply-add per block. The gradient is that of ``nn.Linear``.

    Shapes: ``(…, in_features)`` to ``(…, out_features)``, float32. Export it with ``quant="Q8_0"``.
    """

    def forward(self, input: Tensor) -> Tensor:
        smooth = nn.functional.linear(input, self.weight, self.bias)
        with torch.no_grad():
            exact = self._product(input.reshape(-1, self.in_features)).reshape(smooth.shape)
        return _straight_through(smooth, exact)

    def _product(self, rows: Tensor) -> Tensor:
        padding = (0, -self.in_features % _BLOCK)
        weights = nn.functional.pad(self.weight, padding).reshape(self.out_features, -1, _BLOCK)
        values = nn.functional.pad(rows, padding).reshape(rows.shape[0], -1, _BLOCK)
        # Of ggml's reference quantiser: codes by the scale in f32, which is then stored in f16.
        step = weights.abs().amax(-1, keepdim=True) / 127
        inverse = torch.where(step == 0, torch.zeros_like(step), 1 / step)
        scaled = weights * inverse
        codes = (scaled.abs() + 0.5).floor() * scaled.sign()
        weight_scale = step.half().float()[..., 0]
        most = values.abs().amax(-1, keepdim=True)
        usable = most >= 127 * torch.finfo(torch.float32).tiny
        safe = torch.where(usable, most, torch.ones_like(most))
        rounded = torch.where(usable, (values * (127 / safe)).round().clamp(-127, 127), torch.zeros_like(values))
        row_scale = torch.where(usable, most / 127, torch.zeros_like(most))[..., 0]
        sums = torch.einsum("rbk,obk->bro", rounded.double(), codes.double())
        total = torch.zeros(rows.shape[0], self.out_features)
        for block, sum_of in enumerate(sums):
            scale = row_scale[:, block, None] * weight_scale[None, :, block]
            # A product of 24 and 24 bits is exact in a double, so that this rounds as a fused multiply-add does.
            total = (sum_of * scale.double() + total.double()).float()
        return total if self.bias is None else total + self.bias


class Residual(nn.Module):
    """``function(body(x) + x)``.

    Args:
        body: a module that keeps the width.
        function: an activation of :func:`export`; None is none.
    """

    def __init__(self, body: nn.Module, function: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        sum_of = self.body(input) + input
        return cast("Tensor", sum_of if self.function is None else self.function(sum_of))


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
        entered = _straight_through(scaled, scaled.round().clamp(-127, 127))
        # In real numbers with gradients, and in integers (in doubles, exactly) beside them, which decide.
        trains: list[tuple[Tensor, Tensor]] = []
        found = input.new_zeros(input.shape[0], self.widths[-1])
        for at, layer in enumerate(layers):
            weight = _straight_through(self.weights[at], layer.weights * layer.unit)
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
                v = _straight_through(beta * v + current, (exact * layer.real.double()).float())
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
                found = _straight_through(smooth / self.steps, mean)
        return found

    def _describe(self) -> tuple[Json, list[_Array]]:
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
                "threshold": ("I32", _numpy(layer.threshold, "<i4")),
                "current": ("I32", _numpy(layer.current, "<i4")),
                "bias": ("I32", np.zeros(n, dtype="<i4")),
                "unit": ("F32", _numpy(layer.real, "<f4")),
                "weight.0": ("I8", _numpy(layer.weights, "i1")),
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


def _numpy(values: Tensor, dtype: str) -> np.ndarray[Any, Any]:
    return np.asarray(values.detach().cpu().numpy(), dtype=dtype)


def _function(module: nn.Module) -> str | None:
    """The engine's name of an activation; None for another module."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    if isinstance(module, nn.LeakyReLU) and module.negative_slope != 0.01:
        raise UnsupportedError("the engine's leaky ReLU has the slope 0.01", kind="Unsupported", place="LeakyReLU")
    names: dict[type[nn.Module], str] = {
        nn.ReLU: "relu",
        nn.ReLU6: "relu6",
        nn.LeakyReLU: "leaky_relu",
        nn.SiLU: "silu",
        nn.Tanh: "tanh",
        nn.Sigmoid: "sigmoid",
        nn.Hardsigmoid: "hard_sigmoid",
        nn.Hardswish: "hard_swish",
    }
    return names.get(type(module))


class _Writer:
    """Writes modules down as the nodes of a network."""

    def __init__(self) -> None:
        self.nodes: list[Json] = []
        self.tensors: list[_Array] = []
        self.width: int | None = None
        self.inputs: int | None = None
        self.kept: set[str] = set()
        """Values that are needed as they are."""

    def node(self, op: Json | str, inputs: list[str]) -> str:
        name = f"v{len(self.nodes) + 1}"
        self.nodes.append({"inputs": inputs, "output": name, "op": op})
        return name

    def tensor(self, name: str, values: Tensor) -> str:
        array = _numpy(values, "<f4")
        self.tensors.append((name, "F32", list(array.shape), array.tobytes()))
        return name

    def widen(self, module: nn.Module, inputs: int, outputs: int) -> None:
        if self.width is None:
            self.inputs = inputs
        elif self.width != inputs:
            message = f"{type(module).__name__} takes {inputs} values, the module before it gives {self.width}"
            raise InvalidInputError(message, kind="BadShape", place=type(module).__name__)
        self.width = outputs

    def activate(self, function: str, x: str) -> str:
        """Within the node that made the value, where it has room for a function."""
        op = self.nodes[-1]["op"] if self.nodes and self.nodes[-1]["output"] == x else None
        if isinstance(op, dict) and x not in self.kept:
            ((kind, fields),) = op.items()
            if kind in ("dense", "scale", "add") and "function" not in fields:
                fields["function"] = function
                return x
        return self.node({"activation": {"function": function}}, [x])

    def write(self, module: nn.Module, x: str) -> str:
        if isinstance(module, nn.Sequential):
            for part in module:
                x = self.write(part, x)
            return x
        if isinstance(module, Residual):
            before = self.width
            self.kept.add(x)
            body = self.write(module.body, x)
            if before is not None and self.width != before:
                raise InvalidInputError("the body of a Residual keeps the width", kind="BadShape", place="Residual")
            found = self.node({"add": {}}, [body, x])
            return found if module.function is None else self.write(module.function, found)
        if isinstance(module, (nn.Identity, nn.Flatten)) or (
            isinstance(module, (nn.Dropout, nn.AlphaDropout)) and not module.training
        ):
            return x
        function = _function(module)
        if function is not None:
            return self.activate(function, x)
        place = f"w{len(self.nodes) + 1}"
        if isinstance(module, nn.Linear):
            self.widen(module, module.in_features, module.out_features)
            dense: Json = {"weight": self.tensor(f"{place}.weight", module.weight)}
            if module.bias is not None:
                dense["bias"] = self.tensor(f"{place}.bias", module.bias)
            return self.node({"dense": dense}, [x])
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
            (n,) = module.normalized_shape
            self.widen(module, n, n)
            one, zero = torch.ones(n), torch.zeros(n)
            fields: Json = {
                "weight": self.tensor(f"{place}.weight", one if module.weight is None else module.weight),
                "bias": self.tensor(f"{place}.bias", zero if module.bias is None else module.bias),
                "eps": module.eps,
            }
            return self.node({"layer_norm": fields}, [x])
        if isinstance(module, nn.BatchNorm1d) and module.running_var is not None and module.running_mean is not None:
            n = module.num_features
            self.widen(module, n, n)
            scale = 1 / torch.sqrt(module.running_var.double() + module.eps)
            if module.affine:
                scale = scale * module.weight.double()
            bias = -module.running_mean.double() * scale
            if module.affine:
                bias = bias + module.bias.double()
            scaling = {
                "weight": self.tensor(f"{place}.weight", scale),
                "bias": self.tensor(f"{place}.bias", bias),
            }
            return self.node({"scale": scaling}, [x])
        if isinstance(module, nn.Softmax) and module.dim in (-1, 1):
            return self.node("softmax", [x])
        name = type(module).__name__
        known = (
            "Sequential, Residual, Linear, QuantLinear, LayerNorm, BatchNorm1d, Softmax, Flatten, Identity, Dropout (of a "
            "module in eval mode), ReLU, ReLU6, LeakyReLU, GELU, SiLU, Tanh, Sigmoid, Hardsigmoid, Hardswish, SpikingNetwork"
        )
        raise UnsupportedError(f"{name} has no counterpart; there are {known}", kind="Unsupported", place=name)


def export(
    module: nn.Module,
    path: Path,
    *,
    quant: str | None = None,
    labels: Sequence[str] = (),
    kind: str = "logits",
    name: str | None = None,
    overwrite: bool = False,
) -> Json:
    """Writes a trained module as a ``.rin`` file, which :class:`rin.RinEngine` runs: in float within 1e-5 of the module.

    Args:
        module: an ``nn.Sequential`` (of these, too) of ``Linear``, :class:`QuantLinear`, ``LayerNorm``, ``BatchNorm1d``,
            activations, ``Softmax``, ``Flatten``, :class:`Residual`; or a :class:`SpikingNetwork`. In eval mode: batch norms
            and dropouts are what they are then.
        path: the file.
        quant: type that matrices are brought to, such as ``"Q8_0"``; None keeps float32.
        labels: names of the classes.
        kind: what the outputs are: ``"logits"``, ``"probabilities"`` or ``"values"``.
        name: a name of the network.
        overwrite: whether the file may be replaced.

    Returns:
        ``output``, ``bytes``, ``n_tensors``, ``sha256``.

    Raises:
        UnsupportedError: a module that the engine does not run; ``place`` names it.
        InvalidInputError: widths that do not fit, or a file that is there already.
    """
    if module.training and any(isinstance(part, (nn.BatchNorm1d, nn.Dropout)) for part in module.modules()):
        message = "the module is in training mode, where batch norms and dropouts compute something else: call eval() first"
        raise InvalidInputError(message, kind="BadInput", place="module")
    if isinstance(module, SpikingNetwork):
        network, tensors = module._describe()
    else:
        writer = _Writer()
        last = writer.write(module, "input")
        if writer.inputs is None:
            raise InvalidInputError("the module holds no layer that says its width", kind="BadInput", place="module")
        network = {
            "mode": "mlp",
            "inputs": [{"name": "input", "shape": [writer.inputs]}],
            "outputs": [{"name": last, "kind": kind}],
            "body": {"nodes": writer.nodes},
        }
        tensors = writer.tensors
    if labels:
        network["outputs"][0]["labels"] = list(labels)
    if name is not None:
        network["name"] = name
    to = _arguments.path("path", path)
    return dict(json.loads(backend.write_network(to, json.dumps(network), tensors, quant, bool(overwrite))))
