"""Tiny random decoders whose layers have memories of a fixed size, as .rin files, with their logits.

    python conformance/scripts/make_memory_models.py

Writes conformance/memory/<name>.rin and <name>.npy. What a memory holds is computed by the published reference recurrences
of flash-linear-attention (the `naive.py` of each operation, loaded alone, since the package itself needs Triton); BHRR has
no package, so its recurrence is written here from its definition. All else is float64. Weights are drawn and rounded to
the type that they are stored in.
"""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parent.parent / "memory"
VOCAB, DIM, FFN, EPS, TOKENS = 48, 32, 48, 1e-5, 70
F = torch.nn.functional


def naive(operation):
    """The reference recurrences of an operation of flash-linear-attention."""
    import importlib.metadata

    root = Path(importlib.metadata.distribution("fla-core").locate_file("fla/ops"))
    spec = importlib.util.spec_from_file_location(operation.replace("/", "_"), root / operation / "naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GLA, SIMPLE, LINEAR = naive("gla"), naive("simple_gla"), naive("linear_attn")
DELTA, GATED, GSA, DPLR = naive("delta_rule"), naive("gated_delta_rule"), naive("gsa"), naive("generalized_delta_rule/dplr")
RETENTION = naive("retention")

ARMS = dict(address="hash", read_by="key", top=1, decay=False, delta=False, values="sign", outer=False, state="i32")


def memory(kind, k_heads=2, v_heads=2, k_dim=16, v_dim=16, slots=0, conv=4, norm=True, gate=True, **arms):
    m = dict(kind=kind, k_heads=k_heads, v_heads=v_heads, k_dim=k_dim, v_dim=v_dim, slots=slots, conv=conv,
             output_norm=norm, output_gate=gate)  # fmt: skip
    if kind == "bhrr":
        m["bhrr"] = ARMS | arms
    return m


MODELS = {
    "linear": [memory("linear", v_dim=32, conv=0, gate=False)],
    "retnet": [memory("retnet", k_heads=4, v_heads=4)],
    "gla": [memory("gla", k_dim=24)],
    "delta": [memory("delta", k_heads=1, v_heads=2)],
    "gated-delta": [memory("gated-delta", v_dim=80, v_heads=4)],
    "mamba2": [memory("mamba2", k_heads=1, v_heads=4, k_dim=8)],
    "gsa": [memory("gsa", slots=16, v_dim=32)],
    "rwkv7": [memory("rwkv7", v_dim=32)],
    "bhrr": [memory("bhrr", slots=8, conv=0, norm=False, gate=False)],
    "bhrr-query-norm": [memory("bhrr", slots=8, conv=0, gate=False, read_by="query", state="i16")],
    "bhrr-lsh": [memory("bhrr", slots=8, address="lsh", read_by="query", values="bits4")],
    "bhrr-router-top": [memory("bhrr", slots=8, address="router", read_by="query", top=3, values="float", state="f32")],
    "bhrr-decay-delta": [memory("bhrr", slots=8, address="router", read_by="query", top=2, decay=True, delta=True,
                                values="bits8", state="f32")],
    "bhrr-outer": [memory("bhrr", slots=4, address="router", read_by="query", top=2, decay=True, outer=True,
                          values="float", state="f32")],
    "hybrid": [memory("gated-delta"), None, memory("bhrr", slots=8, address="router", read_by="query", top=2,
                                                    values="float", state="f32")],
}  # fmt: skip


class Weights:
    """Draws weights, rounds them as they are stored, and keeps both."""

    def __init__(self, seed):
        self.rng, self.stored, self.values = np.random.default_rng(seed), {}, {}

    def draw(self, name, shape, scale, mean=0.0, dtype="F32"):
        x = (mean + scale * self.rng.standard_normal(shape)).astype(np.float16 if dtype == "F16" else np.float32)
        self.stored[name] = (dtype, x)
        self.values[name] = torch.tensor(x.astype(np.float64))
        return self.values[name]

    def matrix(self, name, rows, cols, gain=1.5):
        return self.draw(name, (rows, cols), gain / cols**0.5, dtype="F16")


def rms(x, g):
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * g


def unit(x):
    return x / (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()


def heads(x, n):
    return x.reshape(1, x.shape[0], n, -1)


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def route(x, arms, slots, book):
    """Shares of slots, (tokens, heads, slots), for x (tokens, heads, dim)."""
    if arms["address"] == "hash":
        positions = torch.arange(1, x.shape[-1] + 1)
        at = ((x >= 0) * positions).sum(-1) % slots
        return F.one_hot(at, slots).to(x.dtype)
    scores = torch.einsum("thd,hsd->ths", x, book)
    kept = scores.topk(arms["top"], -1)
    return torch.zeros_like(scores).scatter(-1, kept.indices, kept.values.softmax(-1))


def bhrr(m, w, name, q, k, v, gates):
    """Read before write; a slot holds values bound by the signs of keys, or whole outer products."""
    arms, slots, n = m["bhrr"], m["slots"], m["v_heads"]
    q, k, v = (x[0] for x in (q, k, v))
    book = w.values[f"{name}mem_codebook"].reshape(n, slots, -1) if arms["address"] != "hash" else None
    write = route(k, arms, slots, book)
    read = write if arms["read_by"] == "key" else route(q, arms, slots, book)
    most = {"sign": 1, "bits4": 7, "bits8": 127, "float": 1}[arms["values"]]
    if arms["values"] == "sign":
        v = sign(v)
    elif arms["values"] != "float":
        v = (v * most).clamp(-most, most).round()
    keep = gates["decay"].reshape(-1, n, slots) if arms["decay"] else torch.ones_like(write)
    if arms["delta"]:
        write = write * gates["beta"][..., None]
        keep = keep * (1 - write)
    if arms["outer"]:
        q, k = unit(q) * q.shape[-1] ** -0.5, unit(k)
    z = torch.zeros(n, slots, *((k.shape[-1],) if arms["outer"] else ()), v.shape[-1], dtype=v.dtype)
    out = []
    for t in range(v.shape[0]):
        if arms["outer"]:
            out.append(torch.einsum("hs,hk,hskv->hv", read[t], q[t], z) / most)
            z = z * keep[t][..., None, None] + torch.einsum("hs,hk,hv->hskv", write[t], k[t], v[t])
        else:
            out.append(torch.einsum("hs,hsd->hd", read[t], z) * sign(q[t]) / most)
            z = z * keep[t][..., None] + write[t][..., None] * (sign(k[t]) * v[t])[:, None]
    return torch.stack(out)[None]


def remember(m, w, name, q, k, v, gates):
    """What a layer reads, (1, tokens, heads, v_dim), from q, k, v of that form."""
    kind, d = m["kind"], q.shape[-1]
    over = m["v_heads"] // m["k_heads"]
    if kind != "bhrr":
        q, k = (x.repeat_interleave(over, 2) for x in (q, k))
    swap = lambda x: x.transpose(1, 2)  # noqa: E731
    if kind == "linear":
        return LINEAR.naive_recurrent_linear_attn(q, k, v)[0]
    if kind == "retnet":
        return swap(RETENTION.naive_retention(swap(q), swap(k), swap(v)))
    if kind == "gla":
        return GLA.naive_recurrent_gla(q, k, v, heads(gates["decay"], m["v_heads"]).log())[0]
    if kind == "delta":
        q, k = unit(q), unit(k)
        return swap(DELTA.delta_rule_recurrence(swap(q), swap(k), swap(v), gates["beta"].T[None])[0])
    if kind == "gated-delta":
        return GATED.naive_recurrent_gated_delta_rule(unit(q), unit(k), v, gates["beta"][None], gates["decay"].log()[None])[0]
    if kind == "mamba2":
        out = SIMPLE.naive_recurrent_simple_gla(q, k, v * gates["step"][None, ..., None], gates["decay"].log()[None], scale=1.0)
        return out[0] + v * w.values[f"{name}mem_skip"][:, None]
    if kind == "gsa":
        g = heads(gates["decay"], m["v_heads"])
        return GSA.naive_recurrent_gsa(q, k, v, 1 - g, g.log())[0]
    if kind == "rwkv7":
        kk = heads((k.flatten(2) * w.values[f"{name}mem_key_unit"])[0], m["v_heads"])
        kk = kk / kk.norm(dim=-1, keepdim=True)
        a = heads(gates["learn"], m["v_heads"])
        k = k * (1 + (a - 1) * w.values[f"{name}mem_key_rate"].reshape(m["v_heads"], -1))
        decay = heads(gates["decay"], m["v_heads"]).log()
        rows = [swap(x).float() for x in (q * d**0.5, k, v, -kk, kk * a, decay)]
        return swap(DPLR.dplr_recurrence(*rows)[0])
    return bhrr(m, w, name, q, k, v, gates)


def mixer(m, w, layer, h):
    name = f"blk.{layer}."
    keys, values = m["k_heads"] * m["k_dim"], m["v_heads"] * m["v_dim"]
    channels, kind = 2 * keys + values, m["kind"]
    arms = m.get("bhrr", ARMS)
    rows = channels + (values if m["output_gate"] else 0)
    z = h @ w.matrix(name + "mem_in.weight", rows, DIM).T
    qkv = z[:, :channels]
    if m["conv"]:
        taps = w.draw(name + "mem_conv.weight", (channels, m["conv"]), 0.6)
        padded = F.pad(qkv.T[None], (m["conv"] - 1, 0))
        qkv = F.silu(F.conv1d(padded, taps[:, None], groups=channels)[0].T)
    width = {"gla": keys, "rwkv7": keys, "gated-delta": m["v_heads"], "mamba2": m["v_heads"]}.get(kind, 0)
    if kind == "gsa" or arms["decay"]:
        width = m["v_heads"] * m["slots"]
    gates = {}
    if kind == "gated-delta":
        ba = h @ w.matrix(name + "mem_ba.weight", 2 * m["v_heads"], DIM).T
        gates["beta"], x = ba[:, : m["v_heads"]].sigmoid(), ba[:, m["v_heads"] :]
    else:
        if kind == "delta" or arms["delta"]:
            gates["beta"] = (h @ w.matrix(name + "mem_beta.weight", m["v_heads"], DIM).T).sigmoid()
        if width:
            x = h @ w.matrix(name + "mem_decay.weight", width, DIM).T
    if width:
        x = x + w.draw(name + "mem_decay.bias", (width,), 0.5)
    if kind in ("gated-delta", "mamba2"):
        rate = w.draw(name + "mem_rate", (m["v_heads"],), 0.15, -0.7)
        gates["step"] = F.softplus(x)
        gates["decay"] = (rate * gates["step"]).exp()
    elif kind in ("gla", "gsa") or arms["decay"]:
        gates["decay"] = (F.logsigmoid(x) / 16).exp()
    elif kind == "rwkv7":
        gates["decay"] = (-np.exp(-0.5) * x.sigmoid()).exp()
        bias = w.draw(name + "mem_learn.bias", (keys,), 0.5)
        gates["learn"] = (h @ w.matrix(name + "mem_learn.weight", keys, DIM).T + bias).sigmoid()
        w.draw(name + "mem_key_unit", (keys,), 0.3, 1.0)
        w.draw(name + "mem_key_rate", (keys,), 0.3, 0.8)
    if kind == "mamba2":
        w.draw(name + "mem_skip", (m["v_heads"],), 0.5, 1.0)
    if kind == "bhrr" and arms["address"] != "hash":
        w.draw(name + "mem_codebook", (m["k_heads"] * m["slots"], m["k_dim"]), 0.6)
    q, k, v = qkv[:, :keys], qkv[:, keys : 2 * keys], qkv[:, 2 * keys :]
    q, k, v = heads(q, m["k_heads"]), heads(k, m["k_heads"]), heads(v, m["v_heads"])
    out = remember(m, w, name, q, k, v, gates)[0].double()
    if m["output_norm"]:
        out = rms(out, w.draw(name + "mem_norm.weight", (m["v_dim"],), 0.2, 1.0))
    out = out.reshape(len(h), values)
    if m["output_gate"]:
        out = out * F.silu(z[:, channels:])
    return out @ w.matrix(name + "mem_output.weight", DIM, values).T


def attention(w, layer, h):
    name, n, d = f"blk.{layer}.", 2, 16
    q, k, v = (h @ w.matrix(f"{name}attn_{part}.weight", DIM, DIM).T for part in "qkv")
    angle = torch.arange(len(h))[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)[None]
    cos, sin = angle.cos().double()[:, None], angle.sin().double()[:, None]

    def turn(x):
        x = x.reshape(len(h), n, d // 2, 2)
        a, b = x[..., 0], x[..., 1]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(len(h), n, d)

    q, k, v = turn(q), turn(k), v.reshape(len(h), n, d)
    scores = torch.einsum("qhd,khd->hqk", q, k) * d**-0.5
    scores = scores.masked_fill(torch.triu(torch.ones(len(h), len(h), dtype=torch.bool), 1), -torch.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(h), DIM)
    return out @ w.matrix(name + "attn_output.weight", DIM, DIM).T


def forward(layers, w, tokens):
    embedding = w.matrix("token_embd.weight", VOCAB, DIM, gain=6.0)
    x = embedding[tokens]
    for layer, m in enumerate(layers):
        name = f"blk.{layer}."
        h = rms(x, w.draw(name + "attn_norm.weight", (DIM,), 0.2, 1.0))
        x = x + (mixer(m, w, layer, h) if m else attention(w, layer, h))
        h = rms(x, w.draw(name + "ffn_norm.weight", (DIM,), 0.2, 1.0))
        gate, up = (h @ w.matrix(f"{name}ffn_{part}.weight", FFN, DIM).T for part in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ w.matrix(name + "ffn_down.weight", DIM, FFN).T
    return rms(x, w.draw("output_norm.weight", (DIM,), 0.2, 1.0)) @ embedding.T


def config(layers, name):
    rope = {"base": 10000.0, "dims": 16, "pairing": "interleaved", "scaling": {"type": "none"}}
    return dict(arch="llama", name=name, n_layers=len(layers), dim=DIM, n_heads=2, n_kv_heads=2, head_dim=16, ffn_dim=FFN,
                vocab=VOCAB, ctx=256, norm_eps=EPS, rope=rope, qkv_bias=False, attn_output_bias=False, mlp_bias=False,
                tied_embeddings=True, window=None, activation="silu", norm="rms", eos=[], bos=None, memory=layers)  # fmt: skip


def write_rin(path, layers, w):
    """A .rin file whose tensors are not packed: see docs/rin-format.md."""
    entries, header, data = {}, {}, b""
    for name, (dtype, x) in w.stored.items():
        entries[name] = {"dtype": dtype, "shape": list(x.shape), "packed": False}
        bytes_ = x.tobytes()
        bytes_ += bytes(-len(bytes_) % 64)
        header[name] = {"dtype": "U8", "shape": [len(bytes_)], "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    metadata = {
        "rin.version": "2",
        "rin.numerics": "1",
        "rin.config": json.dumps(config(layers, path.stem)),
        "rin.tensors": json.dumps(entries),
        "rin.sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps({"__metadata__": metadata} | header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, VOCAB, TOKENS)]
    (OUT / "tokens.json").write_text(json.dumps(tokens) + "\n")
    for seed, (name, layers) in enumerate(MODELS.items()):
        w = Weights(seed)
        logits = forward(layers, w, tokens)
        write_rin(OUT / f"{name}.rin", layers, w)
        np.save(OUT / f"{name}.npy", logits.numpy().astype(np.float32))
        print(f"{name}: logits of deviation {logits.std():.2f}")
