"""The engine's arithmetic of rows of 32-bit integers, in int64 tensors: what ``rin_kernels::ops::wide`` defines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MOST = 1 << 20
"""The largest magnitude of an element; what would be larger stays there."""
UNIT = 1 << 18
"""What the largest magnitude that is expected becomes."""
CENTRE_BITS, ROOT_BITS, UNIT_BITS = 4, 30, 16
SHARE_BITS = 15
"""Fractional bits of a probability."""
TABLE_BITS = 30


def bounded(x: Tensor) -> Tensor:
    return x.clamp(-MOST, MOST)


def nearest(x: float) -> int:
    """The nearest whole number of 32 bits, halves away from zero."""
    return max(-(2**31), min(2**31 - 1, math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1)))


def nearests(x: Tensor) -> Tensor:
    """Of doubles, halves away from zero."""
    return ((x.abs() + 0.5).floor() * x.sign()).clamp(-(2**31), 2**31 - 1).long()


def fixed(factor: float, least: int = 1) -> tuple[int, int]:
    """A factor as ``multiplier / 2^shift``, of 31 bits where the shifts from ``least`` to 62 allow it."""
    shift, scaled = least, factor * 2.0**least
    while scaled < 2.0**30 and shift < 62:
        shift, scaled = shift + 1, scaled * 2
    return nearest(scaled), shift


def shifted(x: Tensor, shift: Tensor | int) -> Tensor:
    """``x / 2^shift``, rounded to nearest, halves up."""
    half = torch.as_tensor(1, dtype=torch.int64) << (torch.as_tensor(shift) - 1)
    return (x + half) >> shift


def bits(x: Tensor) -> Tensor:
    """Bits that a number above 0 takes; 0 for 0."""
    # A double may round a number of 63 bits up to the next power of two.
    guess = torch.frexp(x.double()).exponent.long()
    return guess - ((x >> (guess - 1).clamp(0, 63)) == 0).long() * (guess > 0)


def _roots() -> list[int]:
    """The best constant for the inverse root in each of 64 intervals of [1, 4), with 15 fractional bits."""
    table = []
    for i in range(64):
        octave = 1 << (i // 32)
        low = octave * (32 + i % 32)
        roots = math.isqrt(low << 43) + math.isqrt((low + octave) << 43)
        table.append(((1 << 40) + roots // 2) // roots)
    return table


_ROOTS = torch.tensor(_roots())


def root_factor(total: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``√n / √total`` as a number and its fractional bits; zero for a total of zero."""
    e = (bits(total) - 1).clamp(min=0) // 2
    m = torch.where(2 * e >= ROOT_BITS, total >> (2 * e - ROOT_BITS).clamp(min=0), total << (ROOT_BITS - 2 * e).clamp(min=0))
    octave = (m >= 2 << ROOT_BITS).long()
    y = _ROOTS[32 * octave + (m >> (ROOT_BITS - 5 + octave)) % 32]
    # Three, and half of the largest error of a Newton step.
    root = (y * ((3 << ROOT_BITS) + 98_304 - ((m * (y * y)) >> 30))) >> 16
    count = math.isqrt(n << 64)
    found = root * (count >> 32) + ((root * (count & 0xFFFFFFFF)) >> 32)
    none = total == 0
    return found.masked_fill(none, 0), (ROOT_BITS + e).masked_fill(none, 0)


def powers(fraction: int) -> Tensor:
    """``round(2^30 · 2^-(i / 2^fraction))``."""
    roots = [1 << 61]
    for _ in range(fraction):
        roots.append(math.isqrt(roots[-1] << 62))
    table = []
    for i in range(1 << fraction):
        product = 1 << 62
        for bit in range(fraction):
            if i >> bit & 1:
                product = (product * roots[fraction - bit] + (1 << 61)) >> 62
        table.append((product + (1 << 31)) >> 32)
    return torch.tensor(table)


def shares(exponents: Tensor, masked: Tensor | None, table: Tensor) -> Tensor:
    """The softmax over the last dimension of exponents of base 2, in units of 2^-15; zeros where all are masked."""
    fraction = len(table).bit_length() - 1
    if masked is not None:
        exponents = exponents.masked_fill(masked, -(2**61))
    u = exponents.amax(-1, keepdim=True) - exponents
    weights = table[u & (len(table) - 1)] >> (u >> fraction).clamp(max=TABLE_BITS + 1)
    if masked is not None:
        weights = weights.masked_fill(masked, 0)
    total = weights.sum(-1, keepdim=True)
    return ((weights << SHARE_BITS) + total // 2) // total.clamp(min=1)


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits by their largest magnitude, which comes back too."""
    most = x.abs().amax(-1, keepdim=True)
    at_least = most.clamp(min=1)
    shift = 23 + bits(at_least)
    inverse = (torch.as_tensor(127) << shift) // at_least
    return shifted(x * inverse, shift), most


def times(factor: tuple[int, int], most: Tensor) -> tuple[Tensor, Tensor]:
    """A factor times a whole number of 21 bits, kept to 31 bits."""
    multiplier, shift = factor
    product = most * multiplier
    drop = (bits(product) - 31).clamp(0, shift - 1)
    return (product >> drop).clamp(max=2**31 - 1), shift - drop
