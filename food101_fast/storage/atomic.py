"""One file, written whole or not at all, and the one sentence for the user when that fails."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.storage.folder import Content

TEMPORARY_SUFFIX = ".tmp"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomically(path: Path, content: Content, *, keep_in_memory: bool = True) -> None:
    """Write `content` under a temporary name, flush it to the disk, and rename it to `path`.

    Args:
        path: of the file.
        content: all of it.
        keep_in_memory: whether the system's page cache should keep it.

    Raises:
        OSError: the disk fails; a file that existed before is unchanged.
    """
    with replacing(path, keep_in_memory=keep_in_memory) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, keep_in_memory: bool = True) -> Iterator[BinaryIO]:
    """A context with an open file that takes the name `path` when the context ends without an error.

    Args:
        path: of the file.
        keep_in_memory: whether the system's page cache should keep it.

    Raises:
        OSError: the disk fails; a file that existed before is unchanged.
    """
    # The name has the process number: a writer that outlives its parent for a moment must not share it with the next.
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not keep_in_memory and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_hash(path: Path, kind: Callable[[], Any] = xxhash.xxh3_64) -> str:
    """The hash of a file's bytes, in hexadecimal digits.

    Args:
        path: of the file.
        kind: makes the hash, such as `hashlib.sha256`.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


@contextmanager
def writing(path: Path | str, advice: str = "or choose another folder") -> Iterator[None]:
    """Turn a full or read-only disk, a missing folder or a missing permission into one sentence.

    Args:
        path: what is written, for the sentence.
        advice: what to do instead of freeing space or making `path` writable (`or ...`), or after it (`then ...`).

    Raises:
        UserError: an OSError was raised in the context.
    """
    try:
        yield
    except OSError as error:
        first = "free space there" if error.errno in _FULL else "make it writable" if error.errno in _FORBIDDEN else ""
        steps = f"{first}, {advice}" if first else advice.removeprefix("or ").removeprefix("then ")
        if error.errno != errno.EIO:  # another disk may not fail
            steps = machine_advice(error) or steps
        raise UserError(f"{path} could not be written ({error.strerror or error}); {steps}") from error
