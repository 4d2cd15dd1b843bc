"""What a call of `RinEngine.infer` costs over the engine's own call, on a network of 262,144 weights (four layers of 256).

    RIN_BACKEND=native python bench/python_overhead.py
    RIN_BACKEND=ctypes RIN_LIB=librin.so python bench/python_overhead.py

Both run one row of zeros on one thread, in turns: `rounds` times `calls` calls from Python, timed as a whole, and as many calls
within the backend, timed one by one there. The difference of the two means of a round is one value; printed are the median
of these and the interval that holds 95 of 100 medians (bootstrap). A build in release is what counts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import rin
from rin._backend import backend

WIDTH, LAYERS = 256, 4


def network(folder: Path, quant: str | None) -> Path:
    """The network, as a file."""
    drawn = np.random.default_rng(0)
    nodes, tensors = [], []
    for layer in range(LAYERS):
        weights = (drawn.standard_normal((WIDTH, WIDTH)) / 16).astype("<f4")
        tensors.append((f"w{layer}", "F32", [WIDTH, WIDTH], weights.tobytes()))
        op = {"dense": {"weight": f"w{layer}", "function": "relu" if layer + 1 < LAYERS else "identity"}}
        nodes.append({"inputs": [f"v{layer}" if layer else "input"], "output": f"v{layer + 1}", "op": op})
    described = {
        "mode": "mlp",
        "inputs": [{"name": "input", "shape": [WIDTH]}],
        "outputs": [{"name": f"v{LAYERS}", "kind": "logits"}],
        "body": {"nodes": nodes},
    }
    path = folder / "net.rin"
    backend.write_network(str(path), json.dumps(described), tensors, quant, True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--quant", default="Q8_0", help="type of the weights, or F32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = network(Path(folder), None if args.quant == "F32" else args.quant)
        with rin.RinEngine(path, threads=1) as engine:
            measure(engine, args.calls, args.rounds, args.quant)


def measure(engine: rin.RinEngine, calls: int, rounds: int, quant: str) -> None:
    """Measures and prints."""
    x = np.zeros(WIDTH, dtype=np.float32)
    infer, profile = engine.infer, engine._context.profile
    own, over = [], []
    for _ in range(rounds + 1):
        inner = 1e6 * profile(calls // 10, calls)
        for _ in range(calls // 10):
            infer(x)
        began = time.perf_counter()
        for _ in range(calls):
            infer(x)
        outer = 1e6 * (time.perf_counter() - began) / calls
        own.append(inner)
        over.append(outer - inner)
    # The first round warms up.
    own, over = own[1:], over[1:]
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(over, k=len(over))) for _ in range(2000))
    low, high = medians[50], medians[1949]
    print(f"{rin.backend_name()}, {quant}, {engine.info['tier']}: {statistics.median(own):.2f} µs within the engine, and")
    print(f"{statistics.median(over):.2f} µs ({low:.2f} to {high:.2f}) over the engine's own")


if __name__ == "__main__":
    main()
