"""Locks between processes, on disks with and without locks of the operating system.

Some network disks (NFS, FUSE) have no `flock`. There a file with the host and the number of the process is the lock.
Unlike a lock of the operating system it outlives its process. On the same host that is noticed, and the lock is taken
over; from another host nobody can know.
"""

from __future__ import annotations

import errno
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from food101_fast.errors import Notice

try:
    import fcntl
except ImportError:  # Windows, which locks files in another way
    fcntl = None  # type: ignore[assignment]

OWNER_SUFFIX = ".owner"
"""Follows the name of a lock where its existence is the lock."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_POLL_SECONDS = 0.2


class FileLock:
    """A lock on a path, which need not exist; its folder must.

    Args:
        path: of the lock.
        where: the folder that is locked, for messages.

    Attributes:
        is_native: whether the operating system locks, so that the lock ends with this process.
        path: of the file that is locked.
    """

    def __init__(self, path: Path, where: Path | str) -> None:
        self.is_native = _has_locks(path.parent)
        if self.is_native:
            self.path = path
            self._lock: filelock.BaseFileLock = filelock.FileLock(path, thread_local=False)
            return
        self.path = path.with_name(path.name + OWNER_SUFFIX)
        self._lock = filelock.SoftFileLock(self.path, thread_local=False)
        warnings.warn(
            f"the disk of {where} has no file locks, so files named *{OWNER_SUFFIX} are used instead; if a process is "
            "killed on another machine, its file must be removed by hand",
            Notice,
            stacklevel=2,
        )

    def acquire(self, seconds: float = 0) -> bool:
        """Whether the lock was acquired within some seconds."""
        try:
            self._lock.acquire(timeout=seconds)
        except filelock.Timeout:
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    @property
    def holder(self) -> str:
        """Who has the lock, for a message."""
        if not self.is_native:
            with suppress(OSError, ValueError):
                process, host = self.path.read_text("utf-8").splitlines()[:2]
                return f"process {process} on {host}"
        return "another process"

    @property
    def advice(self) -> str:
        """What to do if the holder has ended without releasing the lock; empty where that can't be."""
        return "" if self.is_native else f"; if it has ended, remove {self.path}"


@contextmanager
def waiting_lock(path: Path, *, where: Path, stopped: Callable[[], None]) -> Iterator[None]:
    """Wait for a lock and keep it in the context.

    Args:
        path: of the lock.
        where: the folder that is locked, for messages.
        stopped: called a few times a second while waiting; an error that it raises ends the wait.
    """
    lock = FileLock(path, where)
    while not lock.acquire(_POLL_SECONDS):
        stopped()
        if not lock.is_native:
            warnings.warn(f"waiting for {lock.holder}, which has locked {path}{lock.advice}", Notice, stacklevel=2)
    try:
        yield
    finally:
        lock.release()


def _has_locks(folder: Path) -> bool:
    """Whether a disk has locks of the operating system, tried on a file without a name."""
    if fcntl is None:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # of other kinds, such as a read-only disk, the lock itself will tell
        return error.errno not in _NO_LOCKS
    return True
