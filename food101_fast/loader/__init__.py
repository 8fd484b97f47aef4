"""Shards in, device batches out."""

from food101_fast.loader.batches import Batch, ShardLoader
from food101_fast.loader.config import LoaderConfig, LoaderOptions
from food101_fast.loader.pipeline import Counters, Observer

__all__ = ["Batch", "Counters", "LoaderConfig", "LoaderOptions", "Observer", "ShardLoader"]
