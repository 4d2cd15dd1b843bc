"""Tiny ONNX models as exporters and quantisers write them, with the answers of ONNX Runtime.

Writes conformance/onnx: NAME.onnx, NAME-x.npy (rows), NAME-y.npy (their outputs by ONNX Runtime, one thread), and
versions.json. Needs the packages of conformance/requirements.txt.

cnn            convolutions (plain, strided, depthwise), batch norm, pools, HardSwish, a Gemm, by torch.onnx
encoder        an embedding and a transformer layer, with the shape arithmetic that the exporter writes, by torch.onnx
mlp            three linear layers with functions between, by torch.onnx
cnn-qdq        cnn with QuantizeLinear and DequantizeLinear around its operators, one scale per channel, by ONNX
               Runtime's static quantisation
mlp-dynamic    mlp with DynamicQuantizeLinear and MatMulInteger, by ONNX Runtime's dynamic quantisation
"""

import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

OUT = pathlib.Path(__file__).resolve().parent.parent / "onnx"


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 20, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(20), nn.Hardswish(),
            nn.Conv2d(20, 20, 1), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
        )
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        y = self.body(x)
        y = torch.cat([y, y * torch.sigmoid(y)], 2)
        return torch.softmax(self.head(y.mean((2, 3))), 1)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 24)
        self.layer = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, ids):
        return self.head(self.layer(self.embedding(ids)).mean(1))


def mlp():
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 6))


def export(model, name, x, axes):
    path = OUT / f"{name}.onnx"
    torch.onnx.export(
        model.eval(), (x,), path, input_names=["x"], output_names=["y"], dynamic_axes={"x": axes},
        opset_version=17, dynamo=False,
    )
    return path


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    # The model as it is written: no fusions that change what is computed.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(name, x):
    # One by one: a dynamic scale is that of all rows that are given at once.
    model = session(OUT / f"{name}.onnx")
    y = np.concatenate([model.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])
    np.save(OUT / f"{name}-x.npy", x.reshape(len(x), -1))
    np.save(OUT / f"{name}-y.npy", y.reshape(len(x), -1))


class Reader(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter({"x": row[None]} for row in rows)

    def get_next(self):
        return next(self.rows, None)


def main():
    OUT.mkdir(exist_ok=True)
    torch.manual_seed(20)
    torch.set_num_threads(1)
    rng = np.random.default_rng(20)

    cnn = Cnn()
    for module in cnn.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1)
    images = rng.normal(size=(5, 2, 15, 14)).astype(np.float32)
    export(cnn, "cnn", torch.from_numpy(images), {0: "batch"})
    answer("cnn", images)

    ids = rng.integers(0, 40, size=(4, 7))
    export(Encoder(), "encoder", torch.from_numpy(ids), {0: "batch", 1: "length"})
    answer("encoder", ids)

    rows = rng.normal(size=(6, 12)).astype(np.float32)
    export(mlp(), "mlp", torch.from_numpy(rows), {0: "batch"})
    answer("mlp", rows)

    with tempfile.TemporaryDirectory() as folder:
        prepared = pathlib.Path(folder) / "cnn.onnx"
        quant_pre_process(OUT / "cnn.onnx", prepared)
        calibration = rng.normal(size=(64, 2, 15, 14)).astype(np.float32)
        quantize_static(
            prepared, OUT / "cnn-qdq.onnx", Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )
    answer("cnn-qdq", images)
    quantize_dynamic(OUT / "mlp.onnx", OUT / "mlp-dynamic.onnx", weight_type=QuantType.QInt8)
    answer("mlp-dynamic", rows)

    versions = {"numpy": np.__version__, "onnx": onnx.__version__, "onnxruntime": ort.__version__, "torch": torch.__version__}
    (OUT / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    for path in sorted(OUT.glob("*.onnx")):
        print(path.name, path.stat().st_size, sorted({node.op_type for node in onnx.load(path).graph.node}))


main()
