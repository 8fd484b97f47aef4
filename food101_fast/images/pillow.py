"""Every format but JPEG, decoded by Pillow; and damaged files of any format, as far as they can be decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from food101_fast.images.kinds import CR2, DNG, RAW_TIFF, kind_of
from food101_fast.images.orientation import EXIF_ORIENTATION, UPRIGHT, known_orientation
from food101_fast.images.plugins import jxl_header, plugin_format
from food101_fast.images.rules import MAX_PIXELS, Note, RejectedError, Rules, check_size

# Formats that Pillow may decode: none that runs another program (EPS) or is not a single picture.
_FORMATS = (
    *("JPEG", "JPEG2000", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "ICO"),
    *("QOI", "SGI", "SUN", "XBM", "XPM"),
)
# Kinds of files, and what Pillow must have been built with to decode them.
_FEATURES = {"AVIF": "avif", "WebP": "webp", "JPEG 2000": "jpg_2000"}
_DECODED = {"JPEG", "PNG", "GIF", "TIFF", "HEIC", "JPEG XL", *_FEATURES}
# Tags of a TIFF's first directory (TIFF 6.0; Adobe's DNG specification).
_SUBFILE_TYPE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
_REDUCED = 1  # bit of the subfile type: a smaller copy of another picture in the file


def decode_with_pillow(data: bytes, rules: Rules) -> tuple[Image.Image, Note | None]:
    """The first picture of a file, upright, as 8-bit RGB.

    Raises:
        RejectedError: the file is dropped.
    """
    with _reasons(rules, data), Image.open(BytesIO(data), formats=_formats(data, rules)) as picture:
        return _upright_rgb(picture, rules)


def rgb_of(picture: Image.Image, rules: Rules) -> tuple[Image.Image, Note | None]:
    """A picture of Pillow, of any mode, as its file would be read: upright, as 8-bit RGB.

    Raises:
        RejectedError: it can't be decoded, has too many pixels or too few, or its mode has no known range of values.
    """
    with _reasons(rules, b""):
        return _upright_rgb(picture, rules)


def _upright_rgb(picture: Image.Image, rules: Rules) -> tuple[Image.Image, Note | None]:
    check_size(*picture.size, rules)
    _refuse_raw(picture)
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


def _formats(data: bytes, rules: Rules) -> tuple[str, ...]:
    """Formats that a file is tried as."""
    kind = kind_of(data)
    if kind is CR2:  # Pillow would read its preview
        raise RejectedError("unsupported", str(kind))
    plugin = plugin_format(kind, data, rules)
    return _FORMATS if plugin is None else (plugin,)


@contextmanager
def _reasons(rules: Rules, data: bytes) -> Iterator[None]:
    """Every exception of Pillow in the context becomes the reason to drop the file with this content."""
    if Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS < rules.max_pixels > MAX_PIXELS:
        # Pillow has only this one limit for the whole process. It is not lowered again, since threads share it.
        Image.MAX_IMAGE_PIXELS = rules.max_pixels
    try:
        with nullcontext() if rules.in_threads else warnings.catch_warnings():
            if not rules.in_threads:
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except RejectedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedError("too-large", f"more than {rules.max_pixels:,} pixels (--max-pixels)") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except ImportError as error:  # a plugin without its library
        raise RejectedError("unsupported", str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        detail = f"{type(error).__name__}: {error}"
        cut = any(word in detail.lower() for word in ("truncated", "unexpected end of file", "not enough image data"))
        raise RejectedError("truncated" if cut else "damaged-pixels", detail) from error


def _unidentified(data: bytes) -> RejectedError:
    kind = kind_of(data)
    if kind is not None and kind.name in _DECODED:
        feature = _FEATURES.get(kind.name)
        if feature is not None and not features.check(feature):
            return RejectedError("unsupported", f"{kind.name}: this installation of Pillow does not read it")
        return RejectedError("damaged-pixels", f"it starts like a {kind.name}, but its header can't be read")
    if kind is not None:
        return RejectedError("unsupported" if kind.picture else "not-an-image", str(kind))
    try:
        with Image.open(BytesIO(data)) as picture:  # reads only the header
            return RejectedError("unsupported", f"format {picture.format}")
    except Exception:
        return RejectedError("not-an-image", "no known image format")


def _refuse_raw(picture: Image.Image) -> None:
    """Raise RejectedError for a camera's raw file: Pillow reads it as a TIFF, and only the preview that is in it."""
    if not isinstance(picture, TiffImageFile):
        return
    tags = picture.tag_v2
    reduced = tags.get(_SUBFILE_TYPE, 0)
    if _DNG_VERSION in tags:
        raise RejectedError("unsupported", str(DNG))
    if isinstance(reduced, int) and reduced & _REDUCED and _SUB_DIRECTORIES in tags:
        raise RejectedError("unsupported", str(RAW_TIFF))


def _is_animated(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the second picture is damaged, which does not affect the first
        return True


def _upright(picture: Image.Image) -> tuple[Image.Image, Note | None]:
    if picture.format == "JXL" and not picture.jpeg and jxl_header(picture.fc)[2]:  # type: ignore[attr-defined]
        return picture, None  # turned by its decoder, which leaves the EXIF as it is; a JPEG inside is not turned
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
    if picture.mode == "La":  # converts to this mode only
        picture = picture.convert("LA")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(background, picture)
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise RejectedError("unsupported", f"mode {picture.mode}: {error}") from error
