"""Images in, shards out: each image is decoded, checked, resized and written exactly once."""

from food101_fast.prepare.job import PrepareSettings, prepare

__all__ = ["PrepareSettings", "prepare"]
