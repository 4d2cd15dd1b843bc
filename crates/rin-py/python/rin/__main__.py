"""The command: ``python -m rin`` and ``rin`` are one program."""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main() -> int:
    """Does what the command line says; gives the exit code.

    The native extension carries the command. Without it, or with ``RIN_BACKEND=ctypes``, a program ``rin`` on the path is
    run.
    """
    arguments = sys.argv[1:]
    if os.environ.get("RIN_BACKEND", "") != "ctypes":
        try:
            from ._native import command
        except ImportError:
            pass
        else:
            # The command handles interrupts itself, and a closed pipe is no exception.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.stdout.flush()
            return command(["rin", *arguments])
    program = shutil.which("rin")
    if program is None or _is_this(program):
        print("error: there is no native extension and no program rin on the path", file=sys.stderr)
        return 1
    os.execv(program, [program, *arguments])


def _is_this(program: str) -> bool:
    """Whether a program is the script that pip made of this module."""
    try:
        with open(program, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


if __name__ == "__main__":
    sys.exit(main())
