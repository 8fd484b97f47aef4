"""Shards in, device batches out."""

from food101_fast.loader.batches import Batch, ShardLoader
from food101_fast.loader.options import LoaderOptions
from food101_fast.loader.pipeline import Counters

__all__ = ["Batch", "Counters", "LoaderOptions", "ShardLoader"]
