"""Where the files of shards are to be had: on a disk, or from a cache of what was downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from food101_fast.shards.manifest import ShardEntry


class ShardFiles(Protocol):
    """Where the files of shards are to be had on a disk."""

    verified: bool
    """Whether a file has been compared with its hash in the manifest before `hold` gives it out."""
    downloaded: int
    """Bytes that were downloaded so far."""

    def hold(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        """The shard; its index lies beside it. Both stay there while this lasts.

        Raises:
            UserError: they can't be had.
        """
        ...

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Check that there is space for so many shards at a time.

        Raises:
            UserError: there is not.
        """
        ...

    def downloading(self) -> AbstractContextManager[None]:
        """While this lasts, `prefetch` downloads in the background."""
        ...

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Download shards that will be asked for soon."""
        ...


class LocalFiles:
    """Shards that lie on a disk already."""

    verified = False
    downloaded = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hold(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        return nullcontext(self.folder / entry.name)

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        pass

    def downloading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        pass
