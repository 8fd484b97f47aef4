"""Lines of `rejects.jsonl` and `notes.jsonl`: which images were dropped, which were kept although something is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import orjson

from food101_fast.documents import parse
from food101_fast.shards.layout import NOTES_NAME, REJECTS_NAME
from food101_fast.storage.folder import Folder

_Line = TypeVar("_Line", "Reject", "NotedImage")

NO_LABEL = "no-label"
"""Reason of an image without a label."""
NO_IMAGE = "no-image"
"""Reason of a label, or a row, without an image."""

DUPLICATE = "duplicate"
"""Reason of a copy of another file."""
LABEL_CONFLICT = "label-conflict"
"""Reason of identical files whose labels differ."""
OVERLAY = "overlay"
"""Reason of a sample that an overlay left out when its shards were written from others."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A dropped image: a line of `rejects.jsonl`."""

    key: str
    """Key of the sample that it would have been."""
    file: str
    """Its name in the source, or the tar that it is in."""
    reason: str
    """The kind of reason, which the manifest counts."""
    detail: str
    """What the decoder said, or the file that it is a copy of."""


@dataclass(frozen=True, kw_only=True)
class NotedImage:
    """A kept image with something to note: a line of `notes.jsonl`."""

    key: str
    """Key of the sample."""
    file: str
    """Its name in the source, or the tar that it is in."""
    note: str
    """The kind of note, which the manifest counts."""
    detail: str
    """What the decoder said."""


def read_rejects(folder: Folder) -> list[Reject]:
    """The lines of `rejects.jsonl` in a folder of shards.

    Raises:
        UserError: they are damaged.
    """
    return _read(folder, REJECTS_NAME, Reject)


def read_notes(folder: Folder) -> list[NotedImage]:
    """The lines of `notes.jsonl` in a folder of shards.

    Raises:
        UserError: they are damaged.
    """
    return _read(folder, NOTES_NAME, NotedImage)


def _read(folder: Folder, name: str, kind: type[_Line]) -> list[_Line]:
    where = f"{folder.url}/{name}"
    return [parse(line, kind, where=where, advice="restore it from a copy") for line in folder.read(name).splitlines()]


def to_lines(images: Iterable[Reject | NotedImage]) -> bytes:
    """The content of a `.jsonl` file, sorted by key."""
    ordered = sorted(images, key=lambda image: image.key)
    return b"".join(orjson.dumps(image, option=orjson.OPT_APPEND_NEWLINE) for image in ordered)


def count(kinds: Iterable[str]) -> dict[str, int]:
    """How often each kind of reason or note occurs, sorted by kind."""
    return dict(sorted(Counter(kinds).items()))
