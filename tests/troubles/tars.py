"""Small tars that another program could have written."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from food101_fast.images import Rules
from food101_fast.shards import Manifest, ShardSet
from food101_fast.shards.foreign import IndexOptions, write_index
from tests.conftest import encoded, picture

RULES = Rules(size=16)
_PILLOW_NAMES = {"jpg": "JPEG", "tif": "TIFF"}


@dataclass(frozen=True)
class Link:
    """The content of a member that is a link."""

    target: str
    hard: bool = False


Members = list[tuple[str, bytes | Link]]
"""Name and content of each member of a tar, in its order."""


def image(number: int, kind: str = "png") -> bytes:
    """A picture of 16 x 16 pixels, another for each number."""
    if kind == "npy":
        stream = io.BytesIO()
        np.save(stream, np.asarray(picture(number, 16, 16)))
        return stream.getvalue()
    return encoded(picture(number, 16, 16), _PILLOW_NAMES.get(kind, kind.upper()))


def tar_bytes(members: Sequence[tuple[str, bytes | Link]]) -> bytes:
    """A tar with these members in this order, also if names repeat."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, Link):
                info.type = tarfile.LNKTYPE if content.hard else tarfile.SYMTYPE
                info.linkname = content.target
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes | Link]]) -> Path:
    """Write a tar; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def pairs(count: int, *, first: int = 0, name: str = "{}", kind: str = "jpg") -> Members:
    """Members of whole samples: image `number` has the label `number % 3`."""
    numbers = range(first, first + count)
    made = [
        ((f"{name.format(number)}.{kind}", image(number, kind)), (f"{name.format(number)}.cls", b"%d" % (number % 3)))
        for number in numbers
    ]
    return [member for pair in made for member in pair]


def index(*tars: Path | str, classes: list[str] | None = None, **options: Any) -> Manifest:
    """Index tars, and check that nothing is lost without being counted."""
    folder, manifest = write_index([str(tar) for tar in tars], RULES, IndexOptions(**options), classes=classes)
    lines = rejects(Path(folder.url))
    assert manifest.read == sum(split.samples for split in manifest.splits.values()) + len(lines)
    assert sum(manifest.rejects.values()) == len(lines)
    return manifest


def rejects(folder: Path) -> list[dict[str, str]]:
    """The lines of `rejects.jsonl`."""
    return [orjson.loads(line) for line in (folder / "rejects.jsonl").read_bytes().splitlines()]


def labels(folder: Path, split: str = "train") -> list[str]:
    """Class names of the samples of a split, all of which are read."""
    shards = ShardSet.open(folder)
    samples = shards.split(split)
    for sample in range(len(samples)):
        assert samples[sample].any()
    return [shards.classes[label] for label in samples.labels.tolist()]
