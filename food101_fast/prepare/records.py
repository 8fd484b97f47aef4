"""What is asked of a worker and what it reports: plain records, some of which outlive the run that wrote them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson

from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.rejects import NotedImage, Reject

# Holds what an unfinished folder needs to be gone on with; removed when the manifest is in place.
UNFINISHED = ".unfinished"


def record_name(shard: str) -> str:
    """The file whose presence says that `shard` and its index are stored."""
    return f"{UNFINISHED}/{shard}.json"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What goes into one shard: positions in the source, with their labels, keys and hashes, in the order of the
    members."""

    split: str
    name: str
    positions: tuple[int, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    hashes: tuple[int, ...] | None
    """XXH3-128 of each file as it was when duplicates were looked for; None if they were not."""

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a task."""

    entry: ShardEntry
    """How the manifest describes the shard."""
    class_counts: tuple[int, ...]
    """Samples of each class that were written."""
    rejects: tuple[Reject, ...]
    notes: tuple[NotedImage, ...]

    def to_json(self) -> bytes:
        """The content of its record in an unfinished folder; read back by `documents.parse`."""
        return orjson.dumps(asdict(self))
