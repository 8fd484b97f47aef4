"""The shard format, shared by the program that writes it and those that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from food101_fast.shards.manifest import Manifest

if TYPE_CHECKING:
    from food101_fast.shards.reader import ShardSet
    from food101_fast.shards.split import Split

__all__ = ["Manifest", "ShardSet", "Split"]


def __getattr__(name: str) -> object:
    # The reader needs torch, which takes seconds to import and which the processes that write shards do without.
    if name == "ShardSet":
        from food101_fast.shards.reader import ShardSet

        return ShardSet
    if name == "Split":
        from food101_fast.shards.split import Split

        return Split
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
