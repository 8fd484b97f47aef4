"""The manifest of what was written and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from food101_fast.errors import UserError
from food101_fast.prepare.plan import Plan
from food101_fast.prepare.records import ShardResult
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import SPLITS
from food101_fast.shards.manifest import Manifest, SplitEntry
from food101_fast.shards.rejects import count


def make_manifest(source: Source, planned: Plan, results: Sequence[ShardResult], settings: PrepareSettings) -> Manifest:
    """The manifest of a folder whose shards are all written.

    Raises:
        UserError: every image of a class in a split was dropped.
    """
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [result for result in results if result.entry.name.startswith(f"{split}-")]
        if of_split:
            splits[split] = _split_entry(split, of_split, source)
    rejects = [*planned.rejects, *(reject for result in results for reject in result.rejects)]
    return Manifest(
        **asdict(settings.stored),
        classes=source.classes,
        fingerprint=planned.fingerprint,
        read=sum(map(len, planned.tasks)) + len(planned.rejects),
        rejects=count(reject.reason for reject in rejects),
        notes=count(note.note for result in results for note in result.notes),
        splits=splits,
    )


def _split_entry(split: str, results: Sequence[ShardResult], source: Source) -> SplitEntry:
    counts = np.sum([result.class_counts for result in results], axis=0)
    if not counts.all():
        empty = source.classes[int(counts.argmin())]
        reasons = count(reject.reason for result in results for reject in result.rejects)
        raise UserError(
            f"every image of class {empty!r} that was chosen for the {split} split had to be dropped (dropped there: "
            f"{', '.join(f'{reason} {images}' for reason, images in reasons.items())}); "
            "repair or replace the class's images, or remove the class"
        )
    return SplitEntry(
        samples=int(counts.sum()),
        class_counts=tuple(counts.tolist()),
        shards=tuple(result.entry for result in results),
    )
