"""JPEG, decoded by simplejpeg in strict mode, which reports damaged pixel data that Pillow ignores."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from food101_fast.images.orientation import EXIF_ORIENTATION, TRANSPOSE, UPRIGHT, known_orientation
from food101_fast.images.rules import Note, Reason, RejectedError, Rules

_EXIF = b"Exif\0\0"
_TIFF_SHORT = 3

# JPEG markers (ITU-T T.81, table B.1).
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_START_OF_SCAN = 0xDA


def decode_jpeg(
    data: bytes, rules: Rules, colorspace: Literal["RGB", "CMYK"], memory: NDArray[np.uint8]
) -> tuple[Image.Image | NDArray[np.uint8], Note | None]:
    """Decode a JPEG: the picture, upright, at the scale that the rules say.

    Args:
        data: the file.
        rules: with the stored size, and whether a smaller DCT scale may be used.
        colorspace: to decode to; the result is RGB.
        memory: uint8, at least as large as the decoded picture; the result may be a view of it.

    Raises:
        RejectedError: the file is dropped.
    """
    note = None
    least = rules.size if rules.decode == "scaled" else 0
    decode = functools.partial(
        simplejpeg.decode_jpeg,
        colorspace=colorspace,
        min_height=least,
        min_width=least,
        buffer=memory,
        strict=True,
    )
    try:
        pixels = decode(data)
    except ValueError as first:
        # The decoder stops at the first problem. Without the segments that are not needed for pixels it reports only
        # damaged pixels.
        kept, stray = essence(data)
        try:
            pixels = decode(kept)
        except (ValueError, KeyError) as error:
            raise RejectedError(_reason(str(error)), str(error)) from error
        note = Note("stray-bytes" if stray else "bad-metadata", str(first))
    if colorspace == "CMYK":
        # Inverted, as Adobe's programs write CMYK and Pillow reads it.
        picture = Image.frombuffer("CMYK", pixels.shape[1::-1], pixels, "raw", "CMYK;I", 0, 1)
        pixels = np.asarray(picture.convert("RGB"))
    orientation, odd = _orientation(data)
    note = note or odd
    if orientation == UPRIGHT:
        return pixels, note
    return Image.fromarray(pixels).transpose(TRANSPOSE[orientation]), note


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, offset and end of each segment of a JPEG's header, up to and including the start of the scan."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # not a segment of a header: stray bytes too
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            yield marker, at, end
            if marker == _START_OF_SCAN:
                return
            at = end


def essence(data: bytes) -> tuple[bytes, bool]:
    """The JPEG with only the segments that decoding needs, and whether there were stray bytes between segments.

    Stray bytes and broken metadata are harmless, but the decoder reports them instead of later damage. In the scan data
    stray bytes are damage, and stay.
    """
    kept = bytearray(data[:2])
    at, stray = 2, False
    for marker, start, end in _segments(data):
        stray = stray or start != at
        at = end
        if (not _APP0 < marker <= _APP15 and marker != _COMMENT) or marker == _APP14:  # 14: Adobe's color transform
            kept += data[start:end]
    return bytes(kept) + data[at:], stray


def _reason(message: str) -> Reason:
    """The kind of damage that libjpeg's message reports."""
    if message.startswith("Premature end of JPEG file"):
        return "truncated"
    unsupported = message.startswith("Unsupported") and "marker" not in message
    return "unsupported" if unsupported else "damaged-pixels"


def _orientation(data: bytes) -> tuple[int, Note | None]:
    """The EXIF orientation of a JPEG; upright if it has none, or one that can't be read."""
    for marker, start, end in _segments(data):
        if marker == _APP1 and data[start + 4 : start + 10] == _EXIF:
            try:
                return known_orientation(_tiff_orientation(data[start + 10 : end]))
            except (struct.error, ValueError) as error:  # the pixels are fine without it
                return UPRIGHT, Note("bad-metadata", f"broken EXIF ({error})")
    return UPRIGHT, None


def _tiff_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF header (TIFF 6.0, section 2), upright if it has none.

    Pillow's reader takes a tenth of the time of decoding the picture.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise ValueError("it does not start like a TIFF file")
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == EXIF_ORIENTATION and kind == _TIFF_SHORT:
            return int(value)
    return UPRIGHT
