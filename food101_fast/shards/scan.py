"""Samples of a WebDataset tar that another program wrote, each decoded once."""

from __future__ import annotations

import mmap
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import orjson
import xxhash

from food101_fast.errors import UserError
from food101_fast.images import RejectedError, Rules, Scratch, clean
from food101_fast.resources import machine_advice
from food101_fast.shards.layout import npy_header
from food101_fast.shards.rejects import NotedImage, Reject
from food101_fast.storage import Folder, LocalFolder

INCOMPLETE = "incomplete"
IMAGES = ("jpg", "jpeg", "png", "webp", "npy")
"""Suffixes of members that are images; of several in a sample the first in this order is used."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")

_BROKEN = "fetch or write it again"

Label = int | str


@dataclass(frozen=True, kw_only=True)
class Found:
    """The samples of a tar."""

    name: str
    bytes: int
    xxh3_64: str
    spans: list[tuple[int, int, int]]
    """Offset, length and XXH3-64 of each image's file."""
    labels: list[Label]
    rejects: list[Reject]
    notes: list[NotedImage]
    raw: bool
    """Whether every image is a NumPy array of exactly the stored size."""


def scan_tar(folder: Folder, name: str, *, rules: Rules, label_field: str) -> Found:
    """Find the samples of one tar and decode each of them.

    Raises:
        UserError: the tar can't be read, is truncated or damaged, or a label is missing from its `.json`.
    """
    where = f"{folder.url}/{name}"
    file = _content(folder, name)
    content = memoryview(file) if isinstance(file, mmap.mmap) else file.getbuffer()
    if bytes(content[:6]).startswith(_COMPRESSED):
        raise UserError(
            f"{where} is compressed; unpack it first, since samples are read from the tar by their position"
        )
    header = npy_header(rules.size)
    scratch = Scratch()
    spans, labels, rejects, notes = [], [], [], []
    raw = True
    for key, members in _samples(file, len(content), where):
        image = next((suffix for suffix in IMAGES if suffix in members), None)
        label = _label(content, members, f"{where}, sample {key}", label_field)
        if image is None or label is None:
            lacks = f"no image ({', '.join(IMAGES)})" if image is None else "no label (cls, json)"
            rejects.append(Reject(key=key, file=name, reason=INCOMPLETE, detail=f"the sample has {lacks}"))
            continue
        offset, length = members[image]
        payload = bytes(content[offset : offset + length])
        try:
            cleaned = clean(payload, rules, scratch)
        except RejectedError as error:
            rejects.append(Reject(key=key, file=name, reason=error.reason, detail=error.detail))
            continue
        if cleaned.note is not None:
            notes.append(NotedImage(key=key, file=name, note=cleaned.note.kind, detail=cleaned.note.detail))
        raw = raw and payload.startswith(header) and length == len(header) + rules.size**2 * 3
        spans.append((offset, length, xxhash.xxh3_64_intdigest(payload)))
        labels.append(label)
    return Found(
        name=name,
        bytes=len(content),
        xxh3_64=xxhash.xxh3_64_hexdigest(content),
        spans=spans,
        labels=labels,
        rejects=rejects,
        notes=notes,
        raw=raw,
    )


def _content(folder: Folder, name: str) -> mmap.mmap | BytesIO:
    """A tar as a file in memory, mapped if it is on a disk."""
    try:
        if not isinstance(folder, LocalFolder):
            return BytesIO(folder.read(name))
        with (folder.path / name).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        advice = machine_advice(error) or "correct the path"
        raise UserError(f"{folder.url}/{name} can't be read ({error.strerror or error}); {advice}") from error
    except ValueError as error:  # what mmap says of an empty file
        raise UserError(f"{folder.url}/{name} is empty; {_BROKEN}") from error


def _samples(file: mmap.mmap | BytesIO, size: int, where: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key, and offset and length by suffix, of each run of members that share a key.

    As WebDataset defines it, the key ends at the first dot of the file name.
    """
    current: str | None = None
    members: dict[str, tuple[int, int]] = {}
    for info in _members(file, size, where):
        folder, slash, base = info.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        if not info.isreg() or not stem:
            continue
        key = folder + slash + stem
        if key != current and members:
            yield str(current), members
            members = {}
        current = key
        members[suffix.lower()] = (info.offset_data, info.size)
    if members:
        yield str(current), members


def _members(file: mmap.mmap | BytesIO, size: int, where: str) -> Iterator[tarfile.TarInfo]:
    """The members of a complete tar. tarfile itself takes a damaged header, or a missing end, for the end."""
    if not size:
        raise UserError(f"{where} is empty; {_BROKEN}")
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: mmap's for a seek past the end
        raise UserError(f"{where} is not a complete tar ({error}); {_BROKEN}") from error
    if end >= size:
        raise UserError(
            f"{where} ends after byte {size:,} without the mark of a tar's end, so it is truncated; {_BROKEN}"
        )
    file.seek(end)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise UserError(f"{where} has a damaged header at byte {end:,}; {_BROKEN}")


def _label(content: memoryview, members: dict[str, tuple[int, int]], where: str, label_field: str) -> Label | None:
    if "cls" in members:
        offset, length = members["cls"]
        text = bytes(content[offset : offset + length]).decode("utf-8", "replace").strip()
        return int(text) if re.fullmatch(r"-?\d+", text) else text
    if "json" not in members:
        return None
    offset, length = members["json"]
    try:
        document = orjson.loads(content[offset : offset + length])
    except ValueError as error:
        raise UserError(f"{where}: its .json can't be read ({error}); repair it") from error
    label = document.get(label_field) if isinstance(document, dict) else None
    if not isinstance(label, int | str) or isinstance(label, bool):
        fields = ", ".join(document) if isinstance(document, dict) else "none"
        raise UserError(
            f"{where}: its .json has no number or text in the field {label_field!r} (its fields: {fields}); "
            "name the right one with --label-field"
        )
    return label
