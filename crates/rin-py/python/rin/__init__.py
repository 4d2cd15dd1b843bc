"""RIN: neural networks on CPUs, with every byte planned, bits that can be cited, and energy accounted for.

    from rin import RinEngine

    with RinEngine("model.rin") as engine:
        print(engine.generate("Hello", max_tokens=50))

:class:`RinEngine` runs language models (``generate``, ``stream``, ``logits``) and networks on rows of numbers (``infer``).
:func:`train` trains, :func:`import_model` converts, :class:`EnergyMonitor`, :class:`Profiler` and :class:`PowerTuner`
measure. Everything that can go wrong is a :class:`RinError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import RinError, RinWarning

if TYPE_CHECKING:
    from ._backend import backend_name as backend_name
    from ._backend import version as version
    from .convert import import_model as import_model
    from .convert import plan as plan
    from .convert import train as train
    from .engine import Generation as Generation
    from .engine import RinEngine as RinEngine
    from .engine import TextStream as TextStream
    from .energy import EnergyMonitor as EnergyMonitor
    from .power import PowerTuner as PowerTuner
    from .profiler import Profiler as Profiler

    __version__: str

RinException = RinError
"""The name that the first RIN had for :class:`RinError`."""

# Looked up when they are used: the command needs neither numpy nor a backend of its own.
_WHERE = {
    "backend_name": "_backend",
    "version": "_backend",
    "import_model": "convert",
    "plan": "convert",
    "train": "convert",
    "Generation": "engine",
    "RinEngine": "engine",
    "TextStream": "engine",
    "EnergyMonitor": "energy",
    "PowerTuner": "power",
    "Profiler": "profiler",
}

__all__ = [
    "EnergyMonitor",
    "Generation",
    "PowerTuner",
    "Profiler",
    "RinEngine",
    "RinError",
    "RinException",
    "RinWarning",
    "TextStream",
    "backend_name",
    "import_model",
    "plan",
    "train",
    "version",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return __getattr__("version")()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
