"""Shards as arrays: every sample of a split by its global id, read from memory maps.

Nothing is parsed when a sample is read: the index has the offset of its payload. A batch of raw images, from any number
of shards, is one loop of memcpy. Other encodings are decoded from the map into the requested rows.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simplejpeg
import torch
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import DamagedDataError
from food101_fast.images import RejectedError, Rules, clean
from food101_fast.shards.cache import ShardCache
from food101_fast.shards.files import LocalFiles, ShardFiles, check_files
from food101_fast.shards.layout import INDEX_DTYPE, npy_header
from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.mapped import (
    OpenShard,
    copy_rows,
    damaged_sample,
    index_beside,
    open_shard,
    read_index,
    read_records,
    sample_key,
)
from food101_fast.shards.overlay import view
from food101_fast.storage import LocalFolder

if TYPE_CHECKING:
    from food101_fast.shards.reader import ShardSet

Verify = Literal["first-epoch", "always", "never"]

_ATTEMPTS = 5

# Raw rows that are copied before their checksums are compared. Comparing keeps the GIL, for 2 ms for this many rows of
# 192 px; with fewer rows two threads were slower, since they waited for each other more often.
_CHECKED_AT_A_TIME = 256

# Opening a shard again costs as much as reading it: its pages are mapped one by one when they are touched. Linux allows
# 65,530 maps (vm.max_map_count).
_MOST_OPEN = 2000


class Split:
    """The samples of one split, numbered from 0 in the order of its shards.

    A shard is opened at the first read of one of its samples; above `most_open` shards the least recently used are
    closed. Safe to use from several threads, and after a fork.

    A file that shrinks or a disk that fails under a memory map ends the process (SIGBUS): a program can't catch that.

    Attributes:
        name: the split's name.
        image_size: height and width of every image, in pixels.
        encoding: how the images are stored.
        entries: the S shards that have samples.
        shard_samples: (S,) int64, samples of each shard.
        files: where shards are read.
        most_open: maximum number of open shards; None for all.
    """

    def __init__(self, shard_set: ShardSet, name: str, verify: Verify) -> None:
        manifest = shard_set.stored
        self._set = shard_set
        self._verify = verify
        self.name = name
        self.image_size = manifest.image_size
        self.encoding = manifest.encoding
        self.most_open: int | None = None
        # A shard whose images were all dropped has no rows to map.
        shards = manifest.splits[name].shards
        changes = shard_set.changes.get(name)
        shown = view(np.array([entry.samples for entry in shards], np.int64), changes)
        self.entries = [shards[shard] for shard in shown.used]
        check_files(shard_set.folder, self.entries, manifest.advice)
        self.shard_samples = shown.samples
        self._rows, self._labels = shown.rows, None if changes is None else changes.labels
        sizes = np.array([entry.samples for entry in self.entries], np.int64)
        self._first_rows = np.cumsum(sizes) - sizes
        self.files: ShardFiles = (
            LocalFiles(shard_set.folder.path)
            if isinstance(shard_set.folder, LocalFolder)
            else ShardCache(shard_set.folder, manifest.digest, shard_set.cache, manifest.advice)
        )
        self._rules = Rules(
            size=manifest.image_size,
            fit=manifest.fit,
            decode=manifest.decode,
            check=manifest.check,
            max_pixels=manifest.max_pixels,
            in_threads=True,
        )
        self._length = int(self.shard_samples.sum())
        self._open: dict[int, OpenShard] = {}
        self._contents = np.zeros(len(self.entries), np.int64)  # addresses
        self._indexes = np.zeros(len(self.entries), np.int64)
        self._all_open: tuple[dict[int, OpenShard], NDArray[np.int64], NDArray[np.int64]] | None = None
        self._checked = np.zeros(int(sizes.sum()), np.bool_)
        self._last_use = np.zeros(len(self.entries), np.int64)
        self._uses = 0
        self._lock, self._process = threading.Lock(), os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self._set, self.name, self._verify)

    def __len__(self) -> int:
        return self._length

    @property
    def row_bytes(self) -> int:
        """Bytes of one image: height x width x 3."""
        return self.image_size * self.image_size * 3

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64, the label of each sample. Reads all indexes; of remote shards only they are downloaded."""
        if self._labels is not None:
            return self._labels.copy()
        return np.concatenate([self._labels_of(entry) for entry in self.entries])

    def _labels_of(self, entry: ShardEntry) -> NDArray[np.int64]:
        with self.files.hold_index(entry) as path:
            return read_index(path, entry, self._set.stored)["label"].astype(np.int64)

    def __getitem__(self, sample: int) -> NDArray[np.uint8]:
        """A copy of one image, uint8 (H, W, 3), RGB."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of split {self.name!r}, which has {len(self)}")
        out = torch.empty(1, self.row_bytes, dtype=torch.uint8)
        self.gather(np.array([sample]), out)
        return out.numpy().reshape(self.image_size, self.image_size, 3)

    def key(self, sample: int) -> str:
        """The key of one sample in its tar, such as `apple_pie/1005649`; from prepare it is `{class}/{file name}`."""
        shards, records, opened, _ = self._find(self._rows_of(np.array([sample])))
        return sample_key(opened[int(shards[0])].view, int(records["offset"][0]))

    @property
    def unchecked(self) -> int:
        """Number of samples that are compared with their checksums at their next read."""
        if self._verify == "always":
            return len(self)
        verified = self._verify == "never" or self.files.verified
        checked = self._checked if self._rows is None else self._checked[self._rows]
        return 0 if verified else len(self) - int(np.count_nonzero(checked))

    @property
    def is_local(self) -> bool:
        """Whether the files are on the disk and need no download."""
        return isinstance(self.files, LocalFiles)

    @property
    def shard_bytes(self) -> NDArray[np.int64]:
        """(S,) int64, the size of each shard in bytes."""
        return np.array([entry.bytes for entry in self.entries], np.int64)

    def prefetch(self, shards: NDArray[np.int64]) -> None:
        """Download these shards (S',) in the background if needed; others may be closed and evicted from the cache."""
        # A mapped file keeps its space on the disk, so a cache can't keep more open than is needed.
        needed = max(len(shards), _MOST_OPEN if self.is_local else 0)
        self.most_open = max(self.most_open or 0, needed) if needed < len(self.entries) else None
        self.files.prefetch([self.entries[shard] for shard in shards])

    def open_all(self) -> None:
        """Open every shard now, so that a damaged index is found now.

        Raises:
            UserError: a file can't be read or differs from the manifest.
        """
        self._open_shards(np.arange(len(self.entries)))

    def gather(self, ids: NDArray[np.int64], out: torch.Tensor) -> NDArray[np.int64]:
        """Copy images into `out`, without the GIL: raw ones at memory speed, others at the speed of the decoder.

        Call it from a thread with one OpenMP thread: with more, torch's gather of rows that are not packed takes a path
        that was seven times slower.

        Args:
            ids: int64 (n,), ids of samples.
            out: uint8 (n, row_bytes), on the CPU, contiguous.

        Returns:
            int64 (n,), the samples' labels.

        Raises:
            IndexError: an id is below 0 or not below the number of samples.
            DamagedDataError: the bytes of a sample, or of its shard, are not those that were written.
            UserError: a shard can't be read or downloaded.
        """
        rows = self._rows_of(ids)
        shards, records, opened, contents = self._find(rows)
        if self.encoding == "raw":
            addresses = contents + records["offset"].astype(np.int64) + len(npy_header(self.image_size))
            at_a_time = _CHECKED_AT_A_TIME if self._due(rows).size else rows.size
            for first in range(0, rows.size, at_a_time or 1):
                some = slice(first, first + at_a_time)
                copy_rows(addresses[some], out[some])
                # After the copy: before it, this would be the first to touch every page, while it keeps the GIL.
                self._check(rows[some], shards[some], records[some], opened)
        else:
            self._check(rows, shards, records, opened)
            spans = zip(shards.tolist(), records["offset"].tolist(), records["length"].tolist(), strict=True)
            for (shard, offset, length), row in zip(spans, out.numpy(), strict=True):
                self._decode(opened[shard], offset, length, row)
        return self._labels_at(ids, records)

    def payloads(self, ids: NDArray[np.int64]) -> tuple[list[torch.Tensor], NDArray[np.int64]]:
        """The samples' files, uint8 (length,) views into the shards on the CPU; and their labels, int64 (n,).

        Raises:
            As `gather`.
        """
        rows = self._rows_of(ids)
        shards, records, opened, _ = self._find(rows)
        self._check(rows, shards, records, opened)
        spans = zip(shards.tolist(), records["offset"].tolist(), records["length"].tolist(), strict=True)
        files = [opened[shard].content[offset : offset + length] for shard, offset, length in spans]
        return files, self._labels_at(ids, records)

    def _labels_at(self, ids: NDArray[np.int64], records: NDArray[np.void]) -> NDArray[np.int64]:
        """Labels of samples, whose index records these are."""
        return records["label"].astype(np.int64) if self._labels is None else self._labels[ids]

    def _rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of samples, counted through the shards."""
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"ids from {ids.min()} to {ids.max()} of split {self.name!r}, which has {len(self)}")
        return ids if self._rows is None else self._rows[ids]

    def _find(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.void], dict[int, OpenShard], NDArray[np.int64]]:
        """For each row its shard and index record; the open shards by number; for each row its shard's address."""
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        opened, contents, indexes = self._open_shards(shards)
        in_shard = rows - self._first_rows[shards]
        records = read_records(indexes + in_shard * INDEX_DTYPE.itemsize, INDEX_DTYPE)
        return shards, records, opened, contents

    def _open_shards(
        self, shards: NDArray[np.int64]
    ) -> tuple[dict[int, OpenShard], NDArray[np.int64], NDArray[np.int64]]:
        """Open shards that are closed; returns them, and the addresses of content and index for each of `shards`.

        The addresses are valid while the caller keeps the first result.
        """
        everything = self._all_open
        if everything is not None and self.most_open is None:
            opened, contents, indexes = everything
            return opened, contents[shards], indexes[shards]
        needed = np.unique(shards).tolist()
        if self._process != os.getpid():  # a thread of the parent may have had the lock at the fork
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            for shard in needed:
                if shard not in self._open:
                    self._add(shard)
            if self.most_open is not None:
                self._uses += 1
                self._last_use[needed] = self._uses
                self._close_unused(len(needed))
            opened = {shard: self._open[shard] for shard in needed}
            return opened, self._contents[shards], self._indexes[shards]

    def _add(self, shard: int) -> None:
        entry, files = self.entries[shard], self.files
        for attempt in range(_ATTEMPTS):
            with files.hold(entry) as path:
                try:
                    opened = open_shard(path, entry, self._set.stored)
                    break
                except DamagedDataError:
                    gone = not path.exists() or not index_beside(path, entry).exists()
                    if not files.verified or not gone or attempt == _ATTEMPTS - 1:
                        raise  # else another process has just evicted it from the cache
        self._open[shard] = opened
        self._contents[shard] = opened.content.data_ptr()
        self._indexes[shard] = opened.index.ctypes.data
        if files.verified:
            first = self._first_rows[shard]
            self._checked[first : first + entry.samples] = True
        if len(self._open) == len(self.entries):
            # Copies, so that all three agree, and a batch that uses them keeps shards that are closed meanwhile.
            self._all_open = self._open.copy(), self._contents.copy(), self._indexes.copy()

    def _close_unused(self, needed: int) -> None:
        most = max(self.most_open or 0, needed)
        if len(self._open) > most:
            self._all_open = None
            oldest = sorted(self._open, key=lambda shard: self._last_use[shard])
            for shard in oldest[: len(self._open) - most]:
                del self._open[shard]

    def _check(
        self,
        rows: NDArray[np.int64],
        shards: NDArray[np.int64],
        records: NDArray[np.void],
        opened: dict[int, OpenShard],
    ) -> None:
        """Compare the bytes of rows with their checksums, where that is due.

        Raises:
            DamagedDataError: those of a sample differ.
        """
        due = self._due(rows)
        if not due.size:
            return
        where, records = shards[due].tolist(), records[due]
        spans = zip(where, records["offset"].tolist(), records["length"].tolist(), strict=True)
        payloads = [opened[shard].view[offset : offset + length] for shard, offset, length in spans]
        # `map` loops in C: while other threads copy, a loop in Python would cost as much as the checksums.
        found = np.array(list(map(xxhash.xxh3_64_intdigest, payloads)), np.uint64)
        if np.any(differs := found != records["xxh3_64"]):
            wrong = int(np.argmax(differs))
            changed = "its bytes were changed after they were written"
            raise damaged_sample(opened[where[wrong]], int(records["offset"][wrong]), changed)
        self._checked[rows[due]] = True

    def _due(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `rows` of those to compare with their checksums now."""
        if self._verify == "never":
            return np.empty(0, np.int64)
        return np.arange(rows.size) if self._verify == "always" else np.flatnonzero(~self._checked[rows])

    def _decode(self, shard: OpenShard, offset: int, length: int, row: NDArray[np.uint8]) -> None:
        payload = shard.view[offset : offset + length]
        shape = (self.image_size, self.image_size, 3)
        try:
            if self.encoding == "jpeg":
                found = simplejpeg.decode_jpeg(payload, "RGB", buffer=row).shape
            else:
                pixels = clean(bytes(payload), self._rules).pixels
                row[:] = pixels.reshape(-1)
                found = pixels.shape
        except (ValueError, RejectedError) as error:
            raise damaged_sample(shard, offset, f"it does not decode ({error})") from error
        if found != shape:
            raise damaged_sample(shard, offset, f"it has the shape {found} and not {shape}")
