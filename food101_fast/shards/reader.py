"""Shards as arrays: every sample of a split by its global id, straight out of the memory map.

All samples of a raw shard have the same size, so a tar is a `(samples, stride)` array of bytes. Nothing is parsed and
nothing is copied until rows are gathered. JPEGs are decoded out of the map into the rows that are asked for.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.shards.folder import LocalFolder
from food101_fast.shards.layout import INDEX_DTYPE, index_name, npy_header
from food101_fast.shards.manifest import Manifest, ShardEntry, read_manifest


class ShardSet:
    """A finished folder of shards.

    Attributes:
        path: the folder.
        manifest: what it holds.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> ShardSet:
        """Open the folder `path`.

        Raises:
            UserError: the folder is missing, unfinished, damaged or of another format version.
        """
        return cls(Path(path), read_manifest(LocalFolder(Path(path))))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in them."""
        return self.manifest.classes

    def split(self, name: str) -> Split:
        """The samples of split `name`.

        Raises:
            UserError: there is no such split, or one of its files is missing, damaged or of another size.
        """
        if name not in self.manifest.splits:
            raise UserError(f"{self.path} has no split {name!r}; it has {', '.join(self.manifest.splits)}")
        return Split(self, name)


class Split:
    """The samples of one split, numbered from 0 in the order in which they lie in its shards.

    Attributes:
        name: the split's name.
        image_size: height and width of every image, in pixels.
        labels: (N,) int64, the label of each sample.
    """

    def __init__(self, shard_set: ShardSet, name: str) -> None:
        self.name = name
        self.image_size = shard_set.manifest.image_size
        # A shard whose images were all dropped has no rows, and so no place in memory.
        entries = [entry for entry in shard_set.manifest.splits[name].shards if entry.samples]
        indexes = [_read_index(shard_set.path, entry, len(shard_set.classes)) for entry in entries]
        self.labels: NDArray[np.int64] = np.concatenate([index["label"] for index in indexes])
        self._starts = np.cumsum([0] + [entry.samples for entry in entries])
        self._shards = [shard_set.path / entry.name for entry in entries]
        maps = [_map(path, entry, index) for path, entry, index in zip(self._shards, entries, indexes, strict=True)]
        self._raw = shard_set.manifest.encoding == "raw"
        if self._raw:
            self._rows = [
                _rows(path, mapped, index, self.image_size)
                for path, mapped, index in zip(self._shards, maps, indexes, strict=True)
            ]
            self._addresses = np.array([rows.ctypes.data for rows in self._rows], np.int64)
            self._strides = np.array([rows.strides[0] for rows in self._rows], np.int64)
            self._origin = int(self._addresses.min())
            self._every_row = self._one_array()
        else:
            self._payloads = [memoryview(mapped) for mapped in maps]  # type: ignore[arg-type]
            self._offsets = np.concatenate([index["offset"] for index in indexes]).astype(np.int64)
            self._lengths = np.concatenate([index["length"] for index in indexes]).astype(np.int64)

    def _one_array(self) -> torch.Tensor:
        """All mapped memory of the split as one tensor in which row i begins at byte i after the lowest address.

        Rows overlap, and memory between two maps may belong to nobody, so only rows at the addresses of samples may
        be read. What it buys: a batch from any number of shards is one call of `index_select`, one loop of memcpy
        that never asks for the interpreter. With a call for each row, two threads spend a fifth of their time
        waiting for it.
        """
        last = self._addresses + (np.diff(self._starts) - 1) * self._strides
        first_byte = (ctypes.c_ubyte * 1).from_address(self._origin)
        overlapping = np.lib.stride_tricks.as_strided(
            np.ctypeslib.as_array(first_byte),
            shape=(int(last.max()) - self._origin + 1, self.row_bytes),
            strides=(1, 1),
        )
        return torch.from_numpy(overlapping)

    def __len__(self) -> int:
        return int(self.labels.size)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image: height x width x 3."""
        return self.image_size * self.image_size * 3

    def __getitem__(self, sample: int) -> NDArray[np.uint8]:
        """A copy of one image, uint8 (H, W, 3), RGB."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of split {self.name!r}, which has {len(self)}")
        out = torch.empty(1, self.row_bytes, dtype=torch.uint8)
        self.gather(np.array([sample]), out)
        return out.numpy().reshape(self.image_size, self.image_size, 3)

    def gather(self, ids: NDArray[np.int64], out: torch.Tensor) -> None:
        """Copy images into `out`: raw ones at memory speed, others at the speed of the JPEG decoder, without the GIL.

        The copying runs in the calling thread alone if that has one OpenMP thread. With more, torch's gather from rows
        that are not packed falls back to a path that was seven times slower.

        Args:
            ids: int64 (n,), ids of samples.
            out: uint8 (n, row_bytes), on the CPU, contiguous.

        Raises:
            IndexError: an id is not below the number of samples.
            UserError: a JPEG does not decode.
        """
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"ids from {ids.min()} to {ids.max()} of split {self.name!r}, which has {len(self)}")
        shards = np.searchsorted(self._starts, ids, side="right") - 1
        if not self._raw:
            for sample, shard, row in zip(ids.tolist(), shards.tolist(), out.numpy(), strict=True):
                self._decode(sample, shard, row)
            return
        places = self._addresses[shards] - self._origin + (ids - self._starts[shards]) * self._strides[shards]
        torch.index_select(self._every_row, 0, torch.from_numpy(places), out=out)

    def _decode(self, sample: int, shard: int, row: NDArray[np.uint8]) -> None:
        start = self._offsets[sample]
        payload = self._payloads[shard][start : start + self._lengths[sample]]
        shape = (self.image_size, self.image_size, 3)
        try:
            decoded = simplejpeg.decode_jpeg(payload, "RGB", buffer=row).shape
        except ValueError as error:
            raise _damaged(
                f"sample {sample} of split {self.name}, in {self._shards[shard]}, is damaged ({error})"
            ) from error
        if decoded != shape:
            raise _damaged(f"sample {sample} of split {self.name}, in {self._shards[shard]}, has the shape {decoded}")


def _damaged(what: str) -> UserError:
    return UserError(f"{what}; remove the folder and prepare it again")


def _read_index(folder: Path, entry: ShardEntry, classes: int) -> NDArray[np.void]:
    path = folder / index_name(entry.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(f"the index {path} cannot be read ({error.strerror})") from error
    if xxhash.xxh3_64_hexdigest(content) != entry.index_xxh3_64:
        raise _damaged(f"the index {path} is not the one the manifest describes")
    index: NDArray[np.void] = np.load(path, allow_pickle=False)
    if index.dtype != INDEX_DTYPE or index.shape != (entry.samples,):
        raise _damaged(f"the index {path} does not hold {entry.samples} samples")
    if not 0 <= index["label"].min() <= index["label"].max() < classes:
        raise _damaged(f"the index {path} has labels outside the {classes} classes")
    return index


def _map(path: Path, entry: ShardEntry, index: NDArray[np.void]) -> NDArray[np.uint8]:
    """The memory map of a shard, of which the index is known to stay inside."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(f"the shard {path} cannot be read ({error.strerror})") from error
    if size != entry.bytes:
        raise _damaged(f"the shard {path} has {size} bytes and the manifest says {entry.bytes}")
    if np.any(index["offset"] > size) or np.any(index["length"] > size - index["offset"]):
        raise _damaged(f"the index of {path} points past its end")
    return np.memmap(path, dtype=np.uint8, mode="r")


def _rows(path: Path, mapped: NDArray[np.uint8], index: NDArray[np.void], image_size: int) -> NDArray[np.uint8]:
    """The pixels of a raw shard as a (samples, row_bytes) view of its memory map; the rows have a constant stride."""
    row_bytes = image_size * image_size * 3
    header = len(npy_header(image_size))
    offsets = index["offset"].astype(np.int64)
    stride = int(offsets[1] - offsets[0]) if len(offsets) > 1 else row_bytes
    regular = np.array_equal(offsets, offsets[0] + stride * np.arange(len(offsets)))
    if not (regular and stride >= row_bytes and np.all(index["length"] == header + row_bytes)):
        raise _damaged(f"the index of {path} does not describe rows of one size")
    return np.lib.stride_tricks.as_strided(
        mapped[int(offsets[0]) + header :], shape=(len(offsets), row_bytes), strides=(stride, 1)
    )
