"""A BERT-base encoder over 128 positions, one row, one thread: RIN beside ONNX Runtime and OpenVINO, random weights.

Usage: python encoder.py --rin PATH --work FOLDER [--rounds 5] [--layers 12]

The graph is what exporters write of BertModel; ONNX Runtime fuses it as it does by itself, and its INT8 is `quantize_dynamic` of it, and
`quantize_static` of its products, whose graph OpenVINO's INT8 takes too.
Prints one line per engine: median ms and the ratio to RIN's best. The models stay in FOLDER.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from run import write_safetensors

WIDTH, HEADS, INNER, VOCAB, POSITIONS, LENGTH = 768, 12, 3072, 30522, 512, 128


def tensors(layers):
    rng = np.random.default_rng(7)
    matrix = lambda rows, cols: rng.normal(0, 0.04, (rows, cols)).astype(np.float32)
    found = {
        "embeddings.word_embeddings.weight": matrix(VOCAB, WIDTH),
        "embeddings.position_embeddings.weight": matrix(POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": matrix(2, WIDTH),
    }

    def dense(name, rows, cols):
        found[f"{name}.weight"], found[f"{name}.bias"] = matrix(rows, cols), matrix(1, rows)[0]

    def norm(name):
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + matrix(1, WIDTH)[0], matrix(1, WIDTH)[0]

    norm("embeddings.LayerNorm")
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ["query", "key", "value"]:
            dense(f"{at}attention.self.{part}", WIDTH, WIDTH)
        dense(f"{at}attention.output.dense", WIDTH, WIDTH)
        norm(f"{at}attention.output.LayerNorm")
        dense(f"{at}intermediate.dense", INNER, WIDTH)
        dense(f"{at}output.dense", WIDTH, INNER)
        norm(f"{at}output.LayerNorm")
    return found


def write_folder(folder, weights, layers):
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", weights)
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_hidden_layers": layers, "intermediate_size": INNER, "vocab_size": VOCAB, "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_onnx(path, weights, layers):
    nodes, inits = [], {}

    def node(op, ins, out, **more):
        nodes.append(helper.make_node(op, ins, [out], name=out, **more))
        return out

    def put(name, value):
        inits.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def dense(name, x, out):
        product = node("MatMul", [x, put(f"{name}.T", weights[f"{name}.weight"].T)], f"{out}.product")
        return node("Add", [product, put(f"{name}.b", weights[f"{name}.bias"])], out)

    def norm(name, x, out):
        return node("LayerNormalization", [x, put(f"{name}.w", weights[f"{name}.weight"]), put(f"{name}.b", weights[f"{name}.bias"])], out, axis=-1, epsilon=1e-12)

    words = node("Gather", [put("words", weights["embeddings.word_embeddings.weight"]), "ids"], "word")
    rest = weights["embeddings.position_embeddings.weight"][:LENGTH] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", node("Add", [words, put("rest", rest[None])], "embedded"), "embedding")
    split = put("split", np.int64([0, 0, HEADS, WIDTH // HEADS]))
    joined = put("joined", np.int64([0, 0, WIDTH]))
    root = put("root", np.float32((WIDTH // HEADS) ** 0.5))
    for i in range(layers):
        at = f"encoder.layer.{i}."
        heads = {}
        for part, order in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])]:
            flat = dense(f"{at}attention.self.{part}", x, f"{i}.{part}")
            heads[part] = node("Transpose", [node("Reshape", [flat, split], f"{i}.{part}.split")], f"{i}.{part}.heads", perm=order)
        scores = node("Div", [node("MatMul", [heads["query"], heads["key"]], f"{i}.dots"), root], f"{i}.scores")
        mixed = node("MatMul", [node("Softmax", [scores], f"{i}.p", axis=-1), heads["value"]], f"{i}.mixed")
        flat = node("Reshape", [node("Transpose", [mixed], f"{i}.back", perm=[0, 2, 1, 3]), joined], f"{i}.joined")
        out = dense(f"{at}attention.output.dense", flat, f"{i}.out")
        x = norm(f"{at}attention.output.LayerNorm", node("Add", [out, x], f"{i}.sum"), f"{i}.norm")
        up = dense(f"{at}intermediate.dense", x, f"{i}.up")
        erf = node("Erf", [node("Div", [up, put("two", np.float32(2**0.5))], f"{i}.scaled")], f"{i}.erf")
        gelu = node("Mul", [up, node("Add", [erf, put("one", np.float32(1))], f"{i}.more")], f"{i}.twice")
        gelu = node("Mul", [gelu, put("half", np.float32(0.5))], f"{i}.gelu")
        down = dense(f"{at}output.dense", gelu, f"{i}.down")
        x = norm(f"{at}output.LayerNorm", node("Add", [down, x], f"{i}.sum2"), f"{i}.norm2")
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes, "bert",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, LENGTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, LENGTH, WIDTH])],
        list(inits.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Rows(CalibrationDataReader):
    """The rows that static scales are found with, one after the other."""

    def __init__(self, ids):
        self.rows = iter([{"ids": row[None]} for row in ids])

    def get_next(self):
        return next(self.rows, None)


def prepare(arguments):
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "int8.onnx").is_file():
        weights = tensors(arguments.layers)
        write_folder(work / "bert", weights, arguments.layers)
        write_onnx(work / "f32.onnx", weights, arguments.layers)
        quantize_dynamic(work / "f32.onnx", work / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    ids = np.random.default_rng(8).integers(0, VOCAB, (4, LENGTH))
    np.save(work / "ids.npy", ids)
    if not (work / "static.onnx").is_file():
        quantize_static(
            work / "f32.onnx", work / "static.onnx", Rows(ids), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, op_types_to_quantize=["MatMul", "Gemm"],
        )
    rin = lambda *args: subprocess.run([arguments.rin, *args, "-q"], check=True)
    if not (work / "q8.rin").is_file():
        rin("import", work / "bert", "--quant", "Q8_0", "-o", work / "q8.rin")
    if not (work / "rin.rin").is_file():
        rin("import", work / "bert", "--mode", "rin", "--calibrate", work / "ids.npy", "-o", work / "rin.rin")
    return ids


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rin", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--layers", default=12, type=int)
    parser.add_argument("--prepare", action="store_true", help="make the models and stop")
    arguments = parser.parse_args()
    arguments.rin = arguments.rin.resolve()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    ids = prepare(arguments)
    work = arguments.work
    if arguments.prepare:
        return
    engines = {}
    for name, file in [("ONNX Runtime F32", "f32.onnx"), ("ONNX Runtime INT8 dynamic", "int8.onnx"), ("ONNX Runtime INT8 static", "static.onnx")]:
        engines[name] = (lambda s: lambda: s.run(None, {"ids": ids[:1]}))(session(work / file))
    try:
        import openvino as ov

        core = ov.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1})
        for name, file in [("OpenVINO F32", "f32.onnx"), ("OpenVINO INT8", "static.onnx")]:
            compiled = core.compile_model(core.read_model(work / file), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
            engines[name] = (lambda c: lambda: c([ids[:1]]))(compiled)
    except ImportError:
        pass

    def rin(file):
        command = [arguments.rin, "bench", work / file, "-r", "1", "-t", "1", "-b", "1", "--ctx", str(LENGTH), "--rates-only", "-q", "-o", "json"]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return 1 / (rows[0] if isinstance(rows, list) else rows["rows"][0])["avg_ts"]

    found = {name: [] for name in [*engines, "RIN Q8_0", "RIN integers"]}
    for call in engines.values():
        call()
    for _ in range(arguments.rounds):
        for name, call in engines.items():
            began = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - began)
        found["RIN Q8_0"].append(rin("q8.rin"))
        found["RIN integers"].append(rin("rin.rin"))
    best = min(float(np.median(found[name])) for name in ["RIN Q8_0", "RIN integers"])
    for name, seconds in found.items():
        median = float(np.median(seconds))
        print(f"{name:28} {median * 1e3:8.1f} ms ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}), {median / best:.2f} x RIN's best")


if __name__ == "__main__":
    main()
