"""One shard in memory: its map and its index, both checked when they are opened, and rows copied out of maps."""

from __future__ import annotations

import ctypes
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import DamagedDataError
from food101_fast.shards.layout import INDEX_DTYPE, index_name, npy_header
from food101_fast.shards.manifest import Manifest, ShardEntry

_WORDS = (np.dtype(np.int64), np.dtype(np.uint8))


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard in memory; its memory is valid as long as somebody holds it."""

    path: Path
    content: torch.Tensor
    view: memoryview
    """The same as `content`."""
    index: NDArray[np.void]
    verified: NDArray[np.bool_]


def open_shard(path: Path, entry: ShardEntry, manifest: Manifest, *, verified: bool) -> OpenShard:
    """Map a shard, and read and check the index beside it.

    Args:
        path: of the tar.
        entry: what the manifest says of it.
        manifest: of the data set.
        verified: whether the samples' bytes are known to be those that were written.

    Raises:
        DamagedDataError: the files are not what the manifest describes.
    """
    index = _read_index(path.with_name(index_name(entry.name)), entry, len(manifest.classes))
    _check_index(path, entry, index, manifest)
    try:
        # Unlike mmap and NumPy's memmap this keeps no descriptor of the file, of which a process has 1,024.
        content = torch.from_file(str(path), shared=False, size=entry.bytes, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise damaged(f"{path} can't be mapped into memory as {entry.bytes:,} bytes ({reason})") from error
    view = memoryview(content.numpy())  # type: ignore[arg-type]
    return OpenShard(path, content, view, index, np.full(entry.samples, verified))


def _read_index(path: Path, entry: ShardEntry, classes: int) -> NDArray[np.void]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(f"{path} can't be read ({error.strerror})") from error
    if xxhash.xxh3_64_hexdigest(content) != entry.index_xxh3_64:
        raise damaged(f"{path} is not the index that the manifest describes (its hash differs)")
    try:
        index: NDArray[np.void] = np.load(BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise damaged(f"{path} is no NumPy file ({error})") from error
    if index.dtype != INDEX_DTYPE or index.shape != (entry.samples,):
        raise damaged(f"{path} does not hold {entry.samples} samples")
    if not 0 <= index["label"].min() <= index["label"].max() < classes:
        raise damaged(f"{path} has labels outside the {classes} classes")
    return index


def _check_index(path: Path, entry: ShardEntry, index: NDArray[np.void], manifest: Manifest) -> None:
    """Payloads lie inside the shard, where tar puts members, one after the other."""
    offsets, lengths = index["offset"], index["length"]
    inside = np.all(offsets <= entry.bytes) and np.all(lengths <= entry.bytes - offsets)
    if not inside:
        raise damaged(f"the index of {path} points past its end")
    if np.any(offsets % tarfile.BLOCKSIZE):
        raise damaged(f"the index of {path} has an offset that is not a multiple of {tarfile.BLOCKSIZE}")
    if np.any(offsets[1:] < offsets[:-1] + lengths[:-1]):
        raise damaged(f"the index of {path} has samples that overlap")
    if manifest.encoding == "raw":
        size = len(npy_header(manifest.image_size)) + manifest.image_size**2 * 3
        if np.any(lengths != size):
            raise damaged(f"the index of {path} has rows that are not {size:,} bytes long")


def damaged(what: str) -> DamagedDataError:
    """An error that says what is damaged, and what to do."""
    return DamagedDataError(f"{what}; restore the folder from a copy, or remove it and make it again")


def damaged_sample(shard: OpenShard, offset: int, what: str) -> DamagedDataError:
    """An error that names the sample whose file begins at byte `offset`."""
    place = int(np.searchsorted(shard.index["offset"], offset))
    where = f"sample {place} ({_key(shard.view, offset)}) at byte {offset:,}"
    return damaged(f"{shard.path}: {where}, {shard.index['length'][place]:,} bytes long: {what}")


def _key(content: memoryview, payload: int) -> str:
    """The sample's key, from the tar header before its payload."""
    try:
        header = bytes(content[payload - tarfile.BLOCKSIZE : payload])
        name = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except tarfile.HeaderError:
        return "its header is damaged"
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def copy_rows(addresses: NDArray[np.int64], out: torch.Tensor) -> None:
    """Copy the rows that begin at `addresses` (n,) into `out` (n, bytes).

    The memory from the first to the last of them is seen as one tensor in which row i begins at word i. Its rows
    overlap and much of it may belong to nobody, but only the asked ones are read. So a batch is one call of
    `index_select`, one loop that never asks for the interpreter. With a call for each row, two threads spend a fifth of
    their time waiting for it.

    Words are as wide as rows and addresses allow: into memory that begins at a cache line torch copies numbers of eight
    bytes a third faster than single ones, which is the speed of memcpy.
    """
    if not addresses.size:
        return
    lowest = int(addresses.min())
    steps = addresses - lowest
    word = next(word for word in _WORDS if not out.shape[1] % word.itemsize and not (steps % word.itemsize).any())
    memory = (ctypes.c_ubyte * word.itemsize).from_address(lowest)
    overlapping = np.lib.stride_tricks.as_strided(
        np.ctypeslib.as_array(memory).view(word),
        shape=(int(steps.max()) // word.itemsize + 1, out.shape[1] // word.itemsize),
        strides=(word.itemsize, word.itemsize),
    )
    source = torch.from_numpy(overlapping)
    torch.index_select(source, 0, torch.from_numpy(steps // word.itemsize), out=out.view(source.dtype))
