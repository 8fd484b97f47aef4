"""What was written and what was dropped, as the manifest says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from food101_fast.errors import UserError
from food101_fast.prepare.plan import Plan
from food101_fast.prepare.records import ShardResult
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import SPLITS
from food101_fast.shards.manifest import Manifest, SplitEntry


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
        classes=source.classes,
        image_size=settings.size,
        encoding=settings.encoding,
        quality=settings.stored_quality,
        fit=settings.fit,
        check=settings.rules.check,
        min_side=settings.min_side,
        duplicates=settings.duplicates,
        samples_per_shard=settings.samples_per_shard,
        limit=settings.limit,
        seed=settings.seed,
        fractions=settings.fractions,
        source=settings.source,
        fingerprint=planned.fingerprint,
        read=sum(map(len, planned.tasks)) + len(planned.rejects),
        rejects=_count(reject.reason for reject in rejects),
        notes=_count(note.note for result in results for note in result.notes),
        splits=splits,
    )


def _split_entry(split: str, results: Sequence[ShardResult], source: Source) -> SplitEntry:
    counts = np.sum([result.class_counts for result in results], axis=0)
    if not counts.all():
        empty = source.classes[int(counts.argmin())]
        reasons = _count(reject.reason for result in results for reject in result.rejects)
        raise UserError(
            f"every image of class {empty!r} that was chosen for the {split} split had to be dropped (dropped there: "
            f"{', '.join(f'{reason} {count}' for reason, count in reasons.items())}); "
            "repair or replace the class's images, or remove the class"
        )
    return SplitEntry(
        samples=int(counts.sum()),
        class_counts=tuple(counts.tolist()),
        shards=tuple(result.entry for result in results),
    )


def _count(kinds: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))
