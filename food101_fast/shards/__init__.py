"""The shard format: its files, how they are written down in a manifest, and how they are read.

`shards/README.md` at the top of the repository is the specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from food101_fast.shards.manifest import Manifest

if TYPE_CHECKING:
    from food101_fast.shards.reader import ShardSet
    from food101_fast.shards.split import Split

__all__ = ["Manifest", "ShardSet", "Split"]


def __getattr__(name: str) -> object:
    # Lazily: the reader needs torch, which takes seconds to import and which the processes that write do without.
    if name == "ShardSet":
        from food101_fast.shards.reader import ShardSet

        return ShardSet
    if name == "Split":
        from food101_fast.shards.split import Split

        return Split
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
