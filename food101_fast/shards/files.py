"""Files of shards on the local disk: in their own folder, or in a cache of downloaded shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.shards.layout import index_bytes
from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.mapped import damaged
from food101_fast.storage import Folder, LocalFolder


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

    def hold_index(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        """The path of a shard's index, which is kept while the context lasts. The shard itself is not downloaded.

        Raises:
            UserError: it can't be read or downloaded.
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

    def hold_index(self, entry: ShardEntry) -> AbstractContextManager[Path]:
        """The path of the shard's index in its folder."""
        return nullcontext(self.folder / entry.index_path)

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Do nothing: the shards are there."""

    def downloading(self) -> AbstractContextManager[None]:
        """Do nothing: there is nothing to download."""
        return nullcontext()

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Do nothing: the system reads ahead by itself."""


def check_files(folder: Folder, entries: Sequence[ShardEntry], advice: str) -> None:
    """Compare the size of every shard, and the number of samples in its index, with the manifest."""
    if not folder.can_list:
        return  # then problems are found at the download
    try:
        if isinstance(folder, LocalFolder):  # one above several folders of tars may have much else
            names = [name for entry in entries for name in (entry.name, entry.index_path)]
            sizes = {name: (folder.path / name).stat().st_size for name in names if (folder.path / name).exists()}
        else:
            sizes = folder.files()
    except OSError as error:
        remedy = machine_advice(error) or "make it readable"
        raise UserError(f"{folder.url} can't be listed ({error.strerror or error}); {remedy}") from error
    for entry in entries:
        for name, size in ((entry.name, entry.bytes), (entry.index_path, index_bytes(entry.samples))):
            if name not in sizes:
                raise damaged(f"{folder.url}/{name} is missing", advice)
            if sizes[name] != size:
                raise damaged(f"{folder.url}/{name} has {sizes[name]:,} bytes and the manifest says {size:,}", advice)
