"""A finished folder of shards, opened for reading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from food101_fast.errors import UserError
from food101_fast.shards.cache import CacheSettings, cache_settings
from food101_fast.shards.manifest import Manifest, read_manifest
from food101_fast.shards.overlay import Changes, as_locations, changed_manifest, changes_of, read_overlay
from food101_fast.shards.split import Split, Verify
from food101_fast.shards.webdataset import Decode, as_webdataset
from food101_fast.storage import Folder, LocalFolder, open_folder, readable


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).expanduser().absolute())


class ShardSet:
    """A finished folder of shards, on a disk or behind a URL.

    Picklable: a copy in another process opens the files there.

    Attributes:
        folder: with the shards.
        manifest: of the data set, with overlays applied.
        stored: the manifest of the folder.
        overlays: locations of the overlays that are applied, in their order.
        changes: what they make of each split that they decide about.
        cache: where shards are stored when the folder is behind a URL.
    """

    def __init__(self, folder: Folder, manifest: Manifest, cache: CacheSettings) -> None:
        self.folder = folder
        self.manifest = self.stored = manifest
        self.overlays: tuple[str, ...] = ()
        self.changes: dict[str, Changes] = {}
        self.cache = cache

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        overlay: str | Path | Sequence[str | Path] | None = None,
        cache_dir: str | Path | None = None,
        cache_gb: float | None = None,
    ) -> ShardSet:
        """Open a folder.

        Args:
            location: a path, or a URL that fsspec knows, from where shards are downloaded when they are needed.
            overlay: path or URL of an overlay, or of several that apply in this order: samples are left out or get
                another label, and the shards stay as they are.
            cache_dir: folder for downloaded shards; default: the environment variable FOOD101_FAST_CACHE, or
                `food101_fast` in the user's cache folder.
            cache_gb: maximum size of the cache in GB (1e9 bytes); default: the environment variable
                FOOD101_FAST_CACHE_GB, or 100.

        Raises:
            UserError: the folder is missing, unfinished, damaged or of another format version; or an overlay is no
                overlay of these shards.
        """
        folder = open_folder(location)
        plain = cls(folder, read_manifest(folder), cache_settings(cache_dir, cache_gb))
        return plain.overlaid(as_locations(overlay))

    def overlaid(self, locations: Sequence[str]) -> ShardSet:
        """The shards as they are in the folder, with these overlays applied, and no others.

        Args:
            locations: paths or URLs, in the order in which the overlays apply.

        Raises:
            UserError: one is no overlay of these shards.
        """
        shown = ShardSet(self.folder, self.stored, self.cache)
        if not locations:
            return shown
        found = {location: read_overlay(location) for location in map(_absolute, locations)}
        changes = changes_of(found, self.stored, lambda name: shown.split(name).labels)
        shown.manifest = changed_manifest(self.stored, found.values(), changes)
        shown.overlays, shown.changes = tuple(found), changes
        return shown

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.manifest.classes

    @property
    def location(self) -> str:
        """The folder as an absolute path, or its URL."""
        return readable(str(self.folder.path.resolve())) if isinstance(self.folder, LocalFolder) else self.folder.url

    def split(self, name: str, *, verify: Verify = "first-epoch") -> Split:
        """The samples of split `name`.

        Args:
            name: of the split.
            verify: when a sample's bytes are compared with their checksum: at the first read of this split, at every
                read, or never.

        Raises:
            UserError: there is no such split, or one of its files is missing or of another size.
        """
        if name not in self.manifest.splits:
            names = ", ".join(self.manifest.splits)
            needs_val = f"training needs train and val: {self.manifest.val_advice}"
            remedy = needs_val if name == "val" else "choose one of them"
            raise UserError(f"{self.folder.url} has no split {name!r}, only {names}; {remedy}")
        return Split(self, name, verify)

    def webdataset(self, split: str, *, shuffle: bool = False, decode: Decode | None = "pil", seed: int = 0) -> Any:
        """The samples of a split as a `webdataset.WebDataset`, an IterableDataset for torch's DataLoader.

        Shards are divided among ranks and DataLoader workers, so that each sample comes once over all of them.
        `ShardLoader` reads the same shards many times as fast, and in an order that does not depend on the number of
        ranks.

        Args:
            split: name of the split.
            shuffle: shuffle the shards, and samples in a buffer of a thousand.
            decode: `pil` gives pairs of PIL image and label, `rgb8` pairs of uint8 (H, W, 3) and label; None gives
                webdataset's own samples, dicts of bytes.
            seed: of the shuffling.

        Raises:
            UserError: there is no such split, or another program wrote the tars.
        """
        return as_webdataset(self, split, shuffle=shuffle, decode=decode, seed=seed)
