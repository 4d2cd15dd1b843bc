"""ONNX Runtime: a decoder graph made here from the same file, with the operators that its own exporters use.

Quantised blocks of 32 (Q8_0, Q4_0) go into MatMulNBits bit for bit: the same integers, the same scales. F32 goes into
MatMul. Attention is GroupQueryAttention with a cache that it writes in place. Other types have no such counterpart.
"""

import os
import time
from pathlib import Path

import numpy as np
from worker import serve, token

MS = "com.microsoft"
OPSET = 21
BLOCK = 32
# MatMulNBits: 4 quantises activations to 8 bits, as the other engines do for these types; it is its fastest.
ACCURACY = {"int8": 4, "f32": 1}


class Graph:
    """An ONNX graph under way whose weights lie in a file beside it."""

    def __init__(self, onnx, data):
        self.onnx, self.data = onnx, data
        self.nodes, self.weights, self.n = [], [], 0

    def weight(self, name, array):
        array = np.ascontiguousarray(array)
        self.data.write(b"\0" * (-self.data.tell() % 4096))
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = self.onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        place = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(array.tobytes())
        self.weights.append(tensor)
        return name

    def small(self, name, array):
        self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, inputs, domain="", outputs=None, **attributes):
        self.n += 1
        outputs = outputs or [f"{op}_{self.n}"]
        make = self.onnx.helper.make_node
        self.nodes.append(make(op, inputs, outputs, f"{op}.{self.n}", domain=domain, **attributes))
        return outputs[0]


def blocks(raw, kind):
    """(integers as MatMulNBits packs them, scales) of stored rows."""
    rows = raw.shape[0]
    raw = raw.reshape(rows, -1, {"Q8_0": 34, "Q4_0": 18}[kind])
    scales = raw[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
    q = raw[..., 2:]
    if kind == "Q8_0":
        return q ^ 0x80, scales.reshape(-1)
    q = np.concatenate([q & 15, q >> 4], axis=-1)
    return q[..., 0::2] | q[..., 1::2] << 4, scales.reshape(-1)


def product(g, d, names, x, accuracy, label):
    """x times the transposed matrices, stacked by rows, plus their biases."""
    kind = d.kind(f"{names[0]}.weight")
    raw = np.concatenate([d.rows(f"{n}.weight") for n in names])
    if kind == "F32":
        y = g.node("MatMul", [x, g.weight(f"{label}.w", raw.T)])
    else:
        q, scales = blocks(raw, kind)
        inputs = [x, g.weight(f"{label}.q", q), g.weight(f"{label}.s", scales)]
        y = g.node(
            "MatMulNBits", inputs, MS, K=q.shape[1] * BLOCK, N=q.shape[0], block_size=BLOCK,
            bits=8 if kind == "Q8_0" else 4, accuracy_level=accuracy,
        )  # fmt: skip
    if f"{names[0]}.bias" in d.tensors:
        # Biases of q and k are permuted as their rows are.
        y = g.node("Add", [y, g.weight(f"{label}.b", np.concatenate([d.values(f"{n}.bias") for n in names]))])
    return y


def build(path, d, positions, accuracy):
    """Writes the graph of a decoder."""
    import onnx

    kinds = {d.kind(n) for n in d.names() if len(d.tensors[n].shape) > 1}
    if len(kinds) != 1 or not kinds <= {"F32", "Q8_0", "Q4_0"}:
        raise RuntimeError(f"no operator of ONNX Runtime takes {', '.join(sorted(kinds))} as it is")
    with open(f"{path}.data", "wb") as data:
        g = Graph(onnx, data)
        angles = np.arange(positions)[:, None] * d.rope_base ** -(np.arange(0, d.head_dim, 2) / d.head_dim)
        rope = [g.small(n, f(angles).astype(np.float32)) for n, f in (("cos", np.cos), ("sin", np.sin))]
        x = g.node("Gather", [g.weight("embedding", d.values("token_embd.weight")), "ids"])
        skip = None

        def normed(name, x, skip):
            """The norm of x + skip, and that sum."""
            gamma = g.small(name, d.values(f"{name}.weight"))
            if skip is None:
                y = g.node("SimplifiedLayerNormalization", [x, gamma], axis=-1, epsilon=d.eps, stash_type=1)
                return y, x
            outs = [f"{name}.out", "", "", f"{name}.sum"]
            g.node("SkipSimplifiedLayerNormalization", [x, skip, gamma], MS, outs, epsilon=d.eps)
            return outs[0], outs[3]

        for i in range(d.layers):
            p = f"blk.{i}"
            h, x = normed(f"{p}.attn_norm", x, skip)
            qkv = product(g, d, [f"{p}.attn_{n}" for n in "qkv"], h, accuracy, f"{p}.qkv")
            ins = [qkv, "", "", f"past_key.{i}", f"past_value.{i}", "last", "total", *rope]
            outs = [f"{p}.attention", f"key.{i}", f"value.{i}"]
            h = g.node(
                "GroupQueryAttention", ins, MS, outs, num_heads=d.heads, kv_num_heads=d.kv_heads, do_rotary=1,
                rotary_interleaved=0,
            )  # fmt: skip
            h, x = normed(f"{p}.ffn_norm", x, product(g, d, [f"{p}.attn_output"], h, accuracy, f"{p}.o"))
            gate = product(g, d, [f"{p}.ffn_gate"], h, accuracy, f"{p}.gate")
            up = product(g, d, [f"{p}.ffn_up"], h, accuracy, f"{p}.up")
            h = g.node("Mul", [g.node("Mul", [gate, g.node("Sigmoid", [gate])]), up])
            skip = product(g, d, [f"{p}.ffn_down"], h, accuracy, f"{p}.down")
        h, _ = normed("output_norm", x, skip)
        # Only the last position of each sequence is asked for.
        h = g.node("Gather", [h, g.small("minus_one", np.array([-1], np.int64))], axis=1)
        g.node("Identity", [product(g, d, ["token_embd"], h, accuracy, "output")], outputs=["logits"])
    info, t = onnx.helper.make_tensor_value_info, onnx.TensorProto
    caches = [f"{what}.{i}" for i in range(d.layers) for what in ("key", "value")]
    kv = lambda before: [info(before + name, t.FLOAT, ["b", d.kv_heads, "l", d.head_dim]) for name in caches]
    inputs = [info("ids", t.INT64, ["b", "s"]), info("last", t.INT32, ["b"]), info("total", t.INT32, [])]
    outputs = [info("logits", t.FLOAT, ["b", 1, d.vocab]), *kv("")]
    graph = onnx.helper.make_graph(g.nodes, "decoder", inputs + kv("past_"), outputs, g.weights)
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(MS, 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


class Onnx:
    def __init__(self, args):
        import models
        import onnxruntime

        self.ort, self.args = onnxruntime, args
        d = self.decoder = models.read(args.model)
        self.kind = d.kind("token_embd.weight")
        # One file for each process: it is gone at the end of loading.
        path = Path(f"{args.model}.{os.getpid()}.onnx")
        try:
            build(path, d, args.positions, ACCURACY["f32" if self.kind == "F32" else "int8"])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        finally:
            for file in (path, Path(f"{path}.data")):
                file.unlink(missing_ok=True)
        self.caches = {}

    def facts(self):
        differs = ["keys and values are kept in f32", "the embedding is kept in f32"]
        products = "MatMul" if self.kind == "F32" else "MatMulNBits with 8-bit activations"
        config = [products, "GroupQueryAttention with a cache in place"]
        version = f"onnxruntime {self.ort.__version__}"
        return {"version": version, "arithmetic": "same", "differs": differs, "config": config}

    def tune(self, tests):
        pass

    def value(self, array):
        return self.ort.OrtValue.ortvalue_from_numpy(array)

    def feed(self, ids, place):
        """The logits after ids [sequences, n] at a place, and the time in ns."""
        sequences, n = ids.shape
        d = self.decoder
        if sequences not in self.caches:
            zeros = lambda: self.value(np.zeros((sequences, d.kv_heads, self.args.positions, d.head_dim), np.float32))
            self.caches[sequences] = [(zeros(), zeros()) for _ in range(d.layers)]
        last = np.full(sequences, place + n - 1, np.int32)
        logits = np.empty((sequences, 1, d.vocab), np.float32)
        out = self.value(logits)
        binding = self.session.io_binding()
        inputs = {"ids": ids, "last": last, "total": np.array(place + n, np.int32)}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self.value(array))
        binding.bind_ortvalue_output("logits", out)
        for i, pair in enumerate(self.caches[sequences]):
            for name, cache in zip(("key", "value"), pair, strict=True):
                binding.bind_ortvalue_input(f"past_{name}.{i}", cache)
                binding.bind_ortvalue_output(f"{name}.{i}", cache)
        start = time.perf_counter_ns()
        self.session.run_with_iobinding(binding)
        taken = time.perf_counter_ns() - start
        return logits, taken

    def ids(self, steps, sequences):
        vocab = self.decoder.vocab
        return np.array([[token(i, s, vocab) for i in steps] for s in range(sequences)], np.int64)

    def turn(self, test):
        if n := test.get("n_prompt"):
            return self.feed(self.ids(range(n), 1), 0)[1]
        n, sequences = test["n_gen"], test["n_sequences"]
        steps = [self.ids([i], sequences) for i in range(n + 1)]
        self.feed(steps[0], 0)
        return sum(self.feed(ids, place + 1)[1] for place, ids in enumerate(steps[1:]))

    def logits(self, ids, steps):
        rows, place = [], 0
        for chunk in [ids, *([step] for step in steps)]:
            rows.append(self.feed(np.array([chunk], np.int64), place)[0][0, 0])
            place += len(chunk)
        return np.stack(rows)


if __name__ == "__main__":
    serve(Onnx)
