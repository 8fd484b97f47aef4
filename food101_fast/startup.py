"""What a command sets up while the package is imported, before it comes to the command itself and to torch."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from food101_fast.openmp import runs_as_command, set_up_openmp


def set_up_command(package: str) -> None:
    """Set up OpenMP and Ctrl-C if this process is a command of the package.

    Args:
        package: its name.
    """
    if runs_as_command(package, sys.argv, sys.orig_argv):
        sys.excepthook = _end
        set_up_openmp()


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Ctrl-C during the imports, which take seconds, is one word and exit code 130, as in the command itself."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)
