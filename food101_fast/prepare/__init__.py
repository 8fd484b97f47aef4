"""Images in, shards out: each image is decoded, checked, resized and written exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from food101_fast.prepare.job import prepare
    from food101_fast.prepare.settings import PrepareSettings

__all__ = ["PrepareSettings", "prepare"]


def __getattr__(name: str) -> object:
    # Worker processes import this package, and the whole job with it would keep them from their work.
    if name == "prepare":
        from food101_fast.prepare.job import prepare

        return prepare
    if name == "PrepareSettings":
        from food101_fast.prepare.settings import PrepareSettings

        return PrepareSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
