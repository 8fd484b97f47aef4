"""What is prepared, and how: the flags of `prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from food101_fast.errors import UserError
from food101_fast.images import MAX_PIXELS, Check, Decode, Fit, Rules
from food101_fast.limits import check_limits
from food101_fast.prepare.sources import SourceOptions
from food101_fast.prepare.split import check_fractions
from food101_fast.processes import usable_cores
from food101_fast.shards.manifest import Duplicates, Rare, SplitBy, StoredSettings
from food101_fast.storage import readable


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Decode, check, resize and write every image once, as WebDataset tars with stratified splits."""

    out: str | Path
    """Folder for the shards, a path or a URL such as s3://bucket/shards; created if needed."""
    source: str = "hub:ethz/food101"
    """hub:ID (a hub id or a local folder that datasets.load_dataset reads), folder:PATH (a path or URL with one
    folder per class, or with split folders that have one), table:FILE (CSV, TSV, JSON Lines or Parquet with a file and
    a label in each row), or demo: (drawn pictures, a few of them corrupt on purpose)."""
    columns: tuple[str, ...] = ()
    """Columns of a table where their names do not say it, such as file=path label=category split=fold."""
    config: str | None = None
    """Configuration of a hub data set that has several."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    image_column: str | None = None
    """Column of a hub data set with the images, if there are several."""
    label_column: str | None = None
    """Column of a hub data set with the labels, if there are several."""
    classes: tuple[str, ...] = ()
    """Use only these classes."""
    exclude_classes: tuple[str, ...] = ()
    """Leave these classes out."""
    min_images: Annotated[int, Ge(1)] = 1
    """Leave out classes with fewer images."""
    rare: Rare = "refuse"
    """Classes with too few images for every split: refuse ends with their names before anything is decoded, to-train
    puts all their images into train, drop leaves these classes out."""
    size: Annotated[int, Ge(8), Le(4096)] = 192
    """Height and width of the stored images in pixels."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How images are stored: raw pixels, which load fastest, or JPEG, which takes about a seventh of the space."""
    quality: Annotated[int, Ge(1), Le(100)] = 90
    """JPEG quality from 1 to 100, for --encoding jpeg."""
    fit: Fit = "crop"
    """How an image becomes square: crop cuts both ends of the longer side, squash changes the aspect ratio."""
    decode: Decode = "scaled"
    """scaled decodes a JPEG at the smallest size of 1/8, 2/8, ... 8/8 that is not below --size; full decodes all its
    pixels, which takes longer and gives slightly other pixels."""
    splits: SplitBy = "stratified"
    """stratified joins all images and splits them by --fractions, with every class in proportion. source keeps the
    splits that the source has; if it has only one besides train, that one is test, and val is cut from train."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test, for --splits stratified."""
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    """With --splits source: share of train that becomes val if the source has no val."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    """With --splits source: share of train that becomes test if the source has no test; 0 makes none."""
    map_splits: tuple[str, ...] = ()
    """With --splits source: what splits of the source become, such as extra=train validation=val noisy=drop."""
    group_by: str | None = None
    """Keep images of one group (a patient, a camera) in one split. A column of the source, or a regular expression
    that is searched in each path below the source: its (...), or else the whole match, is the group."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # scikit-learn's range
    """Seed of the split, and of the pictures of demo:."""
    strict: bool = False
    """Also drop images with intact pixels but with something to note, such as broken metadata."""
    tolerant: bool = False
    """Also keep images with damaged pixels, as far as they can be decoded."""
    min_side: Annotated[int, Ge(1)] = 8
    """Drop images whose shorter side has fewer pixels."""
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    """Drop images with more pixels (height x width); decoding one takes up to 4 bytes for each of its pixels."""
    duplicates: Duplicates = "drop"
    """Identical files: drop keeps the first, or none if their labels differ; keep keeps all, and reads the source once
    instead of twice."""
    workers: Annotated[int, Ge(1)] = field(default_factory=usable_cores)
    """Processes that decode. Their number does not change the result."""
    executor: Literal["local", "ray"] = "local"
    """Processes on this machine, or a Ray cluster."""
    ray_address: str | None = None
    """Address of the Ray cluster; the default is RAY_ADDRESS, or a cluster that is started on this machine."""
    samples_per_shard: Annotated[int, Ge(1)] = 500
    """Maximum number of samples in one tar."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use only this many images, every class in proportion."""
    append: bool = False
    """Add the files that are new in the source to a finished folder, as new shards; its images stay where they are."""

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        check_limits(self)
        if self.strict and self.tolerant:
            raise UserError("--strict and --tolerant cannot be combined; give one of them or neither")
        if self.append and self.limit is not None:
            raise UserError("--append and --limit cannot be combined; leave one out")
        self._check_splits()

    def _check_splits(self) -> None:
        for name in ("val_fraction", "test_fraction", "map_splits"):
            if self.splits != "source" and getattr(self, name) != getattr(type(self), name):
                raise UserError(f"--{name.replace('_', '-')} is for --splits source; give that, too, or leave it out")
        if self.splits == "source" and self.fractions != type(self).fractions:
            raise UserError("--fractions is for --splits stratified; with source give --val-fraction, --test-fraction")
        if self.val_fraction + self.test_fraction >= 1:
            raise UserError("--val-fraction and --test-fraction leave nothing to train on; make them smaller")
        pairs("--map-splits", self.map_splits)
        columns = [word for text in self.columns for word in text.split(",")]
        if self.group_by is None and any(word.startswith("group=") for word in columns):
            raise UserError("--columns group=NAME only says where groups are; give --group-by group, too, to use them")

    @property
    def rules(self) -> Rules:
        """Which files are accepted, and how they are stored."""
        check: Check = "strict" if self.strict else "tolerant" if self.tolerant else "default"
        return Rules(
            size=self.size, fit=self.fit, decode=self.decode, check=check, min_side=self.min_side,
            max_pixels=self.max_pixels,
        )  # fmt: skip

    @property
    def source_options(self) -> SourceOptions:
        """What decides, with `source`, what is listed."""
        return SourceOptions(
            seed=self.seed,
            columns=pairs("--columns", self.columns),
            config=self.config,
            revision=self.revision,
            image_column=self.image_column,
            label_column=self.label_column,
        )

    @property
    def stored(self) -> StoredSettings:
        """The settings that decide the bytes of the result, as the manifest records them."""
        return StoredSettings(
            image_size=self.size,
            encoding=self.encoding,
            quality=self.quality if self.encoding == "jpeg" else None,
            fit=self.fit,
            decode=self.decode,
            check=self.rules.check,
            min_side=self.min_side,
            max_pixels=self.max_pixels,
            duplicates=self.duplicates,
            samples_per_shard=self.samples_per_shard,
            limit=self.limit,
            seed=self.seed,
            fractions=self.fractions,
            source=readable(self.source),
            split_by=self.splits,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            map_splits=self.map_splits,
            group_by=self.group_by,
            only_classes=self.classes,
            exclude_classes=self.exclude_classes,
            min_images=self.min_images,
            rare=self.rare,
            columns=self.columns,
            config=self.config,
            revision=self.revision,
            image_column=self.image_column,
            label_column=self.label_column,
        )


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """The values of a flag that takes NAME=VALUE, several times.

    Raises:
        UserError: one has no `=`, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise UserError(f"{flag} {' '.join(texts)} should be NAME=VALUE, each name once; correct {text!r}")
        found[name] = value
    return found
