"""Memories of a fixed size in the place of attention: the layer that RIN trains and runs, for every kind of memory.

The recurrence, token by token, is the definition, here as in the engine; see ``docs/memory.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._types import Json
from ..errors import InvalidInputError
from ._straight import straight_through

KINDS = ("linear", "retnet", "gla", "delta", "gated-delta", "mamba2", "gsa", "rwkv7", "bhrr")
"""The memories of a layer."""
_LARGEST = {"sign": 1.0, "bits4": 7.0, "bits8": 127.0, "float": 1.0}
"""What a value of BHRR is rounded to at most."""
_SLOWEST = math.exp(-0.5)


def _draw(std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(*shape))


def _heads(rows: Tensor, heads: int) -> Tensor:
    """``(batch, tokens, heads × width)`` as ``(batch, tokens, heads, width)``."""
    return rows.unflatten(-1, (heads, -1))


def _unit(rows: Tensor, scale: float, eps: float = 1e-6) -> Tensor:
    """Heads of one length."""
    return rows * (scale / (rows.square().sum(-1, keepdim=True) + eps).sqrt())


def _sign(values: Tensor) -> Tensor:
    """1 for zeros and positive numbers, else −1; the gradient passes where the magnitude is at most 1."""
    return straight_through(values.clamp(-1, 1), torch.where(values >= 0, 1.0, -1.0))


def _sixteenth_sigmoid(values: Tensor) -> Tensor:
    return torch.exp(F.logsigmoid(values) / 16)


def recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    keep: Tensor | None = None,
    beta: Tensor | None = None,
    rank_one: tuple[Tensor, Tensor] | None = None,
    read_before: bool = False,
) -> Tensor:
    """The recurrence of heads over their tokens, from a memory of zeros.

    ``S = keep S + b (a S) + k v`` and ``o = q S``, read after the write, or before all of it.

    Args:
        q: what a token reads by, ``(batch, tokens, heads, rows)``.
        k: what it writes by, of that shape.
        v: what it writes, ``(batch, tokens, heads, columns)``.
        keep: what is left of a memory, ``(batch, tokens, heads, rows or 1, columns or 1)``; None is all.
        beta: share of what the memory, decayed, holds at the key that the value replaces, ``(batch, tokens, heads)``; None adds.
        rank_one: ``a`` and ``b``, of the shape of ``q``.
        read_before: whether a token reads the memory without its own pair.

    Returns:
        What was read, of the shape of ``v``.
    """
    batch, tokens, heads, rows = q.shape
    state = v.new_zeros(batch, heads, rows, v.shape[-1])

    def held(at: Tensor, memory: Tensor) -> Tensor:
        return torch.einsum("bhr,bhrc->bhc", at, memory)

    found = []
    for t in range(tokens):
        if read_before:
            found.append(held(q[:, t], state))
        left = state if keep is None else state * keep[:, t]
        value = v[:, t]
        if beta is not None:
            value = beta[:, t, :, None] * (value - held(k[:, t], left))
        if rank_one is not None:
            a, b = rank_one
            left = left + b[:, t, :, :, None] * held(a[:, t], state)[:, :, None]
        state = left + k[:, t, :, :, None] * value[:, :, None]
        if not read_before:
            found.append(held(q[:, t], state))
    return torch.stack(found, 1) if found else torch.zeros_like(v)


class Memory(nn.Module):
    """A layer with a memory of a fixed size, as the engine has it in the place of attention, all between the norm before it
    and the residual: projections, a short convolution with SiLU, the recurrence, a norm head by head, a gate.

    Shapes: ``(batch, tokens, dim)`` to the same, float32. A token sees itself and the tokens before it.

    It is a layer of a :class:`Decoder`, which :func:`export` writes. All kinds train here; ``mamba2`` and ``rwkv7`` are those
    that ``rin train`` does not train.

    Args:
        dim: width of the layer.
        kind: one of ``linear``, ``retnet``, ``gla``, ``delta``, ``gated-delta``, ``mamba2``, ``gsa``, ``rwkv7``, ``bhrr``.
        heads: memories.
        k_heads: heads of queries and keys, a divisor of ``heads``; None: as many.
        k_dim: numbers of a key; None: ``dim / heads``.
        v_dim: numbers of a value, a multiple of 16; None: ``dim / heads``.
        slots: slots of a head, for ``bhrr`` and, in multiples of 16, ``gsa``.
        conv: tokens that the convolution spans, 2 to 8; 0 is none.
        output_norm: whether what is read is brought to one length, head by head.
        output_gate: whether it is multiplied with a gate.
        norm_eps: ε of that norm.
        address: how ``bhrr`` finds slots: ``hash``, ``lsh`` or ``router``.
        read_by: what says where ``bhrr`` reads: ``query`` or ``key``.
        top: slots that a token of ``bhrr`` writes and reads.
        decay: whether slots of ``bhrr`` decay.
        delta: whether writes of ``bhrr`` replace.
        values: what ``bhrr`` writes: ``sign``, ``bits4``, ``bits8`` or ``float``. Rounding passes gradients straight through.
        outer: whether a slot of ``bhrr`` holds a matrix of keys by values.
        state: how the engine holds the slots of ``bhrr``: ``f32``, or whole numbers, ``i32`` or ``i16``.

    Raises:
        InvalidInputError: an unknown name, or numbers that do not fit each other; :func:`export` holds all of them against
            what the engine asks for.
    """

    def __init__(
        self,
        dim: int,
        kind: str = "gated-delta",
        *,
        heads: int = 4,
        k_heads: int | None = None,
        k_dim: int | None = None,
        v_dim: int | None = None,
        slots: int = 16,
        conv: int = 4,
        output_norm: bool = True,
        output_gate: bool = True,
        norm_eps: float = 1e-5,
        address: str = "router",
        read_by: str = "query",
        top: int = 1,
        decay: bool = False,
        delta: bool = False,
        values: str = "sign",
        outer: bool = False,
        state: str = "f32",
    ) -> None:
        super().__init__()
        named = [
            ("kind", kind, KINDS),
            ("address", address, ("hash", "lsh", "router")),
            ("read_by", read_by, ("key", "query")),
            ("values", values, tuple(_LARGEST)),
            ("state", state, ("f32", "i32", "i16")),
        ]
        for name, found, known in named:
            if found not in known:
                message = f"{name} is {', '.join(known[:-1])} or {known[-1]}, not {found!r}"
                raise InvalidInputError(message, kind="InvalidInput", place=name)
        self.kind, self.dim, self.heads = kind, dim, heads
        self.k_heads = heads if k_heads is None else k_heads
        if min(dim, self.heads, self.k_heads) < 1 or heads % self.k_heads:
            raise InvalidInputError(f"{heads} heads over {self.k_heads} of keys", kind="InvalidInput", place="k_heads")
        self.k_dim = dim // heads if k_dim is None else k_dim
        self.v_dim = dim // heads if v_dim is None else v_dim
        self.slots = slots if kind in ("gsa", "bhrr") else 0
        self.conv, self.output_norm, self.output_gate, self.norm_eps = conv, output_norm, output_gate, norm_eps
        self.address, self.read_by, self.top, self.decay, self.delta = address, read_by, top, decay, delta
        self.values, self.outer, self.state = values, outer, state
        keys, read = self.k_heads * self.k_dim, heads * self.v_dim
        if min(keys, read) < 1 or (kind in ("gsa", "bhrr") and not 1 <= top <= slots):
            raise InvalidInputError(f"{self.describe()}", kind="InvalidInput", place="k_dim, v_dim, slots, top")
        if kind in ("gla", "gsa", "rwkv7", "bhrr") and self.k_heads != heads:
            raise InvalidInputError(f"{kind} has as many heads of keys as of values", kind="InvalidInput", place="k_heads")
        if kind == "bhrr" and not outer and self.k_dim != self.v_dim:
            message = "bhrr binds keys to values, which have one width, unless outer is set"
            raise InvalidInputError(message, kind="InvalidInput", place="k_dim")

        self._parts = [keys, keys, read]
        channels = sum(self._parts)
        std = 0.02
        self.in_weight = _draw(std, channels + (read if output_gate else 0), dim)
        """Queries, keys, values, gates."""
        self.conv_weight = _draw(0.4, channels, conv) if conv else None
        width = {"gla": keys, "rwkv7": keys, "gated-delta": heads, "mamba2": heads, "gsa": heads * slots}.get(kind, 0)
        if kind == "bhrr" and decay:
            width = heads * slots
        self._fused = kind == "gated-delta"
        self._corrects = kind == "delta" or (kind == "bhrr" and delta)
        self.ba_weight = _draw(std, 2 * heads, dim) if self._fused else None
        """Shares that are replaced, and steps of decays."""
        self.beta_weight = _draw(std, heads, dim) if self._corrects else None
        self.decay_weight = _draw(std, width, dim) if width and not self._fused else None
        # Half of a memory is left after 35 tokens, as `rin train` begins.
        steps = kind in ("gated-delta", "mamba2")
        self.decay_bias = nn.Parameter(torch.full((width,), -4.6 if steps else 2.0)) if width else None
        self.log_rate = nn.Parameter(torch.full((heads,), math.log(2.0))) if steps else None
        """Logarithm of the rate of decay, per head."""
        self.skip = nn.Parameter(torch.ones(heads)) if kind == "mamba2" else None
        learns = kind == "rwkv7"
        self.learn_weight = _draw(std, keys, dim) if learns else None
        self.learn_bias = nn.Parameter(torch.zeros(keys)) if learns else None
        self.key_unit = nn.Parameter(torch.ones(keys)) if learns else None
        self.key_rate = nn.Parameter(torch.ones(keys)) if learns else None
        self.norm_weight = nn.Parameter(torch.ones(self.v_dim)) if output_norm else None
        self.out_weight = _draw(std, dim, read)
        if kind == "bhrr" and address != "hash":
            book = torch.randn(self.k_heads * slots, self.k_dim) / math.sqrt(self.k_dim)
            if address == "router":
                self.codebook = nn.Parameter(book)
            else:
                self.register_buffer("codebook", book)

    def describe(self) -> Json:
        """The memory as the configuration of a ``.rin`` file says it."""
        found: Json = {
            "kind": self.kind,
            "k_heads": self.k_heads,
            "v_heads": self.heads,
            "k_dim": self.k_dim,
            "v_dim": self.v_dim,
            "slots": self.slots,
            "conv": self.conv,
            "output_norm": self.output_norm,
            "output_gate": self.output_gate,
        }
        if self.kind == "bhrr":
            arms = ("address", "read_by", "top", "decay", "delta", "values", "outer", "state")
            found["bhrr"] = {arm: getattr(self, arm) for arm in arms}
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What a file has of it, by its names there."""
        rate = None if self.log_rate is None else self._rate()
        named = [
            ("mem_in.weight", self.in_weight),
            ("mem_conv.weight", self.conv_weight),
            ("mem_ba.weight", self.ba_weight),
            ("mem_beta.weight", self.beta_weight),
            ("mem_decay.weight", self.decay_weight),
            ("mem_decay.bias", self.decay_bias),
            ("mem_rate", rate),
            ("mem_skip", self.skip),
            ("mem_learn.weight", self.learn_weight),
            ("mem_learn.bias", self.learn_bias),
            ("mem_key_unit", self.key_unit),
            ("mem_key_rate", self.key_rate),
            ("mem_codebook", getattr(self, "codebook", None)),
            ("mem_norm.weight", self.norm_weight),
            ("mem_output.weight", self.out_weight),
        ]
        return ((name, tensor) for name, tensor in named if tensor is not None)

    def _rate(self) -> Tensor:
        return cast("Tensor", -torch.exp(cast("Any", self.log_rate)))

    def forward(self, input: Tensor) -> Tensor:
        rows = F.linear(input, self.in_weight)
        mixed = rows[..., : sum(self._parts)]
        if self.conv_weight is not None:
            padded = F.pad(mixed.transpose(1, 2), (self.conv - 1, 0))
            mixed = F.silu(F.conv1d(padded, self.conv_weight[:, None], groups=mixed.shape[-1]).transpose(1, 2))
        q, k, v = mixed.split(self._parts, -1)
        q, k, v = _heads(q, self.k_heads), _heads(k, self.k_heads), _heads(v, self.heads)
        beta, steps = self._gates(input)
        read = self._remember(input, q, k, v, beta, steps)
        if self.norm_weight is not None:
            read = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + self.norm_eps) * self.norm_weight
        read = read.flatten(-2)
        if self.output_gate:
            read = read * F.silu(rows[..., sum(self._parts) :])
        return F.linear(read, self.out_weight)

    def _gates(self, input: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Shares that are replaced, and what decays are made of."""
        beta = steps = None
        if self.ba_weight is not None:
            both = F.linear(input, self.ba_weight)
            beta, steps = both[..., : self.heads].sigmoid(), both[..., self.heads :]
        if self.beta_weight is not None:
            beta = F.linear(input, self.beta_weight).sigmoid()
        if self.decay_weight is not None:
            steps = F.linear(input, self.decay_weight)
        return beta, None if steps is None else steps + cast("Any", self.decay_bias)

    def _remember(
        self, input: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, steps: Any
    ) -> Tensor:
        """What is read, ``(batch, tokens, heads, v_dim)``."""
        if self.kind == "bhrr":
            return self._bhrr(q, k, v, beta, steps)
        over = self.heads // self.k_heads
        q, k = q.repeat_interleave(over, 2), k.repeat_interleave(over, 2)
        scale = self.k_dim**-0.5
        if self.kind in ("delta", "gated-delta"):
            keep = None
            if self.kind == "gated-delta":
                keep = torch.exp(F.softplus(steps) * self._rate())[..., None, None]
            return recur(_unit(q, scale), _unit(k, 1.0), v, keep=keep, beta=beta)
        if self.kind == "mamba2":
            step = F.softplus(steps)
            keep = torch.exp(step * self._rate())[..., None, None]
            return recur(q, k, v * step[..., None], keep=keep) + v * cast("Any", self.skip)[:, None]
        if self.kind == "rwkv7":
            keep = _heads(torch.exp(-_SLOWEST * steps.sigmoid()), self.heads)[..., None]
            learn = F.linear(input, cast("Any", self.learn_weight), self.learn_bias).sigmoid()
            learn = _heads(learn, self.heads)
            taken = -_unit(k * _heads(cast("Any", self.key_unit), self.heads), 1.0, 1e-24)
            k = k * ((learn - 1) * _heads(cast("Any", self.key_rate), self.heads) + 1)
            return recur(q, k, v, keep=keep, rank_one=(taken, -taken * learn))
        q = q * scale
        if self.kind == "gla":
            return recur(q, k, v, keep=_heads(_sixteenth_sigmoid(steps), self.heads)[..., None])
        if self.kind == "gsa":
            kept = _heads(_sixteenth_sigmoid(steps), self.heads)
            written = 1 - kept
            scores = recur(q, k, written, keep=kept[..., None, :])
            return recur(scores.softmax(-1), written, v, keep=kept[..., None])
        keep = None
        if self.kind == "retnet":
            keep = 1 - 2.0 ** -(5.0 + torch.arange(self.heads))
            keep = keep.to(v).expand(*v.shape[:3])[..., None, None]
        return recur(q, k, v, keep=keep)

    def _route(self, rows: Tensor) -> Tensor:
        """Shares of the slots, ``(batch, tokens, heads, slots)``."""
        if self.address == "hash":
            places = torch.arange(1, rows.shape[-1] + 1)
            at = ((rows >= 0) * places).sum(-1) % self.slots
            return F.one_hot(at, self.slots).to(rows)
        book = cast("Tensor", self.codebook).unflatten(0, (self.heads, self.slots))
        scores = torch.einsum("bthd,hsd->bths", rows, book)
        if self.top == 1:
            # Hard forwards, a softmax backwards.
            return straight_through(scores.softmax(-1), F.one_hot(scores.argmax(-1), self.slots))
        kept = scores.topk(self.top, -1)
        return torch.zeros_like(scores).scatter(-1, kept.indices, kept.values.softmax(-1))

    def _bhrr(self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor | None, steps: Tensor | None) -> Tensor:
        write = self._route(k)
        read = write if self.read_by == "key" else self._route(q)
        most = _LARGEST[self.values]
        if self.values == "sign":
            v = _sign(v)
        elif self.values != "float":
            scaled = (v * most).clamp(-most, most)
            v = straight_through(scaled, scaled.round())
        keep = None if steps is None else _heads(_sixteenth_sigmoid(steps), self.heads)
        if self.outer:
            # A slot holds a matrix: rows are slots by keys.
            q, k = _unit(q, self.k_dim**-0.5), _unit(k, 1.0)
            q, k = (read[..., None] * q[..., None, :]).flatten(-2), (write[..., None] * k[..., None, :]).flatten(-2)
            if keep is not None:
                keep = keep.repeat_interleave(self.k_dim, -1)[..., None]
            return recur(q, k, v, keep=keep, beta=beta, read_before=beta is None) / most
        if beta is not None:
            write = write * beta[..., None]
            keep = (1 if keep is None else keep) * (1 - write)
        found = recur(read, write, v * _sign(k), keep=None if keep is None else keep[..., None], read_before=True)
        return found * _sign(q) / most
