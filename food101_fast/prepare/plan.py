"""Which image goes into which shard, decided before any image is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.prepare.cut import Cut
from food101_fast.prepare.duplicates import FileHasher, drop_duplicates
from food101_fast.prepare.executors import Executor
from food101_fast.prepare.given import NO_SPLIT, KeptSplits, groups_of, keep_splits, mixed_splits
from food101_fast.prepare.progress import advance, progress_bar
from food101_fast.prepare.records import ShardTask
from food101_fast.prepare.selection import choose_classes, left_out
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import GivenSplits, Source
from food101_fast.prepare.split import stratified_subset
from food101_fast.progress import note
from food101_fast.shards.layout import SPLITS, sample_keys, shard_name
from food101_fast.shards.rejects import NotedImage, Reject

_FILES_PER_HASH_TASK = 1000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards to write: a pure function of the source and the settings."""

    tasks: tuple[ShardTask, ...]
    rejects: tuple[Reject, ...]
    """Duplicates, and what the source lists without an image, a label or a split: images in no task."""
    notes: tuple[NotedImage, ...] = ()
    """Copies that stay in val and test, and images that replace damaged ones in another split."""
    keys: list[str]
    """Key of each file of the source."""
    fingerprint: str
    """16 hexadecimal digits that change with the source's names, sizes and, if duplicates are dropped, contents."""
    classes: tuple[str, ...]
    """Classes that are used; labels of tasks are indices into them."""
    left_out: Mapping[str, int]
    """Images of each class that is not used."""
    given_splits: Mapping[str, str]
    """What each split of the source becomes, by its name there."""
    groups: NDArray[np.int64] | None
    """(N,) group of each file of the source."""
    mixed: GivenSplits | None = None
    """The source's own splits where they were joined and split anew; None where it has none, or they are kept."""


def plan(source: Source, settings: PrepareSettings, executor: Executor) -> Plan:
    """Decide which image goes into which shard, and in which order.

    The split is decided before any image is decoded, so that no shard depends on another.

    Raises:
        UserError: the source can't be read, has too few images of a class, or not what the settings name.
    """
    given = keep_splits(source, settings)
    cut = Cut(
        classes=source.classes,
        labels=source.labels,
        given=given,
        groups=groups_of(source, settings.group_by),
        settings=settings,
        file=source.file,
    )
    if cut.groups is not None:
        sizes = np.bincount(cut.groups)
        note(f"--group-by {settings.group_by}: {sizes.size:,} groups, the largest has {sizes.max():,} images")
    keys = sample_keys(source.classes, source.labels, source.names)
    kept, used = _chosen(source, settings, cut)
    counts = np.bincount(source.labels, minlength=len(source.classes))
    fingerprint = fingerprint_of(source, given, cut.groups)
    rejects = [*source.rejects, *in_no_split(source, keys, given)]
    hashes: dict[int, int] | None = None
    notes: list[NotedImage] = []
    if settings.duplicates == "drop":
        hashes = hash_files(source, kept, executor)
        digest = xxhash.xxh3_64(fingerprint.encode())
        for position in kept.tolist():
            digest.update(hashes[position].to_bytes(16))
        fingerprint = digest.hexdigest()
        numbers = None if given is None else given.numbers
        kept, duplicates, notes = drop_duplicates(source, keys, kept, hashes, settings.rules, numbers)
        used = cut.usable(kept, used, dropped=len(duplicates))
        kept = kept[used[source.labels[kept]]]
        rejects += duplicates
    new_labels = np.cumsum(used) - 1
    shards = Contents(labels=new_labels[source.labels], keys=keys, hashes=hashes, most=settings.samples_per_shard)
    return Plan(
        tasks=shards.tasks(cut.split(kept)),
        rejects=tuple(rejects),
        notes=tuple(notes),
        keys=keys,
        fingerprint=fingerprint,
        classes=tuple(name for name, is_used in zip(source.classes, used, strict=True) if is_used),
        left_out=left_out(source.classes, counts, used),
        given_splits={} if given is None else given.becomes,
        groups=cut.groups,
        mixed=mixed_splits(source, settings),
    )


def fingerprint_of(source: Source, given: KeptSplits | None, groups: NDArray[np.int64] | None) -> str:
    """The source's fingerprint, and its splits and groups where they are used."""
    used = [numbers for numbers in (None if given is None else given.numbers, groups) if numbers is not None]
    if not used:
        return source.fingerprint
    digest = xxhash.xxh3_64(source.fingerprint.encode())
    for numbers in used:
        digest.update(numbers.tobytes())
    return digest.hexdigest()


def _chosen(source: Source, settings: PrepareSettings, cut: Cut) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions of the files to use, ascending, and (C,) whether each class is used."""
    counts = np.bincount(source.labels, minlength=len(source.classes))
    used = choose_classes(source.classes, counts, settings)
    wanted = used[source.labels]
    strata = source.labels
    if cut.given is not None:
        wanted &= cut.given.numbers >= 0
        strata = strata * len(SPLITS) + cut.given.numbers
    kept = np.flatnonzero(wanted)
    if settings.limit is not None:
        kept = kept[stratified_subset(strata[kept], settings.limit, settings.seed)]
    used = cut.usable(kept, used)
    return kept[used[source.labels[kept]]], used


def in_no_split(source: Source, keys: list[str], given: KeptSplits | None) -> list[Reject]:
    """Rejects for files that the source has in none of the splits that are to be kept."""
    if given is None:
        return []
    detail = "the source has it in no split: its value in the column of splits is empty"
    return [
        Reject(key=keys[position], file=source.file(position), reason=NO_SPLIT, detail=detail)
        for position in np.flatnonzero(given.numbers == -1).tolist()
    ]


def hash_files(source: Source, positions: NDArray[np.int64], executor: Executor) -> dict[int, int]:
    """XXH3-128 of each file, by position.

    Raises:
        UserError: a file can't be read.
    """
    chunks = [tuple(chunk.tolist()) for chunk in _chunks(positions, _FILES_PER_HASH_TASK)]
    hashes: dict[int, int] = {}
    with progress_bar("hash", positions.size) as bar:
        for chunk, of_chunk in executor.run(FileHasher(source=source), chunks, lambda done: advance(bar, done)):
            hashes.update(zip(chunk, of_chunk, strict=True))
        advance(bar, positions.size)
    return hashes


def _chunks(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.array_split(positions, max(1, math.ceil(positions.size / size)))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes into shards."""

    labels: NDArray[np.int64]
    """(N,) label of each file of the source, as it is stored."""
    keys: Sequence[str]
    """Key of each file."""
    hashes: Mapping[int, int] | None
    """XXH3-128 of files, by position; None if duplicates are kept."""
    most: int
    """Maximum number of samples in a shard."""

    def tasks(
        self, splits: Mapping[str, NDArray[np.int64]], first: Mapping[str, int] | None = None
    ) -> tuple[ShardTask, ...]:
        """The shards of each split, given as positions in the source; they are numbered from `first`, default 0."""
        return tuple(
            self._task(split, number, of_shard)
            for split, positions in splits.items()
            for number, of_shard in enumerate(
                np.array_split(positions, math.ceil(positions.size / self.most)), (first or {}).get(split, 0)
            )
        )

    def _task(self, split: str, number: int, positions: NDArray[np.int64]) -> ShardTask:
        # The order of the members' names: in them a dot follows the key.
        ordered = sorted(positions.tolist(), key=lambda position: self.keys[position] + ".")
        return ShardTask(
            split=split,
            name=shard_name(split, number),
            positions=tuple(ordered),
            labels=tuple(self.labels[ordered].tolist()),
            keys=tuple(self.keys[position] for position in ordered),
            hashes=None if self.hashes is None else tuple(self.hashes[position] for position in ordered),
        )
