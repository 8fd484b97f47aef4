"""The manifest of what was written and what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare.plan import Plan
from food101_fast.prepare.records import ShardResult
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.shards.layout import SPLITS
from food101_fast.shards.manifest import Manifest, SplitEntry
from food101_fast.shards.rejects import count


def make_manifest(
    planned: Plan, results: Sequence[ShardResult], settings: PrepareSettings, *, is_whole: bool = True
) -> Manifest:
    """The manifest of a folder whose shards are all written.

    Args:
        planned: what was to be written.
        results: of its tasks, in their order.
        settings: of the run.
        is_whole: whether this is the whole folder, which needs every class in train, or is appended to one.

    Raises:
        UserError: every image of a class that was chosen for train was dropped, or every image of a split.
    """
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [result for result in results if result.entry.name.startswith(f"{split}-")]
        if of_split:
            if is_whole:
                _refuse_empty(split, of_split, planned)
            counts = written(split, planned, of_split)
            splits[split] = SplitEntry(
                samples=int(counts.sum()),
                class_counts=tuple(counts.tolist()),
                shards=tuple(result.entry for result in of_split),
            )
    rejects = [*planned.rejects, *(reject for result in results for reject in result.rejects)]
    notes = [*planned.notes, *(note for result in results for note in result.notes)]
    return Manifest(
        **asdict(settings.stored),
        classes=planned.classes,
        fingerprint=planned.fingerprint,
        read=sum(map(len, planned.tasks)) + len(planned.rejects),
        rejects=count(reject.reason for reject in rejects),
        notes=count(note.note for note in notes),
        splits=splits,
        given_splits=planned.given_splits,
        mixed_splits=_mixed(planned, {reject.key for result in results for reject in result.rejects}),
        left_out=planned.left_out,
    )


def _mixed(planned: Plan, dropped: Set[str]) -> dict[str, dict[str, int]]:
    """Images of each split of the source that were written to each split; empty where they were not mixed."""
    if planned.mixed is None:
        return {}
    found: dict[str, Counter[str]] = {name: Counter() for name in planned.mixed.names}
    for task in planned.tasks:
        numbers = planned.mixed.numbers[list(task.positions)].tolist()
        for number, key in zip(numbers, task.keys, strict=True):
            if number >= 0 and key not in dropped:
                found[planned.mixed.names[number]][task.split] += 1
    return {name: {split: counts[split] for split in SPLITS if counts[split]} for name, counts in found.items()}


def written(split: str, planned: Plan, results: Sequence[ShardResult]) -> NDArray[np.int64]:
    """(C,) images of each class that were written to a split."""
    total = np.zeros(len(planned.classes), np.int64)
    for result in results:
        if result.entry.name.startswith(f"{split}-"):
            total += result.class_counts
    return total


def _refuse_empty(split: str, results: Sequence[ShardResult], planned: Plan) -> None:
    """Refuse a class without an image to train on, and a split without any."""
    counts = written(split, planned, results)
    if (split == "train" and not counts.all()) or not counts.any():
        empty = planned.classes[int(counts.argmin())]
        reasons = count(reject.reason for result in results for reject in result.rejects)
        raise UserError(
            f"every image of class {empty!r} that was chosen for the {split} split had to be dropped (dropped there: "
            f"{', '.join(f'{reason} {images}' for reason, images in reasons.items())}); "
            "repair or replace the class's images, or leave the class out with --exclude-classes"
        )
