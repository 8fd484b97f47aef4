"""What a user may pass as a picture, turned into one as in the shards.

A Pillow picture gives the pixels that its file gives. For a JPEG that needs the file itself: `prepare` decodes it at a
reduced size, to slightly other pixels than Pillow.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from food101_fast.errors import UserError
from food101_fast.images import Cleaned, RejectedError, Rules, clean, clean_array, clean_picture
from food101_fast.images.orientation import EXIF_ORIENTATION, UPRIGHT

Picture = bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | BinaryIO
_ACCEPTED = (
    "a path, the bytes of an image file, a file that is open for reading bytes, a Pillow picture, or a NumPy array "
    "uint8 (H, W, 3)"
)


def is_picture(given: object) -> bool:
    """Whether it is of a type that is one picture, and not a collection of several."""
    return isinstance(given, bytes | bytearray | memoryview | str | os.PathLike | Image.Image | np.ndarray) or hasattr(
        given, "read"
    )


def cleaned(given: Picture, rules: Rules) -> Cleaned:
    """The picture, upright, RGB, and resized.

    Args:
        given: a path, a file's bytes, a file that is open for reading bytes (from its position), a Pillow picture, or
            a uint8 array (H, W, 3).
        rules: how it is resized.

    Raises:
        RejectedError: it is not a whole image.
        OSError: the file can't be read.
        UserError: it is something else.
    """
    if isinstance(given, Image.Image):
        data = _file_of(given)
        return clean_picture(given, rules) if data is None else clean(data, rules)
    if isinstance(given, np.ndarray):
        return _of_array(given, rules)
    if isinstance(given, str | os.PathLike):
        return clean(Path(given).read_bytes(), rules)
    if hasattr(given, "read"):
        read = given.read()
        if not isinstance(read, bytes | bytearray | memoryview):
            raise UserError(f"a file that gives {type(read).__name__} was given; open it for reading bytes ('rb')")
        return clean(bytes(read), rules)
    if isinstance(given, bytes | bytearray | memoryview):
        return clean(bytes(given), rules)
    raise UserError(f"{_described(given)} was given as a picture; give {_ACCEPTED}, or a list of these")


def _of_array(given: NDArray[Any], rules: Rules) -> Cleaned:
    try:
        return clean_array(given, rules)
    except RejectedError as error:
        if error.reason != "unsupported":
            raise
        raise UserError(f"{_described(given)} was given as a picture; give {_ACCEPTED}, or a list of these") from None


def _described(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"a NumPy array {given.dtype} {given.shape}"
    shape = getattr(given, "shape", None)
    kind = type(given)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name if shape is None else f"a {name} of shape {tuple(shape)}"


def _file_of(picture: Image.Image) -> bytes | None:
    """The file of a JPEG picture that shows what is in the file; None for other pictures, or without the file."""
    if not isinstance(picture, JpegImageFile) or picture.tell() != 0:
        return None
    loaded = not picture.tile
    try:
        data = _reread(picture, loaded)
        if data is None:
            return None
        with Image.open(BytesIO(data), formats=("JPEG",)) as again:
            same = (again.size, again.mode, _orientation(again)) == (picture.size, picture.mode, _orientation(picture))
            if same and loaded:
                same = again.tobytes() == picture.tobytes()
    except Exception:  # Pillow's decoders raise nearly anything on damaged data, and the file may be gone
        return None
    return data if same else None


def _reread(picture: JpegImageFile, loaded: bool) -> bytes | None:
    if not loaded and picture.fp is not None:
        position = picture.fp.tell()
        picture.fp.seek(0)
        data = picture.fp.read()
        picture.fp.seek(position)
        return data
    name = getattr(picture, "filename", "")
    return Path(os.fsdecode(name)).read_bytes() if name else None


def _orientation(picture: Image.Image) -> object:
    return picture.getexif().get(EXIF_ORIENTATION, UPRIGHT)
