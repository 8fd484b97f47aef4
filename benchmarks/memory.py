"""Time and memory that `prepare` takes, over all its processes, for several numbers of images.

    python benchmarks/memory.py --source hub:DIR [--limits 25000 0] [--size 64] [--json FILE]

Memory is the sum of PSS (each page counted once, also where processes share it) and, apart, of its anonymous part: PSS
also counts pages of mapped files, which the system takes back when it needs them. Linux only. Looking on, every 50 ms,
is part of what is measured.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.processes import family

_EVERY = 0.05
"""Seconds from one look to the next."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time and memory of prepare."""

    source: str
    """Source, as prepare takes it."""
    limits: tuple[int, ...] = (25_000, 0)
    """Numbers of images; 0 is all."""
    size: int = 64
    """Stored size in pixels."""
    workers: int = 2
    """Processes of prepare."""
    json: Path | None = None
    """File to write the results to."""


def memory(pids: Sequence[int]) -> tuple[int, int]:
    """PSS and private bytes of processes together."""
    pss = private = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        pss += 1024 * sum(map(int, re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE)))
        private += 1024 * sum(map(int, re.findall(r"^Pss_Anon: +(\d+) kB", text, re.MULTILINE)))
    return pss, private


def watched(settings: Settings, limit: int, out: Path) -> dict[str, Any]:
    """What one call of the command took.

    Raises:
        UserError: it failed.
    """
    command = f"-m food101_fast.prepare --size {settings.size} --workers {settings.workers}"
    flags = ["--source", settings.source, "--out", str(out), *(["--limit", str(limit)] if limit else [])]
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command.split(), *flags], stdout=subprocess.DEVNULL)
    highest = (0, 0)
    while process.poll() is None:
        now = memory([member.pid for member in family(process.pid)])
        highest = max(highest[0], now[0]), max(highest[1], now[1])
        time.sleep(_EVERY)
    if process.returncode:
        raise UserError(f"prepare ended with {process.returncode}; what it said stands above")
    seconds = time.perf_counter() - begun
    splits = orjson.loads((out / "manifest.json").read_bytes())["splits"]
    written = sum(split["samples"] for split in splits.values())
    return {"written": written, "seconds": seconds, "pss_bytes": highest[0], "private_bytes": highest[1]}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/memory", argv)
    measurement = Measurement(settings.json)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, limit in enumerate(settings.limits):
            result = watched(settings, limit, Path(folder) / str(number))
            results.append(result)
            print(
                f"{result['written']:>10,} images {result['seconds']:>8.1f} s {result['private_bytes'] / 1e6:>8,.0f} MB"
                f" private {result['pss_bytes'] / 1e6:>8,.0f} MB in all"
            )
    kept = {name: getattr(settings, name) for name in ("limits", "size", "workers")}
    measurement.publish(kept, results=results)


if __name__ == "__main__":
    exit_with(main)
