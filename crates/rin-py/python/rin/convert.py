"""Files: foreign models become ``.rin``, configurations become networks, and what a model would take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Optional

from . import _arguments
from ._backend import backend
from ._types import Heard, Json, Path
from .engine import plan_of

Progress = Callable[[Json], Optional[bool]]
"""Hears what happens, as a dictionary whose ``event`` says what it is; ``False`` ends it."""


def _heard(progress: Progress | None) -> Heard | None:
    return None if progress is None else lambda event: progress(json.loads(event))


def import_model(
    source: Path,
    destination: Path,
    *,
    quant: str | None = None,
    network: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Json:
    """Writes a foreign model as a ``.rin`` file, which runs straight from its mapping.

    Args:
        source: a GGUF file, a Hugging Face folder, a PyTorch or safetensors file of weights (read as data only), or a file of
            the first RIN.
        destination: the file to write.
        quant: type of the matrices that the source holds as floats, such as ``"Q8_0"``; None keeps all types.
        network: a TOML file that says what the tensors of a PyTorch or safetensors file make; see ``docs/network.md``.
        overwrite: whether a file at the destination may be replaced.
        progress: hears how far it is: ``bytes_done`` of ``bytes_total``.

    Returns:
        ``source``, ``output``, ``bytes``, ``n_tensors``, ``n_quantized``, ``quant``, ``sha256``.

    Raises:
        RinError: nothing is left behind then.
    """
    described = None if network is None else _arguments.path("network", network)
    found = backend.import_model(
        _arguments.path("source", source),
        _arguments.path("destination", destination),
        None if quant is None else _arguments.text("quant", quant),
        described,
        bool(overwrite),
        _heard(progress),
    )
    return dict(json.loads(found))


def train(config: Path, *, resume: bool = False, overwrite: bool = False, progress: Progress | None = None) -> Json:
    """Trains the network that a TOML file describes; see ``docs/train.md``. The result is a ``.rin`` file that
    :class:`~rin.RinEngine` runs.

    Args:
        config: the file. Paths within are relative to its folder.
        resume: goes on from the last checkpoint.
        overwrite: whether results of an earlier training of this name may be replaced.
        progress: hears what happens: ``started``, ``step``, ``evaluated``, ``saved``, ``note``, ``epoch``.

    Returns:
        The summary: ``model``, the path of the result, and how good it is.

    Raises:
        KeyboardInterrupt: Ctrl-C; of a language model a checkpoint holds what was done.
        CancelledError: ``progress`` ended it.
        InvalidInputError: the configuration or its data cannot be; ``place`` names the key.
        UnsupportedError: a build without the trainer.
    """
    found = backend.train(_arguments.path("config", config), bool(resume), bool(overwrite), _heard(progress))
    return dict(json.loads(found))


def plan(
    path: Path,
    *,
    threads: int | None = None,
    ctx: int | None = None,
    batch: int | None = None,
    kv_type: str | None = None,
    memory_limit: int | None = None,
) -> Json:
    """The memory that a model would take, without loading it; as :meth:`RinEngine.plan`.

    Raises:
        RinError: the file cannot be read, or its network not be run.
    """
    options = _arguments.load_options(threads=threads, ctx=ctx, batch=batch, kv_type=kv_type, memory_limit=memory_limit)
    return plan_of(backend.plan(_arguments.path("path", path), options))
