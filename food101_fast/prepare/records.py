"""What a worker is asked to do and what it reports. Results are also kept on the disk, for a run that continues."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import orjson
import xxhash

from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.rejects import NotedImage, Reject

# Has what is needed to continue an unfinished folder; removed when the manifest is written.
UNFINISHED = ".unfinished"


def record_name(shard: str) -> str:
    """The file that exists when `shard` and its index are stored."""
    return f"{UNFINISHED}/{shard}.json"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The images of one shard, in the order of the tar."""

    split: str
    name: str
    """File name of the tar."""
    positions: tuple[int, ...]
    """Positions in the source."""
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    hashes: tuple[int, ...] | None
    """XXH3-128 of each file, taken when duplicates were dropped; None if they are kept."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with the images of the shard and their labels."""
        return xxhash.xxh3_64_hexdigest(repr((self.positions, self.labels, self.keys, self.hashes)).encode())


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """A shard that was written."""

    task: str
    """`ShardTask.digest` of the task: a record of another task is of no use."""
    entry: ShardEntry
    """How the manifest describes the shard."""
    class_counts: tuple[int, ...]
    """Samples of each class that were written."""
    rejects: tuple[Reject, ...]
    notes: tuple[NotedImage, ...]

    def to_json(self) -> bytes:
        """The content of its record in an unfinished folder; read back by `documents.parse`."""
        return orjson.dumps(asdict(self))
