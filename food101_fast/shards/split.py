"""Shards as arrays: every sample of a split by its global id, straight out of the memory map.

Nothing is parsed when a sample is read: the index says where its payload lies. A batch of raw images, from any number
of shards, is one loop of memcpy. Other encodings are decoded out of the map into the rows that are asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simplejpeg
import torch
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.images import RejectedError, Rules, clean
from food101_fast.shards.cache import ShardCache
from food101_fast.shards.files import LocalFiles, ShardFiles
from food101_fast.shards.layout import INDEX_DTYPE, index_bytes, index_name, npy_header
from food101_fast.shards.manifest import ShardEntry
from food101_fast.shards.mapped import OpenShard, copy_rows, damaged, damaged_sample, open_shard, read_records
from food101_fast.storage import Folder, LocalFolder

if TYPE_CHECKING:
    from food101_fast.shards.reader import ShardSet

Verify = Literal["first-epoch", "always", "never"]

_ATTEMPTS = 5

# Raw rows that are copied before their checksums are compared. Comparing holds the interpreter's lock, for 2 ms of this
# many rows of 192 px; with fewer, two threads were slower, since they waited more often for each other.
_CHECKED_AT_A_TIME = 256

# To open a shard again costs as much as to read it: its pages are mapped one after the other as they are touched. The
# system allows 65,530 maps (vm.max_map_count).
_MOST_OPEN = 2000


class Split:
    """The samples of one split, numbered from 0 in the order in which they lie in its shards.

    Shards are opened when a sample of theirs is first asked for, and the ones that were used longest ago are closed
    when there are more than `most_open`. Safe to use from several threads, and after a fork.

    A file that shrinks or a disk that fails under a memory map ends the process (SIGBUS): no program can catch that.

    Attributes:
        name: the split's name.
        image_size: height and width of every image, in pixels.
        encoding: how the images are stored.
        entries: the shards that have samples.
        shard_samples: (S,) int64, how many each of them has.
        files: where they are read.
        most_open: shards that are kept open; None for all.
    """

    def __init__(self, shard_set: ShardSet, name: str, verify: Verify) -> None:
        manifest = shard_set.manifest
        self._set = shard_set
        self._verify = verify
        self.name = name
        self.image_size = manifest.image_size
        self.encoding = manifest.encoding
        self.most_open: int | None = None
        # A shard whose images were all dropped has no rows, and so no place in memory.
        self.entries = [entry for entry in manifest.splits[name].shards if entry.samples]
        _check_files(shard_set.folder, self.entries)
        self.shard_samples = np.array([entry.samples for entry in self.entries], np.int64)
        self._first_ids = np.cumsum(self.shard_samples) - self.shard_samples
        self.files: ShardFiles = (
            LocalFiles(shard_set.folder.path)
            if isinstance(shard_set.folder, LocalFolder)
            else ShardCache(shard_set.folder, manifest.digest, shard_set.cache)
        )
        self._rules = Rules(
            size=manifest.image_size,
            fit=manifest.fit,
            check=manifest.check,
            in_threads=True,
        )
        self._length = int(self.shard_samples.sum())
        self._open: dict[int, OpenShard] = {}
        self._contents = np.zeros(len(self.entries), np.int64)  # addresses
        self._indexes = np.zeros(len(self.entries), np.int64)
        self._all_open: tuple[dict[int, OpenShard], NDArray[np.int64], NDArray[np.int64]] | None = None
        self._checked = np.zeros(self._length, np.bool_)
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
        """(N,) int64, the label of each sample; opens all shards."""
        self.open_all()
        return np.concatenate([self._open[shard].index["label"] for shard in range(len(self.entries))])

    def __getitem__(self, sample: int) -> NDArray[np.uint8]:
        """A copy of one image, uint8 (H, W, 3), RGB."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of split {self.name!r}, which has {len(self)}")
        out = torch.empty(1, self.row_bytes, dtype=torch.uint8)
        self.gather(np.array([sample]), out)
        return out.numpy().reshape(self.image_size, self.image_size, 3)

    @property
    def unchecked(self) -> int:
        """How many samples will be compared with their checksums when they are read next."""
        if self._verify == "always":
            return len(self)
        verified = self._verify == "never" or self.files.verified
        return 0 if verified else len(self) - int(np.count_nonzero(self._checked))

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk already."""
        return isinstance(self.files, LocalFiles)

    @property
    def shard_bytes(self) -> NDArray[np.int64]:
        """(S,) int64, the size of each shard."""
        return np.array([entry.bytes for entry in self.entries], np.int64)

    def prefetch(self, shards: NDArray[np.int64]) -> None:
        """Get these shards ready in the background; others may be closed, and leave the cache of a remote folder."""
        # What is mapped keeps its room on the disk, so that a cache can't afford more than is needed.
        needed = max(len(shards), _MOST_OPEN if self.is_local else 0)
        self.most_open = max(self.most_open or 0, needed) if needed < len(self.entries) else None
        self.files.prefetch([self.entries[shard] for shard in shards])

    def open_all(self) -> None:
        """Open every shard now, so that what is wrong with an index is found now.

        Raises:
            UserError: a file can't be read or is not what the manifest says.
        """
        self._hold(np.arange(len(self.entries)))

    def gather(self, ids: NDArray[np.int64], out: torch.Tensor) -> NDArray[np.int64]:
        """Copy images into `out`: raw ones at memory speed, others at the speed of the decoder, without the GIL.

        The copying runs in the calling thread alone if that has one OpenMP thread. With more, torch's gather from rows
        that are not packed falls back to a path that was seven times slower.

        Args:
            ids: int64 (n,), ids of samples.
            out: uint8 (n, row_bytes), on the CPU, contiguous.

        Returns:
            int64 (n,), the samples' labels.

        Raises:
            IndexError: an id is not below the number of samples.
            DamagedDataError: the bytes of a sample, or of its shard, are not those that were written.
            UserError: a shard can't be had.
        """
        shards, records, held, contents = self._find(ids)
        if self.encoding == "raw":
            addresses = contents + records["offset"].astype(np.int64) + len(npy_header(self.image_size))
            at_a_time = _CHECKED_AT_A_TIME if self._due(ids).size else ids.size
            for first in range(0, ids.size, at_a_time or 1):
                some = slice(first, first + at_a_time)
                copy_rows(addresses[some], out[some])
                # Not before: then this would touch every page first, and hold the interpreter's lock meanwhile.
                self._check(ids[some], shards[some], records[some], held)
        else:
            self._check(ids, shards, records, held)
            spans = zip(shards.tolist(), records["offset"].tolist(), records["length"].tolist(), strict=True)
            for (shard, offset, length), row in zip(spans, out.numpy(), strict=True):
                self._decode(held[shard], offset, length, row)
        return records["label"].astype(np.int64)

    def payloads(self, ids: NDArray[np.int64]) -> tuple[list[torch.Tensor], NDArray[np.int64]]:
        """The samples' files as they lie in the shards, uint8 (length,) each, in place; and their labels (n,).

        Raises:
            As `gather`.
        """
        shards, records, held, _ = self._find(ids)
        self._check(ids, shards, records, held)
        spans = zip(shards.tolist(), records["offset"].tolist(), records["length"].tolist(), strict=True)
        files = [held[shard].content[offset : offset + length] for shard, offset, length in spans]
        return files, records["label"].astype(np.int64)

    def _find(
        self, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.void], dict[int, OpenShard], NDArray[np.int64]]:
        """For each id its shard and index record; the open shards; for each id the address of its shard's content."""
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"ids from {ids.min()} to {ids.max()} of split {self.name!r}, which has {len(self)}")
        shards = np.searchsorted(self._first_ids, ids, side="right") - 1
        held, contents, indexes = self._hold(shards)
        places = ids - self._first_ids[shards]
        records = read_records(indexes + places * INDEX_DTYPE.itemsize, INDEX_DTYPE)
        return shards, records, held, contents

    def _hold(self, shards: NDArray[np.int64]) -> tuple[dict[int, OpenShard], NDArray[np.int64], NDArray[np.int64]]:
        """Open what is not open; the shards' memory stays where the addresses say while the first result is held."""
        everything = self._all_open
        if everything is not None and self.most_open is None:
            held, contents, indexes = everything
            return held, contents[shards], indexes[shards]
        needed = np.unique(shards).tolist()
        if self._process != os.getpid():  # a thread of the parent's may have held the lock when this process forked
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            for shard in needed:
                if shard not in self._open:
                    self._add(shard)
            if self.most_open is not None:
                self._uses += 1
                self._last_use[needed] = self._uses
                self._close_unused(len(needed))
            held = {shard: self._open[shard] for shard in needed}
            return held, self._contents[shards], self._indexes[shards]

    def _add(self, shard: int) -> None:
        entry, files = self.entries[shard], self.files
        for attempt in range(_ATTEMPTS):
            with files.hold(entry) as path:
                try:
                    opened = open_shard(path, entry, self._set.manifest)
                    break
                except DamagedDataError:
                    gone = not path.exists() or not path.with_name(index_name(entry.name)).exists()
                    if not files.verified or not gone or attempt == _ATTEMPTS - 1:
                        raise  # else another process has pushed it out of the cache in this moment
        self._open[shard] = opened
        self._contents[shard] = opened.content.data_ptr()
        self._indexes[shard] = opened.index.ctypes.data
        if files.verified:
            first = self._first_ids[shard]
            self._checked[first : first + entry.samples] = True
        if len(self._open) == len(self.entries):
            # Copies, so that they fit each other, and a batch that has them keeps what is closed meanwhile.
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
        ids: NDArray[np.int64],
        shards: NDArray[np.int64],
        records: NDArray[np.void],
        held: dict[int, OpenShard],
    ) -> None:
        """Compare the bytes of samples with their checksums, if that is due.

        Raises:
            DamagedDataError: those of a sample differ.
        """
        due = self._due(ids)
        if not due.size:
            return
        where, records = shards[due].tolist(), records[due]
        spans = zip(where, records["offset"].tolist(), records["length"].tolist(), strict=True)
        payloads = [held[shard].view[offset : offset + length] for shard, offset, length in spans]
        # In a loop of C: beside a copy that fills the caches the interpreter's own work would cost as much.
        found = np.array(list(map(xxhash.xxh3_64_intdigest, payloads)), np.uint64)
        if np.any(differs := found != records["xxh3_64"]):
            wrong = int(np.argmax(differs))
            changed = "its bytes were changed after they were written"
            raise damaged_sample(held[where[wrong]], int(records["offset"][wrong]), changed)
        self._checked[ids[due]] = True

    def _due(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the samples have to be compared with their checksums now, as positions in `ids`."""
        if self._verify == "never":
            return np.empty(0, np.int64)
        return np.arange(ids.size) if self._verify == "always" else np.flatnonzero(~self._checked[ids])

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


def _check_files(folder: Folder, entries: Sequence[ShardEntry]) -> None:
    """Compare the size of every shard, and the number of samples in its index, with the manifest."""
    if not folder.can_list:
        return  # then they are found out when they are downloaded
    try:
        sizes = folder.files()
    except OSError as error:
        raise UserError(f"{folder.url} can't be listed ({error.strerror or error}); make it readable") from error
    for entry in entries:
        for name, size in ((entry.name, entry.bytes), (index_name(entry.name), index_bytes(entry.samples))):
            if name not in sizes:
                raise damaged(f"{folder.url}/{name} is missing")
            if sizes[name] != size:
                raise damaged(f"{folder.url}/{name} has {sizes[name]:,} bytes and the manifest says {size:,}")
