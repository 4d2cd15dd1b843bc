"""Which backend works: the native extension, else ``librin`` through ctypes.

The variable ``RIN_BACKEND`` forces one: ``native`` or ``ctypes``. With ``ctypes``, ``RIN_LIB`` names the library.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ._types import Backend

_NAMES = {"native": "native", "ctypes": "ctypes (librin)"}


def _choose() -> tuple[Backend, str]:
    wanted = os.environ.get("RIN_BACKEND", "")
    if wanted not in ("", *_NAMES):
        raise ImportError(f"RIN_BACKEND is native or ctypes, not {wanted!r}")
    if wanted != "ctypes":
        try:
            from . import _native

            return cast("Backend", _native), "native"
        except ImportError:
            if wanted == "native":
                raise
    from . import _librin

    return cast("Backend", _librin), "ctypes"


backend, _chosen = _choose()


def backend_name() -> str:
    """The backend that works: ``"native"`` or ``"ctypes (librin)"``."""
    return _NAMES[_chosen]


def version() -> str:
    """The version of the engine, such as ``"0.1.0"``."""
    return backend.version()
