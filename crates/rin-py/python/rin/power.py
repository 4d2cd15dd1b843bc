"""A bound on power, and what a battery lasts for."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from . import _arguments
from ._types import Ids, Json
from .engine import RinEngine
from .errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self, Unpack

    from ._types import Sampling


class PowerTuner:
    """Holds the mean power of the machine during generations at a budget: the engine rests between tokens and computes on
    fewer threads, and no bit of the result changes.

        with PowerTuner(engine, watts=15):
            engine.generate("Once upon a time")

    Args:
        engine: the engine.
        watts: the budget in W; None leaves it to :meth:`set_budget`.

    Raises:
        UnmeasuredError: no sensor allows it.
    """

    def __init__(self, engine: RinEngine, watts: float | None = None) -> None:
        self._engine = engine
        if watts is not None:
            self.set_budget(watts)

    @property
    def budget(self) -> float:
        """The budget in W; 0 is none."""
        return self._engine.power_budget

    def set_budget(self, watts: float) -> None:
        """Sets the budget in W. The idle machine is measured for a second.

        Raises:
            InvalidInputError: a budget that no machine can hold.
            UnmeasuredError: no sensor allows it.
        """
        number = _arguments.number_or_none("watts", watts)
        if number is None or number <= 0:
            message = f"watts is {watts}, but must be above 0; clear() lifts the budget"
            raise InvalidInputError(message, kind="BadOption", place="watts")
        self._engine.power_budget = number

    def clear(self) -> None:
        """Lifts the budget."""
        self._engine.power_budget = 0.0

    def joules_per_token(
        self, prompt: str | Sequence[int] | Ids, max_tokens: int = 64, **sampling: Unpack[Sampling]
    ) -> float | None:
        """Energy of the machine per token of one generation, in J; None where it was not measured."""
        found = self._engine.complete(prompt, max_tokens, **sampling)
        if found.energy_joules is None or not found.tokens:
            return None
        return found.energy_joules / len(found.tokens)

    @staticmethod
    def estimate_battery_life(joules_per_token: float, watt_hours: float, tokens_per_second: float) -> Json:
        """What a battery of ``watt_hours`` lasts for: ``tokens``, ``hours`` and ``watts`` at that speed."""
        for name, value in (
            ("joules_per_token", joules_per_token),
            ("watt_hours", watt_hours),
            ("tokens_per_second", tokens_per_second),
        ):
            if not value > 0:
                raise InvalidInputError(f"{name} is {value}, but must be above 0", kind="BadOption", place=name)
        tokens = 3600 * watt_hours / joules_per_token
        return {
            "tokens": tokens,
            "hours": tokens / tokens_per_second / 3600,
            "watts": joules_per_token * tokens_per_second,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._engine.closed:
            self.clear()
