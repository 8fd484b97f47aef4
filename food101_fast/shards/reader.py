"""A finished folder of shards, opened for reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from food101_fast.errors import UserError
from food101_fast.shards.cache import CacheSettings, cache_settings
from food101_fast.shards.manifest import Manifest, read_manifest
from food101_fast.shards.split import Split, Verify
from food101_fast.shards.webdataset import Decode, as_webdataset
from food101_fast.storage import Folder, LocalFolder, open_folder


class ShardSet:
    """A finished folder of shards, on a disk or behind a URL.

    Picklable: what is sent to another process opens the files there anew.

    Attributes:
        folder: where they lie.
        manifest: what they hold.
        cache: where they are kept if that is behind a URL.
    """

    def __init__(self, folder: Folder, manifest: Manifest, cache: CacheSettings) -> None:
        self.folder = folder
        self.manifest = manifest
        self.cache = cache

    @classmethod
    def open(
        cls, place: str | os.PathLike[str], *, cache_dir: str | Path | None = None, cache_gb: float | None = None
    ) -> ShardSet:
        """Open a folder.

        Args:
            place: a path, or a URL of any kind that fsspec knows, from where shards are downloaded as they are needed.
            cache_dir: folder for downloaded shards; default: the environment variable FOOD101_FAST_CACHE, or
                `food101_fast` in the user's cache folder.
            cache_gb: size that the cache is kept below, in GB (1e9 bytes); default: the environment variable
                FOOD101_FAST_CACHE_GB, or 100.

        Raises:
            UserError: the folder is missing, unfinished, damaged or of another format version.
        """
        folder = open_folder(place)
        return cls(folder, read_manifest(folder), cache_settings(cache_dir, cache_gb))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a position in them."""
        return self.manifest.classes

    @property
    def location(self) -> str:
        """The folder as an absolute path, or its URL."""
        return str(self.folder.path.resolve()) if isinstance(self.folder, LocalFolder) else self.folder.url

    def split(self, name: str, *, verify: Verify = "first-epoch") -> Split:
        """The samples of split `name`.

        Args:
            name: of the split.
            verify: when a sample's bytes are compared with their checksum: the first time that the split reads them,
                every time, or never.

        Raises:
            UserError: there is no such split, or one of its files is missing or of another size.
        """
        if name not in self.manifest.splits:
            there = ", ".join(self.manifest.splits)
            raise UserError(f"{self.folder.url} has no split {name!r}; it has {there}: choose one of them, or add it")
        return Split(self, name, verify)

    def webdataset(self, split: str, *, shuffle: bool = False, decode: Decode | None = "pil", seed: int = 0) -> Any:
        """The samples of a split as a `webdataset.WebDataset`, for programs that are written for that library.

        Shards are divided among ranks and DataLoader workers, so that each sample comes once in all of them together.
        It is an IterableDataset of torch: give it to a DataLoader. `ShardLoader` reads the same shards many times as
        fast, and in an order that does not depend on the number of ranks.

        Args:
            split: name of the split.
            shuffle: shuffle the shards, and samples among a thousand of each other.
            decode: `pil` gives pairs of a PIL image and a label, `rgb8` of uint8 (H, W, 3) and a label; None gives
                samples as webdataset has them: dicts of bytes.
            seed: of the order.

        Raises:
            UserError: there is no such split, or the tars were written by others.
        """
        return as_webdataset(self, split, shuffle=shuffle, decode=decode, seed=seed)
