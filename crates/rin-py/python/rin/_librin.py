"""The ctypes backend: ``librin``, as ``rin.h`` describes it.

The library is the one that ``RIN_LIB`` names, else one beside this package, else the system's. It needs nothing but Python
and numpy, and gives what the native backend gives, a few microseconds slower per call.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from ctypes import byref, c_char_p, c_double, c_int32, c_size_t, c_uint64, c_void_p, sizeof
from typing import Any, cast

import numpy as np

from . import _c, _types
from ._types import Floats, Heard, Ids, Result
from .errors import InvalidInputError


def _load_struct(options: _types.LoadOptions) -> _c.LoadOptions:
    given = _c.LoadOptions(struct_size=sizeof(_c.LoadOptions))
    _c.check(_c.load_options_init(byref(given)))
    given.threads = options["threads"] or 0
    given.context = options["context"] or 0
    given.batch = options["batch"] or 0
    given.memory_limit = options["memory_limit"] or 0
    given.logits_rows = options["logits_rows"] or 0
    given.flags = (1 if options["mlock"] else 0) | (2 if options["huge_pages"] else 0)
    given.tier = _c.text(options["tier"], "tier")
    given.kv_type = _c.text(options["kv_type"], "kv_type")
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
        _c.check(_c.create(byref(handle)))
        self._handle = handle.value
        self._closed = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._handle is not None and not self._closed:
            self._closed = True
            _c.destroy(self._handle)

    @property
    def closed(self) -> bool:
        return self._closed

    def load(self, path: str | None, options: _types.LoadOptions) -> None:
        given = _load_struct(options)
        self._ports = None
        if path is None:
            _c.check(_c.load_embedded(self._handle, byref(given)))
        else:
            _c.check(_c.load_model(self._handle, _c.text(path, "path"), byref(given)))

    def _string(self, function: Callable[..., Any]) -> str:
        size = _c.count(function(self._handle, None, 0)) + 1
        room = ctypes.create_string_buffer(size)
        _c.count(function(self._handle, room, size))
        return room.value.decode()

    def describe(self) -> str:
        return self._string(_c.describe)

    def digest(self) -> str | None:
        return self._string(_c.digest) or None

    def plan(self) -> tuple[int, int, int, int, int, int | None, bool]:
        found = _c.Plan(struct_size=sizeof(_c.Plan))
        _c.check(_c.rin_plan(self._handle, None, None, byref(found)))
        return _plan_tuple(found)

    def set_sampling(
        self, *, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
    ) -> None:
        if temperature is not None:
            _c.check(_c.set_temperature(self._handle, temperature))
        if top_k is not None:
            _c.check(_c.set_top_k(self._handle, top_k))
        if top_p is not None:
            _c.check(_c.set_top_p(self._handle, top_p))

    def set_power_budget(self, watts: float) -> None:
        _c.check(_c.set_power_budget(self._handle, watts))

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        given, flags = _c.text(text, "text"), _flags(add_special, parse_special)
        # A token takes a byte at least, but for those that are added.
        room = np.empty(len(given or b"") + 16, dtype=np.uint32)
        n = _c.count(_c.encode(self._handle, given, flags, room.ctypes.data, room.size))
        if n > room.size:
            room = np.empty(n, dtype=np.uint32)
            n = _c.count(_c.encode(self._handle, given, flags, room.ctypes.data, room.size))
        return cast("list[int]", room[:n].tolist())

    def decode(self, ids: Ids) -> str:
        size = _c.count(_c.decode(self._handle, _c.pointer(ids), ids.size, None, 0)) + 1
        room = ctypes.create_string_buffer(size)
        _c.count(_c.decode(self._handle, _c.pointer(ids), ids.size, room, size))
        return room.raw[: size - 1].decode()

    def generate(
        self,
        prompt: str | Ids,
        add_special: bool,
        parse_special: bool,
        options: _types.GenerateOptions,
        callback: Heard | None,
    ) -> Result:
        given = _c.GenerateOptions(struct_size=sizeof(_c.GenerateOptions))
        _c.check(_c.generate_options_init(byref(given)))
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
        stops = [_c.text(stop, "stop") for stop in options["stop"]]
        given.stop = (c_char_p * len(stops))(*stops)
        given.n_stop = len(stops)
        biases = options["logit_bias"]
        given.logit_bias = (_c.LogitBias * len(biases))(*(_c.LogitBias(*bias) for bias in biases))
        given.n_logit_bias = len(biases)
        found = _c.Result(struct_size=sizeof(_c.Result))
        heard = _c.Hearing(callback)

        def call() -> Result:
            rest = (byref(given), heard.function, None, byref(found))
            if isinstance(prompt, str):
                status = _c.generate(self._handle, _c.text(prompt, "prompt"), *rest)
            else:
                status = _c.generate_ids(self._handle, _c.pointer(prompt), prompt.size, *rest)
            try:
                heard.end(status)
                return _result(found)
            finally:
                _c.free_result(byref(found))

        return heard.call(call)

    def logits(self, ids: Ids, last: bool) -> Floats:
        pointer, n = _c.pointer(ids), ids.size
        flag = 1 if last else 0
        needed = _c.count(_c.logits(self._handle, pointer, n, flag, None, 0))
        rows = min(n, 1) if last else n
        array = np.zeros((rows, needed // max(rows, 1)), dtype=np.float32)
        _c.count(_c.logits(self._handle, pointer, n, flag, _c.pointer(array), array.size))
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
        given, taken = _c.Input(_c.pointer(input), input.size), _c.Input(_c.pointer(out), out.size)
        _c.check(_c.infer_rows(self._handle, byref(given), 1, rows, byref(taken), 1))
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
        given = (_c.Input * len(inputs))(*(_c.Input(_c.pointer(array), array.size) for array in inputs))
        taken = (_c.Input * len(outputs))(*(_c.Input(_c.pointer(array), array.size) for array in outputs))
        _c.check(_c.infer_rows(self._handle, given, len(inputs), rows, taken, len(outputs)))
        return outputs

    def profile(self, warmup: int, iterations: int) -> float:
        mode, ms, rate = c_int32(), c_double(), c_double()
        _c.check(_c.get_mode(self._handle, byref(mode)))
        _c.check(_c.profile(self._handle, mode, warmup, iterations, byref(ms), byref(rate)))
        return ms.value / 1e3

    def _double(self, function: Callable[..., Any]) -> float:
        found = c_double()
        _c.check(function(self._handle, byref(found)))
        return found.value

    def energy_joules(self) -> float:
        return self._double(_c.energy)

    def machine_joules(self) -> float:
        return self._double(_c.machine)

    def _number(self, function: Callable[..., Any]) -> int:
        found = c_uint64()
        _c.check(function(self._handle, byref(found)))
        return found.value

    def inference_count(self) -> int:
        return self._number(_c.inferences)

    def total_tokens(self) -> int:
        return self._number(_c.tokens)


def _flags(add_special: bool, parse_special: bool) -> int:
    return (0 if add_special else _c.NO_SPECIAL) | (_c.CONTROL if parse_special else 0)


def _plan_tuple(found: _c.Plan) -> tuple[int, int, int, int, int, int | None, bool]:
    parts = (found.total_bytes, found.weights_bytes, found.state_bytes, found.scratch_bytes, found.vocabulary_bytes)
    return (*parts, found.limit_bytes or None, bool(found.fits))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _result(found: _c.Result) -> Result:
    return {
        "text": ctypes.string_at(found.text, found.text_bytes).decode() if found.text else "",
        "tokens": found.tokens[: found.num_tokens] if found.num_tokens else [],
        "prompt_tokens": found.prompt_tokens,
        "finish_reason": _c.FINISH[found.finish],
        "energy_joules": _known(found.energy_joules),
        "energy_uncertainty_joules": _known(found.energy_uncertainty_joules),
        "tokens_per_second": _known(found.tokens_per_second),
        "latency_s": found.latency_ns / 1e9,
        "first_token_s": found.first_token_ns / 1e9,
        "digest": found.digest.decode(),
    }


def version() -> str:
    """The version of the library."""
    return cast("str", _c.rin_version().decode())


def plan(path: str, options: _types.LoadOptions) -> tuple[int, int, int, int, int, int | None, bool]:
    """The memory that a model would take."""
    found, given = _c.Plan(struct_size=sizeof(_c.Plan)), _load_struct(options)
    _c.check(_c.rin_plan(None, _c.text(path, "path"), byref(given), byref(found)))
    return _plan_tuple(found)


def _converted(heard: _c.Hearing, call: Callable[[], int]) -> str:
    def work() -> str:
        status = call()
        if status == _c.CANCELLED and heard.error is None:
            _c.fail(status)
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
    given = _c.ImportOptions(struct_size=sizeof(_c.ImportOptions), overwrite=1 if overwrite else 0)
    given.quant, given.network = _c.text(quant, "quant"), _c.text(network, "network")
    heard = _c.Hearing(_hushed(callback))
    paths = (_c.text(source, "source"), _c.text(to, "to"))
    return _converted(heard, lambda: cast("int", _c.import_model(*paths, byref(given), heard.function, None)))


def _tensors(tensors: list[_types.Tensor]) -> ctypes.Array[_c.Tensor]:
    """The tensors as C has them; what they point at lives as long as they do."""
    array = (_c.Tensor * len(tensors))()
    for place, (name, dtype, shape, data) in zip(array, tensors):
        place.name, place.dtype = _c.text(name, "name"), _c.text(dtype, "dtype")
        place.shape, place.n_dims = (c_size_t * len(shape))(*shape), len(shape)
        place.data, place.n_bytes = data, len(data)
    return array


def write_network(
    to: str, description: str, tensors: list[_types.Tensor], quant: str | None, overwrite: bool
) -> str:
    """A network in memory becomes a ``.rin`` file."""
    given = _c.ImportOptions(struct_size=sizeof(_c.ImportOptions), overwrite=1 if overwrite else 0)
    given.quant = _c.text(quant, "quant")
    heard, texts = _c.Hearing(None), (_c.text(to, "to"), _c.text(description, "description"))
    rest = (_tensors(tensors), len(tensors), byref(given), heard.function, None)
    return _converted(heard, lambda: cast("int", _c.write_network(*texts, *rest)))


def write_decoder(
    to: str, config: str, tokenizer: bytes, tensors: list[_types.Tensor], quant: str | None, overwrite: bool
) -> str:
    """A decoder in memory becomes a ``.rin`` file."""
    given = _c.ImportOptions(struct_size=sizeof(_c.ImportOptions), overwrite=1 if overwrite else 0)
    given.quant = _c.text(quant, "quant")
    heard, texts = _c.Hearing(None), (_c.text(to, "to"), _c.text(config, "config"))
    rest = (tokenizer, len(tokenizer), _tensors(tensors), len(tensors), byref(given), heard.function, None)
    return _converted(heard, lambda: cast("int", _c.write_decoder(*texts, *rest)))


def train(config: str, resume: bool, overwrite: bool, callback: Heard | None) -> str:
    """Trains what a TOML file says."""
    given = _c.TrainOptions(struct_size=sizeof(_c.TrainOptions), resume=resume, overwrite=overwrite)
    heard = _c.Hearing(_hushed(callback))
    path = _c.text(config, "config")
    return _converted(heard, lambda: cast("int", _c.train(path, byref(given), heard.function, None)))
