"""What the two backends promise to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Optional, Protocol, TypedDict, Union

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
"""An array of float32."""
Ids = npt.NDArray[np.uint32]
"""Token ids, uint32 ``(n,)``."""
Heard = Callable[[str], Optional[bool]]
"""Hears text; ``False`` ends what runs."""
Path = Union[str, "PathLike[str]"]
"""A path of a file or a folder."""
Tensor = tuple[str, str, list[int], bytes]
"""A tensor that is written: name, dtype, shape, bytes."""


class LoadOptions(TypedDict):
    """How a model is loaded; None is what is usual."""

    threads: int | None
    context: int | None
    batch: int | None
    affinity: str | None
    mlock: bool
    huge_pages: bool
    memory_limit: int | None
    tier: str | None
    kv_type: str | None
    logits_rows: int | None


class GenerateOptions(TypedDict):
    """What is generated; None is the setting of the session, or what is usual."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repeat_penalty: float | None
    repeat_last_n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: list[tuple[int, float]]
    seed: int | None
    stop: list[str]
    ignore_eos: bool


class Sampling(TypedDict, total=False):
    """The keyword arguments of generations.

    ``temperature`` (``temp``) divides the logits, 0 is greedy; ``top_k`` keeps the most probable tokens, 0 all; ``top_p``
    keeps the most probable up to a probability; ``min_p`` keeps those with that share of the most probable one's;
    ``typical_p`` keeps the most typical; ``repeat_penalty``, ``presence_penalty`` and ``frequency_penalty`` look at the last
    ``repeat_last_n`` tokens; ``logit_bias`` maps ids to values that are added to their logits, ``-inf`` forbids; ``seed`` of
    the random generator; ``stop`` is a string or several that end the text; ``ignore_eos`` treats tokens that end texts like
    any other; ``special`` adds the token for the beginning of a text (as usual); ``control`` reads control tokens that the
    prompt spells out, never for text from outside.
    """

    temperature: float | None
    temp: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repeat_penalty: float | None
    repeat_last_n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool
    special: bool
    control: bool


class Result(TypedDict):
    """What a generation gave."""

    text: str
    tokens: list[int]
    prompt_tokens: int
    finish_reason: str
    energy_joules: float | None
    energy_uncertainty_joules: float | None
    tokens_per_second: float | None
    latency_s: float
    first_token_s: float
    digest: str


class ContextLike(Protocol):
    """A session of a backend. Failures are raised as exceptions of :mod:`rin.errors`."""

    def load(self, path: str | None, options: LoadOptions) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def describe(self) -> str: ...
    def plan(self) -> tuple[int, int, int, int, int, int | None, bool]: ...
    def set_sampling(
        self, *, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
    ) -> None: ...
    def set_power_budget(self, watts: float) -> None: ...
    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...
    def decode(self, ids: Ids) -> str: ...
    def generate(
        self,
        prompt: str | Ids,
        add_special: bool,
        parse_special: bool,
        options: GenerateOptions,
        callback: Heard | None,
    ) -> Result: ...
    def logits(self, ids: Ids, last: bool) -> Floats: ...
    def infer_one(self, input: object) -> Floats | None: ...
    def infer(self, inputs: list[Floats], rows: int) -> list[Floats]: ...
    def profile(self, warmup: int, iterations: int) -> float: ...
    def energy_joules(self) -> float: ...
    def machine_joules(self) -> float: ...
    def inference_count(self) -> int: ...
    def total_tokens(self) -> int: ...
    def digest(self) -> str | None: ...


class Backend(Protocol):
    """A backend: a module."""

    Context: Callable[[], ContextLike]

    def version(self) -> str: ...
    def plan(self, path: str, options: LoadOptions) -> tuple[int, int, int, int, int, int | None, bool]: ...
    def import_model(
        self,
        source: str,
        to: str,
        quant: str | None,
        network: str | None,
        overwrite: bool,
        callback: Heard | None,
    ) -> str: ...
    def write_network(
        self, to: str, description: str, tensors: list[Tensor], quant: str | None, overwrite: bool
    ) -> str: ...
    def write_decoder(
        self, to: str, config: str, tokenizer: bytes, tensors: list[Tensor], quant: str | None, overwrite: bool
    ) -> str: ...
    def train(self, config: str, resume: bool, overwrite: bool, callback: Heard | None) -> str: ...


Json = dict[str, Any]
"""A JSON object."""
