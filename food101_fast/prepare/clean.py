"""One image file's bytes in, an RGB picture of the stored size out, or the reason why the file is dropped.

JPEG is decoded by simplejpeg in strict mode, which reports damage in the pixel data that Pillow passes over, at the
smallest DCT scale that is not below the stored size. Everything else is Pillow's.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Fit = Literal["crop", "squash"]
Reason = Literal["empty", "not-an-image", "truncated", "damaged-pixels", "too-large", "unsupported"]

# Pillow's own limit against decompression bombs (Image.MAX_IMAGE_PIXELS): a quarter of a GiB as RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

_EXIF_ORIENTATION = 0x0112
_START_OF_SCAN = 0xDA
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def clean(data: bytes, size: int, fit: Fit) -> NDArray[np.uint8]:
    """Decode, check and resize one image file.

    Args:
        data: the file's bytes, of any format that Pillow reads.
        size: height and width of the result in pixels.
        fit: `crop` keeps the proportions and cuts the longer side evenly; `squash` keeps everything.

    Returns:
        uint8 (size, size, 3), RGB, upright, resized with an antialiasing bilinear filter.

    Raises:
        RejectedError: the file is empty, no image, damaged, or too large to open safely.
    """
    if not data:
        raise RejectedError("empty", "the file has no bytes")
    picture = _decode_jpeg(data, size) if data.startswith(b"\xff\xd8") else None
    if picture is None:
        picture = _decode_with_pillow(data)
    width, height = picture.size
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _decode_jpeg(data: bytes, size: int) -> Image.Image | None:
    """The picture, upright and not smaller than `size` unless the file is; None where Pillow has to read the file."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a colour space that simplejpeg has no name for
        return None
    if colorspace in ("CMYK", "YCCK"):
        return None
    if height * width > MAX_PIXELS:
        raise RejectedError("too-large", f"{width} x {height} pixels")
    try:
        pixels = simplejpeg.decode_jpeg(_without_junk(data), "RGB", min_height=size, min_width=size, strict=True)
    except ValueError as error:
        raise RejectedError(_reason(str(error)), str(error)) from error
    picture = Image.fromarray(pixels)
    orientation = _orientation(data)
    return picture.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else picture


def _without_junk(data: bytes) -> bytes:
    """The JPEG without stray bytes between the segments of its header.

    They do no harm, but the decoder reports them in the place of damage that comes later, so they are taken out before
    it is asked. In the scan data stray bytes are damage and stay.
    """
    kept = bytearray(data[:2])
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # no segment of a header: stray as well
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            kept += data[at:end]
            at = end
            if marker == _START_OF_SCAN:
                return data if len(kept) == at else bytes(kept) + data[at:]
    return data


def _reason(message: str) -> Reason:
    """Which kind of damage libjpeg's message is about."""
    if message.startswith("Premature end of JPEG file"):
        return "truncated"
    return "unsupported" if message.startswith("Unsupported") else "damaged-pixels"


def _orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 (upright) where there is none that can be read."""
    if b"Exif\0\0" not in data[:65536]:
        return 1
    try:
        with Image.open(BytesIO(data)) as picture:
            return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF raises nearly anything, and the pixels are fine without it
        return 1


def _decode_with_pillow(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data)) as picture:
                picture.load()
                return _to_rgb(_upright(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedError("too-large", str(error)) from error
    except UnidentifiedImageError as error:
        raise RejectedError("not-an-image", "no known image format") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        detail = f"{type(error).__name__}: {error}"
        raise RejectedError("truncated" if "truncated" in detail else "damaged-pixels", detail) from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken EXIF raises nearly anything, and the pixels are fine without it
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB: alpha over white, 16 bits scaled to 8."""
    if picture.mode.startswith("I;16"):
        scaled = np.asarray(picture).astype(np.float32) * (255 / 65535)
        picture = Image.fromarray(scaled.round().astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise RejectedError("unsupported", f"mode {picture.mode} has no known range of values")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(background, picture)
    return picture.convert("RGB")
