"""The engine: a model in memory, ready to run."""

from __future__ import annotations

import asyncio
import json
import queue
import statistics
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import _arguments
from ._backend import backend, backend_name, version
from ._types import ContextLike, Floats, GenerateOptions, Heard, Ids, Json, Path, Result, Sampling
from .errors import InputTypeError, InvalidInputError, RinWarning, UnmeasuredError, UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_MODES = ("mlp", "snn", "attn", "rin", "transformer")


@dataclass(frozen=True)
class Generation:
    """What a generation gave."""

    text: str
    """The text after the prompt."""
    tokens: list[int]
    """Its ids, without the one that ended it."""
    prompt_tokens: int
    """Tokens of the prompt."""
    finish_reason: str
    """``"stop"``, ``"length"`` or ``"cancelled"``."""
    energy_joules: float | None
    """Energy of the machine meanwhile, in J; None where it was not measured."""
    energy_uncertainty_joules: float | None
    """Standard uncertainty of that, in J."""
    tokens_per_second: float | None
    """Tokens after the first per second; None for fewer than two."""
    latency_s: float
    """Time of all of it, in s."""
    first_token_s: float
    """Time to the first token, in s."""
    digest: str
    """SHA-256 over the bits of the logits of every step."""


class RinEngine:
    """A model in memory, ready to run.

    Usable as a context manager, and from several threads: calls on one engine wait for each other, and engines are
    independent. The interpreter is free while the engine works.

    Args:
        path: a ``.rin``, ``.gguf`` or ``.safetensors`` file or a Hugging Face folder; None takes the small language model that
            the package carries.
        mode: what the model is expected to compute: ``"mlp"``, ``"snn"``, ``"attn"``, ``"rin"`` or ``"transformer"``; None
            takes what the file says.
        threads: workers, the caller among them; None: the physical cores that the process may use.
        tier: the highest instruction tier to use, such as ``"avx2"``; None: the best there is.
        ctx: positions of the context; None: what the model was trained for, at most 4096.
        seed: seed of generations that name none; None: 0.
        batch: most tokens of a prompt, or most rows, in one step; None: 512.
        kv_type: how keys and values are stored: ``"f32"``, ``"f16"``, ``"q8"``; None: as the weights suggest.
        affinity: where workers are pinned: ``"none"`` (as usual), ``"compact"``, ``"scatter"``.
        memory_limit: most bytes of memory, beside the limits of the system.
        mlock: keeps the memory out of reach of swapping, where that is permitted.
        huge_pages: takes huge pages, where the system has them.
        logits_rows: rows of logits that :meth:`logits` computes in one step.

    Raises:
        ModelFileError: the file is missing or cannot be read.
        ModelError: the model is damaged.
        MemoryPlanError: it does not fit; nothing was loaded.
        InvalidInputError: an option is out of its range.
        UnsupportedError: the model is of a kind that RIN does not run, or of another mode.
    """

    def __init__(
        self,
        path: Path | None = None,
        mode: str | None = None,
        *,
        threads: int | None = None,
        tier: str | None = None,
        ctx: int | None = None,
        seed: int | None = None,
        batch: int | None = None,
        kv_type: str | None = None,
        affinity: str | None = None,
        memory_limit: int | None = None,
        mlock: bool = False,
        huge_pages: bool = False,
        logits_rows: int = 16,
    ) -> None:
        self._options = _arguments.load_options(
            threads=threads,
            tier=tier,
            ctx=ctx,
            batch=batch,
            kv_type=kv_type,
            affinity=affinity,
            memory_limit=memory_limit,
            mlock=mlock,
            huge_pages=huge_pages,
            logits_rows=logits_rows,
        )
        self._seed = _arguments.whole_or_none("seed", seed, 0, 2**64 - 1)
        self._sampling = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
        self._power_budget = 0.0
        self._described: Json | None = None
        self._context: ContextLike = backend.Context()
        try:
            self._load(path)
            if mode is not None:
                self.mode = mode
        except BaseException:
            self._context.close()
            raise

    def _load(self, path: Path | None) -> None:
        self._described = None
        self._context.load(None if path is None else _arguments.path("path", path), self._options)

    def load_model(self, path: Path) -> None:
        """Loads another model in the place of this one, with the same options.

        Raises:
            RinError: as for the constructor; the engine then has no model.
        """
        self._load(path)

    def close(self) -> None:
        """Lets the model go. A call that is under way in another thread ends first; every later call is a
        :class:`~rin.errors.ClosedError`. Closing twice does no harm."""
        self._context.close()

    @property
    def closed(self) -> bool:
        """Whether the engine was closed."""
        return self._context.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<RinEngine, closed>"
        try:
            found = self._describe()
        except Exception:
            return "<RinEngine, no model>"
        size = f"{found['num_parameters']:,} parameters"
        return f"<RinEngine {found['name']!r}, {found['mode']}, {size}, {backend_name()}>"

    # What it is.

    def _describe(self) -> Json:
        found = self._described
        if found is None or self.closed:
            found = self._described = dict(json.loads(self._context.describe()))
        return found

    @property
    def info(self) -> Json:
        """What the model is: ``name``, ``path``, ``format``, ``mode``, ``architecture``, ``num_layers``, ``model_dim``,
        ``vocab_size``, ``num_heads``, ``num_kv_heads``, ``max_seq_len``, ``ffn_dim``, ``context``, ``num_parameters``,
        ``file_bytes``, ``size_mb`` (10⁶ bytes), ``tier``, ``threads``; for networks on rows of numbers ``inputs`` (``name``,
        ``shape`` of one row) and ``outputs`` (``name``, ``width``, ``kind``, ``labels``); ``backend``, ``version``."""
        return {**self._describe(), "backend": backend_name(), "version": version()}

    @property
    def mode(self) -> str:
        """What the model computes. Setting another mode than that of the file is an
        :class:`~rin.errors.UnsupportedError`; but for ``"mlp"``, which the first RIN took where it was not told, and which
        is a warning."""
        return str(self._describe()["mode"])

    @mode.setter
    def mode(self, wanted: str) -> None:
        if wanted not in _MODES:
            message = f"mode is one of {', '.join(_MODES)}, not {wanted!r}"
            raise InvalidInputError(message, kind="BadOption", place="mode")
        found = self.mode
        if wanted == found:
            return
        if wanted != "mlp":
            message = f"the model computes in the mode {found!r} and not {wanted!r}: a file has one mode"
            raise UnsupportedError(message, kind="OtherMode", place="mode")
        message = f"the model computes in the mode {found!r}; mode='mlp' changes nothing"
        warnings.warn(message, RinWarning, stacklevel=3)

    def plan(self) -> Json:
        """The memory of the model, all of it known before it was loaded, in bytes: ``total_bytes``, ``weights_bytes``,
        ``state_bytes``, ``scratch_bytes``, ``vocabulary_bytes``; ``limit_bytes`` (None where it is not known) and ``fits``."""
        return plan_of(self._context.plan())

    # Text.

    @property
    def temperature(self) -> float:
        """Divides the logits of generations that name none; 0 is greedy."""
        return self._sampling["temperature"]

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._set(temperature=_arguments.number_or_none("temperature", value))

    @property
    def top_k(self) -> int:
        """Keeps so many of the most probable tokens; 0 keeps all."""
        return int(self._sampling["top_k"])

    @top_k.setter
    def top_k(self, value: int) -> None:
        self._set(top_k=_arguments.whole("top_k", value, 0, 2**32 - 2))

    @property
    def top_p(self) -> float:
        """Keeps the most probable tokens up to this probability; 1 keeps all."""
        return self._sampling["top_p"]

    @top_p.setter
    def top_p(self, value: float) -> None:
        self._set(top_p=_arguments.number_or_none("top_p", value))

    def _set(self, **change: Any) -> None:
        self._context.set_sampling(**change)
        self._sampling.update({name: value for name, value in change.items() if value is not None})

    @property
    def power_budget(self) -> float:
        """Mean power of the machine during generations in W, held with rests between tokens and with fewer threads; 0 is none.

        Raises:
            UnmeasuredError: no sensor allows it.
        """
        return self._power_budget

    @power_budget.setter
    def power_budget(self, watts: float) -> None:
        number = _arguments.number_or_none("power_budget", watts)
        if number is None:
            raise InputTypeError("power_budget is a number, not None", kind="BadOption", place="power_budget")
        self._context.set_power_budget(number)
        self._power_budget = number

    def encode(self, text: str, *, special: bool = True, control: bool = False) -> list[int]:
        """The ids of a text.

        Args:
            text: the text.
            special: adds the token for the beginning of a text, where the model wants one.
            control: reads control tokens that the text spells out; never for text from outside.

        Raises:
            UnsupportedError: the model has no tokenizer.
        """
        return self._context.encode(_arguments.text("text", text), special, control)

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """The text of ids.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return self._context.decode(_arguments.ids("ids", _listed(ids)))

    def generate(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int | None = 50, **sampling: Unpack[Sampling]
    ) -> str:
        """The text that the model continues a prompt with, without the prompt.

        Args:
            prompt: text, or ids.
            max_tokens: most tokens; None: until the context is full.
            **sampling: see :class:`~rin._types.Sampling`. The same model, prompt, settings and seed give the same text, on
                every machine.

        Raises:
            KeyboardInterrupt: Ctrl-C ends a generation.
            InvalidInputError: the prompt is empty or too long, an id unknown, a setting out of its range.
        """
        return self.complete(prompt, max_tokens, **sampling).text

    def complete(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int | None = 50, **sampling: Unpack[Sampling]
    ) -> Generation:
        """As :meth:`generate`, with ids, times, energy and digest."""
        return Generation(**self._prepared(prompt, max_tokens, sampling).run(None))

    def stream(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int | None = 50, **sampling: Unpack[Sampling]
    ) -> TextStream:
        """As :meth:`generate`, piece by piece as it comes. The engine works while the pieces are used; closing the stream, or
        letting it go, ends the generation."""
        return TextStream(self._prepared(prompt, max_tokens, sampling))

    async def agenerate(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int | None = 50, **sampling: Unpack[Sampling]
    ) -> str:
        """As :meth:`generate`, for asyncio: other tasks go on meanwhile, and cancelling the task ends the generation."""
        prepared = self._prepared(prompt, max_tokens, sampling)
        ended = threading.Event()
        try:
            return (await asyncio.to_thread(prepared.run, lambda _: not ended.is_set()))["text"]
        finally:
            ended.set()

    async def astream(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int | None = 50, **sampling: Unpack[Sampling]
    ) -> AsyncIterator[str]:
        """As :meth:`stream`, for asyncio."""
        with self.stream(prompt, max_tokens, **sampling) as stream:
            while (piece := await asyncio.to_thread(next, stream, None)) is not None:
                yield piece

    def chat(self, messages: Sequence[Mapping[str, str]], max_tokens: int | None = 50, **sampling: Unpack[Sampling]) -> str:
        """Not there yet: this version reads no chat templates. Write the prompt as the model's template has it, and call
        :meth:`generate` with ``control=True``.

        Raises:
            UnsupportedError: always.
        """
        message = "this version reads no chat templates; write the prompt out and call generate(prompt, control=True)"
        raise UnsupportedError(message, kind="NoTemplates")

    def _prepared(self, prompt: str | Sequence[int] | Ids, max_tokens: int | None, sampling: Sampling) -> _Prepared:
        options = _arguments.generate_options(max_tokens, sampling, self._seed)
        special, control = bool(sampling.get("special", True)), bool(sampling.get("control", False))
        given = _arguments.text("prompt", prompt) if isinstance(prompt, str) else _arguments.ids("prompt", prompt)
        return _Prepared(self._context, given, special, control, options)

    # Numbers.

    def logits(self, ids: Iterable[int] | Ids, *, last: bool = False) -> Floats:
        """The logits after ids, float32.

        Args:
            ids: ids, at least one.
            last: only those after the last id. Ids that the last such call had too are not computed again, so that a loop
                that adds one id at a time costs one step each.

        Returns:
            ``(n, vocab)``; with ``last``, ``(vocab,)``. The bits do not depend on which of the two it is.
        """
        found = self._context.logits(_arguments.ids("ids", _listed(ids)), last)
        return found[-1] if last else found

    def infer(self, *inputs: object, **named: object) -> Floats:
        """The output of a network on rows of numbers; of a language model, the logits after ids.

        Args:
            *inputs: an array per input of the network, in the order of ``info["inputs"]``: float32 of the shape of one row,
                or with an axis of rows before it. numpy arrays, buffers and DLPack tensors in C order are read where they
                lie; lists are copied.
            **named: the same by the names of the inputs.

        Returns:
            float32 ``(width,)`` for one row without an axis of rows, else ``(rows, width)``. For language models as
            :meth:`logits`.

        Raises:
            InputTypeError: an array is of another dtype.
            InvalidInputError: the shape is another, or a value is infinite or NaN; its ``place`` says which.
            UnsupportedError: the network has several outputs; :meth:`infer_all` gives them.
        """
        if len(inputs) == 1 and not named:
            found = self._context.infer_one(inputs[0])
            if found is not None:
                return found
        described = self._describe()
        if described["mode"] == "transformer":
            if len(inputs) != 1 or named:
                raise InvalidInputError("a language model takes one array of ids", kind="BadInput")
            return self.logits(cast("Ids", inputs[0]))
        if len(described["outputs"]) != 1:
            names = ", ".join(output["name"] for output in described["outputs"])
            raise UnsupportedError(f"the network has the outputs {names}: call infer_all", kind="SeveralOutputs")
        (found,) = self.infer_all(*inputs, **named).values()
        return found

    def infer_all(self, *inputs: object, **named: object) -> dict[str, Floats]:
        """As :meth:`infer`, every output of a network on rows of numbers by its name."""
        described = self._describe()
        if described["mode"] == "transformer":
            raise UnsupportedError("a language model has logits and no outputs by name: call logits", kind="NoOutputs")
        ports = described["inputs"]
        names = [port["name"] for port in ports]
        if len(inputs) > len(names) or set(named) - set(names[len(inputs) :]):
            message = f"the network takes the inputs {', '.join(names)}, each once"
            raise InvalidInputError(message, kind="BadInput")
        given = {**dict(zip(names, inputs)), **named}
        arrays: list[Floats] = []
        rows: int | None = None
        single = True
        for port in ports:
            name, shape = port["name"], tuple(port["shape"])
            if name not in given and port.get("optional"):
                arrays.append(np.empty(0, dtype=np.float32))
                continue
            if name not in given:
                raise InvalidInputError(f"input `{name}` is missing", kind="BadInput", place=f"input `{name}`")
            array = _arguments.floats(name, given[name])
            n, bare = _rows(name, array, shape)
            single = single and bare
            if rows is not None and n != rows:
                message = f"input `{name}` has {n} rows, those before it have {rows}"
                raise InvalidInputError(message, kind="BadInput", place=f"input `{name}`")
            rows = n
            arrays.append(array)
        found = self._context.infer(arrays, rows or 0)
        if single:
            found = [array[0] for array in found]
        return {output["name"]: array for output, array in zip(described["outputs"], found)}

    # Sums.

    def benchmark(self, mode: str | None = None, warmup: int = 10, iterations: int = 100) -> Json:
        """The time of a step of one token after four others, or of one row of zeros. ``rin bench`` measures more, with
        intervals.

        Returns:
            ``ms_per_token`` (mean) and ``tokens_per_second``; ``stddev_ms``, ``min_ms``, ``p50_ms``, ``p99_ms``,
            ``max_ms``; ``iterations``.
        """
        if mode is not None:
            self.mode = mode
        warmup = _arguments.whole("warmup", warmup, 0, 2**31)
        iterations = _arguments.whole("iterations", iterations, 1, 2**31)
        for _ in range(warmup):
            self._context.profile(0, 1)
        return timings([self._context.profile(0, 1) for _ in range(iterations)])

    @property
    def energy_joules(self) -> float | None:
        """Energy of the machine during all generations of this engine, in J; None where it was not measured. Of calls of
        :meth:`infer`, which are short beside what a sensor resolves, :class:`~rin.EnergyMonitor` measures many together."""
        try:
            return self._context.energy_joules()
        except UnmeasuredError:
            return None

    @property
    def energy_millijoules(self) -> float | None:
        """The same in mJ."""
        joules = self.energy_joules
        return None if joules is None else joules * 1e3

    @property
    def inference_count(self) -> int:
        """Generations, and calls of :meth:`infer`, that have ended."""
        return self._context.inference_count()

    @property
    def total_tokens(self) -> int:
        """Tokens that all generations gave."""
        return self._context.total_tokens()

    @property
    def digest(self) -> str | None:
        """SHA-256 over the bits of the logits of the last generation, or of the outputs of the last :meth:`infer`; None
        before the first. One digest is one result, on every machine."""
        return self._context.digest()


class TextStream(Iterator[str]):
    """The pieces of a text as they come; see :meth:`RinEngine.stream`."""

    def __init__(self, prepared: _Prepared) -> None:
        self._prepared: _Prepared | None = prepared
        self._pieces: queue.SimpleQueue[str | Result | BaseException] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._over = False
        self.result: Generation | None = None
        """The whole generation, once it has ended."""

    def __next__(self) -> str:
        if self._over:
            raise StopIteration
        if self._prepared is not None:
            # Begun when the first piece is wanted. The thread knows nothing of this object, so that letting it go ends it.
            work = (self._prepared, self._pieces, self._ended)
            threading.Thread(target=_stream, args=work, name="rin-stream").start()
            self._prepared = None
        try:
            piece = self._pieces.get()
        except BaseException:
            self.close()
            raise
        if isinstance(piece, str):
            return piece
        self._over = True
        if isinstance(piece, BaseException):
            raise piece
        self.result = Generation(**piece)
        raise StopIteration

    def close(self) -> None:
        """Ends the generation, where it still runs."""
        self._ended.set()
        self._over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self._ended.set()


@dataclass
class _Prepared:
    """A generation, ready to run."""

    context: ContextLike
    prompt: str | Ids
    special: bool
    control: bool
    options: GenerateOptions

    def run(self, heard: Heard | None) -> Result:
        return self.context.generate(self.prompt, self.special, self.control, self.options, heard)


def _stream(
    prepared: _Prepared, pieces: queue.SimpleQueue[str | Result | BaseException], ended: threading.Event
) -> None:
    """Generates into a queue, until nobody listens or the program ends."""
    main = threading.main_thread()

    def hear(piece: str) -> bool:
        if piece:
            pieces.put(piece)
        return not ended.is_set() and main.is_alive()

    try:
        pieces.put(prepared.run(hear))
    except BaseException as error:
        pieces.put(error)


def _listed(ids: Iterable[int] | Ids) -> object:
    """Ids that can be looked at more than once."""
    known = isinstance(ids, (list, tuple, np.ndarray)) or hasattr(ids, "__dlpack__") or hasattr(ids, "__array__")
    if known or isinstance(ids, (str, bytes, bytearray, memoryview)):
        return ids
    try:
        return list(ids)
    except TypeError:
        message = f"ids are whole numbers in a row, not {type(ids).__name__}"
        raise InputTypeError(message, kind="BadInput", place="ids") from None


def _rows(name: str, array: Floats, shape: tuple[int, ...]) -> tuple[int, bool]:
    """Rows of an array, and whether it is one row without an axis of rows."""
    width = int(np.prod(shape, dtype=np.int64))
    if array.shape == shape or array.shape == (width,):
        return 1, True
    if array.ndim > 1 and int(np.prod(array.shape[1:], dtype=np.int64)) == width:
        return array.shape[0], False
    message = f"input `{name}` takes rows of shape {shape}, not an array of shape {array.shape}"
    raise InvalidInputError(message, kind="BadInput", place=f"input `{name}`")


def plan_of(numbers: tuple[int, int, int, int, int, int | None, bool]) -> Json:
    """The numbers of a plan by their names."""
    names = ("total_bytes", "weights_bytes", "state_bytes", "scratch_bytes", "vocabulary_bytes", "limit_bytes", "fits")
    return dict(zip(names, numbers))


def timings(seconds: Sequence[float]) -> Json:
    """What a row of times comes to, in ms."""
    ms = sorted(1e3 * one for one in seconds)
    mean = statistics.fmean(ms)
    at = [ms[min(len(ms) - 1, int(share * len(ms)))] for share in (0.5, 0.99)]
    return {
        "ms_per_token": mean,
        "tokens_per_second": 1e3 / mean if mean > 0 else float("inf"),
        "stddev_ms": statistics.stdev(ms) if len(ms) > 1 else 0.0,
        "min_ms": ms[0],
        "p50_ms": at[0],
        "p99_ms": at[1],
        "max_ms": ms[-1],
        "iterations": len(ms),
    }


def timed(work: Any, iterations: int) -> list[float]:
    """The seconds of each of some calls."""
    found = []
    for _ in range(iterations):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found
