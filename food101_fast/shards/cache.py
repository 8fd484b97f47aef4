"""Shards behind a URL, downloaded into a folder on the disk as they are needed.

Several processes share the folder: a file is downloaded by one of them, under a lock, into a temporary name, compared
with its hash in the manifest, and renamed. A file that is there already is compared as well when a process first takes
it, so that what was damaged since is downloaded anew. When there is no room, the files that nobody asked for for the
longest time go; on the systems this runs on a process that has one mapped keeps what it maps.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import xxhash
from tqdm import tqdm

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.shards.layout import index_bytes, index_name
from food101_fast.shards.manifest import ShardEntry
from food101_fast.storage import TEMPORARY_SUFFIX, Folder, RemoteFolder, writing

_DOWNLOADS_AT_A_TIME = 4
_ATTEMPTS = 5
_FIRST_DELAY = 0.5  # seconds before a failed download is tried again; they double each time
_DEFAULT_GB = 100.0
_PIECE_BYTES = 4 * 1024 * 1024
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where downloaded shards lie."""

    directory: Path
    limit: int
    """Bytes that all files in it may take."""


def cache_settings(directory: str | Path | None, gigabytes: float | None) -> CacheSettings:
    """Settings from arguments, from the environment where there are none, and else the defaults.

    Raises:
        UserError: the size is no positive number.
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
    """The download is no longer wanted."""


class ShardCache:
    """The shards of one data set, from a remote folder through the cache folder. Picklable; safe to use from threads.

    Attributes:
        verified: every file was compared with its hash before it is given out.
        settings: where files lie, and how much of them.
        downloaded: bytes that this process has downloaded.
        progress: whether to show a progress line while downloading.
    """

    verified = True

    def __init__(self, folder: Folder, digest: str, settings: CacheSettings) -> None:
        assert isinstance(folder, RemoteFolder)
        self._folder = folder
        self._digest = digest
        self.settings = settings
        self.downloaded = 0
        self.progress = True
        self._lock = threading.Lock()
        self._good: dict[Path, tuple[int, int, int]] = {}
        self._wanted: dict[str, Future[Path]] = {}
        self._needed: set[str] = set()
        self._held: set[str] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        self._bar: Any | None = None

    def __reduce__(self) -> tuple[type[ShardCache], tuple[Folder, str, CacheSettings]]:
        return ShardCache, (self._folder, self._digest, self.settings)

    @property
    def directory(self) -> Path:
        """Where this data set's files are put: a folder named by the manifest's digest."""
        return self.settings.directory / self._digest

    @contextmanager
    def hold(self, entry: ShardEntry) -> Iterator[Path]:
        """The shard on the disk, downloaded if need be; its index lies beside it. Waits for a download under way.

        This process keeps both while this lasts; another one that has no room may remove them.

        Raises:
            UserError: the service, or the disk, does not do its part.
            DamagedDataError: the service gives other bytes than the manifest describes.
        """
        names = {entry.name, index_name(entry.name)}
        self._held |= names
        try:
            wanted = self._wanted.pop(entry.name, None)
            if wanted is not None:
                wanted.result()
            yield self._fetch(entry)  # again, since it may have been pushed out in the meantime
        finally:
            self._held -= names

    def check_space(self, entries: Iterable[ShardEntry]) -> None:
        """Refuse a limit below what is needed at a time.

        Raises:
            UserError: `entries` do not fit.
        """
        need = sum(entry.bytes + index_bytes(entry.samples) for entry in entries)
        if need > self.settings.limit:
            raise UserError(
                f"the cache is limited to {self.settings.limit / 1e9:.3g} GB and {need / 1e9:.3g} GB of "
                f"{self._folder.url} are needed at a time; raise the limit (FOOD101_FAST_CACHE_GB), or take a "
                "smaller window"
            )

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """While this lasts, `prefetch` downloads in the background."""
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
        """Start to download what will be asked for soon; it and nothing else of this data set is sure to be kept."""
        entries = list(entries)
        self._needed = {name for entry in entries for name in (entry.name, index_name(entry.name))}
        for entry in entries:
            if entry.name not in self._wanted and self._pool is not None and not self._is_known(entry):
                self._wanted[entry.name] = self._pool.submit(self._fetch, entry)

    def _is_known(self, entry: ShardEntry) -> bool:
        paths = (self.directory / entry.name, self.directory / index_name(entry.name))
        return all(path in self._good and path.exists() for path in paths)

    def _fetch(self, entry: ShardEntry) -> Path:
        with writing(f"the cache folder {self.settings.directory}", "or name another one (FOOD101_FAST_CACHE)"):
            self._fetch_file(index_name(entry.name), index_bytes(entry.samples), entry.index_xxh3_64)
            return self._fetch_file(entry.name, entry.bytes, entry.xxh3_64)

    def _fetch_file(self, name: str, size: int, digest: str) -> Path:
        path = self.directory / name
        if self._is_good(path, size, digest):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(path.with_name(f"{name}.lock")):
            if not self._is_good(path, size, digest):  # another process may have downloaded it while this one waited
                self._download(path, size, digest)
        return path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Keep other processes, and other threads, from a file; gives up when downloads are no longer wanted."""
        lock = filelock.FileLock(path, thread_local=False)
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except filelock.Timeout:
                if self._stop.is_set():
                    raise _StoppedError from None
        try:
            yield
        finally:
            lock.release()

    def _is_good(self, path: Path, size: int, digest: str) -> bool:
        """Whether a file is there and has the right hash, which is looked at once in each process."""
        try:
            status = path.stat()
            if self._good.get(path) != _identity(status):
                if status.st_size != size or _digest_of(path) != digest:
                    return False
                self._good[path] = _identity(status)
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # the time of access says who goes first
        except FileNotFoundError:
            return False
        return True

    def _download(self, path: Path, size: int, digest: str) -> None:
        for stale in path.parent.glob(f"{path.name}.*{TEMPORARY_SUFFIX}"):  # of a process that was killed
            stale.unlink(missing_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
        for attempt in range(_ATTEMPTS):
            if attempt and self._stop.wait(_FIRST_DELAY * 2 ** (attempt - 1)):
                raise _StoppedError
            try:
                problem = self._transfer(path.name, size, digest, temporary)
                if problem is None:
                    identity = _identity(temporary.stat())  # once in its place it may be pushed out at any time
                    temporary.replace(path)
                    self._good[path] = identity
                    return
            finally:
                temporary.unlink(missing_ok=True)
        raise problem  # type: ignore[misc]  # there was at least one attempt

    def _transfer(self, name: str, size: int, digest: str, temporary: Path) -> UserError | None:
        """Download a file; what went wrong, if it may go better another time.

        Raises:
            OSError: the disk does not do its part.
        """
        url = f"{self._folder.url}/{name}"
        hashed = xxhash.xxh3_64()
        received = 0
        with temporary.open("wb") as file:
            self._reserve(file.fileno(), size)

            def take(piece: bytes) -> None:
                nonlocal received
                if self._stop.is_set():
                    raise _StoppedError
                hashed.update(piece)
                received += len(piece)
                if received <= size:
                    file.write(piece)
                self._show(len(piece))

            self._show(0, more=size)
            try:
                self._folder.copy(name, take)
            except FileNotFoundError as error:
                raise DamagedDataError(f"{url} is missing; restore the folder from a copy, or make it again") from error
            except OSError as error:
                if error.errno in _DISK_ERRORS:
                    raise
                self._show(-received, more=-size)
                return UserError(
                    f"{url} could not be downloaded in {_ATTEMPTS} attempts ({error.strerror or error}); "
                    "check the connection and run again: what is downloaded is kept"
                )
        self.downloaded += received
        if received != size or hashed.hexdigest() != digest:
            self._show(-received, more=-size)
            return DamagedDataError(
                f"{url} gave other bytes than its manifest describes, {_ATTEMPTS} times ({received:,} of {size:,} "
                "bytes); restore the folder from a copy, or make it again"
            )
        return None

    def _reserve(self, file: int, size: int) -> None:
        """Give an open, empty file its size, once the files that were used longest ago have made room for it."""
        with filelock.FileLock(self.settings.directory / "room.lock"):
            files = []
            for path in self.settings.directory.glob("*/*"):
                with suppress(FileNotFoundError):
                    files.append((path.stat(), path))
            taken = sum(status.st_size for status, _ in files) + size
            for status, path in sorted(files, key=lambda entry: entry[0].st_atime_ns):
                if taken <= self.settings.limit:
                    break
                kept = path.parent == self.directory and path.name in self._needed | self._held
                if not kept and path.suffix in (".tar", ".npy"):
                    path.unlink(missing_ok=True)
                    taken -= status.st_size
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, size)  # a full disk shows before the download
            else:
                os.truncate(file, size)

    def _show(self, received: int, *, more: int = 0) -> None:
        """Move the progress line on by `received` bytes, and its end by `more`."""
        if not self.progress or self._pool is None:
            return
        with self._lock:
            if self._bar is None:
                self._bar = tqdm(total=0, desc="download", unit="B", unit_scale=True, leave=False, disable=None)
            self._bar.total += more
            self._bar.update(received)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _digest_of(path: Path) -> str:
    hashed = xxhash.xxh3_64()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()
