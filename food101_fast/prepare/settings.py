"""What is prepared, and how: the flags of `prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from food101_fast.errors import UserError
from food101_fast.images import Check, Fit, Rules
from food101_fast.limits import check_limits
from food101_fast.prepare.split import check_fractions
from food101_fast.processes import usable_cores
from food101_fast.shards.manifest import Duplicates, StoredSettings


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Decode, check, resize and write every image once, as WebDataset tars with stratified splits."""

    out: str | Path
    """Folder for the shards, a path or a URL such as s3://bucket/shards; created if needed."""
    source: str = "hub:ethz/food101"
    """hub:ID (a hub id or a local folder that datasets.load_dataset reads), folder:PATH (a path or URL with one
    folder per class), or demo: (drawn pictures, a few of them corrupt on purpose)."""
    size: Annotated[int, Ge(8), Le(4096)] = 192
    """Height and width of the stored images in pixels."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How images are stored: raw pixels, which load fastest, or JPEG, which takes about a seventh of the space."""
    quality: Annotated[int, Ge(1), Le(100)] = 90
    """JPEG quality from 1 to 100, for --encoding jpeg."""
    fit: Fit = "crop"
    """How an image becomes square: crop cuts both ends of the longer side, squash changes the aspect ratio."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # scikit-learn's range
    """Seed of the split, and of the pictures of demo:."""
    strict: bool = False
    """Also drop images with intact pixels but with something to note, such as broken metadata."""
    tolerant: bool = False
    """Also keep images with damaged pixels, as far as they can be decoded."""
    min_side: Annotated[int, Ge(1)] = 8
    """Drop images whose shorter side has fewer pixels."""
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

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        check_limits(self)
        if self.strict and self.tolerant:
            raise UserError("--strict and --tolerant cannot be combined; give one of them or neither")

    @property
    def rules(self) -> Rules:
        """Which files are accepted, and how they are stored."""
        check: Check = "strict" if self.strict else "tolerant" if self.tolerant else "default"
        return Rules(size=self.size, fit=self.fit, check=check, min_side=self.min_side)

    @property
    def stored(self) -> StoredSettings:
        """The settings that decide the bytes of the result, as the manifest records them."""
        return StoredSettings(
            image_size=self.size,
            encoding=self.encoding,
            quality=self.quality if self.encoding == "jpeg" else None,
            fit=self.fit,
            check=self.rules.check,
            min_side=self.min_side,
            duplicates=self.duplicates,
            samples_per_shard=self.samples_per_shard,
            limit=self.limit,
            seed=self.seed,
            fractions=self.fractions,
            source=self.source,
        )
