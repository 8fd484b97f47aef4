"""A folder on a disk or in a bucket: whole files are read, written and removed, and one writer at a time holds it.

A file either appears whole under its name or not at all. On a disk it is written under a temporary name, flushed and
renamed; a bucket shows an object only when its upload is complete.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import filelock
import fsspec

from food101_fast.errors import UserError

TEMPORARY_SUFFIX = ".tmp"

# A lock in a bucket is renewed this often, and taken over when it has not been for so long.
_RENEW_SECONDS = 20
_STALE_SECONDS = 120

_PIECE_BYTES = 4 * 1024 * 1024

Content = bytes | bytearray | memoryview
T = TypeVar("T")


class Folder(Protocol):
    """Files by their path relative to the folder, with `/` between its parts. Instances are picklable.

    Every method but `lock` raises OSError where the disk or the service does not do its part.

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
        """Whether it is known what is in the folder; plain web servers do not say."""
        ...

    def exists(self) -> bool:
        """Whether the folder is there. A bucket has no folders: there it is whether it has files."""
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
        """Put a whole file in place, over one that is there, durably and at once."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, if they are there, and on a disk the folders that this leaves empty, down to this one."""
        ...

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the folder against other writers; file `name` marks it while it is held.

        Raises:
            UserError: another writer holds it.
        """
        ...


def open_folder(place: str | os.PathLike[str]) -> Folder:
    """The folder at a path, or at a URL of any kind that fsspec knows.

    Raises:
        UserError: the protocol is unknown, or what it needs is not installed.
    """
    text = os.fspath(place)
    if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", text):
        raise UserError(f"{text} looks like a URL and has one slash after the colon; write two")
    if "://" not in text:
        return LocalFolder(Path(text))
    if text.startswith(("file://", "local://")):
        return LocalFolder(Path(text.partition("://")[2]))
    return RemoteFolder(text)


class LocalFolder:
    """A folder on a disk."""

    is_shared = can_list = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def exists(self) -> bool:
        return self.path.is_dir()

    def subfolders(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    def files(self) -> dict[str, int]:
        return dict(sorted(_walk(str(self.path), "", frozenset()))) if self.path.is_dir() else {}

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        path = os.path.join(self.path, name)  # a Path and a buffer take a fifth of the time for a photograph of 50 kB
        if start is None and stop is None:
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        with open(path, "rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))

    def write(self, name: str, content: Content) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A data set's pages would push the source's out of memory, and a shard is written faster into the pages that
        # the last one has freed: where the system is slow to hand out memory, by a fifth of the whole job.
        write_atomically(path, content, keep_in_memory=False)

    def remove(self, names: Iterable[str]) -> None:
        parents: set[Path] = set()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            parents.update((self.path / name).relative_to(self.path).parents)
        for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
            if parent.parts:
                with suppress(OSError):  # not empty, or gone
                    (self.path / parent).rmdir()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, blocking=False)  # the system drops it when its process ends, however it ends
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise _held(self.url, "another process") from error
        try:
            yield
        finally:
            with suppress(OSError):  # some systems do not remove what is open
                self.remove([name])
            lock.release()


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in above:  # a link that leads back up
        return
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above)
            elif entry.is_file():
                yield prefix + entry.name, entry.stat().st_size


def write_atomically(path: Path, content: Content, *, keep_in_memory: bool = True) -> None:
    """Write `content` under a temporary name, flush it to the disk, and rename it to `path`.

    Args:
        path: of the file.
        content: all of it.
        keep_in_memory: whether the system's page cache should hold on to it.
    """
    # The number of the process: a writer that outlived its parent for a moment must not share a name with the next.
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if not keep_in_memory and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path | str, advice: str = "or choose another folder") -> Iterator[None]:
    """Turn a full or read-only disk, a missing folder or a missing permission into one sentence.

    Args:
        path: what is written, for the sentence.
        advice: what to do beside freeing space: `or` what else, or what `then`.

    Raises:
        UserError: an OSError was raised in the context.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"free space there, {advice}" if full else advice.removeprefix("or ").removeprefix("then ")
        raise UserError(f"{path} could not be written ({error.strerror or error}); {advice}") from error


class RemoteFolder:
    """A folder behind a URL that fsspec knows, such as `s3://bucket/shards`. Settings of the service come from its own
    environment variables and files, or from fsspec's configuration."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = ""
        self._connect()

    def _connect(self) -> None:
        self._process = os.getpid()
        try:
            self._own_fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UserError(
                f"{self.url} can't be opened ({error}); install what its protocol needs or correct it"
            ) from error

    @property
    def _fs(self) -> Any:
        if self._process != os.getpid():  # fsspec's connections do not survive a fork
            self._connect()
        return self._own_fs

    @property
    def is_shared(self) -> bool:
        return self.url.partition("://")[0] != "memory"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def copy(self, name: str, sink: Callable[[bytes], object]) -> None:
        """Read a file a piece after the other; what `sink` raises, but for OSError, goes through as it is."""
        with self._ask(self._fs.open, self._path(name), "rb") as file:
            while piece := self._ask(file.read, _PIECE_BYTES):
                sink(piece)

    def _ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call the service; whatever its library raises becomes an OSError."""
        try:
            return call(*arguments, **options)
        except OSError:
            raise
        except Exception as error:  # each service's library has exceptions of its own
            raise OSError(0, f"{type(error).__name__}: {error}") from error

    @property
    def can_list(self) -> bool:
        return not self.url.startswith(("http://", "https://"))

    def exists(self) -> bool:
        return bool(self.files())

    def subfolders(self) -> list[str]:
        entries = self._ask(self._fs.ls, self._root, detail=True)
        return sorted(self._relative(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory")

    def files(self) -> dict[str, int]:
        if not self.can_list:
            raise OSError(errno.ENOTSUP, "a plain web server does not say what is in a folder")
        self._fs.invalidate_cache()
        try:
            found = self._ask(self._fs.find, self._root, detail=True)
        except FileNotFoundError:
            return {}
        # Buckets mark empty folders by empty objects whose names end in a slash.
        sizes = {self._relative(path): int(info["size"]) for path, info in found.items() if not path.endswith("/")}
        return dict(sorted(sizes.items()))

    def _relative(self, path: str) -> str:
        return path.lstrip("/").removeprefix(self._root.strip("/")).lstrip("/")

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        return bytes(self._ask(self._fs.cat_file, self._path(name), start=start, end=stop))

    def write(self, name: str, content: Content) -> None:
        self._ask(self._fs.pipe_file, self._path(name), bytes(content))

    def remove(self, names: Iterable[str]) -> None:
        paths = [self._path(name) for name in names]
        try:
            if paths:
                self._ask(self._fs.rm, paths)
        except FileNotFoundError:  # some services then remove none of them
            for path in paths:
                with suppress(FileNotFoundError):
                    self._ask(self._fs.rm, path)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """An object that is renewed while the lock is held; it may be taken over when its process is known to be gone,
        or when nothing has renewed it for two minutes."""
        token = uuid.uuid4().hex
        self._refuse_if_held(name)
        self._renew(name, token)
        if self._holder(name).get("token") != token:  # two started at once, and the other wrote last
            raise _held(self.url, "another process")
        done = threading.Event()
        renewing = threading.Thread(target=self._keep_renewing, args=(name, token, done), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            self.remove([name])

    def _keep_renewing(self, name: str, token: str, done: threading.Event) -> None:
        while not done.wait(_RENEW_SECONDS):
            with suppress(OSError):  # the next turn may reach the service again
                self._renew(name, token)

    def _renew(self, name: str, token: str) -> None:
        holder = {"token": token, "host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
        self.write(name, json.dumps(holder).encode())

    def _holder(self, name: str) -> dict[str, Any]:
        try:
            holder = json.loads(self.read(name))
        except (FileNotFoundError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refuse_if_held(self, name: str) -> None:
        holder = self._holder(name)
        fresh = time.time() - holder.get("renewed", 0) < _STALE_SECONDS
        if fresh and not (holder["host"] == socket.gethostname() and _is_gone(holder["process"])):
            since = datetime.fromtimestamp(holder["renewed"], UTC).strftime("%H:%M:%S UTC")
            raise _held(self.url, f"process {holder['process']} on {holder['host']}, last heard of at {since},")


def _is_gone(process: int) -> bool:
    if os.name == "nt":  # has no way to ask without a signal
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _held(url: str, holder: str) -> UserError:
    return UserError(f"{holder} is writing into {url}; wait until it has ended, or give another --out")
