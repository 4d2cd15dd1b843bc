"""Samples of exp, sin, cos, tanh and silu with correctly rounded results.

    python conformance/scripts/make_math_vectors.py

Writes conformance/math/<name>.bin: 4096 pairs (x, y), float32 little-endian, where y is f(x) evaluated by mpmath and
rounded once to the nearest float32, ties to even, subnormals kept. A NaN in y means any NaN.
"""

from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np

MATH = Path(__file__).resolve().parent.parent / "math"
N = 4096
FUNCTIONS = {
    "exp": mpmath.exp,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
}
# y at x = -inf, +inf; the limit for silu.
AT_INFINITY = {
    "exp": (0.0, np.inf), "sin": (np.nan, np.nan), "cos": (np.nan, np.nan), "tanh": (-1.0, 1.0), "silu": (-0.0, np.inf),
}  # fmt: skip
EDGES = [
    0.0, 2.0**-149, 2.0**-126 - 2.0**-149, 2.0**-126, 2.0**-24, 2.0**-23, 2.0**-12, 0.5, 1.0, 2.0, 8.0, 9.0, 9.0109,
    16.635532, 17.328, 87.33654, 87.33655, 88.0, 88.72283, 88.72284, 88.9, 91.0, 95.0, 103.27892, 103.97207, 103.97208,
    104.0, 200.0, 1e4, 65536.0, 2.0**24, 1e10, 3.4028234663852886e38,
    np.pi / 4, np.pi / 2, np.pi, 3 * np.pi / 2, 2 * np.pi, 100 * np.pi, 355.0, np.log(2) / 2, np.log(2), np.inf,
]  # fmt: skip


def samples(name):
    """Float32 x: edges of either sign, a dense middle, the function's working range, then every binade."""
    rng = np.random.default_rng(6000 + list(FUNCTIONS).index(name))
    reach = {"exp": 104.0, "sin": 131072.0, "cos": 131072.0, "tanh": 10.0, "silu": 104.0}[name]
    edges = np.array(EDGES, dtype=np.float32)
    edges = np.concatenate([edges, -edges, np.array([np.nan], dtype=np.float32)])
    middle = (np.arange(1024) + rng.random(1024)) / 1024 * 8 - 4
    working = ((np.arange(1024) + rng.random(1024)) / 1024 * 2 - 1) * reach
    n_bits = N - len(edges) - 2048
    bits = ((np.arange(n_bits) + rng.random(n_bits)) / n_bits * 0x7F800000).astype(np.uint32)
    bits |= rng.integers(0, 2, n_bits, dtype=np.uint32) << 31
    return np.concatenate([edges, middle.astype(np.float32), working.astype(np.float32), bits.view(np.float32)])


def exact(x):
    """An mpf or float32 as a fraction."""
    if isinstance(x, mpmath.mpf):
        sign, mantissa, exponent, _ = x._mpf_
        return (-1) ** sign * int(mantissa) * Fraction(2) ** exponent
    return Fraction(float(x))


def nearest(y):
    """The float32 nearest to the mpf `y`, ties to even, found without double rounding."""
    largest = float(np.finfo(np.float32).max)
    if abs(y) >= largest + 2.0**103:
        return np.float32(-np.inf if y < 0 else np.inf)
    if abs(y) > largest:
        return np.float32(-largest if y < 0 else largest)
    if abs(y) < 2.0**-151:
        return np.float32(-0.0 if y < 0 else 0.0)
    guess, value = np.float32(float(y)), exact(y)
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    near = [c for c in near if np.isfinite(c)]
    return min(near, key=lambda c: (abs(exact(c) - value), int(c.view(np.uint32)) & 1))


def evaluate(name, x):
    if np.isnan(x):
        return np.float32(np.nan)
    if np.isinf(x):
        return np.float32(AT_INFINITY[name][int(x > 0)])
    if x == 0:
        return {"exp": np.float32(1), "cos": np.float32(1)}.get(name, x)
    # exp of a large value needs no digits: it is past either end of float32.
    if name in ("exp", "silu") and abs(x) > 1000:
        if x > 0:
            return np.float32(np.inf) if name == "exp" else x
        return np.float32(0.0) if name == "exp" else np.float32(-0.0)
    # Enough digits that 1 + exp(-x) and the cubic terms of tiny arguments keep theirs.
    with mpmath.workdps(160):
        y = FUNCTIONS[name](mpmath.mpf(float(x)))
        return nearest(y) if y != 0 else np.float32(np.copysign(0.0, x))


if __name__ == "__main__":
    MATH.mkdir(parents=True, exist_ok=True)
    for name in FUNCTIONS:
        x = samples(name)
        y = np.array([evaluate(name, v) for v in x], dtype=np.float32)
        with np.errstate(all="ignore"):
            f64 = {"silu": lambda v: v / (1 + np.exp(-v))}.get(name) or getattr(np, name)
            rounded = f64(x.astype(np.float64)).astype(np.float32)
        differ = (rounded != y) & ~(np.isnan(rounded) & np.isnan(y))
        assert len(x) == N and differ.sum() <= 8, (name, x[differ], rounded[differ], y[differ])
        np.stack([x, y], axis=1).astype("<f4").tofile(MATH / f"{name}.bin")
        print(name, N, "samples; float64 libm rounded to float32 differs at", list(x[differ]))
