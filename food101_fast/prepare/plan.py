"""Which image goes into which shard, decided before any image is decoded."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.prepare.duplicates import FileHasher, drop_duplicates
from food101_fast.prepare.executors import Executor
from food101_fast.prepare.progress import advance, progress_bar
from food101_fast.prepare.records import ShardTask
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import Source
from food101_fast.prepare.split import check_counts, stratified_split, stratified_subset
from food101_fast.shards.layout import sample_keys, shard_name
from food101_fast.shards.rejects import Reject

_FILES_PER_HASH_TASK = 1000


class Plan(NamedTuple):
    """All shards to write: a pure function of the source and the settings."""

    tasks: list[ShardTask]
    rejects: list[Reject]
    """Duplicates, which are in no task."""
    keys: list[str]
    """Key of each file of the source."""
    fingerprint: str
    """16 hexadecimal digits that change with the source's names, sizes and, if duplicates are dropped, contents."""


def plan(source: Source, settings: PrepareSettings, executor: Executor) -> Plan:
    """Decide which image goes into which shard, and in which order.

    The split is decided before any image is decoded, so that no shard depends on another.

    Raises:
        UserError: the source can't be read, or has too few images of a class.
    """
    kept = np.arange(source.labels.size)
    if settings.limit is not None:
        kept = stratified_subset(source.labels, settings.limit, settings.seed)
    check_counts(source.labels[kept], source.classes, settings.fractions)
    keys = sample_keys(source.classes, source.labels, source.names)
    fingerprint = source.fingerprint
    rejects: list[Reject] = []
    hashes: dict[int, int] | None = None
    if settings.duplicates == "drop":
        hashes = _hash_files(source, kept, executor)
        digest = xxhash.xxh3_64(fingerprint.encode())
        for position in kept.tolist():
            digest.update(hashes[position].to_bytes(16))
        fingerprint = digest.hexdigest()
        kept, rejects = drop_duplicates(source, keys, kept, hashes, settings.rules)
        check_counts(source.labels[kept], source.classes, settings.fractions, dropped=len(rejects))
    splits = stratified_split(source.labels[kept], source.classes, settings.fractions, settings.seed)
    tasks = [
        _task(split, index, of_shard, source, keys, hashes)
        for split, positions in splits.items()
        for index, of_shard in enumerate(
            np.array_split(kept[positions], math.ceil(positions.size / settings.samples_per_shard))
        )
    ]
    return Plan(tasks, rejects, keys, fingerprint)


def _hash_files(source: Source, positions: NDArray[np.int64], executor: Executor) -> dict[int, int]:
    chunks = [tuple(chunk.tolist()) for chunk in _chunks(positions, _FILES_PER_HASH_TASK)]
    hashes: dict[int, int] = {}
    with progress_bar("hash", positions.size) as bar:
        for chunk, of_chunk in executor.run(FileHasher(source=source), chunks, lambda done: advance(bar, done)):
            hashes.update(zip(chunk, of_chunk, strict=True))
        advance(bar, positions.size)
    return hashes


def _chunks(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.array_split(positions, max(1, math.ceil(positions.size / size)))


def _task(
    split: str, index: int, positions: NDArray[np.int64], source: Source, keys: list[str], hashes: dict[int, int] | None
) -> ShardTask:
    # The order of the members' names: in them a dot follows the key.
    ordered = sorted(positions.tolist(), key=lambda position: keys[position] + ".")
    return ShardTask(
        split=split,
        name=shard_name(split, index),
        positions=tuple(ordered),
        labels=tuple(source.labels[ordered].tolist()),
        keys=tuple(keys[position] for position in ordered),
        hashes=None if hashes is None else tuple(hashes[position] for position in ordered),
    )
