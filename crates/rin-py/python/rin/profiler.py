"""Times of an engine, with its energy beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._types import Json
from .energy import EnergyMonitor
from .engine import RinEngine, timed, timings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._types import Sampling


class Profiler:
    """Times an engine on work of its user's choice.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: RinEngine) -> None:
        self._engine = engine

    def profile_inference(
        self,
        input_data: object = None,
        iterations: int = 50,
        warmup: int = 5,
        *,
        max_tokens: int = 16,
        **sampling: Unpack[Sampling],
    ) -> Json:
        """Times generations from a prompt, or calls of ``infer``.

        Args:
            input_data: a prompt (text or ids) for a language model, an array for another network; None takes the model's own
                step, as :meth:`RinEngine.benchmark`.
            iterations: calls that count.
            warmup: calls before them that do not.
            max_tokens: tokens of each generation.
            **sampling: of each generation.

        Returns:
            ``latency_ms`` (mean), ``latency_std_ms``, ``p50_ms``, ``p99_ms``, ``min_ms``, ``max_ms``, ``iterations``;
            ``total_tokens_generated`` and ``tokens_per_second``; ``energy_joules``, ``joules_per_token``,
            ``joules_per_inference`` (None where unmeasured) and ``energy_reason``.
        """
        engine = self._engine
        text = engine.mode == "transformer"

        def work() -> None:
            if input_data is None:
                engine._context.profile(0, 1)
            elif text:
                engine.generate(input_data, max_tokens, **sampling)  # type: ignore[arg-type]
            else:
                engine.infer(input_data)

        timed(work, warmup)
        before = engine.total_tokens
        with EnergyMonitor(engine) as monitor:
            seconds = timed(work, iterations)
        tokens = engine.total_tokens - before
        found = timings(seconds)
        joules = monitor.consumed_joules
        return {
            "latency_ms": found["ms_per_token"],
            "latency_std_ms": found["stddev_ms"],
            **{name: found[name] for name in ("p50_ms", "p99_ms", "min_ms", "max_ms", "iterations")},
            "total_tokens_generated": tokens,
            "tokens_per_second": tokens / sum(seconds) if tokens else None,
            "energy_joules": joules,
            "joules_per_token": joules / tokens if joules is not None and tokens else None,
            "joules_per_inference": monitor.joules_per_inference,
            "energy_reason": monitor.reason,
        }

    def full_report(self, input_data: object = None, iterations: int = 50) -> Json:
        """What the model is, what it takes and how long: ``info``, ``plan``, ``benchmark``, ``inference``."""
        engine = self._engine
        return {
            "info": engine.info,
            "plan": engine.plan(),
            "benchmark": engine.benchmark(iterations=iterations),
            "inference": self.profile_inference(input_data, iterations),
        }
