"""A shard that is built in memory: a WebDataset tar and its index."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.shards.layout import INDEX_DTYPE
from food101_fast.shards.manifest import ShardEntry
from food101_fast.storage.folder import Content


class ShardTar:
    """A WebDataset tar that is built in memory, and its index.

    The headers are tarfile's. webdataset's own writer makes the same bytes, but makes several small writes for each
    member, and importing it imports torch.

    Args:
        suffix: of the images' members.
        memory: where to build it; grows as needed, and its content is overwritten. Reused memory costs a tenth of
            what fresh memory from the system does.
    """

    def __init__(self, suffix: str, memory: bytearray) -> None:
        self._suffix = suffix
        self._memory = memory
        self._size = 0
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, key: str, label: int, image: Sequence[Content]) -> None:
        """Append the sample's members, in the order of their names; `image` has the buffers of the image's file."""
        self._member(f"{key}.cls", [str(label).encode()])
        start = self._member(f"{key}.{self._suffix}", image)
        digest = xxhash.xxh3_64()
        for buffer in image:
            digest.update(buffer)
        self._rows.append((start, sum(map(len, image)), label, digest.intdigest()))

    def _member(self, name: str, content: Sequence[Content]) -> int:
        size = sum(map(len, content))
        self._append(_header(name, size))
        start = self._size
        for buffer in content:
            self._append(buffer)
        self._append(bytes(-size % tarfile.BLOCKSIZE))
        return start

    def _append(self, buffer: Content) -> None:
        end = self._size + len(buffer)
        if end > len(self._memory):
            self._memory.extend(bytes(max(end - len(self._memory), len(self._memory) // 2)))
        self._memory[self._size : end] = buffer
        self._size = end

    def finish(self) -> tuple[memoryview, NDArray[np.void]]:
        """The whole tar, valid until its memory is reused, and its index."""
        self._append(bytes(2 * tarfile.BLOCKSIZE))
        self._append(bytes(-self._size % tarfile.RECORDSIZE))
        return memoryview(self._memory)[: self._size], np.array(self._rows, INDEX_DTYPE)


def _header(name: str, size: int) -> bytes:
    """A USTAR header: tarfile's for a file without a name, with the name filled in."""
    nameless, byte_sum = _nameless_header(size)
    field = name.encode("ascii")
    # Offsets of name and checksum: POSIX.1-1988, as in tar(5).
    checksum = b"%06o\0 " % (byte_sum + sum(field))
    return field.ljust(100, b"\0") + nameless[100:148] + checksum + nameless[156:]


@functools.lru_cache(maxsize=64)
def _nameless_header(size: int) -> tuple[bytes, int]:
    """The header of a file of `size` bytes without name, and the sum of its bytes with blanks as checksum."""
    info = tarfile.TarInfo()
    info.size, info.mode = size, 0o444
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header, sum(header) - sum(header[148:156]) + 8 * ord(" ")


def index_content(index: NDArray[np.void]) -> bytes:
    """The content of a shard's index file."""
    stream = BytesIO()
    np.save(stream, index, allow_pickle=False)
    return stream.getvalue()


def entry_of(name: str, tar: Content, index: bytes, samples: int) -> ShardEntry:
    """How the manifest describes a shard.

    Args:
        name: its file name.
        tar: its content.
        index: content of its index file.
        samples: how many it has.
    """
    return ShardEntry(
        name=name,
        samples=samples,
        bytes=len(tar),
        xxh3_64=xxhash.xxh3_64_hexdigest(tar),
        index_xxh3_64=xxhash.xxh3_64_hexdigest(index),
    )
