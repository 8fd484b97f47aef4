"""The files of one tar: name, position and length of each, with links followed inside the tar.

Python's tarfile takes a damaged header or a missing end for the end of the tar. Here both are errors.
"""

from __future__ import annotations

import mmap
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.storage import Folder, LocalFolder

_BROKEN = "fetch or write it again"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_CHUNK_BYTES = 1024 * 1024
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

TarFile = mmap.mmap | BytesIO


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a member has no content that can be read."""

    reason: str
    """The kind of reason, as in `Reject`."""
    detail: str
    """One sentence, with the advice."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a tar, or a link to one."""

    name: str
    """Its path in the tar; bytes that are not UTF-8 are written as `\\xff`."""
    offset: int
    """First byte of its content in the tar."""
    length: int
    """Bytes of its content."""
    problem: Problem | None = None
    """None if the content can be read."""


def open_tar(folder: Folder, name: str) -> tuple[TarFile, memoryview]:
    """A tar as a file in memory, mapped if it is on a disk, and its bytes.

    Raises:
        UserError: it can't be read, is empty or is compressed.
    """
    where = f"{folder.url}/{name}"
    file = _content(folder, name)
    content = memoryview(file) if isinstance(file, mmap.mmap) else file.getbuffer()
    if not len(content):
        raise UserError(f"{where} is empty; {_BROKEN}")
    if bytes(content[:6]).startswith(_COMPRESSED):
        raise UserError(
            f"{where} is compressed; unpack it first, since samples are read from the tar by their position"
        )
    return file, content


def _content(folder: Folder, name: str) -> TarFile:
    try:
        if not isinstance(folder, LocalFolder):
            return BytesIO(folder.read(name))
        with (folder.path / name).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        advice = machine_advice(error) or "correct the path"
        raise UserError(f"{folder.url}/{name} can't be read ({error.strerror or error}); {advice}") from error
    except ValueError as error:  # what mmap says of an empty file
        raise UserError(f"{folder.url}/{name} is empty; {_BROKEN}") from error


def read_members(file: TarFile, content: memoryview, where: str) -> list[Member]:
    """The files of a complete tar, in its order. Folders are left out.

    Raises:
        UserError: the tar is truncated or damaged, or another one is appended to it.
    """
    headers = [info for info in _headers(file, content, where) if not info.isdir()]
    files: dict[str, tarfile.TarInfo] = {}
    for info in headers:  # of several with a name the first counts, as for samples
        files.setdefault(posixpath.normpath(info.name), info)
    return [_member(info, files) for info in headers]


def _headers(file: TarFile, content: memoryview, where: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:  # ValueError: mmap's, past the end
        raise UserError(f"{where} is not a complete tar ({error}); {_BROKEN}") from error
    if end >= len(content):
        raise UserError(
            f"{where} ends after byte {len(content):,} without the mark of a tar's end, so it is truncated; {_BROKEN}"
        )
    if any(content[end : end + tarfile.BLOCKSIZE]):
        raise UserError(f"{where} has a damaged header at byte {end:,}; {_BROKEN}")
    _refuse_more(content, end, where)


def _refuse_more(content: memoryview, end: int, where: str) -> None:
    """Refuse members after the mark of the end, which every tar program would pass over."""
    for start in range(end, len(content), _CHUNK_BYTES):
        chunk = bytes(content[start : start + _CHUNK_BYTES])
        at = start + len(chunk) - len(chunk.lstrip(b"\0"))
        if at < start + len(chunk):
            block = at - at % tarfile.BLOCKSIZE
            try:
                tarfile.TarInfo.frombuf(bytes(content[block : block + tarfile.BLOCKSIZE]), "utf-8", "surrogateescape")
            except tarfile.HeaderError:  # what some programs leave in the last record
                return
            raise UserError(
                f"{where} has more members after its end at byte {end:,}, as when tars are joined with cat; unpack it "
                "with `tar --ignore-zeros -xf` and pack it again"
            )


def _member(info: tarfile.TarInfo, files: Mapping[str, tarfile.TarInfo]) -> Member:
    target = _follow(info, files)
    name = printable(info.name)
    if target is None:
        problem = Problem(
            reason="link",
            detail=f"a link to {printable(info.linkname)}, which is not a file of this tar; make the tar with "
            "`tar -h` (--dereference), which stores the files instead of links",
        )
    elif not target.isreg():
        problem = Problem(reason="unsupported", detail="a device or pipe, not a file")
    elif target.issparse():
        problem = Problem(reason="unsupported", detail="stored as a sparse file; make the tar without `tar -S`")
    else:
        return Member(name=name, offset=target.offset_data, length=target.size)
    return Member(name=name, offset=info.offset_data, length=0, problem=problem)


def _follow(info: tarfile.TarInfo, files: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The member that a link leads to, itself if it is not a link; None if that is not in the tar."""
    seen: set[str] = set()
    while info.islnk() or info.issym():
        # A symbolic link starts at its own folder, a hard link at the root of the tar.
        base = posixpath.dirname(info.name) if info.issym() else ""
        path = posixpath.normpath(posixpath.join(base, info.linkname))
        if path in seen or path not in files:
            return None
        seen.add(path)
        info = files[path]
    return info


def printable(text: str) -> str:
    """Text that can be written as UTF-8 on one line: control characters and lone surrogates are escaped."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python's paths and tarfile have a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
