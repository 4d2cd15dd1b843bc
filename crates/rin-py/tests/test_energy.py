"""Energy: None where there is no sensor; figures of one made of files where there is; and a training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LLAMA

import rin
from rin.errors import CancelledError, InvalidInputError, UnmeasuredError

WATTS = 50


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of one package that takes 50 W."""
    zone = tmp_path / "sys/devices/virtual/powercap/intel-rapl/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    (zone / "energy_uj").write_text("000000000000\n")
    over = threading.Event()

    def take_power() -> None:
        import time

        began = time.perf_counter()
        with (zone / "energy_uj").open("r+b", buffering=0) as file:
            while not over.wait(0.0005):
                file.seek(0)
                file.write(b"%012d\n" % int((time.perf_counter() - began) * WATTS * 1e6))

    monkeypatch.setenv("RIN_SYS_ROOT", str(tmp_path))
    taking = threading.Thread(target=take_power)
    taking.start()
    yield
    over.set()
    taking.join()


@pytest.fixture
def no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without sensors."""
    monkeypatch.setenv("RIN_SYS_ROOT", str(tmp_path))


def test_without_a_sensor_there_is_no_figure(no_machine: None) -> None:
    with rin.RinEngine(LLAMA, threads=1) as engine:
        found = engine.complete("the", 5)
        assert found.energy_joules is None and found.energy_uncertainty_joules is None
        assert engine.energy_joules is None and engine.energy_millijoules is None
        with rin.EnergyMonitor(engine) as monitor:
            engine.generate("the", 2)
        assert monitor.consumed_joules is None and monitor.reason and monitor.inference_delta == 1
        assert monitor.average_watts is None and monitor.joules_per_inference is None
        with pytest.raises(UnmeasuredError):
            rin.PowerTuner(engine, watts=10)
        assert rin.PowerTuner(engine).joules_per_token("the", 3) is None


def test_a_sensor_is_read(machine: None) -> None:
    with rin.RinEngine(threads=1) as engine:
        assert engine.energy_joules is None, "nothing was generated"
        with rin.EnergyMonitor(engine) as monitor:
            found = engine.complete("ROMEO:", 60, ignore_eos=True)
        assert found.energy_joules is not None and found.energy_joules > 0
        assert engine.energy_joules == pytest.approx(found.energy_joules)
        assert engine.energy_millijoules == pytest.approx(1e3 * found.energy_joules)
        assert monitor.consumed_joules is not None and monitor.average_watts is not None
        # The file is written by another thread of this program, as well as that goes.
        assert WATTS / 3 < monitor.average_watts < WATTS * 3
        assert monitor.joules_per_inference == monitor.consumed_joules
        assert monitor.report()["reason"] is None
        alone = rin.EnergyMonitor()
        found_later = alone.sample()
        assert found_later["wall_clock_seconds"] > 0


def test_batteries_are_reckoned() -> None:
    found = rin.PowerTuner.estimate_battery_life(joules_per_token=0.5, watt_hours=10, tokens_per_second=20)
    assert found == {"tokens": 72000, "hours": 1.0, "watts": 10.0}
    with pytest.raises(InvalidInputError):
        rin.PowerTuner.estimate_battery_life(0, 1, 1)


CONFIG = """
[model]
family = "llama"
dim = 32
layers = 1
heads = 2
ffn = 64
ctx = 32
tokenizer = "char"
[data]
files = ["text.txt"]
[train]
steps = 6
batch = 2
seq = 16
warmup = 2
eval_every = 3
checkpoint_every = 3
log_every = 1
[output]
name = "tiny"
"""


def test_a_network_is_trained_and_runs(tmp_path: Path) -> None:
    text = "".join(chr(97 + int(n)) for n in np.random.default_rng(0).integers(0, 20, 3000))
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "config.toml").write_text(CONFIG)
    events: list[dict[str, Any]] = []
    summary = rin.train(tmp_path / "config.toml", progress=events.append)
    names = {event["event"] for event in events}
    assert {"started", "step", "evaluated"} <= names and "finished" not in names
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == sorted(steps) and steps[-1] == 6
    with rin.RinEngine(summary["model"], threads=1) as engine:
        assert engine.generate("a", 5, ignore_eos=True)
    with pytest.raises(InvalidInputError) as caught:
        rin.train(tmp_path / "config.toml")
    assert caught.value.kind == "Exists"

    def stop(event: dict[str, Any]) -> bool:
        return bool(event["event"] != "step")

    with pytest.raises(CancelledError):
        rin.train(tmp_path / "config.toml", overwrite=True, progress=stop)
    # Ended and resumed, it is the training that it would have been.
    again = rin.train(tmp_path / "config.toml", resume=True, overwrite=True)
    assert again["model"] == summary["model"]
