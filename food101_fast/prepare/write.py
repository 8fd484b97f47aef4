"""One shard: a pure function of the source and the settings, whoever runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import webdataset
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare.clean import Fit, RejectedError, clean
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import INDEX_DTYPE, index_name, npy_header
from food101_fast.shards.manifest import ShardEntry, write_atomically


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What goes into one shard: positions in the source, with their labels and keys, in the order of the members."""

    split: str
    name: str
    positions: tuple[int, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A dropped image, as it stands in `rejects.jsonl`."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a task."""

    task: ShardTask
    labels: tuple[int, ...]
    """Labels of the samples that were written."""
    rejects: tuple[Reject, ...]
    entry: ShardEntry
    """How the manifest describes the shard."""


@dataclass(frozen=True, kw_only=True)
class ShardWriter:
    """Writes shards of `source` into `folder`; picklable, so that a worker process can be given one."""

    source: Source
    folder: Path
    image_size: int
    fit: Fit

    def __call__(self, task: ShardTask, count: Callable[[], None]) -> ShardResult:
        """Write the shard and its index, each under a temporary name until it is whole.

        Args:
            task: what to write.
            count: called after each image, for the progress bar.

        Raises:
            UserError: an image of the source can't be read.
        """
        path = self.folder / task.name
        temporary = path.with_name(path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                stream = _HashedFile(file)
                index, rejects = self._write_samples(task, stream, count)
                file.flush()
                os.fsync(file.fileno())
            index_bytes = _npy_bytes(index)
            write_atomically(path.with_name(index_name(path.name)), index_bytes)
            temporary.replace(path)
        except OSError as error:  # of writing: the source turns its own into UserError
            temporary.unlink(missing_ok=True)
            raise UserError(f"cannot write {path} ({error.strerror}); make room or give another --out") from error
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return ShardResult(
            task=task,
            labels=tuple(index["label"].tolist()),
            rejects=rejects,
            entry=ShardEntry(
                name=task.name,
                samples=len(index),
                bytes=stream.size,
                xxh3_64=stream.digest.hexdigest(),
                index_xxh3_64=xxhash.xxh3_64_hexdigest(index_bytes),
            ),
        )

    def _write_samples(
        self, task: ShardTask, stream: _HashedFile, count: Callable[[], None]
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.void]], tuple[Reject, ...]]:
        header = npy_header(self.image_size)
        rows: list[tuple[int, int, int, int]] = []
        rejects: list[Reject] = []
        # mtime 0 keeps extra headers away, so that every sample takes the same number of bytes.
        with webdataset.TarWriter(stream, user="", group="", mtime=0, encoder=False) as tar:
            for position, label, key in zip(task.positions, task.labels, task.keys, strict=True):
                data = self.source.read(position)
                try:
                    payload = header + clean(data, self.image_size, self.fit).tobytes()
                except RejectedError as error:
                    rejects.append(Reject(key=key, reason=error.reason, detail=error.detail))
                else:
                    tar.write({"__key__": key, "cls": str(label).encode(), "npy": payload})
                    # The payload is the last member so far, padded to whole blocks of 512 bytes.
                    start = tar.tarstream.offset - -(-len(payload) // 512) * 512
                    rows.append((start, len(payload), label, xxhash.xxh3_64_intdigest(payload)))
                count()
        return np.array(rows, INDEX_DTYPE), tuple(rejects)


class _HashedFile:
    """A file that is only written to, with the hash and size of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = xxhash.xxh3_64()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


def _npy_bytes(array: np.ndarray[tuple[int], np.dtype[np.void]]) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
