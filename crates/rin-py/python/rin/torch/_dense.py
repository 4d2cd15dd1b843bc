"""Parts of feed-forward networks that PyTorch lacks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ._straight import straight_through

_BLOCK = 32


class QuantLinear(nn.Linear):
    """``nn.Linear`` whose forward pass is the engine's product in Q8_0: weights and rows in 8 bits with a scale per 32 values,
    sums of integers, one fused multiply-add per block. The gradient is that of ``nn.Linear``.

    Shapes: ``(…, in_features)`` to ``(…, out_features)``, float32. Export it with ``quant="Q8_0"``.
    """

    def forward(self, input: Tensor) -> Tensor:
        smooth = nn.functional.linear(input, self.weight, self.bias)
        with torch.no_grad():
            exact = self._product(input.reshape(-1, self.in_features)).reshape(smooth.shape)
        return straight_through(smooth, exact)

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
