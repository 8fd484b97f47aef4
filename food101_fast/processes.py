"""Processes: the cores that they may use, and the processor time that they have used."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from food101_fast.errors import UserError

if TYPE_CHECKING:
    import psutil

# The CPU limit of a container, in the kernel's control groups (version 2).
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def family(pid: int) -> list[psutil.Process]:
    """A process and then all its running descendants; empty if it has ended."""
    import psutil  # here, since it takes a while and workers do not need it

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(process: psutil.Process, *, waited: bool = False) -> float:
    """Processor time of a process; 0 if it has ended.

    Args:
        process: one of `family`.
        waited: also count its children that have ended and that it has waited for.
    """
    import psutil

    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    own = times.user + times.system
    return float(own + times.children_user + times.children_system if waited else own)


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """A context in which new processes of `multiprocessing` do not import the caller's script again.

    They would run all of it, if its author has not put the work under `if __name__ == "__main__":`, and can't import
    what came from the standard input. Our workers need nothing of it.
    """
    main = sys.modules["__main__"]
    names: list[str] = ["__spec__", "__file__"]
    hidden = {name: vars(main)[name] for name in names if name in vars(main)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def refuse_import(what: str) -> None:
    """Refuse to work while a new process imports the script that started it.

    Args:
        what: the function that was called, for the error.

    Raises:
        UserError: this process does that.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"{what} was called while a new process imports the script that started it; put the work of the script "
            'under `if __name__ == "__main__":`'
        )


def usable_cores() -> int:
    """Number of cores that this process may use, with respect to its affinity and its container's CPU limit."""
    cores = len(_cores())
    try:
        quota, period = _CPU_LIMIT.read_text().split()
        return max(min(cores, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return cores


def busiest_core(seconds: float) -> float:
    """Load of the busiest core that this process may run on, from 0 to 1, while this process sleeps.

    Args:
        seconds: how long to measure. The system counts in hundredths of a second.
    """
    import psutil

    shares: list[float] = psutil.cpu_percent(interval=seconds, percpu=True)
    return max((shares[core] for core in _cores() if core < len(shares)), default=0.0) / 100


def _cores() -> set[int]:
    """Numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
