"""Energy of the machine over a stretch of work."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from ._backend import backend
from ._types import ContextLike, Json
from .engine import RinEngine
from .errors import UnmeasuredError

if TYPE_CHECKING:
    from typing_extensions import Self


class EnergyMonitor:
    """Measures what the machine takes from :meth:`reset` (or the beginning of a ``with``) to :meth:`sample` (or its end).

        with EnergyMonitor(engine) as monitor:
            for row in rows:
                engine.infer(row)
        print(monitor.consumed_joules, monitor.joules_per_inference)

    The sensors measure the whole machine, whatever else it does; there is no figure where there is no sensor, and ``reason``
    says why. ``rin energy`` measures with the idle machine subtracted and with intervals.

    Args:
        engine: whose inferences are counted; None counts none.
    """

    def __init__(self, engine: RinEngine | None = None) -> None:
        self._engine = engine
        self._context: ContextLike = backend.Context() if engine is None else engine._context
        self.consumed_joules: float | None = None
        """Energy of the stretch, in J; None where it was not measured."""
        self.wall_clock_seconds = 0.0
        """Its time, in s."""
        self.inference_delta = 0
        """Inferences of the engine within it."""
        self.reason: str | None = None
        """Why there is no figure; None where there is one."""
        self.reset()

    def _joules(self) -> float | None:
        try:
            found = self._context.machine_joules()
        except UnmeasuredError as error:
            self.reason = str(error)
            return None
        self.reason = None
        return found

    def _count(self) -> int:
        return 0 if self._engine is None else self._engine.inference_count

    def reset(self) -> None:
        """Begins a stretch."""
        self.consumed_joules = None
        self.wall_clock_seconds = 0.0
        self.inference_delta = 0
        self._inferences = self._count()
        self._began = time.perf_counter()
        self._joules_before = self._joules()

    def sample(self) -> Json:
        """Ends the stretch here; a later sample ends it later. Gives :meth:`report`."""
        joules = self._joules()
        self.wall_clock_seconds = time.perf_counter() - self._began
        self.inference_delta = self._count() - self._inferences
        before = self._joules_before
        self.consumed_joules = None
        if joules is not None and before is not None:
            if joules > before:
                self.consumed_joules = joules - before
            else:
                self.reason = "the sensor has not moved: the work is below what it resolves"
        return self.report()

    @property
    def average_watts(self) -> float | None:
        """Mean power, in W."""
        if self.consumed_joules is None or self.wall_clock_seconds <= 0:
            return None
        return self.consumed_joules / self.wall_clock_seconds

    @property
    def joules_per_inference(self) -> float | None:
        """Energy per inference of the engine, in J."""
        if self.consumed_joules is None or self.inference_delta == 0:
            return None
        return self.consumed_joules / self.inference_delta

    def report(self) -> Json:
        """``consumed_joules``, ``wall_clock_seconds``, ``average_watts``, ``inference_delta``, ``joules_per_inference`` and
        ``reason``."""
        return {
            "consumed_joules": self.consumed_joules,
            "wall_clock_seconds": self.wall_clock_seconds,
            "average_watts": self.average_watts,
            "inference_delta": self.inference_delta,
            "joules_per_inference": self.joules_per_inference,
            "reason": self.reason,
        }

    def __enter__(self) -> Self:
        self.reset()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._engine is None or not self._engine.closed:
            self.sample()
