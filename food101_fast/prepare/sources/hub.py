"""`hub:ID`: any image classification data set that `datasets.load_dataset` reads, from the hub or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare.sources.base import GivenSplits, unreadable
from food101_fast.shards.rejects import Reject


class HubSource:
    """All splits of a data set, joined. Samples with label -1, the hub's mark for unlabeled ones, are left out."""

    def __init__(self, name: str) -> None:
        import datasets  # here, since only this source needs it and it takes long to import

        try:
            splits = datasets.load_dataset(name)
        except Exception as error:  # the library raises many kinds for a wrong name, no network or bad files
            raise UserError(
                f"datasets.load_dataset({name!r}) failed ({_first_line(error)}); check the name and the network, "
                "or give a local folder that it can read"
            ) from error
        pool = datasets.concatenate_datasets([splits[split] for split in splits])
        image_columns = [c for c, kind in pool.features.items() if isinstance(kind, datasets.Image)]
        label_columns = [c for c, kind in pool.features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(image_columns) != 1 or len(label_columns) != 1:
            raise UserError(
                f"hub:{name} should have one image column and one class label column and has the columns "
                f"{dict(pool.features)}; choose an image classification data set"
            )
        self.splits: GivenSplits | None = None
        self.rejects: tuple[Reject, ...] = ()
        self._column = image_columns[0]
        self.classes = tuple(pool.features[label_columns[0]].names)
        labels = pool.data.column(label_columns[0]).to_numpy()
        self._positions = np.flatnonzero(labels >= 0)
        self.labels = labels[self._positions].astype(np.int64)
        self._pool: Any = pool.select_columns([self._column]).cast_column(self._column, datasets.Image(decode=False))
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        digest = xxhash.xxh3_64("\0".join(self.classes).encode())
        digest.update(self.labels.tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()

    @property
    def names(self) -> list[str]:
        """The images' file names without suffix; the number of the row where the data set has no file name."""
        import pyarrow.compute

        paths = pyarrow.compute.struct_field(self._pool.data.column(self._column), "path").to_pylist()
        return [Path(paths[row]).stem if paths[row] else f"{row:08d}" for row in self._positions.tolist()]

    def file(self, position: int) -> str:
        """The image's path in the data set, or its row."""
        row = int(self._positions[position])
        return str(self._pool[row][self._column]["path"] or f"row {row}")

    def column(self, name: str) -> None:
        """None."""

    def read(self, position: int) -> bytes:
        """The bytes of an image file.

        Raises:
            UserError: it can't be read.
        """
        image = self._pool[int(self._positions[position])][self._column]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise unreadable(image["path"], error) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")
