"""Every format but JPEG, decoded by Pillow; and damaged files of any format, as far as they can be decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from food101_fast.images.orientation import EXIF_ORIENTATION, UPRIGHT, known_orientation
from food101_fast.images.rules import MAX_PIXELS, Note, RejectedError, Rules, check_size

# Formats that Pillow may decode: none that runs another program (EPS) or is not a single picture.
_FORMATS = (
    *("JPEG", "JPEG2000", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "ICO"),
    *("QOI", "SGI", "SUN", "XBM", "XPM"),
)
# First bytes of image files: with them a file whose header can't be read is a damaged image.
_SIGNATURES = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")


def decode_with_pillow(data: bytes, rules: Rules) -> tuple[Image.Image, Note | None]:
    """The first picture of a file, upright, as 8-bit RGB.

    Raises:
        RejectedError: the file is dropped.
    """
    with _pillow(data, in_threads=rules.in_threads) as picture:
        check_size(*picture.size, rules)
        picture.load()
        upright, note = _upright(picture)
        rgb = _to_rgb(upright, picture.format)
        if _is_animated(picture):
            note = Note("first-frame", f"the first picture of a {picture.format} with several")
        return rgb, note


def salvage(data: bytes, rules: Rules, damage: RejectedError) -> tuple[Image.Image, Note]:
    """Decode a damaged picture as far as possible.

    Raises:
        RejectedError: nothing can be decoded.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # Pillow has only this one switch for the whole process
    try:
        picture, _ = decode_with_pillow(data, rules)
    except RejectedError:
        raise damage from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    return picture, Note("truncated" if damage.reason == "truncated" else "damaged-pixels", damage.detail)


@contextmanager
def _pillow(data: bytes, *, in_threads: bool) -> Iterator[Image.Image]:
    """Open a picture; every exception of Pillow in the context becomes the reason to drop the file."""
    try:
        with nullcontext() if in_threads else warnings.catch_warnings():
            if not in_threads:
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=_FORMATS) as picture:
                yield picture
    except RejectedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedError("too-large", f"more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        detail = f"{type(error).__name__}: {error}"
        cut = any(word in detail.lower() for word in ("truncated", "unexpected end of file", "not enough image data"))
        raise RejectedError("truncated" if cut else "damaged-pixels", detail) from error


def _unidentified(data: bytes) -> RejectedError:
    if data.startswith(_SIGNATURES):
        return RejectedError("damaged-pixels", "it starts like an image, but its header can't be read")
    try:
        with Image.open(BytesIO(data)) as picture:  # reads only the header
            return RejectedError("unsupported", f"format {picture.format}")
    except Exception:
        return RejectedError("not-an-image", "no known image format")


def _is_animated(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the second picture is damaged, which does not affect the first
        return True


def _upright(picture: Image.Image) -> tuple[Image.Image, Note | None]:
    try:
        orientation, note = known_orientation(picture.getexif().get(EXIF_ORIENTATION, UPRIGHT))
        return (picture if orientation == UPRIGHT else ImageOps.exif_transpose(picture)), note
    except Exception as error:  # broken EXIF raises nearly anything, and the pixels are fine without it
        return picture, Note("bad-metadata", f"broken EXIF ({type(error).__name__}: {error})")


def _to_rgb(picture: Image.Image, kind: str | None) -> Image.Image:
    """8-bit RGB: alpha over white, 16 bits scaled to 8."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PPM"):
        scaled = np.asarray(picture).astype(np.float32) * (255 / 65535)
        picture = Image.fromarray(scaled.round().astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise RejectedError("unsupported", f"mode {picture.mode} has no known range of values")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(background, picture)
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise RejectedError("unsupported", f"mode {picture.mode}: {error}") from error
