"""Images in, shards out: each image is decoded, checked, resized and written exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from food101_fast.prepare.job import PrepareSettings, prepare

__all__ = ["PrepareSettings", "prepare"]


def __getattr__(name: str) -> object:
    # Worker processes import this package, and the whole job with it would keep them from their work.
    if name in __all__:
        from food101_fast.prepare import job

        return getattr(job, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
