"""Processes: the cores they may use, and what they have used (the latter from /proc, so on Linux only)."""

from __future__ import annotations

import os
from pathlib import Path


def family(pid: int) -> list[int]:
    """A process, and then all that descend from it and still run."""
    pids = [pid]
    for member in pids:
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended in this moment
            continue
    return pids


def processor_seconds(pid: int, *, waited: bool = False) -> float:
    """Processor time of a process; 0 if it has ended.

    Args:
        pid: its number.
        waited: count that of its children, too, which have ended and which it has waited for.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # utime, stime, cutime and cstime, see proc(5); the name before them may hold anything.
    ticks = stat.rpartition(")")[2].split()[11 : 15 if waited else 13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(_cores())


def busiest_core(seconds: float) -> float:
    """How busy the busiest core that this process may run on is (0 to 1) while this process sleeps.

    Args:
        seconds: how long to watch. Processors' times are counted in hundredths of a second.
    """
    import psutil  # here, since workers need none and it takes a while

    shares: list[float] = psutil.cpu_percent(interval=seconds, percpu=True)
    return max((shares[core] for core in _cores() if core < len(shares)), default=0.0) / 100


def _cores() -> set[int]:
    """Numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
