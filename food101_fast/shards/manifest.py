"""The manifest: what a folder of shards holds. It is written last, so a folder that has one is complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from food101_fast.errors import UserError
from food101_fast.shards.layout import FORMAT_VERSION, MANIFEST_NAME, SPLITS


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar file of a split."""

    name: str
    samples: int
    bytes: int
    """Size of the tar file."""
    xxh3_64: str
    """XXH3-64 of the whole tar file, 16 hexadecimal digits."""
    index_xxh3_64: str
    """XXH3-64 of its index file."""


@dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """One split: its shards in order, and how many samples of each class they hold."""

    samples: int
    class_counts: tuple[int, ...]
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a data set but its pixels; equal input and settings give an equal manifest."""

    classes: tuple[str, ...]
    image_size: int
    encoding: str
    fit: str
    seed: int
    fractions: tuple[float, float, float]
    source: str
    fingerprint: str
    read: int
    """Images that were read; equals the samples of all splits plus all rejects."""
    rejects: Mapping[str, int]
    """Dropped images by reason."""
    splits: Mapping[str, SplitEntry]

    def to_json(self) -> bytes:
        """The manifest as it lies in `manifest.json`."""
        document = {"format": "food101_fast", "version": FORMAT_VERSION, **asdict(self)}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @property
    def digest(self) -> str:
        """XXH3-64 of the manifest, 16 hexadecimal digits: the identity of the data set."""
        return xxhash.xxh3_64_hexdigest(self.to_json())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Put `manifest.json` in place atomically: no reader ever sees a part of it."""
    write_atomically(folder / MANIFEST_NAME, manifest.to_json())


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, flush it to the disk, and rename it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of `folder`.

    Raises:
        UserError: the folder is missing or unfinished, of another format version, or the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise UserError(f"there is no shards folder {folder}; make one with `python -m food101_fast.prepare`")
    if not path.is_file():
        raise UserError(
            f"{folder} has no {MANIFEST_NAME}, so it is no finished set of shards; "
            f"run `python -m food101_fast.prepare --out {folder}` to the end"
        )
    try:
        document = _typed(orjson.loads(path.read_bytes()), dict, "the manifest")
        version = document["version"] if document["format"] == "food101_fast" else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version!r} and this program reads version {FORMAT_VERSION}; "
            "remove the folder and prepare it again, or use the program that wrote it"
        )
    try:
        return _parse(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return UserError(f"{path} is damaged ({reason}); remove the folder and prepare it again")


def _parse(document: dict[str, Any]) -> Manifest:
    classes = tuple(_typed(name, str, "a class name") for name in _typed(document["classes"], list, "classes"))
    if not classes or len(set(classes)) != len(classes):
        raise ValueError("class names are missing or not unique")
    splits = {
        name: _parse_split(name, split, len(classes))
        for name, split in _typed(document["splits"], dict, "splits").items()
    }
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"splits are {sorted(splits)} and should be among {list(SPLITS)}")
    train, val, test = (float(part) for part in _typed(document["fractions"], list, "fractions"))
    rejects = _typed(document["rejects"], dict, "rejects")
    manifest = Manifest(
        classes=classes,
        image_size=_count(document["image_size"], "image_size"),
        encoding=_typed(document["encoding"], str, "encoding"),
        fit=_typed(document["fit"], str, "fit"),
        seed=_typed(document["seed"], int, "seed"),
        fractions=(train, val, test),
        source=_typed(document["source"], str, "source"),
        fingerprint=_typed(document["fingerprint"], str, "fingerprint"),
        read=_count(document["read"], "read"),
        rejects={_typed(reason, str, "a reason"): _count(n, "rejects") for reason, n in rejects.items()},
        splits=splits,
    )
    written = sum(split.samples for split in splits.values())
    if manifest.read != written + sum(manifest.rejects.values()):
        raise ValueError("the images read are not the images written plus those dropped")
    return manifest


def _parse_split(name: str, document: Any, classes: int) -> SplitEntry:
    entry = SplitEntry(
        samples=_count(document["samples"], "samples"),
        class_counts=tuple(_count(n, "class_counts") for n in document["class_counts"]),
        shards=tuple(
            ShardEntry(
                name=_file_name(shard["name"]),
                samples=_count(shard["samples"], "samples"),
                bytes=_count(shard["bytes"], "bytes"),
                xxh3_64=_typed(shard["xxh3_64"], str, "xxh3_64"),
                index_xxh3_64=_typed(shard["index_xxh3_64"], str, "index_xxh3_64"),
            )
            for shard in _typed(document["shards"], list, "shards")
        ),
    )
    if not entry.samples:
        raise ValueError(f"the split {name} has no samples")
    if len(entry.class_counts) != classes or sum(entry.class_counts) != entry.samples:
        raise ValueError(f"the class counts of {name} do not add up to its samples")
    if sum(shard.samples for shard in entry.shards) != entry.samples:
        raise ValueError(f"the shards of {name} do not add up to its samples")
    return entry


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} should be of type {kind.__name__} and is {value!r:.40}")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{name} should be a number from 0 and is {value!r:.40}")
    return value


def _file_name(value: Any) -> str:
    name: str = _typed(value, str, "a shard's name")
    if Path(name).name != name:
        raise ValueError(f"a shard's name should be a plain file name and is {name!r}")
    return name
