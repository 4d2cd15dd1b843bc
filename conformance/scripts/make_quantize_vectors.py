"""Rows of floats and the blocks that gguf.quants.quantize makes of them.

    python conformance/scripts/make_quantize_vectors.py

Writes conformance/quantize/<TYPE>.f32 (float32, little-endian) and <TYPE>.bin (blocks, as in a GGUF tensor). Edge blocks
come first, then random ones; every value is finite and no scale is so small that its reciprocal overflows.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

QUANTIZE = Path(__file__).resolve().parent.parent / "quantize"
TYPES = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_0]
BLOCK = 32


def block_edges():
    """[n, 32] float32: constants, ties for the largest magnitude, exact halves between codes, tiny and large values."""
    ramp = np.arange(BLOCK, dtype=np.float32)
    one_hot = np.zeros(BLOCK, dtype=np.float32)
    one_hot[17] = -3.0
    ties = np.where(ramp % 2 == 0, 1.0, -1.0)
    halves = np.where(ramp == 0, 127.0, ramp - 15.5)
    eighths = np.where(ramp == 0, -8.0, ramp / 4 - 4 + 0.5)
    sixteenths = np.where(ramp == 31, 16.0, ramp - 16 + 0.5)
    rows = [0 * ramp, -0.0 * np.ones(BLOCK), np.ones(BLOCK), -np.ones(BLOCK), one_hot, -one_hot, ties, -ties, halves, -halves]
    rows += [eighths, -eighths, sixteenths, -sixteenths]
    # Scales that are subnormal as f16, vanish as f16, and come near its largest value.
    rows += [(ramp - 15) * s for s in (1e-6, 1e-7, 1e-9, 1e-30, 1.0, 1e3, 3e4)]
    return np.array(rows, dtype=np.float32)


def float_edges(kind):
    """[n, 32] float32 around the ties of a rounding to `kind`, among them subnormal results."""
    patterns = np.array([0, 1, 2, 3, 0x3C00, 0x3C01, 0x3FFF, 0x0400, 0x03FF, 0x7BFE], dtype=np.uint16)
    if kind == Type.BF16:
        bits = patterns.astype(np.uint32) << 16
        step = np.uint32(0x8000)
        exact = [bits, bits + step, bits + step - 1, bits + step + 1]
    else:
        low = patterns.view(np.float16).astype(np.float32)
        high = (patterns + 1).view(np.float16).astype(np.float32)
        tie = ((low.astype(np.float64) + high) / 2).astype(np.float32)
        exact = [a.view(np.uint32) for a in (low, tie, np.nextafter(tie, 0), np.nextafter(tie, np.float32(np.inf)))]
    values = np.concatenate(exact).astype(np.uint32).view(np.float32)
    values = np.concatenate([values, -values])
    return np.resize(values, (-(-len(values) // BLOCK), BLOCK))


def make(kind):
    rng = np.random.default_rng(7000 + int(kind))
    floats = kind in (Type.F16, Type.BF16)
    edges = float_edges(kind) if floats else block_edges()
    scale = 2.0 ** rng.integers(-12, 8, (64, 1))
    rows = np.concatenate([edges, (rng.standard_normal((64, BLOCK)) * scale).astype(np.float32)]).astype("<f4")
    if kind == Type.F16:
        rows = np.where(abs(rows) < 65520, rows, np.float32(65504))
    with np.errstate(over="raise", invalid="raise"):
        raw = gguf.quants.quantize(rows, kind)
    assert np.isfinite(gguf.quants.dequantize(raw, kind)).all()
    rows.astype("<f4").tofile(QUANTIZE / f"{kind.name}.f32")
    raw.tofile(QUANTIZE / f"{kind.name}.bin")
    print(kind.name, rows.shape, raw.nbytes)


if __name__ == "__main__":
    QUANTIZE.mkdir(parents=True, exist_ok=True)
    for kind in TYPES:
        make(kind)
