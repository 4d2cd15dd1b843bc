"""Seconds of a product of llama.cpp (ggml) by type of the weights, one thread: a JSON object in, one out."""

import ctypes
import json
import sys
import time
from pathlib import Path

try:
    import llama_cpp
    import numpy as np
except ImportError:
    print("{}")
    sys.exit()

TYPES = {"F32": (0, 1, 4), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66)}
question = json.load(sys.stdin)
rows, cols, samples = question["rows"], question["cols"], question["samples"]
folder = Path(llama_cpp.__file__).parent / "lib"
base, cpu = (ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in ("libggml-base.so", "libggml-cpu.so"))
pointer, number = ctypes.c_void_p, ctypes.c_int64


class Params(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", pointer), ("no_alloc", ctypes.c_bool)]


base.ggml_init.argtypes, base.ggml_init.restype = [Params], pointer
base.ggml_new_tensor_2d.argtypes = [pointer, ctypes.c_int, number, number]
base.ggml_mul_mat.argtypes = [pointer, pointer, pointer]
base.ggml_new_graph.argtypes = [pointer]
base.ggml_build_forward_expand.argtypes = [pointer, pointer]
base.ggml_get_data.argtypes = [pointer]
cpu.ggml_graph_compute_with_ctx.argtypes = [pointer, pointer, ctypes.c_int]
for name in ("ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data"):
    getattr(base, name).restype = pointer
cpu.ggml_cpu_init()


def product(name):
    """A graph with one product of random weights, and what computes it."""
    kind, block, size = TYPES[name]
    n_bytes = rows * (cols // block) * size
    context = base.ggml_init(Params(n_bytes + (256 << 20), None, False))
    weights = base.ggml_new_tensor_2d(context, kind, cols, rows)
    x = base.ggml_new_tensor_2d(context, 0, cols, 1)
    data = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(base.ggml_get_data(weights)))
    data = data.reshape(-1, size)
    rng = np.random.default_rng(1)
    data[:4096] = rng.integers(0, 256, (4096, size), dtype=np.uint8)
    at = {"TQ1_0": 52, "TQ2_0": 64}.get(name, 0)
    data[:4096, at : at + 2] = np.array([0x2000], "<u2").view(np.uint8)
    for start in range(4096, len(data), 4096):
        data[start : start + 4096] = data[: len(data[start : start + 4096])]
    values = np.ctypeslib.as_array((ctypes.c_float * cols).from_address(base.ggml_get_data(x)))
    values[:] = rng.standard_normal(cols)
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, base.ggml_mul_mat(context, weights, x))

    def run():
        # A graph plans its work in the context anew each time: little, and there is room.
        began = time.perf_counter()
        status = cpu.ggml_graph_compute_with_ctx(context, graph, 1)
        assert status == 0, status
        return time.perf_counter() - began

    return run


runs = {name: product(name) for name in question["types"]}
for run in runs.values():
    run()
seconds = {name: [] for name in runs}
for _ in range(samples):
    for name, run in runs.items():
        seconds[name].append(run())
print(json.dumps({"version": llama_cpp.__version__, "seconds": seconds}))
