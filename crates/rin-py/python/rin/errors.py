"""What can go wrong: every exception of this package.

All derive from :class:`RinError` and carry the name of the failure (``kind``, the same that ``rin --json`` gives) and its
place (``place``: a section and a byte of a file, a tensor, an input, an option; empty where there is none). Those that have
a counterpart among Python's own exceptions derive from that too, so that ``except ValueError`` works as expected.
"""

from __future__ import annotations


class RinError(Exception):
    """The base of all failures of RIN.

    Attributes:
        message: what is wrong and what helps.
        kind: the name of the failure, such as ``"DoesNotFit"``.
        place: where it lies, such as ``"input `x` row 3 place 1"``; ``""`` where it lies nowhere.
        status: the status of ``rin.h``, below 0.
    """

    message: str
    kind: str
    place: str
    status: int = -4

    def __init__(self, message: str = "", *, kind: str = "Failed", place: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.place = place

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_again, (type(self), self.message, self.kind, self.place))


def _again(of: type[RinError], message: str, kind: str, place: str) -> RinError:
    return of(message, kind=kind, place=place)


class InitError(RinError):
    """The system refused something that is needed to begin, such as threads."""

    status = -1


class MemoryPlanError(RinError, MemoryError):
    """The model does not fit the memory, or the text does not fit the cache that was planned."""

    status = -2


class ModelError(RinError):
    """The model is damaged or contradicts itself."""

    status = -3


class ModelFileError(ModelError, OSError):
    """The model's file is missing or cannot be read."""


class InferenceError(RinError):
    """Computing, importing or training failed."""

    status = -4


class NotLoadedError(RinError):
    """No model is loaded."""

    status = -5


class InvalidInputError(RinError, ValueError):
    """An argument is out of its range: a shape, a NaN, an unknown token, an option."""

    status = -6


class InputTypeError(InvalidInputError, TypeError):
    """An argument is of the wrong type, or an array of the wrong dtype."""


class UnsupportedError(RinError):
    """This version, or this model, does not do that."""

    status = -7


class ClosedError(RinError):
    """The engine was closed."""

    status = -9


class BusyError(RinError):
    """A callback called back into the engine that called it."""

    status = -10


class CancelledError(RinError):
    """A callback ended an import or a training."""

    status = -11


class UnmeasuredError(RinError):
    """There is no figure for energy. Nothing else failed."""

    status = -12


class PanicError(RinError):
    """A fault in RIN itself. The engine has no model any more; the program can go on."""

    status = -13


class RinWarning(UserWarning):
    """Something that is done all the same, and that its user should know."""


_BY_STATUS: dict[int, type[RinError]] = {
    of.status: of
    for of in (
        InitError,
        MemoryPlanError,
        ModelError,
        InferenceError,
        NotLoadedError,
        InvalidInputError,
        UnsupportedError,
        ClosedError,
        BusyError,
        CancelledError,
        UnmeasuredError,
        PanicError,
    )
}


def from_failure(status: int, kind: str, place: str, message: str) -> RinError:
    """The exception of a failure of the engine, for the backends."""
    of = _BY_STATUS.get(status, RinError)
    if of is ModelError and kind == "Io":
        of = ModelFileError
    return of(message, kind=kind, place=place)
