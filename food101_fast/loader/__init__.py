"""Shards in, device batches out."""

from food101_fast.loader.batches import Batch, ShardLoader

__all__ = ["Batch", "ShardLoader"]
