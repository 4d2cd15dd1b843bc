"""Memories and decoders of PyTorch: logits and gradients are those of the published recurrences, of the engine and of the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFORMANCE

import rin
from rin.errors import InvalidInputError, ModelError, RinError, UnsupportedError

torch = pytest.importorskip("torch")
nn = torch.nn

MEMORIES = sorted((CONFORMANCE / "memory").glob("*.rin"))
GRADIENTS = sorted((CONFORMANCE / "gradients").glob("memory-*.safetensors"))
TYPES = {"F32": "<f4", "F16": "<f2"}


def setup_module() -> None:
    import rin.torch  # noqa: F401


def safetensors(path: Path) -> tuple[dict[str, str], dict[str, Any], dict[str, bytes]]:
    """Metadata, header and bytes of each tensor."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    return metadata, header, {name: data[8 + size + a : 8 + size + b] for name, (a, b) in spans.items()}


def decoder(layers: list[Any], vocab: int, dim: int, ffn: int, heads: int, eps: float) -> Any:
    """A decoder whose layers are described as in a file."""
    memories: list[Any] = []
    for described in layers:
        if described is None:
            memories.append(None)
            continue
        m = {**described, **described.get("bhrr", {})}
        names = ("k_heads", "k_dim", "v_dim", "conv", "output_norm", "output_gate")
        arms = ("address", "read_by", "top", "decay", "delta", "values", "outer", "state")
        options = {name: m[name] for name in (*names, *arms) if name in m}
        heads_of = {"heads": m["v_heads"], "slots": m["slots"] or 16, "norm_eps": eps}
        memories.append(rin.torch.Memory(dim, m["kind"], **options, **heads_of))
    return rin.torch.Decoder(vocab, dim, memories, ffn=ffn, heads=heads, norm_eps=eps)


def fill(module: Any, weights: dict[str, Any]) -> None:
    """Gives a decoder the weights of a file, all of them."""
    with torch.no_grad():
        for at, layer in enumerate(module.layers):
            rates = weights.get(f"blk.{at}.mem_rate")
            if rates is not None:
                layer.mixer.log_rate.copy_(torch.tensor(-rates.ravel()).log())
        names = set()
        for name, tensor in module.tensors():
            names.add(name)
            if not name.endswith("mem_rate"):
                tensor.copy_(torch.tensor(weights[name]).reshape(tensor.shape))
    assert names == set(weights)


def scatter(module: Any) -> Any:
    """Weights of a size at which each of them matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 and min(parameter.shape) > 8 else 0.3
            parameter.add_(scale * torch.randn(parameter.shape))
    return module


def distance(found: Any, expected: Any) -> float:
    """The largest difference over the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


def logits(path: Path, ids: Any) -> Any:
    with rin.RinEngine(path, threads=1, kv_type="f32") as engine:
        return engine.logits(ids)


@pytest.mark.parametrize("path", MEMORIES, ids=lambda path: path.stem)
def test_logits_are_those_of_the_recurrences_and_of_the_engine(path: Path) -> None:
    metadata, _, data = safetensors(path)
    config, entries = json.loads(metadata["rin.config"]), json.loads(metadata["rin.tensors"])
    weights = {}
    for name, entry in entries.items():
        values = np.frombuffer(data[name], TYPES[entry["dtype"]])[: int(np.prod(entry["shape"]))]
        weights[name] = values.astype(np.float32).reshape(entry["shape"])
    sizes = (config["vocab"], config["dim"], config["ffn_dim"], config["n_heads"], config["norm_eps"])
    module = decoder(config["memory"], *sizes)
    fill(module, weights)
    assert module.describe(None)["memory"] == config["memory"]
    ids = json.loads((CONFORMANCE / "memory" / "tokens.json").read_text())
    with torch.no_grad():
        found = module(torch.tensor(ids)).numpy()
    assert distance(found, np.load(path.with_suffix(".npy"))) <= 1e-5
    assert distance(found, logits(path, ids)) <= 1e-5


@pytest.mark.parametrize("path", GRADIENTS, ids=lambda path: path.stem)
def test_gradients_are_those_that_the_trainer_is_held_to(path: Path) -> None:
    metadata, header, data = safetensors(path)
    facts = json.loads(metadata["facts"])
    values = {name: np.frombuffer(data[name], "<f4").reshape(entry["shape"]) for name, entry in header.items()}
    module = decoder(facts["layers"], facts["vocab"], facts["dim"], facts["ffn"], 2, facts["eps"])
    fill(module, {name[7:]: tensor for name, tensor in values.items() if name.startswith("weight.")})
    ids = torch.tensor(facts["tokens"])
    loss = nn.functional.cross_entropy(module(ids[:-1]), ids[1:])
    loss.backward()
    assert loss.item() == pytest.approx(facts["loss"], rel=1e-5)
    checked = 0
    for name, tensor in module.tensors():
        expected = values[f"gradient.{name}"].ravel()
        if name.endswith("mem_rate"):
            # A rate is minus the exponential of what is trained.
            found = module.layers[int(name.split(".")[1])].mixer.log_rate.grad / tensor.detach()
        else:
            found = tensor.grad
        assert float(np.abs(found.numpy().ravel() - expected).max()) <= 1e-4 * float(np.abs(expected).max()), name
        checked += 1
    assert checked > 8


KINDS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "linear": dict(k_heads=2, conv=0),
    "retnet": {},
    "gla": dict(k_dim=24),
    "delta": {},
    "gated-delta": dict(k_heads=1, v_dim=32),
    "mamba2": dict(output_gate=False),
    "gsa": dict(slots=32),
    "rwkv7": dict(conv=2),
    "bhrr": dict(slots=4, read_by="key", address="hash", output_norm=False, output_gate=False, state="i32"),
    "bhrr signs": dict(slots=5, values="bits4", address="lsh", state="i16"),
    "bhrr shares": dict(slots=6, top=3, decay=True, delta=True, values="float"),
    "bhrr matrices": dict(slots=3, top=2, decay=True, delta=True, values="bits8", outer=True, k_dim=20),
}


@pytest.mark.parametrize("name", KINDS)
def test_exported_decoders_have_the_logits_of_their_modules(tmp_path: Path, name: str) -> None:
    torch.manual_seed(len(name))
    kind = name.split()[0]
    layers: list[Any] = [None if kind == "softmax" else rin.torch.Memory(64, kind, heads=4, **KINDS[name]), None]
    sizes: dict[str, Any] = dict(ffn=96, heads=4, kv_heads=2, window=9, ctx=128, tie=kind != "gla")
    module = scatter(rin.torch.Decoder(256, 64, layers, **sizes))
    ids = torch.randint(0, 256, (2, 50))
    with torch.no_grad():
        expected = module(ids).numpy()
        one = module(ids[1]).numpy()
    assert np.array_equal(one.shape, (50, 256)) and distance(one, expected[1]) <= 1e-5
    path = tmp_path / "x.rin"
    report = rin.torch.export(module, path, name=name)
    assert report["bytes"] == path.stat().st_size
    for row, want in zip(ids, expected):
        assert distance(logits(path, row.numpy()), want) <= 1e-5
    rin.torch.export(module, path, name=name, quant="Q8_0", overwrite=True)
    assert path.stat().st_size < 0.5 * report["bytes"]
    # In 8 bits they are near; of bhrr not, whose routes and signs are not continuous.
    far = logits(path, ids[0].numpy()) - expected[0]
    assert 1e-4 < float(far.std() / expected[0].std()) < (2 if kind == "bhrr" else 0.2)


def test_a_decoder_learns_and_continues_in_the_engine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = b"the same again and " * 40
    layers = [rin.torch.Memory(32, "gated-delta", heads=2), rin.torch.Memory(32, "bhrr", heads=2, slots=4)]
    module = rin.torch.Decoder(256, 32, layers, ffn=64, heads=2)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    losses = []
    for step in range(60):
        ids = torch.tensor([list(text[at : at + 33]) for at in range(step % 19, step % 19 + 8)])
        loss = nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    rin.torch.export(module, tmp_path / "x.rin", name="again")
    with rin.RinEngine(tmp_path / "x.rin", threads=1) as engine:
        assert engine.info["name"] == "again"
        prompt = "the same again"
        assert engine.encode(prompt) == list(prompt.encode())
        found = engine.complete(prompt, 12, temperature=0)
    ids = list(prompt.encode())
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(module(torch.tensor(ids))[-1].argmax()))
    assert found.tokens == ids[len(prompt) :]


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.rin"
    memory = rin.torch.Memory(32, heads=2)
    with pytest.raises(UnsupportedError, match="Decoder") as caught:
        rin.torch.export(nn.Sequential(nn.Linear(32, 32), memory), path)
    assert caught.value.place == "Memory"
    module = rin.torch.Decoder(100, 32, [memory], ffn=32, heads=2)
    with pytest.raises(InvalidInputError, match="tokenizer") as refused:
        rin.torch.export(module, path)
    assert refused.value.place == "tokenizer"
    with pytest.raises(InvalidInputError):
        rin.torch.export(module, path, tokenizer=tmp_path / "none.json")
    for broken in (b"", b"{}", b"\xff"):
        with pytest.raises(RinError):
            rin.torch.export(module, path, tokenizer=broken)
    small = rin.torch.Decoder(256, 32, [memory], ffn=32, heads=2)
    tokenizer = rin.torch._export._byte_tokenizer()
    with pytest.raises(InvalidInputError, match="256 tokens"):
        rin.torch.export(module, path, tokenizer=tokenizer)
    for wrong in (dict(labels=["a"]), dict(kind="values"), dict(quant="Q9_9")):
        with pytest.raises(InvalidInputError):
            rin.torch.export(small, path, **wrong)
    with pytest.raises(InvalidInputError):
        rin.torch.export(nn.Sequential(nn.Linear(3, 3)), path, tokenizer=tokenizer)
    # What the engine asks of a memory, though PyTorch runs it.
    odd = rin.torch.Decoder(256, 32, [rin.torch.Memory(32, heads=2, v_dim=24)], ffn=32, heads=2)
    with pytest.raises(ModelError, match="v_dim"):
        rin.torch.export(odd, path)
    with torch.no_grad():
        small.norm.weight[3] = torch.nan
    with pytest.raises(InvalidInputError) as found:
        rin.torch.export(small, path)
    assert found.value.kind == "NotFinite" and "output_norm" in found.value.place
    assert not path.exists()
    for options in (dict(kind="lstm"), dict(address="none"), dict(k_heads=3), dict(kind="gla", k_heads=1)):
        with pytest.raises(InvalidInputError):
            rin.torch.Memory(32, heads=2, **options)
    with pytest.raises(InvalidInputError):
        rin.torch.Decoder(256, 64, [memory], ffn=32)
