"""What concerns the whole process: interrupts, the end of the program, the command, the choice of the backend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import LLAMA, REPOSITORY, rin_command

import rin

MODEL = REPOSITORY / "models" / "embedded" / "rin-shakespeare.rin"


def python(code: str, **variables: str) -> subprocess.Popen[str]:
    """A program on the backend that is tested."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    "work",
    [
        "engine.generate('a', None, ignore_eos=True)",
        "list(engine.stream('a', None, ignore_eos=True))",
        "engine.generate([1] * 3000, 1)",
    ],
)
def test_an_interrupt_ends_a_generation(work: str) -> None:
    # A shell's background jobs ignore the signal, and so would what they start.
    code = f"""
import rin, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
with rin.RinEngine({str(MODEL)!r}, ctx=20000, threads=1, batch=8) as engine:
    print("ready", flush=True)
    try:
        while True:
            {work}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(len(engine.generate("a", 3, ignore_eos=True)) > 0)
"""
    child = python(code)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (out, child.returncode) == ("interrupted\nTrue\n", 0), err


def test_a_program_can_end_within_a_stream() -> None:
    code = f"""
import rin
engine = rin.RinEngine({str(MODEL)!r}, ctx=100000, threads=1)
stream = engine.stream("a", None, ignore_eos=True)
print(next(stream) != "")
"""
    child = python(code)
    out, err = child.communicate(timeout=60)
    assert (out, err, child.returncode) == ("True\n", "", 0)


def test_a_fork_that_uses_no_engine_of_its_parent() -> None:
    code = f"""
import os, rin
engine = rin.RinEngine({str(LLAMA)!r}, threads=1)
child = os.fork()
if child == 0:
    with rin.RinEngine({str(LLAMA)!r}, threads=1) as own:
        os._exit(0 if own.generate("the", 3) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), engine.generate("the", 3) != "")
"""
    child = python(code)
    out, err = child.communicate(timeout=60)
    assert (out, child.returncode) == ("0 True\n", 0), err


def test_python_m_rin_is_the_command(tmp_path: Path) -> None:
    found = rin_command("--version")
    assert (found.returncode, found.stdout.split()) == (0, ["rin", rin.version()])
    found = rin_command("run", LLAMA, "-p", "the", "-n", "5", "-q")
    assert found.returncode == 0 and found.stdout
    assert rin_command("run", tmp_path / "no such.gguf", "-p", "a").returncode == 1
    assert rin_command("no-such-command").returncode == 2
    assert rin_command("run", LLAMA, "-p", "the", "--memory-limit", "4096").returncode == 4
    found = rin_command("tokens", LLAMA, "-p", "the", "--json")
    assert found.returncode == 0 and '"tokens"' in found.stdout


def test_the_command_is_installed() -> None:
    script = Path(sys.executable).with_name("rin")
    variables = {**os.environ, "RIN_BACKEND": "native"}
    found = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, env=variables)
    assert found.stdout.split() == ["rin", rin.version()]


def test_an_interrupt_ends_the_command() -> None:
    command = [sys.executable, "-m", "rin", "run", str(MODEL), "-p", "a", "--ignore-eos", "--ctx", "100000"]
    command += ["-n", "90000", "--json", "-q"]
    variables = {**os.environ, "RIN_BACKEND": "native"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and '"finish_reason": "cancelled"' in out.replace('":"', '": "'), (out[-300:], err)


def test_the_backend_is_the_one_that_was_asked_for() -> None:
    wanted = os.environ.get("RIN_BACKEND")
    assert wanted in ("native", "ctypes"), "scripts/python-test sets it"
    assert rin.backend_name() == {"native": "native", "ctypes": "ctypes (librin)"}[wanted]
    child = python("import rin; rin.backend_name()", RIN_BACKEND="no such")
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1 and "ImportError: RIN_BACKEND is native or ctypes" in err
    child = python("import rin; rin.backend_name()", RIN_BACKEND="ctypes", RIN_LIB="/no such library")
    child.communicate(timeout=60)
    assert child.returncode == 1


def test_everything_in_the_package_has_words() -> None:
    for name in rin.__all__:
        found = getattr(rin, name)
        assert found.__doc__, name
        for part, member in vars(found).items() if isinstance(found, type) else ():
            if callable(member) and not part.startswith("_"):
                assert member.__doc__, f"{name}.{part}"
    assert set(rin.__all__) <= set(dir(rin))
    with pytest.raises(AttributeError):
        rin.no_such_name  # noqa: B018
