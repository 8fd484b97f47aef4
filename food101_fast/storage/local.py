"""A folder on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from food101_fast.storage.atomic import write_atomically
from food101_fast.storage.folder import Content, locked_by
from food101_fast.storage.names import exact, readable


class LocalFolder:
    """A folder on a disk. Names, and `url`, are spelled as `names.readable` does it."""

    is_shared = can_list = True  # see `Folder`

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = readable(str(path))

    def exists(self) -> bool:
        """Whether the folder exists."""
        return self.path.is_dir()

    def subfolders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        return sorted(readable(entry.name) for entry in os.scandir(self.path) if entry.is_dir())

    def files(self) -> dict[str, int]:
        """Size in bytes of every file, by path. Links are followed, but never back into a folder above."""
        return dict(sorted(_walk(str(self.path), "", frozenset()))) if self.path.is_dir() else {}

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file, or its bytes from `start` to `stop`."""
        # A Path and a buffer would take a fifth of the time for a photograph of 50 kB.
        path = os.path.join(self.path, exact(name))
        if start is None and stop is None:
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        with open(path, "rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))

    def write(self, name: str, content: Content) -> None:
        """Write a whole file under a temporary name, flush it to the disk and rename it."""
        path = self.path / exact(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A data set's pages would push the source's out of memory, and a shard is written faster into the pages that
        # the last one has freed: where the system is slow to hand out memory, by a fifth of the whole job.
        write_atomically(path, content, keep_in_memory=False)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that exist, and subfolders that become empty."""
        parents: set[Path] = set()
        for name in map(exact, names):
            (self.path / name).unlink(missing_ok=True)
            parents.update((self.path / name).relative_to(self.path).parents)
        for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
            if parent.parts:
                with suppress(OSError):  # not empty, or gone
                    (self.path / parent).rmdir()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock the folder with a lock of the operating system, which ends with this process, however that ends.

        On a disk without such locks a file is the lock, with the number of this process and its host; see `locks.py`.
        """
        from food101_fast.storage.locks import FileLock  # here, since only the parent of the workers locks

        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, self.url)
        if not lock.acquire():
            raise locked_by(self.url, lock.holder, lock.advice)
        try:
            yield
        finally:
            if not lock.is_native:  # only this lock removes its own file
                lock.release()
            with suppress(OSError):  # some systems do not remove what is open
                self.remove([name])
            if lock.is_native:
                lock.release()


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in above:  # a link that leads back up
        return
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{readable(entry.name)}/", above)
            elif entry.is_file():
                yield prefix + readable(entry.name), entry.stat().st_size
