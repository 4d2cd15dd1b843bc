"""From what users give to what the backends take; what cannot be is said here, before anything is computed."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ._types import Floats, GenerateOptions, Ids, LoadOptions, Path, Sampling
from .errors import InputTypeError, InvalidInputError

_U32 = 2**32 - 1


def whole(name: str, value: object, least: int, most: int) -> int:
    """A whole number within its range."""
    if isinstance(value, (bool, np.bool_)):
        raise InputTypeError(f"{name} is a whole number, not {value!r}", kind="BadOption", place=name)
    try:
        number = operator.index(cast("Any", value))
    except TypeError:
        message = f"{name} is a whole number, not {type(value).__name__}"
        raise InputTypeError(message, kind="BadOption", place=name) from None
    if not least <= number <= most:
        raise InvalidInputError(f"{name} is {number}, but must be {least} to {most}", kind="BadOption", place=name)
    return number


def whole_or_none(name: str, value: object, least: int, most: int) -> int | None:
    """As :func:`whole`, or None."""
    return None if value is None else whole(name, value, least, most)


def number_or_none(name: str, value: object) -> float | None:
    """A number, or None. Its range is the engine's to check."""
    if value is None:
        return None
    try:
        number = float(cast("Any", value))
    except (TypeError, ValueError):
        message = f"{name} is a number, not {type(value).__name__}"
        raise InputTypeError(message, kind="BadOption", place=name) from None
    except OverflowError:
        number = float("inf")
    if number != number:
        raise InvalidInputError(f"{name} is NaN, but must be a number", kind="BadOption", place=name)
    return number


def text(name: str, value: object) -> str:
    """Text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputTypeError(f"{name} is a str, not {type(value).__name__}", kind="InvalidInput", place=name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"{name} is no text: character {error.start} is half of a surrogate pair"
        raise InvalidInputError(message, kind="InvalidInput", place=name) from None
    return value


def path(name: str, value: Path) -> str:
    """A path as text."""
    try:
        found = os.fspath(value)
    except TypeError:
        message = f"{name} is a path, not {type(value).__name__}"
        raise InputTypeError(message, kind="InvalidInput", place=name) from None
    if isinstance(found, bytes):
        found = os.fsdecode(found)
    if "\0" in found:
        raise InvalidInputError(f"{name} holds a zero byte", kind="InvalidInput", place=name)
    return found


def load_options(
    *,
    threads: int | None = None,
    tier: str | None = None,
    ctx: int | None = None,
    batch: int | None = None,
    kv_type: str | None = None,
    affinity: str | None = None,
    memory_limit: int | None = None,
    mlock: bool = False,
    huge_pages: bool = False,
    logits_rows: int | None = None,
) -> LoadOptions:
    """Checked options of a load."""
    return {
        "threads": whole_or_none("threads", threads, 1, _U32),
        "context": whole_or_none("ctx", ctx, 1, _U32),
        "batch": whole_or_none("batch", batch, 1, _U32),
        "affinity": None if affinity is None else text("affinity", affinity),
        "mlock": bool(mlock),
        "huge_pages": bool(huge_pages),
        "memory_limit": whole_or_none("memory_limit", memory_limit, 1, 2**64 - 1),
        "tier": None if tier is None else text("tier", tier),
        "kv_type": None if kv_type is None else text("kv_type", kv_type),
        "logits_rows": whole_or_none("logits_rows", logits_rows, 1, _U32),
    }


def generate_options(max_tokens: int | None, sampling: Sampling, seed: int | None) -> GenerateOptions:
    """Checked options of a generation."""
    unknown = set(sampling) - set(Sampling.__annotations__)
    if unknown:
        name = sorted(unknown)[0]
        known = ", ".join(sorted(Sampling.__annotations__))
        raise InputTypeError(f"there is no option {name!r}; there are {known}", kind="BadOption", place=name)
    temperature = sampling.get("temperature")
    if temperature is None:
        temperature = sampling.get("temp")
    stop = sampling.get("stop")
    stops: Sequence[object] = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    return {
        "max_tokens": whole_or_none("max_tokens", max_tokens, 1, _U32),
        "temperature": number_or_none("temperature", temperature),
        "top_k": whole_or_none("top_k", sampling.get("top_k"), 0, _U32 - 1),
        "top_p": number_or_none("top_p", sampling.get("top_p")),
        "min_p": number_or_none("min_p", sampling.get("min_p")),
        "typical_p": number_or_none("typical_p", sampling.get("typical_p")),
        "repeat_penalty": number_or_none("repeat_penalty", sampling.get("repeat_penalty")),
        "repeat_last_n": whole_or_none("repeat_last_n", sampling.get("repeat_last_n"), 0, _U32),
        "presence_penalty": number_or_none("presence_penalty", sampling.get("presence_penalty")),
        "frequency_penalty": number_or_none("frequency_penalty", sampling.get("frequency_penalty")),
        "logit_bias": _biases(sampling.get("logit_bias")),
        "seed": whole_or_none("seed", seed if sampling.get("seed") is None else sampling.get("seed"), 0, 2**64 - 1),
        "stop": [text("stop", one) for one in stops],
        "ignore_eos": bool(sampling.get("ignore_eos", False)),
    }


def _biases(given: Mapping[int, float] | None) -> list[tuple[int, float]]:
    biases = []
    for token, bias in (given or {}).items():
        number = number_or_none("logit_bias", bias)
        biases.append((whole("logit_bias", token, 0, _U32), 0.0 if number is None else number))
    return biases


def ids(name: str, value: object) -> Ids:
    """Token ids, without a copy where they are such an array already."""
    array = _array(name, value)
    if array.size == 0:
        array = array.astype(np.uint32)
    if array.ndim != 1:
        message = f"{name} are in one row, not in an array of shape {array.shape}"
        raise InvalidInputError(message, kind="BadInput", place=name)
    if array.dtype == np.uint32:
        return np.require(array, requirements=["C", "A"])
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"{name} are whole numbers, not {array.dtype}", kind="BadInput", place=name)
    if int(array.min()) < 0 or int(array.max()) > _U32:
        raise InvalidInputError(f"{name} are 0 to {_U32}", kind="BadInput", place=name)
    return np.ascontiguousarray(array, dtype=np.uint32)


def floats(name: str, value: object) -> Floats:
    """An array of float32, without a copy where it is one in C order already."""
    place = f"input `{name}`"
    if isinstance(value, (list, tuple, int, float)):
        try:
            return np.ascontiguousarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            message = f"{place} is no array of numbers: {error}"
            raise InvalidInputError(message, kind="BadInput", place=place) from None
    array = _array(place, value)
    if array.dtype != np.float32:
        message = f"{place} takes float32, not {array.dtype}: convert it with .astype('float32')"
        raise InputTypeError(message, kind="BadInput", place=place)
    return cast("Floats", np.require(array, requirements=["C", "A"]))


def _array(name: str, value: object) -> np.ndarray[Any, np.dtype[Any]]:
    """Anything that holds numbers in memory, as numpy sees it: arrays, DLPack, buffers; lists are copied."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if isinstance(value, (list, tuple)):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(cast("Any", value))
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        return np.asarray(memoryview(cast("Any", value)))
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        message = f"{name} is no array, buffer or DLPack tensor that can be read: {type(value).__name__} ({error})"
        raise InputTypeError(message, kind="BadInput", place=name) from None
