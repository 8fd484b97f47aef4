"""One shard in memory: its map and its index, both checked when they are opened, and copies of rows."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.resources import first_line, machine_advice
from food101_fast.shards.layout import INDEX_DTYPE, SOURCE_PREFIX, npy_header
from food101_fast.shards.manifest import Manifest, ShardEntry
from food101_fast.storage.names import readable

_WORD, _BYTE = np.dtype(np.int64), np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard in memory, which stays valid while this object exists."""

    path: Path
    """Of the tar."""
    content: torch.Tensor
    """The tar as a memory map: uint8 (bytes,), on the CPU."""
    view: memoryview
    """The same memory as `content`."""
    index: NDArray[np.void]
    """(N,) of `INDEX_DTYPE`."""
    advice: str
    """What to do if it is damaged."""


def open_shard(path: Path, entry: ShardEntry, manifest: Manifest) -> OpenShard:
    """Map a shard, and read and check the index beside it.

    Args:
        path: of the tar; its index is beside it.
        entry: the shard in the manifest.
        manifest: of the data set.

    Raises:
        DamagedDataError: the files are not what the manifest describes.
        UserError: the machine does not allow more memory maps or open files, or its disk fails.
    """
    index = read_index(index_beside(path, entry), entry, manifest)
    _check_index(path, entry, index, manifest)
    try:
        # Unlike mmap and NumPy's memmap this keeps no file descriptor, of which a process has 1,024.
        content = torch.from_file(str(path), shared=False, size=entry.bytes, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        what = f"{path} can't be mapped into memory as {entry.bytes:,} bytes ({first_line(error)})"
        raise _unread(what, error, manifest) from error
    view = memoryview(content.numpy())  # type: ignore[arg-type]
    return OpenShard(path, content, view, index, manifest.advice)


def index_beside(path: Path, entry: ShardEntry) -> Path:
    """The path of the index of a shard, whose tar is at `path`."""
    return path.with_name(Path(entry.index_path).name)


def read_index(path: Path, entry: ShardEntry, manifest: Manifest) -> NDArray[np.void]:
    """The index at `path` of a shard: (N,) of `INDEX_DTYPE`.

    Raises:
        DamagedDataError: it is not the index that the manifest describes.
        UserError: it can't be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unread(f"{path} can't be read ({error.strerror})", error, manifest) from error
    if xxhash.xxh3_64_hexdigest(content) != entry.index_xxh3_64:
        raise damaged(f"{path} is not the index that the manifest describes (its hash differs)", manifest.advice)
    try:
        index: NDArray[np.void] = np.load(BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise damaged(f"{path} is not a NumPy file ({error})", manifest.advice) from error
    if index.dtype != INDEX_DTYPE or index.shape != (entry.samples,):
        raise damaged(f"{path} does not have {entry.samples} samples", manifest.advice)
    classes = len(manifest.classes)
    if not 0 <= index["label"].min() <= index["label"].max() < classes:
        raise damaged(f"{path} has labels outside the {classes} classes", manifest.advice)
    return index


def _check_index(path: Path, entry: ShardEntry, index: NDArray[np.void], manifest: Manifest) -> None:
    """Check that payloads are inside the shard, on tar's blocks, and do not overlap."""
    offsets, lengths = index["offset"], index["length"]
    inside = np.all(offsets <= entry.bytes) and np.all(lengths <= entry.bytes - offsets)
    if not inside:
        raise damaged(f"the index of {path} points past its end", manifest.advice)
    if np.any(offsets % tarfile.BLOCKSIZE):
        what = f"the index of {path} has an offset that is not a multiple of {tarfile.BLOCKSIZE}"
        raise damaged(what, manifest.advice)
    follows = offsets[1:] >= offsets[:-1] + lengths[:-1]
    if manifest.source.startswith(SOURCE_PREFIX):  # where links give one payload to several samples
        follows |= (offsets[1:] == offsets[:-1]) & (lengths[1:] == lengths[:-1])
    if not np.all(follows):
        raise damaged(f"the index of {path} has samples that overlap", manifest.advice)
    if manifest.encoding == "raw":
        size = len(npy_header(manifest.image_size)) + manifest.image_size**2 * 3
        if np.any(lengths != size):
            raise damaged(f"the index of {path} has rows that are not {size:,} bytes long", manifest.advice)


def _unread(what: str, error: OSError | RuntimeError, manifest: Manifest) -> UserError:
    """The error about a file that can't be read or mapped: damaged only if the cause is not the machine."""
    forbidden = "make it readable" if isinstance(error, PermissionError) else None
    advice = machine_advice(error) or forbidden
    return damaged(what, manifest.advice) if advice is None else UserError(f"{what}; {advice}")


def damaged(what: str, advice: str) -> DamagedDataError:
    """The error that says what is damaged, and what to do: the `advice` of the manifest."""
    return DamagedDataError(f"{what}; {advice}")


def damaged_sample(shard: OpenShard, offset: int, what: str) -> DamagedDataError:
    """The error about the sample whose payload starts at byte `offset` of a shard."""
    sample = int(np.searchsorted(shard.index["offset"], offset))
    where = f"sample {sample} ({sample_key(shard.view, offset)}) at byte {offset:,}"
    return damaged(f"{shard.path}: {where}, {shard.index['length'][sample]:,} bytes long: {what}", shard.advice)


def sample_key(content: memoryview, payload: int) -> str:
    """The sample's key, read from the tar header before its payload."""
    try:
        header = bytes(content[payload - tarfile.BLOCKSIZE : payload])
        name = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except tarfile.HeaderError:
        return "its header is damaged"
    folder, slash, file = name.rpartition("/")
    return readable(folder + slash + file.partition(".")[0])


class _Described:
    """Memory in the form of NumPy's array interface."""

    __slots__ = ("__array_interface__",)

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _view(address: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Memory of this process as an array. `as_strided` on an array from ctypes does the same, but slower."""
    interface = {"version": 3, "data": (address, False), "shape": shape, "strides": strides, "typestr": kind.str}
    return np.asarray(_Described(interface))


def read_records(addresses: NDArray[np.int64], kind: np.dtype[np.void]) -> NDArray[np.void]:
    """Copies of the records of type `kind` at `addresses`, int64 (n,), which differ by multiples of 8 bytes."""
    if not addresses.size:
        return np.empty(0, kind)
    lowest = int(addresses.min())
    steps = (addresses - lowest) // _WORD.itemsize
    opaque = np.dtype((np.void, kind.itemsize))  # NumPy copies it at once, but a record field by field
    return _view(lowest, (int(steps.max()) + 1,), (_WORD.itemsize,), opaque)[steps].view(kind)


def copy_rows(addresses: NDArray[np.int64], out: torch.Tensor) -> None:
    """Copy the rows at `addresses`, int64 (n,), into `out`, uint8 (n, bytes).

    The source is a strided view over the address range that has all rows: row i starts at word i, so rows overlap. Only
    the requested rows are read; the gaps may be unmapped. A batch is one call of `index_select`, a loop without the
    GIL. With one call for each row, two threads spend a fifth of their time waiting for the GIL.

    A word has 8 bytes where rows and addresses are multiples of 8, else 1. With 8 bytes torch copies into memory that
    is aligned to a cache line a third faster, at the speed of memcpy.
    """
    if not addresses.size:
        return
    lowest = int(addresses.min())
    steps = addresses - lowest
    row_bytes = out.shape[1]
    fits = not row_bytes % _WORD.itemsize and not int(np.bitwise_or.reduce(steps)) % _WORD.itemsize
    word = _WORD if fits else _BYTE
    steps //= word.itemsize
    shape = (int(steps.max()) + 1, row_bytes // word.itemsize)
    source = torch.from_numpy(_view(lowest, shape, (word.itemsize, word.itemsize), word))
    torch.index_select(source, 0, torch.from_numpy(steps), out=out.view(source.dtype))
