"""Raw blocks of each quantised or half-precision type and the values that gguf.quants.dequantize gives for them.

    python conformance/scripts/make_quant_vectors.py

Writes conformance/quant/<TYPE>.bin (blocks, as in a GGUF tensor) and <TYPE>.f32 (float32, little-endian). Edge blocks
come first, then random ones; every scale is finite.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

QUANT = Path(__file__).resolve().parent.parent / "quant"

# Byte offsets of the f16 factors in a block.
SCALES = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q5_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.TQ1_0: [52], Type.TQ2_0: [64],
}  # fmt: skip
# Zero, minus zero, smallest and largest subnormal, smallest normal, largest finite, one, minus one third.
EDGE_SCALES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xB555]
EDGE_BYTES = [0x00, 0x7F, 0x80, 0xFF]


def blocks_of(kind, rng):
    """[n, bytes] blocks: edges, then random bytes under scales of either sign and ordinary size."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = []
    for pattern in EDGE_BYTES:
        block = np.full(size, pattern, dtype=np.uint8)
        for at in SCALES[kind]:
            block[at : at + 2] = np.array([0x3800], dtype="<u2").view(np.uint8)
        blocks.append(block)
    for scale in EDGE_SCALES:
        block = rng.integers(0, 256, size, dtype=np.uint8)
        for at in SCALES[kind]:
            block[at : at + 2] = np.array([scale], dtype="<u2").view(np.uint8)
        blocks.append(block)
    while len(blocks) < (64 if values == 32 else 24):
        block = rng.integers(0, 256, size, dtype=np.uint8)
        for at in SCALES[kind]:
            scale = (rng.normal() * 2.0 ** rng.integers(-12, 2)).astype(np.float16)
            block[at : at + 2] = np.array([scale], dtype="<f2").view(np.uint8)
        blocks.append(block)
    return np.stack(blocks)


def halves(kind, rng):
    """2048 finite F16 or BF16 bit patterns: zeros, subnormals, extremes, then random ones."""
    infinity = 0x7C00 if kind == Type.F16 else 0x7F80
    smallest_normal = 0x0400 if kind == Type.F16 else 0x0080
    edges = [0, 1, 2, smallest_normal - 1, smallest_normal, smallest_normal + 1, infinity - 1]
    edges += [e | 0x8000 for e in edges]
    subnormal = rng.integers(0, smallest_normal, 256) | rng.integers(0, 2, 256) << 15
    rest = rng.integers(0, infinity, 2048 - 256 - len(edges))
    rest |= rng.integers(0, 2, len(rest)) << 15
    return np.concatenate([edges, subnormal, rest]).astype("<u2").view(np.uint8).reshape(-1, 64)


def fifths(raw):
    """Random bytes to those that a TQ1_0 block has: digits to the base of 3 as a fraction of 256, rounded up."""
    for at in range(52):
        digits = raw[:, at].astype(np.uint32) * 243 // 256
        if at >= 48:
            digits -= digits % 3
        raw[:, at] = (digits * 256 + 242) // 243
    return raw


def make(kind):
    rng = np.random.default_rng(5000 + int(kind))
    raw = blocks_of(kind, rng) if kind in SCALES else halves(kind, rng)
    if kind == Type.TQ1_0:
        raw = fifths(raw)
    values = gguf.quants.dequantize(raw.view("<f2") if kind == Type.F16 else raw, kind).astype("<f4")
    assert np.isfinite(values).all()
    raw.tofile(QUANT / f"{kind.name}.bin")
    values.tofile(QUANT / f"{kind.name}.f32")
    print(kind.name, raw.shape, values.size, "largest", np.abs(values).max())


if __name__ == "__main__":
    QUANT.mkdir(parents=True, exist_ok=True)
    for kind in [*SCALES, Type.F16, Type.BF16]:
        make(kind)
