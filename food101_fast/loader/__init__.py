"""Loads shards as batches on a device.

`config` has the settings, `order` the sequence of sample ids and `repeat` how often each comes, `batches` the loader
itself, `pipeline` its threads, `buffers` the memory that they fill, `residence` rows that stay in memory, `nvjpeg` the
decoder on the GPU.
"""

from food101_fast.loader.batch import Batch
from food101_fast.loader.batches import ShardLoader
from food101_fast.loader.config import LoaderConfig, LoaderOptions
from food101_fast.loader.pipeline import Counters, Observer

__all__ = ["Batch", "Counters", "LoaderConfig", "LoaderOptions", "Observer", "ShardLoader"]
