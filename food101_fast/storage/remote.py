"""A folder in a bucket, or behind any other URL that fsspec knows."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import has_magic
from typing import Any, TypeVar

import orjson

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.storage.folder import Content, locked_by

# The lock is renewed this often, and another writer may take it over when it was not renewed for so long.
_RENEW_SECONDS = 20
_STALE_SECONDS = 120

_CHUNK_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Who has locked a folder: the content of the lock."""

    token: str
    """Random, one for each lock."""
    host: str
    process: int
    renewed: float
    """Seconds since 1970."""


class RemoteFolder:
    """A folder behind a URL that fsspec knows, such as `s3://bucket/shards`.

    Settings of the service come from its own environment variables and files, or from fsspec's configuration.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._root = ""
        self._connect()

    def _connect(self) -> None:
        import fsspec  # here, since it takes longer to import than all the rest that a worker process needs

        self._process = os.getpid()
        try:
            self._own_fs, self._root = fsspec.core.url_to_fs(self.url)
        except Exception as error:  # each protocol raises errors of its own
            raise UserError(
                f"{self.url} can't be opened ({error or type(error).__name__}); install what its protocol needs or "
                "correct it"
            ) from error

    @property
    def _fs(self) -> Any:
        if self._process != os.getpid():  # fsspec's connections do not survive a fork
            self._connect()
        return self._own_fs

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written here."""
        return self.url.partition("://")[0] != "memory"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def copy(self, name: str, sink: Callable[[bytes], object]) -> None:
        """Read a file in chunks.

        Args:
            name: of the file.
            sink: called with each chunk. What it raises, other than OSError, is passed on unchanged.
        """
        with self._ask(self._fs.open, self._path(name), "rb") as file:
            while chunk := self._ask(file.read, _CHUNK_BYTES):
                sink(chunk)

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
        """Whether `files` works; plain web servers do not list files."""
        return not self.url.startswith(("http://", "https://"))

    def exists(self) -> bool:
        """Whether there are files below the URL; a bucket has no folders."""
        return bool(self.files())

    def subfolders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        entries = self._ask(self._fs.ls, self._root, detail=True)
        return sorted(self._relative(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory")

    def files(self) -> dict[str, int]:
        """Size in bytes of every file, by path."""
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
        """A file, or its bytes from `start` to `stop`."""
        return bytes(self._ask(self._fs.cat_file, self._path(name), start=start, end=stop))

    def write(self, name: str, content: Content) -> None:
        """Upload a whole file; others see it when the upload is complete."""
        self._ask(self._fs.pipe_file, self._path(name), bytes(content))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that exist."""
        paths = [self._path(name) for name in names]
        # fsspec would take these for patterns, match other files or none, and remove those.
        literal = [path for path in paths if has_magic(path)]
        plain = [path for path in paths if not has_magic(path)]
        try:
            if plain:
                self._ask(self._fs.rm, plain)
        except FileNotFoundError:  # some services then remove none of them
            literal = paths
        for path in literal:
            with suppress(FileNotFoundError):
                self._ask(self._fs.rm_file, path)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock the folder with an object that is renewed while the lock lasts.

        Another writer may take it over when its process has ended, or when it was not renewed for two minutes.
        """
        token = uuid.uuid4().hex
        self._refuse_if_locked(name)
        self._renew(name, token)
        holder = self._holder(name)
        if holder is None or holder.token != token:  # two started at once, and the other wrote last
            raise locked_by(self.url, "another process")
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
        holder = _Holder(token=token, host=socket.gethostname(), process=os.getpid(), renewed=time.time())
        self.write(name, orjson.dumps(holder))

    def _holder(self, name: str) -> _Holder | None:
        try:
            return parse(self.read(name), _Holder, where=f"{self.url}/{name}", advice="remove it")
        except (FileNotFoundError, UserError):  # a damaged lock locks nothing
            return None

    def _refuse_if_locked(self, name: str) -> None:
        import psutil  # here, since only the parent of the workers locks

        holder = self._holder(name)
        if holder is None or time.time() - holder.renewed >= _STALE_SECONDS:
            return
        if holder.host == socket.gethostname() and not psutil.pid_exists(holder.process):
            return
        since = datetime.fromtimestamp(holder.renewed, UTC).strftime("%H:%M:%S UTC")
        raise locked_by(self.url, f"process {holder.process} on {holder.host}, last heard of at {since},")
