"""Files of shards on the local disk: in their own folder, or in a cache of downloaded shards."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from food101_fast.shards.manifest import ShardEntry


class ShardFiles(Protocol):
    """Gives paths of shards on the local disk."""

    verified: bool
    """Whether `hold` compares a file with its hash in the manifest."""
    downloaded: int
    """Bytes downloaded so far."""

    def hold(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        """The path of a shard, with its index beside it. Both are kept while the context lasts.

        Raises:
            UserError: they can't be read or downloaded.
        """
        ...

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Check that there is space for all these shards at the same time.

        Raises:
            UserError: there is not enough.
        """
        ...

    def downloading(self) -> AbstractContextManager[None]:
        """A context in which `prefetch` downloads in the background."""
        ...

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Download shards that are needed soon."""
        ...


class LocalFiles:
    """Shards in a folder on the disk."""

    verified = False
    downloaded = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hold(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        """The path of the shard in its folder."""
        return nullcontext(self.folder / entry.name)

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Do nothing: the shards are there."""

    def downloading(self) -> AbstractContextManager[None]:
        """Do nothing: there is nothing to download."""
        return nullcontext()

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Do nothing: the system reads ahead by itself."""
