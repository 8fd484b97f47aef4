"""What a folder of files can do, on a disk or in a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from food101_fast.errors import UserError

Content = bytes | bytearray | memoryview


class Folder(Protocol):
    """Files by their path relative to the folder, with `/` as separator. Picklable.

    Every method but `lock` raises OSError when the disk or the service fails.

    Attributes:
        url: the folder as a user wrote it.
    """

    url: str

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written here."""
        ...

    @property
    def can_list(self) -> bool:
        """Whether `files` works; plain web servers do not list files."""
        ...

    def exists(self) -> bool:
        """Whether the folder exists; in a bucket, which has no folders, whether there are files."""
        ...

    def subfolders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        ...

    def files(self) -> dict[str, int]:
        """Size in bytes of every file, at any depth, hidden ones included, sorted by path."""
        ...

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file, or its bytes from `start` to `stop`."""
        ...

    def write(self, name: str, content: Content) -> None:
        """Write a whole file atomically and durably, over an existing one."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that exist, and on a disk subfolders that become empty."""
        ...

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Lock the folder against other writers; file `name` exists while it is locked.

        Raises:
            UserError: another writer has locked it.
        """
        ...


def locked_by(url: str, holder: str, advice: str = "") -> UserError:
    """The error about a folder that another writer has locked."""
    return UserError(f"{holder} is writing into {url}; wait until it has ended, or give another --out{advice}")
