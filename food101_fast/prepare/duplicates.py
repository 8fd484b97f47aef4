"""Identical files, found before the split is decided, so that no image can be in two splits.

Files are compared by XXH3-128 of their bytes (https://xxhash.com): two different files agree with a probability of
1e-29 among 100,000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.images import RejectedError, Rules, clean
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import SPLITS
from food101_fast.shards.rejects import DUPLICATE, LABEL_CONFLICT, NotedImage, Reject

_NO_BYTES = xxhash.xxh3_128_intdigest(b"")


@dataclass(frozen=True, kw_only=True)
class FileHasher:
    """Hashes files of `source`. Picklable, so that it can be sent to worker processes."""

    source: Source

    def compute(self, positions: Sequence[int], count: Callable[[int], None]) -> tuple[Sequence[int], list[int]]:
        """The positions and the XXH3-128 of the files there.

        Raises:
            UserError: a file can't be read.
        """
        hashes = []
        for position in positions:
            try:
                hashes.append(xxhash.xxh3_128_intdigest(self.source.read(position)))
            except RejectedError:  # dropped, with its reason, when it is read again to be written
                hashes.append(_NO_BYTES)
            count(1)
        return positions, hashes

    def store(self, made: tuple[Sequence[int], list[int]]) -> tuple[Sequence[int], list[int]]:
        """Return `made`: there is nothing to store."""
        return made


def drop_duplicates(
    source: Source,
    keys: Sequence[str],
    positions: NDArray[np.int64],
    hashes: dict[int, int],
    rules: Rules,
    splits: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], list[Reject], list[NotedImage]]:
    """Keep the first of identical files, and none where they carry different labels.

    Identical files with different labels that are not images are kept here: the check of every file drops them later,
    with the right reason. Where the source's own splits are kept, a file of test is dropped from val and train, and one
    of val from train; val and test themselves stay as the source has them.

    Args:
        source: where the files come from.
        keys: key of each file of the source.
        positions: (n,) int64, the files to compare.
        hashes: XXH3-128 by position.
        rules: which files are images.
        splits: (N,) split of each file of the source, an index into `SPLITS`; None if everything is split later.

    Returns:
        The positions that are kept, in the same order, a reject for each of the others, and a note for each copy that
        stays in val or test.
    """
    groups: dict[int, list[int]] = {}
    for position in positions.tolist():
        if hashes[position] != _NO_BYTES:
            groups.setdefault(hashes[position], []).append(position)
    dropped: dict[int, Reject] = {}
    notes: list[NotedImage] = []
    for group in groups.values():
        if len(group) == 1:
            continue
        last = 0 if splits is None else max(int(splits[position]) for position in group)
        if splits is not None and last > 0:
            first = next(position for position in group if splits[position] == last)
            for position in group:
                if splits[position] != last:
                    where = f"the same as {source.file(first)}, which is in {SPLITS[last]}"
                    dropped[position] = _reject(source, keys, position, DUPLICATE, where)
                elif position != first:
                    kind = DUPLICATE if source.labels[position] == source.labels[first] else LABEL_CONFLICT
                    detail = f"the same as {_named(source, first)}; both stay, as the source has them in {SPLITS[last]}"
                    note = NotedImage(key=keys[position], file=source.file(position), note=kind, detail=detail)
                    notes.append(note)
        elif len({int(source.labels[position]) for position in group}) == 1:
            for position in group[1:]:
                where = f"the same as {source.file(group[0])}"
                dropped[position] = _reject(source, keys, position, DUPLICATE, where)
        elif _is_image(source, group[0], rules):
            for position in group:
                others = ", ".join(_named(source, other) for other in group if other != position)
                dropped[position] = _reject(source, keys, position, LABEL_CONFLICT, f"the same as {others}")
    kept = np.array([position for position in positions.tolist() if position not in dropped], np.int64)
    return kept, list(dropped.values()), notes


def _named(source: Source, position: int) -> str:
    return f"{source.file(position)} of class {source.classes[source.labels[position]]}"


def _reject(source: Source, keys: Sequence[str], position: int, reason: str, detail: str) -> Reject:
    return Reject(key=keys[position], file=source.file(position), reason=reason, detail=detail)


def _is_image(source: Source, position: int, rules: Rules) -> bool:
    try:
        clean(source.read(position), rules)
    except RejectedError:
        return False
    return True
