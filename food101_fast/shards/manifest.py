"""The manifest: what a folder of shards contains. It is written last, so a folder that has one is complete."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import orjson
import xxhash

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.images import MAX_PIXELS, Check, Decode, Fit
from food101_fast.resources import machine_advice
from food101_fast.shards.layout import FORMAT_VERSION, MANIFEST_NAME, SOURCE_PREFIX, SPLITS, index_name
from food101_fast.storage import Folder

Duplicates = Literal["drop", "keep"]
SplitBy = Literal["stratified", "source"]
Rare = Literal["refuse", "to-train", "drop"]

_FORMAT = "food101_fast"
_ADVICE = "remove the folder and prepare it again"
# The folder has the user's own tars, perhaps their only copy. It must not be removed.
_INDEX_ADVICE = f"remove this {MANIFEST_NAME}, and index the tars again with `shards index ... --replace`"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar file of a split."""

    name: str
    """File name. Tars of other programs may be in folders below the manifest's: then a path with `/`."""
    samples: int
    bytes: int
    """Size of the tar file."""
    xxh3_64: str
    """XXH3-64 of the whole tar file, 16 hexadecimal digits."""
    index_xxh3_64: str
    """XXH3-64 of its index file, 16 hexadecimal digits."""
    index: str | None = None
    """File name of its index, beside it, if another split has samples of the same tar; None for `index_name(name)`."""

    @property
    def index_path(self) -> str:
        """Path of its index in the manifest's folder."""
        return index_name(self.name) if self.index is None else posixpath.join(posixpath.dirname(self.name), self.index)


@dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """One split: its shards in order, and how many samples of each class they have."""

    samples: int
    class_counts: tuple[int, ...]
    """Samples of each class, in the order of the manifest's `classes`."""
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A data set before images were appended."""

    digest: str
    """Digest of its manifest."""
    samples: int
    """Samples of all its splits."""


@dataclass(frozen=True, kw_only=True)
class StoredSettings:
    """The settings that decide the bytes of a data set. With the files of the source they decide all of them."""

    image_size: int
    """Height and width of the stored images in pixels."""
    encoding: Literal["raw", "jpeg", "any"]
    """How images are stored; `any` in tars that other programs wrote."""
    quality: int | None
    """JPEG quality from 1 to 100; None for raw."""
    fit: Fit
    """How an image became square."""
    check: Check
    """Which images were dropped."""
    min_side: int
    """Images whose shorter side has fewer pixels were dropped."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels were dropped."""
    duplicates: Duplicates
    """What became of identical files."""
    samples_per_shard: int
    """Most samples in one tar."""
    limit: int | None
    """Most images that were used; None for all."""
    seed: int
    """Decides the split."""
    fractions: tuple[float, float, float]
    """Shares of train, val and test."""
    source: str
    """`--source` as it was given."""
    # Settings below have a default, which the file leaves out: manifests from before they existed stay the same.
    decode: Decode = "scaled"
    """Whether JPEGs were decoded at a reduced DCT scale."""
    split_by: SplitBy = "stratified"
    """Whether all images were split anew, or the splits of the source were kept."""
    val_fraction: float = 0.1
    """Share of the source's training images that became val; only where the source's splits were kept."""
    test_fraction: float = 0.0
    """Share of the source's training images that became test; only where the source's splits were kept."""
    map_splits: tuple[str, ...] = ()
    """What each split of the source became, as NAME=SPLIT, where that was given."""
    group_by: str | None = None
    """Column or pattern of the groups that stay in one split."""
    only_classes: tuple[str, ...] = ()
    """Classes that were chosen; empty for all."""
    exclude_classes: tuple[str, ...] = ()
    """Classes that were left out."""
    min_images: int = 1
    """Classes with fewer images were left out."""
    rare: Rare = "refuse"
    """What became of classes with too few images for every split."""
    columns: tuple[str, ...] = ()
    """Columns of a table by what they mean, as MEANING=COLUMN, where that was given."""
    config: str | None = None
    """Configuration of the data set on the hub."""
    revision: str | None = None
    """Revision of the data set on the hub."""
    image_column: str | None = None
    """Column with the images, where it was given."""
    label_column: str | None = None
    """Column with the labels, where it was given."""


@dataclass(frozen=True, kw_only=True)
class Manifest(StoredSettings):
    """Everything about a data set but its pixels; equal input and settings give an equal manifest."""

    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    fingerprint: str
    """16 hexadecimal digits that change with the files of the source."""
    read: int
    """Images that were read; equals the samples of all splits plus all rejects."""
    rejects: Mapping[str, int]
    """Dropped images by reason."""
    notes: Mapping[str, int]
    """Kept images about which there is something to note, by kind."""
    splits: Mapping[str, SplitEntry]
    given_splits: Mapping[str, str] = field(default_factory=dict)
    """What each split of the source became, by its name there; empty where all images were split anew."""
    mixed_splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Images of each split of the source in each split here, where the source's splits were joined and split anew."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Classes that were left out, and the images of each, which were not read."""
    overlays: tuple[str, ...] = ()
    """Digests of the overlays that are applied, or were applied when the shards were written (`apply-overlay`)."""
    overlaid_splits: tuple[str, ...] = ()
    """Splits that these overlays change."""
    lineage: tuple[Earlier, ...] = ()
    """What the folder was before images were appended, the oldest first. Its shards are the first of each split."""

    def to_json(self) -> bytes:
        """The content of `manifest.json`."""
        document = self._document() | {"digest": self.digest}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def _document(self) -> dict[str, Any]:
        # `classes` has its position in the file from here, and its value again from the fields. A field with a default
        # is younger than the format: without it while it has this value, the manifests of earlier versions stay equal.
        defaults = {field.name: _default(field) for field in fields(self)}
        values = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        for split in values["splits"].values():
            for shard in split["shards"]:
                if shard["index"] is None:  # as above
                    del shard["index"]
        return {"format": _FORMAT, "version": FORMAT_VERSION, "classes": self.classes, **values}

    @property
    def digest(self) -> str:
        """XXH3-64 of everything else in the manifest, 16 hexadecimal digits: the identity of the data set."""
        return xxhash.xxh3_64_hexdigest(orjson.dumps(self._document()))

    @property
    def advice(self) -> str:
        """What to do if files of the data set are damaged. Tars of other programs may be the user's only copy."""
        if self.source.startswith(SOURCE_PREFIX):
            return "fetch damaged tars again, then run `shards index ... --replace`"
        return "restore the folder from a copy, or remove it and make it again"

    @property
    def val_advice(self) -> str:
        """How to get a val split, where there is none."""
        if not self.source.startswith(SOURCE_PREFIX):
            return "prepare the images again with a share for val"
        if "train" not in self.splits:
            return "index again with tars of train and val, and --replace"
        return "index again with --val-fraction 0.1 --replace, or with tars of val too"


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()  # MISSING equals no value


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What is looked at before the rest: is it a manifest of ours, and one that this version reads?"""

    format: Any = None
    version: Any = None
    digest: str = ""


def write_manifest(manifest: Manifest, folder: Folder) -> None:
    """Write `manifest.json` atomically: a reader sees the whole file or none."""
    folder.write(MANIFEST_NAME, manifest.to_json())


def read_manifest(folder: Folder) -> Manifest:
    """Read and check the manifest of `folder`.

    Raises:
        UserError: the folder is missing or unfinished, of another format version, or the manifest is damaged.
    """
    path = f"{folder.url}/{MANIFEST_NAME}"
    content = _read(folder, path)
    advice = _INDEX_ADVICE if f'"{SOURCE_PREFIX}'.encode() in content else _ADVICE
    header = parse(content, _Header, where=path, advice=advice)
    if header.format != _FORMAT:
        raise UserError(
            f"{path} was written by another program, so {folder.url} is not a folder of shards; give another folder"
        )
    if header.version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {header.version!r} and this program reads version {FORMAT_VERSION}; "
            f"{advice}, or use the program that wrote it"
        )
    manifest = parse(content, Manifest, where=path, advice=advice)
    problem = _problem(manifest)
    if problem is None and header.digest != manifest.digest:
        problem = "it was changed after it was written"
    if problem is not None:
        raise UserError(f"{path} is damaged ({problem}); {advice}")
    return manifest


def _read(folder: Folder, path: str) -> bytes:
    try:
        return folder.read(MANIFEST_NAME)
    except FileNotFoundError as error:
        if not folder.exists():
            raise UserError(
                f"there is no shards folder {folder.url}; make one with `python -m food101_fast.prepare`"
            ) from error
        raise UserError(
            f"{folder.url} has no {MANIFEST_NAME}, so it is not a finished folder of shards; make shards of a folder "
            "of images with `python -m food101_fast.prepare`, or finish an interrupted one with the same command"
        ) from error
    except OSError as error:
        advice = machine_advice(error) or "check the connection, permissions and keys"
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {advice}") from error


def _problem(manifest: Manifest) -> str | None:
    """What is wrong with the numbers and names of a manifest whose types are right; None if all is well."""
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        return "class names are missing or not unique"
    if not manifest.splits or not set(manifest.splits) <= set(SPLITS):
        return f"splits are {sorted(manifest.splits)} and should be among {list(SPLITS)}"
    for name, split in manifest.splits.items():
        if problem := _split_problem(name, split, len(manifest.classes)):
            return problem
    written = sum(split.samples for split in manifest.splits.values())
    if manifest.read != written + sum(manifest.rejects.values()):
        return "the images read are not the images written plus those dropped"
    return None


def _split_problem(name: str, split: SplitEntry, classes: int) -> str | None:
    if min((split.samples - 1, *split.class_counts, *(min(shard.samples, shard.bytes) for shard in split.shards))) < 0:
        return f"the split {name} has no samples, or a count below 0"
    if len(split.class_counts) != classes or sum(split.class_counts) != split.samples:
        return f"the class counts of {name} do not add up to its samples"
    if sum(shard.samples for shard in split.shards) != split.samples:
        return f"the shards of {name} do not add up to its samples"
    wrong = next((shard for shard in split.shards if not _is_inside(shard)), None)
    if wrong is None:
        return None
    return f"a shard's name should be a plain file name, or a path below the folder, and is {wrong.name!r}"


def _is_inside(shard: ShardEntry) -> bool:
    """Whether the files of a shard are in the manifest's folder or below."""
    parts = shard.name.split("/") + ([] if shard.index is None else [shard.index])
    return all(part not in ("", "..") and Path(part).name == part for part in parts)
