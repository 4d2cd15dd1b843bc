"""OpenVINO: a decoder graph made here from the same file, with the patterns that its processor plugin fuses.

Quantised blocks of 32 become constants of 8 or 4 bits with their scales (Q8_0, Q4_0), bit for bit, and F32, F16 and
BF16 stay what they are. Keys and values are a state of the model.
"""

import time

import numpy as np
from worker import serve, token

BLOCK = 32


class Graph:
    """Makes the nodes of a decoder."""

    def __init__(self, ov, op, decoder):
        self.ov, self.op, self.d = ov, op, decoder
        # A constant made of an `ov.Tensor` does not own its bytes, and some are packed only when first used.
        self.kept = []

    def borrowed(self, array, shape, kind):
        """A constant of a type that numpy lacks."""
        self.kept.append(array)
        return self.op.constant(self.ov.Tensor(array, shape, kind))

    def constant(self, array):
        return self.op.constant(np.ascontiguousarray(array))

    def weight(self, name):
        """A matrix [rows, columns] as it is stored, up to where it is multiplied in f32."""
        op, ov, kind = self.op, self.ov, self.d.kind(name)
        raw = np.ascontiguousarray(self.d.rows(name))
        if kind not in ("Q8_0", "Q4_0"):
            if kind not in ("F32", "F16", "BF16"):
                raise RuntimeError(f"OpenVINO has no constants of {kind} as it is")
            if kind == "BF16":
                node = self.borrowed(raw, [raw.shape[0], raw.shape[1] // 2], ov.Type.bf16)
            else:
                node = op.constant(raw)
            return node if kind == "F32" else op.convert(node, "f32")
        rows = raw.shape[0]
        raw = raw.reshape(rows, -1, {"Q8_0": 34, "Q4_0": 18}[kind])
        scales = raw[..., :2].copy().view(np.float16)
        q = np.ascontiguousarray(raw[..., 2:])
        if kind == "Q8_0":
            q = op.constant(q.view(np.int8))
        else:
            # Two's complement in place of an offset of 8; the first of a pair is the low half of its byte.
            q = np.concatenate([q & 15, q >> 4], axis=-1) ^ 8
            packed = np.ascontiguousarray(q[..., 0::2] | q[..., 1::2] << 4)
            q = self.borrowed(packed, [rows, raw.shape[1], BLOCK], ov.Type.i4)
        values = op.multiply(op.convert(q, "f16"), op.constant(scales))
        return op.convert(op.reshape(values, [rows, raw.shape[1] * BLOCK], special_zero=False), "f32")

    def product(self, name, x):
        y = self.op.matmul(x, self.weight(f"{name}.weight"), False, True)
        return self.op.add(y, self.constant(self.d.values(f"{name}.bias"))) if f"{name}.bias" in self.d.tensors else y

    def norm(self, name, x):
        op = self.op
        mean = op.reduce_mean(op.power(x, self.constant(np.float32([2]))), [-1], keep_dims=True)
        root = op.sqrt(op.add(mean, self.constant(np.float32([self.d.eps]))))
        return op.multiply(op.multiply(x, op.divide(self.constant(np.float32([1])), root)),
                           self.constant(self.d.values(f"{name}.weight")))  # fmt: skip

    def heads(self, x, n):
        """[b, s, n · d] as [b, n, s, d]."""
        split = self.op.reshape(x, [0, 0, n, self.d.head_dim], special_zero=True)
        return self.op.transpose(split, [0, 2, 1, 3])

    def rotated(self, x, cos, sin):
        op, half = self.op, self.d.head_dim // 2
        first, second = op.variadic_split(x, 3, [half, half]).outputs()
        turned = op.concat([op.multiply(second, self.constant(np.float32([-1]))), first], -1)
        return op.add(op.multiply(x, cos), op.multiply(turned, sin))

    def cached(self, new, name, batch, beams):
        """The state with new positions behind it, as it is and for all heads of queries."""
        op, d = self.op, self.d
        shape = self.ov.PartialShape([-1, d.kv_heads, -1, d.head_dim])
        info = self.ov.op.util.VariableInfo()
        info.data_shape, info.data_type, info.variable_id = shape, self.ov.Type.f32, name
        variable = self.ov.op.util.Variable(info)
        empty = op.concat([batch, op.constant(np.int64([d.kv_heads, 0, d.head_dim]))], 0)
        state = self.ov.opset6.read_value(op.broadcast(self.constant(np.float32(0)), empty), variable)
        whole = op.concat([op.gather(state, beams, self.constant(np.int64(0))), new], 2)
        assign = self.ov.opset6.assign(whole, variable)
        if d.heads != d.kv_heads:
            ones = op.constant(np.int64([1, 1, d.heads // d.kv_heads, 1, 1]))
            spread = op.broadcast(op.unsqueeze(whole, [2]), ones, broadcast_spec="BIDIRECTIONAL")
            whole = op.reshape(spread, [0, d.heads, -1, d.head_dim], special_zero=True)
        return whole, assign

    def decoder(self, positions):
        ov, op, d = self.ov, self.op, self.d
        ids = op.parameter([-1, -1], ov.Type.i64, name="ids")
        places = op.parameter([-1], ov.Type.i64, name="places")
        mask = op.parameter([1, 1, -1, -1], ov.Type.f32, name="mask")
        beams = op.parameter([-1], ov.Type.i32, name="beams")
        batch = op.gather(op.shape_of(ids), op.constant(np.int64([0])), self.constant(np.int64(0)))
        angles = np.arange(positions)[:, None] * d.rope_base ** -(np.arange(0, d.head_dim, 2) / d.head_dim)
        angles = np.concatenate([angles, angles], axis=1)
        turn = lambda f: op.unsqueeze(op.gather(self.constant(f(angles).astype(np.float32)), places, 0), [0, 1])
        cos, sin = turn(np.cos), turn(np.sin)
        x = op.gather(self.weight("token_embd.weight"), ids, self.constant(np.int64(0)))
        sinks = []
        for i in range(d.layers):
            p = f"blk.{i}"
            h = self.norm(f"{p}.attn_norm", x)
            q, k, v = (self.heads(self.product(f"{p}.attn_{c}", h), n)
                       for c, n in (("q", d.heads), ("k", d.kv_heads), ("v", d.kv_heads)))  # fmt: skip
            keys, key_sink = self.cached(self.rotated(k, cos, sin), f"key.{i}", batch, beams)
            values, value_sink = self.cached(v, f"value.{i}", batch, beams)
            sinks += [key_sink, value_sink]
            h = op.scaled_dot_product_attention(self.rotated(q, cos, sin), keys, values, mask, causal=False)
            h = op.reshape(op.transpose(h, [0, 2, 1, 3]), [0, 0, d.heads * d.head_dim], special_zero=True)
            x = op.add(x, self.product(f"{p}.attn_output", h))
            h = self.norm(f"{p}.ffn_norm", x)
            h = op.multiply(op.swish(self.product(f"{p}.ffn_gate", h)), self.product(f"{p}.ffn_up", h))
            x = op.add(x, self.product(f"{p}.ffn_down", h))
        # Only the last position of each sequence is asked for.
        last = op.gather(self.norm("output_norm", x), op.constant(np.int64([-1])), self.constant(np.int64(1)))
        logits = op.result(self.product("token_embd", last))
        return ov.Model([logits], sinks, [ids, places, mask, beams], "decoder")


class OpenVino:
    def __init__(self, args):
        import models
        import openvino
        from openvino import opset13

        self.ov, self.args = openvino, args
        self.d = models.read(args.model)
        self.graph = Graph(openvino, opset13, self.d)
        model = self.graph.decoder(args.positions)
        core = openvino.Core()
        # BF16 weights stay what they are only where the processor multiplies them so.
        narrow = args.type == "BF16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.settings = {
            "INFERENCE_NUM_THREADS": args.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "KV_CACHE_PRECISION": "f16", "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",
        }  # fmt: skip
        self.compiled = core.compile_model(model, "CPU", self.settings)
        self.request = self.compiled.create_infer_request()

    def facts(self):
        nodes = self.compiled.get_runtime_model().get_ops()
        told = lambda node, key: str(node.get_rt_info()[key].value)
        kinds = sorted({told(node, "layerType") for node in nodes})
        config = [f"{key} {value}" for key, value in self.settings.items()]
        group = self.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
        config += [f"activations in 8 bits, groups of {group}", f"nodes: {', '.join(kinds)}"]
        products = [node for node in nodes if told(node, "layerType") == "FullyConnected"]
        kept = {told(node, "runtimePrecision") for node in products}
        stored = {"Q8_0": "i8", "Q4_0": "i4"}.get(self.args.type, self.args.type.lower())
        widened = sorted(kept - {stored})
        differs = [f"weights become {', '.join(widened)} when loaded"] if widened else []
        if self.args.type == "BF16" and not widened:
            differs = ["activations are rounded to BF16"]
        version = f"openvino {self.ov.__version__.split('-')[0]}"
        arithmetic = "+".join(widened) or "same"
        return {"version": version, "arithmetic": arithmetic, "differs": differs, "config": config}

    def tune(self, tests):
        pass

    def feed(self, ids, place):
        """The logits after ids [sequences, n] at a place, and the time in ns."""
        sequences, n = ids.shape
        hidden = np.arange(place + n)[None, :] > place + np.arange(n)[:, None]
        mask = np.where(hidden, np.float32(-np.inf), np.float32(0))[None, None]
        inputs = [ids, np.arange(place, place + n), mask, np.arange(sequences, dtype=np.int32)]
        for i, array in enumerate(inputs):
            self.request.set_input_tensor(i, self.ov.Tensor(array))
        start = time.perf_counter_ns()
        self.request.infer(share_outputs=True)
        taken = time.perf_counter_ns() - start
        return self.request.get_output_tensor(0).data, taken

    def ids(self, steps, sequences):
        return np.array([[token(i, s, self.d.vocab) for i in steps] for s in range(sequences)], np.int64)

    def turn(self, test):
        self.request.reset_state()
        if n := test.get("n_prompt"):
            return self.feed(self.ids(range(n), 1), 0)[1]
        n, sequences = test["n_gen"], test["n_sequences"]
        steps = [self.ids([i], sequences) for i in range(n + 1)]
        self.feed(steps[0], 0)
        return sum(self.feed(ids, place + 1)[1] for place, ids in enumerate(steps[1:]))

    def logits(self, ids, steps):
        self.request.reset_state()
        rows, place = [], 0
        for chunk in [ids, *([step] for step in steps)]:
            rows.append(self.feed(np.array([chunk], np.int64), place)[0][0, 0].copy())
            place += len(chunk)
        return np.stack(rows)


if __name__ == "__main__":
    serve(OpenVino)
