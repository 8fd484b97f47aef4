"""EXIF orientations, and how a picture is turned upright."""

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
    """The orientation for a value in a file: upright for an invalid value, with a note about it."""
    if value == UPRIGHT or value in TRANSPOSE:
        return int(value), None
    if value == 0:  # written by many programs that know none; one photograph of Food-101 in seven has it
        return UPRIGHT, None
    return UPRIGHT, Note("bad-metadata", f"EXIF orientation {value!r} is not between 1 and 8 and was ignored")
