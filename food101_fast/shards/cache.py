"""Shards behind a URL, downloaded into a folder on the disk when they are needed.

Several processes share the folder. One of them downloads a file, under a lock, to a temporary name, compares it with
its hash in the manifest, and renames it. A process also compares an existing file at its first use, so that a damaged
one is downloaded again. When the cache is full, the least recently used files are removed; a process that has mapped
one keeps its memory.
"""

from __future__ import annotations

import errno
import glob
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.progress import bar
from food101_fast.shards.layout import index_bytes
from food101_fast.shards.manifest import ShardEntry
from food101_fast.storage import TEMPORARY_SUFFIX, Folder, RemoteFolder, file_hash, writing
from food101_fast.storage.locks import waiting_lock

_DOWNLOADS_AT_A_TIME = 4
_ATTEMPTS = 5
_FIRST_DELAY = 0.5  # seconds before a failed download is tried again; they double each time
_DEFAULT_GB = 100.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where downloaded shards are stored."""

    directory: Path
    limit: int
    """Maximum size of all its files in bytes."""


def writing_to_cache(folder: Path) -> AbstractContextManager[None]:
    """A context that turns an error of the disk into one sentence for the user; see `storage.writing`.

    Args:
        folder: that is written to.
    """
    return writing(f"the cache folder {folder}", "or name another one (FOOD101_FAST_CACHE)")


def cache_settings(directory: str | Path | None, gigabytes: float | None) -> CacheSettings:
    """Settings from the arguments, else from the environment, else the defaults.

    Raises:
        UserError: the size is not a positive number.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    chosen = directory or os.environ.get("FOOD101_FAST_CACHE") or base / "food101_fast"
    size = gigabytes if gigabytes is not None else os.environ.get("FOOD101_FAST_CACHE_GB", _DEFAULT_GB)
    try:
        limit = int(float(size) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"the size of the cache is {size!r} GB; give a number above 0 (FOOD101_FAST_CACHE_GB)")
    return CacheSettings(directory=Path(chosen).expanduser(), limit=limit)


class _StoppedError(Exception):
    """Downloads were stopped."""


class ShardCache:
    """Shards of one data set, downloaded from a remote folder. Picklable; safe to use from several threads.

    Attributes:
        verified: `hold` compares files with their hashes.
        settings: the cache's folder and size.
        downloaded: bytes that this process has downloaded.
        progress: whether to show a progress line while downloading.
    """

    verified = True

    def __init__(self, folder: Folder, digest: str, settings: CacheSettings, advice: str) -> None:
        assert isinstance(folder, RemoteFolder)
        self._folder = folder
        self._digest = digest
        self.settings = settings
        self._advice = advice
        self.downloaded = 0
        self.progress = True
        self._lock = threading.Lock()
        self._good: dict[Path, tuple[int, int, int]] = {}
        self._wanted: dict[str, Future[Path]] = {}
        self._needed: set[str] = set()
        self._in_use: set[str] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        self._bar: Any | None = None

    def __reduce__(self) -> tuple[type[ShardCache], tuple[Folder, str, CacheSettings, str]]:
        return ShardCache, (self._folder, self._digest, self.settings, self._advice)

    @property
    def directory(self) -> Path:
        """The folder of this data set's files; its name is the manifest's digest."""
        return self.settings.directory / self._digest

    @contextmanager
    def hold(self, entry: ShardEntry) -> Iterator[Path]:
        """The path of a shard, with its index beside it; downloads it, or waits for its download, if needed.

        This process does not remove either while the context lasts; another one whose cache is full may.

        Raises:
            UserError: the download fails, or the disk.
            DamagedDataError: the downloaded bytes differ from the manifest.
        """
        names = {entry.name, entry.index_path}
        self._in_use |= names
        try:
            wanted = self._wanted.pop(entry.name, None)
            if wanted is not None:
                wanted.result()
            yield self._fetch(entry)  # again, since it may have been evicted meanwhile
        finally:
            self._in_use -= names

    @contextmanager
    def hold_index(self, entry: ShardEntry) -> Iterator[Path]:
        """The path of a shard's index, which is downloaded if needed; the shard is not. Kept as in `hold`.

        Raises:
            UserError: the download fails, or the disk.
            DamagedDataError: the downloaded bytes differ from the manifest.
        """
        self._in_use.add(entry.index_path)
        try:
            yield self._fetch_index(entry)
        finally:
            self._in_use.discard(entry.index_path)

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Check that the cache is large enough for all these shards at the same time.

        Raises:
            UserError: it is not.
        """
        need = sum(entry.bytes + index_bytes(entry.samples) for entry in entries)
        if need > self.settings.limit:
            raise UserError(
                f"the cache is limited to {self.settings.limit / 1e9:.3g} GB and {need / 1e9:.3g} GB of "
                f"{self._folder.url} are needed at a time; raise the limit (FOOD101_FAST_CACHE_GB), or use a "
                "smaller window"
            )

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """A context in which `prefetch` downloads in the background."""
        self._pool = ThreadPoolExecutor(_DOWNLOADS_AT_A_TIME, "shard-download")
        try:
            yield
        finally:
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()
            self._pool = None
            self._wanted.clear()
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def prefetch(self, entries: Iterable[ShardEntry]) -> None:
        """Prefetch these shards. Until the next call only they, and shards in use, are protected from eviction."""
        entries = list(entries)
        self._needed = {name for entry in entries for name in (entry.name, entry.index_path)}
        for entry in entries:
            if entry.name not in self._wanted and self._pool is not None and not self._is_known(entry):
                self._wanted[entry.name] = self._pool.submit(self._fetch, entry)

    def _is_known(self, entry: ShardEntry) -> bool:
        paths = (self.directory / entry.name, self.directory / entry.index_path)
        return all(path in self._good and path.exists() for path in paths)

    def _fetch(self, entry: ShardEntry) -> Path:
        self._fetch_index(entry)
        return self._fetch_file(entry.name, entry.bytes, entry.xxh3_64)

    def _fetch_index(self, entry: ShardEntry) -> Path:
        return self._fetch_file(entry.index_path, index_bytes(entry.samples), entry.index_xxh3_64)

    def _fetch_file(self, name: str, size: int, digest: str) -> Path:
        path = self.directory / name
        with writing_to_cache(self.settings.directory):
            if self._is_good(path, size, digest):
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(path.with_name(f"{path.name}.lock")):
                if not self._is_good(path, size, digest):  # another process may have downloaded it meanwhile
                    self._download(name, size, digest)
        return path

    def _locked(self, path: Path) -> AbstractContextManager[None]:
        """Lock a file against other processes and threads; gives up when downloads are stopped."""

        def stopped() -> None:
            if self._stop.is_set():
                raise _StoppedError

        return waiting_lock(path, where=self.settings.directory, stopped=stopped)

    def _is_good(self, path: Path, size: int, digest: str) -> bool:
        """Whether a file exists with the right hash, which each process checks once."""
        try:
            status = path.stat()
            if self._good.get(path) != _identity(status):
                if status.st_size != size or file_hash(path) != digest:
                    return False
                self._good[path] = _identity(status)
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # eviction goes by the time of access
        except FileNotFoundError:
            return False
        return True

    def _download(self, name: str, size: int, digest: str) -> None:
        path = self.directory / name
        for stale in path.parent.glob(f"{glob.escape(path.name)}.*{TEMPORARY_SUFFIX}"):  # of a killed process
            stale.unlink(missing_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
        for attempt in range(_ATTEMPTS):
            if attempt and self._stop.wait(_FIRST_DELAY * 2 ** (attempt - 1)):
                raise _StoppedError
            try:
                problem = self._transfer(name, size, digest, temporary)
                if problem is None:
                    identity = _identity(temporary.stat())  # once renamed it may be evicted at any time
                    temporary.replace(path)
                    self._good[path] = identity
                    return
            finally:
                temporary.unlink(missing_ok=True)
        raise problem  # type: ignore[misc]  # there was at least one attempt

    def _transfer(self, name: str, size: int, digest: str, temporary: Path) -> UserError | None:
        """Download a file. Returns the error if another attempt may succeed.

        Raises:
            OSError: the disk fails.
        """
        url = f"{self._folder.url}/{name}"
        hashed = xxhash.xxh3_64()
        received = 0
        with temporary.open("wb") as file:
            self._reserve(file.fileno(), size)

            def take(chunk: bytes) -> None:
                nonlocal received
                if self._stop.is_set():
                    raise _StoppedError
                hashed.update(chunk)
                received += len(chunk)
                if received <= size:
                    file.write(chunk)
                self._show(len(chunk))

            self._show(0, more=size)
            try:
                self._folder.copy(name, take)
            except FileNotFoundError as error:
                raise DamagedDataError(f"{url} is missing; {self._advice}") from error
            except OSError as error:
                if error.errno in _DISK_ERRORS:
                    raise
                self._show(-received, more=-size)
                return UserError(
                    f"{url} could not be downloaded in {_ATTEMPTS} attempts ({error.strerror or error}); "
                    "check the connection and run again: downloaded shards are kept"
                )
        self.downloaded += received
        if received != size or hashed.hexdigest() != digest:
            self._show(-received, more=-size)
            return DamagedDataError(
                f"{url} gave other bytes than its manifest describes, {_ATTEMPTS} times ({received:,} of {size:,} "
                f"bytes); {self._advice}"
            )
        return None

    def _reserve(self, file: int, size: int) -> None:
        """Give an open, empty file its size, after removing the least recently used files if the cache is full."""
        with self._locked(self.settings.directory / "room.lock"):
            files = []
            for path in self.settings.directory.glob("*/**/*"):
                with suppress(FileNotFoundError):
                    files += [(path.stat(), path)] if path.is_file() else []
            taken = sum(status.st_size for status, _ in files) + size
            kept = {self.directory / name for name in self._needed | self._in_use}
            for status, path in sorted(files, key=lambda entry: entry[0].st_atime_ns):
                if taken <= self.settings.limit:
                    break
                if path not in kept and path.suffix in (".tar", ".npy"):
                    path.unlink(missing_ok=True)
                    taken -= status.st_size
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)  # a full disk is noticed before the download
            else:
                os.truncate(file, size)

    def _show(self, received: int, *, more: int = 0) -> None:
        """Advance the progress line by `received` bytes, and its total by `more`."""
        if not self.progress or self._pool is None:
            return
        with self._lock:
            if self._bar is None:
                self._bar = bar(total=0, desc="download", unit="B", unit_scale=True, leave=False, only_live=True)
            self._bar.total += more
            self._bar.update(received)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
