"""What order and metadata cost far beyond one machine: a billion samples, 10,000 shards, 512 ranks. Nothing is read.

    python benchmarks/scaling.py [--json FILE]

Every part runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import machine
from food101_fast.loader.order import EpochOrder, permutation, rank_slice, steps_per_epoch
from food101_fast.runs.run import versions
from food101_fast.shards.layout import index_bytes
from food101_fast.shards.manifest import Manifest, ShardEntry, SplitEntry
from food101_fast.storage import write_atomically


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Seconds and memory of order and metadata."""

    samples: int = 10**9
    """Samples of the data set."""
    shards: int = 10_000
    """Shards that they lie in."""
    ranks: int = 512
    """Processes that share an epoch."""
    batch_size: int = 256
    """Images of each rank in a step."""
    window: int = 1_000_000
    """Samples that are shuffled among each other."""
    json: Path | None = None
    """File to write the results to."""


def manifest_of(settings: Settings) -> dict[str, Any]:
    """The manifest: size, and how long it takes to write and to parse."""
    per_shard = settings.samples // settings.shards
    entries = tuple(
        ShardEntry(
            name=f"train-{number:06d}.tar",
            samples=per_shard,
            bytes=per_shard * 112_640,
            xxh3_64="0" * 16,
            index_xxh3_64="0" * 16,
        )
        for number in range(settings.shards)
    )
    classes = tuple(f"class_{number:05d}" for number in range(21_841))
    counts = tuple(settings.samples // len(classes) for _ in classes)
    manifest = Manifest(
        classes=classes,
        image_size=192,
        encoding="raw",
        quality=None,
        fit="crop",
        check="default",
        min_side=8,
        duplicates="drop",
        samples_per_shard=per_shard,
        limit=None,
        seed=0,
        fractions=(0.8, 0.1, 0.1),
        source="hub:scaling",
        fingerprint="0" * 16,
        read=settings.samples,
        rejects={},
        notes={},
        splits={"train": SplitEntry(samples=settings.samples, class_counts=counts, shards=entries)},
    )
    start = time.perf_counter()
    content = manifest.to_json()
    written = time.perf_counter()
    orjson.loads(content)
    without = replace(manifest, splits={"train": SplitEntry(samples=settings.samples, class_counts=counts, shards=())})
    return {
        "bytes": len(content),
        "write_seconds": written - start,
        "parse_seconds": time.perf_counter() - written,
        "classes": len(classes),
        "bytes_per_shard": (len(content) - len(without.to_json())) / settings.shards,
        "index_bytes_per_shard": index_bytes(per_shard),
        "index_bytes": settings.shards * index_bytes(per_shard),
    }


def _order(settings: Settings) -> EpochOrder:
    sizes = np.full(settings.shards, settings.samples // settings.shards)
    return EpochOrder(sizes, seed=0, epoch=0, shuffle=True, window=settings.window)


def windows_of(settings: Settings) -> dict[str, Any]:
    """The order of an epoch with a window: what a rank computes for it, and that ranks share it without a gap."""
    start = time.perf_counter()
    order = _order(settings)
    made = time.perf_counter()
    global_batch = settings.ranks * settings.batch_size
    steps = settings.window // global_batch
    of_rank = []
    for step in range(steps):
        part = rank_slice(settings.samples, global_batch, step, settings.ranks // 2, settings.ranks)
        of_rank.append(order.ids(part.start, part.stop))
    computed = time.perf_counter()
    parts = [
        order.ids(part.start, part.stop)
        for step in range(steps)
        for rank in range(settings.ranks)
        for part in [rank_slice(settings.samples, global_batch, step, rank, settings.ranks)]
    ]
    together = np.concatenate(parts)
    touched = np.unique(np.concatenate(of_rank) // (settings.samples // settings.shards))
    return {
        "order_seconds": made - start,
        "seconds_per_window": computed - made,
        "steps_per_window": settings.window / global_batch,
        "windows": order.windows,
        "steps_per_epoch": steps_per_epoch(settings.samples, global_batch, drop_last=True),
        "every_id_once": bool(np.unique(together).size == together.size == steps * global_batch),
        "shards_of_a_window": len(order.shards_of(0)),
        "shards_that_one_rank_reads_of_it": int(touched.size),
    }


def whole_permutations(settings: Settings) -> list[dict[str, Any]]:
    """A permutation of everything, the default order, for sizes that this machine can hold."""
    rows = []
    for exponent in (6, 7, 8):
        start = time.perf_counter()
        ids = permutation(10**exponent, 0, 0)
        rows.append({"samples": 10**exponent, "seconds": time.perf_counter() - start, "id_bytes": ids.nbytes})
    return rows


def apart(work: Callable[[Settings], Any], settings: Settings) -> dict[str, Any]:
    """What `work` returns from a process of its own, and the memory that it took beyond that of starting."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, settings))


def _measured(work: Callable[[Settings], Any], settings: Settings) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = work(settings)
    return {"result": result, "peak_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/scaling", argv)
    document = {
        "version": 1,
        "machine": asdict(machine(torch.device("cpu"))),
        "versions": versions(),
        "settings": {name: getattr(settings, name) for name in ("samples", "shards", "ranks", "batch_size", "window")},
        "manifest": apart(manifest_of, settings),
        "windows": apart(windows_of, settings),
        "whole": apart(whole_permutations, settings),
    }
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    if settings.json is not None:
        write_atomically(settings.json, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        print(settings.json, f"({os.path.getsize(settings.json)} bytes)")


if __name__ == "__main__":
    exit_with(main)
