"""FFCV's writer: photographs to its own file of raw pixels."""

# /// script
# dependencies = ["ffcv==1.0.2", "numba", "opencv-python"]
# ///

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import report_prepared
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from photographs import square


class Photographs:
    """Decoded and resized, one at a time."""

    def __init__(self, files: list[tuple[str, int]], size: int) -> None:
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path, label = self._files[index]
        return square(path, self._size), label


def write(files: list[tuple[str, int]], out: Path, size: int, workers: int) -> None:
    """Indexed samples, with as many processes."""
    out.mkdir()
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(out / "train.beton"), fields, num_workers=workers).from_indexed_dataset(Photographs(files, size))


if __name__ == "__main__":
    source = "https://docs.ffcv.io/writing_datasets.html"
    report_prepared("FFCV", version("ffcv"), "DatasetWriter, Pillow with draft", source, write)
