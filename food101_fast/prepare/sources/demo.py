"""`demo:`: food pictures that are drawn when they are read, for a run with no data and no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash

from food101_fast.prepare import demo
from food101_fast.prepare.sources.base import GivenSplits
from food101_fast.shards.rejects import Reject


class DemoSource:
    """100 pictures of each of ten classes, and three files that are corrupt on purpose."""

    images_per_class = 100
    is_shared = True  # see `Source`

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.splits: GivenSplits | None = None
        self.rejects: tuple[Reject, ...] = ()
        self._corrupt = demo.corrupt_files()
        self.classes = demo.CLASSES
        drawn = np.repeat(np.arange(len(demo.CLASSES)), self.images_per_class)
        self.labels = np.concatenate([drawn, [label for _, label, _ in self._corrupt]]).astype(np.int64)
        self.names = [f"{position % self.images_per_class:04d}" for position in range(drawn.size)]
        self.names += [Path(name).stem for name, _, _ in self._corrupt]
        self.fingerprint = xxhash.xxh3_64_hexdigest(f"demo {seed} {demo.VERSION} {self.labels.size}".encode())

    def file(self, position: int) -> str:
        """Class and number of a picture, which is in no file."""
        return f"{self.classes[self.labels[position]]}/{self.names[position]}"

    @property
    def column_names(self) -> tuple[str, ...]:
        """None: there are no columns."""
        return ()

    def column(self, name: str) -> None:
        """None: a drawing has no columns."""

    def read(self, position: int) -> bytes:
        """A picture, drawn now, as the bytes of a JPEG file."""
        drawn = self.labels.size - len(self._corrupt)
        if position >= drawn:
            return self._corrupt[position - drawn][2]
        picture = self._seed * self.images_per_class + position % self.images_per_class
        return demo.draw(int(self.labels[position]), picture)
