"""Which image files are accepted, how they are stored, and the result for one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Fit = Literal["crop", "squash"]
Decode = Literal["scaled", "full"]
Check = Literal["strict", "default", "tolerant"]
Reason = Literal[
    "empty", "not-an-image", "truncated", "damaged-pixels", "too-small", "too-large", "unsupported", "missing-file"
]
NoteKind = Literal["stray-bytes", "bad-metadata", "first-frame", "truncated", "damaged-pixels"]
REASONS: tuple[str, ...] = get_args(Reason)

MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
"""Pillow's own limit against decompression bombs (Image.MAX_IMAGE_PIXELS): a quarter of a GiB as RGB."""

SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "jpe", "jfif", "bmp", "dib", "tif", "tiff", "gif", "avif", "avifs", "apng"),
    *("ppm", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k", "jpx", "jpf", "j2c", "tga", "pcx", "ico", "qoi", "sgi", "ras"),
    *("xbm", "xpm", "heic", "heif", "jxl"),
)
"""Suffixes of the formats that are read, without dot, the commonest first."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which image files are accepted, and how they are stored."""

    size: int
    """Height and width of the stored image in pixels."""
    fit: Fit = "crop"
    """`crop` keeps the aspect ratio and cuts both ends of the longer side; `squash` keeps the whole picture."""
    decode: Decode = "scaled"
    """`scaled` decodes a JPEG at the smallest DCT scale that is not below `size`; `full` decodes all its pixels."""
    check: Check = "default"
    """`strict` drops images that would have a note; `tolerant` keeps damaged pixels, with a note."""
    min_side: int = 1
    """Images whose shorter side has fewer pixels are dropped."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels (height x width) are dropped: a small file can be a picture that fills the memory."""
    in_threads: bool = False
    """Do not change Python's warning filters, which threads share: for images that were accepted before."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """An accepted image."""

    pixels: NDArray[np.uint8]
    """uint8 (size, size, 3), RGB, upright, resized with an antialiasing bilinear filter."""
    note: Note | None


@dataclass(frozen=True)
class Note:
    """Something odd about an image that is kept."""

    kind: NoteKind
    detail: str


class RejectedError(Exception):
    """The file is dropped.

    Attributes:
        reason: one of `Reason`.
        detail: what the decoder said.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def check_size(width: int, height: int, rules: Rules) -> None:
    """Raise RejectedError if a picture has too many pixels, or a side with too few."""
    if height * width > rules.max_pixels:
        raise RejectedError("too-large", f"{width} x {height} pixels, more than {rules.max_pixels:,} (--max-pixels)")
    if min(width, height) < rules.min_side:
        raise RejectedError("too-small", f"{width} x {height} pixels")
