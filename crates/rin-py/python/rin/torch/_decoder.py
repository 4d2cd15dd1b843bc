"""The decoder that RIN trains and runs, with attention or a memory of a fixed size in each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._types import Json
from ..errors import InvalidInputError
from ._memory import Memory


class _Attention(nn.Module):
    """Grouped-query attention with rotary positions (pairs of neighbours), causal, ``(batch, tokens, dim)`` to the same."""

    def __init__(self, dim: int, heads: int, kv_heads: int, window: int | None, rope_base: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.window, self.rope_base = heads, kv_heads, window, rope_base
        self.head_dim = dim // heads
        width = self.head_dim * kv_heads
        self.q, self.k, self.v = (nn.Linear(dim, n, bias=False) for n in (dim, width, width))
        self.output = nn.Linear(dim, dim, bias=False)

    def _turned(self, rows: Tensor, heads: int) -> Tensor:
        rows = rows.unflatten(-1, (heads, -1, 2))
        pairs = torch.arange(0, self.head_dim, 2, dtype=torch.float64)
        angles = torch.arange(rows.shape[1])[:, None] * self.rope_base ** (-pairs / self.head_dim)
        cos, sin = (part.to(rows)[:, None] for part in (angles.cos(), angles.sin()))
        a, b = rows[..., 0], rows[..., 1]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def forward(self, input: Tensor) -> Tensor:
        q, k = self._turned(self.q(input), self.heads), self._turned(self.k(input), self.kv_heads)
        v = self.v(input).unflatten(-1, (self.kv_heads, -1))
        over = self.heads // self.kv_heads
        k, v = k.repeat_interleave(over, 2), v.repeat_interleave(over, 2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.head_dim)
        at = torch.arange(input.shape[1])
        back = at[:, None] - at
        hidden = back < 0
        if self.window is not None:
            hidden = hidden | (back >= self.window)
        shares = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return cast("Tensor", self.output(torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(-2)))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        parts = {"attn_q": self.q, "attn_k": self.k, "attn_v": self.v, "attn_output": self.output}
        return ((f"{name}.weight", part.weight) for name, part in parts.items())


class _Norm(nn.Module):
    """By the root of the mean square (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.rsqrt(input.square().mean(-1, keepdim=True) + self.eps) * self.weight


class _Layer(nn.Module):
    def __init__(self, dim: int, ffn: int, mixer: nn.Module, eps: float) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = _Norm(dim, eps), mixer
        self.ffn_norm = _Norm(dim, eps)
        self.gate, self.up = nn.Linear(dim, ffn, bias=False), nn.Linear(dim, ffn, bias=False)
        self.down = nn.Linear(ffn, dim, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        mixed = input + self.mixer(self.mixer_norm(input))
        inner = self.ffn_norm(mixed)
        return cast("Tensor", mixed + self.down(F.silu(self.gate(inner)) * self.up(inner)))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "attn_norm.weight", self.mixer_norm.weight
        yield from cast("Memory | _Attention", self.mixer).tensors()
        yield "ffn_norm.weight", self.ffn_norm.weight
        for name, part in (("gate", self.gate), ("up", self.up), ("down", self.down)):
            yield f"ffn_{name}.weight", part.weight


class Decoder(nn.Module):
    """A language model as ``rin train`` trains it: RMSNorm before each part, rotary grouped-query attention or a
    :class:`Memory` in each layer, SwiGLU (Touvron et al. 2023). :func:`export` writes it, and the engine gives its logits.

    Shapes: ids ``(batch, tokens)`` or ``(tokens,)`` to logits ``(batch, tokens, vocab)`` or ``(tokens, vocab)``, float32.

    Args:
        vocab: tokens of the vocabulary.
        dim: width of the residual stream.
        layers: the memory of each layer; None where it attends.
        ffn: inner width of the feed-forward networks.
        heads: heads of attention; ``dim / heads`` is even.
        kv_heads: heads of its keys and values, a divisor of ``heads``; None: as many.
        ctx: tokens that the file states as its context.
        window: tokens that attention reaches back, a token itself among them; None: all.
        rope_base: base of the rotary frequencies.
        norm_eps: ε of the norms.
        tie: whether the output matrix is the embedding.

    Raises:
        InvalidInputError: numbers that do not fit each other.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        layers: Sequence[Memory | None],
        *,
        ffn: int,
        heads: int = 4,
        kv_heads: int | None = None,
        ctx: int = 1024,
        window: int | None = None,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-5,
        tie: bool = True,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if min(vocab, dim, heads, kv_heads, ffn, ctx) < 1 or dim % (2 * heads) or heads % kv_heads or not layers:
            message = f"a decoder of width {dim} with {heads} heads, {kv_heads} of keys, and {len(layers)} layers"
            raise InvalidInputError(message, kind="InvalidInput", place="dim, heads, kv_heads, layers")
        for layer in layers:
            if layer is not None and (layer.dim != dim or layer.norm_eps != norm_eps):
                found = f"a memory of width {layer.dim} and ε {layer.norm_eps} in a decoder of {dim} and {norm_eps}"
                raise InvalidInputError(found, kind="BadShape", place="layers")
        self.vocab, self.dim, self.ffn, self.heads, self.kv_heads = vocab, dim, ffn, heads, kv_heads
        self.ctx, self.window, self.rope_base, self.norm_eps, self.tie = ctx, window, rope_base, norm_eps, tie
        self.embedding = nn.Embedding(vocab, dim)
        mixers = (_Attention(dim, heads, kv_heads, window, rope_base) if m is None else m for m in layers)
        self.layers = nn.ModuleList(_Layer(dim, ffn, mixer, norm_eps) for mixer in mixers)
        self.norm = _Norm(dim, norm_eps)
        self.output = None if tie else nn.Linear(dim, vocab, bias=False)
        # Radford et al. 2019; what adds to the residual stream begins smaller, so that its variance does not grow with depth.
        for name, parameter in self.named_parameters():
            if name.endswith(("down.weight", "mixer.output.weight", "out_weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(layers)))
            elif isinstance(parameter, nn.Parameter) and parameter.ndim == 2 and "mixer." not in name:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.embedding(ids if ids.ndim > 1 else ids[None])
        for layer in self.layers:
            rows = layer(rows)
        weight = self.embedding.weight if self.output is None else self.output.weight
        logits = F.linear(self.norm(rows), weight)
        return logits if ids.ndim > 1 else logits[0]

    def describe(self, name: str | None) -> Json:
        """The configuration of a ``.rin`` file."""
        head = self.dim // self.heads
        mixers = [layer.mixer for layer in cast("Sequence[_Layer]", self.layers)]
        memories = [mixer.describe() if isinstance(mixer, Memory) else None for mixer in mixers]
        return {
            "arch": "llama",
            "name": name,
            "n_layers": len(mixers),
            "dim": self.dim,
            "n_heads": self.heads,
            "n_kv_heads": self.kv_heads,
            "head_dim": head,
            "ffn_dim": self.ffn,
            "vocab": self.vocab,
            "ctx": self.ctx,
            "norm_eps": self.norm_eps,
            "rope": {"base": self.rope_base, "dims": head, "pairing": "interleaved", "scaling": {"type": "none"}},
            "qkv_bias": False,
            "attn_output_bias": False,
            "mlp_bias": False,
            "tied_embeddings": self.tie,
            "window": self.window,
            "activation": "silu",
            "norm": "rms",
            "eos": [],
            "bos": None,
            "memory": memories if any(memories) else [],
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What a file has of it, by its names there."""
        yield "token_embd.weight", self.embedding.weight
        for at, layer in enumerate(cast("Sequence[_Layer]", self.layers)):
            for name, tensor in layer.tensors():
                yield f"blk.{at}.{name}", tensor
        yield "output_norm.weight", self.norm.weight
        if self.output is not None:
            yield "output.weight", self.output.weight
