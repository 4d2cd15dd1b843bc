"""Models for the tests: those of ``conformance/``, and networks made of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rin

REPOSITORY = Path(__file__).parents[3]
CONFORMANCE = REPOSITORY / "conformance"
LLAMA = CONFORMANCE / "models" / "tiny-llama"


def rin_command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m rin`` of the native backend."""
    variables = {**os.environ, "RIN_BACKEND": "native", **variables}
    command = [sys.executable, "-m", "rin", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def plain(folder: Path) -> Path:
    """A classifier of one input and one output."""
    to = folder / "plain.rin"
    rin.import_model(CONFORMANCE / "networks" / "plain.pt", to, network=CONFORMANCE / "networks" / "plain.toml")
    return to


@pytest.fixture(scope="session")
def residual(folder: Path) -> Path:
    """A network of two outputs."""
    to = folder / "residual.rin"
    rin.import_model(CONFORMANCE / "networks" / "residual.pt", to, network=CONFORMANCE / "networks" / "residual.toml")
    return to


@pytest.fixture(scope="session")
def spiking(folder: Path) -> Path:
    """A spiking network."""
    to = folder / "spiking.rin"
    made = rin_command("import", CONFORMANCE / "nir" / "lif-li.nir", "-o", to, "-q")
    assert made.returncode == 0, made.stderr
    return to


@pytest.fixture
def engine() -> Iterator[rin.RinEngine]:
    """A language model."""
    with rin.RinEngine(LLAMA, threads=1) as engine:
        yield engine


@pytest.fixture
def classifier(plain: Path) -> Iterator[rin.RinEngine]:
    """A classifier."""
    with rin.RinEngine(plain, threads=1) as engine:
        yield engine


@pytest.fixture
def rows() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Rows for the classifier."""
    found = np.load(CONFORMANCE / "networks" / "plain-x.npy")
    assert found.dtype == np.float32
    return np.asarray(found)
