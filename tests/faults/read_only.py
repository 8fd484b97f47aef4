"""A read-only folder: mounted so where the system allows it, or simulated in this process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")

_read_only: set[str] = set()


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if not _read_only or event not in ("open", *_CHANGES):
        return
    changes = event != "open" or (isinstance(arguments[2], int) and bool(arguments[2] & _WRITES))
    path = os.path.abspath(os.fsdecode(arguments[0])) if isinstance(arguments[0], str | bytes | Path) else ""
    if changes and any(path == folder or path.startswith(f"{folder}/") for folder in _read_only):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


sys.addaudithook(_refuse)  # which stays for as long as the process


@contextmanager
def simulated_read_only(folder: Path) -> Iterator[None]:
    """Python's own functions can't change the folder; libraries that open files by themselves still can."""
    _read_only.add(str(folder))
    try:
        yield
    finally:
        _read_only.remove(str(folder))


@contextmanager
def mounted_read_only(folder: Path) -> Iterator[None]:
    """Mount the folder over itself, read-only. Skips the test where that is not allowed."""
    if os.geteuid() or subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a folder read-only, and not in every container")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
