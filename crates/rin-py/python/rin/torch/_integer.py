"""Softmax, norms, attention and products in integers: the forward pass is the engine's, gradients pass straight through.

Values are floats at the seams and rows of integers within: ``round(x / step)``, where the largest magnitude that is expected
becomes 2^18, and 2^20 is where it stops (``docs/network.md``, Encoders and residuals).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._types import Json
from .._types import Tensor as Array
from ..errors import InvalidInputError
from . import _whole as whole
from ._straight import numpy, straight_through


def _step(most: float, name: str) -> float:
    if not (most > 0 and math.isfinite(most)):
        raise InvalidInputError(f"{name} is a magnitude above 0, not {most}", kind="InvalidInput", place=name)
    return most / whole.UNIT


def _narrow(x: float) -> float:
    return float(np.float32(x))


class IntegerModule(nn.Module):
    """A module that RIN runs in integers; a chain of them, where each takes the range that the one before it gives, can be
    exported."""

    input_step: float
    """One step of what comes in."""
    output_step: float
    """One step of what goes out."""
    positions: int | None = None
    """Most positions of its sequences, where it reads sequences."""

    def _read(self, input: Tensor) -> Tensor:
        inverse = torch.tensor(1.0) / torch.tensor(self.input_step)
        return whole.bounded((input.detach().float() * inverse).round().long())

    def _give(self, smooth: Tensor, exact: Tensor) -> Tensor:
        return straight_through(smooth, exact.float() * torch.tensor(self.output_step))

    def widths(self) -> tuple[int | None, int | None]:
        """Numbers of a row that comes in and of one that goes out; None where any will do."""
        raise NotImplementedError

    def node(self, place: str) -> tuple[Json, Json, list[Array], dict[str, list[int]]]:
        """The operation, what it multiplies with, its tensors, and its matrices, as a ``.rin`` file has them."""
        raise NotImplementedError


def _array(name: str, values: Any) -> Array:
    array = np.asarray(values, dtype="<i4")
    return name, "I32", list(array.shape), array.tobytes()


class IntegerSoftmax(nn.Module):
    """Softmax over the last dimension in integers: exponents of base 2 with some fractional bits, powers from a table and a
    shift, one rounded division; probabilities in steps of 2^-15. Of 8 fractional bits none is off by more than 7e-4
    (``docs/research/softmax.md``). Scores of −∞ are masked. The gradient is that of the softmax.

    RIN runs it within an :class:`IntegerAttention`; alone it cannot be exported.

    Shapes: any, to the same, float32.

    Args:
        fraction: fractional bits of exponents, 0 to 12. The engine has 8.
    """

    def __init__(self, fraction: int = 8) -> None:
        super().__init__()
        if not 0 <= fraction <= 12:
            raise InvalidInputError(f"fraction is 0 to 12, not {fraction}", kind="InvalidInput", place="fraction")
        self.fraction = fraction
        self.register_buffer("table", whole.powers(fraction), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            masked = input == -math.inf
            scaled = input.double().masked_fill(masked, 0) * (math.log2(math.e) * 2**self.fraction)
            found = whole.shares(scaled.round().clamp(-1e17, 1e17).long(), masked, cast("Tensor", self.table))
        # Rows that are masked as a whole are zeros.
        smooth = input.masked_fill(masked.all(-1, keepdim=True), 0).softmax(-1)
        return straight_through(smooth, found.float() / 2**whole.SHARE_BITS)


class IntegerRMSNorm(nn.Module):
    """Root-mean-square norm in integers: an inverse root from a table of 64 entries and one Newton step, off by less than
    4.6e-5 of the result (``docs/research/norm.md``), results in steps of 2^-16, then the gain. The gradient is that of
    ``nn.RMSNorm``.

    No network of a ``.rin`` file has it, so that it cannot be exported; :class:`IntegerLayerNorm` can.

    Shapes: ``(…, width)`` to the same, float32.

    Args:
        width: numbers of a row, at most 2^20.
        eps: ε of the mean square.
        input_most: the largest magnitude of inputs that is expected.
    """

    def __init__(self, width: int, eps: float = 1e-5, *, input_most: float) -> None:
        super().__init__()
        self.width, self.eps, self.step = width, eps, _step(input_most, "input_most")
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, input: Tensor) -> Tensor:
        root = torch.rsqrt(input.square().mean(-1, keepdim=True) + self.eps)
        with torch.no_grad():
            x = whole.bounded((input.double() / self.step).round().long())
            epsilon = round(self.eps / self.step**2) * self.width
            factor, fraction = whole.root_factor((x * x).sum(-1, keepdim=True) + epsilon, self.width)
            # 21 bits times at most 41.
            found = whole.shifted(x * factor, (fraction - whole.UNIT_BITS).clamp(min=1))
            unit = found.float() / 2**whole.UNIT_BITS
        return straight_through(input * root, unit) * self.weight


class IntegerLayerNorm(IntegerModule):
    """Layer norm in integers, to the bit as the engine has it: ``c sqrt(n) / sqrt(sum of c² + n ε) * gain + bias`` with
    ``c`` the element less the mean. The gradient is that of ``nn.LayerNorm``.

    Shapes: ``(…, width)`` to the same, float32.

    Args:
        width: numbers of a row, at most 2^14.
        eps: ε of the variance.
        input_most: the largest magnitude of inputs that is expected; four times that is where it stops.
        output_most: the same of outputs.
    """

    def __init__(self, width: int, eps: float = 1e-5, *, input_most: float, output_most: float) -> None:
        super().__init__()
        if not 1 <= width <= 1 << 14:
            raise InvalidInputError(f"rows of {width} numbers, at most {1 << 14}", kind="InvalidInput", place="width")
        self.width, self.eps = width, eps
        self.input_step, self.output_step = _step(input_most, "input_most"), _step(output_most, "output_most")
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def widths(self) -> tuple[int | None, int | None]:
        return self.width, self.width

    def _numbers(self) -> tuple[Tensor, Tensor, int, int]:
        """Gain and bias in steps, the shift, ε."""
        with torch.no_grad():
            gain, bias = self.weight.double(), self.bias.double()
            wide, shift = float(gain.abs().max()) / self.output_step, 62
            while shift > 1 and wide * 2.0 ** (shift - whole.UNIT_BITS) >= 2.0**30:
                shift -= 1
            gains = whole.nearests(gain * (2.0 ** (shift - whole.UNIT_BITS) / self.output_step))
            squares = self.width * _narrow(self.eps) / (self.input_step * self.input_step) * 256.0
            return gains, whole.bounded(whole.nearests(bias / self.output_step)), shift, min(nearest_up(squares), 1 << 62)

    def forward(self, input: Tensor) -> Tensor:
        smooth = F.layer_norm(input, (self.width,), self.weight, self.bias, self.eps)
        gain, bias, shift, epsilon = self._numbers()
        x = self._read(input) << whole.CENTRE_BITS
        mean = (x.sum(-1, keepdim=True) + self.width // 2).div(self.width, rounding_mode="floor")
        centred = x - mean
        factor, fraction = whole.root_factor((centred * centred).sum(-1, keepdim=True) + epsilon, self.width)
        unit = (centred * factor) >> (fraction - whole.UNIT_BITS).clamp(0, 63)
        return self._give(smooth, whole.bounded(whole.shifted(unit * gain, shift) + bias))

    def node(self, place: str) -> tuple[Json, Json, list[Array], dict[str, list[int]]]:
        gain, bias, shift, epsilon = self._numbers()
        names = f"{place}.weight", f"{place}.bias"
        tensors = [_array(names[0], gain), _array(names[1], bias)]
        op = {"layer_norm": {"weight": names[0], "bias": names[1], "eps": self.eps}}
        return op, {"factors": [[0, shift]], "epsilon": epsilon}, tensors, {}


def nearest_up(x: float) -> int:
    """The nearest whole number of one that is not negative."""
    return math.floor(x + 0.5)


class IntegerAttention(IntegerModule):
    """Attention of every position to all of its sequence, in integers, to the bit as the engine has it: queries and keys of
    12 bits, values of 16, :class:`IntegerSoftmax` of 8 fractional bits. The gradient is that of attention in floats.

    Shapes: ``(batch, positions, 3 × width)``, queries, keys and values one after the other, each head by head, to ``(batch,
    positions, width)``, float32.

    Args:
        width: numbers of a position's queries.
        heads: a divisor of ``width``, of at most 256 numbers each.
        positions: most positions of a sequence, at most 2^14.
        input_most: the largest magnitude of inputs that is expected; what comes out has the same range.
    """

    def __init__(self, width: int, heads: int, *, positions: int, input_most: float) -> None:
        super().__init__()
        if heads < 1 or width % heads or not 1 <= width // heads <= 256 or not 1 <= positions <= 1 << 14:
            message = f"{heads} heads in {width} numbers over {positions} positions"
            raise InvalidInputError(message, kind="InvalidInput", place="width, heads, positions")
        self.width, self.heads, self.positions = width, heads, positions
        self.input_step = self.output_step = _step(input_most, "input_most")
        self.softmax = IntegerSoftmax(8)

    def widths(self) -> tuple[int | None, int | None]:
        return 3 * self.width, self.width

    def _factor(self) -> tuple[int, int]:
        # 9 bits of each operand are dropped; exponents have 8 fractional bits.
        unit = self.input_step * self.input_step * 2.0**18 * 2.0**8 * math.log2(math.e)
        return whole.fixed(unit / math.sqrt(self.width // self.heads))

    def forward(self, input: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in input.split(self.width, -1))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.width // self.heads)
        smooth = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(-2)
        with torch.no_grad():
            parts = self._read(input).split(self.width, -1)
            q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
            q, k = (((part + 256) >> 9).clamp(-2048, 2048).double() for part in (q, k))
            v = ((v + 16) >> 5).clamp(-32_767, 32_767).double()
            # Sums of doubles are exact here: below 2^31.
            dots = torch.einsum("bqhd,bkhd->bhqk", q, k).long()
            multiplier, shift = self._factor()
            exponents = whole.shifted(dots * multiplier, shift)
            found = whole.shares(exponents, None, cast("Tensor", self.softmax.table)).clamp(max=32_767)
            sums = torch.einsum("bhqk,bkhd->bqhd", found.double(), v).long().flatten(-2)
            exact = whole.bounded((sums + 512) >> 10)
        return self._give(smooth, exact)

    def node(self, place: str) -> tuple[Json, Json, list[Array], dict[str, list[int]]]:
        return {"attention": {"heads": self.heads}}, {"factors": [list(self._factor())]}, [], {}


class IntegerLinear(IntegerModule):
    """``nn.Linear`` in integers, to the bit as the engine has it: weights of 8 bits with a scale per output, each row brought
    to 8 bits by its own largest magnitude, sums of 32 bits, fixed-point scales. The gradient is that of ``nn.Linear``.

    Shapes: ``(…, in_features)`` to ``(…, out_features)``, float32.

    Args:
        in_features: numbers of a row that comes in, at most 2^16.
        out_features: numbers of a row that goes out.
        input_most: the largest magnitude of inputs that is expected; four times that is where it stops.
        output_most: the same of outputs.
    """

    def __init__(self, in_features: int, out_features: int, *, input_most: float, output_most: float) -> None:
        super().__init__()
        if not (1 <= in_features <= 1 << 16 and out_features >= 1):
            found = f"{in_features} to {out_features} numbers"
            raise InvalidInputError(found, kind="InvalidInput", place="in_features, out_features")
        self.in_features, self.out_features = in_features, out_features
        self.input_step, self.output_step = _step(input_most, "input_most"), _step(output_most, "output_most")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def widths(self) -> tuple[int | None, int | None]:
        return self.in_features, self.out_features

    def _numbers(self) -> tuple[Tensor, Tensor, list[tuple[int, int]], tuple[int, int]]:
        """Weights and bias in whole numbers, a factor per output, and what a row's magnitude is multiplied with."""
        with torch.no_grad():
            weight = self.weight.double()
            units = weight.abs().amax(1) / 127
            units = torch.where(units > 0, units, torch.ones_like(units))
            codes = whole.nearests(weight / units[:, None])
            relative = (units / self.output_step).tolist()
            bias = whole.bounded(whole.nearests(self.bias.double() / self.output_step))
        most = max(relative)
        if most * self.input_step > 127 / 2:
            message = "outputs of that range need smaller weights, or output_most a larger one"
            raise InvalidInputError(message, kind="InvalidInput", place="output_most")
        # Factors of at most 1, as the product takes them.
        return codes, bias, [whole.fixed(r / most, 31) for r in relative], whole.fixed(most * self.input_step / 127)

    def forward(self, input: Tensor) -> Tensor:
        smooth = F.linear(input, self.weight, self.bias)
        codes, bias, factors, factor = self._numbers()
        rows, most = whole.to_bytes(self._read(input))
        # Below 2^31, so that doubles are exact.
        sums = F.linear(rows.double(), codes.double()).long()
        multiplier, shift = torch.tensor(factors).T
        scaled = whole.shifted(sums * multiplier, shift)
        multipliers, shifts = whole.times(factor, most)
        return self._give(smooth, whole.bounded(whole.shifted(scaled * multipliers, shifts) + bias))

    def node(self, place: str) -> tuple[Json, Json, list[Array], dict[str, list[int]]]:
        codes, bias, factors, factor = self._numbers()
        outputs, inputs = -(-self.out_features // 16) * 16, -(-self.in_features // 16) * 16
        padded = np.zeros((outputs, inputs), dtype=np.int8)
        padded[: self.out_features, : self.in_features] = numpy(codes, "i1")
        # Lines of 16 outputs by 4 inputs, plus 128.
        lines = padded.reshape(outputs // 16, 16, inputs // 4, 4).transpose(0, 2, 1, 3).astype(np.int16) + 128
        name, more = f"{place}.weight", outputs - self.out_features
        multiplier, shift = zip(*factors, *[(0, 31)] * more)
        tensors = [
            (name, "U8", [outputs, inputs], lines.astype(np.uint8).tobytes()),
            _array(f"{name}.multiplier", multiplier),
            _array(f"{name}.shift", shift),
            _array(f"{place}.bias", bias),
        ]
        op = {"dense": {"weight": name, "bias": f"{place}.bias"}}
        return op, {"factors": [list(factor)]}, tensors, {name: [self.out_features, inputs]}


def describe_chain(modules: list[IntegerModule]) -> tuple[Json, list[Array]]:
    """A chain of modules as the network of a ``.rin`` file, and its tensors."""
    nodes, scales, tensors, matrices = [], [], [], {}
    name, width, step = "input", modules[0].widths()[0], modules[0].input_step
    for at, module in enumerate(modules):
        place = type(module).__name__
        takes, gives = module.widths()
        if takes != width:
            message = f"{place} takes {takes} values, the module before it gives {width}"
            raise InvalidInputError(message, kind="BadShape", place=place)
        if module.input_step != step:
            ranges = f"{module.input_step * whole.UNIT}, the module before it gives {step * whole.UNIT}"
            message = f"{place} takes values of a magnitude of {ranges}"
            raise InvalidInputError(message, kind="InvalidInput", place="input_most")
        output = f"v{at + 1}"
        op, factors, more, of_matrices = module.node(output)
        nodes.append({"inputs": [name], "output": output, "op": op})
        scales.append(factors)
        tensors += more
        matrices.update(of_matrices)
        name, width, step = output, gives, module.output_step
    positions = {module.positions for module in modules} - {None}
    if len(positions) > 1:
        raise InvalidInputError("attentions over one number of positions", kind="BadShape", place="positions")
    shape = [*positions, modules[0].widths()[0]]
    port: Json = {"name": "input", "shape": shape}
    if positions:
        port["kind"] = "sequence"
    body = {
        "nodes": nodes,
        "scales": scales,
        "input_steps": [_narrow(modules[0].input_step)],
        "output_steps": [_narrow(step)],
        "matrices": matrices,
    }
    return {
        "mode": "rin",
        "inputs": [port],
        "outputs": [{"name": name}],
        "body": {"whole": body},
    }, tensors
