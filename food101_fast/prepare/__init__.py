"""Images in, shards out: each image is decoded, checked, resized and written exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from food101_fast.prepare.job import prepare
    from food101_fast.prepare.settings import PrepareSettings

__all__ = ["PrepareSettings", "prepare"]


def __getattr__(name: str) -> object:
    # Lazily: worker processes import this package and need little of it.
    if name == "prepare":
        from food101_fast.prepare.job import prepare

        return prepare
    if name == "PrepareSettings":
        from food101_fast.prepare.settings import PrepareSettings

        return PrepareSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
