"""Checks the statistics and the report: python bench/peers/test_report.py"""

import copy
import json
import random
import tempfile
from pathlib import Path

import page
import report
from worker import philox, token


def test_philox():
    """Known answers of Random123 (kat_vectors): the first word of Philox4x32-10."""
    assert philox((0, 0), (0, 0)) == 0x6627E8D5
    ids = [token(i, 0, 100) for i in range(4000)]
    assert set(ids) == set(range(100)) and ids != [token(i, 1, 100) for i in range(4000)]


def test_interval_covers():
    """The interval of a median of 20 normal values holds the true median about 19 times in 20."""
    rng = random.Random(7)
    hits = 0
    for _ in range(200):
        low, high = report.interval([rng.gauss(50, 5) for _ in range(20)], report.median, resamples=400)
        hits += low <= 50 <= high
    assert 0.88 <= hits / 200 <= 0.99, hits


def test_interval_of_few():
    assert report.interval([1.0, 2.0, 3.0, 4.0], report.median) is None
    assert report.interval([3.0] * 5, report.median) == [3.0, 3.0]


def test_ratio_is_paired():
    """A drift that both share cancels, which it does not where pairs are torn apart."""
    drift = [1.0, 1.5, 0.7, 1.2, 0.9, 1.3, 0.8, 1.1, 1.4, 1.0]
    found = report.ratio([110 * d for d in drift], [100 * d for d in drift])
    assert abs(found["ratio"] - 1.1) < 1e-12 and found["shown"] == "rin faster"
    assert all(abs(bound - 1.1) < 1e-12 for bound in found["ratio_ci95"])
    torn = report.ratio([110 * d for d in drift], [100 * d for d in drift[5:] + drift[:5]])
    assert torn["shown"] == "no difference shown", torn


def test_ratio_verdicts():
    assert report.ratio([1.0] * 10, [2.0] * 10)["shown"] == "peer faster"
    assert report.ratio([2.0] * 4, [1.0] * 4) == {"ratio": 2.0, "ratio_ci95": None, "shown": "too few repetitions"}
    try:
        report.ratio([1.0] * 10, [1.0] * 9)
    except ValueError:
        return
    raise AssertionError("unequal numbers of repetitions were paired")


def row(engine, rates=None, **more):
    base = {"model": "15m", "type": "Q8_0", "threads": 1, "test": "pp512", "engine": engine}
    base |= {"disturbed": False, "disturbed_by": []}
    if rates is None:
        return {**base, "status": "ImportError: there is none", **more}
    measured = {"status": "measured", "arithmetic": "same", "differs": [], "samples_ts": rates, "version": "1"}
    return {**base, **measured, **more}


def example():
    rows = [
        row("rin", [200.0 + i for i in range(10)]), row("llama.cpp", [100.0 + i / 2 for i in range(10)]),
        row("torch-bf16", [40.0] * 10, arithmetic="bf16", differs=["weights dequantised"]), row("onnxruntime"),
    ]  # fmt: skip
    machine = {"cpu": "a | b", "cores": [0], "features": ["avx2"], "system": "Linux", "hypervisor": True}
    parity = {"model": "15m", "type": "Q8_0", "threads": 1, "engine": "llama.cpp", "difference": 1e-3, "bound": 3e-2}
    parity |= {"same_choice": 5, "positions": 5, "within": True}
    return {
        "rows": report.finish(rows), "machine": machine, "parity": [parity], "repetitions": 10, "begun": "now",
        "engines": [], "models": [],
    }  # fmt: skip


def test_only_same_work_is_compared():
    rin, llama, torch, absent = example()["rows"]
    assert "ratio" not in rin and abs(llama["ratio"] - 2) < 1e-12
    assert "ratio" not in torch and torch["median_ts"] == 40.0
    assert not {"median_ts", "ratio", "samples_ts"} & set(absent), "what was not measured has no figure"
    again = copy.deepcopy(example()["rows"])
    assert report.finish(again) == example()["rows"], "rows may be finished twice"


def test_disturbed_shows_nothing():
    found = example()
    for row in found["rows"]:
        row |= {"disturbed": True, "disturbed_by": ["other processes took 9.0 %"]}
    assert report.finish(found["rows"])[1]["shown"] == "nothing: disturbed"
    text = report.markdown(found)
    assert "**DISTURBED**, 15m Q8_0, 1 threads: other processes took 9.0 %" in text and "rin faster" not in text


def test_report():
    found = example()
    text = report.markdown(found)
    same, _, rest = text.partition("## Other arithmetic")
    other, _, missing = rest.partition("## Not measured")
    assert "llama.cpp" in same and "2.000" in same and "torch" not in same and "onnxruntime" not in same
    assert "torch-bf16" in other and "rin faster" not in other and "÷" not in other
    assert "ImportError: there is none" in missing and "- quiet: nothing" in same
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in lines}) <= 1, part
    with tempfile.TemporaryDirectory() as folder:
        report.write(found, folder)
        assert json.loads((Path(folder) / "report.json").read_text()) == found
        assert (Path(folder) / "report.md").read_text() == text


def test_page():
    """Each ratio stands in the table and in the picture with its verdict; what lies outside the marks stays."""
    found = example()
    where = "15m Q8_0, 1 threads"
    found["engines"] = [
        {"engine": "rin", "for": where, "version": "rin 1", "config": ["tier avx2"]},
        {"engine": "llama.cpp", "for": where, "version": "llama 1", "config": ["CPU : AVX2 = 1 | FMA = 1"]},
    ]
    full, brief, drawn = page.pages([found, found])
    assert full.count("| llama.cpp without AVX-512 ") == 2
    assert full.count("| 2.000 |") == 2 and "| avx2 |" in full and "rin faster" in full
    assert "15m" not in brief, "README shows the largest shape alone"
    assert drawn.count("<circle") == 2 and "15m Q8_0, pp512, 1 threads, AVX2" in drawn and "torch" not in drawn
    assert page.pages([{**found, "rows": []}]) is None
    text = f"before {page.BEGIN} old {page.END} after"
    assert page.between(text, "new") == f"before {page.BEGIN}\nnew\n{page.END} after"


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"{name}: ok")
