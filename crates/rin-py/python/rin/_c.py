"""What ``rin.h`` declares, for ctypes: structs, functions, and failures as exceptions."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t
from ctypes import c_uint32, c_uint64, c_void_p
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from ._types import Heard
from .errors import InvalidInputError, from_failure

_T = TypeVar("_T")
CANCELLED = -11
NO_SPECIAL, CONTROL = 1, 2
FINISH = ("stop", "length", "cancelled")


class LoadOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("threads", c_uint32),
        ("context", c_uint32),
        ("batch", c_uint32),
        ("affinity", c_int32),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("memory_limit", c_uint64),
        ("tier", c_char_p),
        ("kv_type", c_char_p),
        ("logits_rows", c_uint32),
        ("reserved2", c_uint32),
    ]


class LogitBias(Structure):
    _fields_ = [("id", c_uint32), ("bias", c_float)]


class GenerateOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_tokens", c_uint32),
        ("text_flags", c_uint32),
        ("ignore_eos", c_uint32),
        ("repeat_last_n", c_uint32),
        ("seed", c_uint64),
        ("min_p", c_float),
        ("typical_p", c_float),
        ("repeat_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("reserved", c_uint32),
        ("stop", POINTER(c_char_p)),
        ("n_stop", c_size_t),
        ("temperature", c_float),
        ("top_p", c_float),
        ("top_k", c_uint32),
        ("every_step", c_uint32),
        ("logit_bias", POINTER(LogitBias)),
        ("n_logit_bias", c_size_t),
    ]


class Plan(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("total_bytes", c_uint64),
        ("weights_bytes", c_uint64),
        ("state_bytes", c_uint64),
        ("scratch_bytes", c_uint64),
        ("vocabulary_bytes", c_uint64),
        ("limit_bytes", c_uint64),
        ("fits", c_int32),
        ("reserved", c_int32),
    ]


class Result(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("tokens", POINTER(c_uint32)),
        ("text", c_void_p),
        ("text_bytes", c_size_t),
        ("num_tokens", c_uint32),
        ("prompt_tokens", c_uint32),
        ("finish", c_int32),
        ("energy_status", c_int32),
        ("energy_joules", c_double),
        ("energy_uncertainty_joules", c_double),
        ("tokens_per_second", c_double),
        ("latency_ns", c_uint64),
        ("first_token_ns", c_uint64),
        ("digest", c_char * 72),
    ]


class Input(Structure):
    _fields_ = [("values", c_void_p), ("n_values", c_size_t)]


class ImportOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("quant", c_char_p),
        ("network", c_char_p),
        ("overwrite", c_uint32),
        ("reserved", c_uint32),
    ]


class Tensor(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("shape", POINTER(c_size_t)),
        ("n_dims", c_size_t),
        ("data", c_char_p),
        ("n_bytes", c_size_t),
    ]


class TrainOptions(Structure):
    _fields_ = [("struct_size", c_size_t), ("resume", c_uint32), ("overwrite", c_uint32)]


_CALLBACK = ctypes.CFUNCTYPE(c_int32, c_void_p, c_size_t, c_void_p)


def _open() -> ctypes.CDLL:
    named = os.environ.get("RIN_LIB")
    if named:
        return ctypes.CDLL(named)
    here = os.path.dirname(__file__)
    found = ctypes.util.find_library("rin")
    tried = [os.path.join(here, "librin.so"), "librin.so.0", *([found] if found else [])]
    for name in tried:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ImportError(
        f"there is no librin: looked for {', '.join(tried)}; install it with scripts/install-librin, or name it in RIN_LIB"
    )


_lib = _open()


def _declare(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    try:
        function = getattr(_lib, name)
    except AttributeError:
        raise ImportError(f"{_lib._name} has no {name}: it is older than this package") from None
    function.restype = result
    function.argtypes = arguments
    return cast("Callable[..., Any]", function)


_p = c_void_p
rin_version = _declare("rin_version", c_char_p)
_last_error = _declare("rin_last_error", c_char_p)
_last_kind = _declare("rin_last_error_kind", c_char_p)
_last_place = _declare("rin_last_error_place", c_char_p)
create = _declare("rin_create", c_int32, POINTER(_p))
destroy = _declare("rin_destroy", c_int32, _p)
load_options_init = _declare("rin_load_options_init", c_int32, POINTER(LoadOptions))
load_model = _declare("rin_load_model", c_int32, _p, c_char_p, POINTER(LoadOptions))
load_embedded = _declare("rin_load_embedded", c_int32, _p, POINTER(LoadOptions))
rin_plan = _declare("rin_plan", c_int32, _p, c_char_p, POINTER(LoadOptions), POINTER(Plan))
describe = _declare("rin_describe", c_int64, _p, _p, c_size_t)
set_temperature = _declare("rin_set_temperature", c_int32, _p, c_float)
set_top_k = _declare("rin_set_top_k", c_int32, _p, c_uint32)
set_top_p = _declare("rin_set_top_p", c_int32, _p, c_float)
set_power_budget = _declare("rin_set_power_budget", c_int32, _p, c_double)
encode = _declare("rin_encode", c_int64, _p, c_char_p, c_uint32, _p, c_size_t)
decode = _declare("rin_decode", c_int64, _p, _p, c_size_t, _p, c_size_t)
generate_options_init = _declare("rin_generate_options_init", c_int32, POINTER(GenerateOptions))
generate = _declare(
    "rin_generate", c_int32, _p, c_char_p, POINTER(GenerateOptions), _CALLBACK, _p, POINTER(Result)
)
generate_ids = _declare(
    "rin_generate_ids", c_int32, _p, _p, c_size_t, POINTER(GenerateOptions), _CALLBACK, _p, POINTER(Result)
)
free_result = _declare("rin_free_result", c_int32, POINTER(Result))
logits = _declare("rin_logits", c_int64, _p, _p, c_size_t, c_int32, _p, c_size_t)
infer_rows = _declare(
    "rin_infer_rows", c_int32, _p, POINTER(Input), c_size_t, c_size_t, POINTER(Input), c_size_t
)
profile = _declare("rin_profile", c_int32, _p, c_int32, c_uint32, c_uint32, POINTER(c_double), POINTER(c_double))
get_mode = _declare("rin_get_mode", c_int32, _p, POINTER(c_int32))
energy = _declare("rin_get_energy_joules", c_int32, _p, POINTER(c_double))
machine = _declare("rin_get_machine_joules", c_int32, _p, POINTER(c_double))
inferences = _declare("rin_get_inference_count", c_int32, _p, POINTER(c_uint64))
tokens = _declare("rin_get_total_tokens", c_int32, _p, POINTER(c_uint64))
digest = _declare("rin_get_digest", c_int64, _p, _p, c_size_t)
import_model = _declare("rin_import_model", c_int32, c_char_p, c_char_p, POINTER(ImportOptions), _CALLBACK, _p)
write_decoder = _declare(
    "rin_write_decoder",
    c_int32,
    *(c_char_p, c_char_p, c_char_p, c_size_t),
    *(POINTER(Tensor), c_size_t, POINTER(ImportOptions), _CALLBACK, _p),
)
write_network = _declare(
    "rin_write_network", c_int32, c_char_p, c_char_p, POINTER(Tensor), c_size_t, POINTER(ImportOptions), _CALLBACK, _p
)
train = _declare("rin_train", c_int32, c_char_p, POINTER(TrainOptions), _CALLBACK, _p)


def fail(status: int) -> NoReturn:
    message, kind, place = (part() for part in (_last_error, _last_kind, _last_place))
    raise from_failure(status, kind.decode(), place.decode("utf-8", "replace"), message.decode("utf-8", "replace"))


def check(status: int) -> None:
    if status != 0:
        fail(status)


def count(n: int) -> int:
    if n < 0:
        fail(n)
    return n


def text(text: str | None, name: str) -> bytes | None:
    if text is None:
        return None
    if "\0" in text:
        message = f"{name} holds a zero character, which ends texts in C; the native backend takes it"
        raise InvalidInputError(message, kind="InvalidInput", place=name)
    return text.encode("utf-8", "surrogateescape")


def pointer(array: np.ndarray[Any, Any]) -> int | None:
    return array.ctypes.data if array.size else None


class Hearing:
    """A callback for the library, and what it raised."""

    def __init__(self, callback: Heard | None) -> None:
        self.error: BaseException | None = None
        self.last = ""

        def hear(text: int | None, size: int, _: int | None) -> int:
            # Nothing may pass on into C.
            answer = None
            try:
                piece = ctypes.string_at(text, size).decode() if text and size else ""
                self.last = piece
                answer = None if callback is None else callback(piece)
            except BaseException as error:
                self.error = self.error or error
            return 1 if self.error is not None or answer is False else 0

        self.function = _CALLBACK(hear)

    def call(self, call: Callable[[], _T]) -> _T:
        """Calls the library so that an interrupt ends it: in another thread, while the main thread, the one that hears of
        interrupts, waits. An interrupt that came up within the callback itself would be lost."""
        if threading.current_thread() is not threading.main_thread():
            return call()
        found: list[_T] = []
        failed: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                found.append(call())
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        threading.Thread(target=work, name="rin-call", daemon=True).start()
        while not done.is_set():
            try:
                done.wait()
            except BaseException as error:
                self.error = self.error or error
        if failed:
            raise failed[0]
        if self.error is not None:
            raise self.error
        return found[0]

    def end(self, status: int) -> None:
        """Raises what was raised; else what the library says, but that it was ended."""
        if self.error is not None and status in (0, CANCELLED):
            raise self.error
        if status != CANCELLED:
            check(status)
