"""What figures were measured on, and whether other programs used the machine meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from food101_fast.bench.results import CpuState, Provenance
from food101_fast.compute.device import machine
from food101_fast.processes import family, processor_seconds
from food101_fast.runs.run import versions

_BUSY = 0.1
"""Share of the processors' time from which on a result is marked as disturbed by other programs."""

_GPU_STATE = "power.draw,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,utilization.gpu"


class Watch:
    """Watches the machine from its construction until `notes` is called.

    Args:
        device: the device that is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = datetime.now(UTC)
        self._load = os.getloadavg()[0]
        self._begun = time.perf_counter()
        self._own, self._all = _own_seconds(), _processor_seconds()

    def notes(self) -> Provenance:
        """Commit, versions, machine, time, load, clocks, and whether other programs disturbed the measurement."""
        measured_on = machine(self._device)
        available = (time.perf_counter() - self._begun) * measured_on.cores
        own, everything = _own_seconds() - self._own, _processor_seconds() - self._all
        others = max(everything - own, 0.0) / available
        return Provenance(
            commit=_commit(),
            versions=versions(),
            machine=measured_on,
            started=self._started.isoformat(timespec="seconds"),
            load_before=self._load,
            others_share=others,
            busy=others >= _BUSY,
            cpu_state=_cpu_state(),
            gpu_state=_gpu_state() if self._device.type == "cuda" else None,
        )


def _own_seconds() -> float:
    """Processor time of this process and its children; of those that ended, only if they were waited for."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return own + sum(processor_seconds(process, waited=True) for process in family(os.getpid())[1:])


def _processor_seconds() -> float:
    """Seconds that all processors of the machine were busy, stolen time of a virtual machine included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # `user` and `nice` contain it, too
    return float(sum(times) - idle - guest)


def _commit() -> str | None:
    """The commit of the checkout that contains this package, with a plus sign if its code was changed.

    The environment variable FOOD101_FAST_COMMIT overrides it, for copies without the right `.git`. None if neither is
    known.
    """
    if told := os.environ.get("FOOD101_FAST_COMMIT"):
        return told
    git, here = shutil.which("git"), Path(__file__).parent
    if git is None:
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run([git, "-C", here, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--", ":/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_state() -> CpuState:
    try:
        clocks = [clock.current for clock in psutil.cpu_freq(percpu=True) or ()]
    except (OSError, NotImplementedError, AttributeError):  # the system has no such figures
        clocks = []
    try:
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        governor = None
    return CpuState(mhz=clocks or None, governor=governor)


def _gpu_state() -> dict[str, str] | None:
    """Power, clocks, temperature and use of the first GPU, as nvidia-smi prints them; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        asked = [program, f"--query-gpu={_GPU_STATE}", "--format=csv,noheader", "--id=0"]
        values = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(_GPU_STATE.split(","), map(str.strip, values.split(",")), strict=False))
