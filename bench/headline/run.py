"""Small dense networks, one row, one thread: RIN in integers beside ONNX Runtime and OpenVINO with the same weights.

Usage: python run.py --rin PATH [--out FOLDER] [--repetitions 30] [--shapes dense,mlp,wide,lif]

Writes report.json and report.md. See README.md for the protocol.
"""

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

# Widths of all values; a relu stands behind every layer but the last.
SHAPES = {
    "dense": ("dense 256 x 4", [256, 256, 256, 256, 256]),
    "mlp": ("784-256x4-10", [784, 256, 256, 256, 256, 10]),
    "wide": ("784-1024-1024-512-10", [784, 1024, 1024, 512, 10]),
    # Leaky integrate-and-fire neurons over five steps; see `spiking`.
    "lif": ("LIF 784-256x4-10, 5 steps", [784, 256, 256, 256, 256, 10]),
}
# Of the spiking network: steps, what a step keeps of a membrane, threshold.
STEPS, KEEP, THRESHOLD = 5, 0.8, 0.5
BURST = 0.02
CALIBRATION, PARITY = 256, 64
# Root mean square of the differences from f32, by the range of the outputs.
GATE = 0.03
RESAMPLES = 10_000


def weights(widths, rng):
    layers = []
    for n_in, n_out in zip(widths, widths[1:]):
        layers.append((rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in)).astype(np.float32), rng.normal(0, 0.1, n_out).astype(np.float32)))
    return layers


def write_safetensors(path, tensors):
    header, offset, data = {}, 0, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        offset, data = offset + len(raw), data + raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_onnx(path, layers):
    nodes, tensors, last = [], [], "x"
    for i, (w, b) in enumerate(layers):
        tensors += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"], transB=1))
        last = f"h{i}"
        if i + 1 < len(layers):
            nodes.append(helper.make_node("Relu", [last], [f"a{i}"]))
            last = f"a{i}"
    nodes[-1].output[0] = "y"
    n_in, n_out = layers[0][0].shape[1], layers[-1][0].shape[0]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, n_out])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def spiking(widths, rng):
    """Weights of 8 bits times a unit per neuron, so that integers and floats are the same network; no bias.

    The largest of a neuron's weights is 127 units: RIN finds the units again."""
    layers = []
    for n_in, n_out in zip(widths, widths[1:]):
        real = rng.normal(0, (2 / n_in) ** 0.5, (n_out, n_in))
        unit = np.abs(real).max(axis=1, keepdims=True) / 127
        layers.append(((np.round(real / unit) * unit).astype(np.float32), None))
    return layers


def write_lif(path, layers):
    """The steps one after the other: a constant current into the first layer, spike counts out of the last."""
    nodes, tensors, node = [], [], lambda op, ins, out, **more: nodes.append(helper.make_node(op, ins, [out], **more)) or out
    for name, value in [("keep", KEEP), ("threshold", THRESHOLD), ("one", 1.0)]:
        tensors.append(numpy_helper.from_array(np.float32([value]), name))
    for i, (w, _) in enumerate(layers):
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(w.T), f"w{i}"))
    current = node("MatMul", ["x", "w0"], "current")
    v, counted = [None] * len(layers), None
    for t in range(STEPS):
        spikes = None
        for i in range(len(layers)):
            at = f"{t}.{i}"
            drive = current if i == 0 else node("MatMul", [spikes, f"w{i}"], f"drive{at}")
            u = drive if v[i] is None else node("Add", [node("Mul", [v[i], "keep"], f"kept{at}"), drive], f"u{at}")
            spikes = node("Cast", [node("Greater", [u, "threshold"], f"fired{at}")], f"spikes{at}", to=TensorProto.FLOAT)
            if t + 1 < STEPS:
                v[i] = node("Mul", [u, node("Sub", ["one", spikes], f"quiet{at}")], f"v{at}")
        counted = spikes if counted is None else node("Add", [counted, spikes], f"counted{t}")
    nodes[-1].output[0] = "y"
    n_in, n_out = layers[0][0].shape[1], layers[-1][0].shape[0]
    of = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n])
    graph = helper.make_graph(nodes, "lif", [of("x", n_in)], [of("y", n_out)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_nir(path, layers):
    """The same in continuous time: a step of 1 keeps 1 - 1 / tau, and a resistance of tau makes the gain 1."""
    import h5py

    tau = 1 / (1 - KEEP)
    with h5py.File(path, "w") as file:
        file["version"] = "1.0.8"
        file["node/type"] = "NIRGraph"
        names, put = ["input"], lambda name, kind, **arrays: [
            file.__setitem__(f"node/nodes/{name}/{key}", value) for key, value in {"type": kind, **arrays}.items()
        ]
        put("input", "Input", shape=np.int64([layers[0][0].shape[1]]))
        for i, (w, _) in enumerate(layers):
            of = lambda value: np.full(len(w), value, np.float64)
            put(f"w{i}", "Linear", weight=w.astype(np.float64))
            put(f"n{i}", "LIF", tau=of(tau), r=of(tau), v_leak=of(0), v_reset=of(0), v_threshold=of(THRESHOLD))
            names += [f"w{i}", f"n{i}"]
        put("output", "Output", shape=np.int64([layers[-1][0].shape[0]]))
        edges = list(zip(names, names[1:] + ["output"]))
        file.create_dataset("node/edges", data=edges, dtype=h5py.string_dtype())


class Rows(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


class Ort:
    """A session of one thread, with inputs and outputs bound before."""

    def __init__(self, path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()

    def outputs(self, rows):
        return np.concatenate([self.session.run(None, {"x": row[None]})[0] for row in rows])

    def prepare(self, row):
        self.x = ort.OrtValue.ortvalue_from_numpy(row[None].copy())
        shape = self.session.get_outputs()[0].shape
        self.y = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        self.binding.bind_ortvalue_input("x", self.x)
        self.binding.bind_ortvalue_output("y", self.y)

    def repetition(self):
        return burst(lambda: self.session.run_with_iobinding(self.binding))


class OpenVino:
    def __init__(self, path, precise=False):
        import openvino as ov

        core = ov.Core()
        config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        # Otherwise floats are bf16 where the processor has them: thresholds are then passed by other neurons.
        config |= {"INFERENCE_PRECISION_HINT": "f32"} if precise else {}
        self.request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()

    def outputs(self, rows):
        found = []
        for row in rows:
            self.request.infer({"x": row[None]})
            found.append(self.request.get_output_tensor(0).data.copy())
        return np.concatenate(found)

    def prepare(self, row):
        self.request.get_input_tensor(0).data[:] = row[None]

    def repetition(self):
        return burst(self.request.infer)


def burst(call):
    """Seconds of a call, over at least BURST seconds of them; the first ones do not count."""
    for _ in range(50):
        call()
    n = 16
    while True:
        start = time.perf_counter()
        for _ in range(n):
            call()
        seconds = time.perf_counter() - start
        if seconds >= BURST:
            return seconds / n
        n *= 2


class RinProgram:
    """`rin bench`, a process per repetition; it times bursts of calls itself."""

    def __init__(self, program, folder, model):
        self.program, self.model, self.folder = program, folder / model, folder

    def outputs(self, rows):
        np.save(self.folder / "parity.npy", rows)
        out = self.folder / "found.npy"
        subprocess.run([self.program, "run", self.model, "--input", self.folder / "parity.npy", "--output", out, "-q"], check=True)
        return np.load(out)

    def prepare(self, row):
        pass

    def row(self):
        command = [self.program, "bench", self.model, "-b", "1", "-t", "1", "-r", "1", "--json", "-q"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]

    def repetition(self):
        command = [self.program, "bench", self.model, "-b", "1", "-t", "1", "-r", "1", "--rates-only", "--json", "-q"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]
        return row["avg_ns"] / row["n_gen"] * 1e-9


class Rin(RinProgram):
    """Dense layers."""

    def __init__(self, program, folder, layers, quant):
        super().__init__(program, folder, f"net-{quant}.rin")
        names = {f"{i}.{part}": array for i, layer in enumerate(layers) for part, array in zip(["weight", "bias"], layer)}
        write_safetensors(folder / "net.safetensors", names)
        (folder / "net.toml").write_text('activation = "relu"\n')
        command = [program, "import", folder / "net.safetensors", "--network", folder / "net.toml", "-q", "--overwrite", "-o", self.model]
        command += ["--calibrate", folder / "rows.npy"] + (["--mode", "rin"] if quant == "integers" else ["--quant", quant])
        subprocess.run(command, check=True)


class RinSpiking(RinProgram):
    """Spiking neurons: weights of 8 bits, membranes of 24."""

    def __init__(self, program, folder, layers):
        super().__init__(program, folder, "lif.rin")
        write_nir(folder / "lif.nir", layers)
        command = [program, "import", folder / "lif.nir", "--time-step", "1", "--time-steps", str(STEPS), "--coding", "direct"]
        subprocess.run([*command, "--input-scale", "1", "-q", "--overwrite", "-o", self.model], check=True)


def interval(values, statistic, rng):
    draws = np.asarray([statistic(rng.choice(values, len(values))) for _ in range(RESAMPLES)])
    return [float(x) for x in np.percentile(draws, [2.5, 97.5])]


def ratio_interval(ours, theirs, rng):
    """Repetitions of one round are drawn together."""
    at = rng.integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = np.median(np.asarray(theirs)[at], axis=1) / np.median(np.asarray(ours)[at], axis=1)
    return [float(x) for x in np.percentile(ratios, [2.5, 97.5])]


def measure(name, arguments, folder):
    title, widths = SHAPES[name]
    rng = np.random.default_rng(1)
    lif = name == "lif"
    # Spiking networks have inputs of 7 bits between 0 and 1.
    some = (lambda n: (rng.integers(0, 128, (n, widths[0])) / 128).astype(np.float32)) if lif else (
        lambda n: rng.normal(0, 1, (n, widths[0])).astype(np.float32)
    )
    layers = spiking(widths, rng) if lif else weights(widths, rng)
    rows = some(CALIBRATION)
    np.save(folder / "rows.npy", rows)
    f32, dynamic, static = folder / "f32.onnx", folder / "dynamic.onnx", folder / "static.onnx"
    (write_lif if lif else write_onnx)(f32, layers)
    quantize_dynamic(f32, dynamic, weight_type=QuantType.QInt8, per_channel=True)
    static_types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    # Membranes stay floats: rounded to 8 bits they are another network.
    only = {"op_types_to_quantize": ["MatMul"]} if lif else {}
    quantize_static(f32, static, Rows(rows), quant_format=QuantFormat.QDQ, per_channel=True, **static_types, **only)
    engines = {"RIN integers": RinSpiking(arguments.rin, folder, layers)} if lif else {
        "RIN integers": Rin(arguments.rin, folder, layers, "integers"),
        "RIN Q8_0": Rin(arguments.rin, folder, layers, "Q8_0"),
    }
    engines |= {
        "ONNX Runtime F32": Ort(f32),
        "ONNX Runtime INT8 dynamic": Ort(dynamic),
        "ONNX Runtime INT8 static": Ort(static),
    }
    try:
        engines["OpenVINO F32"] = OpenVino(f32, precise=lif)
        engines["OpenVINO INT8"] = OpenVino(static, precise=lif)
    except ImportError:
        print("OpenVINO is not installed", file=sys.stderr)
    parity = some(PARITY)
    want = Ort(f32).outputs(parity)
    results = {}
    for engine, subject in list(engines.items()):
        found = subject.outputs(parity)
        apart = float(np.sqrt(np.mean((found - want) ** 2)) / (want.max() - want.min()))
        results[engine] = {"rms_by_range": apart, "passed": apart <= GATE, "seconds": []}
        if apart > GATE:
            del engines[engine]
            continue
        subject.prepare(parity[0])
    for i in range(arguments.repetitions):
        order = list(engines.items())
        for engine, subject in order if i % 2 == 0 else order[::-1]:
            results[engine]["seconds"].append(subject.repetition())
    rng = np.random.default_rng(2)
    ours = results["RIN integers"]["seconds"]
    for engine, found in results.items():
        if found["seconds"]:
            found["median_us"] = float(np.median(found["seconds"]) * 1e6)
            found["ci95_us"] = [x * 1e6 for x in interval(found["seconds"], np.median, rng)]
            found["ratio"] = float(np.median(found["seconds"]) / np.median(ours)) if ours else None
            found["ratio_ci95"] = ratio_interval(ours, found["seconds"], rng) if ours else None
    single = engines["RIN integers"].row() if "RIN integers" in engines else {}
    tail = {key: single.get(key) for key in ["p50_us", "p99_us", "p999_us", "max_us", "jitter_p999", "disturbed"]}
    return {"shape": title, "widths": widths, "engines": results, "rin_single_calls": tail}


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    found = {"cpu": model, "onnxruntime": ort.__version__, "kernel": platform.release()}
    try:
        import openvino

        found["openvino"] = openvino.__version__
    except ImportError:
        pass
    return found


def markdown(report):
    m = report["machine"]
    lines = [f"{m['cpu']}, one thread, one row; ONNX Runtime {m['onnxruntime']}, OpenVINO {m.get('openvino', 'not installed')}.", ""]
    lines += ["| shape | engine | µs (95 %) | time ÷ RIN's (95 %) | rms from f32 |", "|---|---|---|---|---|"]
    for shape in report["shapes"]:
        for engine, found in shape["engines"].items():
            if not found["seconds"]:
                lines.append(f"| {shape['shape']} | {engine} | out: {found['rms_by_range']:.1%} from f32 | | |")
                continue
            low, high = found["ci95_us"]
            ratio = f"{found['ratio']:.2f} ({found['ratio_ci95'][0]:.2f} to {found['ratio_ci95'][1]:.2f})"
            lines.append(f"| {shape['shape']} | {engine} | {found['median_us']:.2f} ({low:.2f} to {high:.2f}) | {ratio} | {found['rms_by_range']:.2%} |")
    lines += ["", "| shape | single calls of RIN: p50 µs | p99 | p99.9 | largest | p99.9 ÷ p50 | the same of a fixed loop |", "|---|---|---|---|---|---|---|"]
    for shape in report["shapes"]:
        one = shape["rin_single_calls"]
        if one:
            shown = [f"{one[key]:.2f}" for key in ["p50_us", "p99_us", "p999_us", "max_us"]]
            shown += [f"{one['p999_us'] / one['p50_us']:.2f}", "unknown" if one["jitter_p999"] is None else f"{one['jitter_p999']:.2f}"]
            lines.append(f"| {shape['shape']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rin", required=True, type=Path)
    parser.add_argument("--out", default=Path("headline-report"), type=Path)
    parser.add_argument("--repetitions", default=30, type=int)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    arguments = parser.parse_args()
    arguments.rin = arguments.rin.resolve()
    # One core for everybody, the same one: a second only ever waits.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    report = {"machine": machine(), "repetitions": arguments.repetitions, "shapes": []}
    arguments.out.mkdir(exist_ok=True)
    kept = arguments.out / "report.json"
    if kept.is_file():
        # Shapes of an earlier run stay, where it was the same machine and the same peers.
        before = json.loads(kept.read_text())
        if all(before[key] == report[key] for key in ["machine", "repetitions"]):
            report["shapes"] = before["shapes"]
    for name in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, arguments, Path(folder))
        report["shapes"] = [shape for shape in report["shapes"] if shape["shape"] != found["shape"]] + [found]
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (arguments.out / "report.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
