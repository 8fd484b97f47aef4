"""One shard: a pure function of the source and the rules, whichever process runs it.

A shard is built in memory and written at once. That is one write, the same for a disk and a bucket, and the bytes are
hashed without being read again.
"""

from __future__ import annotations

import functools
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.images import RejectedError, Rules, Scratch, clean
from food101_fast.prepare.records import ShardResult, ShardTask, record_name
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import ENCODINGS, INDEX_DTYPE, index_name, npy_header
from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.rejects import NotedImage, Reject
from food101_fast.storage import Content, Folder, writing

ADVICE = "or give another folder for --out; then run the same command again: finished shards are kept"
"""What to do when the folder can't be written."""


class _Workspace(threading.local):
    """Memory that a thread reuses: to build shards in, and to decode images into."""

    def __init__(self) -> None:
        self.tar = bytearray()
        self.scratch = Scratch()


_workspace = _Workspace()


@dataclass(frozen=True, kw_only=True)
class MadeShard:
    """A shard in memory; it must be stored before its thread makes the next one, which reuses the memory."""

    tar: memoryview
    index: bytes
    result: ShardResult


@dataclass(frozen=True, kw_only=True)
class ShardWriter:
    """Makes shards of `source` and stores them in `folder`. Picklable, so that it can be sent to worker processes."""

    source: Source
    folder: Folder
    rules: Rules
    classes: int
    """Number of classes."""
    quality: int | None
    """JPEG quality of the stored images; None stores them raw."""

    def compute(self, task: ShardTask, count: Callable[[int], None]) -> MadeShard:
        """Build the shard in memory.

        Args:
            task: the images that go into it.
            count: called with the number of images done since the last call, for the progress bar.

        Raises:
            UserError: an image of the source can't be read, or has changed since it was hashed.
        """
        tar = _Tar(ENCODINGS["raw" if self.quality is None else "jpeg"], _workspace.tar)
        rejects: list[Reject] = []
        notes: list[NotedImage] = []
        header = npy_header(self.rules.size)
        for number, (position, label, key) in enumerate(zip(task.positions, task.labels, task.keys, strict=True)):
            try:
                cleaned = clean(self._read(task, number), self.rules, _workspace.scratch)
            except RejectedError as error:
                rejects.append(
                    Reject(key=key, file=self.source.file(position), reason=error.reason, detail=error.detail)
                )
            else:
                tar.add(key, label, self._encoded(cleaned.pixels, header))
                if cleaned.note is not None:
                    file, note = self.source.file(position), cleaned.note
                    notes.append(NotedImage(key=key, file=file, note=note.kind, detail=note.detail))
            count(1)
        content, index = tar.finish()
        index_bytes = _npy_bytes(index)
        return MadeShard(
            tar=content,
            index=index_bytes,
            result=ShardResult(
                task=task.digest,
                entry=ShardEntry(
                    name=task.name,
                    samples=len(index),
                    bytes=len(content),
                    xxh3_64=xxhash.xxh3_64_hexdigest(content),
                    index_xxh3_64=xxhash.xxh3_64_hexdigest(index_bytes),
                ),
                class_counts=tuple(np.bincount(index["label"], minlength=self.classes).tolist()),
                rejects=tuple(rejects),
                notes=tuple(notes),
            ),
        )

    def _read(self, task: ShardTask, number: int) -> bytes:
        gone: RejectedError | None = None
        try:
            data = self.source.read(task.positions[number])
        except RejectedError as error:
            data, gone = b"", error
        if task.hashes is not None and xxhash.xxh3_128_intdigest(data) != task.hashes[number]:
            raise UserError(
                f"the image {task.keys[number]} of the source changed while prepare was reading it; "
                "run again when nothing writes to the source"
            )
        if gone is not None:
            raise gone
        return data

    def store(self, shard: MadeShard) -> ShardResult:
        """Write the shard, its index, and the record that both are stored, in this order.

        Raises:
            UserError: the folder can't be written.
        """
        name = shard.result.entry.name
        with writing(f"{self.folder.url}/{name}", ADVICE):
            with shard.tar:
                self.folder.write(name, shard.tar)
            self.folder.write(index_name(name), shard.index)
            self.folder.write(record_name(name), shard.result.to_json())
        return shard.result

    def _encoded(self, pixels: NDArray[np.uint8], header: bytes) -> Sequence[Content]:
        pixels = np.ascontiguousarray(pixels)
        if self.quality is None:
            return header, pixels.reshape(-1).data
        return (simplejpeg.encode_jpeg(pixels, quality=self.quality, colorspace="RGB", colorsubsampling="420"),)


class _Tar:
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


def _npy_bytes(array: NDArray[np.void]) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
