"""The ctypes backend: ``librin``, as ``rin.h`` describes it.

The library is the one that ``RIN_LIB`` names, else one beside this package, else the system's. It needs nothing but Python
and numpy, and gives what the native backend gives, a few microseconds slower per call.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import math
import os
import threading
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t
from ctypes import c_uint32, c_uint64, c_void_p, sizeof
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from . import _types
from ._types import Floats, Heard, Ids, Result
from .errors import InvalidInputError, from_failure

_T = TypeVar("_T")
_CANCELLED = -11
_NO_SPECIAL, _CONTROL = 1, 2
_FINISH = ("stop", "length", "cancelled")


class _LoadOptions(Structure):
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


class _LogitBias(Structure):
    _fields_ = [("id", c_uint32), ("bias", c_float)]


class _GenerateOptions(Structure):
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
        ("logit_bias", POINTER(_LogitBias)),
        ("n_logit_bias", c_size_t),
    ]


class _Plan(Structure):
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


class _Result(Structure):
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


class _Input(Structure):
    _fields_ = [("values", c_void_p), ("n_values", c_size_t)]


class _ImportOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("quant", c_char_p),
        ("network", c_char_p),
        ("overwrite", c_uint32),
        ("reserved", c_uint32),
    ]


class _Tensor(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("shape", POINTER(c_size_t)),
        ("n_dims", c_size_t),
        ("data", c_char_p),
        ("n_bytes", c_size_t),
    ]


class _TrainOptions(Structure):
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
_rin_version = _declare("rin_version", c_char_p)
_last_error = _declare("rin_last_error", c_char_p)
_last_kind = _declare("rin_last_error_kind", c_char_p)
_last_place = _declare("rin_last_error_place", c_char_p)
_create = _declare("rin_create", c_int32, POINTER(_p))
_destroy = _declare("rin_destroy", c_int32, _p)
_load_options_init = _declare("rin_load_options_init", c_int32, POINTER(_LoadOptions))
_load_model = _declare("rin_load_model", c_int32, _p, c_char_p, POINTER(_LoadOptions))
_load_embedded = _declare("rin_load_embedded", c_int32, _p, POINTER(_LoadOptions))
_rin_plan = _declare("rin_plan", c_int32, _p, c_char_p, POINTER(_LoadOptions), POINTER(_Plan))
_describe = _declare("rin_describe", c_int64, _p, _p, c_size_t)
_set_temperature = _declare("rin_set_temperature", c_int32, _p, c_float)
_set_top_k = _declare("rin_set_top_k", c_int32, _p, c_uint32)
_set_top_p = _declare("rin_set_top_p", c_int32, _p, c_float)
_set_power_budget = _declare("rin_set_power_budget", c_int32, _p, c_double)
_encode = _declare("rin_encode", c_int64, _p, c_char_p, c_uint32, _p, c_size_t)
_decode = _declare("rin_decode", c_int64, _p, _p, c_size_t, _p, c_size_t)
_generate_options_init = _declare("rin_generate_options_init", c_int32, POINTER(_GenerateOptions))
_generate = _declare(
    "rin_generate", c_int32, _p, c_char_p, POINTER(_GenerateOptions), _CALLBACK, _p, POINTER(_Result)
)
_generate_ids = _declare(
    "rin_generate_ids", c_int32, _p, _p, c_size_t, POINTER(_GenerateOptions), _CALLBACK, _p, POINTER(_Result)
)
_free_result = _declare("rin_free_result", c_int32, POINTER(_Result))
_logits = _declare("rin_logits", c_int64, _p, _p, c_size_t, c_int32, _p, c_size_t)
_infer_rows = _declare(
    "rin_infer_rows", c_int32, _p, POINTER(_Input), c_size_t, c_size_t, POINTER(_Input), c_size_t
)
_profile = _declare("rin_profile", c_int32, _p, c_int32, c_uint32, c_uint32, POINTER(c_double), POINTER(c_double))
_get_mode = _declare("rin_get_mode", c_int32, _p, POINTER(c_int32))
_energy = _declare("rin_get_energy_joules", c_int32, _p, POINTER(c_double))
_machine = _declare("rin_get_machine_joules", c_int32, _p, POINTER(c_double))
_inferences = _declare("rin_get_inference_count", c_int32, _p, POINTER(c_uint64))
_tokens = _declare("rin_get_total_tokens", c_int32, _p, POINTER(c_uint64))
_digest = _declare("rin_get_digest", c_int64, _p, _p, c_size_t)
_import_model = _declare("rin_import_model", c_int32, c_char_p, c_char_p, POINTER(_ImportOptions), _CALLBACK, _p)
_write_network = _declare(
    "rin_write_network", c_int32, c_char_p, c_char_p, POINTER(_Tensor), c_size_t, POINTER(_ImportOptions), _CALLBACK, _p
)
_train = _declare("rin_train", c_int32, c_char_p, POINTER(_TrainOptions), _CALLBACK, _p)


def _fail(status: int) -> NoReturn:
    message, kind, place = (part() for part in (_last_error, _last_kind, _last_place))
    raise from_failure(status, kind.decode(), place.decode("utf-8", "replace"), message.decode("utf-8", "replace"))


def _check(status: int) -> None:
    if status != 0:
        _fail(status)


def _count(n: int) -> int:
    if n < 0:
        _fail(n)
    return n


def _text(text: str | None, name: str) -> bytes | None:
    if text is None:
        return None
    if "\0" in text:
        message = f"{name} holds a zero character, which ends texts in C; the native backend takes it"
        raise InvalidInputError(message, kind="InvalidInput", place=name)
    return text.encode("utf-8", "surrogateescape")


def _pointer(array: np.ndarray[Any, Any]) -> int | None:
    return array.ctypes.data if array.size else None


class _Hearing:
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
        if self.error is not None and status in (0, _CANCELLED):
            raise self.error
        if status != _CANCELLED:
            _check(status)


def _load_struct(options: _types.LoadOptions) -> _LoadOptions:
    given = _LoadOptions(struct_size=sizeof(_LoadOptions))
    _check(_load_options_init(byref(given)))
    given.threads = options["threads"] or 0
    given.context = options["context"] or 0
    given.batch = options["batch"] or 0
    given.memory_limit = options["memory_limit"] or 0
    given.logits_rows = options["logits_rows"] or 0
    given.flags = (1 if options["mlock"] else 0) | (2 if options["huge_pages"] else 0)
    given.tier = _text(options["tier"], "tier")
    given.kv_type = _text(options["kv_type"], "kv_type")
    affinity = options["affinity"] or "none"
    known = ("none", "compact", "scatter")
    if affinity not in known:
        message = f"affinity is one of {', '.join(known)}, not {affinity}"
        raise InvalidInputError(message, kind="InvalidInput", place="affinity")
    given.affinity = known.index(affinity)
    return given


class Context:
    """A session; see :class:`rin._types.ContextLike`."""

    def __init__(self) -> None:
        self._closed = True
        self._handle: int | None = None
        self._ports: tuple[tuple[int, ...], int] | None = None
        handle = c_void_p()
        _check(_create(byref(handle)))
        self._handle = handle.value
        self._closed = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._handle is not None and not self._closed:
            self._closed = True
            _destroy(self._handle)

    @property
    def closed(self) -> bool:
        return self._closed

    def load(self, path: str | None, options: _types.LoadOptions) -> None:
        given = _load_struct(options)
        self._ports = None
        if path is None:
            _check(_load_embedded(self._handle, byref(given)))
        else:
            _check(_load_model(self._handle, _text(path, "path"), byref(given)))

    def _string(self, function: Callable[..., Any]) -> str:
        size = _count(function(self._handle, None, 0)) + 1
        room = ctypes.create_string_buffer(size)
        _count(function(self._handle, room, size))
        return room.value.decode()

    def describe(self) -> str:
        return self._string(_describe)

    def digest(self) -> str | None:
        return self._string(_digest) or None

    def plan(self) -> tuple[int, int, int, int, int, int | None, bool]:
        found = _Plan(struct_size=sizeof(_Plan))
        _check(_rin_plan(self._handle, None, None, byref(found)))
        return _plan_tuple(found)

    def set_sampling(
        self, *, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
    ) -> None:
        if temperature is not None:
            _check(_set_temperature(self._handle, temperature))
        if top_k is not None:
            _check(_set_top_k(self._handle, top_k))
        if top_p is not None:
            _check(_set_top_p(self._handle, top_p))

    def set_power_budget(self, watts: float) -> None:
        _check(_set_power_budget(self._handle, watts))

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        given, flags = _text(text, "text"), _flags(add_special, parse_special)
        # A token takes a byte at least, but for those that are added.
        room = np.empty(len(given or b"") + 16, dtype=np.uint32)
        n = _count(_encode(self._handle, given, flags, room.ctypes.data, room.size))
        if n > room.size:
            room = np.empty(n, dtype=np.uint32)
            n = _count(_encode(self._handle, given, flags, room.ctypes.data, room.size))
        return cast("list[int]", room[:n].tolist())

    def decode(self, ids: Ids) -> str:
        size = _count(_decode(self._handle, _pointer(ids), ids.size, None, 0)) + 1
        room = ctypes.create_string_buffer(size)
        _count(_decode(self._handle, _pointer(ids), ids.size, room, size))
        return room.raw[: size - 1].decode()

    def generate(
        self,
        prompt: str | Ids,
        add_special: bool,
        parse_special: bool,
        options: _types.GenerateOptions,
        callback: Heard | None,
    ) -> Result:
        given = _GenerateOptions(struct_size=sizeof(_GenerateOptions))
        _check(_generate_options_init(byref(given)))
        given.max_tokens = options["max_tokens"] or 0
        given.text_flags = _flags(add_special, parse_special)
        given.ignore_eos = 1 if options["ignore_eos"] else 0
        given.every_step = 1
        for name in ("min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
            value = options[name]
            if value is not None:
                setattr(given, name, value)
        if options["repeat_last_n"] is not None:
            given.repeat_last_n = options["repeat_last_n"]
        if options["seed"] is not None:
            given.seed = options["seed"]
        given.temperature = math.nan if options["temperature"] is None else options["temperature"]
        given.top_p = math.nan if options["top_p"] is None else options["top_p"]
        given.top_k = 2**32 - 1 if options["top_k"] is None else options["top_k"]
        stops = [_text(stop, "stop") for stop in options["stop"]]
        given.stop = (c_char_p * len(stops))(*stops)
        given.n_stop = len(stops)
        biases = options["logit_bias"]
        given.logit_bias = (_LogitBias * len(biases))(*(_LogitBias(*bias) for bias in biases))
        given.n_logit_bias = len(biases)
        found = _Result(struct_size=sizeof(_Result))
        heard = _Hearing(callback)

        def call() -> Result:
            rest = (byref(given), heard.function, None, byref(found))
            if isinstance(prompt, str):
                status = _generate(self._handle, _text(prompt, "prompt"), *rest)
            else:
                status = _generate_ids(self._handle, _pointer(prompt), prompt.size, *rest)
            try:
                heard.end(status)
                return _result(found)
            finally:
                _free_result(byref(found))

        return heard.call(call)

    def logits(self, ids: Ids, last: bool) -> Floats:
        pointer, n = _pointer(ids), ids.size
        flag = 1 if last else 0
        needed = _count(_logits(self._handle, pointer, n, flag, None, 0))
        rows = min(n, 1) if last else n
        array = np.zeros((rows, needed // max(rows, 1)), dtype=np.float32)
        _count(_logits(self._handle, pointer, n, flag, _pointer(array), array.size))
        return array

    def infer_one(self, input: object) -> Floats | None:
        if not isinstance(input, np.ndarray) or input.dtype != np.float32:
            return None
        if not (input.flags.c_contiguous and input.flags.aligned):
            return None
        ports = self._ports or self._find_ports()
        if ports is None:
            return None
        shape, width = ports
        values = math.prod(shape)
        if input.shape == shape or input.shape == (values,):
            rows, single = 1, True
        elif input.ndim > 1 and math.prod(input.shape[1:]) == values:
            rows, single = input.shape[0], False
        else:
            return None
        out = np.empty((width,) if single else (rows, width), dtype=np.float32)
        given, taken = _Input(_pointer(input), input.size), _Input(_pointer(out), out.size)
        _check(_infer_rows(self._handle, byref(given), 1, rows, byref(taken), 1))
        return out

    def _find_ports(self) -> tuple[tuple[int, ...], int] | None:
        """Shape of the one input and width of the one output, where it is one of each."""
        found = json.loads(self.describe())
        if len(found["inputs"]) != 1 or len(found["outputs"]) != 1:
            return None
        self._ports = (tuple(found["inputs"][0]["shape"]), found["outputs"][0]["width"])
        return self._ports

    def infer(self, inputs: list[Floats], rows: int) -> list[Floats]:
        outputs = [
            np.empty((rows, output["width"]), dtype=np.float32) for output in json.loads(self.describe())["outputs"]
        ]
        given = (_Input * len(inputs))(*(_Input(_pointer(array), array.size) for array in inputs))
        taken = (_Input * len(outputs))(*(_Input(_pointer(array), array.size) for array in outputs))
        _check(_infer_rows(self._handle, given, len(inputs), rows, taken, len(outputs)))
        return outputs

    def profile(self, warmup: int, iterations: int) -> float:
        mode, ms, rate = c_int32(), c_double(), c_double()
        _check(_get_mode(self._handle, byref(mode)))
        _check(_profile(self._handle, mode, warmup, iterations, byref(ms), byref(rate)))
        return ms.value / 1e3

    def _double(self, function: Callable[..., Any]) -> float:
        found = c_double()
        _check(function(self._handle, byref(found)))
        return found.value

    def energy_joules(self) -> float:
        return self._double(_energy)

    def machine_joules(self) -> float:
        return self._double(_machine)

    def _number(self, function: Callable[..., Any]) -> int:
        found = c_uint64()
        _check(function(self._handle, byref(found)))
        return found.value

    def inference_count(self) -> int:
        return self._number(_inferences)

    def total_tokens(self) -> int:
        return self._number(_tokens)


def _flags(add_special: bool, parse_special: bool) -> int:
    return (0 if add_special else _NO_SPECIAL) | (_CONTROL if parse_special else 0)


def _plan_tuple(found: _Plan) -> tuple[int, int, int, int, int, int | None, bool]:
    parts = (found.total_bytes, found.weights_bytes, found.state_bytes, found.scratch_bytes, found.vocabulary_bytes)
    return (*parts, found.limit_bytes or None, bool(found.fits))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _result(found: _Result) -> Result:
    return {
        "text": ctypes.string_at(found.text, found.text_bytes).decode() if found.text else "",
        "tokens": found.tokens[: found.num_tokens] if found.num_tokens else [],
        "prompt_tokens": found.prompt_tokens,
        "finish_reason": _FINISH[found.finish],
        "energy_joules": _known(found.energy_joules),
        "energy_uncertainty_joules": _known(found.energy_uncertainty_joules),
        "tokens_per_second": _known(found.tokens_per_second),
        "latency_s": found.latency_ns / 1e9,
        "first_token_s": found.first_token_ns / 1e9,
        "digest": found.digest.decode(),
    }


def version() -> str:
    """The version of the library."""
    return cast("str", _rin_version().decode())


def plan(path: str, options: _types.LoadOptions) -> tuple[int, int, int, int, int, int | None, bool]:
    """The memory that a model would take."""
    found, given = _Plan(struct_size=sizeof(_Plan)), _load_struct(options)
    _check(_rin_plan(None, _text(path, "path"), byref(given), byref(found)))
    return _plan_tuple(found)


def _converted(heard: _Hearing, call: Callable[[], int]) -> str:
    def work() -> str:
        status = call()
        if status == _CANCELLED and heard.error is None:
            _fail(status)
        heard.end(status)
        return heard.last

    return heard.call(work)


def _hushed(callback: Heard | None) -> Heard | None:
    """Without the last event, which is the result."""
    if callback is None:
        return None
    return lambda event: None if event.startswith('{"event":"finished"') else callback(event)


def import_model(
    source: str, to: str, quant: str | None, network: str | None, overwrite: bool, callback: Heard | None
) -> str:
    """A foreign model becomes a ``.rin`` file."""
    given = _ImportOptions(struct_size=sizeof(_ImportOptions), overwrite=1 if overwrite else 0)
    given.quant, given.network = _text(quant, "quant"), _text(network, "network")
    heard = _Hearing(_hushed(callback))
    paths = (_text(source, "source"), _text(to, "to"))
    return _converted(heard, lambda: cast("int", _import_model(*paths, byref(given), heard.function, None)))


def write_network(
    to: str, description: str, tensors: list[_types.Tensor], quant: str | None, overwrite: bool
) -> str:
    """A network in memory becomes a ``.rin`` file."""
    given = _ImportOptions(struct_size=sizeof(_ImportOptions), overwrite=1 if overwrite else 0)
    given.quant = _text(quant, "quant")
    array = (_Tensor * len(tensors))()
    shapes = []
    for place, (name, dtype, shape, data) in zip(array, tensors):
        shapes.append((c_size_t * len(shape))(*shape))
        place.name, place.dtype = _text(name, "name"), _text(dtype, "dtype")
        place.shape, place.n_dims, place.data, place.n_bytes = shapes[-1], len(shape), data, len(data)
    heard = _Hearing(None)
    texts = (_text(to, "to"), _text(description, "description"))
    rest = (array, len(tensors), byref(given), heard.function, None)
    return _converted(heard, lambda: cast("int", _write_network(*texts, *rest)))


def train(config: str, resume: bool, overwrite: bool, callback: Heard | None) -> str:
    """Trains what a TOML file says."""
    given = _TrainOptions(struct_size=sizeof(_TrainOptions), resume=resume, overwrite=overwrite)
    heard = _Hearing(_hushed(callback))
    path = _text(config, "config")
    return _converted(heard, lambda: cast("int", _train(path, byref(given), heard.function, None)))
