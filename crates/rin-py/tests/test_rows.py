"""Networks on rows of numbers: equal to PyTorch's, whatever the rows come in."""

from __future__ import annotations

import array
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFORMANCE, rin_command

import rin
from rin.errors import UnsupportedError

Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def test_outputs_are_those_of_torch(classifier: rin.RinEngine, rows: Rows) -> None:
    expected = np.load(CONFORMANCE / "networks" / "plain-y.npy")
    found = classifier.infer(rows)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # A row has the bits that it has among others.
    for row, of_all in zip(rows, found):
        alone = classifier.infer(row)
        assert isinstance(alone, np.ndarray) and alone.shape == (found.shape[1],)
        assert np.array_equal(alone, of_all)
    assert classifier.inference_count == 1 + len(rows)


def test_digests_are_those_of_the_command(classifier: rin.RinEngine, plain: Path, rows: Rows, tmp_path: Path) -> None:
    assert classifier.digest is None
    classifier.infer(rows)
    np.save(tmp_path / "x.npy", rows)
    told = json.loads(rin_command("run", plain, "--input", tmp_path / "x.npy", "--json", "-q").stdout)
    assert classifier.digest == told["digest"]
    # Cut into runs, the digest is the same.
    with rin.RinEngine(plain, batch=3) as small:
        small.infer(rows)
        assert small.digest == told["digest"]


def test_arrays_buffers_and_dlpack_are_read(classifier: rin.RinEngine, rows: Rows) -> None:
    class Tensor:
        """What a framework's tensor offers."""

        def __init__(self, values: Rows) -> None:
            self.values = values

        def __dlpack__(self, **options: Any) -> Any:
            return self.values.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.values.__dlpack_device__()

    class OldTensor:
        """What an older one offers."""

        def __init__(self, values: Rows) -> None:
            self.values = values

        def __array__(self, dtype: Any = None, copy: Any = None) -> Rows:
            return self.values

    expected = classifier.infer(rows)
    one = classifier.infer(rows[0])
    fortran, spread = np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]
    unaligned = np.frombuffer(b"\0" + rows.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(rows.shape)
    assert not unaligned.flags.aligned
    frozen = rows.copy()
    frozen.flags.writeable = False
    given: Any
    for given in (rows, fortran, spread, unaligned, frozen, memoryview(rows.data), Tensor(rows), OldTensor(rows), rows.tolist()):
        assert np.array_equal(classifier.infer(given), expected)
    for given in (array.array("f", rows[0].tolist()), rows[0].tolist(), memoryview(rows[0].data)):
        assert np.array_equal(classifier.infer(given), one)
    none = classifier.infer(rows[:0])
    assert none.shape == (0, expected.shape[1])


def test_inputs_and_outputs_have_names(residual: Path) -> None:
    folder = CONFORMANCE / "networks"
    x = np.load(folder / "residual-x.npy").astype(np.float32)
    with rin.RinEngine(residual, threads=2) as engine:
        (port,) = engine.info["inputs"]
        with pytest.raises(UnsupportedError, match="infer_all"):
            engine.infer(x)
        found = engine.infer_all(x)
        assert list(found) == [output["name"] for output in engine.info["outputs"]]
        by_name = engine.infer_all(**{port["name"]: x})
        for name, values in found.items():
            assert np.array_equal(values, by_name[name])
        expected = [np.load(folder / f"residual-{name}.npy") for name in ("classes", "value")]
        for values, want in zip(found.values(), expected):
            np.testing.assert_allclose(values, want.reshape(values.shape), rtol=1e-3, atol=1e-4)
        one = engine.infer_all(x[0])
        assert all(np.array_equal(one[name], found[name][0]) for name in found)


def test_spiking_networks_answer_rows(spiking: Path, tmp_path: Path) -> None:
    with rin.RinEngine(spiking, threads=1) as engine:
        assert engine.mode == "snn"
        (port,) = engine.info["inputs"]
        random = np.random.default_rng(1)
        x = (random.random((5, *port["shape"])) < 0.4).astype(np.float32)
        found = engine.infer(x)
        assert isinstance(found, np.ndarray) and found.shape == (5, engine.info["outputs"][0]["width"])
        np.save(tmp_path / "x.npy", x)
        to = tmp_path / "y.npy"
        ran = rin_command("run", spiking, "--input", tmp_path / "x.npy", "--output", to, "-q")
        assert ran.returncode == 0, ran.stderr
        assert np.array_equal(np.load(to), found)
        plan = engine.plan()
        parts = [plan[f"{part}_bytes"] for part in ("weights", "state", "scratch")]
        assert sum(parts) == plan["total_bytes"] > 0


def test_times_are_told(classifier: rin.RinEngine, engine: rin.RinEngine, rows: Rows) -> None:
    for one in (classifier, engine):
        found = one.benchmark(warmup=1, iterations=5)
        assert found["iterations"] == 5
        assert 0 < found["min_ms"] <= found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
        assert found["tokens_per_second"] == pytest.approx(1e3 / found["ms_per_token"])
    profiler = rin.Profiler(classifier)
    found = profiler.profile_inference(rows[0], iterations=4, warmup=1)
    assert found["iterations"] == 4 and found["latency_ms"] > 0 and found["tokens_per_second"] is None
    found = rin.Profiler(engine).profile_inference("the", iterations=2, warmup=0, max_tokens=3, ignore_eos=True)
    assert found["total_tokens_generated"] == 6 and found["tokens_per_second"] > 0
    report = profiler.full_report(rows[0], iterations=2)
    assert set(report) == {"info", "plan", "benchmark", "inference"}
