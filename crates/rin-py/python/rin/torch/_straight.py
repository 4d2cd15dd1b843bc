"""Values with the gradient of others, and tensors as arrays."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


class _Straight(torch.autograd.Function):
    """A value with the gradient of another. (Adding their difference would round.)"""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.to(smooth.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(smooth: Tensor, exact: Tensor) -> Tensor:
    """The value of ``exact`` with the gradient of ``smooth``."""
    return cast("Tensor", _Straight.apply(smooth, exact))


def numpy(values: Tensor, dtype: str) -> np.ndarray[Any, Any]:
    """The values of a tensor as an array."""
    return np.asarray(values.detach().cpu().numpy(), dtype=dtype)
