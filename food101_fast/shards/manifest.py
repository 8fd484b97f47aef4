"""The manifest: what a folder of shards holds. It is written last, so a folder that has one is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from food101_fast.errors import UserError
from food101_fast.shards.layout import ENCODINGS, FOREIGN, FORMAT_VERSION, MANIFEST_NAME, SPLITS
from food101_fast.storage import Folder


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
    quality: int | None
    """JPEG quality; None for raw."""
    fit: str
    check: str
    min_side: int
    duplicates: str
    samples_per_shard: int
    limit: int | None
    seed: int
    fractions: tuple[float, float, float]
    source: str
    fingerprint: str
    read: int
    """Images that were read; equals the samples of all splits plus all rejects."""
    rejects: Mapping[str, int]
    """Dropped images by reason."""
    notes: Mapping[str, int]
    """Kept images about which there is something to note, by kind."""
    splits: Mapping[str, SplitEntry]

    def to_json(self) -> bytes:
        """The manifest as it lies in `manifest.json`."""
        document = self._document() | {"digest": self.digest}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def _document(self) -> dict[str, Any]:
        return {"format": "food101_fast", "version": FORMAT_VERSION, **asdict(self)}

    @property
    def digest(self) -> str:
        """XXH3-64 of everything else in the manifest, 16 hexadecimal digits: the identity of the data set."""
        return xxhash.xxh3_64_hexdigest(orjson.dumps(self._document()))


def write_manifest(manifest: Manifest, folder: Folder) -> None:
    """Put `manifest.json` in place atomically: no reader ever sees a part of it."""
    folder.write(MANIFEST_NAME, manifest.to_json())


def read_manifest(folder: Folder) -> Manifest:
    """Read and check the manifest of `folder`.

    Raises:
        UserError: the folder is missing or unfinished, of another format version, or the manifest is damaged.
    """
    path = f"{folder.url}/{MANIFEST_NAME}"
    try:
        content = folder.read(MANIFEST_NAME)
    except FileNotFoundError as error:
        if not folder.exists():
            raise UserError(
                f"there is no shards folder {folder.url}; make one with `python -m food101_fast.prepare`"
            ) from error
        raise UserError(
            f"{folder.url} has no {MANIFEST_NAME}, so it is no finished set of shards; "
            "if prepare was broken off there, the same command goes on with it"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); see to the connection, permission or keys"
        ) from error
    try:
        document = _typed(orjson.loads(content), dict, "the manifest")
        if document.get("format") != "food101_fast":
            raise UserError(f"{path} is another program's, so {folder.url} is no set of shards; give another folder")
        version = document["version"]
    except (ValueError, KeyError, TypeError) as error:
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


def _damaged(path: str, error: Exception) -> UserError:
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
    encoding = _typed(document["encoding"], str, "encoding")
    if encoding not in (*ENCODINGS, FOREIGN):
        raise ValueError(f"the encoding is {encoding!r} and should be one of {', '.join((*ENCODINGS, FOREIGN))}")
    manifest = Manifest(
        classes=classes,
        image_size=_count(document["image_size"], "image_size"),
        encoding=encoding,
        quality=_optional_count(document["quality"], "quality"),
        fit=_typed(document["fit"], str, "fit"),
        check=_typed(document["check"], str, "check"),
        min_side=_count(document["min_side"], "min_side"),
        duplicates=_typed(document["duplicates"], str, "duplicates"),
        samples_per_shard=_count(document["samples_per_shard"], "samples_per_shard"),
        limit=_optional_count(document["limit"], "limit"),
        seed=_typed(document["seed"], int, "seed"),
        fractions=(train, val, test),
        source=_typed(document["source"], str, "source"),
        fingerprint=_typed(document["fingerprint"], str, "fingerprint"),
        read=_count(document["read"], "read"),
        rejects=_counts(document["rejects"], "rejects"),
        notes=_counts(document["notes"], "notes"),
        splits=splits,
    )
    written = sum(split.samples for split in splits.values())
    if manifest.read != written + sum(manifest.rejects.values()):
        raise ValueError("the images read are not the images written plus those dropped")
    if document["digest"] != manifest.digest:
        raise ValueError("it was changed after it was written")
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


def _optional_count(value: Any, name: str) -> int | None:
    return None if value is None else _count(value, name)


def _counts(value: Any, name: str) -> dict[str, int]:
    return {_typed(key, str, f"a key of {name}"): _count(n, name) for key, n in _typed(value, dict, name).items()}


def _file_name(value: Any) -> str:
    name: str = _typed(value, str, "a shard's name")
    if Path(name).name != name:
        raise ValueError(f"a shard's name should be a plain file name and is {name!r}")
    return name
