"""The shard format, shared by the program that writes it and those that read it."""

from food101_fast.shards.manifest import Manifest
from food101_fast.shards.reader import ShardSet, Split

__all__ = ["Manifest", "ShardSet", "Split"]
