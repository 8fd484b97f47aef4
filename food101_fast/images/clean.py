"""One file's bytes in, an RGB picture of the stored size out."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from food101_fast.images.jpeg import decode_jpeg, essence
from food101_fast.images.pillow import decode_with_pillow, rgb_of, salvage
from food101_fast.images.rules import Cleaned, Note, RejectedError, Rules, check_size

_NPY = b"\x93NUMPY"

# Ratio of height to width above which resizing the width first would need more memory than the picture itself.
_FAR_TALLER = 64


class Scratch:
    """Memory that images are decoded into, one after the other. Fresh memory each time would cost a tenth more time."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """At least `size` bytes; only those that are written to use memory."""
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def clean(data: bytes, rules: Rules, scratch: Scratch | None = None) -> Cleaned:
    """Decode, check and resize one image file.

    Args:
        data: the file's bytes, of any format that Pillow reads.
        rules: which files are accepted, and how they are stored.
        scratch: memory to decode into. The result may be a view of it, valid until the next use of `scratch`.

    Raises:
        RejectedError: the file is dropped.
    """
    if not data:
        raise RejectedError("empty", "the file has no bytes")
    if data.startswith(_NPY):
        return clean_array(_read_npy(data), rules)
    try:
        picture, note = _decode(data, rules, scratch or Scratch())
    except RejectedError as error:
        if rules.check != "tolerant" or error.reason not in ("truncated", "damaged-pixels"):
            raise
        picture, note = salvage(data, rules, error)
    if note is not None and rules.check == "strict":
        raise RejectedError("unsupported", f"{note.kind}, which --strict does not accept: {note.detail}")
    return Cleaned(_fitted(picture, rules), note)


def _decode(data: bytes, rules: Rules, scratch: Scratch) -> tuple[Image.Image | NDArray[np.uint8], Note | None]:
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError):  # KeyError: a color space that simplejpeg does not know
            if essence(data)[1]:
                # Pillow would not report damaged pixels, which are likely with such a header.
                raise RejectedError("damaged-pixels", "the header of the JPEG is damaged") from None
        else:
            check_size(width, height, rules)
            kind: Literal["RGB", "CMYK"] = "CMYK" if colorspace in ("CMYK", "YCCK") else "RGB"
            return decode_jpeg(data, rules, kind, scratch.take(height * width * len(kind)))
    return decode_with_pillow(data, rules)


def clean_picture(picture: Image.Image, rules: Rules) -> Cleaned:
    """Turn a picture of Pillow, of any mode, upright, check and resize it, as `clean` does with its file.

    Raises:
        RejectedError: it can't be decoded, has too many pixels or too few, or its mode has no known range of values.
    """
    rgb, note = rgb_of(picture, rules)
    return Cleaned(_fitted(rgb, rules), note)


def clean_array(pixels: NDArray[Any], rules: Rules) -> Cleaned:
    """Check and resize pixels, as `clean` does with a file in which NumPy saved them.

    Args:
        pixels: uint8 (H, W, 3), RGB, or (H, W), grey.
        rules: how they are stored.

    Raises:
        RejectedError: another dtype or shape, too many pixels or too few.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise RejectedError("unsupported", f"a {pixels.dtype} array of shape {pixels.shape}, not uint8 (H, W, 3)")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    check_size(pixels.shape[1], pixels.shape[0], rules)
    return Cleaned(_fitted(np.ascontiguousarray(pixels), rules), None)


def _read_npy(data: bytes) -> NDArray[Any]:
    """A picture that was saved as a NumPy array."""
    try:
        return np.asarray(np.load(BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise RejectedError("truncated" if "reshape" in str(error) else "damaged-pixels", str(error)) from error


def _fitted(picture: Image.Image | NDArray[np.uint8], rules: Rules) -> NDArray[np.uint8]:
    width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if rules.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if (box[2] - box[0], box[3] - box[1]) == (rules.size, rules.size) and all(map(float.is_integer, map(float, box))):
        # The filter would change no pixel. With a DCT scale this happens for most photographs whose sides are round
        # numbers.
        columns, rows = slice(int(box[0]), int(box[2])), slice(int(box[1]), int(box[3]))
        return np.asarray(picture)[rows, columns]
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    # One axis at a time, since each pass rounds to whole numbers and Pillow 13 starts with the other axis for tall
    # pictures. So pixels do not depend on its version, and an exported program computes the same ones.
    size = rules.size
    passes = [((size, height), (box[0], 0, box[2], height)), ((size, size), (0, box[1], size, box[3]))]
    if height > _FAR_TALLER * width:
        passes = [((width, size), (0, box[1], width, box[3])), ((size, size), (box[0], 0, box[2], size))]
    for shape, region in passes:
        picture = picture.resize(shape, Image.Resampling.BILINEAR, box=region)
    return np.asarray(picture)
