"""Language models: what they generate is what ``rin run`` generates, piece by piece and all at once."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import LLAMA, REPOSITORY, rin_command

import rin
from rin.errors import InvalidInputError, UnsupportedError


def test_the_example_of_the_first_rin_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model of that name, and on a machine with a sensor of energy, which it prints: here one made of files."""
    example = """
from rin import RinEngine

with RinEngine("model.rin", mode="mlp") as engine:
    output = engine.generate("Hello", max_tokens=50)
    print(output)
    print(f"Energy: {engine.energy_joules:.3f} J")
"""
    (tmp_path / "model.rin").symlink_to(REPOSITORY / "models" / "embedded" / "rin-shakespeare.rin")
    zone = tmp_path / "machine/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    counter = zone / "energy_uj"
    counter.write_text("000000000000\n")
    over = threading.Event()

    def take_power() -> None:
        with counter.open("r+b", buffering=0) as file:
            microjoules = 0
            while not over.wait(0.0005):
                microjoules += 25_000
                file.seek(0)
                file.write(b"%012d\n" % microjoules)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIN_SYS_ROOT", str(tmp_path / "machine"))
    machine = threading.Thread(target=take_power)
    machine.start()
    try:
        with pytest.warns(rin.RinWarning, match="transformer"):
            exec(compile(example, "README.md", "exec"), {})
    finally:
        over.set()
        machine.join()
    told = capsys.readouterr().out
    text, _, energy = told.rstrip("\n").rpartition("\n")
    assert len(text) > 20 and energy.startswith("Energy: ") and energy.endswith(" J")
    assert float(energy.split()[1]) > 0


def test_texts_are_those_of_the_command(engine: rin.RinEngine) -> None:
    for prompt, n, temperature, seed in [("the", 20, 0.0, 0), ("a b", 12, 0.8, 7), ("ü", 5, 1.5, 1)]:
        found = engine.complete(prompt, n, temperature=temperature, seed=seed)
        sampling = ["--temp", temperature, "--seed", seed]
        ran = rin_command("run", LLAMA, "-p", prompt, "-n", n, *sampling, "--json", "-q", "--threads", 1)
        told = json.loads(ran.stdout)
        assert (found.text, found.tokens, found.digest) == (told["text"], told["tokens"], told["digest"])
        assert (found.finish_reason, found.prompt_tokens) == (told["finish_reason"], told["prompt_tokens"])
        assert engine.digest == found.digest
    assert engine.inference_count == 3
    assert engine.total_tokens > 0


def test_a_stream_is_the_text_in_pieces(engine: rin.RinEngine) -> None:
    whole = engine.generate("the", 30, seed=3)
    with engine.stream("the", 30, seed=3) as stream:
        pieces = list(stream)
    assert "".join(pieces) == whole and len(pieces) > 5
    assert stream.result is not None and stream.result.text == whole
    assert next(stream, None) is None


def test_a_stream_that_is_let_go_ends_its_generation(engine: rin.RinEngine) -> None:
    stream = engine.stream("the", None, temperature=1.0, ignore_eos=True)
    next(stream)
    stream.close()
    # The engine is free for the next one, long before the context would be full.
    assert engine.generate("the", 3, temperature=0)
    del stream
    unused = engine.stream("the")
    del unused


def test_an_error_of_a_stream_is_raised_where_it_is_used(engine: rin.RinEngine) -> None:
    stream = engine.stream([99999])
    with pytest.raises(InvalidInputError) as caught:
        next(stream)
    assert caught.value.kind == "UnknownToken"
    with pytest.raises(InvalidInputError):
        engine.stream("the", top_k=-1)


def test_settings_hold_until_they_are_changed(engine: rin.RinEngine) -> None:
    assert (engine.temperature, engine.top_k, engine.top_p) == (0.8, 40, 0.95)
    engine.temperature = 0
    engine.top_k = 3
    engine.top_p = 0.5
    assert (engine.temperature, engine.top_k, engine.top_p) == (0, 3, 0.5)
    assert engine.generate("the", 9) == engine.generate("the", 9, temperature=0)
    with pytest.raises(InvalidInputError):
        engine.top_p = 1.5
    assert engine.top_p == 0.5
    with rin.RinEngine(LLAMA, threads=1, seed=11) as seeded:
        assert seeded.generate("the", 9) == seeded.generate("the", 9, seed=11)


def test_options_of_generations_work(engine: rin.RinEngine) -> None:
    greedy = engine.complete("the", 12, temperature=0, ignore_eos=True)
    first = greedy.tokens[0]
    without = engine.complete("the", 12, temperature=0, ignore_eos=True, logit_bias={first: float("-inf")})
    assert first not in without.tokens
    piece = greedy.text[3:6]
    stopped = engine.complete("the", 12, temperature=0, ignore_eos=True, stop=[piece])
    assert stopped.text == greedy.text[: greedy.text.index(piece)] and stopped.finish_reason == "stop"
    ids = engine.encode("the")
    assert engine.complete(ids, 12, temperature=0, ignore_eos=True).tokens == greedy.tokens
    assert engine.complete(np.array(ids), 12, temperature=0, ignore_eos=True).tokens == greedy.tokens
    assert engine.encode("the", special=False) == ids[1:]
    assert engine.decode(ids).strip() == "the"
    assert engine.encode("") == engine.encode("", special=True) and engine.encode("", special=False) == []
    assert engine.decode([]) == ""


def test_logits_are_those_of_transformers() -> None:
    ids = json.loads((LLAMA / "prompt.json").read_text())["tokens"]
    expected = np.load(LLAMA / "logits.npy")
    with rin.RinEngine(LLAMA, threads=1, kv_type="f32") as engine:
        found = engine.logits(ids)
        assert found.shape == expected.shape == (len(ids), engine.info["vocab_size"]) and found.dtype == np.float32
        assert float(np.abs(found - expected).max()) <= 1e-4 * float(np.ptp(expected))
        assert found.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
        for n in (1, 2, len(ids)):
            assert np.array_equal(engine.logits(ids[:n], last=True), found[n - 1])
        assert np.array_equal(engine.infer(np.array(ids, dtype=np.int64)), found)


def test_the_model_of_the_package_needs_no_file() -> None:
    with rin.RinEngine(threads=1) as engine:
        assert engine.info["num_parameters"] > 3_000_000
        assert len(engine.generate("ROMEO:", 20)) > 5


def test_what_the_model_is(engine: rin.RinEngine) -> None:
    info = engine.info
    config = json.loads((LLAMA / "config.json").read_text())
    assert info["num_layers"] == config["num_hidden_layers"] and info["model_dim"] == config["hidden_size"]
    assert info["vocab_size"] == config["vocab_size"] and info["architecture"] == "llama"
    assert info["mode"] == engine.mode == "transformer" and info["threads"] == 1
    assert info["backend"] == rin.backend_name() and info["version"] == rin.version() == rin.__version__
    assert info["size_mb"] == info["file_bytes"] / 1e6
    assert "tiny-llama" in repr(engine) or "transformer" in repr(engine)


def test_plans_are_known_before_loading_and_held(engine: rin.RinEngine) -> None:
    plan = engine.plan()
    parts = ("weights_bytes", "state_bytes", "scratch_bytes", "vocabulary_bytes")
    assert plan["total_bytes"] == sum(plan[part] for part in parts) and plan["fits"] is True
    small, large = rin.plan(LLAMA, ctx=64), rin.plan(LLAMA, ctx=128)
    assert small["state_bytes"] < large["state_bytes"] and small["weights_bytes"] == large["weights_bytes"]
    assert rin.plan(LLAMA, memory_limit=4096)["fits"] is False
    told = json.loads(rin_command("inspect", LLAMA, "--plan", "--json", "--ctx", 64).stdout)
    assert told["plan"]["total_bytes"] == small["total_bytes"]


def test_chat_says_that_there_are_no_templates(engine: rin.RinEngine) -> None:
    with pytest.raises(UnsupportedError, match="template") as caught:
        engine.chat([{"role": "user", "content": "hi"}])
    assert caught.value.kind == "NoTemplates"


def test_other_models_take_the_place(engine: rin.RinEngine, plain: Path) -> None:
    engine.load_model(plain)
    assert engine.mode == "mlp"
    with pytest.raises(UnsupportedError):
        engine.generate("the")
    engine.load_model(LLAMA)
    assert engine.generate("the", 2)


def test_tasks_go_on_while_a_text_is_made(engine: rin.RinEngine) -> None:
    async def main() -> tuple[str, str, int]:
        ticks = 0
        over = asyncio.Event()

        async def tick() -> None:
            nonlocal ticks
            while not over.is_set():
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        whole = await engine.agenerate("the", 40, seed=5, ignore_eos=True)
        pieces = [piece async for piece in engine.astream("the", 40, seed=5, ignore_eos=True)]
        over.set()
        await ticking
        return whole, "".join(pieces), ticks

    whole, pieces, ticks = asyncio.run(main())
    assert whole == pieces == engine.generate("the", 40, seed=5, ignore_eos=True)
    assert ticks > 2


def test_a_cancelled_task_ends_its_generation(engine: rin.RinEngine) -> None:
    async def main() -> None:
        task = asyncio.create_task(engine.agenerate("the", None, ignore_eos=True))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.generate("the", 2)
