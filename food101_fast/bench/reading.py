"""How fast shards can be read: from the page cache, from the disk, or from a URL."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import statistics
import time
from pathlib import Path

from food101_fast.bench.measure import Work
from food101_fast.bench.results import ColdRead
from food101_fast.shards import ShardSet
from food101_fast.storage import LocalFolder

_BLOCK = 8 << 20
_COLD_REPETITIONS = 5


def read_work(shards: ShardSet) -> Work:
    """A work that reads one whole shard of the split train at a time, in one thread, and returns its samples.

    Local files are mostly in the page cache; those behind a URL are downloaded every time.
    """
    entries = itertools.cycle(entry for entry in shards.manifest.splits["train"].shards if entry.samples)
    folder = shards.folder

    def read() -> float:
        entry = next(entries)
        if isinstance(folder, LocalFolder):
            _read_file(folder.path / entry.name)
        else:
            folder.read(entry.name)
        return entry.samples

    return read


def cold_read(shards: ShardSet, most_seconds: float = math.inf) -> ColdRead | None:
    """Bytes per second of shards that were dropped from the page cache first; None where that can't be done.

    This process must not have mapped a file yet, since mapped pages stay in memory.

    Args:
        shards: five files of their split train are read.
        most_seconds: no further file is read after this time.
    """
    folder = shards.folder
    if not isinstance(folder, LocalFolder) or not hasattr(os, "posix_fadvise"):
        return None
    entries = [entry for entry in shards.manifest.splits["train"].shards if entry.samples]
    rates: list[float] = []
    began = time.perf_counter()
    for entry in itertools.islice(itertools.cycle(entries), _COLD_REPETITIONS):
        if rates and time.perf_counter() - began > most_seconds:
            break
        path = folder.path / entry.name
        with path.open("rb") as file:
            with contextlib.suppress(OSError):  # a read-only file system has nothing to write
                os.fsync(file.fileno())  # only what is on the disk can leave the memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        _read_file(path)
        rates.append(entry.bytes / (time.perf_counter() - start))
    return ColdRead(bytes_per_second=statistics.median(rates), repetitions=rates)


def _read_file(path: Path) -> None:
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file, contextlib.closing(file):
        while file.readinto(buffer):
            pass
