"""Processes: the cores that they may use, and the processor time that they have used."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

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
