"""One shard: a pure function of the source and the rules, whichever process runs it.

A shard is built in memory and written at once. That is one write, the same for a disk and a bucket, and the bytes are
hashed without being read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.images import RejectedError, Rules, Scratch, clean
from food101_fast.prepare.records import ShardResult, ShardTask, record_name
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import ENCODINGS, index_name, npy_header
from food101_fast.shards.rejects import NotedImage, Reject
from food101_fast.shards.tar import ShardTar, entry_of, index_content
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
        tar = ShardTar(ENCODINGS["raw" if self.quality is None else "jpeg"], _workspace.tar)
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
        index_bytes = index_content(index)
        return MadeShard(
            tar=content,
            index=index_bytes,
            result=ShardResult(
                task=task.digest,
                entry=entry_of(task.name, content, index_bytes, len(index)),
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
