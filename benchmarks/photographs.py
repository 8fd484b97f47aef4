"""Photographs to time programs on: enough of them out of the few that there are, and how a plain loop prepares one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from food101_fast.errors import UserError


def repeat_files(source: Path, target: Path, files: int) -> list[tuple[str, int]]:
    """Fill `target` with at least `files` files in class folders.

    A copy is made different from its original by bytes after the end of the image, which no decoder looks at, so that
    it is no duplicate.

    Args:
        source: folder with a folder of JPEGs for each class.
        target: where the files go.
        files: how many at the least.

    Returns:
        Their paths and labels.

    Raises:
        UserError: `source` has no JPEGs.
    """
    originals = sorted(source.rglob("*.jpg"))
    if not originals:
        raise UserError(f"{source} has no .jpg files; give a folder with one folder of JPEGs per class")
    classes = sorted({path.parent.name for path in originals})
    made = []
    for copy in range(-(-files // len(originals))):
        for path in originals:
            name = target / path.parent.name / f"{path.stem}-{copy}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(path.read_bytes() + bytes([copy % 256]) * copy)
            made.append((str(name), classes.index(path.parent.name)))
    return made


def centre_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def square(path: str, size: int, *, draft: bool = True) -> np.ndarray:
    """A photograph decoded by Pillow, cut to a square and resized: uint8 (size, size, 3).

    Args:
        path: of the file.
        size: in pixels.
        draft: decode at a reduced size, which is Pillow's best.
    """
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (size, size))
        picture = image.convert("RGB")
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=centre_square(*picture.size)))
