"""Limits of the machine that look like damaged data: memory, memory maps, open files, threads, and a failing disk."""

from __future__ import annotations

import errno
import re

_MAPS = (
    "this machine's limits are the cause, not the data: allow more memory (`ulimit -v unlimited`) or more memory maps "
    "(`sysctl -w vm.max_map_count=1048576`)"
)
_MEMORY = (
    "this machine's memory or a limit on it (`ulimit -v`) is the cause, not the data: allow more, or use a smaller "
    "batch or fewer workers"
)
_FILES = "this machine's limit is the cause, not the data: allow more open files (`ulimit -n 65536`)"
_ALL_FILES = (
    "all programs of this machine have too many files open: end some, or allow more (`sysctl -w fs.file-max=1000000`)"
)
_THREADS = "this machine's limit is the cause: allow more threads (`ulimit -u`, or the container's limit of processes)"
_DISK = "the disk or the connection to it fails: check it (`dmesg`) and run again"
_BY_NUMBER = {
    errno.ENOMEM: _MAPS,
    errno.EMFILE: _FILES,
    errno.ENFILE: _ALL_FILES,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
}
# torch raises a RuntimeError and puts the number of the system's error at the end of the first line.
_TORCH = re.compile(r"unable to (?:mmap|open|stat) .*\((\d+)\)$")


def machine_advice(error: BaseException) -> str | None:
    """What to do about an error whose cause is the machine and not a file; None for all other errors.

    Args:
        error: an OSError or MemoryError, or torch's RuntimeError about a file, about memory or about threads.
    """
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0)
    if not isinstance(error, RuntimeError):
        return None
    line = first_line(error)
    if "DefaultCPUAllocator" in line:
        return _MEMORY
    if "can't start new thread" in line:
        return _THREADS
    found = _TORCH.search(line)
    return None if found is None else _BY_NUMBER.get(int(found[1]))


def first_line(error: BaseException) -> str:
    """What an error says, without the lines of C++ that torch appends; its class if it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
