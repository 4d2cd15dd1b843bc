"""Everything that can be done wrong: the right error, and an engine that goes on working."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFORMANCE, LLAMA

import rin
from rin import errors
from rin.errors import (
    ClosedError,
    InputTypeError,
    InvalidInputError,
    MemoryPlanError,
    ModelError,
    ModelFileError,
    NotLoadedError,
    RinError,
    UnsupportedError,
)

Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@pytest.mark.parametrize(
    "give, error, place",
    [
        (lambda x: x.astype(np.float64), InputTypeError, "input"),
        (lambda x: x.astype(np.int32), InputTypeError, "input"),
        (lambda x: x.astype(">f4"), InputTypeError, "input"),
        (lambda x: x.astype(complex), InputTypeError, "input"),
        (lambda x: x.astype(object), InputTypeError, "input"),
        (lambda x: x.astype(str), InputTypeError, "input"),
        (lambda x: bytes(x), InputTypeError, "input"),
        (lambda x: None, InputTypeError, "input"),
        (lambda x: "text", InputTypeError, "input"),
        (lambda x: object(), InputTypeError, "input"),
        (lambda x: {"a": 1}, InputTypeError, "input"),
        (lambda x: x[:, :-1], InvalidInputError, "input"),
        (lambda x: x[0, :-1], InvalidInputError, "input"),
        (lambda x: x[None, None], InvalidInputError, "input"),
        (lambda x: np.float32(1), InvalidInputError, "input"),
        (lambda x: np.array(1, dtype=np.float32), InvalidInputError, "input"),
        (lambda x: 3.5, InvalidInputError, "input"),
        (lambda x: [[1.0, 2.0], [3.0]], InvalidInputError, "input"),
        (lambda x: ["a", "b"], InvalidInputError, "input"),
        (lambda x: [], InvalidInputError, "input"),
    ],
)
def test_what_is_no_row_is_refused(
    classifier: rin.RinEngine, rows: Rows, give: Any, error: type[RinError], place: str
) -> None:
    with pytest.raises(error) as caught:
        classifier.infer(give(rows))
    assert isinstance(caught.value, RinError) and place in caught.value.place and caught.value.kind == "BadInput"
    assert classifier.inference_count == 0
    classifier.infer(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found_where_it_lies(classifier: rin.RinEngine, rows: Rows, bad: float) -> None:
    broken = rows.copy()
    broken[3, 2] = bad
    for given in (broken, broken.tolist(), np.asfortranarray(broken)):
        with pytest.raises(InvalidInputError) as caught:
            classifier.infer(given)
        assert caught.value.kind == "NotFinite" and "row 3" in caught.value.place and "place 2" in caught.value.place
    assert isinstance(caught.value, ValueError)


def test_inputs_are_those_of_the_network(classifier: rin.RinEngine, rows: Rows) -> None:
    (port,) = classifier.info["inputs"]
    for inputs, named in [((rows, rows), {}), ((rows,), {port["name"]: rows}), ((), {"no such": rows}), ((), {})]:
        with pytest.raises(InvalidInputError):
            classifier.infer(*inputs, **named)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda e: e.generate(""), None),
        (lambda e: e.generate([]), InvalidInputError),
        (lambda e: e.generate(7), InputTypeError),
        (lambda e: e.generate(None), InputTypeError),
        (lambda e: e.generate([1.5]), InputTypeError),
        (lambda e: e.generate([[1, 2]]), InvalidInputError),
        (lambda e: e.generate([-1]), InvalidInputError),
        (lambda e: e.generate([2**40]), InvalidInputError),
        (lambda e: e.generate([2**70]), InputTypeError),
        (lambda e: e.generate([99999]), InvalidInputError),
        (lambda e: e.generate("\ud800"), InvalidInputError),
        (lambda e: e.generate("a " * 100_000), InvalidInputError),
        (lambda e: e.generate("a", 0), InvalidInputError),
        (lambda e: e.generate("a", -1), InvalidInputError),
        (lambda e: e.generate("a", 2**70), InvalidInputError),
        (lambda e: e.generate("a", 1.5), InputTypeError),
        (lambda e: e.generate("a", True), InputTypeError),
        (lambda e: e.generate("a", temperature=-1), InvalidInputError),
        (lambda e: e.generate("a", temperature=float("nan")), InvalidInputError),
        (lambda e: e.generate("a", temperature=float("inf")), InvalidInputError),
        (lambda e: e.generate("a", temperature="hot"), InputTypeError),
        (lambda e: e.generate("a", temperature=10**400), InvalidInputError),
        (lambda e: e.generate("a", top_p=2), InvalidInputError),
        (lambda e: e.generate("a", top_k=-1), InvalidInputError),
        (lambda e: e.generate("a", min_p=-0.5), InvalidInputError),
        (lambda e: e.generate("a", repeat_penalty=0), InvalidInputError),
        (lambda e: e.generate("a", seed=-1), InvalidInputError),
        (lambda e: e.generate("a", stop=[3]), InputTypeError),
        (lambda e: e.generate("a", logit_bias={99999: 1.0}), InvalidInputError),
        (lambda e: e.generate("a", logit_bias={-1: 1.0}), InvalidInputError),
        (lambda e: e.generate("a", logit_bias={1: float("nan")}), InvalidInputError),
        (lambda e: e.generate("a", no_such_option=1), InputTypeError),
        (lambda e: e.encode(b"bytes"), InputTypeError),
        (lambda e: e.encode("\udcff"), InvalidInputError),
        (lambda e: e.decode("text"), InputTypeError),
        (lambda e: e.decode([99999]), InvalidInputError),
        (lambda e: e.decode(5), InputTypeError),
        (lambda e: e.logits([]), InvalidInputError),
        (lambda e: e.logits([99999]), InvalidInputError),
        (lambda e: e.logits([1] * 100_000), InvalidInputError),
        (lambda e: e.logits(np.array([True])), InputTypeError),
        (lambda e: e.logits([], last=True), InvalidInputError),
        (lambda e: e.infer(np.ones((2, 3), dtype=np.float32)), InvalidInputError),
        (lambda e: e.infer(np.ones(3, dtype=np.float32)), InputTypeError),
        (lambda e: e.infer(), InvalidInputError),
        (lambda e: e.infer_all([1]), UnsupportedError),
        (lambda e: e.benchmark(iterations=0), InvalidInputError),
        (lambda e: e.benchmark("rin"), UnsupportedError),
        (lambda e: e.benchmark("no mode"), InvalidInputError),
        (lambda e: setattr(e, "temperature", None), None),
        (lambda e: setattr(e, "temperature", float("nan")), InvalidInputError),
        (lambda e: setattr(e, "top_k", 1.5), InputTypeError),
        (lambda e: setattr(e, "mode", "snn"), UnsupportedError),
        (lambda e: setattr(e, "power_budget", None), InputTypeError),
        (lambda e: setattr(e, "power_budget", -5.0), RinError),
        (lambda e: e.stream(None), InputTypeError),
    ],
)
def test_what_cannot_be_asked_is_refused(engine: rin.RinEngine, call: Any, error: type[RinError] | None) -> None:
    if error is None:
        call(engine)
    else:
        with pytest.raises(error) as caught:
            call(engine)
        assert caught.value.message and caught.value.kind
    assert engine.generate("the", 2, temperature=0) != ""


@pytest.mark.parametrize(
    "options, error, place",
    [
        ({"threads": 0}, InvalidInputError, "threads"),
        ({"threads": 10**6}, InvalidInputError, "threads"),
        ({"threads": -1}, InvalidInputError, "threads"),
        ({"threads": "two"}, InputTypeError, "threads"),
        ({"tier": "quantum"}, InvalidInputError, "tier"),
        ({"tier": 5}, InputTypeError, "tier"),
        ({"ctx": 0}, InvalidInputError, "ctx"),
        ({"batch": 0}, InvalidInputError, "batch"),
        ({"seed": -3}, InvalidInputError, "seed"),
        ({"kv_type": "f8"}, InvalidInputError, "kv_type"),
        ({"affinity": "tight"}, InvalidInputError, "affinity"),
        ({"memory_limit": 1}, MemoryPlanError, ""),
        ({"mode": "transformers"}, InvalidInputError, "mode"),
        ({"mode": "snn"}, UnsupportedError, "mode"),
        ({"logits_rows": 0}, InvalidInputError, "logits_rows"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[RinError], place: str) -> None:
    with pytest.raises(error) as caught:
        rin.RinEngine(LLAMA, **options)
    assert caught.value.place == place


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as missing:
        rin.RinEngine(tmp_path / "no such.gguf")
    assert isinstance(missing.value, OSError) and missing.value.kind == "Io" and "no such.gguf" in missing.value.place
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("this is no model")
    for name in ("empty.gguf", "text.gguf", "."):
        with pytest.raises(ModelError):
            rin.RinEngine(tmp_path / name)
    for wrong in (7, 1.5, object(), ["a"]):
        with pytest.raises(InputTypeError):
            rin.RinEngine(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        rin.RinEngine("a\0b")


def test_every_damaged_model_is_an_error(tmp_path: Path) -> None:
    """Of a model cut off and changed at many places, none kills the interpreter, and what is wrong has a place."""
    whole = (LLAMA / "tiny-llama-f16.gguf").read_bytes()
    path = tmp_path / "broken.gguf"
    places = 0
    for cut in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError) as caught:
            rin.RinEngine(path)
        places += bool(caught.value.place)
    assert places > 20
    for at in range(0, 4000, 67):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            rin.RinEngine(path, ctx=64).close()
        except RinError as error:
            assert error.message


def test_a_closed_engine_says_so(plain: Path, rows: Rows) -> None:
    for path in (LLAMA, plain):
        engine = rin.RinEngine(path)
        assert not engine.closed
        if path == plain:
            engine.infer(rows)
        engine.close()
        engine.close()
        assert engine.closed and repr(engine) == "<RinEngine, closed>"
        calls: list[Any] = [
            lambda: engine.generate("a"),
            lambda: engine.infer(rows),
            lambda: engine.infer([[1.0]]),
            lambda: engine.encode("a"),
            lambda: engine.decode([1]),
            lambda: engine.logits([1]),
            lambda: engine.info,
            lambda: engine.mode,
            lambda: engine.plan(),
            lambda: engine.benchmark(),
            lambda: engine.energy_joules,
            lambda: engine.inference_count,
            lambda: engine.total_tokens,
            lambda: engine.digest,
            lambda: engine.load_model(path),
            lambda: setattr(engine, "temperature", 1.0),
            lambda: next(engine.stream("a")),
            lambda: rin.EnergyMonitor(engine),
        ]
        for call in calls:
            with pytest.raises(ClosedError) as caught:
                call()
            assert caught.value.kind == "Closed"


def test_a_failed_load_leaves_no_model(plain: Path, rows: Rows) -> None:
    with rin.RinEngine(plain) as engine:
        with pytest.raises(ModelFileError):
            engine.load_model("no such file")
        for call in (lambda: engine.infer(rows), lambda: engine.generate("a"), lambda: engine.info):
            with pytest.raises(NotLoadedError):
                call()
        assert repr(engine) == "<RinEngine, no model>"
        engine.load_model(plain)
        engine.infer(rows)


def test_imports_and_trainings_that_cannot_be(tmp_path: Path, plain: Path) -> None:
    networks = CONFORMANCE / "networks"
    with pytest.raises(RinError):
        rin.import_model("no such file", tmp_path / "x.rin")
    with pytest.raises(InvalidInputError) as caught:
        rin.import_model(plain, tmp_path / "x.rin")
    assert caught.value.kind == "AlreadyRin"
    with pytest.raises(InvalidInputError) as caught:
        rin.import_model(networks / "plain.pt", plain, network=networks / "plain.toml")
    assert caught.value.kind == "Exists"
    with pytest.raises(InvalidInputError) as caught:
        rin.import_model(LLAMA, tmp_path / "x.rin", quant="Q9")
    assert caught.value.place == "quant"
    with pytest.raises(InvalidInputError):
        rin.import_model(networks / "plain.pt", tmp_path / "x.rin", network=tmp_path / "no such.toml")
    with pytest.raises(RinError):
        rin.import_model(networks / "plain.pt", tmp_path / "x.rin")
    with pytest.raises(errors.CancelledError):
        rin.import_model(LLAMA, tmp_path / "x.rin", progress=lambda event: False)

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        rin.import_model(LLAMA, tmp_path / "x.rin", progress=stop)
    assert not (tmp_path / "x.rin").exists()
    (tmp_path / "bad.toml").write_text("[model]\nfamily = 'llama'\nno_such_key = 1\n")
    with pytest.raises(InvalidInputError) as caught:
        rin.train(tmp_path / "bad.toml")
    assert caught.value.kind == "ConfigSyntax"
    with pytest.raises(RinError):
        rin.train(tmp_path / "no such.toml")


def test_a_callback_cannot_call_back(engine: rin.RinEngine) -> None:
    def hear(piece: str) -> None:
        engine._context.encode("the", True, False)

    prepared = engine._prepared("the", 5, {})
    with pytest.raises(errors.BusyError):
        prepared.run(hear)
    assert engine.generate("the", 2)


def test_what_a_callback_raises_comes_out(engine: rin.RinEngine) -> None:
    def hear(piece: str) -> None:
        if piece:
            raise LookupError(piece)

    with pytest.raises(LookupError):
        engine._prepared("the", 5, {}).run(hear)
    assert engine.generate("the", 2)


def test_errors_can_be_pickled_and_told_apart() -> None:
    for name in vars(errors):
        of = getattr(errors, name)
        if isinstance(of, type) and issubclass(of, RinError):
            error = pickle.loads(pickle.dumps(of("words", kind="Kind", place="place")))
            assert type(error) is of and (str(error), error.kind, error.place) == ("words", "Kind", "place")
    assert issubclass(InputTypeError, TypeError) and issubclass(InvalidInputError, ValueError)
    assert rin.RinException is RinError


def test_an_engine_serves_threads_one_after_another(classifier: rin.RinEngine, engine: rin.RinEngine, rows: Rows) -> None:
    expected = classifier.infer(rows)
    text = engine.generate("the", 12, seed=2)
    wrong: list[object] = []

    def infer() -> None:
        for _ in range(200):
            found = classifier.infer(rows)
            if not np.array_equal(found, expected):
                wrong.append(found)

    def generate() -> None:
        for _ in range(5):
            found = engine.generate("the", 12, seed=2)
            if found != text:
                wrong.append(found)

    def break_things() -> None:
        for _ in range(200):
            try:
                classifier.infer(rows.astype(np.float64))
                wrong.append("no error")
            except InputTypeError:
                pass

    threads = [threading.Thread(target=target) for target in (infer, generate, break_things) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closing_while_another_thread_works(plain: Path, rows: Rows) -> None:
    for _ in range(20):
        engine = rin.RinEngine(plain, threads=1)
        found: list[type[BaseException]] = []
        begun = threading.Event()

        def work(engine: rin.RinEngine = engine, begun: threading.Event = begun) -> None:
            try:
                while True:
                    engine.infer(rows)
                    begun.set()
            except BaseException as error:
                found.append(type(error))

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        engine.close()
        thread.join()
        assert found == [ClosedError]


def test_engines_are_independent() -> None:
    engines = [rin.RinEngine(LLAMA, threads=1) for _ in range(3)]
    found: dict[int, str] = {}

    def work(n: int) -> None:
        found[n] = engines[n].generate("the", 20, seed=9)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found.values())) == 1 and len(found) == 3
    for engine in engines:
        engine.close()
