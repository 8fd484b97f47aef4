"""One image file's bytes in, an RGB picture of the stored size out, or the reason why the file is dropped.

Every file ends in one of three ways: accepted, accepted with a note, or dropped with a reason. The line between them is
drawn at the pixels: damage to them drops the file, damage beside them is noted.

JPEG is decoded by simplejpeg in strict mode, which reports damage in the pixel data that Pillow passes over, at the
smallest DCT scale that is not below the stored size. Everything else is Pillow's.
"""

from __future__ import annotations

import functools
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

Fit = Literal["crop", "squash"]
Check = Literal["strict", "default", "tolerant"]
Reason = Literal["empty", "not-an-image", "truncated", "damaged-pixels", "too-small", "too-large", "unsupported"]
NoteKind = Literal["stray-bytes", "bad-metadata", "first-frame", "truncated", "damaged-pixels"]
REASONS: tuple[str, ...] = get_args(Reason)

# Pillow's own limit against decompression bombs (Image.MAX_IMAGE_PIXELS): a quarter of a GiB as RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

# What Pillow may decode. Left out are formats that run another program (EPS) or hold no single picture.
_FORMATS = (
    *("JPEG", "JPEG2000", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "ICO"),
    *("QOI", "SGI", "SUN", "XBM", "XPM"),
)
# How files begin that are damaged images, not something else, when their header can't be read.
_SIGNATURES = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")

_NPY = b"\x93NUMPY"
_EXIF = b"Exif\0\0"
_EXIF_ORIENTATION = 0x0112
_TIFF_SHORT = 3
_UPRIGHT = 1
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Times as tall as wide: made narrow first, such a picture would take more memory between the passes than itself.
_FAR_TALLER = 64

# JPEG markers (ITU-T T.81, table B.1).
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a stored image looks like, and which files may become one."""

    size: int
    """Height and width of the stored image in pixels."""
    fit: Fit = "crop"
    """`crop` keeps the proportions and cuts the longer side evenly; `squash` keeps everything."""
    check: Check = "default"
    """`strict` drops what would carry a note; `tolerant` keeps damaged pixels, with a note."""
    min_side: int = 1
    """Images whose shorter side has fewer pixels are dropped."""
    in_threads: bool = False
    """Leave Python's warnings alone, which belong to the whole process: for images that were accepted before."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """An accepted image."""

    pixels: NDArray[np.uint8]
    """uint8 (size, size, 3), RGB, upright, resized with an antialiasing bilinear filter."""
    note: Note | None


@dataclass(frozen=True)
class Note:
    """What is odd about an image that is kept."""

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


class Scratch:
    """Memory that one image after the other is decoded into: to ask the system for it each time takes a tenth of the
    time of decoding."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes, of which only those that are written to take room."""
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def clean(data: bytes, rules: Rules, scratch: Scratch | None = None) -> Cleaned:
    """Decode, check and resize one image file.

    Args:
        data: the file's bytes, of any format that Pillow reads.
        rules: what becomes of it.
        scratch: the result may lie in it, and is valid until it is used again.

    Raises:
        RejectedError: the file is dropped.
    """
    if not data:
        raise RejectedError("empty", "the file has no bytes")
    try:
        picture, note = _decode(data, rules, scratch or Scratch())
    except RejectedError as error:
        if rules.check != "tolerant" or error.reason not in ("truncated", "damaged-pixels"):
            raise
        picture, note = _salvage(data, rules, error)
    if note is not None and rules.check == "strict":
        raise RejectedError("unsupported", f"{note.kind}, which --strict does not accept: {note.detail}")
    return Cleaned(_fitted(picture, rules), note)


def _decode(data: bytes, rules: Rules, scratch: Scratch) -> tuple[Image.Image | NDArray[np.uint8], Note | None]:
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError):  # KeyError: a colour space that simplejpeg has no name for
            if _essence(data)[1]:
                # Pillow would say nothing about damage to the pixels, and such a header makes it likely.
                raise RejectedError("damaged-pixels", "the header of the JPEG is damaged") from None
        else:
            _check_size(width, height, rules)
            kind: Literal["RGB", "CMYK"] = "CMYK" if colorspace in ("CMYK", "YCCK") else "RGB"
            return _decode_jpeg(data, rules, kind, scratch.take(height * width * len(kind)))
    if data.startswith(_NPY):
        return _decode_npy(data, rules), None
    return _decode_with_pillow(data, rules)


def _decode_npy(data: bytes, rules: Rules) -> NDArray[np.uint8]:
    """A picture that was saved as a NumPy array."""
    try:
        pixels = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RejectedError("truncated" if "reshape" in str(error) else "damaged-pixels", str(error)) from error
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise RejectedError("unsupported", f"a {pixels.dtype} array of shape {pixels.shape}, not uint8 (H, W, 3)")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    _check_size(pixels.shape[1], pixels.shape[0], rules)
    return np.ascontiguousarray(pixels)


def _check_size(width: int, height: int, rules: Rules) -> None:
    if height * width > MAX_PIXELS:
        raise RejectedError("too-large", f"{width} x {height} pixels")
    if min(width, height) < rules.min_side:
        raise RejectedError("too-small", f"{width} x {height} pixels")


def _decode_jpeg(
    data: bytes, rules: Rules, colorspace: Literal["RGB", "CMYK"], memory: NDArray[np.uint8]
) -> tuple[Image.Image | NDArray[np.uint8], Note | None]:
    """The picture, upright and not smaller than the stored size unless the file is."""
    note = None
    decode = functools.partial(
        simplejpeg.decode_jpeg,
        colorspace=colorspace,
        min_height=rules.size,
        min_width=rules.size,
        buffer=memory,
        strict=True,
    )
    try:
        pixels = decode(data)
    except ValueError as first:
        # The decoder stops at what it finds first. What lies beside the pixels is taken out, so that it reports damage
        # to them or nothing.
        essence, stray = _essence(data)
        try:
            pixels = decode(essence)
        except (ValueError, KeyError) as error:
            raise RejectedError(_reason(str(error)), str(error)) from error
        note = Note("stray-bytes" if stray else "bad-metadata", str(first))
    if colorspace == "CMYK":
        # Inverted, as Adobe's programs write it and Pillow reads it.
        picture = Image.frombuffer("CMYK", pixels.shape[1::-1], pixels, "raw", "CMYK;I", 0, 1)
        pixels = np.asarray(picture.convert("RGB"))
    orientation, odd = _orientation(data)
    note = note or odd
    if orientation == _UPRIGHT:
        return pixels, note
    return Image.fromarray(pixels).transpose(_TRANSPOSE[orientation]), note


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first and last byte of each segment of a JPEG's header, up to and with the start of the scan."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # no segment of a header: stray as well
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            yield marker, at, end
            if marker == _START_OF_SCAN:
                return
            at = end


def _essence(data: bytes) -> tuple[bytes, bool]:
    """The JPEG without what its pixels do not need, and whether there were stray bytes between the header's segments.

    Such bytes and broken metadata do no harm, but the decoder reports them in the place of damage that comes later. In
    the scan data stray bytes are damage and stay.
    """
    kept = bytearray(data[:2])
    at, stray = 2, False
    for marker, start, end in _segments(data):
        stray = stray or start != at
        at = end
        if (not _APP0 < marker <= _APP15 and marker != _COMMENT) or marker == _APP14:  # 14: Adobe's colour transform
            kept += data[start:end]
    return bytes(kept) + data[at:], stray


def _reason(message: str) -> Reason:
    """Which kind of damage libjpeg's message is about."""
    if message.startswith("Premature end of JPEG file"):
        return "truncated"
    unsupported = message.startswith("Unsupported") and "marker" not in message
    return "unsupported" if unsupported else "damaged-pixels"


def _orientation(data: bytes) -> tuple[int, Note | None]:
    """The EXIF orientation of a JPEG, upright where there is none that can be read."""
    for marker, start, end in _segments(data):
        if marker == _APP1 and data[start + 4 : start + 10] == _EXIF:
            try:
                return _known_orientation(_tiff_orientation(data[start + 10 : end]))
            except (struct.error, ValueError) as error:  # the pixels are fine without it
                return _UPRIGHT, Note("bad-metadata", f"broken EXIF ({error})")
    return _UPRIGHT, None


def _tiff_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF header (TIFF 6.0, section 2), upright if it has none.

    Pillow's reader takes as long as a tenth of the picture's decoding.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        raise ValueError("it does not begin like a TIFF file")
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if tag == _EXIF_ORIENTATION and kind == _TIFF_SHORT:
            return int(value)
    return _UPRIGHT


def _known_orientation(value: Any) -> tuple[int, Note | None]:
    if value == _UPRIGHT or value in _TRANSPOSE:
        return int(value), None
    if value == 0:  # what many programs write where they know of none; one photograph of Food-101 in seven has it
        return _UPRIGHT, None
    return _UPRIGHT, Note("bad-metadata", f"EXIF orientation {value!r} is not between 1 and 8 and was ignored")


@contextmanager
def _pillow(data: bytes, *, in_threads: bool) -> Iterator[Image.Image]:
    """The picture as Pillow opens it; whatever Pillow raises becomes the reason to drop the file."""
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
        return RejectedError("damaged-pixels", "it begins like an image, but its header can't be read")
    try:
        with Image.open(BytesIO(data)) as picture:  # only looks; a file is decoded when its pixels are asked for
            return RejectedError("unsupported", f"format {picture.format}")
    except Exception:
        return RejectedError("not-an-image", "no known image format")


def _decode_with_pillow(data: bytes, rules: Rules) -> tuple[Image.Image, Note | None]:
    with _pillow(data, in_threads=rules.in_threads) as picture:
        _check_size(*picture.size, rules)
        picture.load()
        upright, note = _upright(picture)
        rgb = _to_rgb(upright, picture.format)
        if _is_animated(picture):
            note = Note("first-frame", f"the first picture of a {picture.format} with several")
        return rgb, note


def _is_animated(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # what is wrong with the second picture does not concern the first
        return True


def _salvage(data: bytes, rules: Rules, damage: RejectedError) -> tuple[Image.Image, Note]:
    """What can be seen of a damaged picture.

    Raises:
        RejectedError: nothing can.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # Pillow has only this one switch for the whole process
    try:
        picture, _ = _decode_with_pillow(data, rules)
    except RejectedError:
        raise damage from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    return picture, Note("truncated" if damage.reason == "truncated" else "damaged-pixels", damage.detail)


def _upright(picture: Image.Image) -> tuple[Image.Image, Note | None]:
    try:
        orientation, note = _known_orientation(picture.getexif().get(_EXIF_ORIENTATION, _UPRIGHT))
        return (picture if orientation == _UPRIGHT else ImageOps.exif_transpose(picture)), note
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


def _fitted(picture: Image.Image | NDArray[np.uint8], rules: Rules) -> NDArray[np.uint8]:
    width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if rules.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if (box[2] - box[0], box[3] - box[1]) == (rules.size, rules.size) and all(map(float.is_integer, map(float, box))):
        # The filter would give every pixel back as it is. A DCT scale makes this the case of most photographs whose
        # sides are round numbers.
        columns, rows = slice(int(box[0]), int(box[2])), slice(int(box[1]), int(box[3]))
        return np.asarray(picture)[rows, columns]
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    # One axis at a time, since each rounds to whole numbers and Pillow 13 takes the other one first for tall pictures:
    # so pixels do not depend on its version, and an exported program can compute the same.
    size = rules.size
    passes = [((size, height), (box[0], 0, box[2], height)), ((size, size), (0, box[1], size, box[3]))]
    if height > _FAR_TALLER * width:
        passes = [((width, size), (0, box[1], width, box[3])), ((size, size), (box[0], 0, box[2], size))]
    for shape, part in passes:
        picture = picture.resize(shape, Image.Resampling.BILINEAR, box=part)
    return np.asarray(picture)
