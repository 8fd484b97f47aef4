"""EXIF orientations, and what turns a picture upright."""

from __future__ import annotations

from typing import Any

from PIL import Image

from food101_fast.images.rules import Note

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def known_orientation(value: Any) -> tuple[int, Note | None]:
    """An orientation as it stands in a file, upright where it is none, and a note about one that can't be."""
    if value == UPRIGHT or value in TRANSPOSE:
        return int(value), None
    if value == 0:  # what many programs write where they know of none; one photograph of Food-101 in seven has it
        return UPRIGHT, None
    return UPRIGHT, Note("bad-metadata", f"EXIF orientation {value!r} is not between 1 and 8 and was ignored")
