"""Compare a folder of shards with its manifest: every file, every hash and every sample."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import orjson
import simplejpeg
import xxhash
from numpy.typing import NDArray

from food101_fast.shards.layout import (
    ENCODINGS,
    INDEX_DTYPE,
    MANIFEST_NAME,
    NOTES_NAME,
    OVERVIEW_NAMES,
    REJECTS_NAME,
    SOURCE_PREFIX,
    npy_header,
)
from food101_fast.shards.manifest import Manifest, ShardEntry, read_manifest
from food101_fast.storage import Folder


def verify(folder: Folder, progress: Callable[[int], None] = lambda samples: None) -> Iterator[str]:
    """Yield a sentence for each problem of a folder; nothing if all is well.

    One shard at a time is in memory.

    Args:
        folder: a finished folder of shards.
        progress: called with the number of samples done since the last call.

    Raises:
        UserError: there is no manifest, or it can't be read.
    """
    manifest = read_manifest(folder)
    # A plain web server does not list its files, and other programs' tars may have any files beside them.
    files = folder.files() if folder.can_list and not manifest.source.startswith(SOURCE_PREFIX) else {}
    known = {MANIFEST_NAME, REJECTS_NAME, NOTES_NAME, *OVERVIEW_NAMES}
    seen: set[str] = set()  # two splits may share a tar
    for split, entry in manifest.splits.items():
        labels: list[NDArray[np.int64]] = []
        for shard in entry.shards:
            known |= {shard.name, shard.index_path}
            index, problems = _read_index(folder, shard)
            yield from problems
            yield from _shard_problems(folder, shard, index, manifest, is_first=shard.name not in seen)
            seen.add(shard.name)
            if index is not None:
                labels.append(index["label"])
            progress(shard.samples)
        if len(labels) == len(entry.shards):
            counts = Counter(np.concatenate(labels).tolist())
            if counts != Counter({label: n for label, n in enumerate(entry.class_counts) if n}):
                yield f"{MANIFEST_NAME}: the class counts of {split} are not those of its shards"
    yield from _list_problems(folder, REJECTS_NAME, "reason", manifest.rejects)
    yield from _list_problems(folder, NOTES_NAME, "note", manifest.notes)
    for name in files:
        if name not in known:
            yield f"{name}: does not belong to the set of shards"


def _read_index(folder: Folder, shard: ShardEntry) -> tuple[NDArray[np.void] | None, list[str]]:
    name = shard.index_path
    try:
        content = folder.read(name)
    except OSError as error:
        return None, [f"{name}: cannot be read ({error.strerror or error})"]
    if xxhash.xxh3_64_hexdigest(content) != shard.index_xxh3_64:
        return None, [f"{name}: is not the file that the manifest describes (its hash differs)"]
    try:
        index = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        return None, [f"{name}: is not a NumPy file ({error})"]
    if index.dtype != INDEX_DTYPE or index.shape != (shard.samples,):
        return None, [f"{name}: does not have {shard.samples} samples"]
    return index, []


def _shard_problems(
    folder: Folder, shard: ShardEntry, index: NDArray[np.void] | None, manifest: Manifest, *, is_first: bool
) -> Iterator[str]:
    """Problems of the file, only for the first split that has it, and of its samples."""
    try:
        content = folder.read(shard.name)
    except OSError as error:
        if is_first:
            yield f"{shard.name}: cannot be read ({error.strerror or error})"
        return
    if is_first and len(content) != shard.bytes:
        missing = _missing(folder, shard.name, len(content), manifest)
        yield f"{shard.name}: has {len(content):,} bytes and the manifest says {shard.bytes:,}{missing}"
    elif is_first and xxhash.xxh3_64_hexdigest(content) != shard.xxh3_64:
        yield f"{shard.name}: is not the file that the manifest describes (its hash differs)"
    if index is not None:
        for problem in _sample_problems(content, index, manifest):
            yield f"{shard.name}: {problem}"


def _missing(folder: Folder, name: str, length: int, manifest: Manifest) -> str:
    """How many samples of all splits are past the end of a tar of this length, as the end of a sentence."""
    entries = [shard for split in manifest.splits.values() for shard in split.shards if shard.name == name]
    indexes = [index for entry in entries if (index := _read_index(folder, entry)[0]) is not None]
    lost = sum(np.count_nonzero(index["offset"] + index["length"] > length) for index in indexes)
    return f", so {lost:,} of its {sum(map(len, indexes)):,} samples are missing" if lost else ""


def _sample_problems(content: bytes, index: NDArray[np.void], manifest: Manifest) -> Iterator[str]:
    """Problems of samples, each with the sample's key and position."""
    if manifest.source.startswith(SOURCE_PREFIX):
        yield from _foreign_problems(content, index)
        return
    suffix = ENCODINGS[manifest.encoding]
    last = ""
    at = 0
    for number, (offset, length, label, digest) in enumerate(index.tolist()):
        try:
            key, written, at = _read_label(content, at)
            name, start, size, at = _read_header(content, at)
        except (tarfile.HeaderError, ValueError) as error:
            yield f"sample {number} at byte {at:,}: its tar header is damaged ({error})"
            return
        where = f"sample {number} ({key}) at byte {start:,}"
        if name != f"{key}.{suffix}" or f"{key}." <= last:  # the order of the members' names
            yield f"{where}: the member is called {name!r}, out of the order of the keys"
        last = f"{key}."
        if written != str(label).encode():
            yield f"{where}: its .cls says {written!r} and the index says {label}"
        if not 0 <= label < len(manifest.classes):
            yield f"{where}: the label {label} is outside the {len(manifest.classes)} classes"
        payload = content[start : start + size]
        if (start, size) != (offset, length):
            yield f"{where}: the index has it at byte {offset:,} with {length:,} bytes, the tar with {size:,}"
        elif xxhash.xxh3_64_intdigest(payload) != digest:
            yield f"{where}: its bytes were changed after they were written (XXH3-64 differs)"
        elif problem := _payload_problem(payload, manifest):
            yield f"{where}: {problem}"
    if content[at:].strip(b"\0"):
        yield f"there is more after the last of its {len(index)} samples, at byte {at:,}"


def _foreign_problems(content: bytes, index: NDArray[np.void]) -> Iterator[str]:
    """Problems of samples in other programs' tars, whose members have any names and order."""
    there = [(number, row) for number, row in enumerate(index.tolist()) if row[0] + row[1] <= len(content)]
    changed = [
        (number, offset)
        for number, (offset, length, _, digest) in there
        if xxhash.xxh3_64_intdigest(content[offset : offset + length]) != digest
    ]
    if len(changed) > 1 and len(changed) == len(there):
        yield f"all of its {len(there):,} samples have other bytes than when they were indexed, so it is another tar"
        return
    for number, offset in changed:
        yield f"sample {number} at byte {offset:,}: its bytes were changed since they were indexed"


def _read_label(content: bytes, at: int) -> tuple[str, bytes, int]:
    name, start, size, end = _read_header(content, at)
    if not name.endswith(".cls"):
        raise ValueError(f"{name!r} is not a label")
    return name.removesuffix(".cls"), content[start : start + size], end


def _read_header(content: bytes, at: int) -> tuple[str, int, int, int]:
    """Name, first byte and size of the member whose header is at `at`, and the byte after it."""
    info = tarfile.TarInfo.frombuf(content[at : at + tarfile.BLOCKSIZE], "ascii", "strict")
    start = at + tarfile.BLOCKSIZE
    return info.name, start, info.size, start + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _payload_problem(payload: bytes, manifest: Manifest) -> str | None:
    size = manifest.image_size
    if manifest.encoding == "raw":
        header = npy_header(size)
        whole = payload.startswith(header) and len(payload) == len(header) + size * size * 3
        return None if whole else f"is not a uint8 array of shape ({size}, {size}, 3)"
    try:
        shape = simplejpeg.decode_jpeg(payload, "RGB", strict=True).shape
    except ValueError as error:
        return f"does not decode ({error})"
    return None if shape == (size, size, 3) else f"has the shape {shape} and not ({size}, {size}, 3)"


def _list_problems(folder: Folder, name: str, field: str, counts: object) -> Iterator[str]:
    try:
        listed = Counter(orjson.loads(line)[field] for line in folder.read(name).splitlines())
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError) as error:
        yield f"{name}: is damaged ({error})"
    else:
        if dict(listed) != counts:
            yield f"{name}: lists {dict(sorted(listed.items()))} and the manifest counts {counts}"
